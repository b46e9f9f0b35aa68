"""Rows sorted by expert on GPUs, in Triton: one launch to sort few pairs (four: many), one to fetch rows, one to sum.

As `fp8load.runtime.routing` says it and to the bit, but for the sums, whose products may be fused with the additions.

Shape letters: T tokens, k experts for each token, E experts of this rank, P rows, K columns, G groups of columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fp8load.runtime.routing import Routing, room_for
from fp8load.runtime.routing import route as torch_route
from fp8load_kernels.gpu.launch import constants, kernel

FEW_PAIRS = 1 << 9
"""Pairs that one program sorts, chunk after chunk; of more, each chunk is a program's."""

MOST_PAIRS, MOST_EXPERTS = 1 << 19, 1 << 9
"""More are sorted by torch's operations."""

CHUNK = 64
"""Pairs that are compared with all experts at once."""

FILL = 1 << 11
SCAN = 1 << 13
"""Counts, of chunks and experts, that a program sums up."""


def route(ids_Tk: torch.Tensor, experts: range, alignment: int = 1) -> Routing:
    """`fp8load.runtime.routing.route`; in one launch where pairs are few, in four where they are many."""
    num_pairs, num_experts = ids_Tk.numel(), len(experts)
    if not 0 < num_pairs <= MOST_PAIRS or num_experts > MOST_EXPERTS:
        return torch_route(ids_Tk, experts, alignment)
    room = room_for(num_pairs, num_experts, alignment)
    numbers = torch.empty(2 * room + 2 * num_experts + 1 + num_pairs, dtype=torch.int32, device=ids_Tk.device)
    expert, token, starts, ends, position = numbers.split([room, room, num_experts + 1, num_experts, num_pairs])
    ids = ids_Tk.contiguous()
    found = (expert, token, starts, ends, position)
    numbers_of = (num_pairs, ids_Tk.shape[1], room, experts.start, num_experts)
    sizes = {"ALIGNMENT": alignment, "EXPERTS": triton.next_power_of_2(num_experts), "CHUNK": CHUNK}
    # Powers of two, so that there are few kernels to compile.
    chunks = triton.next_power_of_2(triton.cdiv(num_pairs, CHUNK))
    if num_pairs <= FEW_PAIRS:
        fills = triton.next_power_of_2(triton.cdiv(room, FILL))
        _route(
            (1, 1, 1), (ids, *found), numbers_of, constants(**sizes, FILL=FILL, CHUNKS=chunks, FILLS=fills, num_warps=8)
        )
    else:
        numbers[: 2 * room].fill_(-1)
        counts = torch.empty(chunks + 1, num_experts, dtype=torch.int32, device=ids.device)
        together = SCAN // chunks if chunks < SCAN else 1
        _count(
            (chunks, 1, 1), (ids, counts), (num_pairs, experts.start, num_experts),
            constants(EXPERTS=sizes["EXPERTS"], CHUNK=CHUNK, num_warps=8),
        )  # fmt: skip
        _scan(
            (triton.cdiv(num_experts, together), 1, 1), (counts,), (num_experts,),
            constants(CHUNKS=chunks, TOGETHER=together, num_warps=8),
        )  # fmt: skip
        _place((chunks, 1, 1), (ids, counts, *found), numbers_of, constants(**sizes, CHUNKS=chunks, num_warps=8))
    return Routing(
        expert=expert, token=token, starts=starts, ends=ends, position=position.view(ids_Tk.shape), alignment=alignment
    )


def combine(y_PN: torch.Tensor, routing: Routing, weights_Tk: torch.Tensor) -> torch.Tensor:
    """`fp8load.runtime.routing.combined`, in one launch."""
    (num_tokens, k), num_cols = routing.position.shape, y_PN.shape[1]
    total = torch.empty(num_tokens, num_cols, dtype=torch.float32, device=y_PN.device)
    if total.numel():
        block = min(1024, triton.next_power_of_2(num_cols))
        _combine(
            (num_tokens, triton.cdiv(num_cols, block), 1),
            (y_PN, routing.position, weights_Tk.contiguous(), total),
            (y_PN.stride(0), routing.num_rows, num_cols),
            constants(NUM=k, BLOCK=block, num_warps=4),
        )  # fmt: skip
    return total


