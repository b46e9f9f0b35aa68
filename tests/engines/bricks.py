"""What sketches are made of: lines of configurations, tensors of one kind, and whole ones that need many lines."""

from __future__ import annotations

import json
from typing import Any


def config(quantization: dict[str, Any], **keys: Any) -> str:
    """The line of a skeleton with config.json."""
    return f"config {json.dumps({'quantization_config': quantization, **keys})}\n"


FLOAT8 = {"num_bits": 8, "type": "float"}
FLOAT4 = {"num_bits": 4, "type": "float"}
TOKENS = {**FLOAT8, "strategy": "token", "dynamic": True}
MX4 = {**FLOAT4, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
MX8 = {**FLOAT8, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
NV4 = {**FLOAT4, "strategy": "tensor_group", "group_size": 16}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
BLOCKS = {**FLOAT8, "strategy": "block", "block_structure": [128, 128]}

CODES = ".weight F8_E4M3 [128, 128]"
HALVES = ".weight_packed U8 [128, 64]"
GROUPS = ".weight_scale U8 [128, 4]"
NVFP4 = (HALVES, ".weight_scale F8_E4M3 [128, 8]", ".weight_global_scale F32 [1]")
WORDS = (".weight_packed I32 [128, 16]", ".weight_scale BF16 [128, 1]", ".weight_shape I64 [2]")

TWO_GROUPS = config({
    "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {
        "rows": {"targets": ["re:.*up_proj"], "weights": {**FLOAT8, "strategy": "channel"},
                 "input_activations": TOKENS},
        "blocks": {"targets": ["re:.*down_proj"], "weights": BLOCKS, "input_activations": {
            **FLOAT8, "strategy": "group", "group_size": 128, "dynamic": True}},
    }}) + """\
m.up_proj.weight          F8_E4M3  [128, 128]
m.up_proj.weight_scale    BF16     [128, 1]
m.down_proj.weight        F8_E4M3  [128, 128]
m.down_proj.weight_scale  BF16     [1, 1]
"""  # fmt: skip
MISTRAL = """\
file params.json {"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "NO_SCALES"}}
layers.0.attention.wq.weight         F8_E4M3  [64, 64] @ consolidated.safetensors
layers.0.attention.wq.qscale_weight  BF16     []       @ consolidated.safetensors
"""

FOUR_BITS = """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight                        U8       [256, 128]
model.layers.0.self_attn.{q,k,v,o}_proj.weight_scale                  F8_E4M3  [256, 16]
model.layers.0.self_attn.{q,k,v,o}_proj.{weight_scale_2,input_scale}  F32      []
"""

LATENT = config({
    "quant_method": "modelopt", "quant_algo": "FP8",
    "ignore": [f"model.layers.0.self_attn.{part}" for part in ("q_a_proj", "kv_a_proj_with_mqa")],
}, model_type="deepseek_v3", num_hidden_layers=1, hidden_size=256, intermediate_size=256, q_lora_rank=128,
    kv_lora_rank=64, qk_rope_head_dim=64, qk_nope_head_dim=64, v_head_dim=64, num_attention_heads=2, vocab_size=1024,
    first_k_dense_replace=1, n_routed_experts=2, moe_intermediate_size=128) + """\
model.layers.0.self_attn.q_a_proj.weight              BF16     [128, 256]
model.layers.0.self_attn.kv_a_proj_with_mqa.weight    BF16     [128, 256]
model.layers.0.self_attn.o_proj.weight                F8_E4M3  [256, 128]
model.layers.0.self_attn.o_proj.{weight,input}_scale  F32      []
"""  # fmt: skip
