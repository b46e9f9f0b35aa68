"""F8L106: activation_scheme is written from what tensors show, and a stray input scale is dropped."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import configuration
from fp8load.writing.actions import Drop, Edit

_INPUT = (".input_scale", ".activation_scale")


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit]:
    """A scheme per tensor is static where input scales are stored; one per block is dynamic in every reader."""
    index = context.checkpoint.index
    found = configuration(context)
    if problem.tensor in index.tensors:
        yield Drop(index.tensors[problem.tensor])
    elif found is not None and not problem.tensor and found[2].get("quant_method") == "fp8":
        file, keys, document = found
        stored = any(name.endswith(_INPUT) for name in index.tensors)
        static = stored and document.get("weight_block_size") is None
        yield Edit(file, (*keys, "activation_scheme"), "set", "static" if static else "dynamic")


REPAIR = Repair(title="writes activation_scheme, or drops an input scale that nothing reads", actions=actions)
