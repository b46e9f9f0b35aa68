"""Writes copies of a checkpoint with one thing wrong: one safetensors file, with or without an index that knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from oracle.dequantize import ITEM_SIZE, Stored, values

FILE = "model.safetensors"


def file_bytes(stored: Mapping[str, Stored]) -> bytes:
    """One safetensors file; tensors lie in the order given, without holes, as the format wants."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in stored.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensor.data for tensor in stored.values())


def write_file(path: Path, stored: Mapping[str, Stored]) -> None:
    """The same on a disk."""
    path.write_bytes(file_bytes(stored))


def write_checkpoint(
    original: Path, folder: Path, stored: Mapping[str, Stored], index: Iterable[str] | None = None
) -> Path:
    """A checkpoint with the original's config files and these tensors; `index` lists the names of index.json."""
    folder.mkdir(exist_ok=True)
    for path in original.glob("*.json"):
        if not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    write_file(folder / FILE, stored)
    if index is not None:
        total = sum(len(tensor.data) for tensor in stored.values())
        document = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(index, FILE)}
        (folder / f"{FILE}.index.json").write_text(json.dumps(document))
    return folder


def bf16_vector(length: int) -> Stored:
    """A vector of ones."""
    return Stored("BF16", (length,), bf16_bytes(np.ones(length, np.float32)))


def one_row_more(tensor: Stored) -> Stored:
    """The last row twice; a scalar becomes two numbers."""
    rows = tensor.shape[0] if tensor.shape else 1
    nbytes = len(tensor.data) // rows
    return Stored(tensor.dtype, (rows + 1, *tensor.shape[1:]), tensor.data + tensor.data[-nbytes:])


def one_row_fewer(tensor: Stored) -> Stored:
    """Without the last row."""
    nbytes = len(tensor.data) // tensor.shape[0]
    return Stored(tensor.dtype, (tensor.shape[0] - 1, *tensor.shape[1:]), tensor.data[:-nbytes])


def one_column_more(tensor: Stored) -> Stored:
    """The last column of a matrix twice."""
    rows, cols = tensor.shape
    grid = np.frombuffer(tensor.data, np.uint8).reshape(rows, cols, ITEM_SIZE[tensor.dtype])
    return Stored(tensor.dtype, (rows, cols + 1), np.concatenate((grid, grid[:, -1:]), axis=1).tobytes())


def bf16_bytes(numbers: np.ndarray) -> bytes:
    """Float32 numbers cut to BF16."""
    high: np.ndarray = (np.ascontiguousarray(numbers, np.float32).view(np.uint32) >> 16).astype("<u2")
    return high.tobytes()


def relabelled(tensor: Stored, dtype: str) -> Stored:
    """The same bytes under another dtype of the same size."""
    assert ITEM_SIZE[dtype] == ITEM_SIZE[tensor.dtype]
    return Stored(dtype, tensor.shape, tensor.data)


def cast(tensor: Stored, dtype: str) -> Stored:
    """The same numbers in another dtype."""
    numbers = values(tensor)
    data = {
        "BF16": lambda: bf16_bytes(numbers),
        "F16": lambda: numbers.astype("<f2").tobytes(),
        "F32": lambda: numbers.astype("<f4").tobytes(),
    }[dtype]()
    return Stored(dtype, tensor.shape, data)


def with_one_nan(tensor: Stored) -> Stored:
    """The element in the middle is NaN."""
    item = {"BF16": b"\xc0\x7f", "F32": b"\x00\x00\xc0\x7f"}[tensor.dtype]
    middle = len(tensor.data) // len(item) // 2 * len(item)
    return Stored(tensor.dtype, tensor.shape, tensor.data[:middle] + item + tensor.data[middle + len(item) :])
