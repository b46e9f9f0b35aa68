"""Scales of the KV cache."""

from corpus.bases import ct, modelopt
from corpus.row import Row
from fp8load.rules.samples import STATIC_KV, TENSOR_WISE

CACHED = modelopt("FP8", kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False}) + TENSOR_WISE
KV = "model.layers.{0..1}.self_attn.{k,v}_scale  F32  []\n"
PAIR = "self_attn.{k,v}_scale"
USUAL = STATIC_KV + TENSOR_WISE + KV
COMPRESSED = (
    ct(
        {"num_bits": 8, "type": "float", "strategy": "tensor"},
        {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False},
        kv_cache_scheme={"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False},
    )
    + TENSOR_WISE
)
SCALES = [f"model.layers.{layer}.self_attn.{part}_scale" for layer in range(2) for part in "kv"]

ROWS = (
    Row(
        number=134,
        thread="vllm#54623",
        what="KV scales are called k_proj.k_scale, which the model's loader does not rename.",
        reads="P",
        twin=CACHED + KV,
        changes=((PAIR, "self_attn.{k_proj.k,v_proj.v}_scale"),),
        codes=("F8L902",),
        subject="model.layers.0.self_attn.k_proj.k_scale",
    ),
    Row(
        number=135,
        thread="sglang#39942",
        what="KV scales have one of three names of which the model's loader knows none.",
        reads="P",
        twin=COMPRESSED + KV,
        changes=((PAIR, "self_attn.{k_proj,v_proj}.output_scale"),),
        codes=("F8L902",),
        subject="model.layers.0.self_attn.k_proj.output_scale",
    ),
    Row(
        number=136,
        thread="vllm#15784",
        what="KV scales stand below the projections, and a loader takes them for scales of the fused one.",
        reads="P",
        twin=CACHED + KV,
        changes=((PAIR, "self_attn.{k_proj.k,v_proj.v}_scale"),),
        codes=("F8L902",),
        subject="model.layers.0.self_attn.v_proj.v_scale",
    ),
    Row(
        number=138,
        thread="sglang#1559",
        what="Keys and values have one scale, under the name of an older version.",
        twin=USUAL,
        changes=((PAIR, "self_attn.kv_scale"),),
        codes=("F8L902",),
        subject="model.layers.0.self_attn.kv_scale",
    ),
    Row(
        number=139,
        thread="auto-round#2370",
        what="KV scales have a second .attn in their names.",
        reads="P",
        twin=USUAL,
        changes=((PAIR, "self_attn.attn.{k,v}_scale"),),
        engine="vllm@0.11",
        codes=("F8L902",),
        subject="model.layers.0.self_attn.attn.k_scale",
    ),
    Row(
        number=140,
        thread="Model-Optimizer#20",
        what="All KV scales are 1.0.",
        reads="S",
        twin=USUAL,
        twin_values=dict.fromkeys(SCALES, 0.03),
        values=dict.fromkeys(SCALES, 1.0),
        codes=("F8L903",),
        subject=SCALES[0],
    ),
    Row(
        number=141,
        thread="vllm#46264",
        what="Scales of values are stored, and none of keys.",
        twin=USUAL,
        changes=((PAIR, "self_attn.v_scale"),),
        codes=("F8L901",),
        subject="k_scale",
    ),
    Row(
        number=142,
        thread="vllm#51534",
        what="Some layers have a scale for queries.",
        twin=USUAL + "model.layers.{0..1}.self_attn.q_scale  F32  []\n",
        changes=(("model.layers.{0..1}.self_attn.q_scale", "model.layers.1.self_attn.q_scale"),),
        codes=("F8L904",),
        subject="q_scale",
    ),
)
