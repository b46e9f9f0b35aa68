"""A quantized module as an unquantized one: its weight in 16 bits, without scales, and on the ignore list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from fp8load.dtypes import DType
from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.match import is_embedding
from fp8load.rules.base import Context
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import configuration, edit_list
from fp8load.scheme import Role
from fp8load.values.dequantize import can_be_dequantized, real_rows
from fp8load.values.encode import floats
from fp8load.writing.actions import Drop, Edit, Remake, Rename

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

CHUNK = 4 << 20
"""Bytes of a weight that are read at once."""

LOSSY = "lossy: weights are rounded to 16 bits, and take twice the bytes or more"


def dequantized(context: Context, module: str) -> Iterator[Drop | Edit | Remake | Rename]:
    """What makes a module an unquantized one. Nothing for parts of stacks, and for what no JSON file configures: there
    is no list then."""
    checkpoint = context.checkpoint
    info = checkpoint.lowered.modules.get(module)
    if info is None or info.scheme is None or configuration(context) is None:
        return
    stored = {role: checkpoint.index.tensors.get(meta.name) for role, meta in info.tensors.items()}
    weight = stored[Role.WEIGHT]
    if weight is None or None in stored.values() or not can_be_dequantized(info):
        return
    dtype = _plain_dtype(context)
    shape = info.tensors[Role.WEIGHT].shape
    uses = tuple(meta.name for role, meta in info.tensors.items() if role not in (Role.WEIGHT, Role.BIAS))
    yield Remake(weight, dtype, shape, partial(_rounded, checkpoint, info, dtype), f"dequantized to {dtype}", uses)
    if weight.name != f"{module}.weight":  # packed weights have names of their own
        yield Rename(weight, f"{module}.weight")
    beside = [meta for role, meta in stored.items() if role not in (Role.WEIGHT, Role.BIAS)]
    beside += [checkpoint.index.tensors.get(name) for name in _unused(context).get(module, ())]
    yield from (Drop(meta) for meta in beside if meta is not None)
    if not is_embedding(module):
        yield from edit_list(context, "append", module)


@once
def _unused(context: Context) -> Mapping[str, list[str]]:
    """Module -> tensors beside its weight that are left out: its shape before packing, and the like."""
    found: dict[str, list[str]] = {}
    for name in context.checkpoint.lowered.unused:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


@once
def _plain_dtype(context: Context) -> DType:
    """The dtype that most unquantized weights have; F32 is nobody's for matrices. BF16 where none is."""
    weights = (info.tensors[Role.WEIGHT] for info in context.checkpoint.lowered.modules.values())
    counts = Counter(meta.dtype for meta in weights if meta.dtype in (DType.BF16, DType.F16))
    return counts.most_common(1)[0][0] if counts else DType.BF16


def _rounded(checkpoint: Checkpoint, info: ModuleInfo, dtype: DType) -> Iterator[bytes]:
    rows = real_rows(checkpoint, info, nbytes=CHUNK)
    if rows is None:
        raise ValueError(f"{info.name} cannot be dequantized")  # `dequantized` has looked
    for _, values in rows:
        yield floats(dtype, values)
