"""Where the tensors of a checkpoint belong in fused parameters, for loaders that hand out one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from math import prod

import torch

from fp8load.dtypes import BITS
from fp8load.fusion import FusionPlan
from fp8load.plan.plan import ParamSpec
from fp8load.runtime.dtypes import as_bytes
from fp8load.runtime.memory import allocate
from fp8load.runtime.segments import Direct, Segment, segments

CHECKED_NBYTES = 64 << 20
"""The parameter whose bytes are compared is at most this large, if there is such a one: it is written once more, which
must not be seen in the time."""


class Places:
    """Parameters of one rank, not filled yet, and what goes into them. Nothing is timed until `put` is called.

    params    name -> tensor on the device
    """

    def __init__(self, plan: FusionPlan, device: torch.device, put: Callable[[int], None]) -> None:
        """`put` is called with the bytes of each tensor that found its place; what it raises ends the loading."""
        self.params = allocate(plan.params.values(), device)
        self._put = put
        self._begin = {name: meta.begin for name, meta in plan.index.tensors.items()}
        self._segments = _by_tensor(plan, segments(plan.copies, plan.tensors, self.params))

    def __contains__(self, name: str) -> bool:
        return name in self._segments

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Copy what this rank keeps of a whole tensor, on this device or another, to where it belongs."""
        data, begin, nbytes = as_bytes(tensor.contiguous()).reshape(-1), self._begin[name], 0
        for segment in self._segments[name]:
            piece = data[segment.begin - begin : segment.end - begin]
            nbytes += segment.nbytes
            _place(segment, piece)
        self._put(nbytes)


def _by_tensor(plan: FusionPlan, found: Iterable[Segment]) -> dict[str, list[Segment]]:
    """Which tensor of its file each segment is of."""
    names: dict[str, list[str]] = {}
    for name, meta in sorted(plan.index.tensors.items(), key=lambda item: item[1].begin):
        if meta.nbytes:
            names.setdefault(meta.file, []).append(name)
    begins = {file: [plan.index.tensors[name].begin for name in listed] for file, listed in names.items()}
    by_tensor: dict[str, list[Segment]] = {}
    for segment in found:
        at = bisect_right(begins[segment.file], segment.begin) - 1
        by_tensor.setdefault(names[segment.file][at], []).append(segment)
    return by_tensor


class Expected:
    """The right bytes of one parameter, read from the files by themselves: what every loader must end with."""

    def __init__(self, plan: FusionPlan, param: str) -> None:
        self.param = param
        storage = allocate([plan.params[param]], torch.device("cpu"))
        self._data = as_bytes(storage[param])
        copies = (copy for copy in plan.copies if copy.param == param)
        for segment in segments(copies, plan.tensors, storage):
            read = plan.source.read(segment.file, segment.begin, segment.end)
            _place(segment, torch.frombuffer(bytearray(read), dtype=torch.uint8))

    @classmethod
    def of_one(cls, plan: FusionPlan) -> Expected | None:
        """Of the largest parameter of at most `CHECKED_NBYTES` that is made of several tensors, or of any; None where
        a rank keeps nothing."""
        sources: dict[str, set[str]] = {}
        for copy in plan.copies:
            sources.setdefault(copy.param, set()).add(copy.source)
        specs = [plan.params[name] for name in sources]
        return cls(plan, max(specs, key=lambda it: _worth(it, len(sources[it.name]))).name) if specs else None

    def spoil(self, params: Mapping[str, torch.Tensor]) -> None:
        """Make every byte wrong: memory that was just given back may hold what another loader had put there."""
        as_bytes(params[self.param]).copy_(~self._data)

    def is_in(self, params: Mapping[str, torch.Tensor]) -> bool:
        """Whether a loader's parameter has these bytes."""
        return torch.equal(as_bytes(params[self.param]).cpu(), self._data)


def _place(segment: Segment, data: torch.Tensor) -> None:
    if isinstance(segment, Direct):
        segment.target.copy_(data)
    else:
        segment.place(data)


def _worth(spec: ParamSpec, num_sources: int) -> tuple[bool, bool, int]:
    nbytes = prod(spec.shape) * BITS[spec.dtype] // 8
    small = nbytes <= CHECKED_NBYTES
    return small, num_sources > 1, nbytes if small else -nbytes
