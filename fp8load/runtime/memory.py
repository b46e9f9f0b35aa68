"""Memory for parameters: large mappings advised for huge pages, because fresh 4 KiB pages cost three times the read.

Reading a checkpoint into fresh memory is bound by page faults: 2.8 GB/s with 4 KiB pages, 6.1 GB/s with 2 MiB ones
(docs/benchmarks). So parameters are carved out of a few anonymous mappings, each byte of which is written once.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import torch

from fp8load.dtypes import BITS
from fp8load.errors import LoadError, Problem
from fp8load.plan.plan import ParamSpec
from fp8load.runtime.dtypes import stored_shape, torch_dtype
from fp8load.units import size

ALIGNMENT = 256
"""Parameters begin at multiples of this: enough for vector units, for cuBLAS and for any cache line."""

HUGE_PAGE = 2 << 20
MAPPING_NBYTES = 1 << 30
"""One mapping holds about this much, so that dropping a part of a model can return memory."""


def allocate(specs: Iterable[ParamSpec], device: torch.device) -> dict[str, torch.Tensor]:
    """Uninitialised storage for each parameter, by name: views of huge-page mappings on the CPU, tensors elsewhere."""
    listed = list(specs)
    if device.type != "cpu":
        return _all_on_device(listed, device)
    storage: dict[str, torch.Tensor] = {}
    batch: dict[str, ParamSpec] = {}
    batch_nbytes = 0
    for spec in listed:
        nbytes = _rounded(spec)
        if batch and batch_nbytes + nbytes > MAPPING_NBYTES:
            storage.update(_carve(batch, batch_nbytes))
            batch, batch_nbytes = {}, 0
        batch[spec.name] = spec
        batch_nbytes += nbytes
    storage.update(_carve(batch, batch_nbytes))
    return storage


def _all_on_device(specs: Sequence[ParamSpec], device: torch.device) -> dict[str, torch.Tensor]:
    storage: dict[str, torch.Tensor] = {}
    try:
        for spec in specs:
            storage[spec.name] = _on_device(spec, device)
    except torch.OutOfMemoryError as error:
        missing = next(spec for spec in specs if spec.name not in storage)
        raise LoadError(Problem(
            code="FILL731", message=f"the memory of {device} is not enough for the parameters", tensor=missing.name,
            expected=f"room for {size(sum(map(_nbytes, specs)))}",
            got=f"room for {size(sum(map(_nbytes, specs[: len(storage)])))}",
            hint="a larger tp_size or ep_size; `fp8load plan --device` tells beforehand",
        )) from error  # fmt: skip
    return storage


def _on_device(spec: ParamSpec, device: torch.device) -> torch.Tensor:
    return torch.empty(stored_shape(spec.dtype, spec.shape), dtype=torch_dtype(spec.dtype), device=device)


def _nbytes(spec: ParamSpec) -> int:
    return prod(spec.shape) * BITS[spec.dtype] // 8


def _rounded(spec: ParamSpec) -> int:
    return -(-_nbytes(spec) // ALIGNMENT) * ALIGNMENT


def _carve(specs: Mapping[str, ParamSpec], nbytes: int) -> dict[str, torch.Tensor]:
    """One mapping, cut into parameters. torch keeps the mapping alive as long as any of them is."""
    if not specs:
        return {}
    if nbytes < HUGE_PAGE or not sys.platform.startswith("linux"):
        base = torch.empty(max(nbytes, 1), dtype=torch.uint8, device="cpu")
    else:
        mapping = mmap.mmap(-1, -(-nbytes // HUGE_PAGE) * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping.madvise(mmap.MADV_HUGEPAGE)
        base = torch.frombuffer(mapping, dtype=torch.uint8)
    tensors: dict[str, torch.Tensor] = {}
    offset = 0
    for name, spec in specs.items():
        data = base[offset : offset + _nbytes(spec)]
        tensors[name] = data.view(torch_dtype(spec.dtype)).view(stored_shape(spec.dtype, spec.shape))
        offset += _rounded(spec)
    return tensors
