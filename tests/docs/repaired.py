"""The table of repairs: what `verify --fix` does for each code, and which codes have to be named."""

from __future__ import annotations

from fp8load.rules.registry import rule_names
from fp8load.rules.repairs import repairs


def rows() -> list[tuple[str, str, str, str]]:
    """Code, name of the rule, what is done, and why only where the code is named."""
    names = dict(rule_names())
    return [(f"`{code}`", names.get(code, ""), repair.title, repair.only_if) for code, repair in repairs().items()]
