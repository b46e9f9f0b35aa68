"""F8L106: activation_scheme is written from what tensors show, and a stray input scale is dropped."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import configuration
from fp8load.writing.actions import Drop, Edit

_INPUT = (".input_scale", ".activation_scale")


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit]:
    """A scheme per tensor is static where input scales are stored; one per block is dynamic in every reader. Scales
    that the scheme becomes static for stay, although nothing reads them yet."""
    index = context.checkpoint.index
    found = configuration(context)
    if problem.tensor in index.tensors:
        if _missing(context) != "static":
            yield Drop(index.tensors[problem.tensor])
    elif found is not None and not problem.tensor and found[2].get("quant_method") == "fp8":
        file, keys, _ = found
        yield Edit(file, (*keys, "activation_scheme"), "set", _missing(context))


@once
def _missing(context: Context) -> str | None:
    """What the scheme has to be where it is wrong as a whole; None where it is not."""
    found = configuration(context)
    if found is None or all(problem.tensor for problem in context.problems("F8L106")):
        return None
    stored = any(name.endswith(_INPUT) for name in context.checkpoint.index.tensors)
    return "static" if stored and found[2].get("weight_block_size") is None else "dynamic"


REPAIR = Repair(title="writes activation_scheme, or drops an input scale that nothing reads", actions=actions)
