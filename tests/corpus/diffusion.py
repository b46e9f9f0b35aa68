"""Single files of image models; merging and converting."""

import json

from corpus.row import Row
from fp8load.rules.samples import BLOCK, QUANTIZED

LEGACY = """\
model.diffusion_model.scaled_fp8                              F8_E4M3  [2]
model.diffusion_model.blocks.{0..3}.mlp.weight                F8_E4M3  [96, 64]
model.diffusion_model.blocks.{0..3}.mlp.scale_weight          F32      []
model.diffusion_model.norm.weight                             BF16     [64]
"""
MARKED = (
    "inside comfy_quant "
    + json.dumps({f"model.diffusion_model.blocks.{n}.mlp": {"format": "float8_e4m3fn"} for n in range(4)})
    + """
model.diffusion_model.blocks.{0..3}.mlp.weight        F8_E4M3  [96, 64]
model.diffusion_model.blocks.{0..3}.mlp.weight_scale  F32      []
model.diffusion_model.norm.weight                     BF16     [64]
"""
)
HINTED = (
    "inside comfy_metadata "
    + json.dumps({f"model.diffusion_model.blocks.{n}.mlp": {"format": "float8_e4m3fn"} for n in range(4)})
    + MARKED[MARKED.index("\n") :]
)
LAYERS = BLOCK + QUANTIZED.replace("layers.0", "layers.{0..3}")

ROWS = (
    Row(
        number=184,
        thread="HunyuanVideoWrapper#354",
        what="The scales lie in a file of another format beside the weights.",
        twin=LEGACY,
        changes=(
            ("model.diffusion_model.blocks.{0..3}.mlp.scale_weight          F32      []\n", ""),
            ("model.diffusion_model.scaled_fp8                              F8_E4M3  [2]\n", ""),
        ),
        codes=("F8L201", "F8L101"),
        subject="model.diffusion_model.blocks.0.mlp",
    ),
    Row(
        number=185,
        thread="InvokeAI#9478",
        what="The names in the header's metadata have a prefix that the tensors do not have.",
        twin=HINTED,
        changes=(("\nmodel.diffusion_model.", "\n"),),
        codes=("F8C002",),
        subject="blocks.0.mlp",
    ),
    Row(
        number=187,
        thread="ms-swift#7907",
        what="After a merge the scale of a layer is that of other weights.",
        reads="W",
        twin=LAYERS,
        twin_values={f"model.layers.{n}.mlp.down_proj.weight_scale_inv": 2e-4 for n in range(4)},
        values={"model.layers.2.mlp.down_proj.weight_scale_inv": 0.02},
        codes=("F8L805",),
        subject="model.layers.2.mlp.down_proj.weight",
    ),
    Row(
        number=189,
        thread="DeepSeek-V3.2-Exp#59",
        what="Some FP8 tensors have no scale, and a converter leaves them out.",
        twin=LAYERS,
        changes=(("layers.{0..3}.mlp.down_proj.weight_scale_inv", "layers.{0,1,3}.mlp.down_proj.weight_scale_inv"),),
        codes=("F8L201",),
        subject="model.layers.2.mlp.down_proj.weight",
    ),
)
