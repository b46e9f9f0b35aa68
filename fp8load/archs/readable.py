"""Whether a family can read a config.json at all: a value may be of any kind, a list where a number belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8load.archs.base import Arch, entries_of, sizes
from fp8load.archs.numbers import MAX_LAYERS
from fp8load.errors import Problem

_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What arithmetic on a value of another kind raises."""


def unreadable(arch: Arch, document: Mapping[str, Any]) -> Problem | None:
    """The value at which the family's own rules fail, when they are asked once for every layer; None where none does.

    Families compute with what config.json says, and only here is a failure a fault of that file.
    """
    error = _failure(arch, document)
    if error is None:
        return None
    inner = document.get(arch.text_config) if arch.text_config is not None else None
    place, described = (f"{arch.text_config}.", inner) if isinstance(inner, Mapping) else ("", document)
    rest = ({key: value for key, value in described.items() if key != left_out} for left_out in described)
    without = ({**document, arch.text_config: part} if place and arch.text_config else part for part in rest)
    at = next((key for key, part in zip(described, without, strict=True) if _failure(arch, part) is None), None)
    return Problem(
        code="F8L109", message=f"config.json has a value that a {arch.name} cannot have", file=arch.config_file,
        expected=f"a value of another kind ({type(error).__name__}: {error})",
        got=f"{place}{at}: {described[at]!r}"[:120] if at is not None else "several of them",
        hint="correct it, or take config.json of the original model",
    )  # fmt: skip


def _failure(arch: Arch, document: Mapping[str, Any]) -> Exception | None:
    """What the family's rules raise."""
    try:
        config = arch.config(document)
        for layer in range(min(sizes(config).num_layers, MAX_LAYERS) + 1):
            for _ in entries_of((*arch.root, *arch.layer, *arch.mtp), config, layer):
                pass
    except _ERRORS as error:
        return error
    return None
