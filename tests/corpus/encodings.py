"""Encodings of scales and weights."""

from corpus.diffusion import MARKED
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA, NVFP4, NVFP4_GATE_UP, QUANTIZED

LINEAR = "model.layers.0.mlp.down_proj"
SCALE = f"{LINEAR}.weight_scale_inv"
ROWS = (
    Row(
        number=115,
        thread="modular#7142",
        what="Block scales are BF16, and the reader wants F32.",
        twin=LLAMA,
        changes=(("F32 ", "BF16"),),
        codes=("F8L601",),
        subject=SCALE,
    ),
    Row(
        number=116,
        thread="ComfyUI#11662",
        what="The scale of a whole tensor was saved in BF16.",
        twin=MARKED,
        changes=(("weight_scale  F32 ", "weight_scale  BF16"),),
        codes=("F8L601",),
        subject="model.diffusion_model.blocks.0.mlp.weight_scale",
    ),
    Row(
        number=117,
        thread="lmdeploy#4276",
        what="Block scales are F16.",
        twin=LLAMA,
        changes=(("F32 ", "F16 "),),
        codes=("F8L601",),
        subject=SCALE,
    ),
    Row(
        number=118,
        thread="vllm-fork#2141",
        what="The scales of a dense model are BF16, and code of one device takes F32.",
        twin=BLOCK + QUANTIZED,
        changes=(("F32 ", "BF16"),),
        codes=("F8L601",),
        subject=SCALE,
    ),
    Row(
        number=121,
        thread="vllm#58157",
        what="Block scales are no powers of two, and the engine rounds them to some.",
        reads="S",
        twin=BLOCK + QUANTIZED,
        twin_values={SCALE: 2**-7},
        values={SCALE: 0.003},
        engine="vllm@0.33",
        arch="sm100",
        codes=("F8L707",),
        subject=SCALE,
    ),
    Row(
        number=122,
        thread="sglang#35111",
        what="Weights are E4M3, and the GPU computes in its fnuz form.",
        reads="P",
        twin=BLOCK + QUANTIZED,
        arch="gfx942",
        twin_arch="gfx950",
        codes=("F8L602", "F8T001"),
        subject=LINEAR,
    ),
    Row(
        number=123,
        thread="triton#10745",
        what="A weight in fnuz holds the byte 0x80, its NaN, which a decoder took for minus zero.",
        reads="W",
        twin=BLOCK.replace('"quant_method"', '"fmt": "float8_e4m3fnuz", "quant_method"')
        + QUANTIZED.replace("F8_E4M3", "F8_E4M3FNUZ"),
        values={f"{LINEAR}.weight": float("nan")},
        codes=("F8L801",),
        subject=f"{LINEAR}.weight",
    ),
    Row(
        number=124,
        thread="Model-Optimizer#2038",
        what="Block scales were written in the order of a kernel: one axis, padded, as bytes.",
        twin=NVFP4 + NVFP4_GATE_UP,
        changes=(("F8_E4M3  [256, 16]", "U8  [4096]"),),
        codes=("F8L605", "F8L501"),
        subject="model.layers.0.mlp.gate_proj.weight_scale",
    ),
)
