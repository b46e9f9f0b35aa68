"""The program: its commands, and `main`, which turns everything that can happen into an exit code."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fp8load.errors import ExitCode, Problem
from fp8load_cli.commands import COMMANDS, GROUPS
from fp8load_cli.help import HUB_ENVIRONMENT, Group, epilog
from fp8load_cli.options import GLOBAL_NAMES, PANEL, take_global_options
from fp8load_cli.output import Output, StdoutError, answer, close_stdout, flush, say, unwritten
from fp8load_cli.settings import Settings

_EXAMPLES = (
    "fp8load inspect ./my-checkpoint",
    "fp8load verify org/repo --tp 1,2,8",
    "fp8load plan org/repo --tp 8 --rank 0 --json",
)


_WORDING = (
    ("Input should be a valid integer, unable to parse string as an integer", "it should be a whole number"),
    ("Input should be greater than or equal to", "it should be at least"),
)
"""How typer says what a number has to be, and how we do."""


def _version(wanted: bool) -> None:
    if wanted:
        from fp8load import __version__

        answer(f"fp8load {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The typer application with every command in `commands/`."""
    app = typer.Typer(
        name="fp8load",
        cls=Group,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
    )

    def callback(context: typer.Context, **values: Any) -> None:
        """Say what a quantized LLM checkpoint holds, whether it can be loaded, and what would be loaded where.

        Reads headers and small files only, unless `verify --level` says more. Needs no GPU.
        """
        context.obj = {name: values[name] for name in GLOBAL_NAMES}

    option = typer.Option(
        "--version", help="Print the version.", is_eager=True, callback=_version, rich_help_panel=PANEL
    )
    take_global_options(callback, version=Annotated[bool, option])
    app.callback(epilog=epilog(_EXAMPLES, {}, HUB_ENVIRONMENT))(callback)
    for name in COMMANDS:
        importlib.import_module(f"fp8load_cli.commands.{name}").register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on `arguments` (default: the command line) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        gc.disable()  # the process is this run alone, and all that it makes stays until it ends
    try:
        code = _call(words)
        flush()
    except BrokenPipeError:
        close_stdout()
        return int(ExitCode.OK)
    except (StdoutError, OSError) as error:  # OSError: typer's own writing of the help
        close_stdout()
        failure = error if isinstance(error, StdoutError) else unwritten(error)
        Output(Settings()).error(failure.problem)
        return int(failure.exit_code)
    finally:
        if arguments is None:
            gc.freeze()  # the interpreter would look for cycles among half a million objects before it ends
    return code


def _call(words: list[str]) -> int:
    try:
        code = build_app()(words, prog_name="fp8load", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(words, error)
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except SystemExit as error:
        # typer ends the process itself only when the reader of its help has gone.
        if isinstance(error.__context__, BrokenPipeError):
            raise BrokenPipeError from error
        raise
    if code == ExitCode.INTERRUPTED:
        say("interrupted; nothing was written")
    return int(code or 0)


def _usage(words: list[str], error: typer.TyperException) -> int:
    """A mistyped command line: one message, and the envelope where JSON was asked for."""
    known = next((word for word in words if word in COMMANDS), "")
    member = next((word for word in words if word in GROUPS.get(known, ())), "")
    place = " ".join(part for part in ("fp8load", known, member) if part)
    message = error.format_message()
    if not message or message.startswith("Usage:"):  # no arguments at all: typer's message is the help
        say(message or f"usage: {place} -h")
        return int(ExitCode.USAGE)
    for theirs, ours in _WORDING:
        message = message.replace(theirs, ours)
    listed = "options" if known else "commands"
    problem = Problem(code="USE000", message=message.rstrip("."), hint=f"`{place} -h` lists the {listed}")
    chosen = os.environ.get("FP8LOAD_FORMAT", "")
    wants_json = "--json" in words or "json" in (*words, chosen) or "--format=json" in words
    settings = Settings(format="json" if wants_json else "text")
    if wants_json:
        from fp8load_cli.run import error_json

        Output(settings).report(error_json(known, problem, "UsageError", ExitCode.USAGE))
    Output(settings).error(problem)
    return int(ExitCode.USAGE)
