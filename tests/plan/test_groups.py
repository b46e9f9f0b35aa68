"""Laws of parts in groups of rows: what a rank loads is what numpy takes out of the packed tensor, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import fp8load
from fp8load.errors import LoadError, PlanError
from fp8load.plan.prove import prove_ranks
from fp8load.runtime.groups import ungroup_qkv
from fp8load.runtime.segments import Direct, segments

HIDDEN = 16
MODULE = "model.layers.0.attention.wqkv"


@dataclass(frozen=True)
class Packed:
    """A model of one layer whose q, k and v lie in a group of rows for each KV head."""

    kv_heads: int
    queries: int
    head: int
    scale: Any
    bias: bool = False

    @property
    def heads(self) -> int:
        return self.kv_heads * self.queries

    @property
    def num_rows(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head

    def tensors(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Every tensor of the checkpoint; scales are all different."""
        found = dict(self._layer(rng))
        for name in ("model.tok_embeddings", "output"):
            found[f"{name}.weight"] = _floats(rng, 8, HIDDEN)
        for name in ("model.norm", "model.layers.0.attention_norm", "model.layers.0.ffn_norm"):
            found[f"{name}.weight"] = _floats(rng, HIDDEN)
        for name, shape in (("attention.wo", (HIDDEN, self.heads * self.head)), ("feed_forward.w1", (24, HIDDEN)),
                            ("feed_forward.w3", (24, HIDDEN)), ("feed_forward.w2", (HIDDEN, 24))):  # fmt: skip
            found[f"model.layers.0.{name}.weight"] = _floats(rng, *shape)
        if self.bias:
            found["model.layers.0.attention.wo.bias"] = _floats(rng, HIDDEN)
        return found

    def _layer(self, rng: np.random.Generator) -> Iterator[tuple[str, torch.Tensor]]:
        codes = rng.integers(0, 0x70, (self.num_rows, HIDDEN), dtype=np.uint8)
        yield f"{MODULE}.weight", torch.from_numpy(codes).view(torch.float8_e4m3fn)
        shape: tuple[int, ...] = {"tensor": (1,), "channel": (self.num_rows, 1)}.get(self.scale) or (
            -(-self.num_rows // self.scale[0]), HIDDEN // self.scale[1])  # fmt: skip
        scale = rng.permutation(np.arange(1, np.prod(shape) + 1)).reshape(shape).astype(np.float32) / 1024
        suffix = "weight_scale" if isinstance(self.scale, str) else "weight_scale_inv"
        yield f"{MODULE}.{suffix}", torch.from_numpy(scale)
        if self.bias:
            yield f"{MODULE}.bias", _floats(rng, self.num_rows)

    def config(self) -> dict[str, Any]:
        """config.json, quantized by the dialect that has such scales."""
        said: dict[str, Any] = {
            "model_type": "internlm2", "hidden_size": HIDDEN, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head,
            "vocab_size": 8, "bias": self.bias,
        }  # fmt: skip
        others = ["attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "output"]
        if isinstance(self.scale, str):
            weights = {"num_bits": 8, "type": "float", "strategy": self.scale, "symmetric": True, "dynamic": False}
            given = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
            said["quantization_config"] = {
                "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": [
                    "output", *(f"model.layers.0.{name}" for name in others[:-1])],
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": given}},
            }  # fmt: skip
        else:
            said["quantization_config"] = {
                "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(self.scale),
                "modules_to_not_convert": ["output", *(f"model.layers.0.{name}" for name in others[:-1])],
            }  # fmt: skip
        return said

    def write(self, folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
        """Write the checkpoint; returns what was written."""
        tensors = self.tensors(np.random.default_rng(seed))
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config()))
        return tensors

    def apart(self, packed: np.ndarray[Any, Any], rank: int, tp_size: int) -> np.ndarray[Any, Any]:
        """[q; k; v] of a rank, row by row: a head's place in the packed tensor is looked up for each."""
        size = packed.shape[0] // (self.heads + 2 * self.kv_heads)
        pitch = (self.queries + 2) * size
        share = self.heads // tp_size
        kv = range(rank * self.kv_heads // tp_size, max((rank + 1) * self.kv_heads // tp_size,
                                                        rank * self.kv_heads // tp_size + 1))  # fmt: skip
        rows = [
            *(head // self.queries * pitch + head % self.queries * size + i
              for head in range(rank * share, (rank + 1) * share) for i in range(size)),
            *(group * pitch + self.queries * size + i for group in kv for i in range(size)),
            *(group * pitch + (self.queries + 1) * size + i for group in kv for i in range(size)),
        ]  # fmt: skip
        return packed[rows]


def _floats(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32)).bfloat16()


def _bytes(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Rows of bytes, so that any dtype is compared as it lies in memory."""
    return tensor.detach().contiguous().view(torch.uint8).reshape(tensor.shape[0], -1).numpy()


PACKED = st.builds(
    Packed,
    kv_heads=st.integers(1, 4),
    queries=st.integers(1, 4),
    head=st.sampled_from([2, 4, 8]),
    scale=st.sampled_from(["tensor", "channel", (1, 4), (2, 8), (4, 4)]),
    bias=st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(packed=PACKED, seed=st.integers(0, 99), data=st.data())
def test_what_every_rank_loads_is_the_regrouping_that_numpy_makes(
    tmp_path_factory: pytest.TempPathFactory, packed: Packed, seed: int, data: st.DataObject
) -> None:
    assume(isinstance(packed.scale, str) or packed.head % packed.scale[0] == 0)
    folder = tmp_path_factory.mktemp("packed")
    stored = packed.write(folder, seed)
    checkpoint = fp8load.open(folder)
    tp_size = data.draw(st.sampled_from([size for size in (1, 2, 3, 4, 6, 8) if size in checkpoint.legal_tp()]))

    plans = [checkpoint.plan(tp_rank=rank, tp_size=tp_size) for rank in range(tp_size)]

    prove_ranks([plan.layout for plan in plans], checkpoint.tensors)
    for rank, plan in enumerate(plans):
        layer = plan.load()[MODULE]
        assert [slot for slot, _ in plan.layers[MODULE].parts] == ["q", "k", "v"]
        roles = {"weight": layer.weight, "weight_scale": layer.weight_scale, "bias": layer.bias}
        for role, loaded in roles.items():
            suffix = "weight_scale_inv" if role == "weight_scale" and not isinstance(packed.scale, str) else role
            whole = stored.get(f"{MODULE}.{suffix}")
            assert (whole is None) == (loaded is None)
            if whole is None or loaded is None:
                continue
            if whole.numel() == 1:
                assert loaded.tolist() == [whole.item()] * 3
            else:
                assert np.array_equal(_bytes(loaded), packed.apart(_bytes(whole), rank, tp_size))


@settings(deadline=None, max_examples=30)
@given(packed=PACKED.filter(lambda packed: packed.scale != "tensor"), seed=st.integers(0, 99))
def test_a_caller_without_a_plan_can_regroup_what_it_passes_to_a_weight_loader(packed: Packed, seed: int) -> None:
    assume(isinstance(packed.scale, str) or packed.head % packed.scale[0] == 0)
    tensors = dict(packed._layer(np.random.default_rng(seed)))

    for tensor in tensors.values():
        size = packed.head * tensor.shape[0] // packed.num_rows
        mine = ungroup_qkv(tensor, packed.heads, packed.kv_heads, size)

        assert np.array_equal(_bytes(mine), packed.apart(_bytes(tensor), 0, 1))


def test_rows_that_are_not_those_of_the_heads_are_refused_and_one_scale_for_all_stays_one() -> None:
    with pytest.raises(LoadError, match=r"\[24, ...\]"):
        ungroup_qkv(torch.zeros(20, 4), heads=4, kv_heads=1, head_size=4)

    assert ungroup_qkv(torch.tensor([0.5]), heads=4, kv_heads=1, head_size=4).tolist() == [0.5]


def test_blocks_that_several_parts_share_are_refused_by_name_and_the_weights_can_still_be_read(tmp_path: Path) -> None:
    packed = Packed(kv_heads=2, queries=2, head=4, scale=(8, 4))
    stored = packed.write(tmp_path)
    checkpoint = fp8load.open(tmp_path)

    with pytest.raises(PlanError) as caught:
        checkpoint.plan()
    findings = [finding for finding in checkpoint.verify().findings if finding.severity != "info"]

    assert caught.value.code == "F8L504"
    assert caught.value.expected == "blocks that end with each part: k has 4 rows in a group"
    assert checkpoint.legal_tp() == []
    assert [(finding.code, finding.severity, finding.tensors) for finding in findings] == [
        ("F8L504", "error", [f"{MODULE}.weight"])
    ]
    assert checkpoint.dequantize(MODULE).shape == stored[f"{MODULE}.weight"].shape


def test_the_unquantized_checkpoint_has_the_packed_form_that_the_family_publishes(tmp_path: Path) -> None:
    packed = Packed(kv_heads=2, queries=2, head=4, scale="channel")
    stored = packed.write(tmp_path)

    plain = dict(fp8load.open(tmp_path).plain_tensors())

    expected = stored[f"{MODULE}.weight"].float() * stored[f"{MODULE}.weight_scale"]
    assert torch.equal(plain[f"{MODULE}.weight"], expected)


def test_a_rank_reads_nothing_but_its_rows(tmp_path: Path) -> None:
    packed = Packed(kv_heads=4, queries=2, head=4, scale="channel")
    packed.write(tmp_path)
    plan = fp8load.open(tmp_path).plan(tp_rank=1, tp_size=2)
    weight = f"{MODULE}.weight"

    reads = list(
        segments(
            plan.copies_of(weight), plan.tensors, {weight: torch.empty(plan.params[weight].shape, dtype=torch.uint8)}
        )
    )

    assert sum(read.end - read.begin for read in reads) == packed.num_rows * HIDDEN // 2
    assert all(isinstance(read, Direct) for read in reads)


def test_explain_says_in_which_shape_the_tensor_is_seen(tmp_path: Path) -> None:
    packed = Packed(kv_heads=2, queries=2, head=4, scale="channel")
    packed.write(tmp_path)

    text = fp8load.open(tmp_path).plan(tp_rank=1, tp_size=2).explain(f"{MODULE}.weight")

    assert f"disk [1:2, 0:8, 0:16] of [2, 16, 16]  ->  {MODULE}.weight [0:8, 0:16]" in text
