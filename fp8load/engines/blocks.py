"""Does the engine split blocks of scales as the checkpoint needs it: fused layers and experts."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import TYPE_CHECKING

from fp8load.archs.base import Dim, Linear
from fp8load.engines.profile import BlocksFact, Profile
from fp8load.engines.stored import Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.plan.shard import Shard
from fp8load.scheme import PerBlock, Role

if TYPE_CHECKING:
    from fp8load.formats.lowered import ModuleInfo

SHARES = "gives the rows behind the cut the scale of another part"
REFUSES = "refuses a fused layer with a part that ends inside a block"


def merged(profile: Profile, stored: Stored, target: Target) -> Iterator[Verdict]:
    """Parts of fused layers that end inside a block of scales, on one rank or on those that are asked for."""
    model, facts = stored.checkpoint.model, [fact for fact in profile.blocks if stored.format in fact.formats]
    if model is None or not facts:
        return
    modules = stored.checkpoint.lowered.modules
    for at, entry in model.entries():
        if not isinstance(entry, Linear) or len(entry.parts) < 2:
            continue
        stored_parts = [part for part in entry.parts if at + part.module in modules]
        # Of fewer heads than ranks every rank holds a whole one.
        least = [model.sizes.head_dim if part.repeats or part.rows is Dim.KV else 1 for part in stored_parts]
        members = [(modules[at + part.module], rows) for part, rows in zip(stored_parts, least, strict=True)]
        for size in target.tp or (1,):
            yield from _cuts(facts[0], stored, entry, members, size)


Members = list[tuple["ModuleInfo", int]]
"""The parts of a fused layer, each with the fewest rows that a rank holds of it."""


def _cuts(fact: BlocksFact, stored: Stored, entry: Linear, members: Members, size: int) -> Iterator[Verdict]:
    if len(members) < 2 or entry.target.rpartition(".")[2] in fact.whole:
        return
    size = 1 if entry.shard is Shard.REPLICATED else size
    # On one rank the last part may end anywhere: no rows follow that could get a wrong scale.
    for info, least in members if size > 1 or fact.last else members[:-1]:
        rows = max(info.tensors[Role.WEIGHT].shape[0] // size, least)
        block = info.scheme.weight.granularity if info.scheme is not None else None
        if not isinstance(block, PerBlock) or rows % block.rows == 0:
            continue
        tensor, file = stored.stored_tensor(info, Role.WEIGHT)
        yield Verdict(
            text=f"{REFUSES if fact.merged == 'refuses' else SHARES}, at tp={size}", module=info.name, tensor=tensor,
            file=file, expected=f"a multiple of {block.rows} rows on each rank", got=f"{rows} rows",
            remedy=f"use {'a smaller tp, or ' if size > 1 else ''}scales per channel for this layer",
        )  # fmt: skip


def refines(profiles: tuple[Profile, ...], stored: Stored, module: str, size: int) -> bool:
    """Whether all of these engines split a layer of experts all the same, by refining its blocks."""
    experts = module.rpartition(".")[0]
    info = next((info for name, info in stored.checkpoint.lowered.modules.items()
                 if name.startswith(f"{experts}.") and info.scheme is not None), None)  # fmt: skip
    if info is None or info.scheme is None or not isinstance(info.scheme.weight.granularity, PerBlock):
        return False
    block, shape = info.scheme.weight.granularity, info.tensors[Role.WEIGHT].shape
    inner = min(shape)  # an expert's inner size is the smaller one of its matrices, which all have the same two
    shared = gcd(block.rows, block.cols, max(shape), inner // size if inner % size == 0 else 1)
    facts = [fact for profile in profiles for fact in profile.blocks if stored.format in fact.formats]
    return len(facts) == len(profiles) and all(fact.experts == "refines" and shared >= fact.finest for fact in facts)
