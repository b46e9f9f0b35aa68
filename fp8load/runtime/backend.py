"""The seam between layers and kernels: what a backend is asked, and what it is given.

Backends live in other packages (`fp8load_kernels`, or anyone's), which announce a provider in the entry point group
"fp8load.backends": a function from a `Device` to its backends there, fastest first. Nothing here knows any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch

from fp8load.dtypes import DType
from fp8load.plugins import announced
from fp8load.runtime.dequantize import decode_scale, decode_weight, dequantize, transform_
from fp8load.scheme import LinearScheme, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a backend may know of a device, as a value: questions about an absent GPU have answers too."""

    kind: str
    capability: tuple[int, int] | None = None
    name: str = ""

    def __str__(self) -> str:
        if self.capability is None:
            return self.name or self.kind
        return f"{self.name or self.kind}, {self.capability[0]}.{self.capability[1]}"


def device_of(device: torch.device) -> Device:
    """The value that describes a torch device."""
    if device.type != "cuda":
        return Device(kind=device.type)
    return Device(
        kind="cuda",
        capability=torch.cuda.get_device_capability(device),
        name=torch.cuda.get_device_name(device),
    )


@dataclass(frozen=True, slots=True)
class Yes:
    """The backend runs this; `note` is what one may want to know of how, as it stands in `why`."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class No:
    """The backend does not run this, because of `reason`: what it needs, and what there is."""

    reason: str


Verdict = Yes | No
"""Closed."""


class Refusal(NamedTuple):
    """The name of a backend that does not run something, and its reason."""

    backend: str
    reason: str


class Part(NamedTuple):
    """One logical shard of a fused layer: its rows of the weight, and its rows of the weight's scale."""

    slot: str
    rows: slice
    scale_rows: slice


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearWeights:
    """The loaded tensors of one layer, sharing the parameters' memory. Absent ones are None.

    weight               [N, K], or bytes [N, K / 2] where two elements share one
    weight_scale         parts stacked along axis 0: [parts], [N, 1], [sum of ceil(N_i / bn), ceil(K / bk)] or
                         [N, ceil(K / g)]
    weight_global_scale  [parts], float32
    input_scale          [parts], float32
    input_global_scale   [parts], float32
    pre_quant_scale      [parts, K], float32: what each part's input is multiplied by before it is quantized
    low_rank_a           [parts * r, K], float32, and
    low_rank_b           [N, r], float32: what is added to each part's product, of its scaled and unquantized input
    shape                logical (N, K)
    """

    scheme: LinearScheme
    shape: tuple[int, int]
    parts: tuple[Part, ...]
    weight: torch.Tensor
    weight_scale: torch.Tensor | None = None
    weight_global_scale: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    input_global_scale: torch.Tensor | None = None
    pre_quant_scale: torch.Tensor | None = None
    low_rank_a: torch.Tensor | None = None
    low_rank_b: torch.Tensor | None = None

    def dequantize(self) -> torch.Tensor:
        """The weight as float32 [N, K], parts in fused order: code * scale, rounded once, and then its transforms.

        Raises `ValueError` where the scheme has a second level of scales, or a transform, and these weights lack it.
        """
        if len(self.parts) == 1:
            return self._part(0)
        w_NK = torch.empty(self.shape, dtype=torch.float32, device=self.weight.device)
        for i, part in enumerate(self.parts):
            w_NK[part.rows] = self._part(i)
        return w_NK

    def scale_values(self) -> torch.Tensor:
        """The weight's scale as float32 numbers, same shape: itself where it is stored so, exponents decoded.

        Raises `ValueError` where there is none.
        """
        if self.weight_scale is None:
            raise ValueError("the weight has no scale")
        if self.weight_scale.dtype == torch.float32:
            return self.weight_scale
        return decode_scale(self.weight_scale, self.scheme.weight.scale_dtype)

    def input_factor(self, i: int) -> torch.Tensor | None:
        """What the input of part `i` is multiplied by, [1, K]. Raises `ValueError` where it ought to be there."""
        if Transform.PRE_QUANT_SCALE not in self.scheme.transforms:
            return None
        if self.pre_quant_scale is None:
            raise ValueError("the scheme has a pre_quant_scale, and there is none")
        return self.pre_quant_scale[i : i + 1]

    def residual(self, i: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A [r, K] and B [rows, r] of part `i`. Raises `ValueError` where they ought to be there."""
        if Transform.LOW_RANK_RESIDUAL not in self.scheme.transforms:
            return None
        if self.low_rank_a is None or self.low_rank_b is None:
            raise ValueError("the scheme has a low-rank residual, and there is none")
        rank = self.scheme.residual_rank
        return self.low_rank_a[i * rank : (i + 1) * rank], self.low_rank_b[self.parts[i].rows]

    def _part(self, i: int) -> torch.Tensor:
        factor, residual = self.input_factor(i), self.residual(i)
        values = self.stored(i)
        if factor is None and residual is None:
            return values
        return transform_(values, pre_quant_scale=factor, low_rank=residual)

    def stored(self, i: int) -> torch.Tensor:
        """The weight of part `i` without its transforms: code * scale, float32 [rows, K]."""
        spec, second, part = self.scheme.weight, self.scheme.second_level, self.parts[i]
        if self.weight_scale is None:
            return decode_weight(self.weight[part.rows], spec.dtype, self.scheme.storage)
        if second is not None and self.weight_global_scale is None:
            raise ValueError("the scheme stores a global scale of the weight, and there is none")
        return dequantize(
            self.weight[part.rows],
            self.weight_scale[part.scale_rows],
            spec.granularity,
            dtype=spec.dtype,
            storage=self.scheme.storage,
            scale_dtype=DType.F32 if self.weight_scale.dtype == torch.float32 else spec.scale_dtype,
            global_scale=None if self.weight_global_scale is None else self.weight_global_scale[i],
            divides=second is not None and second.divides,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a backend computes with, made once from the weights it was given.

    A tensor here is a view of a parameter (then a write into the parameter is seen at once) or a buffer of the
    backend's own (then `prepare` writes it again in place). All scales are in the form that the kernel wants, and
    `input_global_scale` is a multiplier, whichever way the file stores it. `grid_rows` [N]: in which row of a grid of
    scales those of a row of the weight stand, where that has to be looked up. `row_factor` [N], float32: what each row
    of the product is multiplied by in the end. `other`: the same weights as another backend of the package prepared
    them, for the calls that it computes faster. `replays`: what a backend notes of calls, to make them again.
    """

    weights: LinearWeights
    weight: torch.Tensor
    weight_scale: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    input_global_scale: torch.Tensor | None = None
    grid_rows: torch.Tensor | None = None
    row_factor: torch.Tensor | None = None
    other: Prepared | None = None
    replays: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)


