"""F8L912: a matrix for multi-token prediction is put on the list, or dequantized where engines have it in 16 bits."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.dequantized import LOSSY, dequantized
from fp8load.rules.repairs.places import edit_list, stored_unquantized
from fp8load.writing.actions import Drop, Edit, Remake, Rename


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit | Remake | Rename]:
    """By its stored name. What an engine calls the draft model's layers is the engine's own."""
    module = problem.tensor.rpartition(".")[0]
    if module in stored_unquantized(context):
        yield from edit_list(context, "append", module)
    else:
        yield from dequantized(context, module)


REPAIR = Repair(
    title="adds the module to the ignore list, and dequantizes it where it is quantized", actions=actions, only_if=LOSSY
)
