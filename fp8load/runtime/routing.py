"""Rows of tokens sorted by expert, without asking the device for a number: who is where, and the sum back.

Shape letters: T tokens, k experts for each token, E experts of this rank, P rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """A row for each pair of a token and one of its experts on this rank; those of one expert stand together.

    expert     int32 [P]: whose row it is, by the expert's place on this rank; -1 for a row that is nobody's
    token      int32 [P]: the token that it is of; -1
    starts     int32 [E + 1]: the first row of each expert, a multiple of `alignment`, and behind the last
    ends       int32 [E]: behind the last row that is a pair
    position   int32 [T, k]: the row of each pair; P where the expert is of another rank
    alignment  rows of an expert begin at multiples of it: what products want that work on tiles of rows

    P follows from the numbers of pairs and experts alone, see `room_for`, so that nothing waits for the device.
    """

    expert: torch.Tensor
    token: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor
    position: torch.Tensor
    alignment: int

    @property
    def num_rows(self) -> int:
        """P."""
        return self.expert.shape[0]


def room_for(num_pairs: int, num_experts: int, alignment: int) -> int:
    """Rows that are enough for any routing: most are needed where as many experts as can be have one pair each."""
    experts = min(num_pairs, num_experts)
    return alignment * (experts + (num_pairs - experts) // alignment) if experts else 0


def route(ids_Tk: torch.Tensor, experts: range, alignment: int = 1) -> Routing:
    """Sort pairs by expert; those of one expert stay in the order of tokens. By torch's operations, on any device.

    ids_Tk are integers, experts as the checkpoint counts them; those outside `experts` get no row.
    """
    (num_tokens, k), device = ids_Tk.shape, ids_Tk.device
    num_pairs, num_experts = num_tokens * k, len(experts)
    room = room_for(num_pairs, num_experts, alignment)
    flat = ids_Tk.reshape(-1)
    mine = (flat >= experts.start) & (flat < experts.stop)
    key, order = torch.where(mine, flat - experts.start, num_experts).to(torch.int32).sort(stable=True)
    bounds = torch.searchsorted(key, torch.arange(num_experts + 1, dtype=torch.int32, device=device), out_int32=True)
    counts = bounds.diff()
    aligned = (counts + (alignment - 1)) // alignment * alignment
    starts = torch.nn.functional.pad(aligned.cumsum(0, dtype=torch.int32), (1, 0))
    within = torch.arange(num_pairs, dtype=torch.int32, device=device) - bounds[key]
    # Pairs of other ranks share one row behind the last, which is cut off.
    at = torch.where(key < num_experts, starts[key] + within, room).long()
    nobody = torch.full((2, room + 1), -1, dtype=torch.int32, device=device)
    expert = nobody[0].scatter_(0, at, key)[:room]
    token = nobody[1].scatter_(0, at, (order // max(k, 1)).to(torch.int32))[:room]
    position = torch.empty(num_pairs, dtype=torch.int32, device=device).scatter_(0, order, at.to(torch.int32))
    return Routing(
        expert=expert, token=token, starts=starts, ends=starts[:-1] + counts,
        position=position.view(num_tokens, k), alignment=alignment,
    )  # fmt: skip


def combined(y_PN: torch.Tensor, routing: Routing, weights_Tk: torch.Tensor) -> torch.Tensor:
    """float32 [T, N]: for each token the sum of its rows, each times its weight, one expert after the other.

    The order is the same in every run: nothing is added by several threads at once.
    """
    num_tokens, k = routing.position.shape
    total = torch.zeros(num_tokens, y_PN.shape[1], dtype=torch.float32, device=y_PN.device)
    if not routing.num_rows:
        return total
    for j in range(k):
        at = routing.position[:, j]
        row = y_PN[at.clamp(max=routing.num_rows - 1)].float() * weights_Tk[:, j, None]
        total += torch.where((at < routing.num_rows)[:, None], row, 0.0)
    return total
