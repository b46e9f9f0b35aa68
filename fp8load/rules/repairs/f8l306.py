"""F8L306: the quantized members of a layer that engines fuse are dequantized."""

from collections.abc import Iterator, Mapping

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.dequantized import LOSSY, dequantized
from fp8load.rules.repairs.once import once
from fp8load.writing.actions import Drop, Edit, Remake, Rename


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit | Remake | Rename]:
    """All of them, or none: one that stays quantized would leave the layer as mixed as it is."""
    found = [list(dequantized(context, module)) for module in _quantized(context).get(problem.module, ())]
    if all(found):
        for changes in found:
            yield from changes


@once
def _quantized(context: Context) -> Mapping[str, list[str]]:
    """Fused layer -> its quantized members."""
    return {
        group.name: [info.name for info in group.members if info.scheme is not None]
        for group in context.checkpoint.stored.fused
    }


REPAIR = Repair(title="dequantizes the members of the fused layer", actions=actions, only_if=LOSSY)
