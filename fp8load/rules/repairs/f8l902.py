"""F8L902: a KV-cache scale gets the usual name."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.formats.kv_names import BOTH
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Rename


def actions(context: Context, problem: Problem) -> Iterator[Rename]:
    """self_attn.k_scale and v_scale. One for keys and values stays: it would have to become two."""
    tensors = context.checkpoint.index.tensors
    meta, to = tensors.get(problem.tensor), problem.expected
    known = any(f"{attention}.{role}" == to for attention, role in context.checkpoint.lowered.kv)
    if meta is not None and known and to not in tensors and not meta.name.endswith(f".{BOTH}"):
        yield Rename(meta, to)


REPAIR = Repair(
    title="renames the scale", actions=actions, only_if="an engine may read this name and not the usual one"
)
