"""Routed experts: their layers stacked in one parameter for each role, and the sum over the experts of a token.

Shape letters: E experts of this rank, N output rows, K input columns, H hidden size, I an expert's intermediate size,
T tokens, k experts for each token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch

from fp8load.boxes import Box
from fp8load.errors import Problem, UsageError
from fp8load.plan.plan import LayerSpec
from fp8load.runtime.backend import LinearWeights, Part, Prepared
from fp8load.runtime.dtypes import describe
from fp8load.runtime.scaled import ScaledLayer
from fp8load.runtime.seal import Sources, seal
from fp8load.runtime.typed import TypedParameter
from fp8load.scheme import LinearScheme, Role

REFERENCE = "reference"
"""The backend that runs experts where none is asked for."""


class ScaledLinearStack(ScaledLayer):
    """A linear layer for each of several experts, in one set of parameters: weight [E, N, K].

    Slots are "3.gate", "3.up": expert 3 as the checkpoint counts them. `weight_loader` takes an `expert_id`, or a
    tensor of all experts.
    """

    def __init__(
        self,
        params: Mapping[Role, TypedParameter],
        *,
        scheme: LinearScheme,
        experts: range,
        name: str = "",
        backend: str | None = None,
        sources: Sources | None = None,
    ) -> None:
        super().__init__(params, scheme=scheme, name=name, backend=backend or REFERENCE, sources=sources)
        self.experts = experts
        self._each: list[Prepared] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        """Logical (E, N, K) on this rank."""
        experts, num_rows, num_cols = self.weight.param_layout.shape
        return experts, num_rows, num_cols

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Logical (N, K) of one expert on this rank."""
        return self.shape[1:]

    @property
    def output_sizes(self) -> list[int]:
        """Output rows of each part of one expert, in fused order."""
        return [part.rows.stop - part.rows.start for part in self._weights_of(0).parts]

    def finalize(self) -> Self:
        """As `ScaledLinear.finalize`, for every expert."""
        state = self._now()
        if self._each and state == self._state:
            return self
        seal(self._typed(), self.sources)
        before: list[Prepared | None] = [*self._each] or [None] * len(self.experts)
        self._each = [self.backend.prepare(self._weights_of(at), before[at]) for at in range(len(self.experts))]
        self._state = state
        return self

    def dequantize(self) -> torch.Tensor:
        """The weights as float32 [E, N, K], parts in fused order. Raises `UnfilledSlotError`."""
        seal(self._typed(), self.sources)
        return torch.stack([self._weights_of(at).dequantize() for at in range(len(self.experts))])

    def forward(self, x: torch.Tensor, expert: int | None = None) -> torch.Tensor:
        """x [..., K] through one expert, by its number in the checkpoint -> [..., N]; without one, all: [E, ..., N].

        Raises `UsageError` USE801 for another K, or an expert that this rank does not hold.
        """
        num_cols = self.shape[2]
        fits = x.dim() > 0 and x.shape[-1] == num_cols and x.is_floating_point() and x.itemsize >= 2
        if not fits or (expert is not None and expert not in self.experts):
            raise UsageError(Problem(
                code="USE801", message="this input does not fit the layer", module=self.name,
                expected=f"[..., {num_cols}], BF16, F16 or F32, for one of the experts {self.experts}",
                got=f"{describe(x.dtype)} {list(x.shape)}, expert {expert}",
            ))  # fmt: skip
        if not self._each or self._now() != self._state:
            self.finalize()
        with torch.autocast(x.device.type, enabled=False):
            if expert is not None:
                return self._one(x, self.experts.index(expert))
            return torch.stack([self._one(x, at) for at in range(len(self.experts))])

    def _one(self, x: torch.Tensor, at: int) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.detach()[at]
        return self.backend.apply(self._each[at], x, bias)

    def _forgotten(self) -> dict[str, object]:
        return {"_choice": None, "_each": []}

    def _weights_of(self, at: int) -> LinearWeights:
        """The tensors of one expert, by its place on this rank."""
        scale = self.weight_scale
        sources = self.weight.param_layout.sources
        num_parts = len(sources) // len(self.experts)
        mine = slice(at * num_parts, (at + 1) * num_parts)
        scaled = (self.weight if scale is None else scale).param_layout.sources
        parts = tuple(
            Part(source.slot.partition(".")[2], _rows(source.dst), _rows(other.dst))
            for source, other in zip(sources[mine], scaled[mine], strict=True)
        )
        return LinearWeights(
            scheme=self.scheme,
            shape=self.shape[1:],
            parts=parts,
            weight=self.weight.detach()[at],
            weight_scale=_of(scale, at),
            weight_global_scale=_of(self.weight_global_scale, at),
            input_scale=_of(self.input_scale, at),
            input_global_scale=_of(self.input_global_scale, at),
        )


