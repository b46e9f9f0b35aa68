"""The page of rules: a table and a section for each rule, made from the rule files that verify runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from docs.forms import table
from fp8load.rules.base import Example, Rule
from fp8load.rules.registry import rules

TITLES = ("code", "name", "severity", "reads", "what it checks")


def rule_tables() -> dict[str, str]:
    """The table and the sections, by the names of their places in the page."""
    return {
        "rules": table(TITLES, [_row(rule) for rule in rules()]),
        "each_rule": "\n".join(line for rule in rules() for line in _section(rule)).rstrip(),
    }


def _text(words: str) -> str:
    """Words as Markdown: what would be markup is escaped, but for code between backticks."""
    parts = words.split("`")
    return "`".join(part if at % 2 else re.sub(r"([_*<\[])", r"\\\1", part) for at, part in enumerate(parts))


def _row(rule: Rule) -> tuple[str, ...]:
    link = f"[{rule.code}](#{rule.code.lower()}-{rule.name})"
    first, dot, _ = rule.what.partition(". ")
    return link, rule.name, str(rule.severity), rule.level, _text(first + "." * bool(dot))


def _section(rule: Rule) -> Iterator[str]:
    fires = [example for example in rule.examples if example.count]
    silent = [example for example in rule.examples if not example.count]
    yield f"## {rule.code} {rule.name}"
    yield from ("", f"{rule.severity}, reads {rule.level}, since {rule.since}", "", _text(rule.what), "")
    yield from (f"**Why it matters.** {_text(rule.why)}", "", f"**How to fix.** {_text(rule.fix)}", "")
    yield from (f"Fires on: {_titles(fires)}. Silent on: {_titles(silent)}.", "")
    yield f"The first of them{_conditions(fires[0])}:"
    yield from ("", "```text", fires[0].skeleton.rstrip(), "```", "")


def _titles(examples: list[Example]) -> str:
    return _text("; ".join(example.title for example in examples))


def _conditions(example: Example) -> str:
    """What an example is beside its skeleton."""
    said = [f"{name} full of {value:g}" for name, value in example.values.items()]
    for name, change in example.files.items():
        match change:
            case None:
                said.append(f"without {name}")
            case bytes():
                said.append(f"with another {name}")
            case _:
                said.append(f"{name} {abs(change)} bytes {'shorter' if change < 0 else 'longer'}")
    said += [f"asked for tp {', '.join(map(str, example.tp))}"] if example.tp else []
    return f" ({', '.join(said)})" if said else ""
