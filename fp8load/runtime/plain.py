"""One tensor at a time as plain numbers: a module dequantized, and a whole checkpoint as an unquantized one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from fp8load.errors import ChangedError, Problem, UsageError
from fp8load.formats.lowered import ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.runtime.dequantize import decode_weight, dequantize, transform_
from fp8load.runtime.dtypes import stored_shape, torch_dtype
from fp8load.runtime.plain_experts import Plain, expert_modules, plain_experts
from fp8load.scheme import Repack, Role
from fp8load.swizzle import packed_in_order, padded_shape, row_major

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint


def read_tensor(checkpoint: Checkpoint, meta: TensorMeta, *, columns_first: bool = False) -> torch.Tensor:
    """One tensor as stored, but rows in order and low nibbles first, without the padding of a swizzled scale.

    `columns_first`: a matrix whose bytes lie so. Raises `ChangedError` when the file is shorter than its header said.
    """
    data = checkpoint.source.read(meta.file, meta.begin, meta.end)
    if len(data) != meta.nbytes:
        raise ChangedError(Problem(code="FILL710", message="the file changed after it was opened", tensor=meta.name,
                                   file=meta.file, expected=f"{meta.nbytes} bytes", got=str(len(data))))  # fmt: skip
    shape = stored_shape(meta.dtype, meta.shape)
    if not data:
        return torch.empty(shape, dtype=torch_dtype(meta.dtype))
    repack = checkpoint.lowered.repacks.get(meta.name)
    if repack is Repack.UNSWIZZLE:
        padded = padded_shape((meta.shape[0], meta.shape[1]))
        grid = row_major(data, padded[1])
        rows = torch.from_numpy(grid).view(torch_dtype(meta.dtype))
        return rows[: shape[0], : shape[1]].contiguous()
    if repack is not None:
        data = packed_in_order(np.frombuffer(data, np.uint8), repack).tobytes()
    flat = torch.frombuffer(bytearray(data), dtype=torch_dtype(meta.dtype))
    return flat.reshape(shape[::-1]).T.contiguous() if columns_first else flat.reshape(shape)


def read_role(checkpoint: Checkpoint, info: ModuleInfo, role: Role) -> torch.Tensor:
    """One of a module's tensors as it is meant: [N, K], also where the file has columns first."""
    return read_tensor(checkpoint, info.tensors[role], columns_first=role in info.transposed)


def dequantize_module(checkpoint: Checkpoint, module: str) -> torch.Tensor:
    """See `Checkpoint.dequantize`."""
    stack = [name for name, stack in checkpoint.lowered.stacks.items() if stack.base == module]
    if stack:
        return torch.stack([_weight(checkpoint, checkpoint.lowered.modules[name]) for name in stack])
    info = checkpoint.lowered.modules.get(module)
    if info is None:
        raise UsageError(Problem(code="USE010", message="no such module in the checkpoint", module=module,
                                 expected="a module on disk, such as " + next(iter(checkpoint.lowered.modules), "none"),
                                 hint="`fp8load inspect --tree` lists them"))  # fmt: skip
    return _weight(checkpoint, info)


def _weight(checkpoint: Checkpoint, info: ModuleInfo) -> torch.Tensor:
    weight = read_role(checkpoint, info, Role.WEIGHT)
    if info.scheme is None:
        return weight.float()
    if Role.WEIGHT_SCALE not in info.tensors:
        return decode_weight(weight, info.scheme.weight.dtype, info.scheme.storage)
    scale = read_role(checkpoint, info, Role.WEIGHT_SCALE)
    scheme, second = info.scheme, info.tensors.get(Role.WEIGHT_GLOBAL_SCALE)
    values = dequantize(
        weight,
        scale,
        scheme.weight.granularity,
        dtype=scheme.weight.dtype,
        storage=scheme.in_memory().storage,
        scale_dtype=scheme.weight.scale_dtype,
        global_scale=None if second is None else read_tensor(checkpoint, second),
        divides=scheme.second_level is not None and scheme.second_level.divides,
    )
    factor, a, b = (info.tensors.get(role) for role in (Role.PRE_QUANT_SCALE, Role.LOW_RANK_A, Role.LOW_RANK_B))
    return transform_(
        values,
        pre_quant_scale=None if factor is None else read_tensor(checkpoint, factor),
        low_rank=None if a is None or b is None else (read_tensor(checkpoint, a), read_tensor(checkpoint, b)),
    )


def plain_tensors(checkpoint: Checkpoint, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """See `Checkpoint.plain_tensors`. Memory: one tensor at a time."""
    wanted = torch.float32 if dtype is None else dtype
    model, lowered = checkpoint.model, checkpoint.lowered
    experts = frozenset() if model is None else expert_modules(model, lowered)
    for info in lowered.modules.values():
        if info.name in experts:
            continue
        yield f"{info.name}.{Role.WEIGHT}", _weight(checkpoint, info).to(wanted)
        bias = info.tensors.get(Role.BIAS)
        if bias is not None:
            yield bias.name, read_tensor(checkpoint, bias).float().to(wanted)
    if model is not None:
        for name, tensor in plain_experts(model, lowered, lambda info: _plain(checkpoint, info)):
            yield name, tensor.to(wanted)
    for name, meta in lowered.loose.items():
        tensor = read_tensor(checkpoint, meta)
        yield name, tensor.float().to(wanted) if meta.dtype.is_wide_float else tensor


def _plain(checkpoint: Checkpoint, info: ModuleInfo) -> Plain:
    bias = read_tensor(checkpoint, info.tensors[Role.BIAS]).float() if Role.BIAS in info.tensors else None
    return Plain(_weight(checkpoint, info), bias)
