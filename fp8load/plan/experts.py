"""The routed experts of a layer: w13 [E, 2I, H] and w2 [E, H, I], each expert laid out like a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fp8load.boxes import Box
from fp8load.errors import PlanError, Problem
from fp8load.plan.builder import Builder, Filling
from fp8load.plan.linear import Target, filler, lay_out, same_scheme, skip_bias
from fp8load.plan.plan import ParamLayout, Rank, Skip, SlotSource
from fp8load.plan.shard import UnevenSplitError, even_span
from fp8load.scheme import Role

ELSEWHERE = "an expert of another rank"


def expert_range(count: int, rank: Rank, module: str) -> range:
    """The experts that a rank holds: an equal share, in order. Raises `PlanError` with the sizes that work."""
    try:
        span = even_span(count, Rank(tp_rank=rank.ep_rank, tp_size=rank.ep_size))
    except UnevenSplitError as error:
        works = ", ".join(str(size) for size in range(1, count + 1) if count % size == 0)
        raise PlanError(Problem(
            code="PLAN006", message=f"{count} experts do not divide over ep={rank.ep_size}", module=module,
            expected=f"an ep size that works: {works}", got=f"ep={rank.ep_size}",
        )) from error  # fmt: skip
    return range(span.begin, span.end)


def add_experts(builder: Builder, targets: Sequence[Target], numbers: range, activation: str) -> None:
    """One layer of every expert of this rank, stacked: `targets` are those of all experts, alike but for their tensors.

    Raises `PlanError` F8L306 where experts are stored in different ways.
    """
    held = [targets[number] for number in numbers]
    same_scheme((info for target in held for info in target.infos), held[0].name)
    for target in held[1:]:
        _same_shape(held[0], target)
    layer = lay_out(held[0], builder.rank)
    spec = layer.spec(numbers, activation)
    if spec is not None:
        builder.layers[spec.name] = spec
    for target in held:
        skip_bias(builder, target, layer.layouts)
    split = layer.target
    if split is not held[0]:  # parts that share scales stay together
        held = [target._replace(parts=split.parts, shard=split.shard) for target in held]
    for layout in layer.layouts:
        fills = [filler(layout, target) for target in held]
        builder.parameter(split.name, stacked(layout, numbers), _Fills(fills, len(layout.sources)))
    needed = {meta.name for target in held for info in target.infos for meta in info.tensors.values()}
    others = (targets[number] for number in range(len(targets)) if number not in numbers)
    for meta in (meta for target in others for info in target.infos for meta in info.tensors.values()):
        if meta.name not in needed:  # one scale for all experts is
            builder.skips.append(Skip(meta.name, ELSEWHERE))


@dataclass(frozen=True, slots=True)
class _Fills:
    """What fills the slots of a stack: those of one expert after those of the other."""

    fills: list[Callable[[int], Filling]]
    num_parts: int

    def __call__(self, position: int) -> Filling:
        expert, part = divmod(position, self.num_parts)
        return self.fills[expert](part)


@lru_cache(maxsize=256)
def stacked(layout: ParamLayout, numbers: range) -> ParamLayout:
    """One expert's parameter, stacked along a new first axis; the slot of gate of expert 3 is "3.gate"."""
    sources = tuple(
        SlotSource(f"{number}.{source.slot}", source.shape, source.src,
                   Box((at, *source.dst.lo), (at + 1, *source.dst.hi)))
        for at, number in enumerate(numbers) for source in layout.sources
    )  # fmt: skip
    return ParamLayout(layout.role, layout.dtype, (len(numbers), *layout.shape), sources)


def _same_shape(first: Target, other: Target) -> None:
    for one, two in zip(first.infos, other.infos, strict=True):
        left, right = one.tensors[Role.WEIGHT], two.tensors[Role.WEIGHT]
        if left.shape != right.shape:
            raise PlanError(Problem(
                code="F8L109", message="experts of one layer have different shapes", tensor=right.name,
                file=right.file, module=other.name, expected=f"{left}, as {left.name}", got=str(right),
                hint="one of them was cut or padded, or is of another model: export the layer again",
            ))  # fmt: skip
