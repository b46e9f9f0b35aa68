"""Weights, their scales, and the names of both."""

import json

from corpus.bases import config
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA, QUANTIZED, STATIC, TENSOR_WISE

LINEAR = "model.layers.0.mlp.down_proj"
MTP = (
    config(num_hidden_layers=1)
    + BLOCK
    + QUANTIZED
    + """\
mtp.0.{e_proj,h_proj}.weight            F8_E4M3  [256, 256]
mtp.0.{e_proj,h_proj}.weight_scale_inv  F32      [2, 2]
"""
)
BEHIND = MTP.replace("mtp.0.{e_proj,h_proj}", "model.layers.1.{eh_proj,self_attn.o_proj}").replace(
    '"num_hidden_layers": 1', '"num_hidden_layers": 1, "num_nextn_predict_layers": 1'
)
EMBEDDING = (
    "model.layers.{0..1}.ple.ple_embedding.ngram_embedding.weight  F8_E4M3  [1024, 256]\n"
    "model.layers.{0..1}.ple.ple_embedding.ngram_embedding.weight_scale_inv  F32  [8, 2]\n"
)

FLUX = (
    "inside comfy_quant "
    + json.dumps({f"model.diffusion_model.blocks.{n}.attn": {"format": "nvfp4"} for n in range(4)})
    + """
model.diffusion_model.blocks.{0..3}.attn.weight                        U8       [128, 64]
model.diffusion_model.blocks.{0..3}.attn.weight_scale                  F8_E4M3  [128, 8]
model.diffusion_model.blocks.{0..3}.attn.{weight_scale_2,input_scale}  F32      []
model.diffusion_model.blocks.0.norm.weight                             BF16     [128]
"""
)

ROWS = (
    Row(
        number=41,
        thread="vllm#43564",
        what="Block scales are called weight_scale under a configuration whose readers ask for weight_scale_inv.",
        reads="P",
        twin=LLAMA,
        changes=(("weight_scale_inv", "weight_scale"),),
        engine="vllm@0.33",
        codes=("F8L203",),
        subject="weight_scale_inv",
    ),
    Row(
        number=42,
        thread="vllm#41982",
        what="Input scales are called activation_scale, scales of whole tensors weight_scale_inv.",
        reads="P",
        twin=STATIC + TENSOR_WISE,
        changes=(("input_scale ", "activation_scale "), ("weight_scale ", "weight_scale_inv ")),
        engine="vllm@0.33",
        codes=("F8L203",),
        subject="activation_scale",
    ),
    Row(
        number=43,
        thread="vllm#5353",
        what="Input scales have the name of an older version of the tool, act_scale.",
        twin=STATIC + TENSOR_WISE,
        changes=(("input_scale", "act_scale"),),
        engine="vllm@0.33",
        codes=("F8L203",),
        subject="act_scale",
    ),
    Row(
        number=46,
        thread="miles#1641",
        what="Two matrices of the draft layer have no scale.",
        twin=MTP,
        changes=(("mtp.0.{e_proj,h_proj}.weight_scale_inv  F32      [2, 2]\n", ""),),
        codes=("F8L201",),
        subject="mtp.0.e_proj.weight",
    ),
    Row(
        number=47,
        thread="imp#1450",
        what="A draft layer was copied into the checkpoint without its scales.",
        twin=BEHIND,
        changes=(("model.layers.1.{eh_proj,self_attn.o_proj}.weight_scale_inv  F32      [2, 2]\n", ""),),
        codes=("F8L201",),
        subject="model.layers.1.eh_proj.weight",
    ),
    Row(
        number=48,
        thread="sglang#23625",
        what="Some layers of a static NVFP4 transformer for images have no input scale.",
        twin=FLUX,
        changes=(
            ("{0..3}.attn.{weight_scale_2,input_scale}", "{0..3}.attn.weight_scale_2"),
            (
                "\nmodel.diffusion_model.blocks.0.",
                "\nmodel.diffusion_model.blocks.{0..1}.attn.input_scale  F32  []\nmodel.diffusion_model.blocks.0.",
            ),
        ),
        codes=("F8L204",),
        subject="model.diffusion_model.blocks.2.attn",
        noted="ComfyUI does not quantize inputs without one",
    ),
    Row(
        number=49,
        thread="DeepSeek-V3#2",
        what="A weight and its scale lie in two shards, and the script converts one after the other.",
        twin=BLOCK + QUANTIZED,
        changes=(("[2, 2]", "[2, 2]  @ model-00002.safetensors"),),
        codes=("F8L206",),
        subject=f"{LINEAR}.weight_scale_inv",
    ),
    Row(
        number=50,
        thread="compressed-tensors#641",
        what="Scales lie in other files than their weights, so that a tensor's shard does not suffice.",
        twin=BLOCK + QUANTIZED.replace("layers.0", "layers.{0..3}"),
        changes=(
            ("[2, 2]", "[2, 2]  @ model-00001-of-00002.safetensors"),
            ("[256, 256]", "[256, 256]  @ model-00002-of-00002.safetensors"),
        ),
        codes=("F8L206",),
        subject="model.layers.3.mlp.down_proj.weight_scale_inv",
    ),
    Row(
        number=59,
        thread="transformers#48350",
        what="An n-gram embedding is quantized, and lookups have no place for its scale.",
        twin=BLOCK + QUANTIZED + "model.layers.{0..1}.ple.ple_embedding.ngram_embedding.weight  BF16  [1024, 256]\n",
        changes=(("model.layers.{0..1}.ple.ple_embedding.ngram_embedding.weight  BF16  [1024, 256]\n", EMBEDDING),),
        codes=("F8L922",),
        subject="model.layers.0.ple.ple_embedding.ngram_embedding",
    ),
    Row(
        number=60,
        thread="vllm#54722",
        what="The quantized embedding of one layer has no scale.",
        twin=BLOCK + QUANTIZED + EMBEDDING.replace("F32", "BF16"),
        changes=(
            ("ngram_embedding.weight_scale_inv", "ngram_embedding.unused"),
            (
                "model.layers.{0..1}.ple.ple_embedding.ngram_embedding.unused",
                "model.layers.0.ple.ple_embedding.ngram_embedding.weight_scale_inv",
            ),
        ),
        codes=("F8L201",),
        subject="model.layers.1.ple.ple_embedding.ngram_embedding.weight",
    ),
)
