"""Help as plain text: options under headings, then exit codes, environment and examples.

typer's own rich help takes 0.2 s to import and draws boxes that a pipe or a narrow terminal cannot hold.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import typer
from typer.core import TyperCommand, TyperGroup

EXIT_CODES = {
    0: "done",
    1: "done, and the answer is no",
    2: "usage: what was asked for does not exist",
    3: "could not answer: not found, offline, unreadable",
    130: "interrupted",
}
ENVIRONMENT = {
    "FP8LOAD_FORMAT": "default of --format",
    "FP8LOAD_CONFIG": "default of --config",
    "FP8LOAD_DEBUG": "1 shows tracebacks",
    "NO_COLOR, FORCE_COLOR": "colour never, always",
}
HUB_ENVIRONMENT = {
    "HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE": "as in huggingface_hub",
    **ENVIRONMENT,
}


class Formatter(Protocol):
    """What is used of the object that typer hands to help methods."""

    width: int

    def section(self, name: str) -> AbstractContextManager[None]:
        """A heading; what is written within is indented."""

    def write_dl(self, rows: list[tuple[str, str]]) -> None:
        """Two aligned columns."""

    def write(self, string: str) -> None:
        """Text as it is."""

    def write_paragraph(self) -> None:
        """An empty line."""


class Command(TyperCommand):
    """A command whose help groups its options by `rich_help_panel` and ends in its epilog, line by line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words; `--fix` gets a value of its own, for typer has no option that may go without one."""
        from fp8load_cli.fixing import with_value

        return super().parse_args(ctx, without_from(with_value(args)))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """SOURCE, as everyone else writes it, for typer's {SOURCE}."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Formatter) -> None:
        """The options, each group under its heading; those without a group first."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Formatter) -> None:  # noqa: ARG002 - typer's signature
        """Exit codes, environment, examples."""
        _write_epilog(self.epilog, formatter)


def without_from(words: list[str]) -> list[str]:
    """The command line with `--shapes from X` as `--shapes X`: it reads better, and options take one value."""
    pairs = zip(["", *words], words, [*words[1:], "-"], strict=False)
    return [word for before, word, after in pairs
            if not (word == "from" and before == "--shapes" and not after.startswith("-"))]  # fmt: skip


class Group(TyperGroup):
    """The program: commands first, then options."""

    def format_options(self, ctx: Any, formatter: Formatter) -> None:
        """The commands, then the options."""
        self.format_commands(ctx, formatter)  # type: ignore[arg-type]  # typer has no public name for its type
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Formatter) -> None:  # noqa: ARG002 - typer's signature
        """Exit codes, environment, examples."""
        _write_epilog(self.epilog, formatter)


def _write_options(command: Any, ctx: typer.Context, formatter: Formatter) -> None:
    groups: dict[str, list[tuple[str, str]]] = {"Options": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None:
            continue
        if param.param_type_name == "option":
            groups.setdefault(param.rich_help_panel or "Options", []).append(record)
        else:
            groups.setdefault("Arguments", []).append((record[0].partition(" ")[0], record[1]))
    order = sorted(groups, key=lambda name: {"Arguments": 0, "Global options": 2}.get(name, 1))
    for name in order:
        if groups[name]:
            with formatter.section(name):
                formatter.write_dl(groups[name])


def _write_epilog(epilog: str | None, formatter: Formatter) -> None:
    for text in (epilog or "").splitlines():
        formatter.write(text + "\n")


def epilog(examples: tuple[str, ...], codes: dict[int, str], environment: dict[str, str]) -> str:
    """The end of a help page. `codes` says what a code means for this command."""
    meanings = EXIT_CODES | codes
    lines = ["", "Exit codes:"]
    lines += [f"  {code:<5}{meanings[code]}" for code in EXIT_CODES]
    width = max(map(len, environment))
    lines += ["", "Environment:", *(f"  {name:<{width}}  {text}" for name, text in environment.items())]
    lines += ["", "Examples:", *(f"  {example}" for example in examples)]
    return "\n".join(lines)
