"""F8L102: a configuration of which nothing is quantized is left out."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import configuration
from fp8load.scheme import Role
from fp8load.writing.actions import Edit, Omit


def actions(context: Context, _problem: Problem) -> Iterator[Edit | Omit]:
    """Only where no weight at all is quantized: else the list or a group may be what is wrong."""
    found = configuration(context)
    if found is None or _is_any_quantized(context):
        return
    file, keys, _ = found
    yield Edit(file, keys, "remove") if keys else Omit(file)


@once
def _is_any_quantized(context: Context) -> bool:
    weights = (info.tensors[Role.WEIGHT] for info in context.checkpoint.lowered.modules.values())
    return any(not weight.dtype.is_wide_float for weight in weights)


REPAIR = Repair(title="removes the quantization configuration", actions=actions)
