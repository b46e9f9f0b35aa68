"""Values of scales: one pass in file order, a few numbers kept of each tensor, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity
from fp8load.formats.inside import is_marker
from fp8load.index.index import TensorMeta
from fp8load.inspection import scale_names
from fp8load.rules.families import Member, families_by_role
from fp8load.rules.scale_stats import MEASURED, ScaleStats, measured, measured_together
from fp8load.scheme import Role, ScaleRounding
from fp8load.values.read import in_rows, together
from fp8load.values.threads import all_in_threads

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

CHUNK = 8 << 20
"""Bytes read at once: a file may call a tensor of any size a scale."""

TOGETHER = 1 << 20
"""Bytes of small scales that are measured together: a call of numpy costs as much as measuring some thousand elements,
and a mixture of experts has tens of thousands of scales."""


class ScaleReader:
    """Reads every scale of a checkpoint once, and keeps a `ScaleStats` of each.

    `to_round` has scales that a reader who was named rounds to powers of two: of them too those that are none count.
    """

    def __init__(self, checkpoint: Checkpoint, to_round: Collection[str] = ()) -> None:
        self._checkpoint = checkpoint
        self._to_round = frozenset(to_round)

    def metas(self) -> list[TensorMeta]:
        """Scales that hold floats, in the order of their bytes. ComfyUI's marker has a float's dtype, and no number."""
        tensors = self._checkpoint.tensors
        metas = map(tensors.__getitem__, dict.fromkeys(scale_names(self._checkpoint)))
        wanted = [meta for meta in metas if meta.dtype in MEASURED and not is_marker(meta.name)]
        return sorted(wanted, key=attrgetter("file", "begin"))

    @cached_property
    def powers(self) -> frozenset[str]:
        """Weight scales that the configuration says to be powers of two."""
        modules = self._checkpoint.lowered.modules.values()
        return frozenset(
            info.tensors[Role.WEIGHT_SCALE].name
            for info in modules
            if info.scheme is not None
            and info.scheme.rounding is ScaleRounding.POWER_OF_TWO
            and Role.WEIGHT_SCALE in info.tensors
        )

    @cached_property
    def _counted(self) -> frozenset[str]:
        """Scales of which those elements count that are no powers of two; united once, not for each scale."""
        return self.powers | self._to_round

    @cached_property
    def stats(self) -> tuple[ScaleStats, ...]:
        """One entry for each scale, in the order of their bytes. The first use reads; a `SourceError` passes through.

        Several threads read, each one chunk or one batch of small scales at a time.
        """
        return tuple(chain.from_iterable(all_in_threads(self._checkpoint, self._measure, list(self._batches()))))

    def _batches(self) -> Iterator[list[TensorMeta]]:
        """Small scales that follow each other, together; large ones, and those that have to be put in order, alone."""
        repacks = self._checkpoint.lowered.repacks
        batch: list[TensorMeta] = []
        num_left = TOGETHER
        for meta in self.metas():
            nbytes = meta.end - meta.begin
            alone = not 0 < nbytes <= TOGETHER // 2 or meta.name in repacks
            if batch and (alone or nbytes > num_left):
                yield batch
                batch, num_left = [], TOGETHER
            if alone:
                yield [meta]
            else:
                batch.append(meta)
                num_left -= nbytes
        if batch:
            yield batch

    @cached_property
    def by_name(self) -> Mapping[str, ScaleStats]:
        """The same by the tensors' names."""
        return {stats.meta.name: stats for stats in self.stats}

    @cached_property
    def families(self) -> Mapping[Role, Sequence[Sequence[Member]]]:
        """Sound scales by role, and by projection and scheme (`fp8load.rules.families`)."""
        return families_by_role(self._checkpoint, self.by_name)

    def _measure(self, metas: list[TensorMeta]) -> list[ScaleStats]:
        if len(metas) > 1:
            powers = frozenset(meta.name for meta in metas if self._must_be_powers(meta)) if self._counted else ()
            return measured_together(metas, together(self._checkpoint, metas), must_be_powers=powers)
        (meta,) = metas
        return [measured(meta, chunks(self._checkpoint, meta), must_be_powers=self._must_be_powers(meta))]

    def _must_be_powers(self, meta: TensorMeta) -> bool:
        return meta.dtype.is_wide_float and meta.name in self._counted


def unsound(
    stats: ScaleStats, unused: Mapping[str, str], *, code: str, wanted: str, counts: Mapping[str, int], first: int,
    hint: str, refuses: bool,
) -> Problem:  # fmt: skip
    """A scale with elements that are not `wanted`: how many of each kind, and where the first is.

    Only noted, and never a reason to refuse, where no weight uses the scale: `unused` has the names, with why.
    """
    meta = stats.meta
    is_unused = meta.name in unused
    kinds = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    return Problem(
        code=code, message=f"a scale is not {wanted}" + (", and nothing uses it" if is_unused else ""),
        tensor=meta.name, file=meta.file, expected=f"{meta.num_elements:,} {wanted} numbers",
        got=f"{kinds}, the first at {stats.position(first)}", hint=unused.get(meta.name, hint),
        severity=Severity.INFO if is_unused else Severity.ERROR, refuses=refuses and not is_unused,
    )  # fmt: skip


def chunks(checkpoint: Checkpoint, meta: TensorMeta) -> Iterator[bytes]:
    """One tensor's bytes, about `CHUNK` at a time; of a swizzled scale in rows and without padding."""
    return in_rows(checkpoint, meta, CHUNK)
