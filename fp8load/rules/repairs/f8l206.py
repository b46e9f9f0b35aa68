"""F8L206: a scale moves to the file of its weight."""

from collections.abc import Iterator
from functools import partial

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.users import users
from fp8load.scheme import Role
from fp8load.writing.actions import Add, Drop
from fp8load.writing.shard import pieces


def actions(context: Context, problem: Problem) -> Iterator[Add | Drop]:
    """Where all weights that use it lie in one file: a scale that many experts share is nobody's neighbour."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    files = {use.module.tensors[Role.WEIGHT].file for use in users(context).get(problem.tensor, [])}
    if meta is None or len(files) != 1:
        return
    (file,) = files
    yield Drop(meta)
    yield Add(meta._replace(file=file), partial(pieces, context.checkpoint.source, meta), f"moved from {meta.file}")


REPAIR = Repair(title="moves the scale to the file of its weight", actions=actions)
