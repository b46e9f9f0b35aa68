"""Faulty checkpoints for each repair: one at least, which `test_repairs` repairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fp8load.index.layout import encode_header
from fp8load.rules.f8l104_config_in_an_odd_place import INNER, NESTED_CONFIG
from fp8load.rules.f8l403_input_scales_differ_in_a_group import EXPERTS
from fp8load.rules.f8l404_expert_3d_layout import ACROSS, GATE_UP, HIDDEN
from fp8load.rules.f8l404_expert_3d_layout import DOWN as DOWN_EXPERTS
from fp8load.rules.f8l605_kernel_layout_persisted import WIDE
from fp8load.rules.f8l703_scale_direction import CT, DIVIDES
from fp8load.rules.f8l912_mtp_precision import QUANTIZED_FC
from fp8load.rules.f8l921_head_tie import TIED
from fp8load.rules.f8l922_quantized_embedding import EMBEDDING
from fp8load.rules.samples import (
    BLOCK,
    LISTED,
    LLAMA,
    LLAMA_ATTENTION,
    LLAMA_CONFIG,
    LLAMA_MLP,
    LLAMA_REST,
    NVFP4,
    NVFP4_GATE_UP,
    POWERS,
    QUANTIZED,
    STATIC,
)
from rules.examples import checkpoint_of, written

STATIC_LLAMA = LLAMA_CONFIG + (
    'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}\n'
    + (LLAMA_ATTENTION + LLAMA_MLP).replace("weight_scale_inv", "{weight,input}_scale").replace("[4, 2]", "[]")
    .replace("F32      [2, 4]", "F32      []").replace("F32      [2, 2]", "F32      []")
    + LLAMA_REST
)  # fmt: skip
LISTED_LLAMA = LLAMA_CONFIG + LISTED + LLAMA_ATTENTION + LLAMA_MLP + LLAMA_REST
UP = "model.layers.0.mlp.up_proj"
BF16_UP = LLAMA_MLP.replace("mlp.{gate,up}_proj.weight                  F8_E4M3", "mlp.{gate,up}_proj.weight  BF16")
SCALE = "model.layers.0.mlp.down_proj.weight_scale_inv"
UNSCALED_UP = "".join(f"{line}\n" for line in BF16_UP.splitlines() if "{gate,up}_proj.weight_scale" not in line)
INDEX = "model.safetensors.index.json"
FILE = "model.safetensors"


def with_index(skeleton: str, change=lambda weight_map: None, **metadata: int) -> dict[str, bytes]:
    """An index of everything in the skeleton, changed."""
    names = {meta.name: meta.file for meta in checkpoint_of(skeleton).index.tensors.values()}
    change(names)
    return {INDEX: json.dumps({"metadata": metadata, "weight_map": names}, indent=2).encode() + b"\n"}


def file_of(skeleton: str) -> bytes:
    return written(skeleton, {})[FILE]


def without_metadata(skeleton: str) -> bytes:
    """The one file of a skeleton with a header that has no free metadata."""
    index = checkpoint_of(skeleton).index
    (file,) = index.files.values()
    header = encode_header(index.tensors.values(), file.header_nbytes, {})
    return header + file_of(skeleton)[file.header_nbytes :]


@dataclass(frozen=True)
class Case:
    """A faulty checkpoint, and the codes that `--fix` has to name (none: it needs none)."""

    skeleton: str
    files: dict[str, bytes | int | None] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    named: tuple[str, ...] = ()


SPLIT = LLAMA.replace("[1024, 256]", "[1024, 256]  @ model-2.safetensors")
CHANNELS = (
    'config {"quantization_config": {"quant_method": "compressed-tensors"%s, "config_groups": {"%s": {"targets": '
    '["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}}}\n'
    "m.down_proj.weight F8_E4M3 [64, 64]\nm.down_proj.weight_scale F32 [64, 1]\n"
)
MTP = 'config {"num_hidden_layers": 1, "num_nextn_predict_layers": %d}\n' + BLOCK
APART = LLAMA.replace("F32      [2, 4]", "F32  [2, 4]  @ model-2.safetensors")
TWO_ROUTERS = LISTED.replace('"lm_head"', "%s") + (
    QUANTIZED.replace("layers.0", "layers.{0..1}") + "model.layers.{0..1}.mlp.gate.weight  BF16  [8, 256]\n"
)
NORM = "model.norm.weight"
DOUBLE = SPLIT + f"{SCALE}x  F32  [2, 4]  @ model-2.safetensors\n"
"""One scale twice, under a name of the same length as its own would be with one letter more."""


def twice() -> dict[str, bytes]:
    """The second file holds a scale that the first one holds, and the index points to the first."""
    data = written(DOUBLE, {})["model-2.safetensors"].replace(f'"{SCALE}x"'.encode(), f'"{SCALE}" '.encode())
    return with_index(SPLIT) | {"model-2.safetensors": data}


GLOBAL = "model.layers.{}.mlp.{}_proj.weight_scale_2"
UP_GLOBAL = f"{UP}.weight_scale_2"
GATE_GLOBAL = UP_GLOBAL.replace("up_proj", "gate_proj")
INPUTS = {f"model.layers.0.mlp.{part}_proj.input_scale": 0.25 for part in ("gate", "up")}
EXPONENTS = LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " U8 ")
TWO = "model.layers.0.mlp.experts.2.down_proj.input_scale"
DOWN = "model.layers.0.mlp.down_proj.weight"


def with_numbers(skeleton: str, changes: dict[str, Callable[[np.ndarray], None]]) -> dict[str, bytes]:
    """The one file of a skeleton with other elements: each change gets a tensor, F32, I32 or bytes."""
    data = bytearray(file_of(skeleton))
    for name, change in changes.items():
        meta = checkpoint_of(skeleton).index.tensors[name]
        kind = {"F32": "<f4", "I32": "<i4"}.get(meta.dtype, "u1")
        change(np.frombuffer(data, kind, meta.num_elements, meta.begin).reshape(meta.shape))
    return {FILE: bytes(data)}


def zeros(down: np.ndarray, blocks: slice = slice(2, 3)) -> None:
    """Zeros of either sign in blocks of 128 x 128 in the lower half of down_proj."""
    columns = slice(blocks.start and blocks.start * 128, blocks.stop and blocks.stop * 128)
    down[128:, columns] = 0
    down[129, columns] = 0x80


def exponents_there(scale: np.ndarray) -> None:
    """Exponents of down_proj, and the NaN of E8M0 at the block of zeros."""
    scale[...] = np.arange(120, 128).reshape(2, 4)
    scale[1, 2] = 255


def divided_by_zero(down: np.ndarray) -> None:
    """The same block with NaN of either sign for some of its zeros."""
    zeros(down)
    down[140:200, 300] = 0x7F
    down[255, 383] = 0xFF


def scale_there(value: float) -> Callable[[np.ndarray], None]:
    """Scales of down_proj from 1 up, and this one at the block of zeros."""

    def change(scale: np.ndarray) -> None:
        scale[...] = np.arange(2, 10).reshape(2, 4) / 4
        scale[1, 2] = value

    return change


def layout(config: str, weight: tuple[int, int], scale: str, place: Callable[[np.ndarray], np.ndarray]) -> Case:
    """A module whose scale has the bytes that `place` makes of the exponents in `GRIDS`."""
    skeleton = config + WIDE.replace("[256, 1024]", str([*weight])) % scale
    name = "m.down_proj.weight_scale_inv"
    data = place(GRIDS[weight]).tobytes()

    def fill(stored: np.ndarray) -> None:
        stored.reshape(-1).view("u1")[...] = np.frombuffer(data, "u1")

    return Case(skeleton, with_numbers(skeleton, {name: fill}), named=("F8L605",))


def tiles(grid: np.ndarray) -> np.ndarray:
    """Tiles of 128 x 4, as cuBLAS describes them."""
    num_rows, num_cols = (-(-size // tile) * tile for size, tile in zip(grid.shape, (128, 4), strict=True))
    out = np.zeros(num_rows * num_cols, np.uint8)
    for (row, col), code in np.ndenumerate(grid):
        tile = (row // 128) * (num_cols // 4) + col // 4
        out[tile * 512 + (row % 32) * 16 + (row % 128 // 32) * 4 + col % 4] = code
    return out


GRIDS = {
    (384, 1024): np.arange(110, 134, dtype=np.uint8).reshape(3, 8),
    (300, 640): np.arange(110, 125, dtype=np.uint8).reshape(3, 5),
    (200, 640): (np.arange(1000) % 37 + 100).astype(np.uint8).reshape(200, 5),
}
"""Shape of a weight -> the exponents of its scale."""

LAYOUTS = {
    "words": layout(BLOCK, (384, 1024), "I32 [3, 2]", lambda grid: grid),
    "words of rows": layout(
        BLOCK, (300, 640), "I32 [2, 300]",
        lambda grid: np.pad(grid, ((0, 0), (0, 3))).repeat(128, 0)[:300].reshape(300, 2, 4).transpose(1, 0, 2),
    ),
    "columns": layout(BLOCK, (384, 1024), "F32 [8, 3]", lambda grid: np.exp2(grid.T.astype("<f4") - 127)),
    "tiles": layout(POWERS.replace("[128, 128]", "[1, 128]"), (200, 640), "U8 [256, 8]", tiles),
    "flat tiles": layout(POWERS.replace("[128, 128]", "[1, 128]"), (200, 640), "U8 [2048]", tiles),
}  # fmt: skip

NESTED = NESTED_CONFIG.replace("[8, 8]", "[64, 64]")
DIVISORS = [name.replace("scale_2", "global_scale") for name in (GATE_GLOBAL, UP_GLOBAL)]
COMFY = "model.diffusion_model.a.%s F8_E4M3 [256, 256]\nmodel.diffusion_model.a.%s F32 []\n"

CASES = {
    "F8C001": Case(COMFY % ("weight", "weight_scale"), values={"model.diffusion_model.a.weight_scale": 0.001}),
    "F8C001 old": Case(COMFY % ("weight", "scale_weight"), values={"model.diffusion_model.a.scale_weight": 0.001}),
    "F8C002": Case(
        'inside comfy_metadata {"model.diffusion_model.a": {"format": "float8_e4m3fn"}}\n'
        "a.weight F8_E4M3 [256, 256]\na.weight_scale F32 []\n",
        values={"a.weight_scale": 0.001},
    ),
    "F8L004": Case(SPLIT, with_index(SPLIT, lambda names: names.update({NORM: "model-2.safetensors"}))),
    "F8L005": Case(LLAMA, with_index(LLAMA, lambda names: names.pop(NORM))),
    "F8L005 twice": Case(DOUBLE, twice()),
    "F8L006": Case(LLAMA, {"consolidated.safetensors": file_of(LLAMA)}, named=("F8L006",)),
    "F8L007": Case(LLAMA, {FILE: without_metadata(LLAMA)}, named=("F8L007",)),
    "F8L008": Case(LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " F8_E8M0 "), named=("F8L008",)),
    "F8L008 packed": Case(NVFP4 + NVFP4_GATE_UP.replace("U8       [256, 128]", "F4  [256, 256]"),
                          values=dict.fromkeys((GATE_GLOBAL, UP_GLOBAL), 0.001), named=("F8L008",)),
    "F8L011": Case(LLAMA, {FILE: 8}),
    "F8L012": Case(LLAMA, with_index(LLAMA, total_size=7), named=("F8L012",)),
    "F8L101": Case(LLAMA.replace(BLOCK, ""), named=("F8L101",)),
    "F8L102": Case(
        LLAMA_CONFIG + BLOCK + "".join(
            line + "\n" for line in (LLAMA_ATTENTION + LLAMA_MLP + LLAMA_REST).replace("F8_E4M3", "BF16").splitlines()
            if "weight_scale" not in line
        )
    ),
    "F8L103": Case(
        LLAMA + 'file hf_quant_config.json {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}\n',
        named=("F8L103",),
    ),
    "F8L104": Case(LLAMA.replace('"quantization_config"', '"compression_config"'), named=("F8L104",)),
    "F8L104 inside": Case(INNER + QUANTIZED, named=("F8L104",)),
    "F8L104 nested": Case(NESTED, named=("F8L104",)),
    "F8L104 beside": Case(
        'config {"num_hidden_layers": 1}\n'
        + NESTED.replace('config {"quantization_config": ', "file hf_quant_config.json ")
        .replace('"FP8"}}}', '"FP8", "kv_cache_quant_algo": null, "exclude_modules": ["lm_head"]}}'),
        named=("F8L104",),
    ),
    "F8L105": Case(CHANNELS % (', "quantization_status": "frozen"', "group_0"), named=("F8L105",)),
    "F8L105 names": Case(CHANNELS % ("", "FP8_DYNAMIC"), named=("F8L105",)),
    "F8L106": Case(STATIC_LLAMA.replace(', "activation_scheme": "static"', "")),
    "F8L106 stray": Case(LLAMA + "model.layers.0.mlp.down_proj.input_scale  F32  []\n", named=("F8L106",)),
    "F8L202": Case(LLAMA_CONFIG + LISTED + LLAMA_ATTENTION + BF16_UP + LLAMA_REST),
    "F8L203": Case(LLAMA + f"{SCALE.removesuffix('_inv')}  F32  [2, 4]\n"),
    "F8L203 renamed": Case(LLAMA.replace("weight_scale_inv", "scale")),
    "F8L204": Case(
        STATIC_LLAMA.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2').replace("layers.0", "layers.{0..1}")
        .replace("mlp.down_proj.{weight,input}_scale", "mlp.down_proj.weight_scale")
        + "model.layers.0.mlp.down_proj.input_scale  F32  []\n",
        named=("F8L204",),
    ),
    "F8L206": Case(APART, with_index(APART, total_size=896), named=("F8L206",)),
    "F8L206 among others": Case(
        BLOCK + QUANTIZED.replace("[2, 2]", "[2, 2]  @ model-2.safetensors")
        + QUANTIZED.replace("layers.0", "layers.1").replace("]\n", "]  @ model-2.safetensors\n"),
        named=("F8L206",),
    ),
    "F8L301": Case(LISTED_LLAMA.replace('["lm_head"]', '["language_model.layers.0.mlp.gate"]')),
    "F8L301 renamed": Case(
        LLAMA_CONFIG
        + LISTED.replace('"lm_head"', '"language_model.layers.0.mlp.gate_proj", "old.layers.0.mlp.up_proj"')
        + LLAMA_ATTENTION
        + UNSCALED_UP + LLAMA_REST
    ),
    "F8L302": Case(
        LLAMA_CONFIG + LISTED + LLAMA_ATTENTION
        + UNSCALED_UP + LLAMA_REST
    ),
    "F8L303": Case(LISTED_LLAMA.replace('["lm_head"]', '["model"]')),
    "F8L303 packed": Case(NVFP4.replace('"ignore": []', '"ignore": ["*.gate_proj"]') + NVFP4_GATE_UP),
    "F8L304": Case(
        LISTED.replace('"lm_head"', '"adapter"') + QUANTIZED + QUANTIZED.replace("mlp.down", "adapter_")
        + "model.layers.1.adapter.weight  BF16  [8, 256]\n"
    ),
    "F8L308": Case(TWO_ROUTERS % '"lm_head", "mlp.gate"', named=("F8L308",)),
    "F8L308 glob": Case(TWO_ROUTERS % '"lm_head", "*.mlp.gate"', named=("F8L308", "F8L301")),
    "F8L308 expression": Case(
        NVFP4.replace('"ignore": []', r'"ignore": ["lm_head", "re:.*mlp\\.gate$"]')
        + NVFP4_GATE_UP.replace("layers.0", "layers.{0..1}") + TWO_ROUTERS.splitlines(keepends=True)[-1],
        values=dict.fromkeys((GLOBAL.format(at, part) for at in (0, 1) for part in ("gate", "up")), 0.001),
        named=("F8L308", "F8L301"),
    ),
    "F8L306": Case(
        LLAMA_CONFIG + LISTED + LLAMA_ATTENTION.replace("{q,k,v,o}", "{q,k,o}") + LLAMA_MLP + LLAMA_REST
        + "model.layers.0.self_attn.v_proj.weight  BF16  [256, 256]\n",
        values={"model.layers.0.self_attn.q_proj.weight_scale_inv": 0.3},
        named=("F8L306",),
    ),
    "F8L402": Case(NVFP4 + NVFP4_GATE_UP, values={UP_GLOBAL: 0.00125, GATE_GLOBAL: 0.001} | INPUTS, named=("F8L402",)),
    "F8L402 of FP8": Case(STATIC_LLAMA, values={f"{UP}.weight_scale": 0.75}, named=("F8L402",)),
    "F8L403": Case(STATIC_LLAMA, values={f"{UP}.input_scale": 0.5}, named=("F8L403",)),
    "F8L403 of experts": Case(STATIC + EXPERTS, values={TWO: 0.5}, named=("F8L403",)),
    "F8L403 dividing": Case(
        CT + DIVIDES, named=("F8L403",),
        values=dict.fromkeys(DIVISORS, 3584.0) | {DIVISORS[0].replace("weight", "input"): 0.25},
    ),
    "F8L404": Case(HIDDEN + BLOCK + GATE_UP.replace("[4, 6, 2]", "[4, 2, 6]"), named=("F8L404",)),
    "F8L404 pair": Case(HIDDEN + BLOCK + GATE_UP + ACROSS, named=("F8L404",)),
    "F8L404 first of a pair": Case(
        HIDDEN + BLOCK + DOWN_EXPERTS
        + GATE_UP.replace("[4, 768, 256]", "[4, 256, 768]").replace("[4, 6, 2]", "[4, 2, 6]"), named=("F8L404",)
    ),
    "F8L502": Case(LLAMA.replace("[128, 128]}", "[128, 0]}")),
    "F8L503": Case(STATIC_LLAMA.replace("F32      []", "F32  [1, 1]"), named=("F8L503",)),
    "F8L503 in BF16": Case(STATIC_LLAMA.replace("F32      []", "BF16  [1, 1]"), named=("F8L503", "F8L601")),
    "F8L503 of a stack": Case(
        STATIC.replace("static", "dynamic")
        + "m.experts.up_proj.weight  F8_E4M3  [4, 256, 256]\nm.experts.up_proj.weight_scale  F32  [4, 1, 1]\n",
        named=("F8L503",),
    ),
    "F8L506": Case(LLAMA.replace("[1024, 256]", "[256, 1024]")),
    "F8L506 scaled": Case(LLAMA.replace("F8_E4M3  [512, 256]", "F8_E4M3  [256, 512]")),
    "F8L506 with its scale": Case(
        LLAMA.replace("F8_E4M3  [512, 256]", "F8_E4M3  [256, 512]").replace("[4, 2]", "[2, 4]")
    ),
    "F8L601": Case(LLAMA.replace(" F32 ", " BF16 "), named=("F8L601",)),
    "F8L602": Case(BLOCK + QUANTIZED.replace("F8_E4M3", "F8_E4M3FNUZ"), named=("F8L602",)),
    "F8L602 said": Case(
        BLOCK.replace('"quant_method"', '"fmt": "float8_e4m3fnuz", "quant_method"')
        + QUANTIZED.replace("F8_E4M3", "F8_E4M3FNUZ"),
        named=("F8L602",),
    ),
    "F8L603": Case(
        LLAMA.replace(BLOCK, POWERS.replace("ue8m0", "float")).replace(" F32 ", " F8_E8M0 "), values={SCALE: 0.5}
    ),
    **{f"F8L605 {name}": case for name, case in LAYOUTS.items()},
    "F8L606": Case(NVFP4 + NVFP4_GATE_UP.replace("U8       [256, 128]", "F4  [256, 256]"),
                   values=dict.fromkeys((GATE_GLOBAL, UP_GLOBAL), 0.001), named=("F8L606",)),
    "F8L701": Case(LLAMA, with_numbers(LLAMA, {DOWN: zeros, SCALE: scale_there(np.nan)})),
    "F8L701 infinite": Case(LLAMA, with_numbers(LLAMA, {DOWN: zeros, SCALE: scale_there(np.inf)})),
    "F8L701 exponents": Case(EXPONENTS, with_numbers(EXPONENTS, {DOWN: zeros, SCALE: exponents_there})),
    "F8L701 of a stack": Case(
        BLOCK + GATE_UP,
        with_numbers(BLOCK + GATE_UP, {
            "m.experts.gate_up_proj": lambda weight: weight[2, 128:256, 128:].fill(0),
            "m.experts.gate_up_proj_scale_inv": lambda scale: (scale.fill(0.5), scale[2, 1, 1:].fill(np.nan)),
        }),
    ),
    "F8L702": Case(LLAMA, with_numbers(LLAMA, {DOWN: zeros, SCALE: scale_there(0)})),
    "F8L702 and NaN": Case(
        LLAMA,
        with_numbers(LLAMA, {
            DOWN: lambda down: zeros(down, slice(None)), SCALE: lambda scale: scale.__setitem__(1, [-1, np.nan, 0, 2]),
        }),
    ),
    "F8L703": Case(LLAMA, values={SCALE: 5000.0}, named=("F8L703",)),
    "F8L706": Case(LLAMA.replace(BLOCK, POWERS), values={SCALE: 120.0}),
    "F8L707": Case(
        LLAMA.replace(BLOCK, POWERS), with_numbers(LLAMA, {SCALE: scale_there(0.003)}) , named=("F8L707",)
    ),
    "F8L707 of a stack": Case(POWERS + GATE_UP, values={"m.experts.gate_up_proj_scale_inv": 0.3}, named=("F8L707",)),
    "F8L708": Case(LLAMA, with_numbers(LLAMA, {SCALE: scale_there(1e-23)}), named=("F8L708",)),
    "F8L912 quantized": Case(BLOCK + QUANTIZED + QUANTIZED_FC, named=("F8L912",)),
    "F8L921": Case(TIED, named=("F8L921",)),
    "F8L921 quantized": Case(BLOCK + QUANTIZED.replace("model.layers.0.mlp.down_proj", "lm_head"), named=("F8L921",)),
    "F8L921 packed": Case(
        CT + DIVIDES + DIVIDES.replace("model.layers.0.mlp.{gate,up}_proj", "lm_head"),
        values={
            name.replace("scale_2", "global_scale"): 3584.0
            for name in (GATE_GLOBAL, UP_GLOBAL, "lm_head.weight_scale_2")
        },
        named=("F8L921",),
    ),
    "F8L922": Case(BLOCK + QUANTIZED + EMBEDDING, named=("F8L922",)),
    "F8L911": Case(MTP % 1 + QUANTIZED, named=("F8L911",)),
    "F8L911 stored": Case(MTP % 0 + QUANTIZED.replace("layers.0", "layers.{0..2}"), named=("F8L911",)),
    "F8L801": Case(LLAMA, with_numbers(LLAMA, {DOWN: divided_by_zero, SCALE: scale_there(0)})),
    "F8L912": Case(BLOCK + QUANTIZED + "mtp.fc.weight  BF16  [256, 512]\n", named=("F8L912",)),
    "F8L902": Case(
        STATIC_LLAMA.replace('"static"}', '"static", "kv_cache_scheme": "static"}')
        + "model.layers.0.self_attn.k_proj.k_scale  F32  []\nmodel.layers.0.self_attn.v_proj.v_scale  F32  []\n",
        values={f"model.layers.0.self_attn.{part}_proj.{part}_scale": 0.5 for part in ("k", "v")},
        named=("F8L902",),
    ),
}  # fmt: skip
