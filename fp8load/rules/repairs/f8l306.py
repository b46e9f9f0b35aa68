"""F8L306: the quantized members of a layer that engines fuse are dequantized, and the others listed as they are."""

from collections.abc import Iterator, Mapping

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.dequantized import LOSSY, dequantized
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import edit_list
from fp8load.writing.actions import Drop, Edit, Remake, Rename


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit | Remake | Rename]:
    """All of them, or none: one that stays quantized would leave the layer as mixed as it is. With them those that the
    configuration takes for quantized go on the list (F8L302), so that all of the layer is on it."""
    found = [list(dequantized(context, module)) for module in _quantized(context).get(problem.module, ())]
    if found and all(found):
        for changes in found:
            yield from changes
        for module in _claimed(context).get(problem.module, ()):
            yield from edit_list(context, "append", module)


@once
def _quantized(context: Context) -> Mapping[str, list[str]]:
    """Fused layer -> its quantized members."""
    return {
        group.name: [info.name for info in group.members if info.scheme is not None]
        for group in context.checkpoint.stored.fused
    }


@once
def _claimed(context: Context) -> Mapping[str, list[str]]:
    """Fused layer -> its unquantized members that the configuration takes for quantized."""
    claimed = {problem.module for problem in context.problems("F8L302")}
    return {
        group.name: [info.name for info in group.members if info.name in claimed]
        for group in context.checkpoint.stored.fused
    }


REPAIR = Repair(title="dequantizes the members of the fused layer", actions=actions, only_if=LOSSY)
