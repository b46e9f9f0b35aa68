"""The seam between stacks of experts and kernels: products of rows that are sorted by expert.

Like `fp8load.runtime.backend`, whose backends run one layer. Providers of grouped backends are announced in the entry
point group "fp8load.grouped_backends". What none of them takes runs one expert after the other, by a backend of layers.

Shape letters: E experts of this rank, N output rows, K input columns, T tokens, k experts for each token, P rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch

from fp8load.plugins import announced
from fp8load.runtime.activation import Activation, activated
from fp8load.runtime.backend import Backend, Device, LinearWeights, Part, Prepared, Verdict
from fp8load.runtime.dequantize import decode_scale
from fp8load.runtime.routing import Routing, combined, route
from fp8load.scheme import LinearScheme


@dataclass(frozen=True, slots=True, kw_only=True)
class StackWeights:
    """The loaded tensors of a stack, sharing the parameters' memory: those of `LinearWeights` with the expert first.

    parts  of one expert; all are alike
    shape  logical (E, N, K)
    """

    scheme: LinearScheme
    shape: tuple[int, int, int]
    parts: tuple[Part, ...]
    weight: torch.Tensor
    weight_scale: torch.Tensor | None = None
    weight_global_scale: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    input_global_scale: torch.Tensor | None = None

    def expert(self, at: int) -> LinearWeights:
        """The tensors of one expert, by its place on this rank."""
        return LinearWeights(
            scheme=self.scheme,
            shape=self.shape[1:],
            parts=self.parts,
            weight=self.weight[at],
            weight_scale=_of(self.weight_scale, at),
            weight_global_scale=_of(self.weight_global_scale, at),
            input_scale=_of(self.input_scale, at),
            input_global_scale=_of(self.input_global_scale, at),
        )

    def scale_values(self) -> torch.Tensor:
        """The weight's scale as float32 numbers, same shape: itself where it is stored so, exponents decoded.

        Raises `ValueError` where there is none.
        """
        if self.weight_scale is None:
            raise ValueError("the weight has no scale")
        if self.weight_scale.dtype == torch.float32:
            return self.weight_scale
        return decode_scale(self.weight_scale, self.scheme.weight.scale_dtype)


def _of(stack: torch.Tensor | None, at: int) -> torch.Tensor | None:
    return None if stack is None else stack[at]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedPrepared:
    """What a grouped backend computes with; as `Prepared`, with the expert first.

    input_scale  [E], float32: the static input scale of each expert
    grid_rows    [N], int32: in which row of an expert's grid of scales those of a row of its weight stand
    row_factor   [E, N], float32: what each row of an expert's product is multiplied by in the end
    each         what a backend of layers prepared for each expert
    """

    weights: StackWeights
    weight: torch.Tensor
    weight_scale: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    grid_rows: torch.Tensor | None = None
    row_factor: torch.Tensor | None = None
    each: tuple[Prepared, ...] = ()


class GroupedBackend(Protocol):
    """One way to compute x @ W[expert].T + bias[expert] for rows that are sorted by expert.

    Nothing in `route`, `apply` and `combine` may wait for the device, so that a CUDA graph can hold all of it.
    """

    @property
    def name(self) -> str:
        """What `backend=` and reports call it."""
        ...

    def supports(self, scheme: LinearScheme, shape_ENK: tuple[int, int, int], device: Device) -> Verdict:
        """Whether a stack of this scheme and shape runs on this device. Pure."""
        ...

    def prepare(self, weights: StackWeights, previous: GroupedPrepared | None = None) -> GroupedPrepared:
        """Get ready to compute. `previous` is what this backend prepared for the same stack: its buffers are refreshed
        in place and keep their addresses."""
        ...

    def alignment(self, num_pairs: int, shape_ENK: tuple[int, int, int]) -> int:
        """A power of two: the rows of each expert shall begin at multiples of it. A multiple of it has to do too, since
        w2 takes the rows as w13 left them."""
        ...

    def route(self, ids_Tk: torch.Tensor, experts: range, alignment: int) -> Routing:
        """As `fp8load.runtime.routing.route`."""
        ...

    def apply(
        self,
        prepared: GroupedPrepared,
        x: torch.Tensor,
        routing: Routing,
        bias: torch.Tensor | None = None,
        activation: Activation | None = None,
    ) -> torch.Tensor:
        """Rows [P, N] where `routing` has them; what is in the rows of nobody does not matter, and is never read.

        Without an activation x is [T, K], a row for each token, and the rows are fetched from it. With one x is what
        the product before gave, [P, 2K] (or [P, K] without a gate), whose rows are activated in float32 and rounded to
        x's dtype first. bias [E, N].
        """
        ...

    def combine(self, y_PN: torch.Tensor, routing: Routing, weights_Tk: torch.Tensor) -> torch.Tensor:
        """As `fp8load.runtime.routing.combined`."""
        ...


class OneByOne:
    """A backend of layers, for one expert after the other: any device and scheme; it asks the device who has rows."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def name(self) -> str:
        """That of the backend of layers."""
        return self.backend.name

    def supports(self, scheme: LinearScheme, shape_ENK: tuple[int, int, int], device: Device) -> Verdict:
        """Whether the backend runs the layer of one expert."""
        return self.backend.supports(scheme, shape_ENK[1:], device)

    def prepare(self, weights: StackWeights, previous: GroupedPrepared | None = None) -> GroupedPrepared:
        """Each expert by itself."""
        before = previous.each if previous is not None else (None,) * weights.shape[0]
        each = tuple(self.backend.prepare(weights.expert(at), old) for at, old in enumerate(before))
        return GroupedPrepared(weights=weights, weight=weights.weight, each=each)

    def alignment(self, num_pairs: int, shape_ENK: tuple[int, int, int]) -> int:
        """Any."""
        del num_pairs, shape_ENK
        return 1

    def route(self, ids_Tk: torch.Tensor, experts: range, alignment: int) -> Routing:
        """By torch's operations."""
        return route(ids_Tk, experts, alignment)

    def apply(
        self,
        prepared: GroupedPrepared,
        x: torch.Tensor,
        routing: Routing,
        bias: torch.Tensor | None = None,
        activation: Activation | None = None,
    ) -> torch.Tensor:
        """In the dtype that the backend gives; rows of nobody are zeros."""
        y: torch.Tensor | None = None
        for at, (begin, end) in enumerate(zip(routing.starts.tolist(), routing.ends.tolist(), strict=False)):
            if begin == end:
                continue
            if activation is None:
                rows = x[routing.token[begin:end]]
            else:
                rows = activated(x[begin:end], activation).to(x.dtype)
            found = self.backend.apply(prepared.each[at], rows, None if bias is None else bias[at])
            if y is None:
                y = found.new_zeros(routing.num_rows, found.shape[1])
            y[begin:end] = found
        return x.new_zeros(routing.num_rows, prepared.weights.shape[1]) if y is None else y

    def combine(self, y_PN: torch.Tensor, routing: Routing, weights_Tk: torch.Tensor) -> torch.Tensor:
        """By torch's operations."""
        return combined(y_PN, routing, weights_Tk)


GroupedProvider = Callable[[Device], Sequence[GroupedBackend]]
"""A device -> the grouped backends that a package has for it, fastest first. All of them, whether or not they run."""


@cache
def grouped_providers() -> tuple[GroupedProvider, ...]:
    """What installed packages announce in "fp8load.grouped_backends", by name; looked up once."""
    return tuple(provider for _, provider in announced("fp8load.grouped_backends"))


def grouped_for(device: Device) -> list[GroupedBackend]:
    """Every installed grouped backend, in the order in which they are asked, whether or not they run on this device."""
    return [backend for provider in grouped_providers() for backend in provider(device)]


def grouped_named(names: Iterable[str], device: Device) -> list[GroupedBackend]:
    """The grouped backends of these names, in the order of the names; other names are left out."""
    by_name = {backend.name: backend for backend in grouped_for(device)}
    return [by_name[name] for name in names if name in by_name]
