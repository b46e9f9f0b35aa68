"""Which scales an engine rounds to powers of two before it multiplies, whatever the checkpoint says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fp8load.engines.profile import Profile, RoundingFact
from fp8load.engines.stored import Held, Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.errors import Severity
from fp8load.scheme import PerBlock, Role

if TYPE_CHECKING:
    from fp8load.formats.lowered import ModuleInfo


def scales(profile: Profile, stored: Stored, target: Target) -> Iterator[Verdict]:
    """Float scales that the engine rounds on the GPU that is named. Whether one of them is no power of two already is
    for those who read the values to say: of the others nothing is lost."""
    for fact in profile.rounding if target.gpu is not None else ():
        if target.gpu is None or target.gpu.name not in fact.gpus or not _is_asked(fact, stored):
            continue
        for held, dtype, infos in stored.by_scale:
            if dtype.is_wide_float and not held.is_expert and _is_rounded(fact, held):
                yield from (_verdict(fact, stored, info, target.gpu.name) for info in infos if _fits(fact, info))


def scales_to_round(profiles: Iterable[Profile], stored: Stored, target: Target) -> frozenset[str]:
    """Names of the scales that one of these engines rounds."""
    return frozenset(verdict.tensor for profile in profiles for verdict in scales(profile, stored, target))


def _is_asked(fact: RoundingFact, stored: Stored) -> bool:
    in_family = not fact.families or stored.family in fact.families
    return in_family and stored.family not in fact.except_families and (
        not fact.formats or stored.format in fact.formats)  # fmt: skip


def _is_rounded(fact: RoundingFact, held: Held) -> bool:
    block = held.scheme.weight.granularity
    size = (block.rows, block.cols) if isinstance(block, PerBlock) else (0, 0)
    return held.kind in fact.kinds and (not fact.sizes or size in fact.sizes)


def _fits(fact: RoundingFact, info: ModuleInfo) -> bool:
    """Whether the kernel that wants powers of two takes the shape."""
    shape = info.tensors[Role.WEIGHT].shape[-2:]
    return all(size % multiple == 0 for size, multiple in zip(shape, fact.multiples, strict=True))


def _verdict(fact: RoundingFact, stored: Stored, info: ModuleInfo, gpu: str) -> Verdict:
    tensor, file = stored.stored_tensor(info, Role.WEIGHT_SCALE)
    return Verdict(
        text=f"rounds these scales to powers of two on {gpu}, and the weights a second time", module=info.name,
        tensor=tensor, file=file, expected="powers of two", got=str(stored.checkpoint.index.tensors[tensor]),
        remedy=f"{fact.unless}; or quantize again with scales that are powers of two", severity=Severity.WARNING,
        loads=True,
    )  # fmt: skip
