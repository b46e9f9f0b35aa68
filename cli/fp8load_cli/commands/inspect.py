"""`fp8load inspect`: what is in a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fp8load.errors import ExitCode, Problem, UsageError
from fp8load_cli.help import HUB_ENVIRONMENT
from fp8load_cli.opening import opened
from fp8load_cli.options import AllowUnscaled, Source, command
from fp8load_cli.run import Run
from fp8load_cli.settings import no_such_choice

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.report import InspectReport
    from fp8load_cli.render.document import Document

FORMATS = ("text", "json", "md", "html")
SORTS = ("name", "bytes", "count")
PLOTS = ("scales",)
_LOOK = "What to show"


_Tree = Annotated[bool, typer.Option("--tree", help="Tensors as a tree of dotted names.", rich_help_panel=_LOOK)]
_Tensors = Annotated[bool, typer.Option("--tensors", help="Every tensor with its place.", rich_help_panel=_LOOK)]
_Skeleton = Annotated[bool, typer.Option("--skeleton", help="The headers as a .skel.", rich_help_panel=_LOOK)]
_Contract = Annotated[
    bool, typer.Option("--contract", help="What a sender of new weights must deliver, as JSON.", rich_help_panel=_LOOK)
]
_Module = Annotated[
    str | None,
    typer.Option(
        "--module", metavar="GLOB", help="Only these modules; * is one component, ** many.", rich_help_panel=_LOOK
    ),
]
_Sort = Annotated[
    str | None, typer.Option("--sort", metavar="name|bytes|count", help="Order of the rows.", rich_help_panel=_LOOK)
]
_Depth = Annotated[
    int | None, typer.Option("--depth", min=1, metavar="N", help="Levels of the tree.", rich_help_panel=_LOOK)
]
_Plot = Annotated[
    str | None, typer.Option("--plot", metavar="scales", help="Draw values; reads all scales.", rich_help_panel=_LOOK)
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        formats=FORMATS,
        examples=(
            "fp8load inspect ./my-checkpoint",
            "fp8load inspect org/repo --module 'model.layers.3.**' --tensors",
            "fp8load inspect org/repo --skeleton > repo.skel",
        ),
        codes={1: "not used", 3: "could not answer: not found, offline, broken files or configuration"},
        environment=HUB_ENVIRONMENT,
    )(inspect)


def inspect(  # noqa: PLR0913 - its options
    run: Run,
    source: Source,
    *,
    tree: _Tree = False,
    tensors: _Tensors = False,
    skeleton: _Skeleton = False,
    contract: _Contract = False,
    plot: _Plot = None,
    module: _Module = None,
    sort: _Sort = None,
    depth: _Depth = None,
    allow_unscaled: AllowUnscaled = False,
) -> ExitCode:
    """Show what a checkpoint holds.

    Format, sizes, dtypes, quantized modules folded by name, fusion. Reads headers only.
    """
    narrowed: dict[str, object] = {"--tree": tree, "--tensors": tensors, "--module": module, "--sort": sort}
    _check_options(run, narrowed, depth=depth)
    if skeleton:
        _check_skeleton(run, {**narrowed, "--plot": plot, "--contract": contract})
    if contract:
        _check_contract(run, {**narrowed, "--plot": plot})
    if plot is not None:
        _check_plot(run, plot, narrowed)
    with opened(run, source, allow_unscaled=allow_unscaled) as checkpoint:
        if skeleton or contract:
            return _write_whole(run, checkpoint, contract=contract)
        if run.settings.format == "html":
            return _draw_page(run, checkpoint, narrowed, values=plot is not None)
        if plot is not None:
            return _draw_scales(run, checkpoint)
        from fp8load_cli.select import with_tensors, within

        report = checkpoint.summary()
        if tensors or tree:
            report = with_tensors(report, checkpoint.index)
        if module is not None:
            report = within(report, module)
    from fp8load_cli.render import show

    show(run, report, _document(report, tree=tree, sort=sort, depth=depth, module=module, quiet=run.settings.quiet))
    if not (tensors or tree or module):
        run.out.hint(
            f"`fp8load verify {source}` checks all of this; `fp8load plan {source}` shows what would be loaded"
        )
    return ExitCode.OK


def _check_options(run: Run, narrowed: dict[str, object], *, depth: int | None) -> None:
    sort = narrowed["--sort"]
    if isinstance(sort, str) and sort not in SORTS:
        raise no_such_choice("--sort", sort, SORTS)
    if depth is not None and not narrowed["--tree"]:
        raise _useless("--depth", "is for --tree")
    if run.settings.is_json and (sort or depth):
        raise _useless("--sort" if sort else "--depth", "is for people: JSON keeps an order of its own, and all levels")


def _check_skeleton(run: Run, others: dict[str, object]) -> None:
    """A skeleton is the whole checkpoint as text: what would narrow it or write it otherwise is refused."""
    if run.settings.is_json:
        raise _useless("--json", "excludes --skeleton, which is a text of its own")
    for option, value in others.items():
        if value:
            raise _useless(option, "excludes --skeleton, which is the whole checkpoint")


def _check_contract(run: Run, others: dict[str, object]) -> None:
    """A contract is the whole checkpoint, and JSON in any case."""
    if run.settings.format not in ("text", "json"):
        raise _useless("--format", f"{run.settings.format} excludes --contract, which is JSON")
    for option, value in others.items():
        if value:
            raise _useless(option, "excludes --contract, which is of the whole checkpoint")


def _write_whole(run: Run, checkpoint: Checkpoint, *, contract: bool) -> ExitCode:
    """The checkpoint as a text that other programs read: its contract, or its skeleton."""
    if contract:
        run.out.report(checkpoint.contract().to_json() + "\n")
        return ExitCode.OK
    from fp8load.index.skeleton import write_skeleton

    run.out.report(write_skeleton(checkpoint.index))
    return ExitCode.OK


def _check_plot(run: Run, plot: str, others: dict[str, object]) -> None:
    """A drawing is of the whole checkpoint, and for people."""
    if plot not in PLOTS:
        raise no_such_choice("--plot", plot, PLOTS)
    if run.settings.is_json:
        raise _useless("--json", "excludes --plot, which is a drawing")
    for option, value in others.items():
        if value:
            raise _useless(option, "excludes --plot, which is of the whole checkpoint")


def _draw_page(run: Run, checkpoint: Checkpoint, narrowed: dict[str, object], *, values: bool) -> ExitCode:
    """Facts and modules as a page; under --plot scales with the values of scales."""
    for option, value in narrowed.items():
        if value:
            raise _useless(option, "excludes --format html, which sorts and filters by itself")
    from fp8load_cli.render import html
    from fp8load_cli.render.html import Parts

    checkpoint.summary()  # a page of inspect needs it: this raises what is wrong with the files
    run.out.report(html.draw(Parts.of(checkpoint, values=values), None))
    return ExitCode.OK


def _draw_scales(run: Run, checkpoint: Checkpoint) -> ExitCode:
    from fp8load.survey import survey_of
    from fp8load_cli.render import md, text
    from fp8load_cli.render.document import Gap
    from fp8load_cli.render.views.inspect import title
    from fp8load_cli.render.views.scales import scales_document

    source = checkpoint.summary().source  # raises for files and a configuration that cannot be read
    document = [title(source), Gap(), *scales_document(survey_of(checkpoint), unicode=run.out.unicode)]
    run.out.report(md.draw(document) if run.settings.format == "md" else text.draw(document, run.out.style))
    return ExitCode.OK


def _useless(option: str, why: str) -> UsageError:
    return UsageError(Problem(code="USE010", message=f"{option} {why}"))


def _document(
    report: InspectReport, *, tree: bool, sort: str | None, depth: int | None, module: str | None, quiet: int
) -> Document:
    from fp8load_cli.render.document import line
    from fp8load_cli.render.views.inspect import inspect_document
    from fp8load_cli.render.views.tensors import tensors_document, tree_document

    if tree:
        return tree_document(report, depth=depth, sort=sort)
    if report.tensors is not None:
        return tensors_document(report, sort=sort)
    if module is not None and not report.modules:
        return [line(f"No module matches {module}: * is one component of a dotted name, ** any number.")]
    return inspect_document(report, sort=sort, brief=bool(quiet or module))
