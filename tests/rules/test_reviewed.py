"""What a second reader found: each of these once gave a wrong answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fp8load.report import VerifyReport
from fp8load.rules.pieces import finite
from fp8load.rules.samples import BLOCK, NVFP4, QUANTIZED
from fp8load.rules.weights import WeightReader
from fp8load.scheme import Role
from fp8load.values.dequantize import can_be_dequantized, dequantizer_of
from rules.examples import checkpoint_of
from rules.test_foreign import exchanged, findings, model, usual


def loud(report: VerifyReport) -> set[tuple[str, str]]:
    return {(finding.code, str(finding.severity)) for finding in report.findings if finding.severity != "info"}


def test_a_lost_global_scale_is_not_taken_for_one() -> None:
    layers = "".join(
        f"model.layers.{layer}.mlp.down_proj.{suffix}\n"
        for layer in range(5)
        for suffix in ("weight U8 [256, 128]", "weight_scale F8_E4M3 [256, 16]", "weight_scale_2 F32 []",
                       "input_scale F32 []")
    ).replace("model.layers.4.mlp.down_proj.weight_scale_2 F32 []\n", "")  # fmt: skip
    values = {f"model.layers.{layer}.mlp.down_proj.weight_scale_2": 1e-4 for layer in range(4)}
    ckpt = checkpoint_of(NVFP4 + layers, values)
    info = ckpt.lowered.modules["model.layers.4.mlp.down_proj"]

    codes = {code for code, _ in loud(ckpt.verify("weights"))}

    assert "F8L205" in codes
    assert "F8L805" not in codes
    assert Role.WEIGHT_GLOBAL_SCALE not in info.tensors
    if info.scheme is not None:
        assert not can_be_dequantized(info)
        assert dequantizer_of(ckpt, info) is None


def test_packed_weights_beside_fp8_are_no_raw_casts() -> None:
    skeleton = "a.mlp.weight F8_E4M3 [64, 64]\nb.mlp.weight U8 [64, 32]\nb.mlp.weight_scale F8_E4M3 [64, 4]\n"

    assert ("F8L101", "error") in loud(checkpoint_of(skeleton).verify("headers"))
    assert ("F8L201", "warning") not in loud(checkpoint_of(skeleton).verify("headers"))


def test_experts_of_an_image_model_are_not_fused() -> None:
    skeleton = (
        "scaled_fp8 F8_E4M3 [2]\nff.experts.{0..1}.w1.weight F8_E4M3 [64, 64]\n"
        "ff.experts.{0..1}.w1.scale_weight F32 []\nff.experts.2.w1.weight BF16 [64, 64]\n"
    )

    assert "F8L306" not in {code for code, _ in loud(checkpoint_of(skeleton).verify("headers"))}


def test_an_entry_of_another_layer_means_no_module_of_this_one() -> None:
    listed = BLOCK.replace(
        '"weight_block_size"', '"ignored_layers": ["model.layers.99.mlp.up_proj"], "weight_block_size"'
    )
    skeleton = listed + QUANTIZED + "model.layers.0.mlp.up_proj.weight BF16 [256, 256]\n"

    found = [finding for finding in checkpoint_of(skeleton).verify("headers").findings if finding.code == "F8L301"]

    assert [finding.severity for finding in found] == ["warning"]
    assert "layers.0.mlp.up_proj is stored" not in found[0].got


def test_integers_with_their_upper_bit_set_are_not_zeros() -> None:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    group = {"targets": ["Linear"], "input_activations": None, "weights": weights}
    document = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": [],
                "config_groups": {"group_0": group}}  # fmt: skip
    config = "config " + json.dumps({"quantization_config": document}) + "\n"
    skeleton = config + ("m.up.weight_packed I32 [64, 32]\nm.up.weight_scale BF16 [64, 8]\nm.up.weight_shape I64 [2]\n")
    ckpt = checkpoint_of(skeleton, {"m.up.weight_packed": 0.0})  # eight in a word, and each is 0 - 8

    (stats,) = (one for one in WeightReader(ckpt).stats if one.module is not None)

    assert not stats.is_zero


def test_a_dead_row_does_not_hide_two_that_were_exchanged(tmp_path: Path) -> None:
    one, two = "model.layers.5.mlp.up_proj", "model.layers.6.mlp.up_proj"
    stored = exchanged(model(usual(spread=0.0), per_row=True), one, two)
    name = f"{one}.weight"
    data = bytearray(stored[name].data)
    data[: stored[name].shape[1]] = bytes(stored[name].shape[1])
    stored[name] = stored[name]._replace(data=bytes(data))

    found = findings(tmp_path / "it", stored, per_row=True)

    assert all("with the scale of" in finding.got for finding in found)
    assert {name for finding in found for name in finding.tensors} == {f"{one}.weight_scale", f"{two}.weight_scale"}


def test_pieces_are_left_out_together() -> None:
    left, right = np.array([1.0, np.nan, 3.0, 4.0]), np.array([np.inf, 2.0, 3.0, 5.0])

    kept = finite(left, right)

    assert [each.tolist() for each in kept] == [[3.0, 4.0], [3.0, 5.0]]
