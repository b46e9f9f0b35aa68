"""real = stored * scale with numpy: the same arithmetic, bit for bit, as `runtime.dequantize` does with torch.

Shape letters: R rows of a band, K columns, n x k the grid of scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, assert_never

from fp8load.dtypes import DType, decode, decode_table
from fp8load.formats.lowered import ModuleInfo
from fp8load.index.index import TensorMeta
from fp8load.scheme import (
    Granularity,
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    Role,
    scale_shape,
)
from fp8load.values.read import bands, in_rows

if TYPE_CHECKING:
    from numpy import float32, intp, uint8
    from numpy.typing import NDArray

    from fp8load.checkpoint import Checkpoint

_WHOLE: dict[DType, str] = {DType.I8: "i1", DType.U8: "u1"}
_SCALES = frozenset({dtype for dtype in DType if dtype.is_wide_float or dtype.is_fp8} | {DType.F8_E8M0})

CHUNK = 8 << 20
"""Bytes of a scale that are read at once."""


def can_be_decoded(dtype: DType) -> bool:
    """Whether elements of a weight in this dtype are numbers: floats of any size, and integers up to 8 bits."""
    return dtype.bits < 8 or dtype.is_fp8 or dtype.is_wide_float or dtype in _WHOLE


def decoded(dtype: DType, raw: NDArray[uint8]) -> NDArray[float32]:
    """Stored elements as float32 [R, K], of bytes [R, B]; F4 and I4: two in a byte, F6: four in three bytes."""
    import numpy as np

    if dtype in _WHOLE:
        return raw.view(_WHOLE[dtype]).astype(np.float32)
    if dtype.bits == 6:
        low, middle, high = np.moveaxis(raw.reshape(len(raw), -1, 3).astype(np.uint32), -1, 0)
        word = low | middle << 8 | high << 16
        codes = np.stack([word >> shift & 63 for shift in (0, 6, 12, 18)], axis=-1)
        return decode_table(dtype).take(codes).reshape(len(raw), -1)
    if dtype.bits == 4:
        return _pairs(dtype).take(raw, axis=0).reshape(len(raw), -1)
    if dtype.is_fp8:
        return decode_table(dtype).take(raw)
    values = decode(dtype, np.ascontiguousarray(raw).data.cast("B"))
    return values.astype(np.float32, copy=False).reshape(len(raw), -1)


@cache
def _pairs(dtype: DType) -> NDArray[float32]:
    """[256, 2]: both elements of a byte, the low one first."""
    import numpy as np

    table, codes = decode_table(dtype), np.arange(256)
    return np.stack([table[codes & 15], table[codes >> 4]], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantizer:
    """What turns decoded rows of one weight into real ones.

    scale        codes [n, k] of its canonical shape, kept as stored; None: the weight is not scaled
    factor       one number for all scales, or 1 over it where it divides
    pre_quant    s [K] and low_rank (A [r, K], B [N, r]): W = (code * scale + B @ A) * s
    """

    granularity: Granularity | None = None
    scale: NDArray[Any] | None = None
    scale_dtype: DType = DType.F32
    factor: float32 | None = None
    divides: bool = False
    pre_quant: NDArray[float32] | None = None
    low_rank: tuple[NDArray[float32], NDArray[float32]] | None = None

    def real(self, values: NDArray[float32], rows: NDArray[intp]) -> NDArray[float32]:
        """`values` [R, K], maybe in place, times their scales; `rows` are their numbers in the weight."""
        import numpy as np

        if self.scale is not None and self.granularity is not None:
            if not values.flags.writeable:
                values = values.copy()
            at = rows_of_scale(self.granularity, rows)
            _multiply_(values, self.scales_of(at), self.granularity)
        if self.low_rank is not None:
            a, b = self.low_rank
            values = values + (b[rows].astype(np.float64) @ a.astype(np.float64)).astype(np.float32)
        return values if self.pre_quant is None else values * self.pre_quant

    def scales_of(self, at: NDArray[intp]) -> NDArray[float32]:
        """Rows `at` of the grid of scales, float32 [R, k], with the second level."""
        import numpy as np

        if self.scale is None:
            raise ValueError("this weight has no scale")
        found = decode(self.scale_dtype, self.scale[at].tobytes()).astype(np.float32, copy=False)
        factors = found.reshape(len(at), -1)
        if self.factor is None:
            return factors
        return factors / self.factor if self.divides else factors * self.factor


def rows_of_scale(granularity: Granularity, rows: NDArray[intp]) -> NDArray[intp]:
    """Where the scales of a weight's rows stand in their grid; of one scale for all once."""
    match granularity:
        case PerTensor():
            return rows[:1] * 0
        case PerChannel() | PerToken() | PerGroup():
            return rows
        case PerBlock(rows=bn):
            return rows // bn
        case _:
            assert_never(granularity)


