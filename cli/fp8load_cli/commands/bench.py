"""`fp8load bench`: how fast this machine runs the products of a checkpoint's layers, and how fast it loads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fp8load.errors import ExitCode
from fp8load_cli.commands import bench_load
from fp8load_cli.help import HUB_ENVIRONMENT, Group, epilog
from fp8load_cli.options import GLOBAL_NAMES, command, take_global_options
from fp8load_cli.run import Run
from fp8load_cli.settings import merge

if TYPE_CHECKING:
    from fp8load_cli.reports import BenchGemmReport

_ENVIRONMENT = {**HUB_ENVIRONMENT, "VLLM_C": "vLLM's library of operators, a peer"}
_EXAMPLES = (
    "fp8load bench gemm --shapes from org/repo --tp 8 --tokens 1,64,4096",
    "fp8load bench gemm --shapes l8b,4096x7168 --backend triton_block --no-peers",
    "fp8load bench gemm --graph --plot roofline.png --json > gemm.json",
)
_CODES = {
    1: "a backend is wrong or broken, or was asked for and refuses, or nothing runs",
    3: "could not answer: as for plan",
}
_WHAT, _HOW = "What to measure", "How to measure"

_Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shapes", metavar="[from] NAME|NxK|MxNxK|SOURCE", rich_help_panel=_WHAT,
        help="Built-in layers (l8b, l70b, ds3, small, or one: ds3.o), sizes, or a checkpoint's.",
    ),
]  # fmt: skip
_Scheme = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme", metavar="NAMES", rich_help_panel=_WHAT,
        help="Of built-in layers and sizes: block, channel, tensor, weight-only.  [default: block,channel]",
    ),
]  # fmt: skip
_Tokens = Annotated[
    list[str] | None,
    typer.Option("--tokens", metavar="1,16,...", help="Rows of the input, M.", rich_help_panel=_WHAT),
]
_Tp = Annotated[
    int, typer.Option("--tp", min=1, metavar="N", help="Tensor-parallel size of a checkpoint.", rich_help_panel=_WHAT)
]
_Backend = Annotated[
    list[str] | None,
    typer.Option(
        "--backend", metavar="NAMES", envvar="FP8LOAD_BACKEND", show_envvar=False, rich_help_panel=_WHAT,
        help="Only these; default: all that run (FP8LOAD_BACKEND).",
    ),
]  # fmt: skip
_Peers = Annotated[
    bool,
    typer.Option("--peers/--no-peers", help="bf16, and what is installed of others.", rich_help_panel=_WHAT),
]
_Device = Annotated[
    str | None,
    typer.Option("--device", metavar="cuda|cpu", help="Default: the GPU, if there is one.", rich_help_panel=_HOW),
]
_Graph = Annotated[
    bool, typer.Option("--graph", help="Replay a CUDA graph: launches cost nothing.", rich_help_panel=_HOW)
]
_Seed = Annotated[
    int | None, typer.Option("--seed", min=0, metavar="N", help="Default: another every time.", rich_help_panel=_HOW)
]
_Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.png", help="Draw the roofline; needs fp8load[plot].", rich_help_panel=_HOW),
]


def register(app: typer.Typer) -> None:
    """Add the group and its commands to the program."""
    group = typer.Typer(
        cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip

    def callback(context: typer.Context, **values: Any) -> None:
        """Measure this machine beside its limits."""
        context.obj = merge(context.obj or {}, {name: values[name] for name in GLOBAL_NAMES})

    take_global_options(callback)
    examples = (_EXAMPLES[0], *bench_load.EXAMPLES[:2])
    group.callback(cls=Group, epilog=epilog(examples, {}, {**_ENVIRONMENT, **bench_load.ENVIRONMENT}))(callback)
    command(
        group, formats=("text", "json", "md"), examples=_EXAMPLES, codes=_CODES, environment=_ENVIRONMENT, group="bench"
    )(gemm)
    command(
        group, formats=("text", "json", "md"), examples=bench_load.EXAMPLES, codes=bench_load.CODES,
        environment=bench_load.ENVIRONMENT, group="bench",
    )(bench_load.load)  # fmt: skip
    app.add_typer(group, name="bench")


def gemm(  # noqa: PLR0913 - its options
    run: Run,
    *,
    shapes: _Shapes = None,
    scheme: _Scheme = None,
    tokens: _Tokens = None,
    tp: _Tp = 1,
    backend: _Backend = None,
    peers: _Peers = True,
    device: _Device = None,
    graph: _Graph = False,
    seed: _Seed = None,
    plot: _Plot = None,
) -> ExitCode:
    """Time the products of layers, bf16 in and out.

    Quantization of the input included. Backends and peers run on the same random operands, each beside this machine's
    limit, bf16, and its error against the float64 product.
    """
    from fp8load_cli.benching import Question, measured
    from fp8load_cli.render import show
    from fp8load_cli.render.roofline import check_plot, draw_roofline
    from fp8load_cli.render.units import plural
    from fp8load_cli.render.views.gemm import gemm_document

    if plot is not None:
        check_plot(plot)
    question = Question.of(
        shapes=shapes, schemes=scheme, tokens=tokens, tp=tp, backends=backend, peers=peers, device=device, graph=graph,
        seed=seed,
    )  # fmt: skip
    report = measured(run, question)
    show(run, report, gemm_document(report, with_refusals=run.settings.verbose > 0))
    if plot is not None:
        draw_roofline(report, plot)
        run.out.note(f"{plot}: the roofline of {plural(len(report.rows), 'product')}")
    return _verdict(run, report)


def _verdict(run: Run, report: BenchGemmReport) -> ExitCode:
    """1 where a backend of ours raised or is wrong, or nothing ran; peers are only shown."""
    wrong = {row.backend for row in report.rows if row.wrong and not row.peer}
    broken = {one.backend for one in report.failed if not one.peer}
    if wrong or broken:
        run.out.note(f"wrong or broken: {', '.join(sorted(wrong | broken))}")
        return ExitCode.NO
    if not report.rows:
        run.out.note("nothing was measured")
        return ExitCode.NO
    return ExitCode.OK
