"""F8L104: a configuration in an odd place is copied to where every engine looks."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import configuration
from fp8load.writing.actions import Edit

_USUAL = ("quantization_config",)


def actions(context: Context, _problem: Problem) -> Iterator[Edit]:
    """To the top level of config.json; it stays where it was too, for readers that look there."""
    found = configuration(context)
    is_there = "quantization_config" in context.checkpoint.index.config
    if found is not None and found[2].get("quant_method") and not is_there:
        yield Edit("config.json", _USUAL, "set", found[2])


REPAIR = Repair(title="copies the configuration to the top level of config.json", actions=actions)
