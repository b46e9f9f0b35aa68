"""Empty layers for engines: their rows and columns for a tensor-parallel rank, filled by `weight_loader` calls alone.

layer = QKVParallelLinear(2048, 128, 16, 4, scheme=scheme, tp_rank=3, tp_size=8, name="layers.0.self_attn.qkv_proj")
layer.weight.weight_loader(layer.weight, q_tensor, "q")     # ... every slot of every parameter
layer.finalize()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Required, TypedDict, Unpack

import torch

from fp8load.dtypes import DType
from fp8load.errors import PlanError, Problem, UsageError
from fp8load.plan.experts import expert_range, stacked
from fp8load.plan.layout import ParamLayout, PartSpan, linear_layout
from fp8load.plan.plan import Rank
from fp8load.plan.shard import CutError, Span, even_span, kv_head_span, whole_span
from fp8load.runtime.choose import Asked
from fp8load.runtime.experts import ScaledExperts, ScaledLinearStack
from fp8load.runtime.linear import ScaledLinear
from fp8load.runtime.parameters import make_parameters
from fp8load.runtime.typed import TypedParameter
from fp8load.scheme import LinearScheme, Role

__all__ = [
    "ColumnParallelLinear",
    "FusedExperts",
    "LayerOptions",
    "MergedColumnParallelLinear",
    "QKVParallelLinear",
    "RowParallelLinear",
    "ScaledLinear",
]

WHOLE = "whole"
"""The slot of a layer of one part."""

_TRIED_TP_SIZES = range(1, 65)


class LayerOptions(TypedDict, total=False):
    """What all layers take as keywords.

    scheme            how weight and scales are stored, and how the input is quantized
    tp_rank, tp_size  which part of the layer is wanted; 0 of 1
    bias              dtype of the bias; None, the default, for none
    name              the module's dotted name, for messages
    backend           a name forces it or fails, of several the first that runs the layer; None, the default, chooses
    device            where parameters are allocated
    """

    scheme: Required[LinearScheme]
    tp_rank: int
    tp_size: int
    bias: DType | None
    name: str
    backend: Asked
    device: torch.device | str | None


Parts = Callable[[Rank], list[PartSpan]]
Cols = Callable[[Rank], Span]


class QKVParallelLinear(ScaledLinear):
    """q, k and v in one layer [(heads + 2 * KV heads) * head_size of this rank, hidden_size]; slots "q", "k", "v".

    Heads are split over ranks; KV heads fewer than ranks are repeated. Raises `PlanError`, with the sizes that work,
    where heads do not split or a split cuts a block of scales.
    """

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        total_num_heads: int,
        total_num_kv_heads: int | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        num_kv_heads = total_num_heads if total_num_kv_heads is None else total_num_kv_heads
        q_rows, kv_rows = total_num_heads * head_size, num_kv_heads * head_size

        def parts(rank: Rank) -> list[PartSpan]:
            kv = kv_head_span(num_kv_heads, head_size, rank)
            q = even_span(q_rows, rank, unit=head_size)
            return [PartSpan("q", q_rows, q), PartSpan("k", kv_rows, kv), PartSpan("v", kv_rows, kv)]

        params = _empty(parts, hidden_size, lambda rank: whole_span(hidden_size, rank), options)
        super().__init__(params, scheme=options["scheme"], name=options.get("name", ""), backend=options.get("backend"))


class MergedColumnParallelLinear(ScaledLinear):
    """Several linear layers of one input (gate and up), each split over its output rows.

    `slots` names them, "0", "1", ... by default; names and positions are both shard ids. Raises `PlanError`, with the
    sizes that work, where rows do not split or a split cuts a block of scales.
    """

    def __init__(
        self,
        input_size: int,
        output_sizes: Sequence[int],
        *,
        slots: Sequence[str] | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        names = [str(i) for i in range(len(output_sizes))] if slots is None else slots
        named = list(zip(names, output_sizes, strict=True))

        def parts(rank: Rank) -> list[PartSpan]:
            return [PartSpan(slot, size, even_span(size, rank)) for slot, size in named]

        params = _empty(parts, input_size, lambda rank: whole_span(input_size, rank), options)
        super().__init__(params, scheme=options["scheme"], name=options.get("name", ""), backend=options.get("backend"))


class ColumnParallelLinear(ScaledLinear):
    """One linear layer, split over its output rows. Raises `PlanError`, with the sizes that work, where that fails."""

    def __init__(self, input_size: int, output_size: int, **options: Unpack[LayerOptions]) -> None:
        def parts(rank: Rank) -> list[PartSpan]:
            return [PartSpan(WHOLE, output_size, even_span(output_size, rank))]

        params = _empty(parts, input_size, lambda rank: whole_span(input_size, rank), options)
        super().__init__(params, scheme=options["scheme"], name=options.get("name", ""), backend=options.get("backend"))


class RowParallelLinear(ScaledLinear):
    """One linear layer, split over its input columns: a rank's output is a partial sum, and ranks add theirs up.

    The bias is added once: it is a parameter of rank 0, and None elsewhere. Raises `PlanError`, with the sizes that
    work, where columns do not split or a split cuts a block of scales.
    """

    def __init__(self, input_size: int, output_size: int, **options: Unpack[LayerOptions]) -> None:
        def parts(rank: Rank) -> list[PartSpan]:
            return [PartSpan(WHOLE, output_size, whole_span(output_size, rank))]

        if options.get("tp_rank", 0) != 0:
            options["bias"] = None
        params = _empty(parts, input_size, lambda rank: even_span(input_size, rank), options)
        super().__init__(params, scheme=options["scheme"], name=options.get("name", ""), backend=options.get("backend"))


class FusedExperts(ScaledExperts):
    """The routed experts of a layer: `w13` [E, 2 * intermediate_size, hidden_size] with slots "gate" and "up", and `w2`
    [E, hidden_size, intermediate_size] with "down", each for the experts of this rank.

    layer.w13.weight.weight_loader(layer.w13.weight, tensor, "gate", expert_id=7)      # "w1" means the same; w3, w2 too

    Experts are shared out evenly over `ep_size` ranks; within each, tp splits the intermediate size. `gated=False`:
    w13 has one part, "up". `backend` names a grouped backend, or one of layers for one expert after the other.
    Raises `PlanError`, with the sizes that work, where either does not split.
    """

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        *,
        ep_rank: int = 0,
        ep_size: int = 1,
        gated: bool = True,
        activation: str = "silu",
        **options: Unpack[LayerOptions],
    ) -> None:
        name, scheme, backend = options.get("name", ""), options["scheme"], options.get("backend")
        experts = expert_range(num_experts, _rank(options, ep_rank=ep_rank, ep_size=ep_size), name)
        slots = ("gate", "up") if gated else ("up",)

        def up(rank: Rank) -> list[PartSpan]:
            return [PartSpan(slot, intermediate_size, even_span(intermediate_size, rank)) for slot in slots]

        def down(rank: Rank) -> list[PartSpan]:
            return [PartSpan("down", hidden_size, whole_span(hidden_size, rank))]

        def hidden(rank: Rank) -> Span:
            return whole_span(hidden_size, rank)

        def intermediate(rank: Rank) -> Span:
            return even_span(intermediate_size, rank)

        w13 = _empty(up, hidden_size, hidden, {**options, "name": f"{name}.w13"}, experts)
        bias = options.get("bias") if options.get("tp_rank", 0) == 0 else None
        w2 = _empty(down, intermediate_size, intermediate, {**options, "name": f"{name}.w2", "bias": bias}, experts)
        super().__init__(
            ScaledLinearStack(w13, scheme=scheme, experts=experts, name=f"{name}.w13", backend=backend),
            ScaledLinearStack(w2, scheme=scheme, experts=experts, name=f"{name}.w2", backend=backend),
            activation=activation,
            name=name,
        )


def _empty(
    parts: Parts, num_cols: int, cols: Cols, options: LayerOptions, experts: range | None = None
) -> dict[Role, TypedParameter]:
    """The empty parameters of a layer on its rank, or of a stack of `experts` alike.

    Raises `PlanError` F8L504 that says which tp sizes work.
    """
    scheme, bias = options["scheme"], options.get("bias")
    name, device = options.get("name", ""), options.get("device")
    rank = _rank(options)
    _refuse_without_scale(scheme, name)

    def layouts(rank: Rank) -> Iterable[ParamLayout]:
        dtype = scheme.weight.dtype
        each = linear_layout(tuple(parts(rank)), num_cols, cols(rank), scheme=scheme, dtype=dtype, bias=bias)
        return each if experts is None else [stacked(layout, experts) for layout in each]

    try:
        return make_parameters(layouts(rank), name, scheme=scheme, device=device)
    except CutError as error:
        works = ", ".join(str(size) for size in _TRIED_TP_SIZES if _splits(layouts, size))
        raise PlanError(Problem(
            code="F8L504", message=f"the layer cannot be split over tp={rank.tp_size}", module=name,
            expected=f"a tp size that works: {works or 'none does'}", got=f"tp={rank.tp_size}: {error}",
            hint="choose one of these, or keep the layer whole on every rank",
        )) from error  # fmt: skip


def _refuse_without_scale(scheme: LinearScheme, name: str) -> None:
    """A layer without the parameter for a scale would take codes for the weight, or quantize its input otherwise."""
    static = scheme.input if scheme.input_static else None
    for operand, spec in (("weight", scheme.weight), ("input", static)):
        if spec is not None and spec.dtype.bits <= 8 and spec.scale_dtype is None:
            raise PlanError(Problem(
                code="PLAN005", message=f"the scheme does not say in which dtype the {operand}'s scale is stored",
                module=name, expected="QuantSpec(..., scale_dtype=DType.F32), or what the checkpoint has",
                got=str(scheme), hint="a scale that is stored has a dtype; None is for scales computed while running",
            ))  # fmt: skip


def _rank(options: LayerOptions, *, ep_rank: int = 0, ep_size: int = 1) -> Rank:
    tp_rank, tp_size = options.get("tp_rank", 0), options.get("tp_size", 1)
    try:
        return Rank(tp_rank=tp_rank, tp_size=tp_size, ep_rank=ep_rank, ep_size=ep_size)
    except ValueError as error:
        raise UsageError(Problem(code="USE012", message=str(error), module=options.get("name", ""))) from error


def _splits(layouts: Callable[[Rank], Iterable[ParamLayout]], tp_size: int) -> bool:
    """Whether every rank of this size has a layout."""
    try:
        for tp_rank in range(tp_size):
            list(layouts(Rank(tp_rank=tp_rank, tp_size=tp_size)))
    except CutError:
        return False
    return True
