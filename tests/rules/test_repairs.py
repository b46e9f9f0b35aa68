"""Each repair: the copy verifies clean, what is not repaired has the same bytes, and the original is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import fp8load
from fp8load.errors import Problem, UsageError
from fp8load.index.layout import encode_header
from fp8load.rules.base import Context
from fp8load.rules.f8l104_config_in_an_odd_place import INNER, NESTED_CONFIG
from fp8load.rules.f8l403_input_scales_differ_in_a_group import EXPERTS
from fp8load.rules.f8l404_expert_3d_layout import ACROSS, GATE_UP, HIDDEN
from fp8load.rules.f8l404_expert_3d_layout import DOWN as DOWN_EXPERTS
from fp8load.rules.f8l605_kernel_layout_persisted import WIDE
from fp8load.rules.f8l703_scale_direction import CT, DIVIDES
from fp8load.rules.f8l912_mtp_precision import QUANTIZED_FC
from fp8load.rules.f8l921_head_tie import TIED
from fp8load.rules.f8l922_quantized_embedding import EMBEDDING
from fp8load.rules.repairs import repairs
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
        named=("F8L306", "F8L302"),
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


def on_disk(case: Case, folder: Path) -> Path:
    """The faulty checkpoint as files."""
    folder.mkdir()
    for name, data in {**written(case.skeleton, case.values), **case.files}.items():
        if isinstance(data, bytes):
            (folder / name).write_bytes(data)
        elif isinstance(data, int):
            (folder / name).write_bytes(written(case.skeleton, case.values)[name] + bytes(data))
    return folder


def loud(report) -> list[tuple[str, str]]:
    return [(finding.code, finding.message) for finding in report.findings if finding.severity != "info"]


def tensors_of(folder: Path) -> dict[str, bytes]:
    with fp8load.open(folder) as ckpt:
        metas = ckpt.index.tensors.values()
        return {meta.name: ckpt.source.read(meta.file, meta.begin, meta.end) for meta in metas}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_repair_has_a_case():
    assert {name.partition(" ")[0] for name in CASES} == set(repairs())


@pytest.mark.parametrize("name", CASES)
def test_a_repaired_copy_is_clean_and_the_original_as_it_was(name, tmp_path):
    case, code = CASES[name], name.partition(" ")[0]
    folder = on_disk(case, tmp_path / "faulty")
    before = bytes_of(folder)
    with fp8load.open(folder) as ckpt:
        (finding, *_) = [found for found in ckpt.verify("weights").findings if found.code == code]
        ckpt.fix(case.named, level="weights").write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        report = copy.verify("weights")

    assert finding.fix, finding
    assert ("--fix F8L" in finding.fix) == bool(case.named)
    assert loud(report) == []
    assert code not in {found.code for found in report.findings}
    assert bytes_of(folder) == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_repaired_keeps_its_bytes(name, tmp_path):
    case = CASES[name]
    folder = on_disk(case, tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        fixes = ckpt.fix(case.named, level="weights")
        fixes.write(tmp_path / "repaired")
    before, after = tensors_of(folder), tensors_of(tmp_path / "repaired")
    said = " ".join(line for lines in fixes.changes.lines.values() for line in lines)

    assert fixes.num_fixed
    for tensor in before.keys() | after.keys():
        if tensor not in said:
            assert before.get(tensor) == after.get(tensor), tensor


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].named])
def test_what_has_to_be_named_is_left_alone_without_its_name(name, tmp_path):
    code = name.partition(" ")[0]
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        fixes = ckpt.fix(level="weights")

    assert code not in {done for done, _, _ in fixes.counts}


def test_a_lossy_repair_is_not_chosen_by_a_prefix(tmp_path):
    with fp8load.open(on_disk(CASES["F8L204"], tmp_path / "faulty")) as ckpt:
        assert ckpt.fix(("F8L2",)).changes.is_empty
        assert ckpt.fix(("F8L204",)).num_fixed == 1


def test_the_diff_of_json_is_unified_and_that_of_tensors_a_line_each(tmp_path):
    folder = on_disk(CASES["F8L202"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        lines = ckpt.fix().diff().splitlines()

    assert "--- a/config.json" in lines
    assert any(line.startswith("+") and UP in line for line in lines)
    assert f"- {UP}.weight_scale_inv  F32 [4, 2]" in lines


def test_bytes_of_exponents_become_the_powers_that_were_meant(tmp_path):
    with fp8load.open(on_disk(CASES["F8L706"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")

    assert set(np.frombuffer(tensors_of(tmp_path / "repaired")[SCALE], "<f4")) == {2.0**-7}


def test_widened_scales_are_the_same_numbers(tmp_path):
    case = Case(CASES["F8L601"].skeleton, values={SCALE: 0.0078125})
    with fp8load.open(on_disk(case, tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L601",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.tensors[SCALE].dtype == "F32"

    assert set(np.frombuffer(tensors_of(tmp_path / "repaired")[SCALE], "<f4")) == {0.0078125}


def test_the_largest_sibling_is_chosen_for_an_input_scale_that_is_missing(tmp_path):
    case = CASES["F8L204"]
    missing = "model.layers.1.mlp.down_proj.input_scale"
    values = {missing.replace("layers.1", "layers.0"): 0.25}
    with fp8load.open(on_disk(Case(case.skeleton, values=values), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L204",)).write(tmp_path / "repaired")

    assert np.frombuffer(tensors_of(tmp_path / "repaired")[missing], "<f4")[0] == 0.25


def test_entries_under_an_old_prefix_become_the_stored_names(tmp_path):
    with fp8load.open(on_disk(CASES["F8L301 renamed"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    assert sorted(document["quantization_config"]["modules_to_not_convert"]) == [
        "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["F8L308", "F8L308 glob", "F8L308 expression"])
def test_full_names_take_the_place_of_a_pattern(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L308",)).write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    document = document["quantization_config"]
    listed = document.get("ignore") or document["modules_to_not_convert"]

    assert listed == [
        "lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate",
    ]  # fmt: skip


def test_groups_keep_their_order_under_new_names(tmp_path):
    groups = {name: {"targets": [target], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
              for name, target in (("last", "re:.*up"), ("group_0", "re:.*gate"), ("first", "Linear"))}  # fmt: skip
    text = CHANNELS.splitlines(keepends=True)[1]
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    with fp8load.open(on_disk(Case(f"config {json.dumps(config)}\n{text}"), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L105",)).write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())["quantization_config"]["config_groups"]

    assert [*document] == ["group_1", "group_0", "group_2"]
    assert [*document.values()] == [*groups.values()]


def test_layers_for_prediction_are_counted_as_stored(tmp_path):
    with fp8load.open(on_disk(CASES["F8L911 stored"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L911",)).write(tmp_path / "repaired")

    assert json.loads((tmp_path / "repaired" / "config.json").read_text())["num_nextn_predict_layers"] == 2


def test_a_glob_that_covers_nothing_here_is_not_lost(tmp_path):
    """Without codes it is F8L301 that is repaired: the routers stay on the list."""
    with fp8load.open(on_disk(CASES["F8L308 glob"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    assert "model.layers.1.mlp.gate" in document["quantization_config"]["modules_to_not_convert"]


def test_an_entry_that_is_too_wide_is_replaced_by_what_it_covers_rightly(tmp_path):
    skeleton = LISTED_LLAMA.replace('["lm_head"]', '["mlp", "lm_head"]') + (
        "model.layers.0.mlp.extra.weight  BF16  [256, 256]\n"
    )
    with fp8load.open(on_disk(Case(skeleton), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L303",)).write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    assert document["quantization_config"]["modules_to_not_convert"] == ["lm_head", "model.layers.0.mlp.extra"]


def test_two_scales_that_differ_are_left_for_people(tmp_path):
    case = Case(CASES["F8L203"].skeleton, values={SCALE: 0.5})
    with fp8load.open(on_disk(case, tmp_path / "faulty")) as ckpt:
        (finding,) = [found for found in ckpt.verify().findings if found.code == "F8L203"]

        assert ckpt.fix().changes.is_empty
    assert finding.fix is None


def test_a_scale_whose_weight_is_lost_is_not_dropped(tmp_path):
    lost = "".join(line for line in LLAMA.splitlines(keepends=True) if "down_proj.weight " not in line)
    with fp8load.open(on_disk(Case(lost), tmp_path / "faulty")) as ckpt:
        assert "F8L202" not in {code for code, _, _ in ckpt.fix().counts}


def test_the_header_gets_metadata(tmp_path):
    header = b'{"__metadata__":{"a":1},"model.norm.weight":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(range(8))
    folder = on_disk(Case(LLAMA_CONFIG, {FILE: data}), tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L007",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.files[FILE].metadata == {"a": "1", "format": "pt"}
        assert copy.index.problems == ()
    assert tensors_of(folder) == tensors_of(tmp_path / "repaired")


def test_a_total_size_becomes_the_sum_of_the_tensors(tmp_path):
    with fp8load.open(on_disk(CASES["F8L012"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L012",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.total_size == copy.index.nbytes


@pytest.mark.parametrize("name", ["F8L104", "F8L104 inside"])
def test_a_configuration_in_an_odd_place_is_copied_to_the_usual_one(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        odd = ckpt.format.place.partition(" ")[2].split(".")
        ckpt.fix(("F8L104",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.format.place == "config.json quantization_config"
    document = config = json.loads((tmp_path / "repaired" / "config.json").read_text())
    for key in odd:
        document = document[key]

    assert config["quantization_config"] == document


def test_a_nested_configuration_becomes_flat(tmp_path):
    with fp8load.open(on_disk(CASES["F8L104 beside"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L104",)).write(tmp_path / "repaired")

    assert json.loads((tmp_path / "repaired" / "config.json").read_text())["quantization_config"] == {
        "producer": {"name": "modelopt"}, "quant_algo": "FP8", "ignore": ["lm_head"], "quant_method": "modelopt",
    }  # fmt: skip


def test_a_configuration_in_the_usual_place_stays_there(tmp_path):
    folder = on_disk(Case(LLAMA), tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        assert list(repairs()["F8L104"].actions(Context(checkpoint=ckpt), Problem(code="F8L104", message=""))) == []


@pytest.mark.parametrize("name", ["F8L402", "F8L402 of FP8", "F8L707", "F8L707 of a stack"])
def test_weights_under_other_scales_are_as_near_as_rounding_lets_them(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(CASES[name].named).write(tmp_path / "repaired")
        modules = [name for name, info in ckpt.lowered.modules.items() if info.scheme is not None]
        before = {name: ckpt.dequantize(name).numpy() for name in modules}
    with fp8load.open(tmp_path / "repaired") as copy:
        after = {name: copy.dequantize(name).numpy() for name in modules}

    assert any((before[name] != after[name]).any() for name in modules)
    for name in modules:
        smallest = 2.0**-9 * np.abs(before[name]).max() / 448 * 2  # the step of codes next to zero
        assert (np.abs(after[name] - before[name]) <= np.maximum(np.abs(before[name]) * 2**-4, smallest)).all()


def test_blocks_whose_scale_is_a_power_of_two_keep_their_codes(tmp_path):
    folder = on_disk(CASES["F8L707"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L707",)).write(tmp_path / "repaired")
    before, after = (
        np.frombuffer(tensors_of(at)[DOWN], "u1").reshape(2, 128, 4, 128) for at in (folder, tmp_path / "repaired")
    )
    same = (before == after).all(axis=(1, 3))

    assert same.tolist() == [[True, False, True, False], [False, False, False, False]]


@pytest.mark.parametrize("name", ["F8L701", "F8L701 infinite", "F8L702"])
def test_a_scale_over_zeros_becomes_the_least_sound_one(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")
    scale = np.frombuffer(tensors_of(tmp_path / "repaired")[SCALE], "<f4")

    assert scale.tolist() == [0.5, 0.75, 1, 1.25, 1.5, 1.75, 0.5, 2.25]


def test_an_exponent_over_zeros_becomes_the_least_sound_one(tmp_path):
    with fp8load.open(on_disk(CASES["F8L701 exponents"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")

    assert [*tensors_of(tmp_path / "repaired")[SCALE]] == [120, 121, 122, 123, 124, 125, 120, 127]


@pytest.mark.parametrize("code", ["F8L701", "F8L702"])
def test_a_scale_over_weights_is_lost_and_not_made_up(code, tmp_path):
    """One number in the block, in the last row and column of it, is enough."""

    def all_but_one(down: np.ndarray) -> None:
        zeros(down)
        down[255, 383] = 1

    value = np.nan if code == "F8L701" else 0
    files = with_numbers(LLAMA, {DOWN: all_but_one, SCALE: scale_there(value)})
    with fp8load.open(on_disk(Case(LLAMA, files), tmp_path / "faulty")) as ckpt:
        (finding,) = [found for found in ckpt.verify().findings if found.code == code]

        assert ckpt.fix((code,)).changes.is_empty
    assert finding.fix is None


@pytest.mark.parametrize("name", ["F8L306", "F8L912 quantized", "F8L921 quantized", "F8L921 packed", "F8L922"])
def test_a_dequantized_weight_is_the_number_rounded_to_bf16(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(CASES[name].named).write(tmp_path / "repaired")
        before = {module: ckpt.dequantize(module) for module, info in ckpt.lowered.modules.items() if info.scheme}
    with fp8load.open(tmp_path / "repaired") as copy:
        changed = [module for module in before if copy.lowered.modules[module].scheme is None]
        after = {module: copy.dequantize(module) for module in changed}

    assert len(changed) == (2 if name == "F8L306" else 1)
    for module in changed:
        assert torch.equal(after[module], before[module].bfloat16().float())


@pytest.mark.parametrize("name", ["F8L404", "F8L404 pair", "F8L404 first of a pair"])
def test_experts_are_turned_one_by_one(name, tmp_path):
    folder = on_disk(CASES[name], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L404",)).write(tmp_path / "repaired")
        stored = ckpt.index.tensors
    with fp8load.open(tmp_path / "repaired") as copy:
        turned = [name for name, meta in copy.index.tensors.items() if meta.shape != stored[name].shape]
        shapes = {name.rpartition(".")[2]: meta.shape for name, meta in copy.index.tensors.items()}
    before, after = tensors_of(folder), tensors_of(tmp_path / "repaired")

    assert len(turned) == (1 if name == "F8L404" else 2)
    assert shapes["gate_up_proj"] == (4, 768, 256)
    assert shapes.get("down_proj") in (None, (4, 256, 384))
    for tensor in turned:
        matrices = np.frombuffer(before[tensor], f"V{stored[tensor].dtype.bits // 8}").reshape(stored[tensor].shape)
        assert after[tensor] == matrices.transpose(0, 2, 1).tobytes()


def test_the_widest_range_of_an_input_is_shared(tmp_path):
    with fp8load.open(on_disk(CASES["F8L403 of experts"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L403",)).write(tmp_path / "repaired")
    stored = tensors_of(tmp_path / "repaired")

    assert {np.frombuffer(stored[TWO.replace("2", str(expert), 1)], "<f4")[0] for expert in range(4)} == {1.0}


def test_codes_without_a_number_become_zeros_and_no_other_changes(tmp_path):
    folder = on_disk(CASES["F8L801"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(level="weights").write(tmp_path / "repaired")
    before, after = (np.frombuffer(tensors_of(at)[DOWN], "u1") for at in (folder, tmp_path / "repaired"))
    bad = before & 0x7F == 0x7F

    assert bad.sum() == 61
    assert not after[bad].any()
    assert (after[~bad] == before[~bad]).all()


def test_codes_without_a_number_under_another_scale_are_lost(tmp_path):
    """The first row and column of the next block."""

    def one_more(down: np.ndarray) -> None:
        divided_by_zero(down)
        down[128, 384] = 0x7F

    files = with_numbers(LLAMA, {DOWN: one_more, SCALE: scale_there(0)})
    with fp8load.open(on_disk(Case(LLAMA, files), tmp_path / "faulty")) as ckpt:
        (finding,) = [found for found in ckpt.verify("weights").findings if found.code == "F8L801"]

        assert "F8L801" not in {code for code, _, _ in ckpt.fix(level="weights").counts}
    assert finding.fix is None


def test_of_scales_that_divide_the_smallest_is_shared(tmp_path):
    with fp8load.open(on_disk(CASES["F8L403 dividing"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L403",)).write(tmp_path / "repaired")
    stored = tensors_of(tmp_path / "repaired")

    assert [np.frombuffer(stored[name.replace("weight", "input")], "<f4")[0] for name in DIVISORS] == [0.25, 0.25]


def test_a_fnuz_nan_stays_one(tmp_path):
    skeleton = BLOCK + QUANTIZED.replace("F8_E4M3", "F8_E4M3FNUZ")
    files = with_numbers(skeleton, {DOWN: lambda down: down[0].fill(0x80)})
    with fp8load.open(on_disk(Case(skeleton, files), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L602",)).write(tmp_path / "repaired")

    assert tensors_of(tmp_path / "repaired")[DOWN][:256] == bytes([0x7F]) * 256


@pytest.mark.parametrize("name", ["F8L602", "F8L602 said"])
def test_fnuz_numbers_stay_but_for_the_smallest(name, tmp_path):
    module = "model.layers.0.mlp.down_proj"
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L602",)).write(tmp_path / "repaired")
        before = ckpt.dequantize(module)
    with fp8load.open(tmp_path / "repaired") as copy:
        after = copy.dequantize(module)
    differ = before != after

    assert before.abs().max() == 240
    assert before[differ].abs().max() < 2**-6
    assert (before - after).abs().max() <= 2**-10


def test_a_tied_head_with_numbers_of_its_own_stays(tmp_path):
    with fp8load.open(on_disk(Case(TIED, values={"lm_head.weight": 0.5}), tmp_path / "faulty")) as ckpt:
        assert ckpt.fix(("F8L921",)).changes.is_empty


@pytest.mark.parametrize("name", LAYOUTS)
def test_elements_of_a_kernels_layout_come_back_to_their_blocks(name, tmp_path):
    with fp8load.open(on_disk(LAYOUTS[name], tmp_path / "faulty")) as ckpt:
        weight = ckpt.index.tensors["m.down_proj.weight"].shape
        ckpt.fix(("F8L605",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        meta = copy.index.tensors["m.down_proj.weight_scale_inv"]
    stored = np.frombuffer(tensors_of(tmp_path / "repaired")[meta.name], f"<u{meta.dtype.bits // 8}")
    numbers = np.exp2(stored - 127.0) if meta.dtype == "U8" else stored.view("<f4")

    assert meta.shape == GRIDS[weight].shape
    assert (numbers.reshape(meta.shape) == np.exp2(GRIDS[weight] - 127.0)).all()


def test_words_that_could_lie_in_two_ways_are_left(tmp_path):
    case = Case(BLOCK + WIDE % "I32 [2, 2]")
    with fp8load.open(on_disk(case, tmp_path / "faulty")) as ckpt:
        assert [found.fix for found in ckpt.verify().findings if found.code == "F8L605"] == [None]


def test_a_scale_moves_to_its_weight_and_the_index_says_so(tmp_path):
    folder = on_disk(CASES["F8L206"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L206",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.declared == {name: FILE for name in copy.index.tensors}
        assert copy.index.tensors[SCALE].file == FILE
    assert tensors_of(folder) == tensors_of(tmp_path / "repaired")
    assert not (tmp_path / "repaired" / "model-2.safetensors").exists()


@pytest.mark.parametrize("name", ["F8L503", "F8L503 of a stack", "F8L606"])
def test_another_shape_has_the_same_bytes(name, tmp_path):
    folder = on_disk(CASES[name], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(CASES[name].named).write(tmp_path / "repaired")

    assert tensors_of(folder) == tensors_of(tmp_path / "repaired")


@pytest.mark.parametrize("name", ["F8L506", "F8L506 scaled", "F8L506 with its scale"])
def test_a_transposed_weight_is_turned(name, tmp_path, monkeypatch):
    monkeypatch.setattr("fp8load.writing.transpose.BAND", 3000)  # several bands, the last one shorter
    monkeypatch.setattr("fp8load.writing.shard.CHUNK", 1000)  # no whole number of rows
    folder = on_disk(CASES[name], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        fixes = ckpt.fix()
        fixes.write(tmp_path / "repaired")
        turned = {meta.name: meta for meta in ckpt.index.tensors.values() if meta.name in str(fixes.changes.lines)}
    before, after = tensors_of(folder), tensors_of(tmp_path / "repaired")

    assert len(turned) == (4 if name.endswith("its scale") else 2)
    for meta in turned.values():
        width = f"V{meta.dtype.bits // 8}"
        matrix = np.frombuffer(before[meta.name], width).reshape(meta.shape)
        assert after[meta.name] == matrix.T.tobytes()


def test_a_transposed_weight_whose_scale_fits_both_ways_is_left_for_people(tmp_path):
    both = LLAMA.replace("F8_E4M3  [512, 256]", "F8_E4M3  [256, 512]").replace("[128, 128]", "[512, 512]")
    both = both.replace("F32      [4, 2]", "F32  [1, 1]").replace("F32      [2, 2]", "F32  [1, 1]")
    both = both.replace("F32      [2, 4]", "F32  [1, 1]")
    with fp8load.open(on_disk(Case(both), tmp_path / "faulty")) as ckpt:
        (finding,) = [found for found in ckpt.verify().findings if found.code == "F8L506"]

        assert ckpt.fix().changes.is_empty
    assert finding.fix is None


def test_an_unknown_code_names_those_that_can_be_repaired(tmp_path):
    with fp8load.open(on_disk(CASES["F8L302"], tmp_path / "faulty")) as ckpt, pytest.raises(UsageError, match="F8L302"):
        ckpt.fix(("F8L999",))
