"""F8L502: the block size is written, where one alone fits every weight."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import configuration
from fp8load.rules.repairs.shown import block_sizes, weights_with_scales
from fp8load.writing.actions import Edit


def actions(context: Context, _problem: Problem) -> Iterator[Edit]:
    """Squares of 32, 64 or 128: what exporters write. Shapes that two of them fit prove nothing."""
    found = configuration(context)
    sizes = _sizes(context)
    if found is not None and len(sizes) == 1 and found[2].get("quant_method") == "fp8":
        file, keys, _ = found
        yield Edit(file, (*keys, "weight_block_size"), "set", [sizes[0], sizes[0]])


@once
def _sizes(context: Context) -> list[int]:
    return block_sizes(weights_with_scales(context.checkpoint.index))


REPAIR = Repair(title="writes the block size that fits every weight", actions=actions)
