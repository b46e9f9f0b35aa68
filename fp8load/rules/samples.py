"""Lines of skeletons that the rules' examples are made of, and the index beside them."""

import json

BLOCK = (
    'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", '
    '"weight_block_size": [128, 128]}}\n'
)
"""DeepSeek's form: one scale for each block of 128 x 128."""

POWERS = BLOCK.replace('"quant_method"', '"scale_fmt": "ue8m0", "quant_method"')
"""The same with scales that are powers of two, as DeepSeek-V3.2 has them."""

STATIC = 'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}\n'
"""AutoFP8's form: one scale for a tensor, and a stored input scale."""

LISTED = (
    'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", '
    '"weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}}\n'
)
"""The block form with a list of what is not quantized."""

STATIC_KV = (
    'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static", '
    '"kv_cache_scheme": "static"}}\n'
)
"""The static form with a declared FP8 cache."""

QUANTIZED = """\
model.layers.0.mlp.down_proj.weight            F8_E4M3  [256, 256]
model.layers.0.mlp.down_proj.weight_scale_inv  F32      [2, 2]
"""
"""One quantized module under `BLOCK`."""

QUANTIZED_NAMES = ("model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight_scale_inv")
"""The tensors of `QUANTIZED`."""

TENSOR_WISE = """\
model.layers.{0..1}.self_attn.{q,k,v}_proj.weight        F8_E4M3  [256, 256]
model.layers.{0..1}.self_attn.{q,k,v}_proj.weight_scale  F32      []
model.layers.{0..1}.self_attn.{q,k,v}_proj.input_scale   F32      []
"""
"""Two attention layers under `STATIC`."""

NVFP4 = (
    'config {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [], '
    '"producer": {"name": "modelopt"}, "config_groups": {"group_0": {"targets": ["Linear"], '
    '"weights": {"num_bits": 4, "type": "float", "group_size": 16, "dynamic": false}, '
    '"input_activations": {"num_bits": 4, "type": "float", "group_size": 16, "dynamic": false}}}}}\n'
)
"""ModelOpt's NVFP4: block scales of groups of 16, and a global scale for each tensor."""

NVFP4_GATE_UP = """\
model.layers.0.mlp.{gate,up}_proj.weight          U8       [256, 128]
model.layers.0.mlp.{gate,up}_proj.weight_scale    F8_E4M3  [256, 16]
model.layers.0.mlp.{gate,up}_proj.weight_scale_2  F32      []
model.layers.0.mlp.{gate,up}_proj.input_scale     F32      []
"""
"""One fused layer under `NVFP4`."""

LLAMA_CONFIG = (
    'config {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 512, '
    '"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 1024}\n'
)

LLAMA_ATTENTION = """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight            F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k,v,o}_proj.weight_scale_inv  F32      [2, 2]
"""

LLAMA_MLP = """\
model.layers.0.mlp.{gate,up}_proj.weight                  F8_E4M3  [512, 256]
model.layers.0.mlp.{gate,up}_proj.weight_scale_inv        F32      [4, 2]
model.layers.0.mlp.down_proj.weight                       F8_E4M3  [256, 512]
model.layers.0.mlp.down_proj.weight_scale_inv             F32      [2, 4]
"""

LLAMA_REST = """\
model.layers.0.{input,post_attention}_layernorm.weight    BF16     [256]
model.norm.weight                                         BF16     [256]
{model.embed_tokens,lm_head}.weight                       BF16     [1024, 256]
"""

LLAMA = LLAMA_CONFIG + BLOCK + LLAMA_ATTENTION + LLAMA_MLP + LLAMA_REST
"""A whole model of one layer."""


def index_of(*names: str) -> dict[str, bytes]:
    """The files of an example whose index puts these tensors into model.safetensors."""
    document = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    return {"model.safetensors.index.json": json.dumps(document).encode()}
