"""W4AFP8: 4-bit integers in bytes or words, a scale for each group of a row, fused on disk and split over ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fp8load
from fp8load.errors import Fp8LoadError
from oracle.dequantize import Stored
from oracle.int4 import in_words
from oracle.rewrite import bf16_bytes, write_file
from oracle.shard import sharded

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, GROUP, VOCAB, LAYERS = 64, 128, 4, 2, 16, 16, 32, 2
SHAPES = {
    "self_attn.qkv_proj": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_up_proj": (2 * INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
CONFIG: dict[str, Any] = {
    "model_type": "phi3", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "quantization_config": {
        "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
        }},
    },
}  # fmt: skip


def bf16(numbers: np.ndarray) -> Stored:
    return Stored("BF16", numbers.shape, bf16_bytes(numbers))


def read(tensor: Stored) -> np.ndarray:
    return (np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)


def made(folder: Path, *, words: bool = False, **more: Stored) -> tuple[Path, dict[str, np.ndarray]]:
    """A phi3 checkpoint, and every tensor of it as float32."""
    rng = np.random.default_rng(0)
    stored: dict[str, Stored] = {}
    plain: dict[str, np.ndarray] = {}

    def unquantized(name: str, *shape: int) -> None:
        stored[name] = bf16(rng.normal(0, 1, shape).astype(np.float32))
        plain[name] = read(stored[name])

    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for norm in ("input", "post_attention"):
            unquantized(f"{at}.{norm}_layernorm.weight", HIDDEN)
        for module, (num_rows, num_cols) in SHAPES.items():
            codes = rng.integers(-8, 8, (num_rows, num_cols), dtype=np.int8)
            scale = bf16(rng.uniform(0.001, 0.1, (num_rows, num_cols // GROUP)).astype(np.float32))
            weight = in_words(codes) if words else Stored("I8", codes.shape, codes.tobytes())
            stored[f"{at}.{module}.{'weight_packed' if words else 'weight'}"] = weight
            stored[f"{at}.{module}.weight_scale"] = scale
            plain[f"{at}.{module}.weight"] = codes.astype(np.float32) * read(scale).repeat(GROUP, axis=1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        unquantized(name, VOCAB, HIDDEN)
    unquantized("model.norm.weight", HIDDEN)
    folder.mkdir()
    write_file(folder / "model.safetensors", {**stored, **more})
    text = json.dumps(CONFIG)
    (folder / "config.json").write_text(text.replace("int-quantized", "pack-quantized") if words else text)
    return folder, plain


@pytest.mark.parametrize("words", [False, True], ids=["bytes", "words"])
def test_every_rank_holds_its_share_of_what_is_fused_on_disk_bit_for_bit(tmp_path: Path, words: bool) -> None:
    folder, plain = made(tmp_path / "phi3", words=words)
    checkpoint = fp8load.open(folder)

    assert checkpoint.legal_tp() == [1, 2, 4]
    for size in (1, 2, 4):
        for rank in range(size):
            expected = sharded(plain, CONFIG, rank, size)
            model = checkpoint.plan(tp_rank=rank, tp_size=size).load()
            assert len(model) == LAYERS * len(SHAPES)
            for module, layer in model.items():
                assert layer.weight.dtype == (torch.uint8 if words else torch.int8)
                got = layer.dequantize().numpy()
                assert np.array_equal(got.view(np.uint32), expected[f"{module}.weight"].view(np.uint32)), module


def test_a_layer_quantizes_its_input_by_token_and_multiplies_integers(tmp_path: Path) -> None:
    folder, plain = made(tmp_path / "phi3")
    model = fp8load.load(folder)
    name = "model.layers.1.mlp.down_proj"
    x = torch.randn(3, INTERMEDIATE)
    scale = x.abs().amax(1, keepdim=True) / 448
    given = (x / scale).to(torch.float8_e4m3fn).float() * scale

    assert model[name].why[0] == "torch_scaled_mm: takes weights of F8_E4M3, not I8"
    assert model[name].backend.name == "emulated"
    torch.testing.assert_close(model[name](x), given @ torch.from_numpy(plain[f"{name}.weight"]).T)


def test_a_zero_point_is_refused_by_name(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight_zero_point"
    zero = Stored("I8", (HIDDEN, INTERMEDIATE // GROUP), bytes(HIDDEN * INTERMEDIATE // GROUP))
    folder, _ = made(tmp_path / "phi3", **{name: zero})

    with pytest.raises(Fp8LoadError, match=name):
        fp8load.load(folder)


@pytest.mark.parametrize(("old", "new"), [('"int-quantized"', '"naive-quantized"'), ('"num_bits": 4', '"num_bits": 8')])
def test_other_integers_are_refused_by_name(tmp_path: Path, old: str, new: str) -> None:
    folder, _ = made(tmp_path / "phi3")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace(old, new, 1))

    with pytest.raises(Fp8LoadError, match="F8L107"):
        fp8load.open(folder).plan()


def test_integers_that_no_configuration_explains_are_refused(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "phi3")
    config = {key: value for key, value in CONFIG.items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(Fp8LoadError, match=r"model\.layers\.0\.\S+\.weight"):
        fp8load.open(folder).plan()


@pytest.mark.parametrize(("old", "new", "code"), [
    ('"group_size": 16', '"group_size": 12', "F8L107"),
    ('"strategy": "group", "group_size": 16', '"strategy": "channel"', "F8L107"),
    ('"group_size": 16', '"group_size": 48', "F8L501"),
])  # fmt: skip
def test_words_whose_number_of_columns_no_header_shows_are_refused(
    tmp_path: Path, old: str, new: str, code: str
) -> None:
    folder, _ = made(tmp_path / "phi3", words=True)
    text = (folder / "config.json").read_text()
    assert old in text
    (folder / "config.json").write_text(text.replace(old, new, 1))

    with pytest.raises(Fp8LoadError, match=code):
        fp8load.open(folder).plan()
