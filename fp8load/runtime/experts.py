"""Routed experts: their layers stacked in one parameter for each role, and the sum over the experts of a token.

Shape letters: E experts of this rank, N output rows, K input columns, H hidden size, I an expert's intermediate size,
T tokens, k experts for each token, P rows sorted by expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self, cast

import torch

from fp8load.boxes import Box
from fp8load.errors import Problem, UsageError
from fp8load.plan.plan import LayerSpec
from fp8load.runtime import ops
from fp8load.runtime.activation import Activation, parse_activation
from fp8load.runtime.backend import Part, device_of
from fp8load.runtime.choose import Asked, Choice, choose_grouped
from fp8load.runtime.dtypes import describe
from fp8load.runtime.grouped import GroupedBackend, GroupedPrepared, StackWeights
from fp8load.runtime.routing import Routing
from fp8load.runtime.scaled import ScaledLayer, data_of
from fp8load.runtime.seal import Sources, seal
from fp8load.runtime.typed import TypedParameter
from fp8load.scheme import LinearScheme, Role


class ScaledLinearStack(ScaledLayer):
    """A linear layer for each of several experts, in one set of parameters: weight [E, N, K].

    Slots are "3.gate", "3.up": expert 3 as the checkpoint counts them. `weight_loader` takes an `expert_id`, or a
    tensor of all experts.
    """

    _choice: Choice[GroupedBackend] | None = None
    _prepared: GroupedPrepared | None = None

    def __init__(
        self,
        params: Mapping[Role, TypedParameter],
        *,
        scheme: LinearScheme,
        experts: range,
        name: str = "",
        backend: Asked = None,
        sources: Sources | None = None,
    ) -> None:
        super().__init__(params, scheme=scheme, name=name, backend=backend, sources=sources)
        self.experts = experts

    @property
    def backend(self) -> GroupedBackend:
        """The backend that runs these layers. Raises `BackendError` BKD801, or `UsageError` BKD800 for a name."""
        return self._chosen().backend

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
        return [part.rows.stop - part.rows.start for part in self._weights().parts]

    def dequantize(self) -> torch.Tensor:
        """The weights as float32 [E, N, K], parts in fused order. Raises `UnfilledSlotError`."""
        seal(self.typed(), self.sources)
        weights = self._weights()
        return torch.stack([weights.expert(at).dequantize() for at in range(len(self.experts))])

    def forward(self, x: torch.Tensor, expert: int | None = None) -> torch.Tensor:
        """x [..., K] through one expert, by its number in the checkpoint -> [..., N]; without one, all: [E, ..., N].

        Raises `UsageError` USE801 for another K, or an expert that this rank does not hold.
        """
        self._check(x, expert)
        tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        every = torch.arange(self.experts.start, self.experts.stop, device=x.device)
        ids = every if expert is None else every[expert - self.experts.start, None]
        ids = ids.expand(len(tokens), -1)
        alignment = self.backend.alignment(ids.numel(), self.shape)
        routing = self.backend.route(ids, self.experts, alignment)
        y = self.rows(tokens, routing)[routing.position.t()]
        return (y if expert is None else y[0]).reshape(
            *(y.shape[:1] if expert is None else ()), *x.shape[:-1], y.shape[-1]
        )

    def rows(self, x: torch.Tensor, routing: Routing, activation: Activation | None = None) -> torch.Tensor:
        """Rows [P, N] sorted by expert, of tokens x [T, K] or, with an activation, of rows; see `GroupedBackend`."""
        if activation is None:
            self._check(x, None)
        if self._prepared is None or self._now() != self._state:
            self.finalize()
        prepared = self._prepared
        if prepared is None:
            raise AssertionError("finalize prepares or raises")
        bias = None if self.bias is None else self.bias.detach()
        with torch.autocast(x.device.type, enabled=False):
            return self.backend.apply(prepared, x, routing, bias, activation)

    def _check(self, x: torch.Tensor, expert: int | None) -> None:
        num_cols = self.shape[2]
        fits = x.dim() > 0 and x.shape[-1] == num_cols and x.is_floating_point() and x.itemsize >= 2
        if not fits or (expert is not None and expert not in self.experts):
            raise UsageError(Problem(
                code="USE801", message="this input does not fit the layer", module=self.name,
                expected=f"[..., {num_cols}], BF16, F16 or F32, for one of the experts {self.experts}",
                got=f"{describe(x.dtype)} {list(x.shape)}, expert {expert}",
            ))  # fmt: skip

    def _chosen(self) -> Choice[GroupedBackend]:
        if self._choice is None:
            device = device_of(self.weight.device)
            self._choice = choose_grouped(self.scheme, self.shape, device, forced=self._forced, layer=self.name)
        return self._choice

    def _prepare(self) -> None:
        self._prepared = self.backend.prepare(self._weights(), self._prepared)

    def _forgotten(self) -> dict[str, object]:
        return {"_choice": None, "_prepared": None}

    def _weights(self) -> StackWeights:
        scale = self.weight_scale
        sources = self.weight.param_layout.sources
        num_parts = len(sources) // len(self.experts)
        scaled = (self.weight if scale is None else scale).param_layout.sources
        parts = tuple(
            Part(source.slot.partition(".")[2], _rows(source.dst), _rows(other.dst))
            for source, other in zip(sources[:num_parts], scaled[:num_parts], strict=True)
        )
        return StackWeights(
            scheme=self.scheme,
            shape=self.shape,
            parts=parts,
            weight=self.weight.detach(),
            weight_scale=data_of(scale),
            weight_global_scale=data_of(self.weight_global_scale),
            input_scale=data_of(self.input_scale),
            input_global_scale=data_of(self.input_global_scale),
        )


def _rows(box: Box) -> slice:
    return slice(box.lo[1], box.hi[1])


def with_gradient(x: torch.Tensor, y: torch.Tensor, name: str) -> torch.Tensor:
    """The result `y` of an input, unless a gradient that the input wants would be lost in it without a word.

    Raises `UsageError` USE804: grouped products and kernels have no backward pass.
    """
    if x.requires_grad and torch.is_grad_enabled() and y.numel() and not y.requires_grad:
        raise UsageError(Problem(
            code="USE804", message="these experts pass no gradient on", module=name,
            expected="an input that wants none", got="an input with requires_grad",
            hint='call them under torch.no_grad(), or load them with backend="reference"',
        ))  # fmt: skip
    return y


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
        self._number = ops.enroll(self)

    def __setstate__(self, state: dict[str, object]) -> None:
        """A copy is a layer of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._number = ops.enroll(self)

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
        Between the products rows have x's dtype (float32 with backend="reference"); the activation and the sum are
        computed in float32. A grouped backend quantizes inputs as the scheme says, or says in `why` that it does not,
        and waits for nothing on the device; "reference", which runs where none does, computes weight-only and asks the
        device who has tokens.
        Raises `UsageError` USE801, USE803.
        """
        if torch.compiler.is_compiling():
            return cast(torch.Tensor, ops.experts(x, topk_weights, topk_ids, self._number))
        return with_gradient(x, self.run(x, topk_weights, topk_ids), self.name)

    def run(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """`forward` where it is not compiled."""
        topk_weights, topk_ids = others
        activation = parse_activation(self.activation, self.name)
        hidden = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        hidden = hidden.float() if hidden.dtype == torch.float64 else hidden  # no backend computes in more
        ids, weights = self._per_token(topk_ids, topk_weights, len(hidden))
        up, down = self.w13.backend, self.w2.backend
        alignment = max(stack.backend.alignment(ids.numel(), stack.shape) for stack in (self.w13, self.w2))
        routing = up.route(ids, self.experts, alignment)
        y = self.w2.rows(self.w13.rows(hidden, routing), routing, activation)
        return down.combine(y, routing, weights).reshape(x.shape)

    def pull_back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Experts pass no gradient on."""
        raise NotImplementedError(f"{self.name}: experts pass no gradient on")

    def _per_token(
        self, ids: torch.Tensor, weights: torch.Tensor, num_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both [..., k] as [T, k]. Raises `UsageError` USE801."""
        k = ids.numel() // num_tokens if num_tokens else ids.shape[-1]
        if ids.numel() != num_tokens * k or weights.numel() != ids.numel():
            raise UsageError(Problem(
                code="USE801", message="this routing does not fit the input", module=self.name,
                expected=f"[..., k] each, for {num_tokens} tokens",
                got=f"topk_weights {list(weights.shape)}, topk_ids {list(ids.shape)}",
            ))  # fmt: skip
        return ids.reshape(num_tokens, k), weights.reshape(num_tokens, k).float()


def experts_of(
    layers: Mapping[str, LayerSpec], params: Mapping[str, Mapping[Role, TypedParameter]], backend: Asked
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
