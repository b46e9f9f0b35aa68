"""F8L301: an entry that covers nothing is rewritten to the stored name, or removed."""

from collections.abc import Iterator, Mapping

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.listed import PLAIN
from fp8load.rules.repairs.meant import meant
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.places import edit_list, stored_unquantized
from fp8load.writing.actions import Edit


def actions(context: Context, problem: Problem) -> Iterator[Edit]:
    """The stored name is the one unquantized module that ends like the entry, with as little cut off in front as can
    be. Where several do, or a quantized module does, the entry is only removed: it covered nothing."""
    entry = problem.module
    yield from edit_list(context, "discard", entry)
    if PLAIN.fullmatch(entry) is None:  # a glob or an expression that this method does not read
        for name in meant(context, entry):
            yield from edit_list(context, "append", name)
        return
    alike = _by_last(context).get(entry.rpartition(".")[2], ())
    rest = entry
    while rest:
        ends = [name for name in alike if name == rest or name.endswith(f".{rest}")]
        if len(ends) == 1 and ends[0] in stored_unquantized(context):
            yield from edit_list(context, "append", ends[0])
        if ends:
            return
        rest = rest.partition(".")[2]


@once
def _by_last(context: Context) -> Mapping[str, list[str]]:
    """Last component -> the modules that end in it."""
    table: dict[str, list[str]] = {}
    for name in context.checkpoint.lowered.modules:
        table.setdefault(name.rpartition(".")[2], []).append(name)
    return table


REPAIR = Repair(title="rewrites the entry to the stored name, or removes it", actions=actions)
