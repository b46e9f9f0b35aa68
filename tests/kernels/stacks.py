"""Stacks of experts for laws about grouped backends: random tensors through `weight_loader`, and routings."""

from __future__ import annotations

import torch

from fp8load.runtime.experts import ScaledLinearStack
from fp8load.runtime.layers import FusedExperts
from fp8load.scheme import LinearScheme, Role
from waiting import no_waiting

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def refill(stack: ScaledLinearStack, seed: int) -> None:
    """Every slot through its weight_loader."""
    rng = torch.Generator().manual_seed(seed)
    for param in stack.parameters():
        for source in param.param_layout.sources:
            number, _, slot = source.slot.partition(".")
            values = torch.rand(source.shape, generator=rng) / 50 + 0.005
            if param.param_layout.role is Role.WEIGHT and param.dtype in (torch.uint8, torch.int8):
                width = source.shape[1] // (2 if param.dtype == torch.uint8 else 1)
                values = (
                    torch.randint(-128, 128, (source.shape[0], width), generator=rng).to(torch.int8).view(param.dtype)
                )
            elif param.param_layout.role in (Role.WEIGHT, Role.BIAS):
                values = torch.randn(source.shape, generator=rng)
            elif param.dtype == torch.uint8:  # the bytes of E8M0
                values = torch.randint(119, 124, source.shape, generator=rng)
            elif param.dtype == torch.float8_e8m0fnu:
                values = torch.exp2(torch.randint(-8, -3, source.shape, generator=rng).float())
            param.weight_loader(param, values.to(param.dtype), slot, expert_id=int(number))


def filled(
    layer: LinearScheme, *, hidden: int = 256, inner: int = 192, backend: str | None = "anywhere",
    device: str = DEVICE, seed: int = 0, num_experts: int = 4, **options: object,
) -> FusedExperts:  # fmt: skip
    made = FusedExperts(
        num_experts, hidden, inner, scheme=layer, name="experts", backend=backend, device=device, **options
    )
    for stack in (made.w13, made.w2):
        refill(stack, seed)
    return made.finalize()


def routed(num_tokens: int, kind: str, num_experts: int = 4, k: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(num_tokens)
    ids = torch.rand(num_tokens, num_experts, generator=rng).argsort(dim=1)[:, :k]
    if kind == "one expert":
        ids = torch.full_like(ids, 1)
    elif kind == "some without":
        ids = ids.clamp(max=1)
    return torch.rand(num_tokens, k, generator=rng).to(DEVICE), ids.to(DEVICE)


def assert_rows_close(rows: torch.Tensor, reference: torch.Tensor, limit: float) -> None:
    error = (rows.double() - reference).norm(dim=1) / reference.norm(dim=1).clamp_min(1e-30)
    assert error.max() < limit


def assert_a_graph_survives_a_reload(made: FusedExperts, again: FusedExperts, x: torch.Tensor, seed: int) -> None:
    """On a GPU nothing waits for the device, and a captured graph computes with weights that were loaded since, which
    are those of `again`, made with the seed."""
    share, ids = routed(len(x), "any", 16, 4)
    made(x, share, ids)  # compiles
    torch.cuda.synchronize()
    with no_waiting():
        made(x, share, ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = made(x, share, ids)

    for stack in (made.w13, made.w2):
        refill(stack, seed=seed)
    made.finalize()
    ids.copy_(routed(len(x), "some without", 16, 4)[1])
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()

    assert torch.equal(y, again(x, share, ids))
