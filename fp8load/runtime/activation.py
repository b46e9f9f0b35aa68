"""What stands between the two products of experts, as a value and by torch's operations."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fp8load.errors import Problem, UsageError

SWIGLU_ALPHA = 1.702
"""gpt-oss: gate * sigmoid(1.702 * gate) * (up + 1)."""

KINDS = ("silu", "gelu", "relu2", "limited-silu", "clamped-swiglu")


class Activation(NamedTuple):
    """`kind` is one of `KINDS`; `limit` bounds gate from above and up on both sides, where there is one."""

    kind: str
    limit: float | None = None

    @property
    def gated(self) -> bool:
        """Whether rows are [gate; up], twice as long as what comes out; else all of a row is activated."""
        return self.kind != "relu2"


def parse_activation(text: str, module: str = "") -> Activation:
    """ "silu", "gelu" (tanh), "relu2"; with a limit "limited-silu:10.0" or "clamped-swiglu:7.0".

    Raises `UsageError` USE803 for another one.
    """
    kind, _, limit = text.partition(":")
    if kind not in KINDS:
        raise UsageError(Problem(
            code="USE803", message="no such activation between the products of experts", module=module,
            expected="silu, gelu, relu2, or with a limit behind a colon limited-silu or clamped-swiglu", got=text,
        ))  # fmt: skip
    return Activation(kind, float(limit) if limit else None)


def activated(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    """y [..., 2I], gate and up (or [..., I] without a gate) -> [..., I], float32 and computed in it."""
    y = y.float()
    if not activation.gated:
        return y.relu().square()
    gate, up = y.chunk(2, dim=-1)
    if activation.limit is not None:
        gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
    match activation.kind:
        case "gelu":
            return torch.nn.functional.gelu(gate, approximate="tanh") * up
        case "clamped-swiglu":
            return gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (up + 1)
        case _:
            return torch.nn.functional.silu(gate) * up