def _multiply_(values: NDArray[float32], factors: NDArray[float32], granularity: Granularity) -> None:
    """[R, K] times [R or 1, k], each factor for `cols` neighbours; the last ones may be fewer."""
    num_rows, num_cols = values.shape
    width = granularity.cols if isinstance(granularity, PerBlock | PerGroup) else num_cols
    cut = num_cols // width * width
    if cut == num_cols:
        values.reshape(num_rows, -1, width)[...] *= factors[:, :, None]
        return
    body = values[:, :cut]
    body *= factors[:, : cut // width].repeat(width, axis=1)
    values[:, cut:] *= factors[:, cut // width :]


def can_be_dequantized(info: ModuleInfo) -> bool:
    """Whether headers say that a module's weight has its scales, or needs none: `dequantizer_of` will make it real."""
    weight, scheme = info.tensors[Role.WEIGHT], info.scheme
    if not can_be_decoded(weight.dtype) or not weight.shape:
        return False
    if scheme is None or Role.WEIGHT_SCALE not in info.tensors:
        return True
    scale, shape = info.tensors[Role.WEIGHT_SCALE], _canonical(scheme, weight)
    if shape is None or scale.num_elements != prod(shape) or scale.dtype not in _SCALES:
        return False
    second = info.tensors.get(Role.WEIGHT_GLOBAL_SCALE)
    if second is None:
        return scheme.second_level is None  # a lost one is no 1
    return second.num_elements == 1 and second.dtype in _SCALES


def dequantizer_of(checkpoint: Checkpoint, info: ModuleInfo, *, transforms: bool = True) -> Dequantizer | None:
    """What makes a module's weight real; None where its tensors do not fit each other, which other rules say.

    Reads its scales. `transforms`: with what belongs to the weight beside them (pre-quantization scale, residual).
    """
    scheme = info.scheme
    if not can_be_dequantized(info):
        return None
    if scheme is None or Role.WEIGHT_SCALE not in info.tensors:
        return Dequantizer()
    scale, second = info.tensors[Role.WEIGHT_SCALE], info.tensors.get(Role.WEIGHT_GLOBAL_SCALE)
    return Dequantizer(
        granularity=scheme.weight.granularity,
        scale=_codes(checkpoint, info, scale).reshape(_canonical(scheme, info.tensors[Role.WEIGHT]) or ()),
        scale_dtype=scale.dtype,
        factor=None if second is None else _numbers(checkpoint, second)[0],
        divides=scheme.second_level is not None and scheme.second_level.divides,
        pre_quant=_pre_quant(checkpoint, info) if transforms else None,
        low_rank=_low_rank(checkpoint, info) if transforms else None,
    )


def _canonical(scheme: LinearScheme, weight: TensorMeta) -> tuple[int, int] | None:
    if len(weight.shape) != 2 or 0 in weight.shape:
        return None
    if scheme.weight.granularity == PerTensor():
        return 1, 1
    rows, cols = scale_shape(scheme.weight.granularity, weight.shape)
    return rows, cols


def _codes(checkpoint: Checkpoint, info: ModuleInfo, scale: TensorMeta) -> NDArray[Any]:
    """A scale as stored, as whole numbers of its size, rows in order."""
    import numpy as np

    data = b"".join(in_rows(checkpoint, scale, CHUNK))
    flat = np.frombuffer(data, dtype=f"<u{scale.dtype.bits // 8}")
    return flat.reshape(scale.shape[::-1]).T if Role.WEIGHT_SCALE in info.transposed else flat


def _numbers(checkpoint: Checkpoint, meta: TensorMeta) -> NDArray[float32]:
    """A small float tensor, flat."""
    import numpy as np

    return decode(meta.dtype, b"".join(in_rows(checkpoint, meta, CHUNK))).astype(np.float32, copy=False)


def _pre_quant(checkpoint: Checkpoint, info: ModuleInfo) -> NDArray[float32] | None:
    meta = info.tensors.get(Role.PRE_QUANT_SCALE)
    return None if meta is None else _numbers(checkpoint, meta)


def _low_rank(checkpoint: Checkpoint, info: ModuleInfo) -> tuple[NDArray[float32], NDArray[float32]] | None:
    a, b = (info.tensors.get(role) for role in (Role.LOW_RANK_A, Role.LOW_RANK_B))
    if a is None or b is None:
        return None
    return _numbers(checkpoint, a).reshape(a.shape), _numbers(checkpoint, b).reshape(b.shape)


def real_rows(
    checkpoint: Checkpoint, info: ModuleInfo, *, nbytes: int
) -> Iterator[tuple[int, NDArray[float32]]] | None:
    """(first row, float32 [R, K]) of a module's dequantized weight, in bands of about `nbytes` stored bytes; None where
    it cannot be dequantized."""
    import numpy as np

    made = dequantizer_of(checkpoint, info)
    if made is None:
        return None
    weight = info.tensors[Role.WEIGHT]
    return (
        (begin, made.real(decoded(weight.dtype, raw), np.arange(begin, begin + len(raw))))
        for begin, raw in bands(checkpoint, weight, columns_first=Role.WEIGHT in info.transposed, nbytes=nbytes)
    )
