"""A checkpoint in memory that can be changed: its JSON files, its tensors, and what its index lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import fp8load
from fp8load.checkpoint import Checkpoint
from fp8load.dtypes import DType, decode, decode_table
from fp8load.formats.lowered import ModuleInfo
from fp8load.scheme import Role
from fp8load.source.memory import MemorySource
from oracle.catalog import FOLDER
from oracle.dequantize import Stored, tensors
from oracle.rewrite import FILE, bf16_bytes, file_bytes

INDEX = f"{FILE}.index.json"


@dataclass(frozen=True)
class Copy:
    """A checkpoint: one file of tensors and an index.

    files     JSON files by name, config.json among them
    stored    tensors by name
    index     what the index lists; None: exactly the tensors
    extra     further files, as bytes
    cut       bytes that are missing at the end of the tensors' file; negative: all but so many
    """

    files: Mapping[str, dict[str, Any]]
    stored: Mapping[str, Stored]
    index: tuple[str, ...] | None = None
    extra: Mapping[str, bytes] = field(default_factory=dict)
    cut: int = 0

    def open(self) -> Checkpoint:
        """The checkpoint."""
        data = file_bytes(self.stored)
        files = {name: json.dumps(document).encode() for name, document in self.files.items()}
        listed = self.stored.keys() if self.index is None else self.index
        total = sum(len(tensor.data) for tensor in self.stored.values())
        document = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(listed, FILE)}
        files[INDEX] = json.dumps(document).encode()
        files[FILE] = data[: len(data) - self.cut] if self.cut >= 0 else data[: -self.cut]
        return fp8load.open(MemorySource({**files, **self.extra}))

    @cached_property
    def quantized(self) -> tuple[ModuleInfo, ...]:
        """Quantized modules whose tensors are stored one by one, as the library reads them."""
        modules = self.open().lowered.modules.values()
        return tuple(info for info in modules if info.scheme is not None
                     and all(meta.name in self.stored for meta in info.tensors.values()))  # fmt: skip

    def of_role(self, role: Role) -> list[str]:
        """The tensors of one role, of all quantized modules."""
        return [info.tensors[role].name for info in self.quantized if role in info.tensors]

    def plain(self) -> list[str]:
        """Norms and embeddings."""
        return [name for name, tensor in self.stored.items() if tensor.dtype in ("BF16", "F32", "F16")
                and name.endswith(("norm.weight", "embed_tokens.weight"))]  # fmt: skip

    def having(self, **changed: Stored | None) -> Copy:
        """The same with some tensors changed, added, or (None) gone."""
        stored = {**self.stored, **{name: tensor for name, tensor in changed.items() if tensor is not None}}
        gone = {name for name, tensor in changed.items() if tensor is None}
        return replace(self, stored={name: tensor for name, tensor in stored.items() if name not in gone})

    def config(self, **changed: Any) -> Copy:
        """The same with some keys of config.json changed."""
        return replace(self, files={**self.files, "config.json": {**self.files["config.json"], **changed}})

    @property
    def quantization(self) -> dict[str, Any] | None:
        """config.json's quantization_config, if it is there."""
        found = self.files["config.json"].get("quantization_config")
        return found if isinstance(found, dict) else None


@lru_cache(maxsize=4)
def clean(name: str) -> Copy:
    """One of the checkpoints under fixtures, as it is."""
    folder: Path = FOLDER / name
    files = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")
             if not path.name.endswith(".index.json")}  # fmt: skip
    return Copy({name: content for name, content in files.items() if isinstance(content, dict)}, tensors(folder))


def numbers(tensor: Stored) -> np.ndarray:
    """What a scale holds; bytes of U8 are exponents."""
    dtype = DType.F8_E8M0 if tensor.dtype == "U8" else DType(tensor.dtype)
    return decode(dtype, tensor.data).reshape(tensor.shape)


def packed(dtype: str, values: np.ndarray) -> Stored:
    """Numbers under a dtype, the nearest code of small floats."""
    wanted = np.asarray(values, np.float32)
    match dtype:
        case "F32":
            data = wanted.tobytes()
        case "F16":
            data = wanted.astype(np.float16).tobytes()
        case "BF16":
            data = bf16_bytes(wanted)
        case _:
            table = decode_table(DType.F8_E8M0 if dtype == "U8" else DType(dtype))
            known = np.where(np.isnan(table), np.float32(np.inf), table)
            flat = np.array([_nearest(known, table, value) for value in wanted.reshape(-1)], np.uint8)
            data = flat.tobytes()
    return Stored(dtype, wanted.shape, data)


def _nearest(known: np.ndarray, table: np.ndarray, value: float) -> int:
    if np.isnan(value):
        return int(np.isnan(table).argmax())
    return int(np.abs(known - np.float32(min(max(value, -1e38), 1e38))).argmin())
