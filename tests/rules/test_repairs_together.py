"""Repairs that meet: on one weight, in the index; and what is not worked out, because nobody asked for it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import fp8load
from fp8load.errors import UsageError
from fp8load.rules.f8l404_expert_3d_layout import GATE_UP
from fp8load.rules.f8l921_head_tie import TIED
from fp8load.rules.repairs import f8l921
from fp8load.rules.samples import BLOCK, LLAMA, POWERS, QUANTIZED
from fp8load.scheme import Role
from fp8load.writing.actions import Remake
from fp8load.writing.changes import changes_of
from rules.repair_cases import APART, CASES, DOWN, SCALE, STATIC_LLAMA, UP, Case, with_numbers
from rules.test_repairs import on_disk, tensors_of

HEAD = QUANTIZED.replace("model.layers.0.mlp.down_proj", "lm_head")
HEAD_SCALE = "lm_head.weight_scale_inv"


def nan_codes(weight: np.ndarray) -> None:
    """Zeros, and NaN for one of them."""
    weight[...] = 0
    weight[5, 5] = 0x7F


def first_is_zero(scale: np.ndarray) -> None:
    scale.fill(1)
    scale[0, 0] = 0


def remade(ckpt, what: str) -> Remake:
    weight = next(meta for meta in ckpt.index.tensors.values() if meta.dtype.is_fp8)
    return Remake(weight, weight.dtype, weight.shape, partial(iter, ()), what)


def test_two_repairs_that_make_one_weight_anew_are_refused(tmp_path: Path) -> None:
    """Each counts on its own scale: the weight of one beside the scale of both would be another weight."""
    with (
        fp8load.open(on_disk(Case(LLAMA), tmp_path / "it")) as ckpt,
        pytest.raises(UsageError, match="USE023"),
    ):
        changes_of(ckpt.source, ckpt.index, [remade(ckpt, "one"), remade(ckpt, "other")])


def refused(case: Case, codes: tuple[str, ...], folder: Path) -> str:
    """What is said of two repairs that are not done together."""
    with fp8load.open(on_disk(case, folder / "it")) as ckpt, pytest.raises(UsageError, match="USE023") as caught:
        ckpt.fix(codes, level="weights").write(folder / "out")
    assert not (folder / "out").exists()
    return str(caught.value)


def repaired(case: Case, codes: tuple[str, ...], folder: Path) -> Path:
    with fp8load.open(on_disk(case, folder / "it")) as ckpt:
        ckpt.fix(codes, level="weights").write(folder / "out")
    return folder / "out"


def test_elements_that_are_mended_in_a_weight_of_another_dtype_are_refused_by_both_names(tmp_path: Path) -> None:
    """The weight would be dequantized from its codes as stored, NaN among them."""
    case = Case(BLOCK + HEAD, with_numbers(BLOCK + HEAD, {"lm_head.weight": nan_codes, HEAD_SCALE: first_is_zero}))
    said = refused(case, ("F8L921", "F8L801"), tmp_path)

    assert "lm_head.weight" in said
    assert "dequantized to BF16" in said
    assert "zeros for codes that are no number" in said


def test_a_weight_is_not_dequantized_with_a_scale_that_another_repair_inverts(tmp_path: Path) -> None:
    said = refused(Case(BLOCK + HEAD, values={HEAD_SCALE: 5000.0}), ("F8L921", "F8L703"), tmp_path)

    assert "dequantized to BF16" in said
    assert "lm_head.weight_scale_inv 1 / scale" in said


def test_a_scale_is_not_given_two_numbers_at_once(tmp_path: Path) -> None:
    """Its weight would be quantized again under one that is not the stored one."""
    said = refused(Case(LLAMA.replace(BLOCK, POWERS), values={SCALE: 5000.0}), ("F8L703", "F8L707"), tmp_path)

    assert "1 / scale" in said
    assert "the next powers of two" in said


@pytest.mark.parametrize("codes", [("F8L402", "F8L601"), ("F8L601", "F8L402")])
def test_a_new_scale_is_not_lost_where_its_dtype_is_widened_too(codes, tmp_path: Path) -> None:
    skeleton = STATIC_LLAMA.replace(" F32 ", " BF16 ")
    out = repaired(Case(skeleton, values={f"{UP}.weight_scale": 0.75}), codes, tmp_path)

    names = [f"{module}.weight_scale" for module in (UP, UP.replace("up", "gate"))]
    assert [np.frombuffer(tensors_of(out)[name], "<f4")[0] for name in names] == [1.0, 1.0]


def test_a_scale_that_moves_is_widened_on_its_way(tmp_path: Path) -> None:
    case = Case(APART.replace(" F32 ", " BF16 "), values={SCALE: 0.25})
    out = repaired(case, ("F8L206", "F8L601"), tmp_path)

    with fp8load.open(out) as copy:
        assert copy.index.tensors[SCALE].dtype == "F32"
        assert copy.index.tensors[SCALE].file == copy.index.tensors[DOWN].file
    assert set(np.frombuffer(tensors_of(out)[SCALE], "<f4")) == {0.25}


def test_numbers_that_only_change_their_dtype_do_not_stand_against_a_dequantized_weight(tmp_path: Path) -> None:
    skeleton = BLOCK + HEAD.replace("F8_E4M3", "F8_E4M3FNUZ")
    with fp8load.open(on_disk(Case(skeleton), tmp_path / "faulty")) as ckpt:
        before = ckpt.dequantize("lm_head")
    with fp8load.open(repaired(Case(skeleton), ("F8L602", "F8L921"), tmp_path)) as copy:
        assert copy.index.tensors["lm_head.weight"].dtype == "BF16"
        assert torch.equal(copy.dequantize("lm_head"), before.bfloat16().float())


def test_a_tensor_that_becomes_shorter_than_its_header_says_stops_the_copy(tmp_path: Path) -> None:
    with fp8load.open(on_disk(Case(LLAMA), tmp_path / "it")) as ckpt:
        changes = changes_of(ckpt.source, ckpt.index, [remade(ckpt, "one")])

        with pytest.raises(ValueError, match="0 bytes were made of it"):
            changes.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_nobody_asked_for_is_not_read(tmp_path: Path, monkeypatch) -> None:
    """A tied head is compared with the embedding only where that repair is asked for."""
    with fp8load.open(on_disk(Case(TIED), tmp_path / "it")) as ckpt:
        asked = []
        monkeypatch.setattr(f8l921, "_same", lambda *_: asked.append(1))

        ckpt.fix(["F8L202"], level="headers")
        ckpt.fix(level="headers")
        assert not asked
        ckpt.fix(["F8L921"], level="headers")
        assert asked


def test_the_index_follows_what_is_written(tmp_path: Path) -> None:
    """One repair completes the index, another drops the same scale; and the sum is that of what is left."""
    folder = on_disk(Case(LLAMA + "model.layers.0.input_layernorm.weight_scale_inv F32 [2]\n"), tmp_path / "it")
    with fp8load.open(folder) as ckpt:
        files = {name: meta.file for name, meta in ckpt.index.tensors.items() if "layernorm.weight_scale" not in name}
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with fp8load.open(folder) as ckpt:
        ckpt.fix(["F8L005", "F8L202", "F8L012"]).write(tmp_path / "out")

    after = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    with fp8load.open(tmp_path / "out") as ckpt:
        assert set(after["weight_map"]) == set(ckpt.index.tensors)
        assert not any("layernorm.weight_scale" in name for name in after["weight_map"])
        assert after["metadata"]["total_size"] == sum(meta.nbytes for meta in ckpt.index.tensors.values())


def report_of(folder: Path) -> dict[str, str]:
    """Code -> severity of what is found in a copy."""
    with fp8load.open(folder) as copy:
        return {finding.code: finding.severity for finding in copy.verify("weights").findings}


def test_input_scales_stay_where_the_scheme_becomes_static(tmp_path: Path) -> None:
    """One code for both: a scheme that is not said, and input scales that nothing reads for that."""
    out = repaired(CASES["F8L106"], ("F8L106",), tmp_path)

    assert len([name for name in tensors_of(out) if name.endswith("input_scale")]) == 7
    assert not {"F8L106", "F8L204"} & report_of(out).keys()


def test_a_grid_is_not_turned_beside_a_weight_that_is(tmp_path: Path) -> None:
    """Beside a weight that lies across, a sound grid looks like one in columns."""
    out = repaired(CASES["F8L506 scaled"], ("F8L506", "F8L605"), tmp_path)

    assert "error" not in report_of(out).values()


def test_a_file_of_comfyui_gets_a_marker_and_no_configuration(tmp_path: Path) -> None:
    out = repaired(CASES["F8C001"], ("F8C001", "F8L101"), tmp_path)

    assert not (out / "config.json").exists()
    assert "error" not in report_of(out).values()


def test_a_marker_is_no_scale_of_zero(tmp_path: Path) -> None:
    out = repaired(CASES["F8C001 old"], ("F8C001",), tmp_path)

    assert "scaled_fp8" in " ".join(tensors_of(out))
    assert not {"F8L701", "F8L702"} & report_of(out).keys()


BF16_STATIC = STATIC_LLAMA.replace(" F32 ", " BF16 ")


@pytest.mark.parametrize(
    ("code", "skeleton", "values"),
    [
        ("F8L402", BF16_STATIC, {f"{UP}.weight_scale": 0.75}),
        ("F8L403", BF16_STATIC, {f"{UP}.input_scale": 0.5}),
        ("F8L707", LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " BF16 "), {SCALE: 0.003}),
        ("F8L707", LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " F16 "), {SCALE: 0.003}),
        ("F8L706", LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " BF16 "), {SCALE: 120.0}),
        ("F8L706", LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " F16 "), {SCALE: 120.0}),
        ("F8L703", LLAMA.replace(" F32 ", " BF16 "), {SCALE: 5000.0}),
    ],
)
def test_a_scale_has_the_dtype_of_its_siblings_afterwards(code, skeleton, values, tmp_path: Path) -> None:
    """One in F32 among scales in BF16 is refused, as one that was relabelled is."""
    out = repaired(Case(skeleton, values=values), (code,), tmp_path)
    with fp8load.open(out) as copy:
        report = copy.verify("weights")
        dtypes = {info.tensors[Role.WEIGHT_SCALE].dtype for info in copy.lowered.modules.values() if info.scheme}

    assert not [found for found in report.findings if found.severity == "error"]
    assert code not in {found.code for found in report.findings}
    assert len(dtypes) == 1


@pytest.mark.parametrize("codes", [("F8L703", "F8L708"), ("F8L708", "F8L703")])
def test_elements_are_mended_before_every_number_is_another(codes, tmp_path: Path) -> None:
    """Which elements are next to nothing is known by the stored numbers: inverted they are huge."""

    def change(scale: np.ndarray) -> None:
        scale.fill(5000)
        scale[0, 0] = 1e-20

    out = repaired(Case(LLAMA, with_numbers(LLAMA, {SCALE: change})), codes, tmp_path)
    scale = np.frombuffer(tensors_of(out)[SCALE], "<f4")

    assert scale[0] == 2.0**49
    assert np.allclose(scale[1:], 1 / 5000, rtol=1e-6)


def test_an_exponent_that_f16_does_not_hold_makes_the_scale_wider(tmp_path: Path) -> None:
    skeleton = LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " F16 ")
    out = repaired(Case(skeleton, values={SCALE: 100.0}), ("F8L706",), tmp_path)

    assert set(np.frombuffer(tensors_of(out)[SCALE], "<f4")) == {2.0**-27}


@pytest.mark.parametrize("code, value", [("F8L707", 0.3), ("F8L706", 120.0)])
def test_a_scale_of_all_experts_keeps_its_dtype(code, value, tmp_path: Path) -> None:
    name = "m.experts.gate_up_proj_scale_inv"
    skeleton = POWERS + GATE_UP.replace(" F32 ", " F16 ")
    out = repaired(Case(skeleton, values={name: value}), (code,), tmp_path)

    with fp8load.open(out) as copy:
        assert copy.index.tensors[name].dtype == "F16"
    assert set(np.frombuffer(tensors_of(out)[name], "<f2")) == {0.5 if code == "F8L707" else 2.0**-7}


def test_a_power_that_f16_does_not_hold_makes_the_scale_wider(tmp_path: Path) -> None:
    skeleton = LLAMA.replace(BLOCK, POWERS).replace(" F32 ", " F16 ")
    out = repaired(Case(skeleton, values={SCALE: 40000.0}), ("F8L707",), tmp_path)

    assert set(np.frombuffer(tensors_of(out)[SCALE], "<f4")) == {65536.0}
