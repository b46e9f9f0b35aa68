"""Options: those that every command has, and how a function becomes a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Concatenate

import typer

from fp8load.errors import ExitCode, Problem, UsageError
from fp8load_cli.help import Command, epilog
from fp8load_cli.run import Run, execute

PANEL = "Global options"

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, file.safetensors, x.skel, org/repo, org/repo@rev, hf://... or - (a skeleton on stdin).",
    ),
]

AllowUnscaled = Annotated[
    bool, typer.Option("--allow-unscaled", help="FP8 weights without a scale are raw casts, not a fault.")
]

Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="HOW",
        help="FP8 layers out of an unquantized checkpoint: fp8-tensor, fp8-channel, fp8-block.",
    ),
]

_Format = Annotated[
    str | None,
    typer.Option("--format", "-f", metavar="FORMAT", help="How to write the report.", rich_help_panel=PANEL),
]
_Json = Annotated[bool, typer.Option("--json", help="Same as --format json.", rich_help_panel=PANEL)]
_Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the report there.", rich_help_panel=PANEL),
]
_Quiet = Annotated[
    int,
    typer.Option(
        "--quiet",
        "-q",
        count=True,
        show_default=False,
        help="Only findings; -qq: only the exit code.",
        rich_help_panel=PANEL,
    ),
]
_Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="More detail, and a log on stderr; -vv: debug.",
        rich_help_panel=PANEL,
    ),
]
_Color = Annotated[
    str | None,
    typer.Option("--color", metavar="auto|always|never", help="Also NO_COLOR, FORCE_COLOR.", rich_help_panel=PANEL),
]
_NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress on stderr.", rich_help_panel=PANEL)]
_Offline = Annotated[bool, typer.Option("--offline", help="Same as HF_HUB_OFFLINE=1.", rich_help_panel=PANEL)]
_Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Default: the nearest fp8load.toml or pyproject.toml.",
        rich_help_panel=PANEL,
    ),
]


def global_options(  # noqa: PLR0913 - every one of them
    *,
    format: _Format = None,
    json: _Json = False,
    output: _Output = None,
    quiet: _Quiet = 0,
    verbose: _Verbose = 0,
    color: _Color = None,
    no_progress: _NoProgress = False,
    offline: _Offline = False,
    config: _Config = None,
) -> dict[str, Any]:
    """The global options as typed, unset ones as None, False or 0."""
    return dict(locals())


_SIGNATURE = inspect.signature(global_options, eval_str=True)
GLOBAL_NAMES = tuple(_SIGNATURE.parameters)


def take_global_options(callback: Any, **flags: Any) -> None:
    """Give the callback of a group the global options as its signature, and `flags`: names and annotations."""
    options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in _SIGNATURE.parameters.values()]
    options += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in flags.items()
    ]
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *options]
    callback.__signature__ = inspect.Signature(parameters)
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def command(
    app: typer.Typer,
    *,
    formats: tuple[str, ...],
    examples: tuple[str, ...],
    codes: dict[int, str],
    environment: dict[str, str],
    name: str | None = None,
    group: str = "",
) -> Callable[[Callable[Concatenate[Run, ...], ExitCode]], None]:
    """Register a function as a command that also takes the global options.

    The function gets a `Run` and its own options and returns an exit code; whatever it raises is turned into a message.
    `formats` are the values of --format that it knows, the default first. `group` is the command that it is a part of.
    """

    def register(function: Callable[Concatenate[Run, ...], ExitCode]) -> None:
        title = name or function.__name__

        def wrapper(context: typer.Context, **values: Any) -> int:
            after = {key: values.pop(key) for key in GLOBAL_NAMES}
            return execute(f"{group} {title}".strip(), formats, context.obj, after, lambda run: function(run, **values))

        parameters = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters += [_listing(parameter, formats) for parameter in _SIGNATURE.parameters.values()]
        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        wrapper.__signature__ = inspect.Signature([first, *by_name])  # type: ignore[attr-defined]  # typer reads it
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [first, *by_name]}
        wrapper.__doc__ = function.__doc__
        app.command(title, cls=Command, epilog=epilog(examples, codes, environment))(wrapper)

    return register


def _listing(parameter: inspect.Parameter, formats: tuple[str, ...]) -> inspect.Parameter:
    """The --format option with the formats of this command in its help."""
    if parameter.name != "format":
        return parameter
    option = typer.Option(
        "--format", "-f", metavar="FORMAT", help=f"{', '.join(formats)} (FP8LOAD_FORMAT).", rich_help_panel=PANEL
    )
    return parameter.replace(annotation=Annotated[str | None, option])


def comma_list(values: list[str] | None) -> list[str]:
    """A list option by comma or by repetition, or both."""
    return [item.strip() for value in values or [] for item in value.split(",") if item.strip()]


def chosen_list(option: str, values: list[str] | None) -> list[str]:
    """`comma_list` of an option that narrows what is done: empty only where it was left out.

    Raises `UsageError` USE010 for an empty value, as a variable that is not set leaves it: everything is not nothing.
    """
    found = comma_list(values)
    if values and not found:
        raise UsageError(Problem(code="USE010", message=f"{option} names nothing", got=repr(",".join(values)),
                                 hint="leave the option out for its default"))  # fmt: skip
    return found
