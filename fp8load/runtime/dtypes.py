"""From the dtypes of a file to those of torch, and the poison that unwritten scales hold."""

from __future__ import annotations

import torch

from fp8load.dtypes import NAN_BYTES, DType

TORCH_DTYPES: dict[DType, torch.dtype] = {
    DType.BOOL: torch.bool, DType.U8: torch.uint8, DType.I8: torch.int8,
    DType.I4: torch.uint8, DType.F4: torch.uint8,  # packed: bytes in memory
    DType.F6_E2M3: torch.uint8, DType.F6_E3M2: torch.uint8,
    DType.F8_E5M2: torch.float8_e5m2, DType.F8_E4M3: torch.float8_e4m3fn, DType.F8_E8M0: torch.float8_e8m0fnu,
    DType.F8_E4M3FNUZ: torch.float8_e4m3fnuz, DType.F8_E5M2FNUZ: torch.float8_e5m2fnuz,
    DType.I16: torch.int16, DType.U16: torch.uint16, DType.F16: torch.float16, DType.BF16: torch.bfloat16,
    DType.I32: torch.int32, DType.U32: torch.uint32, DType.F32: torch.float32,
    DType.C64: torch.complex64, DType.F64: torch.float64, DType.I64: torch.int64, DType.U64: torch.uint64,
}  # fmt: skip
"""What torch calls each dtype. Elements of 4 and 6 bits have no torch dtype of their own here: they are bytes."""

NAMES: dict[torch.dtype, DType] = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items() if dtype.bits >= 8}


def torch_dtype(dtype: DType) -> torch.dtype:
    """The torch dtype whose bytes in memory are those of `dtype` in a file."""
    return TORCH_DTYPES[dtype]


def describe(dtype: torch.dtype) -> str:
    """The on-disk name of a torch dtype ("F8_E4M3"), or torch's own where files have no such dtype."""
    return NAMES[dtype].value if dtype in NAMES else str(dtype)


def stored_shape(dtype: DType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the tensor that holds `shape` elements: packed dtypes take fewer bytes on the last axis.

    Raises `ValueError` where a row does not fill whole bytes.
    """
    if dtype.bits >= 8 or not shape:
        return shape
    num_bytes, rest = divmod(shape[-1] * dtype.bits, 8)
    if rest:
        raise ValueError(f"rows of {shape[-1]} elements of {dtype.bits} bits do not fill whole bytes")
    return (*shape[:-1], num_bytes)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's memory as bytes, sharing it: [..., n] becomes [..., n * itemsize]; a scalar becomes [itemsize]."""
    return (tensor.reshape(1) if tensor.dim() == 0 else tensor).view(torch.uint8)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fill_poison(tensor: torch.Tensor, dtype: DType) -> None:
    """Fill a tensor of scales with a NaN, as bytes: works for dtypes that torch has no arithmetic for.

    Raises `ValueError` for a dtype that scales are not stored in.
    """
    if dtype not in NAN_BYTES:
        raise ValueError(f"{dtype} has no NaN to mark unwritten scales with")
    pattern = NAN_BYTES[dtype]
    number = int.from_bytes(pattern, "little", signed=len(pattern) > 1)
    tensor.view(_INTEGERS[len(pattern)]).fill_(number)  # nothing is copied to a device, which would wait for it
