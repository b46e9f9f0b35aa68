"""What the entries of ignore lists may name, and which of it an entry covers; rules on ignore lists share it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from fp8load.archs.base import Experts, Head, Linear, Plain, Table, Tower, Vector
from fp8load.formats.base import CheckpointFormat
from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.match import is_embedding, is_router
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

PLAIN = re.compile(r"[\w.-]+")
"""Entries that are a name or a part of one, in every dialect."""


def known_modules(checkpoint: Checkpoint) -> set[str]:
    """Modules and parameters that are stored, and what the family has: a tied head is not stored and may be listed.

    Tools list parameters too (GLM-5 `k_norm.bias`, MiniMax `e_score_correction_bias`): such an entry is not stale.
    """
    lowered = checkpoint.lowered
    stacks = (stack.base for stack in lowered.stacks.values())
    modules = {*lowered.modules, *stacks, *lowered.loose, *(name.rpartition(".")[0] for name in lowered.loose)}
    modules.update(info.tensors[Role.BIAS].name for info in lowered.modules.values() if Role.BIAS in info.tensors)
    modules.update(info.tensors[Role.WEIGHT].name for info in lowered.modules.values() if _is_never_quantized(info))
    for at, entry in checkpoint.model.entries() if checkpoint.model is not None else ():
        match entry:
            case Linear():
                modules.add(at + entry.target)
                modules.update(at + part.module for part in entry.parts)
            case Head():
                modules.add(at + entry.module)
            case Experts():
                holder = at + (entry.stored or entry.target)
                modules |= {holder, f"{holder}.0"}
            case Vector() | Plain() | Table():
                modules.add((at + entry.name).rpartition(".")[0])
            case Tower():
                modules.add(entry.prefix)
    return modules


def _is_never_quantized(info: ModuleInfo) -> bool:
    """Norms, embeddings, routers and heads in 16 bits: whether an entry of theirs is found makes no difference."""
    last, weight = info.name.rpartition(".")[2], info.tensors[Role.WEIGHT]
    is_plain = len(weight.shape) != 2 or last in _HEADS or is_embedding(info.name) or is_router(info.name)
    return info.scheme is None and weight.dtype.is_wide_float and is_plain


def may_be_absent(entry: str) -> bool:
    """Heads and embeddings: exporters list them whether or not they are stored."""
    last = re.split(r"[.*\\]+", entry)[-1].strip("$")
    return last in _HEADS or is_embedding(last)


def reads_globs(fmt: CheckpointFormat) -> bool:
    """Whether the dialect takes an entry for a shell glob."""
    return fmt.covers("a.*.c", "a.b.c")


_HEADS = frozenset({"lm_head", "proj_out", "embed_out", "output_layer"})
"""What families call the output head: `proj_out` is Whisper's, which is tied."""

_RENAMED = frozenset({"model", "language_model"})
"""Components that a name may have in memory and not in the files."""


class Candidates:
    """Modules by their components, so that thousands of entries are looked up and not searched."""

    def __init__(self, modules: Collection[str]) -> None:
        self.modules = modules

    @cached_property
    def _by_component(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for module in self.modules:
            for component in set(module.split(".")):
                found.setdefault(component, []).append(module)
        return found

    def holds(self, name: str) -> bool:
        """Whether this is the full name of a module, or of one that holds others."""
        return name in self.modules or any(True for _ in self._below(f"{name}."))

    def covered(self, entry: str, fmt: CheckpointFormat) -> bool:
        """Whether the entry covers some module."""
        return next(self.covering(entry, fmt), None) is not None

    def covering(self, entry: str, fmt: CheckpointFormat) -> Iterator[str]:
        """The modules that the entry covers. In any dialect a plain entry's components stand in the name.

        "model" and "language_model" need not: transformers renames between saving and loading.
        """
        among = self.modules
        if PLAIN.fullmatch(entry):
            parts = [part for part in entry.split(".") if part not in _RENAMED] or entry.split(".")
            among = min((self._by_component.get(part, []) for part in parts), key=len)
        return (module for module in among if fmt.covers(entry, module))

    def _below(self, prefix: str) -> Iterator[str]:
        """The names that begin with a prefix, which stand together in the sorted ones."""
        at = bisect_left(self._sorted, prefix)
        return takewhile(lambda name: name.startswith(prefix), islice(self._sorted, at, None))

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.modules)

    def nearest(self, entry: str, fmt: CheckpointFormat) -> str:
        """A module that ends in the same component, or one beside which the entry would stand and that it may mean."""
        parent, _, last = entry.rpartition(".")
        same = self._by_component.get(last)
        if same is None and parent:
            same = [name for name in self._below(f"{parent}.") if fmt.may_cover(entry, name)]
        return f"no such module; nearest: {min(same)}" if same else "no such module"
