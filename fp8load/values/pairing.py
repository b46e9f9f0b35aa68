"""Which weights of two checkpoints of one model are the same, although their names or their fusion may differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fp8load.rules.fused import PARTS
from fp8load.scheme import Role
from fp8load.values.matrix import Joined, Matrix, Part, matrix_of

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

_WRAPPERS = frozenset({"model", "language_model", "text_model", "thinker"})
"""Components that a multimodal wrapper, or saving another class, puts around a language model's names."""

Found = Callable[[], Matrix | None]


class Pairing:
    """Finds the source's weight for a module, as one matrix of the module's rows.

    By name; by name without wrappers, where that is unique; and as a part of a fused layer, or joined of its parts.
    """

    def __init__(self, checkpoint: Checkpoint, source: Checkpoint) -> None:
        self._checkpoint, self._source = checkpoint, source
        self._renamed = _without_wrappers(source)
        self.used: set[str] = set()

    def find(self, module: str) -> Found | None:
        """What reads the source's weight, or None where there is no such weight."""
        name = self._name(module)
        if name is not None:
            return self._whole(name)
        parent, _, last = module.rpartition(".")
        for fused, parts in PARTS.items():
            if last in parts:
                found = self._part(parent, fused, parts, last)
            elif last == fused:
                found = self._joined(parent, parts)
            else:
                continue
            if found is not None:
                return found
        return None

    def unused(self) -> list[str]:
        """Modules of the source that nothing was compared with, of those with a matrix."""
        modules = self._source.lowered.modules
        return [name for name, info in modules.items() if name not in self.used
                and len(info.tensors[Role.WEIGHT].shape) > 1]  # fmt: skip

    def _name(self, module: str) -> str | None:
        if module in self._source.lowered.modules:
            return module
        return self._renamed.get(_bare(module))

    def _whole(self, name: str) -> Found:
        self.used.add(name)
        return lambda: matrix_of(self._source, name)

    def _part(self, parent: str, fused: str, parts: tuple[str, ...], last: str) -> Found | None:
        """The member's rows of the source's fused layer; how many are above it the members here say."""
        name = self._name(f"{parent}.{fused}")
        modules = self._checkpoint.lowered.modules
        if name is None or any(f"{parent}.{part}" not in modules for part in parts) or self._is_interleaved():
            return None
        heights = [modules[f"{parent}.{part}"].tensors[Role.WEIGHT].shape[0] for part in parts]
        if self._source.lowered.modules[name].tensors[Role.WEIGHT].shape[0] != sum(heights):
            return None
        self.used.add(name)
        at = parts.index(last)

        def read() -> Matrix | None:
            whole = matrix_of(self._source, name)
            return whole and Part(whole=whole, begin=sum(heights[:at]), num_rows=heights[at])

        return read

    def _joined(self, parent: str, parts: tuple[str, ...]) -> Found | None:
        """The members of the source, one below the other."""
        names = [self._name(f"{parent}.{part}") for part in parts]
        members = [name for name in names if name is not None]
        if len(members) < len(parts) or self._is_interleaved():
            return None
        self.used.update(members)

        def read() -> Matrix | None:
            found = [matrix_of(self._source, name) for name in members]
            stored = [matrix for matrix in found if matrix is not None]
            return Joined(parts=stored) if len(stored) == len(found) else None

        return read

    def _is_interleaved(self) -> bool:
        """Whether the family publishes gate and up in turn, so that neither is a range of rows."""
        arch = self._source.arch
        return arch is not None and any(e.published is not None and e.published.interleaved for e in arch.experts())


def _bare(module: str) -> str:
    return ".".join(part for part in module.split(".") if part not in _WRAPPERS)


def _without_wrappers(source: Checkpoint) -> Mapping[str, str]:
    """Names without wrappers -> the one module that is called so."""
    found: dict[str, str | None] = {}
    for name in source.lowered.modules:
        bare = _bare(name)
        found[bare] = None if bare in found else name
    return {bare: name for bare, name in found.items() if name is not None}