def fetch(
    codes_TK: torch.Tensor, scale_TG: torch.Tensor, routing: Routing, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of tokens as rows [P, K], their scales written into `scale` [P, G], any strides; rows of nobody are not."""
    num_cols = codes_TK.shape[1]
    codes = torch.empty(routing.num_rows, num_cols, dtype=codes_TK.dtype, device=codes_TK.device)
    if codes.numel():
        block, groups = min(4096, triton.next_power_of_2(num_cols)), scale_TG.shape[1]
        _fetch(
            (routing.num_rows, triton.cdiv(num_cols, block), 1),
            (codes_TK.view(torch.uint8), codes.view(torch.uint8), scale_TG, scale, routing.token),
            (codes_TK.stride(0), *scale_TG.stride(), *scale.stride(), num_cols, groups),
            constants(BLOCK=block, GROUPS=triton.next_power_of_2(groups), num_warps=4),
        )  # fmt: skip
    return codes, scale


@kernel
def _route(
    ids_ptr, expert_ptr, token_ptr, starts_ptr, ends_ptr, position_ptr, num_pairs, k, room, first, num_experts,
    ALIGNMENT: tl.constexpr, EXPERTS: tl.constexpr, CHUNK: tl.constexpr, FILL: tl.constexpr, CHUNKS: tl.constexpr,
    FILLS: tl.constexpr,
):  # fmt: skip
    each = tl.arange(0, EXPERTS)
    lane = tl.arange(0, CHUNK)
    counts = tl.zeros([EXPERTS], dtype=tl.int32)
    for chunk in range(CHUNKS):
        pair = chunk * CHUNK + lane
        ids = tl.load(ids_ptr + pair, mask=pair < num_pairs, other=-1)
        counts += tl.sum(_held(ids, first, num_experts, each), axis=0)
    aligned = (counts + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    starts = tl.cumsum(aligned, axis=0) - aligned
    _store_bounds(starts_ptr, ends_ptr, starts, counts, aligned, each, num_experts)
    nobody = tl.zeros([FILL], dtype=tl.int32) - 1
    for fill in range(FILLS):
        row = fill * FILL + tl.arange(0, FILL)
        tl.store(expert_ptr + row, nobody, mask=row < room)
        tl.store(token_ptr + row, nobody, mask=row < room)
    tl.debug_barrier()  # a row's thread above is another one below
    next_row = starts
    for chunk in range(CHUNKS):
        pair = chunk * CHUNK + lane
        ids = tl.load(ids_ptr + pair, mask=pair < num_pairs, other=-1)
        held = _held(ids, first, num_experts, each)
        _store_rows(expert_ptr, token_ptr, position_ptr, held, next_row, ids - first, pair, num_pairs, k, room)
        next_row += tl.sum(held, axis=0)


@kernel
def _count(ids_ptr, counts_ptr, num_pairs, first, num_experts, EXPERTS: tl.constexpr, CHUNK: tl.constexpr):
    each, pair = tl.arange(0, EXPERTS), tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    ids = tl.load(ids_ptr + pair, mask=pair < num_pairs, other=-1)
    counts = tl.sum(_held(ids, first, num_experts, each), axis=0)
    tl.store(counts_ptr + tl.program_id(0) * num_experts + each, counts, mask=each < num_experts)


@kernel
def _scan(counts_ptr, num_experts, CHUNKS: tl.constexpr, TOGETHER: tl.constexpr):
    """Counts of chunks as what comes before each, and behind the last what there is in all."""
    chunk, each = tl.arange(0, CHUNKS), tl.program_id(0) * TOGETHER + tl.arange(0, TOGETHER)
    at = counts_ptr + chunk[:, None] * num_experts + each[None, :]
    mask = (each < num_experts)[None, :] & (chunk >= 0)[:, None]
    counts = tl.load(at, mask=mask, other=0)
    tl.store(at, tl.cumsum(counts, axis=0) - counts, mask=mask)
    tl.store(counts_ptr + CHUNKS * num_experts + each, tl.sum(counts, axis=0), mask=each < num_experts)


@kernel
def _place(
    ids_ptr, counts_ptr, expert_ptr, token_ptr, starts_ptr, ends_ptr, position_ptr, num_pairs, k, room, first,
    num_experts, ALIGNMENT: tl.constexpr, EXPERTS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    each, pair = tl.arange(0, EXPERTS), tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    counts = tl.load(counts_ptr + CHUNKS * num_experts + each, mask=each < num_experts, other=0)
    before = tl.load(counts_ptr + tl.program_id(0) * num_experts + each, mask=each < num_experts, other=0)
    aligned = (counts + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    starts = tl.cumsum(aligned, axis=0) - aligned
    if tl.program_id(0) == 0:
        _store_bounds(starts_ptr, ends_ptr, starts, counts, aligned, each, num_experts)
    ids = tl.load(ids_ptr + pair, mask=pair < num_pairs, other=-1)
    held = _held(ids, first, num_experts, each)
    _store_rows(expert_ptr, token_ptr, position_ptr, held, starts + before, ids - first, pair, num_pairs, k, room)


@triton.jit
def _store_bounds(starts_ptr, ends_ptr, starts, counts, aligned, each, num_experts):
    tl.store(starts_ptr + each, starts, mask=each < num_experts)
    tl.store(starts_ptr + num_experts, tl.sum(aligned, axis=0))
    tl.store(ends_ptr + each, starts + counts, mask=each < num_experts)


@triton.jit
def _store_rows(expert_ptr, token_ptr, position_ptr, held, next_row, local, pair, num_pairs, k, room):
    """Pairs of one chunk, into the next rows of their experts."""
    at = tl.sum(held * (tl.cumsum(held, axis=0) - 1 + next_row[None, :]), axis=1)
    mine = tl.sum(held, axis=1) > 0
    tl.store(position_ptr + pair, tl.where(mine, at, room), mask=pair < num_pairs)
    tl.store(token_ptr + at, (pair // k).to(tl.int32), mask=mine)
    tl.store(expert_ptr + at, local.to(tl.int32), mask=mine)


@triton.jit
def _held(ids, first, num_experts, each):
    """1 where a pair is of an expert, [CHUNK, EXPERTS]."""
    local = ids - first
    return ((local[:, None] == each[None, :]) & (each < num_experts)[None, :] & (ids >= 0)[:, None]).to(tl.int32)


@kernel
def _combine(
    y_ptr, position_ptr, weight_ptr, total_ptr, stride, room, num_cols, NUM: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for j in range(NUM):
        at = tl.load(position_ptr + token * NUM + j).to(tl.int64)
        y = tl.load(y_ptr + at * stride + cols, mask=(cols < num_cols) & (at < room), other=0.0)
        weight = tl.load(weight_ptr + token * NUM + j)
        # What is left out adds nothing even where its weight is no number.
        total += tl.where(at < room, y.to(tl.float32) * weight, 0.0)
    tl.store(total_ptr + token * num_cols + cols, total, mask=cols < num_cols)


@kernel
def _fetch(
    from_ptr, codes_ptr, from_scale_ptr, scale_ptr, token_ptr, stride, from_stride_t, from_stride_g, scale_stride_p,
    scale_stride_g, num_cols, groups, BLOCK: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(token_ptr + row).to(tl.int64)
    if token < 0:
        return
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    codes = tl.load(from_ptr + token * stride + cols, mask=cols < num_cols)
    tl.store(codes_ptr + row * num_cols + cols, codes, mask=cols < num_cols)
    if tl.program_id(1) == 0:
        group = tl.arange(0, GROUPS)
        scale = tl.load(from_scale_ptr + token * from_stride_t + group * from_stride_g, mask=group < groups)
        tl.store(scale_ptr + row * scale_stride_p + group * scale_stride_g, scale, mask=group < groups)
