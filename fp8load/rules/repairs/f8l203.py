"""F8L203: of two scales that hold the same bytes under two names, one is dropped; one of another dialect is renamed."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.formats.aliases import ROLES
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.scheme import Role
from fp8load.source.base import Source
from fp8load.writing.actions import Drop, Rename
from fp8load.writing.shard import pieces

_ALIKE = (Role.WEIGHT_SCALE, Role.INPUT_SCALE)
"""Scales that mean the same in every dialect."""


def actions(context: Context, problem: Problem) -> Iterator[Drop | Rename]:
    """Only equal ones: of two numbers nobody can say which is meant. Names of global scales stay: by the other one, a
    multiplier would become a divisor."""
    tensors = context.checkpoint.index.tensors
    one, other = tensors.get(problem.tensor), tensors.get(problem.got.removeprefix("also "))
    if context.scales is not None and one is not None and other is not None:
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        if alike and _same(context.checkpoint.source, one, other):
            yield Drop(one)
    last = problem.expected.rpartition(".")[2]
    if problem.refuses and one is not None and problem.expected not in tensors and ROLES.get(last) in _ALIKE:
        yield Rename(one, problem.expected)


def _same(source: Source, one: TensorMeta, other: TensorMeta) -> bool:
    return all(a == b for a, b in zip(pieces(source, one), pieces(source, other), strict=True))


REPAIR = Repair(title="drops one of two scales that are equal, or renames one", actions=actions)
