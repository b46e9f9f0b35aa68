"""F8L202: a scale beside a weight that is not quantized is dropped."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import edit_list
from fp8load.writing.actions import Drop, Edit


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit]:
    """Not where the weight is gone: then the scale is what is left of it, and the weight has to be found.

    The module is listed too, where the configuration lists modules and would claim it.
    """
    index = context.checkpoint.index
    scale, weight = index.tensors.get(problem.tensor), index.tensors.get(f"{problem.module}.weight")
    if scale is None or weight is None or not weight.dtype.is_wide_float:
        return
    yield Drop(scale)
    if problem.module in _claimed(context):
        yield from edit_list(context, "append", problem.module)


@once
def _claimed(context: Context) -> frozenset[str]:
    """Modules that the configuration claims and that are not quantized."""
    return frozenset(problem.module for problem in context.problems("F8L302"))


REPAIR = Repair(title="drops the scale", actions=actions)
