"""Laying tensors out in a safetensors file, and the header that says so: the inverse of `header`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

from fp8load.dtypes import DType, nbytes_of
from fp8load.index.index import FileMeta, TensorMeta

FREE_METADATA: Mapping[str, str] = {"format": "pt"}
"""What transformers writes; its releases before 4.47.1 refuse files without it."""


class Entry(NamedTuple):
    """One tensor that has no place yet."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


def encode_header(tensors: Iterable[TensorMeta], data_begin: int, metadata: Mapping[str, str]) -> bytes:
    """The header as it stands in a file: 8 bytes of length, then JSON, padded with spaces to a multiple of 8 bytes.

    Offsets are written relative to `data_begin`, as the format wants them.
    """
    compact = (",", ":")
    entries = [f'"__metadata__":{json.dumps(dict(metadata), separators=compact)}'] if metadata else []
    entries += [
        f'{quoted(name)}:{{"dtype":"{dtype.value}","shape":{list(shape)},'
        f'"data_offsets":[{begin - data_begin},{end - data_begin}]}}'
        for name, dtype, shape, _, begin, end in tensors
    ]
    text = ("{" + ",".join(entries) + "}").encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def lay_out(
    file: str, entries: Iterable[Entry], metadata: Mapping[str, str] = FREE_METADATA
) -> tuple[FileMeta, list[TensorMeta]]:
    """Tensors one after the other in a new file, in the order given.

    Raises `ValueError` for packed dtypes (4 and 6 bits) that do not fill whole bytes.
    """
    relative: list[TensorMeta] = []
    at = 0
    for name, dtype, shape in entries:
        end = at + nbytes_of(dtype, shape)
        relative.append(TensorMeta(name, dtype, shape, file, at, end))
        at = end
    data_begin = len(encode_header(relative, 0, metadata))
    tensors = [
        TensorMeta(name, dtype, shape, file, begin + data_begin, end + data_begin)
        for name, dtype, shape, _, begin, end in relative
    ]
    meta = FileMeta(name=file, nbytes=data_begin + at, header_nbytes=data_begin,
                    num_tensors=len(tensors), metadata=metadata)  # fmt: skip
    return meta, tensors
