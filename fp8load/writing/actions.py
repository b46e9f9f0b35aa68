"""What is to be changed in a copy of a checkpoint, one value for each change; `str()` is its line in a diff."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from fp8load.dtypes import DType
from fp8load.index.index import TensorMeta


@dataclass(frozen=True, slots=True)
class _OfTensor:
    meta: TensorMeta

    @property
    def file(self) -> str:
        """The file that changes."""
        return self.meta.file


@dataclass(frozen=True, slots=True)
class Drop(_OfTensor):
    """Leave a tensor out."""

    def __str__(self) -> str:
        return f"- {self.meta.name}  {self.meta}"


@dataclass(frozen=True, slots=True)
class Rename(_OfTensor):
    """Write a tensor under another name."""

    to: str

    def __str__(self) -> str:
        return f"~ {self.meta.name}  {self.meta}: renamed to {self.to}"


Effect = Literal["same", "some", "every"]
"""What becomes of a tensor's numbers: they stay, under another dtype; single ones that are wrong are mended; or every
one is another."""


@dataclass(frozen=True, slots=True)
class Convert(_OfTensor):
    """Write a tensor's elements as others, of the same shape: `convert` gets any number of whole ones, as bytes of the
    stored dtype."""

    dtype: DType
    convert: Callable[[bytes], bytes]
    what: str
    effect: Effect = "every"

    def __str__(self) -> str:
        return f"~ {self.meta.name}  {self.meta}: {self.what}"


@dataclass(frozen=True, slots=True)
class Remake(_OfTensor):
    """Write a tensor with another shape, or with elements that depend on their places: `data` gives all of its bytes,
    in pieces of whole elements. `uses`: other tensors whose stored numbers go into it."""

    dtype: DType
    shape: tuple[int, ...]
    data: Callable[[], Iterator[bytes]]
    what: str
    uses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"~ {self.meta.name}  {self.meta}: {self.what}"


@dataclass(frozen=True, slots=True)
class Add(_OfTensor):
    """Write a tensor that was not there: its place in the file is the end, `meta.begin` and `meta.end` are not read.
    `data` are its bytes, or gives them in pieces."""

    data: bytes | Callable[[], Iterator[bytes]] = field(repr=False)
    what: str

    def __str__(self) -> str:
        return f"+ {self.meta.name}  {self.meta}: {self.what}"


@dataclass(frozen=True, slots=True)
class SetMetadata:
    """Write a key of `__metadata__`, or leave it out (None)."""

    file: str
    key: str
    value: str | None

    def __str__(self) -> str:
        sign = "-" if self.value is None else "+"
        return f"{sign} __metadata__ {self.key}" + ("" if self.value is None else f" = {self.value}")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Write a safetensors file anew from its header: only what tensors hold is kept."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"~ {self.what}"


@dataclass(frozen=True, slots=True)
class Omit:
    """Leave a whole file out."""

    file: str

    def __str__(self) -> str:
        return "- the whole file"


How = Literal["set", "remove", "append", "discard"]


@dataclass(frozen=True, slots=True)
class Edit:
    """Change a JSON file: set or remove the value at `path`, or append to and discard from the list there."""

    file: str
    path: tuple[str, ...]
    how: How
    value: Any = None

    def __str__(self) -> str:
        place = ".".join(self.path)
        match self.how:
            case "set":
                return f"~ {place} = {self.value!r}"
            case "remove":
                return f"- {place}"
            case "append":
                return f"+ {place}: {self.value!r}"
            case "discard":
                return f"- {place}: {self.value!r}"


TensorAction = Drop | Rename | Convert | Remake | Add
ShardAction = TensorAction | SetMetadata | Rewrite
Action = ShardAction | Omit | Edit
