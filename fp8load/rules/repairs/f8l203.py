"""F8L203: of two scales that hold the same bytes under two names, one is dropped."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.source.base import Source
from fp8load.writing.actions import Drop
from fp8load.writing.shard import pieces


def actions(context: Context, problem: Problem) -> Iterator[Drop]:
    """Only equal ones: of two numbers nobody can say which is meant."""
    tensors = context.checkpoint.index.tensors
    one, other = tensors.get(problem.tensor), tensors.get(problem.got.removeprefix("also "))
    if context.scales is not None and one is not None and other is not None:
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        if alike and _same(context.checkpoint.source, one, other):
            yield Drop(one)


def _same(source: Source, one: TensorMeta, other: TensorMeta) -> bool:
    return all(a == b for a, b in zip(pieces(source, one), pieces(source, other), strict=True))


REPAIR = Repair(title="drops one of two scales that are equal", actions=actions)
