"""F8L402: members of a fused layer get the largest of their scales, and are rounded to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.constant import constant
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.requantized import requantized
from fp8load.scheme import Role
from fp8load.values.encode import encoded
from fp8load.writing.actions import Convert, Remake

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


def actions(context: Context, problem: Problem) -> Iterator[Convert | Remake]:
    """FP8: the weights are quantized again. FP4: the block scales are, and its codes stay, which loses less.

    The largest range is kept, so nothing saturates. Nothing is done for scales that other modules share.
    """
    members = _groups(context).get(problem.module, ())
    stored, scales = context.checkpoint.index.tensors, context.scales
    tensors = [info.tensors.get(role) for info in members for role in (Role.WEIGHT, Role.WEIGHT_SCALE)]
    if scales is None or not members or any(meta is None or meta.name not in stored for meta in tensors):
        return
    is_global = problem.tensor in {info.tensors[_GLOBAL].name for info in members if _GLOBAL in info.tensors}
    metas = [info.tensors[_GLOBAL if is_global else Role.WEIGHT_SCALE] for info in members]
    numbers = [scales.by_name[meta.name].smallest for meta in metas]
    scheme = members[0].scheme
    divides = is_global and scheme is not None and scheme.second_level is not None and scheme.second_level.divides
    wanted = min(numbers) if divides else max(numbers)
    found: list[Convert | Remake | None] = []
    for info, meta, number in zip(members, metas, numbers, strict=True):
        if number != wanted:
            ratio = wanted / number if divides else number / wanted
            found += [_blocks(info, ratio) if is_global else _weight(context, info, wanted), constant(meta, wanted)]
    if None not in found:
        yield from (change for change in found if change is not None)


_GLOBAL = Role.WEIGHT_GLOBAL_SCALE


@once
def _groups(context: Context) -> Mapping[str, tuple[ModuleInfo, ...]]:
    """Fused layer -> the modules that it is made from."""
    return {group.name: tuple(group.members) for group in context.checkpoint.stored.fused}


def _weight(context: Context, info: ModuleInfo, scale: float) -> Remake | None:
    import numpy as np

    said = "quantized again, with the scale that its layer shares"
    return requantized(context, info.tensors[Role.WEIGHT].name, lambda old: np.full_like(old, scale), said)


def _blocks(info: ModuleInfo, ratio: float) -> Convert | None:
    meta = info.tensors[Role.WEIGHT_SCALE]
    if not meta.dtype.is_fp8:
        return None
    return Convert(meta, meta.dtype, partial(_scaled, meta.dtype, ratio), f"times {ratio:.6g}, rounded")


def _scaled(dtype: DType, ratio: float, data: bytes) -> bytes:
    import numpy as np

    old: NDArray[Any] = decode(dtype, data)
    new: NDArray[float32] = (old * np.float32(ratio)).astype(np.float32)
    kept = ~np.isfinite(old)
    return np.where(kept, np.frombuffer(data, np.uint8), encoded(dtype, np.where(kept, 0, new))).tobytes()


REPAIR = Repair(
    title="gives the members of a fused layer the largest of their scales, and rounds them to it", actions=actions,
    only_if="lossy: weights, or block scales, are rounded once more",
)  # fmt: skip
