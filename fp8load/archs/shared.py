"""What families call their shared experts, and the projections of an expert: for checkpoints of families that are not
known too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from fp8load.archs.base import Arch, Linear
from fp8load.archs.find import families


@cache
def shared_names() -> tuple[str, ...]:
    """Last components of modules that hold shared experts beside the routed ones: "shared_experts", "shared_mlp"."""
    return tuple(sorted({name for arch in families() for _, name in _shared(arch)}))


@cache
def projections() -> Mapping[str, frozenset[str]]:
    """Last component of an expert's linear layer -> the slots that it fills: "w1" gate, "gate_up_proj" gate and up."""
    table: dict[str, frozenset[str]] = {}
    for arch in families():
        spelled = (linear for kind in arch.experts() for pair in kind.spellings for linear in pair)
        for linear in (*spelled, *(linear for linear, _ in _shared(arch))):
            names = [(part.module or linear.target, {part.slot}) for part in linear.parts]
            for name, slots in (*names, (linear.target, {part.slot for part in linear.parts})):
                last = name.rpartition(".")[2]
                table[last] = table.get(last, frozenset()) | slots
    return table


def _shared(arch: Arch) -> Iterator[tuple[Linear, str]]:
    """Layers that lie in a module beside that of the routed experts whose name says that tokens share it."""
    beside = {(kind.stored or kind.target).rpartition(".")[0] for kind in arch.experts()}
    for entry in arch.every():
        if isinstance(entry, Linear):
            parent, _, name = entry.target.rpartition(".")[0].rpartition(".")
            if parent in beside and name.startswith("share"):
                yield entry, name
