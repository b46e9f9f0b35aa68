"""Published configurations over tiny models of their families, as transformers writes them.

What a configuration claims of a linear layer is how the tiny model stores it; names are the published ones, so lists of
names, globs and expressions meet what they were written for. Two repositories whose totals are public are made in full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from archs.remade import one_by_one
from archs.tiny import Tiny, written, written_inside
from formats.test_census_models import files_of, stored
from fp8load.checkpoint import Checkpoint
from fp8load.formats.base import Claimed
from fp8load.formats.locate import locate, read_format
from fp8load.plan.prove import prove_ranks
from sketch import open_skeleton

GEMMA_4_26B = {"hidden_size_per_layer_input": 0, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
               "moe_intermediate_size": 32, "attention_k_eq_v": True, "num_global_key_value_heads": 1}  # fmt: skip
FAMILIES: dict[str, Callable[[], Tiny]] = {
    "Qwen--Qwen3-8B-FP8": partial(written, "qwen3"),
    "Qwen--Qwen3-32B-FP8": partial(written, "qwen3"),
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": partial(written, "qwen3"),
    "Qwen--Qwen3-30B-A3B-FP8": partial(written, "qwen3_moe"),
    "RedHatAI--Meta-Llama-3.1-8B-Instruct-FP8-dynamic": partial(written, "llama"),
    "tencent--Hunyuan-1.8B-Instruct-FP8": partial(written, "hunyuan_v1_dense"),
    "BrainForge--Devstral-2-123B-Instruct-2512-NVFP4": partial(written, "ministral3"),
    "XiaomiMiMo--MiMo-V2-Flash": partial(written, "mimo_v2_flash"),
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4": partial(written, "nemotron_h"),
    "nvidia--Qwen3.5-122B-A10B-NVFP4": partial(written_inside, "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_moe_vision"),
    "nvidia--Qwen3.5-397B-A17B-NVFP4": partial(written_inside, "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_moe_vision"),
    "nvidia--Qwen3.6-27B-NVFP4": partial(written_inside, "qwen3_5", "qwen3_5_text", "qwen3_5_vision"),
    "nvidia--Gemma-4-26B-A4B-NVFP4": lambda: one_by_one(
        written_inside("gemma4", "gemma4_text", "gemma4_vision", tuple(GEMMA_4_26B.items()))
    ),
}


def opened(model: str, tiny: Tiny) -> Checkpoint:
    """The tiny model, stored as the published configuration says."""
    files = files_of(model)
    published = files.pop("config.json", {})
    config = {**tiny.config, **{key: published[key] for key in ("quantization_config",) if key in published}}
    fmt = read_format(next(locate({"config.json": config, **files})))
    return open_skeleton("\n".join(_lines(config, files, tiny, fmt)))


def _lines(config: dict[str, Any], files: dict[str, Any], tiny: Tiny, fmt: Any) -> Iterator[str]:
    yield f"config {json.dumps(config)}"
    yield from (f"file {name} {json.dumps(document)}" for name, document in files.items())
    for name, (dtype, shape) in tiny.tensors.items():
        module, _, last = name.rpartition(".")
        claim = fmt.claim(module)
        quantized = last == "weight" and (module in tiny.linears or module == "lm_head")
        if quantized and isinstance(claim, Claimed):
            yield from stored(module, list(shape), claim.scheme, fmt)
        else:
            yield f"{name} {dtype} {list(shape)}"


@pytest.mark.parametrize("model", FAMILIES)
def test_a_published_configuration_fits_the_names_of_its_family(model: str) -> None:
    checkpoint = opened(model, FAMILIES[model]())
    quantized = [name for name, info in checkpoint.lowered.modules.items() if info.scheme is not None]

    assert [str(problem) for problem in checkpoint.problems] == []
    assert quantized
    for size in checkpoint.legal_tp():
        layouts = [checkpoint.plan(tp_rank=rank, tp_size=size).layout for rank in range(size)]
        prove_ranks(layouts, checkpoint.tensors)


@pytest.mark.parametrize("router", ["mlp.gate", "mlp.shared_expert_gate", "mlp.router", "ffn.router.layer"])
def test_a_router_in_16_bits_is_never_reported_and_a_gate_projection_is(router: str) -> None:
    document = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": []}}
    lines = [f"file hf_quant_config.json {json.dumps(document)}"]
    for module, dtype in (("o_proj", "F8_E4M3"), (router, "BF16"), ("mlp.gate_proj", "BF16")):
        lines.append(f"model.layers.0.{module}.weight {dtype} [32, 32]")
    lines += [f"model.layers.0.o_proj.{name} F32 []" for name in ("weight_scale", "input_scale")]

    problems = open_skeleton("\n".join(lines)).problems

    assert [(problem.code, problem.module) for problem in problems] == [("F8L302", "model.layers.0.mlp.gate_proj")]


class Published(NamedTuple):
    """A dense model whose repository's totals are public; sizes: layers, hidden, inner, rows of k, vocabulary."""

    model_type: str
    sizes: tuple[int, int, int, int, int]
    norms: tuple[str, ...]
    num_tensors: int
    num_bytes: int


