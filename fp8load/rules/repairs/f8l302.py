"""F8L302: a module that is stored unquantized is put on the list."""

from collections.abc import Iterator, Mapping

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import edit_list
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """By its full name, which means the module in every dialect. Nothing where that would leave F8L306."""
    if problem.module not in context.checkpoint.stored.beside_quantized:
        yield from edit_list(context, "append", problem.module)


def part_of(context: Context, problem: Problem) -> tuple[str, str] | None:
    """F8L306 of its fused layer: that repair dequantizes the other members, and lists all."""
    group = _fused(context).get(problem.module)
    return None if group is None else ("F8L306", group)


@once
def _fused(context: Context) -> Mapping[str, str]:
    """Module -> the fused layer that it is a member of."""
    return {info.name: group.name for group in context.checkpoint.stored.fused for info in group.members}


REPAIR = Repair(
    title="adds the module to the ignore list", actions=actions, part_of=part_of,
    unless="other members of its fused layer are quantized, and listed alone it could not be fused with them; name "
    "F8L306 too: it dequantizes those and lists all",
)  # fmt: skip
