"""Lists of what is not quantized, and targets."""

from corpus.bases import CHANNEL, CT_CHANNEL, FP8, TOKEN, ct, modelopt, quantized
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA


def listing(*names: str) -> str:
    """The block form with a list."""
    return quantized(**FP8, modules_to_not_convert=list(names))


VISION = (
    ct(CHANNEL, TOKEN, ignore=["lm_head", "re:.*visual.*"])
    + """\
model.language_model.layers.0.mlp.{gate,up}_proj.weight        F8_E4M3  [256, 256]
model.language_model.layers.0.mlp.{gate,up}_proj.weight_scale  BF16     [256, 1]
model.visual.merger.mlp.{0,2}.weight                           BF16     [256, 256]
"""
)
LING = (
    listing("model.layers.{n}.self_attn.b_proj")
    + """\
model.layers.0.self_attn.{q,q_b}_proj.weight            F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,q_b}_proj.weight_scale_inv  F32      [2, 2]
model.layers.0.self_attn.b_proj.weight                  BF16     [16, 256]
"""
)
GATES = (
    listing("model.layers.0.mlp.gate")
    + """\
model.layers.0.mlp.gate.weight                                     BF16     [8, 256]
model.layers.0.mlp.experts.{0..7}.{gate,up}_proj.weight            F8_E4M3  [128, 256]
model.layers.0.mlp.experts.{0..7}.{gate,up}_proj.weight_scale_inv  F32      [1, 2]
"""
)
HYBRID = (
    modelopt("NVFP4", "lm_head")
    + """\
lm_head.weight                                                             BF16     [1024, 256]
model.layers.{0..1}.linear_attn.{in_proj_qkv,in_proj_z}.weight             U8       [256, 128]
model.layers.{0..1}.linear_attn.{in_proj_qkv,in_proj_z}.weight_scale       F8_E4M3  [256, 16]
model.layers.{0..1}.linear_attn.{in_proj_qkv,in_proj_z}.{weight_scale_2,input_scale}  F32  []
"""
)
MAMBA = (
    modelopt("NVFP4", "lm_head", "backbone.layers.0.mixer.conv1d", "backbone.layers.1.mixer.conv1d")
    + """\
lm_head.weight                                                    BF16     [1024, 256]
backbone.layers.{0..1}.mixer.in_proj.weight                       U8       [256, 128]
backbone.layers.{0..1}.mixer.in_proj.weight_scale                 F8_E4M3  [256, 16]
backbone.layers.{0..1}.mixer.in_proj.{weight_scale_2,input_scale}  F32     []
backbone.layers.{0..1}.mixer.conv1d.weight                        BF16     [256, 1, 4]
"""
)
ROWS = (
    Row(
        number=70,
        thread="llm-compressor#2597",
        what="A regular expression lacks the prefix, and the merger of the vision tower was quantized.",
        twin=VISION,
        changes=(
            ("re:.*visual.*", "re:visual.*"),
            (
                "model.visual.merger.mlp.{0,2}.weight                           BF16     [256, 256]",
                "model.visual.merger.mlp.{0,2}.weight  F8_E4M3  [256, 256]\n"
                "model.visual.merger.mlp.{0,2}.weight_scale  BF16  [256, 1]",
            ),
        ),
        codes=("F8L304",),
        subject="model.visual.merger.mlp.0",
    ),
    Row(
        number=71,
        thread="vllm#51265",
        what="Entries are abbreviated: read literally they name nothing, read as parts they name other modules too.",
        twin=LING.replace("{n}", "0"),
        changes=(('model.layers.0.self_attn.b_proj"', 'b_proj"'),),
        codes=("F8L304", "F8L308"),
        subject="b_proj",
    ),
    Row(
        number=72,
        thread="vllm#44628",
        what="The entries are short patterns, and the method compares whole names.",
        reads="P",
        twin=LLAMA.replace("[128, 128]}", '[128, 128], "modules_to_not_convert": ["lm_head"]}'),
        changes=(
            ('"lm_head"]', '"down_proj", "lm_head"]'),
            (
                "model.layers.0.mlp.down_proj.weight                       F8_E4M3  [256, 512]\n"
                "model.layers.0.mlp.down_proj.weight_scale_inv             F32      [2, 4]",
                "model.layers.0.mlp.down_proj.weight  BF16  [256, 512]",
            ),
        ),
        engine="vllm@0.33",
        codes=("F8L305",),
        subject="model.layers.0.mlp.down_proj.weight",
    ),
    Row(
        number=73,
        thread="prime-rl#2442",
        what="A dot in a pattern is not escaped, so that mlp.gate. covers mlp.gate_proj too.",
        twin=GATES
        + (
            "model.layers.1.mlp.{gate,up}_proj.weight            F8_E4M3  [128, 256]\n"
            "model.layers.1.mlp.{gate,up}_proj.weight_scale_inv  F32      [1, 2]\n"
        ),
        changes=(('"model.layers.0.mlp.gate"', '"mlp.gate."'),),
        codes=("F8L304",),
        subject="model.layers.1.mlp.gate_proj",
    ),
    Row(
        number=79,
        thread="trtllm#18607",
        what="The exporter wrote its list with a suffix that no module has.",
        twin=MAMBA,
        changes=(('conv1d"', 'conv1d.__x"'),),
        codes=("F8L301",),
        subject="backbone.layers.0.mixer.conv1d.__x",
    ),
    Row(
        number=80,
        thread="vllm#12617",
        what="The targets are names of single layers.",
        reads="P",
        twin=CT_CHANNEL,
        codes=("F8L306",),
        subject="qkv_proj",
        missed="a list of full names is right; how vLLM of that time matched fused layers with it is in no profile",
    ),
    Row(
        number=82,
        thread="vllm#41457",
        what="Of the projections of a linear attention that engines fuse, one layer has one quantized and one not.",
        twin=HYBRID,
        changes=(
            (
                "model.layers.{0..1}.linear_attn.{in_proj_qkv,in_proj_z}.",
                "model.layers.0.linear_attn.{in_proj_qkv,in_proj_z}.",
            ),
            ('["lm_head"]', '["lm_head", "model.layers.1.linear_attn.in_proj_z"]'),
        ),
        adds="""\
model.layers.1.linear_attn.in_proj_qkv.weight                        U8       [256, 128]
model.layers.1.linear_attn.in_proj_qkv.weight_scale                  F8_E4M3  [256, 16]
model.layers.1.linear_attn.in_proj_qkv.{weight_scale_2,input_scale}  F32      []
model.layers.1.linear_attn.in_proj_z.weight                          BF16     [256, 256]
""",
        codes=("F8L306",),
        subject="model.layers.1.linear_attn.in_proj_z",
    ),
    Row(
        number=83,
        thread="sglang#33245",
        what="wq_a is packed and wkv is not, and an engine makes one matrix of both.",
        reads="P",
        twin=BLOCK
        + "layers.0.attn.{wq_a,wkv}.weight F8_E4M3 [256, 256]\nlayers.0.attn.{wq_a,wkv}.weight_scale_inv F32 [2, 2]\n",
        changes=(("layers.0.attn.{wq_a,wkv}", "layers.0.attn.wq_a"),),
        adds="layers.0.attn.wkv.weight BF16 [256, 256]\n",
        codes=("F8L306",),
        subject="layers.0.attn.wkv",
    ),
    Row(
        number=84,
        thread="sglang#33759",
        what="The routed experts are quantized, the shared one is not, and an engine makes one module of all.",
        twin=GATES
        + (
            "model.layers.0.mlp.shared_experts.{gate,up}_proj.weight            F8_E4M3  [128, 256]\n"
            "model.layers.0.mlp.shared_experts.{gate,up}_proj.weight_scale_inv  F32      [1, 2]\n"
        ),
        changes=(
            (
                '"model.layers.0.mlp.gate"',
                '"model.layers.0.mlp.gate", "model.layers.0.mlp.shared_experts.gate_proj", '
                '"model.layers.0.mlp.shared_experts.up_proj"',
            ),
            ("model.layers.0.mlp.shared_experts.{gate,up}_proj.weight_scale_inv  F32      [1, 2]\n", ""),
            (
                "shared_experts.{gate,up}_proj.weight            F8_E4M3",
                "shared_experts.{gate,up}_proj.weight            BF16",
            ),
        ),
        codes=("F8L306",),
        subject="model.layers.0.mlp.shared_experts",
        noted="legal and common; wrong only for an engine that takes shared experts for further routed ones",
    ),
)