class Backend(Protocol):
    """One way to compute x @ W.T + bias for a quantized W."""

    @property
    def name(self) -> str:
        """What `backend=` and reports call it."""
        ...

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """Whether a layer of this scheme and shape runs on this device. Pure."""
        ...

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """Get ready to compute. `previous` is what this backend prepared for the same layer: its buffers are refreshed
        in place and keep their addresses."""
        ...

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K], any number of leading axes, also empty ones, and bias [N] -> [..., N]."""
        ...


Provider = Callable[[Device], Sequence[Backend]]
"""A device -> the backends that a package has for it, fastest first. All of them, whether or not they run there."""


@cache
def providers() -> tuple[Provider, ...]:
    """What installed packages announce in the entry point group "fp8load.backends", by name; looked up once."""
    return tuple(provider for _, provider in announced("fp8load.backends"))


def backends_for(device: Device) -> list[Backend]:
    """Every installed backend, in the order in which they are asked, whether or not they run on this device."""
    return [backend for provider in providers() for backend in provider(device)]


def backends_named(names: Iterable[str], device: Device) -> list[Backend]:
    """The backends of these names, in the order of the names; other names are left out."""
    by_name = {backend.name: backend for backend in backends_for(device)}
    return [by_name[name] for name in names if name in by_name]
