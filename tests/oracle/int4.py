"""Forms with 4-bit integers, packed one by one from the formats' descriptions; nothing of the library is used.

SGLang's W4AFP8 holds two in a byte, the first one low, in two's complement. compressed-tensors' pack-quantized adds 8
to each and holds eight in a word of 32 bits, the first one in its lowest bits. Quark adds nothing, and holds in a word
elements 0, 2, 4, 6, 1, 3, 5, 7. Scales multiply, one for a group of a row; in Quark one of a row and one of the tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracle.dequantize import Stored
from oracle.forms import DOWN, UP, Form, Grid, add, plain, scales, spread


def in_bytes(values: np.ndarray) -> Stored:
    """[N, K] as I8 [N, K / 2]."""
    rows = [[(row[k] & 15) | (row[k + 1] & 15) << 4 for k in range(0, len(row), 2)] for row in values.tolist()]
    return Stored("I8", (len(rows), len(rows[0])), np.array(rows, np.uint8).tobytes())


def in_words(values: np.ndarray) -> Stored:
    """[N, K] as I32 [N, K / 8]."""
    rows = [
        [sum(row[k + at] + 8 << 4 * at for at in range(8)) for k in range(0, len(row), 8)] for row in values.tolist()
    ]
    return Stored("I32", (len(rows), len(rows[0])), np.array(rows, "<u4").tobytes())


REORDERED = (0, 2, 4, 6, 1, 3, 5, 7)
IN_ORDER = tuple(range(8))


def in_quark_words(values: np.ndarray, order: tuple[int, ...] = REORDERED) -> Stored:
    """[N, K] as I32 [N, K / 8]."""
    rows = [
        [sum((row[k + element] & 15) << 4 * at for at, element in enumerate(order)) for k in range(0, len(row), 8)]
        for row in values.tolist()
    ]
    return Stored("I32", (len(rows), len(rows[0])), np.array(rows, "<u4").tobytes())


def two_stages(shape: Grid, seed: int, order: tuple[int, ...] = REORDERED) -> tuple[dict[str, Stored], np.ndarray]:
    """The tensors of a module of Quark's int4 on FP8 by their suffixes, and the weight."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-8, 8, shape)
    whole, rows = rng.uniform(0.001, 0.1, ()).astype("<f4"), rng.uniform(1, 64, shape[:1]).astype("<f4")
    stored = {
        "weight": in_quark_words(values, order),
        "weight_scale": Stored("F32", (), whole.tobytes()),
        "weight_scale_2": Stored("F32", shape[:1], rows.tobytes()),
        "weight_zero_point_2": Stored("I32", (shape[0] // 8,), bytes(shape[0] // 2)),
    }
    return stored, values.astype(np.float32) * (rows * whole)[:, None]


INT4_ON_FP8 = {
    "quant_method": "quark", "exclude": ["lm_head", "*.mlp.gate"], "version": "0.13",
    "export": {"pack_method": "reorder", "weight_format": "real_quantized"},
    "global_quant_config": {
        "weight": [
            {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False, "symmetric": True},
            {"dtype": "int4", "qscheme": "per_channel", "ch_axis": 0, "is_dynamic": False, "symmetric": True},
        ],
        "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": True},
    },
}  # fmt: skip
"""What Quark 0.13 writes for its scheme int4_fp8, without the keys of calibration."""


def quark_int4_on_fp8() -> Form:
    """An attention and an expert's matrices."""
    form = Form({"quantization_config": INT4_ON_FP8})
    modules = {"self_attn.o_proj": (40, 64), "mlp.experts.0.gate_proj": (48, 64), "mlp.experts.0.up_proj": (48, 64)}
    for seed, (tail, shape) in enumerate(modules.items()):
        name = f"model.layers.0.{tail}"
        stored, form.real[name] = two_stages(shape, seed)
        form.stored |= {f"{name}.{suffix}": tensor for suffix, tensor in stored.items()}
    plain(form, "lm_head.weight", "model.layers.0.mlp.gate.weight")
    return form


def add_integers(form: Form, name: str, shape: Grid, group: int, *, words: bool, seed: int) -> None:
    """Add a module of random integers with BF16 scales; all sixteen values occur."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-8, 8, shape)
    form.stored[f"{name}.{'weight_packed' if words else 'weight'}"] = in_words(values) if words else in_bytes(values)
    grid = (shape[0], shape[1] // group)
    suffix = "weight_scale" if words else "weight_scale_inv"
    form.stored[f"{name}.{suffix}"], factor = scales(rng, "BF16", grid, powers=False)
    if words:
        form.stored[f"{name}.weight_shape"] = Stored("I64", (2,), np.array(shape, "<i8").tobytes())
    form.real[name] = values.astype(np.float32) * spread(factor, shape, (1, group))


def w4afp8(document: dict[str, Any]) -> Form:
    """Experts in bytes with a static input, block FP8 beside them; the configuration says next to nothing."""
    form = Form({}, files={"hf_quant_config.json": document})
    if "quant_method" in document:
        form = Form({"quantization_config": document})
    add(form, "model.layers.0.self_attn.o_proj", (160, 288), (128, 128), suffix="weight_scale_inv", dtype="F32", seed=1)
    for seed, part in enumerate(("gate_proj", "up_proj", "down_proj"), start=2):
        name = f"model.layers.0.mlp.experts.0.{part}"
        add_integers(form, name, (40, 256), 128, words=False, seed=seed)
        form.stored[f"{name}.input_scale"] = scales(np.random.default_rng(seed), "BF16", (1,), powers=False)[0]
    plain(form, "lm_head.weight", "model.layers.0.mlp.gate.weight")
    return form


def pack_quantized(*, group: int, fp8_input: bool) -> Form:
    """Kimi-K2.5's experts, or llm-compressor's W4AFP8."""
    activations = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True} if fp8_input else None
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group, "symmetric": True}
    form = Form({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}},
    }})  # fmt: skip
    for seed, (name, shape) in enumerate({UP: (48, 256), DOWN: (256, 384)}.items()):
        add_integers(form, name, shape, group, words=True, seed=seed)
    plain(form, "lm_head.weight")
    return form


def quark_on_fp8() -> Form:
    """Quark's MXFP4 experts in a checkpoint that was block FP8: what `exclude` lists still is."""
    spec = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}
    form = Form({"quantization_config": {
        "quant_method": "quark", "exclude": ["lm_head", "*.self_attn.*", "*.mlp.gate"], "version": "0.12",
        "global_quant_config": {"weight": {**spec, "is_dynamic": False}, "input_tensors": {**spec, "is_dynamic": True}},
    }})  # fmt: skip
    add(form, "model.layers.0.self_attn.o_proj", (160, 288), (128, 128), suffix="weight_scale", dtype="F32", seed=1)
    add(form, "model.layers.0.self_attn.q_b_proj", (300, 144), (128, 128), suffix="weight_scale", dtype="F32", seed=2)
    for seed, part in enumerate(("gate_proj", "up_proj"), start=3):
        name = f"model.layers.0.mlp.experts.0.{part}"
        add(form, name, (48, 96), (1, 32), suffix="weight_scale", dtype="U8", seed=seed, packed="U8")
    plain(form, "lm_head.weight", "model.layers.0.mlp.gate.weight")
    return form


BARE = {
    "producer": {"name": "modelopt"},
    "quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None},
}
INT4_FORMS = {
    "30 W4AFP8": lambda: w4afp8(BARE),
    "30 W4AFP8 by its method's name": lambda: w4afp8({"quant_method": "w4afp8"}),
    "30 W4AFP8 in words": lambda: pack_quantized(group=128, fp8_input=True),
    "integers without quantized inputs": lambda: pack_quantized(group=32, fp8_input=False),
    "32 Quark int4 on FP8": quark_int4_on_fp8,
    "33 Quark on block FP8": quark_on_fp8,
}
