"""Quantizing while loading: weights are read whole, a batch at a time, and become codes and scales of this rank.

So memory holds the FP8 parameters, one batch of weights as they are stored, and the quantizer's bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from fp8load.boxes import whole
from fp8load.fusion import FusionPlan, Progress
from fp8load.index.index import TensorMeta
from fp8load.plan.online import BATCH_NBYTES
from fp8load.plan.plan import Copy
from fp8load.runtime.deliver import by_source, place
from fp8load.runtime.dtypes import torch_dtype
from fp8load.runtime.execute import execute
from fp8load.runtime.quantize_weight import quantize_weight
from fp8load.runtime.segments import segments
from fp8load.scheme import LinearScheme, Role

_MADE = (Role.WEIGHT, Role.WEIGHT_SCALE)


class _Weight(NamedTuple):
    """A weight that is quantized: as its file has it, its scale, its scheme, and where this rank keeps both."""

    stored: TensorMeta
    scale: TensorMeta
    scheme: LinearScheme
    copies: list[Copy]
    scale_copies: list[Copy]


def read_online(
    plan: FusionPlan, base: FusionPlan, storage: Mapping[str, torch.Tensor], progress: Progress | None
) -> None:
    """Fill the storage of a plan that quantizes; `base` is the plan of what the files hold.

    Raises what reading raises, and `LoadError` FILL726 for a weight with a NaN or an infinity.
    """
    made = {name for name, spec in plan.params.items() if spec.module in plan.layers and spec.role in _MADE}
    found = list(segments((copy for copy in plan.copies if copy.param not in made), base.tensors, storage))
    device = next(iter(storage.values())).device
    weights = list(_weights(plan, base, made))
    done = sum(segment.nbytes for segment in found)
    total = done + sum(weight.stored.nbytes for weight in weights)
    execute(base, found, device, None if progress is None else lambda read, _: progress(read, total))
    for batch in _batches(weights):
        _quantize(batch, base, storage)
        done += sum(weight.stored.nbytes for weight in batch)
        if progress is not None:
            progress(done, total)


def _weights(plan: FusionPlan, base: FusionPlan, made: set[str]) -> Iterator[_Weight]:
    copies = by_source(copy for copy in plan.copies if copy.param in made)
    for info in plan.lowered.modules.values():
        weight = info.tensors[Role.WEIGHT]
        if info.scheme is not None and weight.name in copies:
            scale = info.tensors[Role.WEIGHT_SCALE]
            yield _Weight(base.tensors[weight.name], scale, info.scheme, copies[weight.name], copies[scale.name])


def _batches(weights: Sequence[_Weight]) -> Iterator[list[_Weight]]:
    batch: list[_Weight] = []
    nbytes = 0
    for weight in weights:
        if batch and nbytes + weight.stored.nbytes > BATCH_NBYTES:
            yield batch
            batch, nbytes = [], 0
        batch.append(weight)
        nbytes += weight.stored.nbytes
    if batch:
        yield batch


def _quantize(batch: Sequence[_Weight], base: FusionPlan, storage: Mapping[str, torch.Tensor]) -> None:
    """Read weights, whole and rows first, and write this rank's part of their codes and scales."""
    staged = {
        one.stored.name: torch.empty(
            one.stored.shape, dtype=torch_dtype(one.stored.dtype), device=storage[one.copies[0].param].device
        )
        for one in batch
    }
    reads = (
        Copy(name, whole(one.stored.shape), name, "", whole(one.stored.shape), transposed=one.copies[0].transposed)
        for name, one in zip(staged, batch, strict=True)
    )
    device = next(iter(staged.values())).device
    execute(base, segments(reads, base.tensors, staged), device, None)
    for one in batch:
        w_NK = staged.pop(one.stored.name)
        codes, scale = quantize_weight(w_NK, one.scheme.weight, rounding=one.scheme.rounding, name=one.stored.name)
        narrow = one.stored._replace(dtype=one.scheme.weight.dtype)
        for copy in one.copies:
            place(codes, narrow, copy, storage[copy.param])
        for copy in one.scale_copies:
            place(scale.reshape(one.scale.shape), one.scale, copy, storage[copy.param])