def _rows(box: Box) -> slice:
    return slice(box.lo[1], box.hi[1])


def _of(param: TypedParameter | None, at: int) -> torch.Tensor | None:
    return None if param is None else param.detach()[at]


class ExpertWeights(NamedTuple):
    """Dequantized: w13 [E, 2I, H], w2 [E, H, I]."""

    w13: torch.Tensor
    w2: torch.Tensor


class ScaledExperts(torch.nn.Module):
    """The routed experts of a layer that a rank holds: `w13` [E, 2I, H], gate and up fused, and `w2` [E, H, I].

    activation  what stands between them: "silu", "gelu" (tanh), "relu2" (without a gate); with the bound of gate and up
                "limited-silu:10.0" (DeepSeek-V4), "clamped-swiglu:7.0" (gpt-oss)
    experts     the numbers of the experts, as the checkpoint counts them
    """

    def __init__(self, w13: ScaledLinearStack, w2: ScaledLinearStack, *, activation: str, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.w13 = w13
        self.w2 = w2
        self.activation = activation

    @property
    def experts(self) -> range:
        """The experts of this rank."""
        return self.w13.experts

    @property
    def scheme(self) -> LinearScheme:
        """How w13 is stored; w2 may be stored in another way."""
        return self.w13.scheme

    @property
    def why(self) -> tuple[str, ...]:
        """Why the experts run as they do."""
        return self.w13.why

    def finalize(self) -> Self:
        """Refuse unfilled or poisoned slots, and prepare. A second call changes nothing."""
        self.w13.finalize()
        self.w2.finalize()
        return self

    def dequantize(self) -> ExpertWeights:
        """Both weights in float32. Raises `UnfilledSlotError`."""
        return ExpertWeights(self.w13.dequantize(), self.w2.dequantize())

    def forward(self, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
        """x [..., H] -> [..., H] in float32: for each token the sum over its experts, each times its weight.

        topk_weights [..., k] floats and topk_ids [..., k] integers, experts as the checkpoint counts them. Those of
        other ranks are left out: ranks add theirs up, and so they do with what a row-parallel w2 leaves partial.
        """
        hidden = x.reshape(-1, x.shape[-1])
        ids, weights = topk_ids.reshape(len(hidden), -1), topk_weights.reshape(len(hidden), -1).float()
        total = torch.zeros(hidden.shape, dtype=torch.float32, device=x.device)
        for expert in self.experts:
            tokens, ranks = (ids == expert).nonzero(as_tuple=True)
            if len(tokens):
                y = self.w2(self._between(self.w13(hidden[tokens], expert)), expert)
                total.index_add_(0, tokens, y.float() * weights[tokens, ranks, None])
        return total.reshape(x.shape)

    def _between(self, y: torch.Tensor) -> torch.Tensor:
        y = y.float()
        kind, _, limit = self.activation.partition(":")
        if kind == "relu2":
            return y.relu().square()
        gate, up = y.chunk(2, dim=-1)
        if limit:
            gate, up = gate.clamp(max=float(limit)), up.clamp(-float(limit), float(limit))
        match kind:
            case "silu" | "limited-silu":
                return torch.nn.functional.silu(gate) * up
            case "gelu":
                return torch.nn.functional.gelu(gate, approximate="tanh") * up
            case "clamped-swiglu":
                return gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (up + 1)
            case _:
                raise UsageError(Problem(
                    code="USE803", message="no such activation between the products of experts", module=self.name,
                    expected="silu, gelu, relu2, or with a limit behind a colon limited-silu or clamped-swiglu",
                    got=self.activation,
                ))  # fmt: skip


SWIGLU_ALPHA = 1.702
"""gpt-oss: gate * sigmoid(1.702 * gate) * (up + 1)."""


def experts_of(
    layers: Mapping[str, LayerSpec], params: Mapping[str, Mapping[Role, TypedParameter]], backend: str | None
) -> dict[str, ScaledExperts]:
    """The experts of a plan, by their module's name: every pair of layers "<module>.w13" and "<module>.w2"."""
    stacks = {
        name: ScaledLinearStack(params[name], scheme=spec.scheme, experts=spec.experts, name=name, backend=backend)
        for name, spec in layers.items()
        if spec.experts is not None
    }
    names = dict.fromkeys(name.rpartition(".")[0] for name in stacks)
    return {
        name: ScaledExperts(
            stacks[f"{name}.w13"], stacks[f"{name}.w2"], activation=layers[f"{name}.w13"].activation, name=name
        )
        for name in names
    }
