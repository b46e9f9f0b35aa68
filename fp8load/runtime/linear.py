"""A quantized linear layer: typed parameters, the backend that runs them, and the product.

Shape letters: N output rows of this rank, K input columns of this rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from fp8load.errors import Problem, UsageError
from fp8load.plan.plan import LayerSpec
from fp8load.runtime.backend import Backend, LinearWeights, Part, Prepared, device_of
from fp8load.runtime.choose import REFERENCE, Asked, Choice, choose
from fp8load.runtime.dtypes import describe
from fp8load.runtime.ops import enroll, linear
from fp8load.runtime.scaled import ScaledLayer, data_of
from fp8load.runtime.seal import Sources, seal
from fp8load.runtime.typed import TypedParameter
from fp8load.scheme import LinearScheme, Role


class ScaledLinear(ScaledLayer):
    """y = x @ dequantize(weight).T + bias, for x [..., K] -> [..., N].

    Empty until its parameters are filled, by a plan or through each parameter's `weight_loader`. `finalize()` then
    refuses what is missing and prepares the backend; a forward does so by itself where something was written since.
    A row-parallel layer gives this rank's partial sum: adding up over ranks is the caller's.

    weight [N, K], weight_scale, weight_global_scale, input_scale, input_global_scale, bias [N]: None where absent
    pre_quant_scale [parts, K], low_rank_a [parts * r, K], low_rank_b [N, r]: likewise
    scheme    how it is stored, and how its input is quantized
    sources   (parameter, slot) -> tensor on disk, for messages; empty without a plan
    """

    _choice: Choice[Backend] | None = None
    _prepared: Prepared | None = None

    def __init__(
        self,
        params: Mapping[Role, TypedParameter],
        *,
        scheme: LinearScheme,
        name: str = "",
        backend: Asked = None,
        sources: Sources | None = None,
    ) -> None:
        super().__init__(params, scheme=scheme, name=name, backend=backend, sources=sources)
        self._enroll()

    def _enroll(self) -> None:
        """Numbers alone are what a compiler looks at."""
        self._number, self._num_rows, self._float32 = enroll(self), self.shape[0], self._forced == (REFERENCE,)

    def __setstate__(self, state: dict[str, object]) -> None:
        """A copy is a layer of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._enroll()

    @classmethod
    def from_spec(
        cls,
        spec: LayerSpec,
        params: Mapping[Role, TypedParameter],
        *,
        backend: Asked = None,
        sources: Sources | None = None,
    ) -> ScaledLinear:
        """The layer of a plan around parameters that were made for it, filled or not.

        A row-parallel layer's bias belongs into `params` of one rank only. A backend that was asked for is chosen now:
        raises `BackendError` BKD801 where it cannot run, `UsageError` BKD800 where there is none of this name.
        """
        layer = ScaledLinear(params, scheme=spec.scheme, name=spec.name, backend=backend, sources=sources)
        if layer._forced:
            layer._chosen()
        return layer

    @property
    def backend(self) -> Backend:
        """The backend that runs this layer. Raises `BackendError` BKD801, or `UsageError` BKD800 for a name."""
        return self._chosen().backend

    @property
    def shape(self) -> tuple[int, int]:
        """Logical (N, K) on this rank."""
        num_rows, num_cols = self.weight.param_layout.shape
        return num_rows, num_cols

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Logical (N, K) on this rank."""
        return self.shape

    @property
    def output_sizes(self) -> list[int]:
        """Output rows of each part on this rank, in fused order: what `y.split(sizes, dim=-1)` takes."""
        return [rows.stop - rows.start for rows in self.weight.slot_rows]

    def dequantize(self) -> torch.Tensor:
        """The weight as float32 [N, K], logical size, parts in fused order, as it acts on an input that was not scaled.

        Raises `UnfilledSlotError`.
        """
        seal(self.typed(), self.sources)
        return self._weights().dequantize()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., K], any number of leading axes, also empty ones -> [..., N].

        The dtype is x's, except with backend="reference": float32. A gradient of x passes through the dequantized
        weight, as if nothing were rounded. `torch.compile` sees one operator, which finds this layer again: weights
        that are loaded later are used. Raises `UsageError` USE801 for another K or a dtype that is no float of 16 bits
        or more, and what `finalize` raises.
        """
        if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
            return cast(torch.Tensor, linear(x, self._number, self._num_rows, self._float32))
        return self.run(x)

    def run(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """`forward` without a gradient, where it is not compiled."""
        del others
        num_cols = self.shape[1]
        if x.dim() == 0 or x.shape[-1] != num_cols or not x.is_floating_point() or x.itemsize < 2:
            raise UsageError(Problem(
                code="USE801", message="this input does not fit the layer", module=self.name,
                expected=f"[..., {num_cols}], BF16, F16 or F32", got=f"{describe(x.dtype)} {list(x.shape)}",
            ))  # fmt: skip
        if x.dtype == torch.float64:  # computed in float32 by every backend, and by kernels in nothing wider
            y = self.run(x.float())
            return y if self._float32 else y.double()
        if self._prepared is None or self._now() != self._state:
            self.finalize()
        prepared = self._prepared
        if prepared is None:
            raise AssertionError("finalize prepares or raises")
        bias = None if self.bias is None else self.bias.detach()
        if not torch.is_autocast_enabled(x.device.type):
            y = self.backend.apply(prepared, x, bias)
        else:
            with torch.autocast(x.device.type, enabled=False):  # it would compute in 16 bits what is promised in 32
                y = self.backend.apply(prepared, x, bias)
        return y if self._float32 else y.to(x.dtype)  # `reference`, where it was not asked for, gives float32

    def pull_back(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of x [..., K], float32, from that of the result [..., N]: gradient @ dequantized weight."""
        return gradient.float() @ self._weights().dequantize()

    def _chosen(self) -> Choice[Backend]:
        if self._choice is None:
            device = device_of(self.weight.device)
            self._choice = choose(self.scheme, self.matrix_shape, device, forced=self._forced, layer=self.name)
        return self._choice

    def _prepare(self) -> None:
        self._prepared = self.backend.prepare(self._weights(), self._prepared)

    def _forgotten(self) -> dict[str, object]:
        return {"_choice": None, "_prepared": None}

    def _weights(self) -> LinearWeights:
        scale = self.weight_scale
        places = zip(self.weight.slot_rows, (self.weight if scale is None else scale).slot_rows, strict=True)
        slots = [source.slot for source in self.weight.param_layout.sources]
        return LinearWeights(
            scheme=self.scheme,
            shape=self.shape,
            parts=tuple(Part(slot, *rows) for slot, rows in zip(slots, places, strict=True)),
            weight=self.weight.detach(),
            weight_scale=data_of(scale),
            weight_global_scale=data_of(self.weight_global_scale),
            input_scale=data_of(self.input_scale),
            input_global_scale=data_of(self.input_global_scale),
            pre_quant_scale=data_of(self.pre_quant_scale),
            low_rank_a=data_of(self.low_rank_a),
            low_rank_b=data_of(self.low_rank_b),
        )
