"""The proof: every element of every parameter is written exactly once, from a tensor that is really that large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from fp8load.boxes import Box, tiling_fault
from fp8load.errors import PlanError, Problem
from fp8load.index.index import TensorMeta
from fp8load.plan.plan import Copy, Layout


def _fault(message: str, **facts: str) -> PlanError:
    return PlanError(Problem(code="PLAN001", message=message, hint="this is a bug in fp8load: please report it", **facts))  # type: ignore[arg-type]


def prove(layout: Layout, tensors: Mapping[str, TensorMeta]) -> int:
    """Prove one rank's layout; returns the number of elements proved. Raises `PlanError` naming the first fault.

    Copies lie inside their tensors and keep the number of elements, slots and copies tile each parameter, and each
    tensor is copied or skipped with a reason. A cast is a widening.
    """
    by_param: dict[str, list[Copy]] = defaultdict(list)
    used = {skip.source for skip in layout.skips}
    for copy in layout.copies:
        by_param[copy.param].append(copy)
        used.add(copy.source)
        meta = tensors[copy.source]
        if not copy.src.within(meta.shape) or copy.src.num_elements != copy.dst.num_elements:
            raise _fault("a copy does not fit", tensor=copy.source, file=meta.file,
                         expected=f"a box of {list(meta.shape)} with {copy.dst.num_elements} elements", got=str(copy.src))  # fmt: skip
        wanted = layout.params[copy.param].dtype
        if (copy.cast or meta.dtype) is not wanted or (copy.cast and copy.cast.bits < meta.dtype.bits):
            raise _fault("a copy would change a value", tensor=copy.source, file=meta.file,
                         expected=str(wanted), got=str(copy.cast or meta.dtype))  # fmt: skip
    num_elements = 0
    for name, spec in layout.params.items():
        copies = by_param[name]
        slots = {slot.name: slot.box for slot in spec.slots}
        astray = next((copy for copy in copies if slots.get(copy.slot) != copy.dst), None)
        reason = f"{astray.source} is not written to a slot" if astray else None
        reason = reason or tiling_fault(spec.shape, [copy.dst for copy in copies])
        if reason is not None:
            raise _fault(f"{name} is not tiled by its copies: {reason}", module=spec.module)
        num_elements += sum(copy.dst.num_elements for copy in copies)
    forgotten = next((name for name in tensors if name not in used), None)
    if forgotten is not None:
        raise _fault("a tensor is neither copied nor skipped", tensor=forgotten, file=tensors[forgotten].file)
    return num_elements


def prove_ranks(layouts: Sequence[Layout], tensors: Mapping[str, TensorMeta]) -> None:
    """Prove all ranks together: each element of each tensor lands on equally many ranks, and on at least one.

    A tensor may be skipped on some ranks (a row-parallel bias) but not on all, unless every rank gives the same reason.
    """
    boxes: dict[str, list[Box]] = defaultdict(list)
    for layout in layouts:
        seen: set[tuple[str, Box]] = set()
        for copy in layout.copies:
            if (copy.source, copy.src) not in seen:  # one scalar may fill several slots of one rank
                seen.add((copy.source, copy.src))
                boxes[copy.source].append(copy.src)
    always = set.intersection(*({skip.source for skip in layout.skips} for layout in layouts))
    for name, meta in tensors.items():
        if name in always:
            continue
        reason = _even_cover(meta.shape, boxes[name])
        if reason is not None:
            raise _fault(f"the ranks together do not hold the tensor evenly: {reason}", tensor=name, file=meta.file)


def _even_cover(shape: tuple[int, ...], boxes: Iterable[Box]) -> str | None:
    counts: dict[Box, int] = defaultdict(int)
    for box in boxes:
        if box.num_elements:
            counts[box] += 1
    if len(set(counts.values())) > 1:
        return f"some elements land on {min(counts.values())} ranks, others on {max(counts.values())}"
    return tiling_fault(shape, counts)
