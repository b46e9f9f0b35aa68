"""`fp8load rule`: what a code means, offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fp8load.errors import ExitCode, Problem, UsageError
from fp8load_cli.help import ENVIRONMENT
from fp8load_cli.options import command
from fp8load_cli.run import Run

if TYPE_CHECKING:
    from fp8load.rules.base import Rule
    from fp8load_cli.reports import RuleEntry


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        formats=("text", "json", "md"),
        examples=("fp8load rule F8L201", "fp8load rule orphan-scale", "fp8load rule --all"),
        codes={1: "not used", 2: "usage: no rule has this code or name"},
        environment=ENVIRONMENT,
    )(rule)


def rule(
    run: Run,
    code: Annotated[
        str | None, typer.Argument(metavar="CODE|NAME", help="F8L201, or the rule's name.", show_default=False)
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="List every rule.")] = False,
) -> ExitCode:
    """Explain a rule of `verify`.

    What it checks, why it matters, how to fix what it finds, and checkpoints on which it fires and stays silent.
    """
    from fp8load.verify import find_rule, rules
    from fp8load_cli.render import show
    from fp8load_cli.render.views.rule import list_document, rule_document
    from fp8load_cli.reports import RuleReport

    if every == (code is not None):
        raise UsageError(
            Problem(code="USE010", message="give one code or name, or --all", expected="fp8load rule F8L201")
        )
    if code is not None:
        entry = _entry(find_rule(code))
        show(run, RuleReport(rules=[entry]), rule_document(entry))
    else:
        entries = [_entry(known) for known in rules()]
        show(run, RuleReport(rules=entries), list_document(entries))
    return ExitCode.OK


def _entry(rule: Rule) -> RuleEntry:
    from fp8load_cli.reports import ExampleReport, RuleEntry

    examples = [
        ExampleReport(title=e.title, skeleton=e.skeleton, count=e.count, tp=e.tp, engine=e.engine, arch=e.arch)
        for e in rule.examples
    ]
    return RuleEntry(
        code=rule.code, name=rule.name, level=rule.level, severity=rule.severity, since=rule.since,
        what=rule.what, why=rule.why, fix=rule.fix, examples=examples,
    )  # fmt: skip
