"""F8L105: a configuration of compressed-tensors gets the status and the names of groups that readers look for."""

import re
from collections.abc import Collection, Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import configuration
from fp8load.writing.actions import Edit

_USUAL = re.compile(r"group_\d+")


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """What is only noted, of the configuration as a whole. Where it contradicts a tensor, no entry of it could say what
    the tensor is; and where two groups claim a module, which of them is meant is not in the files."""
    found = configuration(context)
    if found is None or problem.severity is not Severity.INFO or problem.module:
        return
    file, keys, document = found
    groups = document.get("config_groups") or {}
    if document.get("quantization_status") not in (None, "compressed"):
        yield Edit(file, (*keys, "quantization_status"), "set", "compressed")
    if not all(map(_USUAL.fullmatch, groups)):
        new = dict(zip(_numbered(groups), groups.values(), strict=True))  # in their order: the first that fits counts
        yield Edit(file, (*keys, "config_groups"), "set", new)


def _numbered(names: Collection[str]) -> list[str]:
    """The names, "group_" and the least number that is free in place of those that are of another kind."""
    taken = {name for name in names if _USUAL.fullmatch(name)}
    free = (name for number in range(len(taken) + len(names)) if (name := f"group_{number}") not in taken)
    return [name if name in taken else next(free) for name in names]


REPAIR = Repair(title="writes the usual status, and the usual names of config groups", actions=actions)
