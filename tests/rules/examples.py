"""Checkpoints in memory from skeletons: real headers, weights of every code, scales of a given value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

import numpy as np

from fp8load.checkpoint import Checkpoint
from fp8load.dtypes import NAN_BYTES, DType, decode_table
from fp8load.index.build import build_index
from fp8load.index.embedded import METADATA, METADATA_KEY
from fp8load.index.index import TensorMeta
from fp8load.index.layout import encode_header
from fp8load.index.skeleton import parse_skeleton
from fp8load.source.memory import MemorySource


def checkpoint_of(
    skeleton: str, values: Mapping[str, float] | None = None, files: Mapping[str, bytes | int | None] | None = None
) -> Checkpoint:
    """The checkpoint that an `Example` describes."""
    stored = written(skeleton, values or {})
    for name, change in (files or {}).items():
        if change is None:
            del stored[name]
        elif isinstance(change, bytes):
            stored[name] = change
        elif change < 0:
            stored[name] = stored[name][:change]
        else:
            stored[name] += b"\0" * change
    source = MemorySource(stored)
    return Checkpoint(source, build_index(source))


def written(skeleton: str, values: Mapping[str, float]) -> dict[str, bytes]:
    """The files of a skeleton."""
    index = parse_skeleton(skeleton)
    stored: dict[str, bytes] = {}
    for file in index.files.values():
        metas = [meta for meta in index.tensors.values() if meta.file == file.name]
        data = b"".join(content(meta, values) for meta in metas)
        metadata = dict(file.metadata)
        if METADATA in index.embedded:
            metadata[METADATA_KEY] = json.dumps({"layers": dict(index.embedded[METADATA])})
        stored[file.name] = encode_header(metas, file.header_nbytes, metadata) + data
    for name, config in index.configs.items():
        stored[name] = json.dumps(config).encode()
    if index.declared is not None:
        stored["model.safetensors.index.json"] = json.dumps({"weight_map": dict(index.declared)}).encode()
    return stored


def content(meta: TensorMeta, values: Mapping[str, float]) -> bytes:
    """A tensor's bytes: of weights every code in turn, unless a value is given; scales are full of it (or of 1)."""
    if "scale" not in meta.name.rpartition(".")[2] and meta.name not in values:
        return (codes(meta.dtype) * (meta.nbytes // len(codes(meta.dtype)) + 1))[: meta.nbytes]
    return encoded(meta.dtype, values.get(meta.name, 1.0)) * meta.num_elements


@cache
def codes(dtype: DType) -> bytes:
    """Every finite FP8 code; of wider floats 0.0106 with either sign; of anything else every byte."""
    if dtype.is_wide_float:
        return encoded(dtype, 0.0106) + encoded(dtype, -0.0106)
    return bytes(code for code in range(256) if not dtype.is_fp8 or np.isfinite(decode_table(dtype)[code]))


def encoded(dtype: DType, value: float) -> bytes:
    """One number in a float dtype."""
    if np.isnan(value):
        return NAN_BYTES[dtype]
    match dtype:
        case DType.F32:
            return np.float32(value).tobytes()
        case DType.F64:
            return np.float64(value).tobytes()
        case DType.F16:
            return np.float16(value).tobytes()
        case DType.BF16:
            return np.float32(value).tobytes()[2:]
        case DType.U8:  # a scale in bytes: exponents
            return encoded(DType.F8_E8M0, value)
        case DType.I32:
            return int(value).to_bytes(4, "little")
        case _:
            return bytes([int(np.flatnonzero(decode_table(dtype) == value)[0])])
