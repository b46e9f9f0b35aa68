"""F8L303: entries that cover a quantized module are replaced by the names of what they cover rightly."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fp8load.errors import Problem
from fp8load.formats.stacked import stored_name
from fp8load.rules.base import Context, Repair
from fp8load.rules.listed import Candidates
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import edit_list, stored_unquantized
from fp8load.rules.repairs.users import users
from fp8load.writing.actions import Edit


class _Wide(NamedTuple):
    """An entry that covers quantized modules: the first of them, and unquantized ones that no sound entry covers."""

    entry: str
    first: str
    rightly: list[str]


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """Every entry that covers the module goes, or it would stay ignored. Full names take their places; said with the
    first module of an entry only, because an entry may cover ten thousands."""
    module = _claimed(context, problem)
    for wide in _too_wide(context).get(module, ()):
        yield from edit_list(context, "discard", wide.entry)
        for name in wide.rightly if wide.first == module else ():
            yield from edit_list(context, "append", name)


@once
def _too_wide(context: Context) -> Mapping[str, list[_Wide]]:
    """Quantized module on the list -> all entries that cover it."""
    fmt = context.checkpoint.format
    modules = Candidates(dict.fromkeys(_claimed(context, problem) for problem in context.problems("F8L303")))
    covered = {entry: list(modules.covering(entry, fmt)) for entry in dict.fromkeys(fmt.ignore)}
    sound = [entry for entry, found in covered.items() if not found]
    plain = Candidates(_unquantized(context))
    still = {name for entry in sound for name in plain.covering(entry, fmt)} if any(covered.values()) else set()
    table: dict[str, list[_Wide]] = {}
    for entry, found in covered.items():
        if found:
            wide = _Wide(entry, found[0], sorted(name for name in plain.covering(entry, fmt) if name not in still))
            for module in found:
                table.setdefault(module, []).append(wide)
    return table


def _claimed(context: Context, problem: Problem) -> str:
    """The module that the configuration was asked about: of a tensor of all experts, theirs."""
    uses = users(context).get(stored_name(problem.tensor, context.checkpoint.lowered.pieces))
    if not uses:
        return problem.tensor.rpartition(".")[0]
    return _stored(context, uses[0].module.name)


def _unquantized(context: Context) -> frozenset[str]:
    return frozenset(_stored(context, name) for name in stored_unquantized(context))


def _stored(context: Context, module: str) -> str:
    stack = context.checkpoint.lowered.stacks.get(module)
    return module if stack is None else stack.base


REPAIR = Repair(title="removes the entries that cover it from the ignore list", actions=actions)
