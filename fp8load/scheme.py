"""The vocabulary that every dialect is lowered to: how one linear module is stored and how its input is quantized.

The one convention: **real = stored * scale** (twice, where there is a second level), whatever the file's direction is;
`SecondLevel.divides` records that a file stores the reciprocal.

Shape letters: N output rows, K input columns, bn/bk block rows/columns, g group columns.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import assert_never

from fp8load.dtypes import DType


class Role(enum.StrEnum):
    """What a tensor of a module is for; also the name of its parameter."""

    WEIGHT = "weight"
    WEIGHT_SCALE = "weight_scale"
    WEIGHT_GLOBAL_SCALE = "weight_global_scale"
    INPUT_SCALE = "input_scale"
    INPUT_GLOBAL_SCALE = "input_global_scale"
    BIAS = "bias"
    PRE_QUANT_SCALE = "pre_quant_scale"
    LOW_RANK_A = "low_rank_a"
    LOW_RANK_B = "low_rank_b"
    K_SCALE = "k_scale"
    V_SCALE = "v_scale"
    Q_SCALE = "q_scale"
    PROB_SCALE = "prob_scale"


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale. Weight [N, K] -> scale [], [1] or [1, 1] on disk, one element for each shard in a parameter."""

    def __str__(self) -> str:
        return "per tensor"


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale for each output row. Weight [N, K] -> scale [N, 1] (or [N] on disk)."""

    def __str__(self) -> str:
        return "per channel"


@dataclass(frozen=True, slots=True)
class PerToken:
    """One scale for each row of an activation [M, K] -> [M, 1], computed while running."""

    def __str__(self) -> str:
        return "per token"


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale for each block of `rows` x `cols`. Weight [N, K] -> scale [ceil(N/rows), ceil(K/cols)].

    The last block of either axis may be partial: [576, 7168] with 128 x 128 has a [5, 56] grid.
    """

    rows: int
    cols: int

    def __str__(self) -> str:
        return f"block {self.rows} x {self.cols}"


@dataclass(frozen=True, slots=True)
class PerGroup:
    """One scale for `cols` neighbours of a row. Weight [N, K] -> [N, ceil(K/cols)]; activations alike."""

    cols: int

    def __str__(self) -> str:
        return f"group 1 x {self.cols}"


Granularity = PerTensor | PerChannel | PerToken | PerBlock | PerGroup
"""Closed: `match` over it ends in `assert_never`."""


