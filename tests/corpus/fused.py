"""Scales of layers that engines fuse."""

from corpus.bases import CT_NVFP4, NVFP4, ct, modelopt
from corpus.row import Row
from fp8load.rules.samples import NVFP4 as MODELOPT_NVFP4
from fp8load.rules.samples import NVFP4_GATE_UP, STATIC, TENSOR_WISE

SEPARATE = STATIC + TENSOR_WISE
PHI = "model.layers.{0..1}.self_attn.qkv_proj"
FUSED = """\
model.layers.{0..1}.self_attn.qkv_proj.weight        F8_E4M3  [768, 256]
model.layers.{0..1}.self_attn.qkv_proj.weight_scale  F32      []
model.layers.{0..1}.self_attn.qkv_proj.input_scale   F32      []
"""
GATE_UP = """\
model.layers.{0..1}.mlp.gate_up_proj.weight_packed                              U8       [512, 128]
model.layers.{0..1}.mlp.gate_up_proj.weight_scale                               F8_E4M3  [512, 16]
model.layers.{0..1}.mlp.gate_up_proj.{weight_global_scale,input_global_scale}  F32      [1]
"""
NVFP4_A4 = (
    ct(NVFP4, {**NVFP4, "dynamic": "local"}, format="nvfp4-pack-quantized")
    + """\
model.layers.{0..1}.mlp.{gate,up}_proj.weight_packed                              U8       [256, 128]
model.layers.{0..1}.mlp.{gate,up}_proj.weight_scale                               F8_E4M3  [256, 16]
model.layers.{0..1}.mlp.{gate,up}_proj.{weight_global_scale,input_global_scale}  F32      [1]
"""
)
PARTS = NVFP4_A4.partition("\n")[2]
GLOBALS = [f"model.layers.{layer}.mlp.{part}_proj.weight_global_scale" for layer in range(4) for part in ("gate", "up")]
WAN = (
    ct(NVFP4, format="nvfp4-pack-quantized")
    + """\
blocks.{0..1}.attn1.{to_q,to_k,to_v}.weight_packed        U8       [256, 128]
blocks.{0..1}.attn1.{to_q,to_k,to_v}.weight_scale         F8_E4M3  [256, 16]
blocks.{0..1}.attn1.{to_q,to_k,to_v}.weight_global_scale  F32      [1]
"""
)
WAN_GLOBALS = [f"blocks.{block}.attn1.to_{part}.weight_global_scale" for block in range(2) for part in "qkv"]
EXPERTS = (
    modelopt("FP8")
    + """\
model.layers.0.mlp.experts.{0..3}.{gate,up,down}_proj.weight                      F8_E4M3  [256, 256]
model.layers.0.mlp.experts.{0..3}.{gate,up,down}_proj.{weight_scale,input_scale}  F32      []
"""
)
INPUTS = {
    f"model.layers.0.mlp.experts.{n}.{part}_proj.input_scale": 0.02 for n in range(4) for part in ("gate", "up", "down")
}
SHARED = {
    f"model.layers.0.mlp.experts.{n}.{part}_proj.weight_scale": 0.002
    for n in range(4)
    for part in ("gate", "up", "down")
}
LLAMA4 = (
    modelopt("NVFP4")
    + """\
model.layers.0.mlp.experts.gate_up_proj                 U8       [4, 64, 192]
model.layers.0.mlp.experts.gate_up_proj_weight_scale    F8_E4M3  [4, 8, 192]
model.layers.0.mlp.experts.gate_up_proj_weight_scale_2  F32      [4]
model.layers.0.mlp.experts.gate_up_proj_input_scale     F32      [4]
"""
)

ROWS = (
    Row(
        number=88,
        thread="vllm#5915",
        what="q, k and v are one tensor with one scale, and the engine has three places for it.",
        twin=SEPARATE,
        changes=((TENSOR_WISE, FUSED),),
        codes=("F8L401",),
        subject="model.layers.0.self_attn.qkv_proj",
    ),
    Row(
        number=89,
        thread="vllm#39764",
        what="Gate and up are one NVFP4 tensor with one global scale; an engine fills one of two places.",
        twin=NVFP4_A4,
        changes=((PARTS, GATE_UP),),
        codes=("F8L401",),
        subject="model.layers.0.mlp.gate_up_proj",
        engine="vllm@0.11",
    ),
    Row(
        number=90,
        thread="sglang#14102",
        what="gate_up_proj is one tensor with one input scale.",
        twin=MODELOPT_NVFP4 + NVFP4_GATE_UP,
        changes=((NVFP4_GATE_UP, NVFP4_GATE_UP.replace("{gate,up}_proj", "gate_up_proj").replace("[256, ", "[512, ")),),
        codes=("F8L401",),
        subject="model.layers.0.mlp.gate_up_proj.input_scale",
    ),
    Row(
        number=91,
        thread="sglang#28546",
        what="The one scale of a fused layer has the shape [1], which is taken for the first part's.",
        twin=SEPARATE,
        changes=((TENSOR_WISE, FUSED.replace("[]", "[1]")),),
        engine="sglang@0.5.4",
        codes=("F8L401",),
        subject="model.layers.0.self_attn.qkv_proj.weight_scale",
    ),
    Row(
        number=93,
        thread="vllm#47515",
        what="The global scales of gate and up differ, in most of the layers.",
        reads="S",
        twin=CT_NVFP4,
        twin_values={name: 2000.0 + 300 * int(name.split(".")[2]) for name in GLOBALS},
        values=dict.fromkeys(GLOBALS[1:6:2], 4280.0),
        codes=("F8L402",),
        subject="model.layers.0.mlp.gate_proj.weight_global_scale",
    ),
    Row(
        number=94,
        thread="auto-round#2380",
        what="The global scales of to_q, to_k and to_v of an image model differ.",
        reads="S",
        twin=WAN,
        twin_values=dict.fromkeys(WAN_GLOBALS, 3000.0),
        values={name: 2400.0 for name in WAN_GLOBALS if "to_k" in name},
        codes=("F8L402",),
        subject="blocks.0.attn1.to_k.weight_global_scale",
    ),
    Row(
        number=95,
        thread="trtllm#10780",
        what="The static input scales of the experts of a layer differ.",
        reads="S",
        twin=EXPERTS,
        twin_values={**INPUTS, **SHARED},
        values={"model.layers.0.mlp.experts.2.gate_proj.input_scale": 0.03},
        codes=("F8L403",),
        subject="model.layers.0.mlp.experts.0.gate_proj.input_scale",
    ),
)
