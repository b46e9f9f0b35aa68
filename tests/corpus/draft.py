"""Draft layers for multi-token prediction; the head."""

from corpus.bases import FP8, config, modelopt, quantized
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA, QUANTIZED

TRUNK = config(num_hidden_layers=1, num_nextn_predict_layers=1)
BEHIND = (
    "model.layers.1.self_attn.o_proj.weight F8_E4M3 [256, 256]\n"
    "model.layers.1.self_attn.o_proj.weight_scale_inv F32 [2, 2]\n"
)


def listing(*names: str) -> str:
    """The block form with a list."""
    return quantized(**FP8, modules_to_not_convert=list(names))


FOUR = """\
model.layers.0.mlp.{gate,up}_proj.weight          U8       [256, 128]
model.layers.0.mlp.{gate,up}_proj.weight_scale    F8_E4M3  [256, 16]
model.layers.0.mlp.{gate,up}_proj.weight_scale_2  F32      []
model.layers.0.mlp.{gate,up}_proj.input_scale     F32      []
"""
CHANNELS = LLAMA.replace("lm_head", "model.unused").replace(", model.unused", "")
HEAD = "lm_head.weight"

ROWS = (
    Row(
        number=145,
        thread="vllm#31757",
        what="The head of the draft layer is quantized, and the engine builds it in 16 bits.",
        reads="P",
        twin=TRUNK
        + listing("model.layers.1.shared_head.head")
        + QUANTIZED
        + BEHIND
        + "model.layers.1.shared_head.head.weight BF16 [1024, 256]\n",
        changes=(
            ('["model.layers.1.shared_head.head"]', "[]"),
            (
                "model.layers.1.shared_head.head.weight BF16 [1024, 256]",
                "model.layers.1.shared_head.head.weight F8_E4M3 [1024, 256]\n"
                "model.layers.1.shared_head.head.weight_scale_inv F32 [8, 2]",
            ),
        ),
        codes=("F8L912", "F8L208"),
        subject="model.layers.1.shared_head.head",
    ),
    Row(
        number=146,
        thread="vllm#35548",
        what="A draft layer is declared, and the quantized repository has none.",
        twin=TRUNK + BLOCK + QUANTIZED + BEHIND,
        changes=((BEHIND, ""),),
        codes=("F8L911",),
        subject="num_nextn_predict_layers",
    ),
    Row(
        number=148,
        thread="vllm#53387",
        what="mtp.fc is in 16 bits, and the configuration does not say so.",
        twin=TRUNK + modelopt("NVFP4", "mtp.fc") + FOUR + "mtp.fc.weight BF16 [256, 512]\n",
        changes=(('["mtp.fc"]', "[]"),),
        codes=("F8L912", "F8L302"),
        subject="mtp.fc",
    ),
    Row(
        number=150,
        thread="llm-compressor#2735",
        what="Quantization dropped the draft layers, and config.json still counts them.",
        twin=config(num_hidden_layers=1, mtp_num_hidden_layers=1)
        + BLOCK
        + QUANTIZED
        + BEHIND.replace("model.layers.1", "mtp.layers.0"),
        changes=((BEHIND.replace("model.layers.1", "mtp.layers.0"), ""),),
        codes=("F8L911",),
        subject="mtp_num_hidden_layers",
    ),
    Row(
        number=151,
        thread="ATOM#755",
        what="Matrices of the draft layer are BF16 where the configuration quantizes them.",
        twin=TRUNK
        + listing("lm_head", "model.layers.1.eh_proj", "model.layers.1.self_attn.o_proj")
        + QUANTIZED
        + "model.layers.1.eh_proj.weight BF16 [256, 512]\nmodel.layers.1.self_attn.o_proj.weight BF16 [256, 256]\n",
        changes=((', "model.layers.1.eh_proj", "model.layers.1.self_attn.o_proj"', ""),),
        codes=("F8L302",),
        subject="model.layers.1.self_attn.o_proj.weight",
    ),
    Row(
        number=152,
        thread="vllm#49552",
        what="The list names the draft layers as the checkpoint does, and the draft model calls them otherwise.",
        reads="P",
        twin=TRUNK + listing("lm_head") + QUANTIZED + BEHIND,
        codes=("F8L912",),
        subject="model.layers.1",
        missed="what vLLM calls the layers of a draft model is not in its profile",
    ),
    Row(
        number=153,
        thread="sglang#2935",
        what="tie_word_embeddings is true, and a head is stored.",
        twin=LLAMA,
        changes=(('"vocab_size"', '"tie_word_embeddings": true, "vocab_size"'),),
        codes=("F8L921",),
        subject=HEAD,
    ),
    Row(
        number=154,
        thread="FreeToken#389",
        what="The head is quantized, and its scale is not expected.",
        twin=LLAMA,
        changes=(
            (
                "{model.embed_tokens,lm_head}.weight                       BF16     [1024, 256]",
                "model.embed_tokens.weight BF16 [1024, 256]\n"
                "lm_head.weight F8_E4M3 [1024, 256]\n"
                "lm_head.weight_scale_inv F32 [8, 2]",
            ),
        ),
        codes=("F8L921",),
        subject=HEAD,
    ),
)