def scale_shape(granularity: Granularity, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Canonical shape of the scale of a matrix of `shape` [..., N, K]; leading axes (experts) are kept.

    PerTensor [1], PerChannel and PerToken [N, 1], PerBlock [ceil(N/bn), ceil(K/bk)], PerGroup [N, ceil(K/g)].
    """
    *lead, num_rows, num_cols = shape
    match granularity:
        case PerTensor():
            return (*lead, 1)
        case PerChannel() | PerToken():
            return (*lead, num_rows, 1)
        case PerBlock(rows=bn, cols=bk):
            return (*lead, -(-num_rows // bn), -(-num_cols // bk))
        case PerGroup(cols=g):
            return (*lead, num_rows, -(-num_cols // g))
        case _:
            assert_never(granularity)


class SharedExponent(enum.StrEnum):
    """How the power of two that a group shares is chosen from its largest magnitude `amax`, while running.

    Stored scales are what they are; only inputs (and the writer of weights) choose. E is the exponent of the element
    dtype's largest finite value: 2 for E2M1 and E2M3, 4 for E3M2, 8 for E4M3.

    FLOOR    floor(log2(amax)) - E. OCP Microscaling Formats 1.0, section 6.3; the largest element may saturate
    ELEMENT  the same of amax rounded (half up) to the element's mantissa bits: Quark's `even`
    ONE_BIT  the same of amax rounded to one mantissa bit, whatever the element: compressed-tensors
    CEIL     ceil(log2(amax)) - E: Quark's `ceil`
    FIT      ceil(log2(amax / largest)): nothing saturates: ModelOpt
    """

    FLOOR = "floor"
    ELEMENT = "element"
    ONE_BIT = "one-bit"
    CEIL = "ceil"
    FIT = "fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """How one operand is quantized: element dtype, granularity, and the dtype that its scale is stored in.

    `scale_dtype` is None for scales that are computed while running (dynamic activations); `exponent` says how those
    are computed that are powers of two in groups of MX. `upper_bound` is the largest magnitude that a scale is computed
    of; what is larger becomes the largest code (fbgemm's `activation_scale_ub`, per token).
    """

    dtype: DType
    granularity: Granularity
    scale_dtype: DType | None = None
    exponent: SharedExponent = SharedExponent.FLOOR
    upper_bound: float | None = None


class NibbleOrder(enum.StrEnum):
    """Which half of a byte holds the element with the even index; or which of a word's eight are where.

    EVEN_FIRST  a word of 32 bits holds, lowest first, the elements 0, 2, 4, 6, 1, 3, 5, 7: AutoAWQ's order, and
                Quark's (`pack_method: reorder`)
    """

    LOW_FIRST = "low-first"
    HIGH_FIRST = "high-first"
    EVEN_FIRST = "even-first"


class ScaleLayout(enum.StrEnum):
    """How block scales lie in the file."""

    ROW_MAJOR = "row-major"
    SWIZZLED_128X4 = "swizzled-128x4"


class Repack(enum.StrEnum):
    """What the reader does to a tensor's bytes, so that memory holds rows in order, low nibbles first, and integers in
    two's complement."""

    SWAP_NIBBLES = "nibbles swapped"
    REMOVE_OFFSET = "offset removed"
    ORDER_WORDS = "words in order"
    UNSWIZZLE = "unswizzled"


class ScaleRounding(enum.StrEnum):
    """How scale values are rounded, which need not follow from the dtype that they are stored in."""

    ANY = "any"
    POWER_OF_TWO = "power-of-two"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondLevel:
    """A scale of the scales: one number for each logical shard.

    `divides`: the file stores the reciprocal (compressed-tensors NVFP4), so real = code * block / stored.
    """

    dtype: DType
    divides: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How the weight's elements lie in the file, where that is not one element after the other, rows first.

    padded_rows, padded_cols   rows and columns in the file beyond those of the weight
    offset                     what the file adds to each 4-bit integer, to hold it without a sign: 8, or nothing
    """

    elements_per_byte: int = 1
    nibble_order: NibbleOrder = NibbleOrder.LOW_FIRST
    transposed: bool = False
    interleaved: bool = False
    scale_layout: ScaleLayout = ScaleLayout.ROW_MAJOR
    padded_rows: int = 0
    padded_cols: int = 0
    offset: int = 0
    stacked_axis: int | None = None


class Transform(enum.StrEnum):
    """What belongs to a weight beside its scales, in the order of application: W = (code * scale + B @ A) * s.

    PRE_QUANT_SCALE    s [K]: the input's columns are multiplied by it before the input is quantized (AWQ)
    LOW_RANK_RESIDUAL  A [r, K], B [N, r]: a product that is added to the layer's (SVDQuant); its input is scaled by s
                       and not quantized
    ROTATION           an orthogonal matrix around the weight
    """

    PRE_QUANT_SCALE = "pre_quant_scale"
    LOW_RANK_RESIDUAL = "low_rank_residual"
    ROTATION = "rotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScheme:
    """How a linear module is stored and run. Hashable; modules stored alike share one object.

    weight         dtype, granularity and scale dtype of the stored weight
    input          how the input is quantized before the product; None: it is not (weight-only)
    input_static   the input scale is a stored number, not computed from the input
    second_level   a scale of the block scales (NVFP4), and its direction
    input_global   the same for the input
    rounding       whether scales are powers of two by rule (`scale_fmt: ue8m0`)
    suffixes       role -> the suffix that it has on disk, e.g. weight_scale -> "weight_scale_inv"
    storage        packing, transposition, swizzle, padding
    transforms     what else has to be applied; a backend that cannot refuses. In a claim: what a module may have
    residual_rank  r of the low-rank residual, 0 without one
    """

    weight: QuantSpec
    input: QuantSpec | None = None
    input_static: bool = False
    second_level: SecondLevel | None = None
    input_global: SecondLevel | None = None
    rounding: ScaleRounding = ScaleRounding.ANY
    suffixes: tuple[tuple[Role, str], ...] = ()
    storage: Storage = field(default_factory=Storage)
    transforms: tuple[Transform, ...] = ()
    residual_rank: int = 0

    def suffix(self, role: Role) -> str:
        """The suffix that `role` has on disk; the role's own name where the format does not say otherwise."""
        return dict(self.suffixes).get(role, role.value)

    def in_memory(self) -> LinearScheme:
        """The scheme after reading: nibbles low first, signed integers, scales in rows, without the file's padding."""
        packed = Storage(elements_per_byte=self.storage.elements_per_byte)
        unpacked = replace(
            self.storage,
            nibble_order=packed.nibble_order,
            scale_layout=packed.scale_layout,
            padded_rows=0,
            padded_cols=0,
            offset=0,
        )
        return self if unpacked == self.storage else replace(self, storage=unpacked)

    def __str__(self) -> str:
        text = f"{self.weight.dtype.lower()} {self.weight.granularity}"
        if self.weight.scale_dtype is not None:
            text += f", scale {self.weight.scale_dtype}"
        if self.storage.scale_layout is not ScaleLayout.ROW_MAJOR:
            text += f" {self.storage.scale_layout}"
        if self.storage.nibble_order is not NibbleOrder.LOW_FIRST:
            text += f", {self.storage.nibble_order} nibbles"
        if self.input is None:
            text += "; weight-only"
        else:
            text += f"; input {'static' if self.input_static else 'dynamic'} {self.input.granularity}"
            text += "" if self.input.upper_bound is None else f", at most {self.input.upper_bound:g}"
        return text + ("; with " + ", ".join(self.transforms) if self.transforms else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class KVScheme:
    """How the KV cache is quantized: dtype, granularity, and whether scales are stored."""

    dtype: DType
    granularity: Granularity
    static: bool
