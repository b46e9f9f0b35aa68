"""F8L403: modules that have one input get one static input scale, that of the widest range."""

from collections.abc import Iterator, Mapping

from fp8load.errors import Problem
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Repair
from fp8load.rules.families import INPUT_ROLES
from fp8load.rules.repairs.constant import constant
from fp8load.rules.repairs.once import once
from fp8load.rules.repairs.widest import divides
from fp8load.writing.actions import Convert


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """The largest, or the smallest of those that divide. Not of scales that lie in one tensor for many experts."""
    members = _groups(context).get(problem.module, [])
    for role in INPUT_ROLES:
        metas = [info.tensors[role] for info in members if role in info.tensors]
        if problem.tensor not in {meta.name for meta in metas} or context.scales is None:
            continue
        if any(meta.name not in context.checkpoint.index.tensors for meta in metas):
            return
        numbers = [context.scales.by_name[meta.name].smallest for meta in metas]
        wanted = min(numbers) if divides(members[0], role) else max(numbers)
        yield from (constant(meta, wanted) for meta, number in zip(metas, numbers, strict=True) if number != wanted)


@once
def _groups(context: Context) -> Mapping[str, list[ModuleInfo]]:
    """Fused layer, and module of all experts -> the modules that share an input."""
    fused = {group.name: list(group.members) for group in context.checkpoint.stored.fused}
    experts = {
        group.name: [info for info in group.members if info.scheme is not None]
        for group in context.checkpoint.stored.routed
    }
    return fused | experts


REPAIR = Repair(
    title="writes the input scale of the widest range into each member", actions=actions,
    only_if="lossy: inputs of the other members are rounded more coarsely",
)  # fmt: skip
