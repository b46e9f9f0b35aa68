"""torch's products for scales of 32 or 16 columns on Blackwell: MXFP8, MXFP4 and NVFP4. Not run on such a GPU so far.

Sources: torch 2.10 to 2.13, `torch.nn.functional.scaled_mm` and `aten/src/ATen/native/cuda/ScaledBlas.cpp`, and its
tests of these recipes. cuBLAS multiplies MXFP8 and NVFP4; torch hands MXFP4 to MSLK (FBGEMM GenAI before 2.11).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme, PerGroup
from fp8load_kernels.dequantizable import dequantizable
from fp8load_kernels.derive import keep, largest_input_global, row_factor
from fp8load_kernels.e2m1 import pack
from fp8load_kernels.padding import padded_weight
from fp8load_kernels.quantizable import EXPONENTS, InputKind, input_kind
from fp8load_kernels.quantize import quantize_input
from fp8load_kernels.quantized import Quantized
from fp8load_kernels.shapes import as_rows, like_input
from fp8load_kernels.swizzle import swizzled

ALIGNMENT = 16
"""Rows of the weight, and bytes of a row: 16 columns of FP8, 32 of FP4. torch refuses other sizes."""

UNTRIED = "written from torch's source and tests, and not run on such a GPU so far: `fp8load doctor` there compares it"

B200, B300, RTX_50 = (10, 0), (10, 3), (12, 0)


class Recipe(NamedTuple):
    """One of the forms that torch multiplies: weights and inputs alike.

    element   dtype of the codes, and `codes` torch's for them
    cols      columns that share a scale; `scale` is torch's dtype of it
    kind      how the input is quantized
    where     compute capabilities that have it, by torch's checks and tests
    """

    name: str
    element: DType
    codes: torch.dtype
    cols: int
    scale: torch.dtype
    kind: InputKind
    where: tuple[tuple[int, int], ...]


MXFP8 = Recipe(
    "MXFP8", DType.F8_E4M3, torch.float8_e4m3fn, 32, torch.float8_e8m0fnu, InputKind.MX, (B200, B300, RTX_50)
)
MXFP4 = Recipe("MXFP4", DType.F4, torch.float4_e2m1fn_x2, 32, torch.float8_e8m0fnu, InputKind.MX, (B200, B300))
NVFP4 = Recipe(
    "NVFP4", DType.F4, torch.float4_e2m1fn_x2, 16, torch.float8_e4m3fn, InputKind.NVFP4, (B200, B300, RTX_50)
)


class TorchMX:
    """`torch.nn.functional.scaled_mm` with scales of groups in tiles of 128 x 4, which FP4 and MX units read.

    **Not run on such a GPU so far**: what is handed to torch is tested against a product in float32 that reads it back.

    The weight is used where it lies, or copied once to sizes that are multiples of 16 (FP4: K of 32); its scales are
    put into tiles, in a buffer that keeps its address. A bias, and the global scales of fused parts, which may differ,
    are applied to a float32 product. MXFP4's is BF16, for torch's kernel gives no other (and takes no bias): what is
    applied to it is rounded twice. Inputs are quantized in a launch or two; torch's operations pack codes and put
    scales into tiles, in many.
    """

    name = "torch_mx"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """MXFP8, MXFP4 and NVFP4 weights with inputs of the same kind; compute capability 10.0, 10.3, and 12.0 for all
        but MXFP4."""
        recipe = recipe_of(scheme)
        if isinstance(recipe, No):
            return recipe
        plain = dequantizable(scheme)
        if isinstance(plain, No):
            return plain
        if scheme.transforms:
            return No("does not apply " + ", ".join(scheme.transforms))
        if min(shape_NK) < 1 or (recipe.element is DType.F4 and shape_NK[1] % 2):
            return No(f"needs N and K of at least 1, and packed weights an even K, not {list(shape_NK)}")
        return _supports_device(recipe, device)

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """The weight [K, N] as a transposed view, its scales in tiles, and what is left of global scales."""
        recipe = _recipe(weights.scheme)
        if weights.weight_scale is None:
            raise ValueError("the weight has no scale")
        old = previous
        codes = weights.weight.view(torch.uint8)
        codes = padded_weight(codes, ALIGNMENT, None if old is None else old.weight.t().view(torch.uint8))
        tiles = swizzled(weights.weight_scale.view(recipe.scale))
        return Prepared(
            weights=weights,
            weight=codes.view(recipe.codes).t(),
            weight_scale=keep(tiles, None if old is None else old.weight_scale),
            input_global_scale=largest_input_global(weights, None if old is None else old.input_global_scale),
            row_factor=row_factor(weights, None if old is None else old.row_factor),
        )

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        x_MK, weights = as_rows(x), prepared.weights
        num_tokens, num_cols = x_MK.shape
        if num_tokens == 0:
            return like_input(x.new_empty(0, weights.shape[0]), x)
        recipe, factor = _recipe(weights.scheme), prepared.row_factor
        one_part = len(weights.parts) == 1
        wide = prepared.weight.shape[0] * (2 if recipe.element is DType.F4 else 1)
        padded = torch.nn.functional.pad(x_MK, (0, wide - num_cols))  # zeros give codes of zero
        quantized = quantize_input(padded, weights.scheme, None, prepared.input_global_scale)
        finished = bias is None and (one_part or factor is None) and x.dtype in (torch.bfloat16, torch.float16)
        level = factor[:1] if one_part and factor is not None else None
        y_MN = _product(prepared, recipe, quantized, level, x.dtype if finished else torch.float32)
        y_MN = y_MN[:, : weights.shape[0]]
        if factor is not None and not one_part:
            y_MN = y_MN.float() * factor
        if bias is not None:
            y_MN = y_MN.float() + bias.float()
        return like_input(y_MN.to(x.dtype), x)


def recipe_of(scheme: LinearScheme) -> Recipe | No:
    """The recipe of a scheme, or why there is none. Pure."""
    weight, given = scheme.weight, scheme.input
    if given is None:
        return No("quantizes the input, and the scheme is weight-only")
    exponents = weight.scale_dtype in EXPONENTS
    recipe = next((
        one for one in (MXFP8, MXFP4, NVFP4)
        if weight.dtype is one.element and weight.granularity == PerGroup(one.cols)
        and (exponents if one.kind is InputKind.MX else weight.scale_dtype is DType.F8_E4M3)
    ), None)  # fmt: skip
    if recipe is None:
        text = f"{weight.dtype} {weight.granularity} with scales of {weight.scale_dtype or 'no dtype'}"
        return No(f"takes weights of MXFP8, MXFP4 and NVFP4, not {text}")
    kind = input_kind(scheme)
    if isinstance(kind, No):
        return kind
    if kind is not recipe.kind or given.dtype is not recipe.element or given.granularity != weight.granularity:
        return No(f"takes {recipe.name} weights with inputs of the same form, not {given.dtype} {given.granularity}")
    if recipe is not NVFP4 and scheme.second_level:
        return No(f"takes {recipe.name} weights with one level of scales")
    return recipe


def _recipe(scheme: LinearScheme) -> Recipe:
    """The recipe of a scheme that `supports` took."""
    recipe = recipe_of(scheme)
    if isinstance(recipe, No):
        raise ValueError(f"{scheme}: {recipe.reason}")  # noqa: TRY004  # a scheme's value, not an argument's type
    return recipe


def _supports_device(recipe: Recipe, device: Device) -> Verdict:
    if device.kind != "cuda" or device.capability not in recipe.where or torch.version.hip is not None:
        places = " or ".join(f"{major}.{minor}" for major, minor in recipe.where)
        return No(f"runs {recipe.name} on compute capability {places}, and this is {device}")
    if recipe is MXFP4 and not has_mxfp4():
        return No(f"needs a torch that was built with MSLK or FBGEMM GenAI for MXFP4, and {torch.__version__} was not")
    return Yes(UNTRIED)


@cache
def has_mxfp4() -> bool:
    """Whether this torch was built with the library that multiplies MXFP4 on CUDA; without it torch refuses that."""
    flags = torch.__config__.show()
    return "-DUSE_MSLK" in flags or "-DUSE_FBGEMM_GENAI" in flags


def _product(
    prepared: Prepared, recipe: Recipe, quantized: Quantized, level: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Codes times codes times scales, [M, N] with the padding; `level` is the global scale of NVFP4 weights, or one."""
    block, scale = quantized.block, prepared.weight_scale
    if block is None or scale is None:
        raise ValueError(f"{recipe.name} has scales of groups on both sides")
    codes = pack(quantized.codes).view(recipe.codes) if recipe.element is DType.F4 else quantized.codes
    kinds, tiles = torch.nn.functional.ScalingType, torch.nn.functional.SwizzleType
    if recipe is not NVFP4:
        return torch.nn.functional.scaled_mm(
            codes, prepared.weight, swizzled(block), kinds.BlockWise1x32, scale, kinds.BlockWise1x32,
            swizzle_a=tiles.SWIZZLE_32_4_4, swizzle_b=tiles.SWIZZLE_32_4_4,
            output_dtype=torch.bfloat16 if recipe is MXFP4 else dtype,
        )  # fmt: skip
    given = quantized.level
    if given is None:
        raise ValueError("NVFP4 has a scale of its scales")
    both, order = [kinds.BlockWise1x16, kinds.TensorWise], [tiles.SWIZZLE_32_4_4, tiles.NO_SWIZZLE]
    own = torch.ones(1, dtype=torch.float32, device=codes.device) if level is None else level
    return torch.nn.functional.scaled_mm(
        codes, prepared.weight, [swizzled(block), given.reshape(1)], both, [scale, own], both,
        swizzle_a=order, swizzle_b=order, output_dtype=dtype,
    )  # fmt: skip
