"""F8L302: a module that is stored unquantized is put on the list."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import edit_list
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """By its full name, which means the module in every dialect. Nothing where that would leave F8L306."""
    if problem.module not in context.checkpoint.stored.beside_quantized:
        yield from edit_list(context, "append", problem.module)


REPAIR = Repair(
    title="adds the module to the ignore list", actions=actions,
    unless="other members of its fused layer are quantized, and listed or not it cannot be fused with them (F8L306)",
)  # fmt: skip
