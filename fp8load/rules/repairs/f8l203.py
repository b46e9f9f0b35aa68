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
    """Only equal ones are dropped: of two numbers nobody can say which is meant. Names of global scales stay: by the
    other one, a multiplier would become a divisor."""
    pair = _pair(context, problem)
    if pair is not None and _same(context.checkpoint.source, *pair):
        yield Drop(pair[0])
    renamed = _renamed(context, problem)
    if renamed is not None:
        yield renamed


def _may(context: Context, problem: Problem) -> bool:
    return _pair(context, problem) is not None or _renamed(context, problem) is not None


def _pair(context: Context, problem: Problem) -> tuple[TensorMeta, TensorMeta] | None:
    """The scale that would go, and the one that stays; of two KV scales each is told of the other, and the one in use
    stays. None for two that cannot be equal, and where no scale may be read."""
    tensors = context.checkpoint.index.tensors
    one, other = tensors.get(problem.tensor), tensors.get(problem.got.removeprefix("also "))
    if context.scales is None or one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return None
    used = any(meta.name == one.name for meta in context.checkpoint.lowered.kv.values())
    return None if used else (one, other)


def _renamed(context: Context, problem: Problem) -> Rename | None:
    """The one scale of its role, under the name that the format's readers look for; nothing is read for it."""
    tensors = context.checkpoint.index.tensors
    one, (module, _, last) = tensors.get(problem.tensor), problem.expected.rpartition(".")
    if one is None or module != one.name.rpartition(".")[0]:  # an engine says the last component only, or several
        return None
    if problem.expected in tensors or ROLES.get(last) not in _ALIKE:
        return None
    return Rename(one, problem.expected)


def _same(source: Source, one: TensorMeta, other: TensorMeta) -> bool:
    return all(a == b for a, b in zip(pieces(source, one), pieces(source, other), strict=True))


REPAIR = Repair(
    title="drops one of two scales that are equal, or renames one", actions=actions, reads=True, may=_may,
    unless="they differ, and nobody can say which is meant",
)  # fmt: skip
