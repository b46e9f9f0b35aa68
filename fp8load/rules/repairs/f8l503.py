"""F8L503: a scale gets the shape that every reader takes."""

from collections.abc import Iterator
from functools import partial

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.users import Use, users
from fp8load.scheme import PerTensor, Role, scale_shape
from fp8load.writing.actions import Remake
from fp8load.writing.shard import pieces


def actions(context: Context, problem: Problem) -> Iterator[Remake]:
    """The same bytes: [1] for one number, [N, 1] for rows, [N/bn, K/bk] for blocks, behind the number of experts."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    uses = users(context).get(problem.tensor, [])
    wanted = {_usual(use) for use in uses}
    if meta is None or len(wanted) != 1 or any(use.role in use.module.transposed for use in uses):
        return
    (shape,) = wanted
    if uses[0].meta.name != meta.name:  # a stack: one piece for each expert, in the first axis
        if len(uses) != meta.shape[0] or any(use.meta.shape != meta.shape[1:] for use in uses):
            return
        shape = (len(uses), *shape)
    if shape != meta.shape:
        data = partial(pieces, context.checkpoint.source, meta)
        yield Remake(meta, meta.dtype, shape, data, f"the same numbers as {list(shape)}")


def _usual(use: Use) -> tuple[int, ...]:
    scheme, weight = use.module.scheme, use.module.tensors[Role.WEIGHT]
    if scheme is None or use.role is not Role.WEIGHT_SCALE or scheme.weight.granularity == PerTensor():
        return (1,)
    return scale_shape(scheme.weight.granularity, weight.shape)


REPAIR = Repair(title="writes the scale in the usual shape", actions=actions)
