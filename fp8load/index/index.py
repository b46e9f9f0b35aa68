"""The index: every tensor's name, dtype, shape and place, read from headers alone; and the config files beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from fp8load.dtypes import DType
from fp8load.errors import Problem


class TensorMeta(NamedTuple):
    """One tensor as a header declares it. `begin`/`end` are absolute byte offsets in `file`.

    A named tuple, not a dataclass: DeepSeek-V3 has 91,991 of them, and a tuple is built four times faster.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.begin

    @property
    def num_elements(self) -> int:
        """Elements of the logical shape; 1 for a scalar."""
        return prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeta:
    """One safetensors file: its size, the bytes of its header, its free metadata, and how many tensors it declares.

    `header_digest`: SHA-256 of the header, with its length; of a file that is only planned, none.
    """

    name: str
    nbytes: int
    header_nbytes: int
    num_tensors: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    header_digest: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Everything that headers and small files say.

    files      safetensors files that belong to the checkpoint, by name
    strays     safetensors files in the folder that index.json does not name (a second copy, a leftover)
    tensors    by name, in file order; of a name that lies in two files, the one that index.json points to
    duplicates name -> further places of a tensor that lies in more than one file
    declared   index.json's weight_map (name -> file), None without an index; kept apart from `tensors` on purpose
    configs    parsed JSON documents by file name ("config.json", "hf_quant_config.json", ...)
    embedded   what the safetensors files say of their own quantization, by its kind (`fp8load.index.embedded`)
    problems   what is wrong with the files, in the order found; readers that go on raise the first
    total_size index.json's metadata.total_size, None where it says nothing
    """

    files: Mapping[str, FileMeta]
    strays: Mapping[str, FileMeta]
    tensors: Mapping[str, TensorMeta]
    duplicates: Mapping[str, tuple[TensorMeta, ...]]
    declared: Mapping[str, str] | None
    configs: Mapping[str, Mapping[str, Any]]
    embedded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    total_size: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data."""
        return sum(meta.end - meta.begin for meta in self.tensors.values())

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, or an empty mapping."""
        return self.configs.get("config.json", {})

    def digest(self) -> str:
        """SHA-256 over name, dtype, shape and place of every tensor: equal digests, equal plans."""
        return hashlib.sha256(repr(list(map(tuple, self.tensors.values()))).encode()).hexdigest()
