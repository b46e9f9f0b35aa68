"""Compile kernels for Hopper, some for Ampere too, without a GPU: `python tests/kernels/compiled.py`, a line for each.

Run in a process of its own: where Triton interprets, it does not compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fp8load_kernels.gpu import (
    activation,
    few,
    grouped,
    quantize_micro,
    routing,
    unpack,
    weight_only,
    weight_only_grouped,
)

TARGET = GPUTarget("cuda", 90, 32)
AMPERE = GPUTarget("cuda", 80, 32)
FP8, BF16, F32, I32, I64, U8 = "*fp8e4nv", "*bf16", "*fp32", "*i32", "*i64", "*u8"
POINTERS = {
    "x_ptr": FP8, "w_ptr": FP8, "y_ptr": BF16, "xs_ptr": F32, "ws_ptr": F32, "expert_ptr": I32, "token_ptr": I32,
    "row_ptr": I32, "bias_ptr": BF16, "ids_ptr": I64, "starts_ptr": I32, "ends_ptr": I32, "position_ptr": I32,
    "weight_ptr": F32, "total_ptr": F32, "from_ptr": U8, "codes_ptr": FP8, "from_scale_ptr": F32, "scale_ptr": F32,
    "scales_ptr": F32, "out_ptr": FP8, "limit": "fp32", "largest": "fp32",
    "factor_ptr": F32, "s_ptr": U8,
}  # fmt: skip
"""Types of arguments by name; those that are not named are int32."""


def kernels() -> Iterator[tuple[Any, dict[str, str], dict[str, Any]]]:
    """Every kernel with the types that differ from `POINTERS`, and its constants."""
    plain = {"M": 64, "N": 128, "BLOCK_N": 1, "BLOCK_K": 128, "GROUPS": 4}
    flags = ("BY_TOKEN", "BLOCKS", "MAPPED", "BIASED", "WHOLE", "ONE_SCALE")
    for size in ({"M": 16, "N": 64}, {}, {"M": 128}):
        yield grouped._product, {}, {**plain, **dict.fromkeys(flags, False), **size, "BY_TOKEN": True, "WHOLE": True}
    blocks = {**plain, **dict.fromkeys(flags, True), "BLOCK_N": 128}
    yield grouped._product, {}, {**blocks, "MAPPED": False}
    yield grouped._product, {}, {**blocks, "ONE_SCALE": False, "WHOLE": False}
    yield routing._fetch, {"codes_ptr": U8}, {"BLOCK": 4096, "GROUPS": 64}
    tile = {"TOGETHER": 16, "WIDTH": 128, "GROUP": 128, "POWER_OF_TWO": True, "LIMITED": True}
    for kind in range(len(activation.KINDS)):
        yield activation._between, {}, {**tile, "KIND": kind, "QUANTIZED": True}
    yield activation._static, {"x_ptr": BF16}, {"BY_TOKEN": True, "BLOCK": 4096}
    micro = {"x_ptr": BF16, "codes_ptr": U8, "block_ptr": U8, "given_ptr": F32, "level_ptr": F32}
    yield quantize_micro._mx, micro, {"GROUPS": 64, "COLS": 32, "E2M1": True}
    yield quantize_micro._mx, {**micro, "codes_ptr": FP8}, {"GROUPS": 64, "COLS": 32, "E2M1": False}
    yield quantize_micro._nvfp4, {**micro, "block_ptr": FP8}, {"GROUPS": 128, "COLS": 16, "COMPUTED": False}
    bits = {**micro, "block_ptr": FP8, "given_ptr": I32}
    yield quantize_micro._nvfp4, bits, {"GROUPS": 128, "COLS": 16, "COMPUTED": True}


def around_products() -> Iterator[tuple[Any, dict[str, str], dict[str, Any]]]:
    """What sorts pairs, activates rows and sums them up."""
    few = {"ALIGNMENT": 16, "EXPERTS": 256, "CHUNK": 64, "FILL": 2048, "CHUNKS": 4, "FILLS": 4}
    yield routing._route, {}, few
    yield routing._route, {"ids_ptr": I32}, {**few, "EXPERTS": 1, "ALIGNMENT": 1}
    many = {key: few[key] for key in ("EXPERTS", "CHUNK")}
    yield routing._count, {"counts_ptr": I32}, many
    yield routing._scan, {"counts_ptr": I32}, {"CHUNKS": 1024, "TOGETHER": 8}
    yield routing._place, {"counts_ptr": I32}, {**many, "ALIGNMENT": 64, "CHUNKS": 1024}
    yield routing._combine, {}, {"NUM": 8, "BLOCK": 1024}
    tile = {"TOGETHER": 1, "WIDTH": 2048, "GROUP": 2048, "POWER_OF_TWO": False, "LIMITED": True}
    for kind in range(len(activation.KINDS)):
        yield activation._between, {"out_ptr": BF16}, {**tile, "KIND": kind, "QUANTIZED": False}


def of_layers() -> Iterator[tuple[Any, dict[str, str], dict[str, Any]]]:
    """Products for few tokens, and weight-only ones: rows and blocks, whole and cut, codes of hardware and of PTX."""
    size = {"M": 16, "N": 64, "K": 128, "STEPS": 4, "SPLIT": True, "BIASED": False, "WAIT": True}
    rows = {
        "BLOCK_N": 1,
        "BLOCK_K": 1,
        "BLOCKED": False,
        "MAPPED": False,
        "ONE_SCALE": False,
        "WHOLE": True,
        "AHEAD": 4,
    }
    yield few._few, {"y_ptr": F32}, {**size, **rows}
    blocks = {**rows, "BLOCK_N": 128, "BLOCK_K": 128, "BLOCKED": True}
    yield few._few, {"y_ptr": F32}, {**size, **blocks, "ONE_SCALE": True}
    yield few._few, {}, {**size, **blocks, "MAPPED": True, "WHOLE": False, "SPLIT": False, "BIASED": True, "M": 64}
    form = {"KIND": "hardware", "PER_BYTE": 1, "SCALE_KIND": "", "SCALED": False, "BLOCK_N": 1, "COLS": 1}
    form |= {"MAPPED": False, "FACTOR": True}
    how = {"WORDS": False, "IN_CODES": False, "HALF": False, "PACKED": False}
    sixteen = {"x_ptr": BF16, "y_ptr": F32}
    yield weight_only._few, sixteen, {**size, **form, **how}
    four = {**form, "KIND": "e2m1", "PER_BYTE": 2, "SCALE_KIND": "e4m3", "SCALED": True, "COLS": 16}
    words = {**how, "WORDS": True, "IN_CODES": True}
    wide = {**sixteen, "w_ptr": U8, "s_ptr": I32}
    yield weight_only._few, wide, {**size, **four, **words, "PACKED": True, "K": 256}
    yield weight_only._few, {**wide, "x_ptr": "*fp16"}, {**size, **four, **words, "HALF": True, "K": 256}
    yield unpack._unpacked, {"w_ptr": U8, "out_ptr": BF16}, {**four, "N": 32, "K": 256}
    yield unpack._unpacked, {"w_ptr": U8, "out_ptr": BF16}, {**form, "KIND": "e4m3", "N": 32, "K": 128}


def of_stacks() -> Iterator[tuple[Any, dict[str, str], dict[str, Any]]]:
    """Weight-only products of experts for few and many rows, without what only the hardware of Hopper has."""
    form = {"SCALED": False, "SCALE_KIND": "", "BLOCK_N": 1, "COLS": 1, "MAPPED": False, "WORDS": False}
    form |= {"IN_CODES": False, "FACTOR": True, "BIASED": True, "PACKED": False, "BY_TOKEN": True, "STEPS": 9}
    few, many = {"M": 16, "N": 64, "K": 128}, {"M": 128, "N": 128, "K": 64}
    types = {"x_ptr": BF16, "w_ptr": U8}
    launched = weight_only_grouped._grouped
    for size in (few, many):
        yield launched, types, {**form, **size, "KIND": "e4m3", "PER_BYTE": 1}
        scaled = {**form, **size, "SCALED": True, "KIND": "e2m1", "PER_BYTE": 2, "K": 2 * size["K"], "BY_TOKEN": False}
        words = {"SCALE_KIND": "e8m0", "COLS": 32, "WORDS": True, "IN_CODES": True, "PACKED": True, "FACTOR": False}
        yield launched, {**types, "s_ptr": I32}, {**scaled, **words}
        sums = {"KIND": "i4", "SCALE_KIND": "float", "COLS": 64, "K": 64}
        yield launched, {**types, "x_ptr": "*fp16", "y_ptr": "*fp16", "s_ptr": BF16}, {**scaled, **sums}
    blocks = {"KIND": "e4m3", "PER_BYTE": 1, "SCALED": True, "SCALE_KIND": "float", "BLOCK_N": 128, "COLS": 128}
    yield launched, {**types, "s_ptr": F32}, {**form, **many, **blocks, "MAPPED": True}
    precise = {**form, **blocks, "M": 16, "N": 64, "K": 32}
    yield launched, {**types, "x_ptr": F32, "y_ptr": F32, "bias_ptr": F32, "s_ptr": F32}, precise


def compiled(launched: Any, types: dict[str, str], constants: dict[str, Any], target: GPUTarget) -> Any:
    """Raises what the compiler does."""
    kernel = launched.function
    signature = signature_of(kernel, types, constants)
    print(kernel.fn.__name__, target.arch, constants)
    return triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=constants), target=target)


def signature_of(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> dict[str, str]:
    """The type of each argument."""
    known = {**POINTERS, **types}
    return {name: "constexpr" if name in constants else known.get(name, "i32") for name in kernel.arg_names}


def with_ones(launched: Any, types: dict[str, str], constants: dict[str, Any]) -> Any:
    """A launch whose numbers are all 1: Triton makes constants of these, which have no type. One token is such a
    number."""
    kernel = launched.function
    free = set(kernel.arg_names) - {kernel.arg_names[at] for at in kernel.do_not_specialize}
    numbers = [name for name, of in signature_of(kernel, types, constants).items() if of in ("i32", "i64")]
    return launched, types, {**constants, **dict.fromkeys((name for name in numbers if name in free), 1)}


def main() -> None:
    """Every one, each on a line."""
    for one in (*kernels(), *around_products(), *of_layers(), *of_stacks()):
        compiled(*one, TARGET)
        compiled(*with_ones(*one), TARGET)
    for one in (*around_products(), *of_stacks()):
        compiled(*one, AMPERE)


if __name__ == "__main__":
    main()
