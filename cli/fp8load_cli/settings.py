"""Global options: merged from both places where they may stand, completed from the environment, checked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fp8load.errors import Problem, UsageError

COLOURS = ("auto", "always", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the global options say.

    quiet    0; 1: only findings; 2: only the exit code
    verbose  0; 1: info log; 2: debug log
    """

    format: str = "text"
    output: Path | None = None
    quiet: int = 0
    verbose: int = 0
    colour: str = "auto"
    progress: bool = True
    offline: bool = False
    config: Path | None = None

    @property
    def is_json(self) -> bool:
        """Whether stdout has to be one JSON envelope whatever happens."""
        return self.format == "json"


def merge(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Options before the command, overruled by those after it; counts add up, flags are set by either."""
    merged: dict[str, Any] = {}
    for name in after:
        first, second = before.get(name), after[name]
        if isinstance(second, bool):
            merged[name] = bool(first) or second
        elif isinstance(second, int):
            merged[name] = int(first or 0) + second
        else:
            merged[name] = first if second is None else second
    return merged


SAME_FORMATS = {"markdown": "md"}
"""Names that other tools give to our formats."""


def resolve(options: Mapping[str, Any], formats: tuple[str, ...]) -> Settings:
    """Settings of a command that knows `formats`. Raises `UsageError` for a choice that cannot be honoured."""
    colour = options["color"] or "auto"
    if colour not in COLOURS:
        raise no_such_choice("--color", colour, COLOURS)
    config = options["config"] or os.environ.get("FP8LOAD_CONFIG") or None
    if config is not None and not Path(config).is_file():
        raise UsageError(Problem(code="USE012", message="there is no such configuration file", file=str(config),
                                 expected=f"the TOML file of {'--config' if options['config'] else 'FP8LOAD_CONFIG'}",
                                 got="no file"))  # fmt: skip
    return Settings(
        format=_format(options, formats),
        output=None if options["output"] is None else Path(options["output"]),
        quiet=min(options["quiet"], 2),
        verbose=min(options["verbose"], 2),
        colour=colour,
        progress=not options["no_progress"] and os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") != "1",
        offline=options["offline"],
        config=None if config is None else Path(config),
    )


def _format(options: Mapping[str, Any], formats: tuple[str, ...]) -> str:
    chosen: str | None = options["format"]
    if options["json"]:
        if chosen not in (None, "json"):
            raise UsageError(Problem(code="USE010", message=f"--json and --format {chosen} exclude each other",
                                     hint="leave one of them out"))  # fmt: skip
        return "json"
    place = "--format"
    if chosen is None:
        chosen, place = os.environ.get("FP8LOAD_FORMAT") or formats[0], "FP8LOAD_FORMAT"
    chosen = SAME_FORMATS.get(chosen, chosen)
    if chosen not in formats:
        raise no_such_choice(place, chosen, formats)
    return chosen


def no_such_choice(place: str, got: str, known: tuple[str, ...]) -> UsageError:
    """The error for a value that an option (or environment variable) does not take."""
    return UsageError(Problem(
        code="USE010", message=f"{place} does not take this value", expected=", ".join(known), got=got))  # fmt: skip
