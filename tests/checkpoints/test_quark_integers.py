"""Quark's int4 on FP8: words in Quark's order, a scale of the rows and one of the tensor, split over ranks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fp8load
from fp8load.errors import Fp8LoadError
from oracle.int4 import IN_ORDER, INT4_ON_FP8, REORDERED, two_stages
from oracle.rewrite import write_file
from oracle.shard import sharded

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 64, 192, 4, 2, 16, 32
SHAPES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "num_hidden_layers": 1, "vocab_size": VOCAB,
    "tie_word_embeddings": False, "quantization_config": INT4_ON_FP8,
}  # fmt: skip


def made(
    folder: Path, order: tuple[int, ...] = REORDERED, method: str = "reorder", stage: dict[str, Any] | None = None
) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint, and every tensor of it as float32."""
    from oracle.dequantize import Stored

    stored, plain = {}, {}
    norms = {f"model.layers.0.{norm}_layernorm.weight": (HIDDEN,) for norm in ("input", "post_attention")}
    tables = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (VOCAB, HIDDEN))
    for name, shape in {**norms, **tables, "model.norm.weight": (HIDDEN,)}.items():
        plain[name] = np.random.default_rng(len(name)).normal(0, 1, shape).astype("<f4")
        stored[name] = Stored("F32", shape, plain[name].tobytes())
    for seed, (tail, shape) in enumerate(SHAPES.items()):
        name = f"model.layers.0.{tail}"
        tensors, plain[f"{name}.weight"] = two_stages(shape, seed, order)
        stored |= {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}
    document = copy.deepcopy(CONFIG)
    document["quantization_config"]["export"]["pack_method"] = method
    document["quantization_config"]["global_quant_config"]["weight"][1] |= stage or {}
    folder.mkdir()
    write_file(folder / "model.safetensors", stored)
    (folder / "config.json").write_text(json.dumps(document))
    return folder, plain


def test_every_rank_holds_its_share_bit_for_bit(tmp_path: Path) -> None:
    folder, plain = made(tmp_path / "made")
    checkpoint = fp8load.open(folder)

    assert checkpoint.legal_tp() == [1, 2, 4]
    assert checkpoint.verify("weights").ok
    for size in (1, 2, 4):
        for rank in range(size):
            expected = sharded(plain, CONFIG, rank, size)
            model = checkpoint.plan(tp_rank=rank, tp_size=size).load()
            assert len(model) == 4
            for module, layer in model.items():
                got = layer.dequantize().numpy()
                assert np.array_equal(got.view(np.uint32), expected[f"{module}.weight"].view(np.uint32)), module


def test_the_order_in_a_word_is_the_configurations(tmp_path: Path) -> None:
    folder, plain = made(tmp_path / "made", IN_ORDER, "order")

    for name, tensor in fp8load.open(folder).plain_tensors():
        assert np.array_equal(tensor.numpy(), plain[name]), name


@pytest.mark.parametrize(("method", "stage", "named"), [
    ("packed", {}, "pack_method"), ("reorder", {"symmetric": False}, "int4"),
    ("reorder", {"qscheme": "per_group", "group_size": 32}, "int4"), ("reorder", {"dtype": "int8"}, "int8"),
])  # fmt: skip
def test_other_integers_are_refused_by_name(tmp_path: Path, method: str, stage: dict[str, Any], named: str) -> None:
    folder, _ = made(tmp_path / "made", REORDERED, method, stage)

    with pytest.raises(Fp8LoadError, match=f"F8L107(.|\\n)*{named}"):
        fp8load.open(folder).plan()


@pytest.mark.parametrize("suffix", ["weight", "weight_scale", "weight_scale_2"])
def test_what_is_missing_is_named(tmp_path: Path, suffix: str) -> None:
    folder, _ = made(tmp_path / "made")
    name = f"model.layers.0.mlp.up_proj.{suffix}"
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")

    with pytest.raises(Fp8LoadError, match=name if suffix != "weight" else "up_proj"):
        fp8load.open(folder).plan()
