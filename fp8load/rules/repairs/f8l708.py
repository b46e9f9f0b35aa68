"""F8L708: scales that are next to nothing are raised to a floor that kernels can divide by."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from fp8load.dtypes import DType, decode
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.users import users
from fp8load.rules.scale_stats import DEAD
from fp8load.writing.actions import Convert

FLOOR = 2.0**-49
"""The least power of two that is no dead scale: every dtype that can hold dead ones holds it."""

_BYTES: dict[DType, bytes] = {
    DType.F64: b"\0\0\0\0\0\0\xe0\x3c", DType.F32: b"\0\0\0\x27", DType.BF16: b"\0\x27", DType.F8_E8M0: b"\x4e",
}  # fmt: skip


def actions(context: Context, problem: Problem) -> Iterator[Convert]:
    """The codes stay: weights of an E4M3 block grow to 8e-13 at most."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is None or meta.name in context.checkpoint.lowered.repacks:
        return
    uses = users(context).get(meta.name, [])
    dtype = uses[0].meta.dtype if uses else meta.dtype  # bytes of exponents may be U8 in the header
    if dtype in _BYTES:
        yield Convert(meta, meta.dtype, partial(_raised, dtype), "2 ** -49 where it was less, and above zero", "some")


def _raised(dtype: DType, data: bytes) -> bytes:
    import numpy as np

    values = decode(dtype, data)
    codes = np.frombuffer(data, f"<u{dtype.bits // 8}").copy()
    codes[(values > 0) & (values < DEAD)] = np.frombuffer(_BYTES[dtype], codes.dtype)[0]
    return codes.tobytes()


REPAIR = Repair(
    title="raises the scale to 2 ** -49", actions=actions,
    only_if="lossy: weights that were next to nothing grow, and stay next to nothing",
)  # fmt: skip
