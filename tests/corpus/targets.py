"""What one engine or one of its versions reads otherwise: names, lists, layouts, methods."""

from corpus.bases import CHANNEL, FP8, TOKEN, config, ct, modelopt, quantized
from corpus.row import Row
from corpus.shapes import moe
from fp8load.rules.samples import (
    BLOCK,
    LLAMA_CONFIG,
    LLAMA_MLP,
    LLAMA_REST,
    QUANTIZED,
    STATIC,
    TENSOR_WISE,
)

ATTENTION = "model.layers.0.self_attn.{q,k,v,o}_proj.weight  BF16  [256, 256]\n"
PARTS = [f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"]
FUSED = ["model.layers.0.self_attn.qkv_proj", "model.layers.0.self_attn.o_proj"]
MIXED = LLAMA_CONFIG + ATTENTION + LLAMA_MLP + LLAMA_REST
MLP_CHANNEL = """\
model.layers.0.mlp.{gate,up}_proj.weight                  F8_E4M3  [512, 256]
model.layers.0.mlp.{gate,up}_proj.weight_scale            F32      []
model.layers.0.mlp.{gate,up}_proj.input_scale             F32      []
model.layers.0.mlp.down_proj.weight                       F8_E4M3  [256, 512]
model.layers.0.mlp.down_proj.weight_scale                 F32      []
model.layers.0.mlp.down_proj.input_scale                  F32      []
"""
FOUR = """\
model.layers.0.mlp.{gate,up}_proj.weight                         U8       [512, 128]
model.layers.0.mlp.{gate,up}_proj.weight_scale                   F8_E4M3  [512, 16]
model.layers.0.mlp.down_proj.weight                              U8       [256, 256]
model.layers.0.mlp.down_proj.weight_scale                        F8_E4M3  [256, 32]
model.layers.0.mlp.{gate,up,down}_proj.{weight_scale_2,input_scale}  F32  []
"""


GRANITE = (
    config(model_type="granitemoe", num_hidden_layers=1, hidden_size=256, intermediate_size=128, num_attention_heads=2,
           num_key_value_heads=2, vocab_size=1024, num_local_experts=4)
    + ct(CHANNEL, TOKEN, format="float-quantized", ignore=["lm_head", "re:.*router.*", "re:.*_linear"])
    + """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight        F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k,v,o}_proj.weight_scale  BF16     [256, 1]
model.layers.0.block_sparse_moe.router.layer.weight   BF16     [4, 256]
model.layers.0.{input,post_attention}_layernorm.weight  BF16   [256]
model.norm.weight                                     BF16     [256]
{model.embed_tokens,lm_head}.weight                   BF16     [1024, 256]
"""
)  # fmt: skip
GRANITE_PLAIN = """\
model.layers.0.block_sparse_moe.input_linear.weight   BF16     [4, 256, 256]
model.layers.0.block_sparse_moe.output_linear.weight  BF16     [4, 256, 128]
"""
GRANITE_STACKED = """\
model.layers.0.block_sparse_moe.input_linear.weight         F8_E4M3  [4, 256, 256]
model.layers.0.block_sparse_moe.input_linear.weight_scale   BF16     [4, 256, 1]
model.layers.0.block_sparse_moe.output_linear.weight        F8_E4M3  [4, 256, 128]
model.layers.0.block_sparse_moe.output_linear.weight_scale  BF16     [4, 256, 1]
"""


MINIMAX = (
    config(model_type="minimax_m3_vl", text_config={
        "num_hidden_layers": 1, "hidden_size": 256, "vocab_size": 1024, "num_attention_heads": 2, "head_dim": 128,
        "num_key_value_heads": 2, "dense_intermediate_size": 512, "mlp_layer_types": ["dense"],
        "layer_types": ["full"]})
    + ct(CHANNEL, TOKEN, format="float-quantized", ignore=["lm_head", "re:.*lm_head", "%s"])
    + """\
language_model.model.layers.0.self_attn.{q,k,v,o}_proj.weight        F8_E4M3  [256, 256]
language_model.model.layers.0.self_attn.{q,k,v,o}_proj.weight_scale  BF16     [256, 1]
language_model.model.layers.0.self_attn.{q,k}_norm.weight            BF16     [128]
language_model.model.layers.0.mlp.{gate,up}_proj.weight              F8_E4M3  [512, 256]
language_model.model.layers.0.mlp.{gate,up}_proj.weight_scale        BF16     [512, 1]
language_model.model.layers.0.mlp.down_proj.weight                   F8_E4M3  [256, 512]
language_model.model.layers.0.mlp.down_proj.weight_scale             BF16     [256, 1]
language_model.model.layers.0.{input,post_attention}_layernorm.weight  BF16   [256]
language_model.model.norm.weight                                     BF16     [256]
{language_model.model.embed_tokens,language_model.lm_head}.weight    BF16     [1024, 256]
vision_tower.encoder.layers.0.mlp.fc1.weight                         BF16     [256, 256]
"""
)  # fmt: skip


def listing(*names: str) -> str:
    """The block form with a list."""
    return quantized(**FP8, modules_to_not_convert=list(names))


def seeing(*ignore: str) -> str:
    """A language model inside a multimodal one, whose vision tower is in 16 bits."""
    text = {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    }
    skeleton = (
        ATTENTION.replace("BF16", "F8_E4M3")
        + "model.layers.0.self_attn.{q,k,v,o}_proj.{weight_scale,input_scale}  F32  [1]\n"
        + "model.layers.0.self_attn.{q,k}_norm.weight  BF16  [128]\n"
        + MLP_CHANNEL.replace("F32      []", "F32      [1]")
        + LLAMA_REST
    ).replace("model.", "model.language_model.")
    static = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    return (
        config(model_type="qwen3_vl", text_config=text)
        + ct(static, {**static, "dynamic": False}, ignore=list(ignore))
        + skeleton
        + "model.visual.merger.linear_fc1.weight  BF16  [256, 256]\nmodel.visual.merger.norm.weight  BF16  [256]\n"
    )


STACKED = (
    moe(512)
    .replace(
        "experts.{0..3}.{gate,up}_proj.weight            F8_E4M3  [512, 256]",
        "experts.gate_up_proj  F8_E4M3  [4, 1024, 256]",
    )
    .replace(
        "experts.{0..3}.{gate,up}_proj.weight_scale_inv  F32      [4, 2]",
        "experts.gate_up_proj_scale_inv  F32  [4, 8, 2]",
    )
    .replace(
        "experts.{0..3}.down_proj.weight                 F8_E4M3  [256, 512]",
        "experts.down_proj  F8_E4M3  [4, 256, 512]",
    )
    .replace(
        "experts.{0..3}.down_proj.weight_scale_inv       F32      [2, 4]", "experts.down_proj_scale_inv  F32  [4, 2, 4]"
    )
)

ROWS = (
    Row(
        number=55,
        thread="vllm#44739",
        what="A mapping of experts renames weights and not their scales.",
        reads="P",
        twin=GRANITE + GRANITE_PLAIN,
        changes=((GRANITE_PLAIN, GRANITE_STACKED), (', "re:.*_linear"', "")),
        engine="vllm@0.33",
        codes=("F8L209",),
        subject="model.layers.0.block_sparse_moe.input_linear.weight_scale",
    ),
    Row(
        number=31,
        thread="AngelSlim#12",
        what="One static scale a tensor, under a method of which the reader knows blocks only.",
        reads="P",
        twin=BLOCK + QUANTIZED,
        changes=((BLOCK + QUANTIZED, STATIC + TENSOR_WISE),),
        engine="transformers@4.53",
        codes=("F8L107", "F8L108", "F8L110"),
        subject="fp8-tensor",
    ),
    Row(
        number=37,
        thread="sglang#14285",
        what="The algorithm is one of ModelOpt's for which the engine has no class.",
        reads="P",
        twin=modelopt("FP8") + TENSOR_WISE,
        changes=(
            ('"quant_algo": "FP8"', '"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"'),
            ("weight_scale  F32      []", "weight_scale  F32      [256]"),
            ("\nmodel.layers.{0..1}.self_attn.{q,k,v}_proj.input_scale   F32      []", ""),
        ),
        engine="sglang@0.5.4",
        codes=("F8L107",),
        subject="FP8_PER_CHANNEL_PER_TOKEN",
    ),
    Row(
        number=67,
        thread="vllm#28072",
        what="The entry is a regular expression, which the engine does not rename with the modules.",
        reads="P",
        twin=seeing("lm_head", "model.visual.merger.linear_fc1"),
        changes=(('"model.visual.merger.linear_fc1"', '"re:model.visual.*"'),),
        engine="vllm@0.33",
        codes=("F8L305",),
        subject="model.visual.merger.linear_fc1.weight",
    ),
    Row(
        number=68,
        thread="vllm#51910",
        what="A rule that renames has a dot at its end, and the entries have none.",
        reads="P",
        twin=MINIMAX % "re:.*vision_tower.*",
        changes=(("re:.*vision_tower.*", "vision_tower.encoder.layers.0.mlp.fc1"),),
        engine="vllm@0.33",
        codes=("F8L305",),
        subject="vision_tower.encoder.layers.0.mlp.fc1",
    ),
    Row(
        number=75,
        thread="sglang#26213",
        what="The list has names of fused layers, and the engine compares with their parts.",
        reads="P",
        twin=MIXED + listing("lm_head", *PARTS),
        changes=((", ".join(f'"{name}"' for name in PARTS), ", ".join(f'"{name}"' for name in FUSED)),),
        engine="sglang@0.5.23",
        codes=("F8L307",),
        subject="model.layers.0.self_attn.q_proj",
    ),
    Row(
        number=76,
        thread="vllm#43981",
        what="The list has names of fused layers, which one version of the engine does not compare.",
        reads="P",
        twin=MIXED + listing("lm_head", *PARTS),
        changes=((", ".join(f'"{name}"' for name in PARTS), ", ".join(f'"{name}"' for name in FUSED)),),
        engine="vllm@0.11",
        codes=("F8L307",),
        subject="model.layers.0.self_attn.q_proj",
    ),
    Row(
        number=78,
        thread="sglang#36596",
        what="Names of single projections are listed, and the engine asks for those of fused modules.",
        reads="P",
        twin=LLAMA_CONFIG + ATTENTION + FOUR + LLAMA_REST + modelopt("NVFP4", "lm_head", *PARTS, FUSED[0]),
        changes=((f', "{FUSED[0]}"', ""),),
        engine="sglang@0.5.23",
        codes=("F8L305", "F8L307"),
        subject="model.layers.0.self_attn.k_proj.weight",
    ),
)