# From metadata and headers that others published of these repositories; both are NVFP4 with FP8 KV scales.
TOTALS = {
    "nvidia/Qwen3-8B-NVFP4": Published("qwen3", (36, 4096, 12288, 1024, 151_936), ("q_norm", "k_norm"), 1227,
                                       6_396_932_352),
    "nvidia/Llama-3.1-8B-Instruct-NVFP4": Published("llama", (32, 4096, 14336, 1024, 128_256), (), 1027,
                                                    6_027_749_376),
}  # fmt: skip
NVFP4 = {"producer": {"name": "modelopt", "version": "0.35.0"}, "quantization": {
    "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}}  # fmt: skip


@pytest.mark.parametrize("repository", TOTALS)
def test_what_a_configuration_claims_adds_up_to_the_published_totals(repository: str) -> None:
    published = TOTALS[repository]
    num_layers, hidden, inner, kv, vocab = published.sizes
    config = {"model_type": published.model_type, "num_hidden_layers": num_layers, "hidden_size": hidden,
              "intermediate_size": inner, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
              "vocab_size": vocab, "tie_word_embeddings": False}  # fmt: skip
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
              "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
              "mlp.down_proj": (hidden, inner)}  # fmt: skip
    tensors = {f"{name}.weight": ("BF16", (vocab, hidden)) for name in ("lm_head", "model.embed_tokens")}
    tensors["model.norm.weight"] = ("BF16", (hidden,))
    for at in (f"model.layers.{layer}" for layer in range(num_layers)):
        tensors |= {f"{at}.{name}.weight": ("BF16", shape) for name, shape in shapes.items()}
        tensors |= {f"{at}.{name}_layernorm.weight": ("BF16", (hidden,)) for name in ("input", "post_attention")}
        tensors |= {f"{at}.self_attn.{name}.weight": ("BF16", (128,)) for name in published.norms}
        tensors |= {f"{at}.self_attn.{name}_proj.{name}_scale": ("F32", ()) for name in ("k", "v")}
    fmt = read_format(next(locate({"config.json": config, "hf_quant_config.json": NVFP4})))
    linears = frozenset(name.rpartition(".")[0] for name in tensors if "_proj.weight" in name)

    checkpoint = open_skeleton(
        "\n".join(_lines(config, {"hf_quant_config.json": NVFP4}, Tiny(config, tensors, linears), fmt))
    )

    assert checkpoint.problems == ()
    assert len(checkpoint.index.tensors) == published.num_tensors
    assert sum(meta.nbytes for meta in checkpoint.index.tensors.values()) == published.num_bytes
    assert checkpoint.plan(tp_rank=7, tp_size=8).num_elements > 0
