"""F8L204: an input scale that was never calibrated becomes the largest one of its family."""

import re
from collections.abc import Iterator, Mapping

from fp8load.dtypes import decode
from fp8load.errors import Problem
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.writing.actions import Add

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def actions(context: Context, problem: Problem) -> Iterator[Add]:
    """Siblings are experts of the same layer, else the same projection of other layers."""
    siblings = _siblings(context, problem.tensor)
    if context.scales is None or not siblings:
        return
    largest, data = max((_value(context, meta), meta) for meta in siblings)[0], b""
    for meta in siblings:
        if _value(context, meta) == largest:
            data = context.checkpoint.source.read(meta.file, meta.begin, meta.end)
            new = TensorMeta(problem.tensor, meta.dtype, meta.shape, problem.file, 0, len(data))
            yield Add(new, data, f"{largest:.6g}, the largest of {len(siblings)} siblings")
            return


def _siblings(context: Context, name: str) -> list[TensorMeta]:
    """Tensors whose names differ in the last number, else those that differ in any."""
    numbers = list(_NUMBER.finditer(name))
    family = _families(context).get(_NUMBER.sub("*", name), [])
    if not numbers:
        return []
    before = name[: numbers[-1].start()]
    return [meta for meta in family if meta.name.startswith(before)] or family


@once
def _families(context: Context) -> Mapping[str, list[TensorMeta]]:
    """Scalars by their names without numbers."""
    table: dict[str, list[TensorMeta]] = {}
    for meta in context.checkpoint.index.tensors.values():
        if meta.num_elements == 1:
            table.setdefault(_NUMBER.sub("*", meta.name), []).append(meta)
    return table


def _value(context: Context, meta: TensorMeta) -> float:
    return float(decode(meta.dtype, context.checkpoint.source.read(meta.file, meta.begin, meta.end))[0])


REPAIR = Repair(
    title="adds the largest input scale of the siblings", actions=actions,
    only_if="lossy: the number was never measured for this layer",
)  # fmt: skip
