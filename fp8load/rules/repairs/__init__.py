"""Repairs: one file for each code, `f8l202.py`, with `REPAIR = Repair(...)`; found by their names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from fp8load.rules.base import Repair
from fp8load.rules.registry import rules


@cache
def repairs() -> Mapping[str, Repair]:
    """Code -> its repair: the files of this folder, and what rules of outside packages bring."""
    codes = [info.name for info in pkgutil.iter_modules(__path__) if info.name[3:].isdigit()]
    own = {code.upper(): importlib.import_module(f"{__name__}.{code}").REPAIR for code in sorted(codes)}
    return own | {rule.code: rule.repair for rule in rules() if rule.repair is not None}
