"""F8L912: a matrix for multi-token prediction that is in 16 bits is put on the list."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import edit_list, stored_unquantized
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """By its stored name. What an engine calls the draft model's layers is the engine's own."""
    module = problem.tensor.rpartition(".")[0]
    if module in stored_unquantized(context):
        yield from edit_list(context, "append", module)


REPAIR = Repair(title="adds the module to the ignore list", actions=actions)
