"""A repository of DeepSeek-V3's size: 163 shards with real headers, 91,991 tensors, no data (sparse files).

Counts and shapes are those of the published index: 61 layers and one MTP layer, 256 routed experts from layer 3 on,
128 x 128 block scales in F32. Which tensor lies in which shard is evened out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

CONFIG = {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "n_routed_experts": 256, "vocab_size": 129280, "num_nextn_predict_layers": 1,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]},
}  # fmt: skip
NUM_SHARDS = 163

ATTENTION = {
    "q_a_proj": (1536, 7168), "q_b_proj": (24576, 1536), "kv_a_proj_with_mqa": (576, 7168), "kv_b_proj": (32768, 512),
    "o_proj": (7168, 16384),
}  # fmt: skip


def _matrix(name: str, shape: tuple[int, int]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield f"{name}.weight", "F8_E4M3", shape
    yield f"{name}.weight_scale_inv", "F32", (-(-shape[0] // 128), -(-shape[1] // 128))


def _mlp(name: str, size: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for proj, shape in (("gate", (size, 7168)), ("up", (size, 7168)), ("down", (7168, size))):
        yield from _matrix(f"{name}.{proj}_proj", shape)


def tensors() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of every tensor, in the order of the layers."""
    yield "model.embed_tokens.weight", "BF16", (129280, 7168)
    for layer in range(62):
        at = f"model.layers.{layer}"
        for proj, shape in ATTENTION.items():
            yield from _matrix(f"{at}.self_attn.{proj}", shape)
        yield f"{at}.self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield f"{at}.self_attn.kv_a_layernorm.weight", "BF16", (512,)
        yield f"{at}.input_layernorm.weight", "BF16", (7168,)
        yield f"{at}.post_attention_layernorm.weight", "BF16", (7168,)
        if layer < 3:
            yield from _mlp(f"{at}.mlp", 18432)
            continue
        yield f"{at}.mlp.gate.weight", "BF16", (256, 7168)
        yield f"{at}.mlp.gate.e_score_correction_bias", "F32", (256,)
        yield from _mlp(f"{at}.mlp.shared_experts", 2048)
        for expert in range(256):
            yield from _mlp(f"{at}.mlp.experts.{expert}", 2048)
    yield "model.norm.weight", "BF16", (7168,)
    yield "lm_head.weight", "BF16", (129280, 7168)
    at = "model.layers.61"
    yield f"{at}.embed_tokens.weight", "BF16", (129280, 7168)
    yield f"{at}.eh_proj.weight", "BF16", (7168, 14336)
    yield f"{at}.enorm.weight", "BF16", (7168,)
    yield f"{at}.hnorm.weight", "BF16", (7168,)
    yield f"{at}.shared_head.norm.weight", "BF16", (7168,)
    yield f"{at}.shared_head.head.weight", "BF16", (129280, 7168)


def skeleton() -> str:
    """The repository as a skeleton, spread over the shards in order."""
    listed = list(tensors())
    lines = [f"config {json.dumps(CONFIG)}"]
    for i, (name, dtype, shape) in enumerate(listed):
        shard = i * NUM_SHARDS // len(listed) + 1
        lines.append(f"{name} {dtype} {list(shape)} @ model-{shard:05d}-of-{NUM_SHARDS:06d}.safetensors")
    return "\n".join(lines) + "\n"


def make(folder: Path) -> Path:
    """Write the sparse repository, once."""
    from fp8load.index.skeleton import parse_skeleton
    from fp8load.index.sparse import write_sparse_checkpoint

    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_sparse_checkpoint(parse_skeleton(skeleton()), folder)
    return folder
