"""`fp8load plan`: what one rank would load, and from where."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fp8load.errors import ExitCode, Problem, UsageError
from fp8load_cli.help import HUB_ENVIRONMENT
from fp8load_cli.opening import opened
from fp8load_cli.options import AllowUnscaled, Quantize, Source, chosen_list, command
from fp8load_cli.run import Run

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.fusion import FusionPlan
    from fp8load.plan.plan import Rank
    from fp8load.report import PlanReport
    from fp8load_cli.kernels import Kernels

_RANK = "Which rank"
_SHOW = "What to show"
_KERNELS = "Kernels (these import torch)"


_Tp = Annotated[int, typer.Option("--tp", min=1, metavar="N", help="Tensor-parallel size.", rich_help_panel=_RANK)]
_Ep = Annotated[int, typer.Option("--ep", min=1, metavar="N", help="Expert-parallel size.", rich_help_panel=_RANK)]
_Rank = Annotated[
    str,
    typer.Option("--rank", metavar="R|all", help="Rank R is tp rank R % tp and ep rank R % ep.", rich_help_panel=_RANK),
]
_EpRank = Annotated[
    int | None,
    typer.Option("--ep-rank", min=0, metavar="R", help="Another ep rank than that of --rank.", rich_help_panel=_RANK),
]
_Explain = Annotated[
    str | None,
    typer.Option("--explain", metavar="TENSOR", help="Follow one tensor into its parameter.", rich_help_panel=_SHOW),
]
_Module = Annotated[
    str | None,
    typer.Option(
        "--module", metavar="GLOB", help="List these layers; * is one component, ** many.", rich_help_panel=_SHOW
    ),
]
_Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="sm90|cpu|cuda|auto",
        help="Choose kernels for this GPU, here or not.",
        rich_help_panel=_KERNELS,
    ),
]
_Backend = Annotated[
    list[str] | None,
    typer.Option(
        "--backend", metavar="NAMES", envvar="FP8LOAD_BACKEND", show_envvar=False, rich_help_panel=_KERNELS,
        help="These alone, or say why they cannot; first come first (FP8LOAD_BACKEND).",
    ),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        formats=("text", "json"),
        examples=(
            "fp8load plan org/repo --tp 8 --rank 0",
            "fp8load plan ./my-checkpoint --tp 2 --rank all --device sm90",
            "fp8load plan ./my-checkpoint --tp 2 --rank 1 --explain model.layers.0.mlp.up_proj.weight",
        ),
        codes={
            1: "no such plan exists; the sizes that work are named; or a backend refuses",
            3: "could not answer: not found, offline, broken files or configuration",
        },
        environment=HUB_ENVIRONMENT,
    )(plan)


def plan(  # noqa: PLR0913 - its options
    run: Run,
    source: Source,
    *,
    tp: _Tp = 1,
    ep: _Ep = 1,
    rank: _Rank = "0",
    ep_rank: _EpRank = None,
    explain: _Explain = None,
    module: _Module = None,
    device: _Device = None,
    backend: _Backend = None,
    allow_unscaled: AllowUnscaled = False,
    quantize: Quantize = None,
) -> ExitCode:
    """Show what a rank would load.

    Parameters, memory, bytes to read, and the proof that every element is written exactly once.
    --quantize plans a load that quantizes on the way.
    -v lists what is skipped. --device shows which kernels would run it, and why not others.
    """
    from fp8load.plan.online import scheme_of
    from fp8load.plan.plan import Rank
    from fp8load_cli.kernels import Kernels
    from fp8load_cli.render import show
    from fp8load_cli.render.views.plan import explained_document, plan_document, plans_document
    from fp8load_cli.reports import PlansReport
    from fp8load_cli.select import checked_glob

    ranks = [Rank(tp_rank=at % tp, tp_size=tp, ep_rank=at % ep, ep_size=ep) for at in _ranks(rank, max(tp, ep))]
    if ep_rank is not None:
        ranks = [_of_experts(ranks, ep_rank)]
    if module is not None and explain is not None:
        raise UsageError(Problem(code="USE010", message="--explain and --module exclude each other",
                                 hint="--explain follows one tensor, --module lists layers"))  # fmt: skip
    if module is not None:
        checked_glob(module)
    if quantize is not None:
        scheme_of(quantize)
    backends = chosen_list("--backend", backend)
    asked = device is not None or backend is not None
    kernels = Kernels.of("auto" if device is None else device, backends) if asked else None
    with opened(run, source, allow_unscaled=allow_unscaled) as checkpoint:
        plans = (_planned(checkpoint, member, quantize) for member in ranks)
        reports = [_report(plan, explain, module, kernels) for plan in plans]
    first = reports[0]
    if explain is not None and rank != "all":
        show(run, first, explained_document(first))
    elif rank == "all":
        show(run, PlansReport(source=first.source, ranks=reports), plans_document(reports))
    else:
        show(run, first, plan_document(first, with_layers=module is not None, with_skips=run.settings.verbose > 0))
    return ExitCode.OK


def _ranks(text: str, world: int) -> list[int]:
    if text == "all":
        return list(range(world))
    if not text.isdecimal() or int(text) >= world:
        raise UsageError(
            Problem(code="USE010", message="there is no such rank", expected=f"0..{world - 1}, or all", got=text)
        )
    return [int(text)]


def _of_experts(ranks: list[Rank], ep_rank: int) -> Rank:
    """The one rank that was asked for, with another part of the experts."""
    if len(ranks) > 1:
        raise UsageError(Problem(code="USE010", message="--ep-rank is for one rank", got="--rank all"))
    if ep_rank >= ranks[0].ep_size:
        raise UsageError(Problem(code="USE010", message="there is no such ep rank",
                                 expected=f"0..{ranks[0].ep_size - 1}", got=str(ep_rank)))  # fmt: skip
    return replace(ranks[0], ep_rank=ep_rank)


def _planned(checkpoint: Checkpoint, rank: Rank, quantize: str | None) -> FusionPlan:
    return checkpoint.plan(
        tp_rank=rank.tp_rank, tp_size=rank.tp_size, ep_rank=rank.ep_rank, ep_size=rank.ep_size, quantize=quantize
    )


def _report(plan: FusionPlan, explain: str | None, module: str | None, kernels: Kernels | None) -> PlanReport:
    from fp8load.inspection import plan_report
    from fp8load_cli.select import names_layer

    report = plan_report(plan)
    if explain is not None:
        report = report.model_copy(update={"explained": plan.explain(explain).split("\n")})
    if module is not None:
        layers = [layer for layer in report.layers if names_layer(module, layer["name"])]
        report = report.model_copy(update={"layers": layers})
    return report if kernels is None else kernels.added_to(report, plan, explain)
