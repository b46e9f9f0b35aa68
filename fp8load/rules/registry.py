"""Which rules there are: the files of this folder, and those that outside packages register."""

from __future__ import annotations

import importlib
import pkgutil
import re
from difflib import get_close_matches
from functools import cache

import fp8load.rules
from fp8load.errors import Problem, UsageError
from fp8load.plugins import plugins
from fp8load.rules.base import Rule

GROUP = "fp8load.rules"
"""Entry points of this group name a `Rule`."""

_FILE = re.compile(r"f8[a-z]\d{3}_\w+")


_OTHER_CODE = re.compile(r"(USE|SRC|PLAN|FILL|BKD|BUG)\d{3}")


_MISREAD = str.maketrans("OI", "01")
"""Letters that are taken for digits."""


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order of the codes.

    Raises `UsageError` for a rule of an outside package that cannot be loaded or repeats a code.
    """
    table: dict[str, Rule] = {}
    for rule in (*_own(), *plugins(GROUP, Rule)):
        if rule.code in table:
            raise UsageError(Problem(code="USE005", message="two rules have the same code", got=rule.code,
                                     expected="each code once", hint=f"see the entry points of {GROUP}"))  # fmt: skip
        table[rule.code] = rule
    return tuple(table[code] for code in sorted(table))


def _own() -> list[Rule]:
    names = [info.name for info in pkgutil.iter_modules(fp8load.rules.__path__) if _FILE.fullmatch(info.name)]
    return [importlib.import_module(f"fp8load.rules.{name}").RULE for name in names]


def rule_names() -> tuple[tuple[str, str], ...]:
    """(code, name) of every rule."""
    return tuple((rule.code, rule.name) for rule in rules())


def find_rule(code_or_name: str) -> Rule:
    """The rule with this code (case does not matter) or name. Raises `UsageError` that suggests the nearest."""
    wanted = code_or_name.strip()
    for rule in rules():
        if rule.code == wanted.upper() or rule.name == wanted.lower():
            return rule
    if _OTHER_CODE.fullmatch(wanted.upper()):
        raise UsageError(Problem(code="USE005", message="this code belongs to an error, not to a rule",
                                 got=code_or_name, expected="a code of `verify`, such as F8L201",
                                 hint="its message says all; `fp8load rule --all` lists the rules"))  # fmt: skip
    known = [word for pair in rule_names() for word in pair]
    typed = wanted[:3].upper() + wanted[3:].upper().translate(_MISREAD)
    near = get_close_matches(typed, known, 1) or get_close_matches(wanted.lower(), known, 1)
    hint = f"did you mean {near[0]}?" if near else "`fp8load rule --all` lists all"
    raise UsageError(Problem(code="USE005", message="no rule has this code or name", got=code_or_name, hint=hint,
                             expected="a code such as F8L201, or a name such as fp8-weight-without-scale"))  # fmt: skip
