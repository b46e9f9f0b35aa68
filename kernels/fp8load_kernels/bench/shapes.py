"""Layers to measure: built-in shapes of known models under any of `SCHEMES`, and any other by its sizes."""

from __future__ import annotations

from dataclasses import dataclass

from fp8load.scheme import LinearScheme
from fp8load_kernels.bench.schemes import SCHEMES

SHAPES = {
    "l8b.qkv": (6144, 4096), "l8b.gate_up": (28672, 4096), "l8b.down": (4096, 14336), "l70b.qkv": (10240, 8192),
    "l70b.down": (8192, 28672), "ds3.q_b": (24576, 1536), "ds3.o": (7168, 16384), "ds3.sh_gate_up": (4096, 7168),
}  # fmt: skip
"""[N, K] of layers of Llama 3.1 8B and 70B, and of DeepSeek-V3."""

SMALL = {"small.square": (512, 512), "small.tall": (1024, 512), "small.wide": (512, 1024)}
"""For machines without a GPU."""

NAMED = {**SHAPES, **SMALL}
TOKENS = (1, 16, 64, 512, 4096, 8192)
FEW_TOKENS = (1, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A layer to measure: its name, scheme, parts (slot, rows) in fused order, and columns.

    kind   a short name of the scheme
    count  how many such layers the model has
    """

    name: str
    kind: str
    scheme: LinearScheme
    parts: tuple[tuple[str, int], ...]
    num_cols: int
    count: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]."""
        return sum(rows for _, rows in self.parts), self.num_cols


def groups() -> list[str]:
    """The names of groups of built-in shapes, and how one of a group is called."""
    return [*dict.fromkeys(name.partition(".")[0] for name in NAMED), "or one: " + next(iter(NAMED))]


def named(pattern: str, kind: str) -> list[Case]:
    """The built-in shapes of this name ("l8b.qkv") or group ("l8b", "small"); none where there is none."""
    return [
        sized(name, shape, kind)
        for name, shape in NAMED.items()
        if pattern in (name, name.partition(".")[0])
    ]  # fmt: skip


def sized(name: str, shape_NK: tuple[int, int], kind: str) -> Case:
    """A layer of one part under one of `SCHEMES`."""
    return Case(name=name, kind=kind, scheme=SCHEMES[kind], parts=(("w", shape_NK[0]),), num_cols=shape_NK[1])
