"""`fp8load bench load`: how fast this machine loads a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from fp8load.errors import ExitCode
from fp8load_cli.help import HUB_ENVIRONMENT
from fp8load_cli.options import Quantize, Source
from fp8load_cli.run import Run

ENVIRONMENT = {**HUB_ENVIRONMENT, "RUNAI_STREAMER_CONCURRENCY": "threads of a peer, Run:ai's streamer"}
EXAMPLES = (
    "fp8load bench load ./my-checkpoint",
    "fp8load bench load ./my-checkpoint --tp 8 --rank 3 --runs 5 --json > load.json",
    "fp8load bench load org/repo --device cpu --no-peers",
)
CODES = {1: "no plan for this tp, or a device that is not there", 3: "could not answer: as for plan, or no memory"}
_WHAT, _HOW = "What to load", "How to measure"

_Tp = Annotated[int, typer.Option("--tp", min=1, metavar="N", help="Tensor-parallel size.", rich_help_panel=_WHAT)]
_Rank = Annotated[int, typer.Option("--rank", min=0, metavar="R", help="Which of them.", rich_help_panel=_WHAT)]
_Peers = Annotated[
    bool,
    typer.Option("--peers/--no-peers", help="safetensors, and what is installed of others.", rich_help_panel=_WHAT),
]
_Device = Annotated[
    str | None,
    typer.Option("--device", metavar="cuda|cpu", help="Default: the GPU, if there is one.", rich_help_panel=_HOW),
]
_Runs = Annotated[
    int, typer.Option("--runs", min=1, metavar="N", help="Of each; medians are shown.", rich_help_panel=_HOW)
]


def load(
    run: Run,
    source: Source,
    *,
    tp: _Tp = 1,
    rank: _Rank = 0,
    peers: _Peers = True,
    device: _Device = None,
    runs: _Runs = 3,
    quantize: Quantize = None,
) -> ExitCode:
    """Time how a checkpoint is loaded, page cache to fused parameters.

    Beside what this machine could do at most, and beside other loaders, which end with the same bytes in the same
    parameters. Reads all that the rank keeps, again and again, and needs the memory for it.
    """
    from fp8load.plan.online import scheme_of
    from fp8load_cli.benching_load import Question, measured
    from fp8load_cli.render import show
    from fp8load_cli.render.views.load import load_document

    if quantize is not None:
        scheme_of(quantize)
    asked = Question.of(device=device, tp=tp, rank=rank, runs=runs, peers=peers, quantize=quantize)
    report = measured(run, source, asked)
    show(run, report, load_document(report))
    return ExitCode.OK
