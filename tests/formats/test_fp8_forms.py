"""Each form of the fp8 dialect against numbers that were worked out without the library, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fp8load
from fp8load.scheme import Role
from oracle.dequantize import Stored
from oracle.forms import FORMS, Form
from oracle.int4 import INT4_FORMS

ALL = {**FORMS, **INT4_FORMS}

LEFT_OUT = (".weight_shape", ".weight_zero_point_2")
"""Nothing is lost without them."""


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def form(request: pytest.FixtureRequest) -> Form:
    return request.param()


def assert_same_bits(got: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal shapes and float32 bit patterns."""
    assert got.shape == expected.shape, name
    assert np.array_equal(got.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32)), name


def test_exactly_the_quantized_modules_have_a_scheme_and_nothing_is_wrong(form: Form, tmp_path: Path) -> None:
    ckpt = fp8load.open(form.write(tmp_path / "it"))

    assert ckpt.problems == ()
    assert {name for name, info in ckpt.lowered.modules.items() if info.scheme is not None} == form.real.keys()
    assert [finding for finding in ckpt.verify("weights").findings if finding.severity != "info"] == []


def test_a_module_is_what_its_bytes_stand_for(form: Form, tmp_path: Path) -> None:
    ckpt = fp8load.open(form.write(tmp_path / "it"))

    for name, expected in form.real.items():
        assert_same_bits(ckpt.dequantize(name).numpy(), expected, name)


def test_what_is_loaded_is_what_the_bytes_stand_for(form: Form, tmp_path: Path) -> None:
    model = fp8load.open(form.write(tmp_path / "it")).plan().load(device="cpu")

    assert set(model) == form.real.keys()
    for name, expected in form.real.items():
        assert_same_bits(model[name].dequantize().numpy(), expected, name)


def test_plain_tensors_have_no_scales_and_keep_everything_else(form: Form, tmp_path: Path) -> None:
    ckpt = fp8load.open(form.write(tmp_path / "it"))
    scales = {meta.name for info in ckpt.lowered.modules.values() for role, meta in info.tensors.items()
              if role not in (Role.WEIGHT, Role.BIAS)}  # fmt: skip

    names = [name for name, _ in ckpt.plain_tensors()]

    kept = form.stored.keys() - scales - ckpt.lowered.unused.keys()
    assert sorted(names) == sorted(name.replace("weight_packed", "weight") for name in kept)
    assert len(scales) >= len(form.real)


def test_whatever_tensor_of_a_quantized_module_is_gone_is_named(form: Form, tmp_path: Path) -> None:
    needed = form.stored.keys() - {
        name for name in form.stored if name.endswith((".weight_shape", ".weight_zero_point_2"))
    }
    parts = [name for name in needed if name.rpartition(".")[0] in form.real]
    for number, gone in enumerate(parts):
        kept = Form(
            form.config, {name: stored for name, stored in form.stored.items() if name != gone}, files=form.files
        )
        ckpt = fp8load.open(kept.write(tmp_path / f"without-{number}"))

        assert gone in {problem.tensor for problem in ckpt.problems} | {
            problem.expected.partition(" ")[0] for problem in ckpt.problems
        }, gone
        with pytest.raises(fp8load.Fp8LoadError, match=gone.replace(".", r"\.")):
            ckpt.plan()


def test_one_scale_for_keys_and_values_fills_both(tmp_path: Path) -> None:
    form = FORMS["15 AutoFP8"]()
    form.stored["model.layers.0.self_attn.kv_scale"] = Stored("F32", (1,), np.float32(0.375).tobytes())

    model = fp8load.open(form.write(tmp_path / "it")).plan().load(device="cpu")

    assert float(model.tensors["model.layers.0.self_attn.k_scale"]) == 0.375
    assert float(model.tensors["model.layers.0.self_attn.v_scale"]) == 0.375


def test_one_scale_for_keys_and_values_beside_one_for_keys_is_one_too_many(tmp_path: Path) -> None:
    form = FORMS["15 AutoFP8"]()
    for name in ("kv_scale", "k_scale"):
        form.stored[f"model.layers.0.self_attn.{name}"] = Stored("F32", (), np.float32(0.5).tobytes())

    problems = fp8load.open(form.write(tmp_path / "it")).problems

    assert {problem.code for problem in problems} == {"F8L203"}
    assert {problem.tensor.rpartition(".")[2] for problem in problems} == {"kv_scale", "k_scale"}
