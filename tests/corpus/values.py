"""Values of scales and weights."""

from corpus.bases import CT_CHANNEL, ct
from corpus.bases import NVFP4 as FOUR
from corpus.row import Row
from fp8load.rules.samples import BLOCK, NVFP4, NVFP4_GATE_UP, QUANTIZED

LINEAR = "model.layers.0.mlp.down_proj"
SCALE = f"{LINEAR}.weight_scale_inv"
GATE = "model.layers.0.mlp.gate_proj"
CALIBRATED = {
    f"model.layers.0.mlp.{part}_proj.{scale}": 3e-4
    for part in ("gate", "up")
    for scale in ("weight_scale_2", "input_scale")
}
EXPERTS = (
    ct(FOUR, {**FOUR, "dynamic": "local"}, format="nvfp4-pack-quantized")
    + """\
model.layers.0.mlp.experts.{0..3}.{gate,up}_proj.weight_packed                              U8       [256, 128]
model.layers.0.mlp.experts.{0..3}.{gate,up}_proj.weight_scale                               F8_E4M3  [256, 16]
model.layers.0.mlp.experts.{0..3}.{gate,up}_proj.{weight_global_scale,input_global_scale}  F32      [1]
"""
)
GLOBALS = {
    f"model.layers.0.mlp.experts.{n}.{part}_proj.{kind}_global_scale": 900.0
    for n in range(4)
    for part in ("gate", "up")
    for kind in ("weight", "input")
}
AFFINE = (
    'config {"quantization": {"group_size": 64, "bits": 4}}\n'
    + """\
model.layers.0.mlp.down_proj.weight            U32   [256, 32]
model.layers.0.mlp.down_proj.{scales,biases}   BF16  [256, 4]
model.norm.weight                              BF16  [256]
"""
)
DEAD = "".join(
    f"model.layers.0.mlp.experts.{n}.down_proj.weight F8_E4M3 [128, 128]\n"
    f"model.layers.0.mlp.experts.{n}.down_proj.weight_scale_inv F32 [1, 1]\n"
    for n in range(4)
)
ALIVE = {f"model.layers.0.mlp.experts.{n}.down_proj.weight_scale_inv": 2e-4 for n in range(4)}

ROWS = (
    Row(
        number=126,
        thread="Model-Optimizer#1382",
        what="Block scales below the smallest E4M3 number became zero.",
        reads="S",
        twin=NVFP4 + NVFP4_GATE_UP,
        twin_values=CALIBRATED,
        values={f"{GATE}.weight_scale": 0.0},
        codes=("F8L702",),
        subject=f"{GATE}.weight_scale",
    ),
    Row(
        number=127,
        thread="llm-compressor#2826",
        what="The input scale of an expert that calibration never reached is NaN.",
        reads="S",
        twin=EXPERTS,
        twin_values=GLOBALS,
        values={"model.layers.0.mlp.experts.3.gate_proj.input_global_scale": float("nan")},
        codes=("F8L701",),
        subject="model.layers.0.mlp.experts.3.gate_proj.input_global_scale",
    ),
    Row(
        number=128,
        thread="compressed-tensors#832",
        what="The weight scale of a saved module is NaN or infinite.",
        reads="S",
        twin=CT_CHANNEL,
        values={"model.layers.1.self_attn.o_proj.weight_scale": float("inf")},
        codes=("F8L701",),
        subject="model.layers.1.self_attn.o_proj.weight_scale",
    ),
    Row(
        number=129,
        thread="flashinfer#2595",
        what="Experts that were never trained have block scales of about 1e-23.",
        reads="S",
        twin=BLOCK + DEAD,
        twin_values=ALIVE,
        values={"model.layers.0.mlp.experts.2.down_proj.weight_scale_inv": 1e-23},
        codes=("F8L708",),
        subject="model.layers.0.mlp.experts.2.down_proj.weight_scale_inv",
    ),
    Row(
        number=130,
        thread="mlx-vlm#1931",
        what="Scales, biases and norms of a published 4-bit draft model are NaN or infinite.",
        reads="S",
        twin=AFFINE,
        values={f"{LINEAR}.scales": float("nan")},
        codes=("F8L701",),
        subject=f"{LINEAR}.scales",
        missed="the affine 4-bit form of MLX is not a format that is read; in those that are, F8L701 sees it",
    ),
    Row(
        number=132,
        thread="ao#4762",
        what="A block of zeros has a scale of zero, and its codes became NaN.",
        reads="W",
        twin=BLOCK + QUANTIZED,
        values={SCALE: 0.0, f"{LINEAR}.weight": float("nan")},
        codes=("F8L702", "F8L801"),
        subject=LINEAR,
    ),
)
