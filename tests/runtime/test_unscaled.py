"""Raw casts load only where the caller says so; the other 8-bit floats load where a configuration declares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fp8load
from fp8load.errors import Fp8LoadError
from oracle.catalog import FOLDER
from oracle.dequantize import Stored, tensors
from oracle.rewrite import write_checkpoint, write_file

ROWS, COLS = 12, 8
NAMES = ("blocks.0.up", "blocks.1.up")


def number(dtype: str, code: int) -> float:
    """One code by its fields. fnuz: the bias is one higher, and 0x80, which would be minus zero, is the NaN."""
    fnuz = dtype.endswith("FNUZ")
    exponent_bits, mantissa_bits = (4, 3) if "E4M3" in dtype else (5, 2)
    bias = (1 << (exponent_bits - 1)) - 1 + fnuz
    mantissa, exponent = code % (1 << mantissa_bits), (code & 0x7F) >> mantissa_bits
    largest = (1 << exponent_bits) - 1
    if fnuz:
        if code == 0x80:
            return float("nan")
    elif dtype == "F8_E4M3" and code & 0x7F == 0x7F:
        return float("nan")
    elif dtype == "F8_E5M2" and exponent == largest:
        return float("nan") if mantissa else (-1.0) ** (code >> 7) * float("inf")
    fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)
    return (-1.0) ** (code >> 7) * fraction * 2.0 ** (max(exponent, 1) - bias)


DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


def weights(dtype: str) -> tuple[dict[str, Stored], dict[str, np.ndarray]]:
    """Two matrices of finite codes, every one of them somewhere, and their numbers."""
    finite = np.array([code for code in range(256) if np.isfinite(number(dtype, code))], np.uint8)
    rng = np.random.default_rng(1)
    codes = [rng.permutation(np.resize(finite, ROWS * COLS * 2))[: ROWS * COLS].reshape(ROWS, COLS) for _ in NAMES]
    stored = {
        f"{name}.weight": Stored(dtype, (ROWS, COLS), code.tobytes()) for name, code in zip(NAMES, codes, strict=True)
    }
    values = {
        name: np.array([number(dtype, int(code)) for code in code_NK.ravel()], np.float32).reshape(ROWS, COLS)
        for name, code_NK in zip(NAMES, codes, strict=True)
    }
    return stored, values


def written(
    folder: Path, stored: dict[str, Stored], config: dict[str, Any] | None = None, file: str = "config.json"
) -> Path:
    folder.mkdir()
    write_file(folder / "model.safetensors", stored)
    if config is not None:
        (folder / file).write_text(json.dumps(config))
    return folder


def same_bits(got: torch.Tensor, expected: np.ndarray) -> bool:
    return np.array_equal(got.numpy().view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_raw_cast_is_refused_by_its_first_tensor_and_loads_when_it_is_said_to_be_one(
    dtype: str, tmp_path: Path
) -> None:
    stored, values = weights(dtype)
    folder = written(tmp_path / "raw", stored)

    with pytest.raises(Fp8LoadError, match=rf"(?s){NAMES[0]}\.weight.*allow_unscaled=True"):
        fp8load.load(folder)
    model = fp8load.load(folder, allow_unscaled=True)
    checkpoint = fp8load.open(folder, allow_unscaled=True)
    plain = dict(checkpoint.plain_tensors())
    x = torch.randn(3, COLS)
    for name in NAMES:
        assert same_bits(model[name].dequantize(), values[name])
        assert same_bits(plain[f"{name}.weight"], values[name])
        assert same_bits(checkpoint.dequantize(name), values[name])
        assert model[name].weight_scale is None
        torch.testing.assert_close(model[name](x), x @ torch.from_numpy(values[name]).T)


def test_verify_says_that_scales_are_missing_either_way(tmp_path: Path) -> None:
    folder = written(tmp_path / "raw", weights("F8_E5M2")[0])
    refused, allowed = (fp8load.open(folder, allow_unscaled=allow).verify("weights") for allow in (False, True))

    assert [(finding.code, finding.severity) for finding in refused.findings if finding.severity != "info"] == [
        ("F8L201", "warning")
    ]
    assert allowed.ok
    loud = [finding for finding in allowed.findings if finding.severity != "info"]
    assert [(finding.code, finding.severity, finding.count) for finding in loud] == [("F8L201", "warning", 2)]


def test_a_lost_scale_of_a_quantized_checkpoint_is_named_and_never_guessed(tmp_path: Path) -> None:
    original = FOLDER / "ct-llama128-fp8-static"
    gone = "model.layers.0.mlp.down_proj.weight_scale"
    rest = {name: tensor for name, tensor in tensors(original).items() if name != gone}
    folder = write_checkpoint(original, tmp_path / "lost", rest)

    with pytest.raises(Fp8LoadError, match=rf"(?s){gone}.*allow_unscaled=True"):
        fp8load.load(folder)
    with pytest.raises(Fp8LoadError, match=gone):  # its input scale is there, so this is no raw cast
        fp8load.load(folder, allow_unscaled=True)


def test_a_member_of_a_fused_layer_without_a_scale_is_not_run_beside_others_that_have_one(tmp_path: Path) -> None:
    original = FOLDER / "ct-llamaodd-fp8-dynamic"
    gone = "model.layers.0.self_attn.k_proj.weight_scale"
    rest = {name: tensor for name, tensor in tensors(original).items() if name != gone}

    with pytest.raises(Fp8LoadError, match="F8L306"):
        fp8load.load(write_checkpoint(original, tmp_path / "lost", rest), allow_unscaled=True)


@pytest.mark.parametrize("beside", ["scale_weight", "weight_scale", "comfy_quant", "weight_quantizer._amax"])
def test_a_weight_with_anything_else_beside_it_is_no_raw_cast(beside: str, tmp_path: Path) -> None:
    stored, _ = weights("F8_E4M3")
    name = f"{NAMES[1]}.{beside}"
    stored[name] = Stored("F32", (1,), np.ones(1, "<f4").tobytes())

    with pytest.raises(Fp8LoadError, match=name):
        fp8load.load(written(tmp_path / "raw", stored), allow_unscaled=True)


def test_raw_casts_of_vectors_are_loaded_as_they_are(tmp_path: Path) -> None:
    stored, _ = weights("F8_E4M3")
    stored["norm.weight"] = Stored("F8_E4M3", (COLS,), bytes(range(8)))
    model = fp8load.load(written(tmp_path / "raw", stored), allow_unscaled=True)

    assert model.tensors["norm.weight"].dtype == torch.float8_e4m3fn


def test_a_checkpoint_with_scales_is_read_alike_with_the_option() -> None:
    name = FOLDER / "ct-phi3-fp8-static-kv"
    plain, allowed = (fp8load.load(name, allow_unscaled=allow) for allow in (False, True))

    for module, layer in plain.items():
        assert torch.equal(layer.dequantize(), allowed[module].dequantize())


FP8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
       "F8_E5M2FNUZ": "float8_e5m2fnuz"}  # fmt: skip


def declared(tool: str, dtype: str) -> tuple[dict[str, Any], str, str, str]:
    """A configuration that declares the dtype: the document, its file, and the suffixes of weight and scale."""
    element = FP8[dtype]
    if tool == "quanto":
        entries = {name: {"weights": f"q{element}", "activations": "none"} for name in NAMES}
        return entries, "quanto_qmap.json", "weight._data", "weight._scale"
    if tool == "torchao":
        data = {"weight_dtype": {"_type": "torch.dtype", "_data": element}}
        default = {"_type": "Float8WeightOnlyConfig", "_data": data}
        document = {"quant_method": "torchao", "quant_type": {"default": default}}
        return {"quantization_config": document}, "config.json", "_weight_qdata", "_weight_scale"
    document = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": element}
    return {"quantization_config": document}, "config.json", "weight", "weight_scale"


CASES = [(tool, dtype) for tool in ("fp8", "torchao", "quanto") for dtype in DTYPES]
CASES.remove(("quanto", "F8_E5M2FNUZ"))  # quanto has no such type


@pytest.mark.parametrize(("tool", "dtype"), CASES)
def test_the_other_floats_are_scaled_like_e4m3_where_a_configuration_declares_them(
    tool: str, dtype: str, tmp_path: Path
) -> None:
    document, file, weight, scale = declared(tool, dtype)
    raw, values = weights(dtype)
    shape = (1,) if tool == "fp8" else (ROWS, 1)
    factors = np.random.default_rng(2).uniform(0.01, 1, shape).astype("<f4")
    stored = {}
    for name in NAMES:
        stored[f"{name}.{weight}"] = raw[f"{name}.weight"]
        stored[f"{name}.{scale}"] = Stored("F32", shape, factors.tobytes())
    folder = written(tmp_path / "made", stored, document, file)
    model, plain = fp8load.load(folder), dict(fp8load.open(folder).plain_tensors())

    for name in NAMES:
        assert same_bits(model[name].dequantize(), values[name] * factors)
        assert same_bits(plain[f"{name}.weight"], values[name] * factors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_said", [True, False])
def test_a_general_name_leaves_the_bias_to_the_tensors(dtype: str, *, is_said: bool, tmp_path: Path) -> None:
    general = dtype.removesuffix("FNUZ").removeprefix("F8_").lower()
    document, file, weight, scale = declared("fp8", dtype)
    settings = document["quantization_config"]
    if is_said or general == "e5m2":
        settings["fmt"] = general
    else:
        del settings["fmt"]
    raw, values = weights(dtype)
    stored = {f"{name}.{weight}": raw[f"{name}.weight"] for name in NAMES}
    stored |= {f"{name}.{scale}": Stored("F32", (1,), np.array([0.25], "<f4").tobytes()) for name in NAMES}

    model = fp8load.load(written(tmp_path / "made", stored, document, file))

    for name in NAMES:
        assert same_bits(model[name].dequantize(), values[name] * np.float32(0.25))


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_float_than_the_declared_one_is_refused(dtype: str, tmp_path: Path) -> None:
    other = DTYPES[DTYPES.index(dtype) - 1]
    stored, _ = weights(other)
    for name in NAMES:
        stored[f"{name}.weight_scale"] = Stored("F32", (1,), np.ones(1, "<f4").tobytes())
    folder = written(tmp_path / "made", stored, declared("fp8", dtype)[0])

    with pytest.raises(Fp8LoadError, match="F8L105"):
        fp8load.load(folder)
