"""F8L922: a quantized embedding is dequantized."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.dequantized import LOSSY, dequantized
from fp8load.writing.actions import Drop, Edit, Remake, Rename


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit | Remake | Rename]:
    """Rows in 16 bits, as lookups copy them."""
    yield from dequantized(context, problem.tensor.rpartition(".")[0])


REPAIR = Repair(title="dequantizes the embedding", actions=actions, only_if=LOSSY)
