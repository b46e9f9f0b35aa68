"""Shapes, blocks, tensor parallelism."""

from corpus.bases import config, modelopt
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA, LLAMA_ATTENTION, NVFP4, NVFP4_GATE_UP, QUANTIZED, STATIC, TENSOR_WISE

UNQUANTIZED = (
    '"modules_to_not_convert": ["lm_head", '
    + ", ".join(f'"model.layers.0.self_attn.{name}_proj"' for name in "qkvo")
    + "]"
)


def mixture(intermediate: int, layer: str = "mlp.experts.{0..3}") -> str:
    """Experts of this width in blocks of 128."""
    blocks = -(-intermediate // 128)
    return (
        BLOCK.replace("[128, 128]}", f"[128, 128], {UNQUANTIZED}}}")
        + f"""\
model.layers.0.{layer}.{{gate,up}}_proj.weight            F8_E4M3  [{intermediate}, 256]
model.layers.0.{layer}.{{gate,up}}_proj.weight_scale_inv  F32      [{blocks}, 2]
model.layers.0.{layer}.down_proj.weight                 F8_E4M3  [256, {intermediate}]
model.layers.0.{layer}.down_proj.weight_scale_inv       F32      [2, {blocks}]
"""
    )


def moe(intermediate: int, experts: int = 4) -> str:
    """A whole Qwen3-MoE of one layer."""
    return (
        config(
            model_type="qwen3_moe",
            num_hidden_layers=1,
            hidden_size=256,
            intermediate_size=512,
            moe_intermediate_size=intermediate,
            num_attention_heads=16,
            num_key_value_heads=16,
            head_dim=16,
            vocab_size=1024,
            num_experts=experts,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            tie_word_embeddings=False,
        )
        + mixture(intermediate, f"mlp.experts.{{0..{experts - 1}}}")
        + f"""\
model.layers.0.self_attn.{{q,k,v,o}}_proj.weight            BF16     [256, 256]
model.layers.0.self_attn.{{q,k}}_norm.weight                BF16     [16]
model.layers.0.mlp.gate.weight                            BF16     [{experts}, 256]
model.layers.0.{{input,post_attention}}_layernorm.weight    BF16     [256]
model.norm.weight                                         BF16     [256]
{{model.embed_tokens,lm_head}}.weight                       BF16     [1024, 256]
"""
    )


def shared(intermediate: int) -> str:
    """A whole Qwen2-MoE of one layer, with a shared expert of this width."""
    expert = mixture(intermediate, "mlp.shared_expert").partition("\n")[2]
    return (
        moe(512)
        .replace("qwen3_moe", "qwen2_moe")
        .replace('"decoder_sparse_step"', f'"shared_expert_intermediate_size": {intermediate}, "decoder_sparse_step"')
        .replace("model.layers.0.self_attn.{q,k}_norm.weight                BF16     [16]\n",
                 "model.layers.0.self_attn.{q,k,v}_proj.bias  BF16  [256]\n")
        + expert
        + "model.layers.0.mlp.shared_expert_gate.weight  BF16  [1, 256]\n"
    )  # fmt: skip


def dense(intermediate: int) -> str:
    """`LLAMA` with another width."""
    blocks = -(-intermediate // 128)
    return (
        LLAMA.replace("512", str(intermediate))
        .replace("[4, 2]", f"[{blocks}, 2]")
        .replace("[2, 4]", f"[2, {blocks}]")
        .replace('heads": 2', 'heads": 16')
        .replace('"vocab_size"', '"head_dim": 16, "vocab_size"')
        .replace(LLAMA_ATTENTION, "model.layers.0.self_attn.{q,k,v,o}_proj.weight  BF16  [256, 256]\n")
        .replace("[128, 128]}", f"[128, 128], {UNQUANTIZED}}}")
    )


QKV_A = (
    BLOCK
    + """\
model.layers.{0..1}.self_attn.q_a_proj.weight                       F8_E4M3  [256, 256]
model.layers.{0..1}.self_attn.q_a_proj.weight_scale_inv             F32      [2, 2]
model.layers.{0..1}.self_attn.kv_a_proj_with_mqa.weight             F8_E4M3  [192, 256]
model.layers.{0..1}.self_attn.kv_a_proj_with_mqa.weight_scale_inv   F32      [2, 2]
"""
)
LATE = """\
model.layers.{0..1}.self_attn.{q,k}_proj.weight            F8_E4M3  [256, 256]
model.layers.{0..1}.self_attn.{q,k}_proj.weight_scale_inv  F32      [2, 2]
model.layers.{0..1}.self_attn.v_proj.weight                F8_E4M3  [192, 256]
model.layers.{0..1}.self_attn.v_proj.weight_scale_inv      F32      [2, 2]
"""
HEAD = (
    modelopt("FP8", *())
    + TENSOR_WISE
    + "lm_head.weight F8_E4M3 [1024, 256]\nlm_head.{weight_scale,input_scale} F32 []\n"
)

PB_WO = (
    modelopt("FP8_PB_WO", weight_block_size=[128, 128])
    + """\
model.layers.0.mlp.down_proj.weight        F8_E4M3  [256, 256]
model.layers.0.mlp.down_proj.weight_scale  F32      [2, 2]
"""
)

ROWS = (
    Row(
        number=99,
        thread="vllm#54178",
        what="Experts of 320 columns do not split in blocks of 128.",
        reads="P",
        twin=moe(512),
        changes=((moe(512), moe(320)),),
        tp=(2,),
        codes=("F8L504",),
        subject="model.layers.0.mlp.experts",
    ),
    Row(
        number=100,
        thread="sglang#3345",
        what="1152 rows over two ranks are 576 each, as 18432 over 32 are: no multiple of the block.",
        reads="P",
        twin=dense(2048),
        changes=((dense(2048), dense(1152)),),
        tp=(2,),
        codes=("F8L504",),
        subject="model.layers.0.mlp.down_proj",
    ),
    Row(
        number=101,
        thread="sglang#26107",
        what="A shared expert of 1280 columns over four ranks has 320 each.",
        reads="P",
        twin=shared(1024),
        changes=((shared(1024), shared(1280)),),
        tp=(4,),
        codes=("F8L504",),
        subject="model.layers.0.mlp.shared_expert.down_proj",
    ),
    Row(
        number=102,
        thread="humming#69",
        what="What splits over eight ranks does not over sixteen.",
        reads="P",
        twin=dense(1024),
        tp=(16,),
        twin_tp=(8,),
        codes=("F8L504",),
        subject="model.layers.0.mlp.down_proj",
    ),
    Row(
        number=103,
        thread="ATOM#1488",
        what="Experts of 1536 columns over eight ranks have 192 each.",
        reads="P",
        twin=moe(1024),
        changes=((moe(1024), moe(1536)),),
        tp=(8,),
        codes=("F8L504",),
        subject="model.layers.0.mlp.experts",
    ),
    Row(
        number=107,
        thread="TRT-Model-Connect#1115",
        what="No block size is given, and the shapes do not say which it was.",
        twin=BLOCK + QUANTIZED.replace("[256, 256]", "[1000, 256]").replace("[2, 2]", "[8, 2]"),
        changes=((', "weight_block_size": [128, 128]', ""),),
        codes=("F8L502",),
        subject="model.layers.0.mlp.down_proj.weight_scale_inv",
    ),
    Row(
        number=108,
        thread="trtllm#17433",
        what="ModelOpt's block scales have axes of one between the others.",
        twin=PB_WO,
        changes=(("F32      [2, 2]", "F32      [2, 1, 2, 1]"),),
        codes=("F8L503",),
        subject="model.layers.0.mlp.down_proj.weight_scale",
    ),
    Row(
        number=109,
        thread="sglang#4594",
        what="The scale of a tensor has no axis, and the code expects one.",
        twin=STATIC + TENSOR_WISE.replace("[]", "[1]"),
        changes=(("F32      [1]", "F32      []"),),
        codes=("F8L503",),
        subject="model.layers.0.self_attn.q_proj.weight_scale",
        missed="[] and [1] are both usual, and every reader of today takes either",
    ),
    Row(
        number=110,
        thread="FreeToken#415",
        what="The head has a scale for each row, and the configuration says one for the tensor.",
        twin=HEAD,
        changes=(
            (
                "lm_head.{weight_scale,input_scale} F32 []",
                "lm_head.weight_scale F32 [1024, 1]\nlm_head.input_scale F32 []",
            ),
        ),
        codes=("F8L503", "F8L501"),
        subject="lm_head.weight_scale",
    ),
    Row(
        number=112,
        thread="QuantOps#4",
        what="Scales of blocks of 128 x 128 stand under a configuration that says groups of 128 in a row.",
        twin=BLOCK.replace("[128, 128]", "[1, 128]")
        + "m.down_proj.weight F8_E4M3 [384, 256]\nm.down_proj.weight_scale_inv F32 [384, 2]\n",
        changes=(("[384, 2]", "[3, 2]"),),
        codes=("F8L501",),
        subject="m.down_proj.weight_scale_inv",
    ),
    Row(
        number=113,
        thread="Model-Optimizer#193",
        what="A weight in groups of 16 has one scale.",
        twin=NVFP4 + NVFP4_GATE_UP,
        changes=(("F8_E4M3  [256, 16]", "F8_E4M3  []"),),
        codes=("F8L501",),
        subject="model.layers.0.mlp.gate_proj.weight_scale",
    ),
    Row(
        number=114,
        thread="vllm-gaudi#1220",
        what="weight_block_size stayed after blocks were converted to one scale a row.",
        twin=BLOCK + QUANTIZED,
        changes=(("[2, 2]", "[256]"),),
        codes=("F8L502", "F8L501"),
        subject="model.layers.0.mlp.down_proj.weight_scale_inv",
    ),
)
