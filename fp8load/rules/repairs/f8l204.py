"""F8L204: an input scale that was never calibrated becomes the widest one of its family."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from fp8load.errors import Problem
from fp8load.formats.lowered import ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.rules.families import INPUT_ROLES
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.widest import divides
from fp8load.scheme import Role
from fp8load.writing.actions import Add
from fp8load.writing.shard import pieces

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(slots=True)
class _Siblings:
    """Input scales whose names differ in numbers: how many are sound, the widest of them, and how many are not."""

    num_sound: int = 0
    num_left_out: int = 0
    widest: TensorMeta | None = None
    number: float = 0.0

    def add(self, meta: TensorMeta, number: float | None, *, least: bool) -> None:
        """One more, None for one that is no scale. `least`: of numbers that divide the smallest is the widest."""
        if number is None:
            self.num_left_out += 1
            return
        self.num_sound += 1
        if self.widest is None or (number < self.number if least else number > self.number):
            self.widest, self.number = meta, number


def actions(context: Context, problem: Problem) -> Iterator[Add]:
    """Siblings are experts of the same layer, else the same projection of other layers. Those that are NaN, infinite,
    zero or negative are F8L701's and F8L702's, and no measure of anything."""
    found = next((found for found in _candidates(context, problem.tensor) if found.widest is not None), None)
    if found is None or found.widest is None:
        return
    meta = found.widest
    weight = context.checkpoint.lowered.modules.get(problem.tensor.rpartition(".")[0])
    file = problem.file if weight is None else weight.tensors[Role.WEIGHT].file
    said = f"{found.number:.6g}, the widest of {found.num_sound:,} siblings"
    if found.num_left_out:
        said += f"; {found.num_left_out:,} more are not finite, or not above zero, and left out"
    new = TensorMeta(problem.tensor, meta.dtype, meta.shape, file, 0, meta.nbytes)
    yield Add(new, partial(pieces, context.checkpoint.source, meta), said)


def _may(context: Context, problem: Problem) -> bool:
    return bool(_candidates(context, problem.tensor))


def _candidates(context: Context, name: str) -> list[_Siblings]:
    """Those whose names differ in the last number, then those that differ in any."""
    if context.scales is None:
        return []
    table = _siblings(context)
    return [table[key] for key in _keys(name) if key in table]


@once
def _siblings(context: Context) -> Mapping[str, _Siblings]:
    """Name with stars for its last number, or for all -> the input scales that are called so. Measured, not read."""
    table: dict[str, _Siblings] = {}
    measured = {} if context.scales is None else context.scales.by_name
    for info, role, meta in _input_scales(context):
        stats = measured.get(meta.name)
        for key in _keys(meta.name):
            number = None if stats is None else stats.constant
            table.setdefault(key, _Siblings()).add(meta, number, least=divides(info, role))
    return table


def _input_scales(context: Context) -> Iterator[tuple[ModuleInfo, Role, TensorMeta]]:
    """Input scales that are one number, and tensors of their own."""
    stored, said = context.checkpoint.index.tensors, set[str]()
    for info in context.checkpoint.lowered.modules.values():
        for role in INPUT_ROLES:
            meta = info.tensors.get(role)
            if meta is None or meta.num_elements != 1 or meta.name not in stored or meta.name in said:
                continue
            said.add(meta.name)
            yield info, role, meta


def _keys(name: str) -> Iterator[str]:
    """The name with "*" for its last number, then for every one; nothing for a name without numbers."""
    numbers = list(_NUMBER.finditer(name))
    if numbers:
        last = numbers[-1]
        yield f"{name[: last.start()]}*{name[last.end() :]}"
    if len(numbers) > 1:
        yield _NUMBER.sub("*", name)


REPAIR = Repair(
    title="adds the input scale of the widest range among the siblings", actions=actions, may=_may,
    only_if="lossy: the number was never measured for this layer",
    unless="no sibling has a scale that is finite and above zero",
)  # fmt: skip
