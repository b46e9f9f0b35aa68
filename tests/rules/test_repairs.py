"""Each repair: the copy verifies clean, what is not repaired has the same bytes, and the original is as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fp8load
from counted import calls
from fp8load.errors import Problem, UsageError
from fp8load.rules.base import Context
from fp8load.rules.f8l404_expert_3d_layout import GATE_UP
from fp8load.rules.f8l605_kernel_layout_persisted import WIDE
from fp8load.rules.f8l703_scale_direction import CT, DIVIDES
from fp8load.rules.f8l921_head_tie import TIED
from fp8load.rules.repairs import repairs
from fp8load.rules.repairs.dequantized import dequantized
from fp8load.rules.samples import BLOCK, LLAMA, LLAMA_CONFIG, QUANTIZED
from fp8load.writing.actions import Drop
from rules.examples import checkpoint_of, written
from rules.repair_cases import (
    CASES,
    CHANNELS,
    DIVISORS,
    DOWN,
    FILE,
    GRIDS,
    LAYOUTS,
    LISTED_LLAMA,
    SCALE,
    TWO,
    UP,
    Case,
    divided_by_zero,
    scale_there,
    with_numbers,
    zeros,
)


def on_disk(case: Case, folder: Path) -> Path:
    """The faulty checkpoint as files."""
    folder.mkdir()
    for name, data in {**written(case.skeleton, case.values), **case.files}.items():
        if isinstance(data, bytes):
            (folder / name).write_bytes(data)
        elif isinstance(data, int):
            (folder / name).write_bytes(written(case.skeleton, case.values)[name] + bytes(data))
    return folder


def loud(report) -> list[tuple[str, str]]:
    return [(finding.code, finding.message) for finding in report.findings if finding.severity != "info"]


def tensors_of(folder: Path) -> dict[str, bytes]:
    with fp8load.open(folder) as ckpt:
        metas = ckpt.index.tensors.values()
        return {meta.name: ckpt.source.read(meta.file, meta.begin, meta.end) for meta in metas}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_repair_has_a_case():
    assert {name.partition(" ")[0] for name in CASES} == set(repairs())


@pytest.mark.parametrize("name", CASES)
def test_a_repaired_copy_is_clean_and_the_original_as_it_was(name, tmp_path):
    case, code = CASES[name], name.partition(" ")[0]
    folder = on_disk(case, tmp_path / "faulty")
    before = bytes_of(folder)
    with fp8load.open(folder) as ckpt:
        (finding, *_) = [found for found in ckpt.verify("weights").findings if found.code == code]
        ckpt.fix(case.named, level="weights").write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        report = copy.verify("weights")

    assert finding.fix, finding
    assert ("--fix F8L" in finding.fix) == bool(case.named)
    assert loud(report) == []
    assert code not in {found.code for found in report.findings}
    assert bytes_of(folder) == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_repaired_keeps_its_bytes(name, tmp_path):
    case = CASES[name]
    folder = on_disk(case, tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        fixes = ckpt.fix(case.named, level="weights")
        fixes.write(tmp_path / "repaired")
    before, after = tensors_of(folder), tensors_of(tmp_path / "repaired")
    said = " ".join(line for lines in fixes.changes.lines.values() for line in lines)

    assert fixes.num_fixed
    for tensor in before.keys() | after.keys():
        if tensor not in said:
            assert before.get(tensor) == after.get(tensor), tensor


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].named])
def test_what_has_to_be_named_is_left_alone_without_its_name(name, tmp_path):
    code = name.partition(" ")[0]
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        fixes = ckpt.fix(level="weights")

    assert code not in {done for done, _, _ in fixes.counts}


def test_a_lossy_repair_is_not_chosen_by_a_prefix(tmp_path):
    with fp8load.open(on_disk(CASES["F8L204"], tmp_path / "faulty")) as ckpt:
        assert ckpt.fix(("F8L2",)).changes.is_empty
        assert ckpt.fix(("F8L204",)).num_fixed == 1


def test_the_diff_of_json_is_unified_and_that_of_tensors_a_line_each(tmp_path):
    folder = on_disk(CASES["F8L202"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        lines = ckpt.fix().diff().splitlines()

    assert "--- a/config.json" in lines
    assert any(line.startswith("+") and UP in line for line in lines)
    assert f"- {UP}.weight_scale_inv  F32 [4, 2]" in lines


def test_bytes_of_exponents_become_the_powers_that_were_meant(tmp_path):
    with fp8load.open(on_disk(CASES["F8L706"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")

    assert set(np.frombuffer(tensors_of(tmp_path / "repaired")[SCALE], "<f4")) == {2.0**-7}


def test_widened_scales_are_the_same_numbers(tmp_path):
    case = Case(CASES["F8L601"].skeleton, values={SCALE: 0.0078125})
    with fp8load.open(on_disk(case, tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L601",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.tensors[SCALE].dtype == "F32"

    assert set(np.frombuffer(tensors_of(tmp_path / "repaired")[SCALE], "<f4")) == {0.0078125}


def test_the_largest_sibling_is_chosen_for_an_input_scale_that_is_missing(tmp_path):
    case = CASES["F8L204"]
    missing = "model.layers.1.mlp.down_proj.input_scale"
    values = {missing.replace("layers.1", "layers.0"): 0.25}
    with fp8load.open(on_disk(Case(case.skeleton, values=values), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L204",)).write(tmp_path / "repaired")

    assert np.frombuffer(tensors_of(tmp_path / "repaired")[missing], "<f4")[0] == 0.25


def test_a_scale_is_reshaped_and_widened_at_once(tmp_path):
    case = CASES["F8L503 in BF16"]
    values = {f"{UP}.weight_scale": 0.25}
    with fp8load.open(on_disk(Case(case.skeleton, values=values), tmp_path / "faulty")) as ckpt:
        ckpt.fix(case.named).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        meta = copy.index.tensors[f"{UP}.weight_scale"]

    assert (meta.dtype, meta.shape) == ("F32", (1,))
    assert np.frombuffer(tensors_of(tmp_path / "repaired")[meta.name], "<f4")[0] == 0.25


def test_entries_under_an_old_prefix_become_the_stored_names(tmp_path):
    with fp8load.open(on_disk(CASES["F8L301 renamed"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    assert sorted(document["quantization_config"]["modules_to_not_convert"]) == [
        "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["F8L308", "F8L308 glob", "F8L308 expression"])
def test_full_names_take_the_place_of_a_pattern(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L308",)).write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    document = document["quantization_config"]
    listed = document.get("ignore") or document["modules_to_not_convert"]

    assert listed == [
        "lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate",
    ]  # fmt: skip


def test_groups_keep_their_order_under_new_names(tmp_path):
    groups = {name: {"targets": [target], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
              for name, target in (("last", "re:.*up"), ("group_0", "re:.*gate"), ("first", "Linear"))}  # fmt: skip
    text = CHANNELS.splitlines(keepends=True)[1]
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    with fp8load.open(on_disk(Case(f"config {json.dumps(config)}\n{text}"), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L105",)).write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())["quantization_config"]["config_groups"]

    assert [*document] == ["group_1", "group_0", "group_2"]
    assert [*document.values()] == [*groups.values()]


def test_layers_for_prediction_are_counted_as_stored(tmp_path):
    with fp8load.open(on_disk(CASES["F8L911 stored"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L911",)).write(tmp_path / "repaired")

    assert json.loads((tmp_path / "repaired" / "config.json").read_text())["num_nextn_predict_layers"] == 2


def test_a_glob_that_covers_nothing_here_is_not_lost(tmp_path):
    """Without codes it is F8L301 that is repaired: the routers stay on the list."""
    with fp8load.open(on_disk(CASES["F8L308 glob"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    assert "model.layers.1.mlp.gate" in document["quantization_config"]["modules_to_not_convert"]


def test_an_entry_that_is_too_wide_is_replaced_by_what_it_covers_rightly(tmp_path):
    skeleton = LISTED_LLAMA.replace('["lm_head"]', '["mlp", "lm_head"]') + (
        "model.layers.0.mlp.extra.weight  BF16  [256, 256]\n"
    )
    with fp8load.open(on_disk(Case(skeleton), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L303",)).write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    assert document["quantization_config"]["modules_to_not_convert"] == ["lm_head", "model.layers.0.mlp.extra"]


@pytest.mark.parametrize("entries", ['"mlp", "down_proj"', r'"mlp", "re:.*down_proj", "model.layers.0.mlp.down_proj"'])
def test_a_module_that_several_entries_cover_is_on_the_list_no_more(entries, tmp_path):
    skeleton = LISTED_LLAMA.replace('["lm_head"]', f'[{entries}, "lm_head"]') + (
        "model.layers.0.mlp.extra.weight  BF16  [256, 256]\nmodel.other.down_proj.weight  BF16  [256, 256]\n"
    )
    with fp8load.open(on_disk(Case(skeleton), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L303",)).write(tmp_path / "repaired")
    document = json.loads((tmp_path / "repaired" / "config.json").read_text())

    assert sorted(document["quantization_config"]["modules_to_not_convert"]) == [
        "lm_head", "model.layers.0.mlp.extra", "model.other.down_proj",
    ]  # fmt: skip
    with fp8load.open(tmp_path / "repaired") as copy:
        assert not [found for found in copy.verify().findings if found.code in ("F8L302", "F8L303")]


def test_an_entry_that_covers_a_stack_of_experts_is_removed(tmp_path):
    skeleton = BLOCK.replace('"quant_method"', '"modules_to_not_convert": ["gate_up_proj"], "quant_method"') + GATE_UP
    with fp8load.open(on_disk(Case(skeleton), tmp_path / "faulty")) as ckpt:
        assert [found.fix for found in ckpt.verify().findings if found.code == "F8L303"] != [None]
        ckpt.fix().write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert not [found for found in copy.verify().findings if found.code == "F8L303"]


def test_two_scales_that_differ_are_left_for_people(tmp_path):
    case = Case(CASES["F8L203"].skeleton, values={SCALE: 0.5})
    with fp8load.open(on_disk(case, tmp_path / "faulty")) as ckpt:
        fixes = ckpt.fix()

    assert fixes.changes.is_empty
    assert [(code, count) for code, _, count in fixes.failed] == [("F8L203", 1)]


def test_a_scale_whose_weight_is_lost_is_not_dropped(tmp_path):
    lost = "".join(line for line in LLAMA.splitlines(keepends=True) if "down_proj.weight " not in line)
    with fp8load.open(on_disk(Case(lost), tmp_path / "faulty")) as ckpt:
        assert "F8L202" not in {code for code, _, _ in ckpt.fix().counts}


def test_the_header_gets_metadata(tmp_path):
    header = b'{"__metadata__":{"a":1},"model.norm.weight":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(range(8))
    folder = on_disk(Case(LLAMA_CONFIG, {FILE: data}), tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L007",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.files[FILE].metadata == {"a": "1", "format": "pt"}
        assert copy.index.problems == ()
    assert tensors_of(folder) == tensors_of(tmp_path / "repaired")


def test_a_total_size_becomes_the_sum_of_the_tensors(tmp_path):
    with fp8load.open(on_disk(CASES["F8L012"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L012",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.total_size == copy.index.nbytes


@pytest.mark.parametrize("name", ["F8L104", "F8L104 inside"])
def test_a_configuration_in_an_odd_place_is_copied_to_the_usual_one(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        odd = ckpt.format.place.partition(" ")[2].split(".")
        ckpt.fix(("F8L104",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.format.place == "config.json quantization_config"
    document = config = json.loads((tmp_path / "repaired" / "config.json").read_text())
    for key in odd:
        document = document[key]

    assert config["quantization_config"] == document


def test_a_nested_configuration_becomes_flat(tmp_path):
    with fp8load.open(on_disk(CASES["F8L104 beside"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L104",)).write(tmp_path / "repaired")

    assert json.loads((tmp_path / "repaired" / "config.json").read_text())["quantization_config"] == {
        "producer": {"name": "modelopt"}, "quant_algo": "FP8", "ignore": ["lm_head"], "quant_method": "modelopt",
    }  # fmt: skip


def test_a_configuration_in_the_usual_place_stays_there(tmp_path):
    folder = on_disk(Case(LLAMA), tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        assert list(repairs()["F8L104"].actions(Context(checkpoint=ckpt), Problem(code="F8L104", message=""))) == []


@pytest.mark.parametrize("name", ["F8L402", "F8L402 of FP8", "F8L707", "F8L707 of a stack"])
def test_weights_under_other_scales_are_as_near_as_rounding_lets_them(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(CASES[name].named).write(tmp_path / "repaired")
        modules = [name for name, info in ckpt.lowered.modules.items() if info.scheme is not None]
        before = {name: ckpt.dequantize(name).numpy() for name in modules}
    with fp8load.open(tmp_path / "repaired") as copy:
        after = {name: copy.dequantize(name).numpy() for name in modules}

    assert any((before[name] != after[name]).any() for name in modules)
    for name in modules:
        smallest = 2.0**-9 * np.abs(before[name]).max() / 448 * 2  # the step of codes next to zero
        assert (np.abs(after[name] - before[name]) <= np.maximum(np.abs(before[name]) * 2**-4, smallest)).all()


def test_blocks_whose_scale_is_a_power_of_two_keep_their_codes(tmp_path):
    folder = on_disk(CASES["F8L707"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L707",)).write(tmp_path / "repaired")
    before, after = (
        np.frombuffer(tensors_of(at)[DOWN], "u1").reshape(2, 128, 4, 128) for at in (folder, tmp_path / "repaired")
    )
    same = (before == after).all(axis=(1, 3))

    assert same.tolist() == [[True, False, True, False], [False, False, False, False]]


@pytest.mark.parametrize("name", ["F8L701", "F8L701 infinite", "F8L702"])
def test_a_scale_over_zeros_becomes_the_least_sound_one(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")
    scale = np.frombuffer(tensors_of(tmp_path / "repaired")[SCALE], "<f4")

    assert scale.tolist() == [0.5, 0.75, 1, 1.25, 1.5, 1.75, 0.5, 2.25]


def test_an_exponent_over_zeros_becomes_the_least_sound_one(tmp_path):
    with fp8load.open(on_disk(CASES["F8L701 exponents"], tmp_path / "faulty")) as ckpt:
        ckpt.fix().write(tmp_path / "repaired")

    assert [*tensors_of(tmp_path / "repaired")[SCALE]] == [120, 121, 122, 123, 124, 125, 120, 127]


@pytest.mark.parametrize("code", ["F8L701", "F8L702"])
def test_a_scale_over_weights_is_lost_and_not_made_up(code, tmp_path):
    """One number in the block, in the last row and column of it, is enough."""

    def all_but_one(down: np.ndarray) -> None:
        zeros(down)
        down[255, 383] = 1

    value = np.nan if code == "F8L701" else 0
    files = with_numbers(LLAMA, {DOWN: all_but_one, SCALE: scale_there(value)})
    with fp8load.open(on_disk(Case(LLAMA, files), tmp_path / "faulty")) as ckpt:
        fixes = ckpt.fix((code,))

    assert fixes.changes.is_empty
    ((failed, why, count),) = fixes.failed
    assert (failed, count) == (code, 1)
    assert "a block of it holds weights" in why


@pytest.mark.parametrize("name", ["F8L306", "F8L912 quantized", "F8L921 quantized", "F8L921 packed", "F8L922"])
def test_a_dequantized_weight_is_the_number_rounded_to_bf16(name, tmp_path):
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(CASES[name].named).write(tmp_path / "repaired")
        before = {module: ckpt.dequantize(module) for module, info in ckpt.lowered.modules.items() if info.scheme}
    with fp8load.open(tmp_path / "repaired") as copy:
        changed = [module for module in before if copy.lowered.modules[module].scheme is None]
        after = {module: copy.dequantize(module) for module in changed}

    assert len(changed) == (2 if name == "F8L306" else 1)
    for module in changed:
        assert torch.equal(after[module], before[module].bfloat16().float())


def test_dequantizing_every_module_takes_as_long_as_there_are_modules():
    """Each has a tensor that is left out: looking through all of those for each module is quadratic."""

    def of(num_layers: int) -> int:
        layers = DIVIDES + "model.layers.0.mlp.{gate,up}_proj.weight_shape  I64  [2]\n"
        checkpoint = checkpoint_of(CT + layers.replace("layers.0", f"layers.{{0..{num_layers - 1}}}"))
        modules = list(checkpoint.lowered.modules)
        context = Context(checkpoint=checkpoint)
        found = []
        count = calls(lambda: found.extend(action for module in modules for action in dequantized(context, module)))
        dropped = {action.meta.name for action in found if isinstance(action, Drop)}
        assert dropped >= {f"{module}.weight_shape" for module in modules}
        return count

    assert of(40) < 4.5 * of(10)


@pytest.mark.parametrize("name", ["F8L404", "F8L404 pair", "F8L404 first of a pair"])
def test_experts_are_turned_one_by_one(name, tmp_path):
    folder = on_disk(CASES[name], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L404",)).write(tmp_path / "repaired")
        stored = ckpt.index.tensors
    with fp8load.open(tmp_path / "repaired") as copy:
        turned = [name for name, meta in copy.index.tensors.items() if meta.shape != stored[name].shape]
        shapes = {name.rpartition(".")[2]: meta.shape for name, meta in copy.index.tensors.items()}
    before, after = tensors_of(folder), tensors_of(tmp_path / "repaired")

    assert len(turned) == (1 if name == "F8L404" else 2)
    assert shapes["gate_up_proj"] == (4, 768, 256)
    assert shapes.get("down_proj") in (None, (4, 256, 384))
    for tensor in turned:
        matrices = np.frombuffer(before[tensor], f"V{stored[tensor].dtype.bits // 8}").reshape(stored[tensor].shape)
        assert after[tensor] == matrices.transpose(0, 2, 1).tobytes()


def test_the_widest_range_of_an_input_is_shared(tmp_path):
    with fp8load.open(on_disk(CASES["F8L403 of experts"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L403",)).write(tmp_path / "repaired")
    stored = tensors_of(tmp_path / "repaired")

    assert {np.frombuffer(stored[TWO.replace("2", str(expert), 1)], "<f4")[0] for expert in range(4)} == {1.0}


def test_codes_without_a_number_become_zeros_and_no_other_changes(tmp_path):
    folder = on_disk(CASES["F8L801"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(level="weights").write(tmp_path / "repaired")
    before, after = (np.frombuffer(tensors_of(at)[DOWN], "u1") for at in (folder, tmp_path / "repaired"))
    bad = before & 0x7F == 0x7F

    assert bad.sum() == 61
    assert not after[bad].any()
    assert (after[~bad] == before[~bad]).all()


def test_codes_without_a_number_under_another_scale_are_lost(tmp_path):
    """The first row and column of the next block."""

    def one_more(down: np.ndarray) -> None:
        divided_by_zero(down)
        down[128, 384] = 0x7F

    files = with_numbers(LLAMA, {DOWN: one_more, SCALE: scale_there(0)})
    with fp8load.open(on_disk(Case(LLAMA, files), tmp_path / "faulty")) as ckpt:
        fixes = ckpt.fix(level="weights")

    assert "F8L801" not in {code for code, _, _ in fixes.counts}
    assert ("F8L801", 1) in {(code, count) for code, _, count in fixes.failed}


def test_of_scales_that_divide_the_smallest_is_shared(tmp_path):
    with fp8load.open(on_disk(CASES["F8L403 dividing"], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L403",)).write(tmp_path / "repaired")
    stored = tensors_of(tmp_path / "repaired")

    assert [np.frombuffer(stored[name.replace("weight", "input")], "<f4")[0] for name in DIVISORS] == [0.25, 0.25]


def test_a_fnuz_nan_stays_one(tmp_path):
    skeleton = BLOCK + QUANTIZED.replace("F8_E4M3", "F8_E4M3FNUZ")
    files = with_numbers(skeleton, {DOWN: lambda down: down[0].fill(0x80)})
    with fp8load.open(on_disk(Case(skeleton, files), tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L602",)).write(tmp_path / "repaired")

    assert tensors_of(tmp_path / "repaired")[DOWN][:256] == bytes([0x7F]) * 256


@pytest.mark.parametrize("name", ["F8L602", "F8L602 said"])
def test_fnuz_numbers_stay_but_for_the_smallest(name, tmp_path):
    module = "model.layers.0.mlp.down_proj"
    with fp8load.open(on_disk(CASES[name], tmp_path / "faulty")) as ckpt:
        ckpt.fix(("F8L602",)).write(tmp_path / "repaired")
        before = ckpt.dequantize(module)
    with fp8load.open(tmp_path / "repaired") as copy:
        after = copy.dequantize(module)
    differ = before != after

    assert before.abs().max() == 240
    assert before[differ].abs().max() < 2**-6
    assert (before - after).abs().max() <= 2**-10


def test_a_tied_head_with_numbers_of_its_own_stays(tmp_path):
    with fp8load.open(on_disk(Case(TIED, values={"lm_head.weight": 0.5}), tmp_path / "faulty")) as ckpt:
        assert ckpt.fix(("F8L921",)).changes.is_empty


@pytest.mark.parametrize("name", LAYOUTS)
def test_elements_of_a_kernels_layout_come_back_to_their_blocks(name, tmp_path):
    with fp8load.open(on_disk(LAYOUTS[name], tmp_path / "faulty")) as ckpt:
        weight = ckpt.index.tensors["m.down_proj.weight"].shape
        ckpt.fix(("F8L605",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        meta = copy.index.tensors["m.down_proj.weight_scale_inv"]
    stored = np.frombuffer(tensors_of(tmp_path / "repaired")[meta.name], f"<u{meta.dtype.bits // 8}")
    numbers = np.exp2(stored - 127.0) if meta.dtype == "U8" else stored.view("<f4")

    assert meta.shape == GRIDS[weight].shape
    assert (numbers.reshape(meta.shape) == np.exp2(GRIDS[weight] - 127.0)).all()


def test_words_that_could_lie_in_two_ways_are_left(tmp_path):
    case = Case(BLOCK + WIDE % "I32 [2, 2]")
    with fp8load.open(on_disk(case, tmp_path / "faulty")) as ckpt:
        assert [found.fix for found in ckpt.verify().findings if found.code == "F8L605"] == [None]


def test_a_scale_moves_to_its_weight_and_the_index_says_so(tmp_path):
    folder = on_disk(CASES["F8L206"], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(("F8L206",)).write(tmp_path / "repaired")
    with fp8load.open(tmp_path / "repaired") as copy:
        assert copy.index.declared == {name: FILE for name in copy.index.tensors}
        assert copy.index.tensors[SCALE].file == FILE
    assert tensors_of(folder) == tensors_of(tmp_path / "repaired")
    assert not (tmp_path / "repaired" / "model-2.safetensors").exists()


@pytest.mark.parametrize("name", ["F8L503", "F8L503 of a stack", "F8L606"])
def test_another_shape_has_the_same_bytes(name, tmp_path):
    folder = on_disk(CASES[name], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        ckpt.fix(CASES[name].named).write(tmp_path / "repaired")

    assert tensors_of(folder) == tensors_of(tmp_path / "repaired")


@pytest.mark.parametrize("name", ["F8L506", "F8L506 scaled", "F8L506 with its scale"])
def test_a_transposed_weight_is_turned(name, tmp_path, monkeypatch):
    monkeypatch.setattr("fp8load.writing.transpose.BAND", 3000)  # several bands, the last one shorter
    monkeypatch.setattr("fp8load.writing.shard.CHUNK", 1000)  # no whole number of rows
    folder = on_disk(CASES[name], tmp_path / "faulty")
    with fp8load.open(folder) as ckpt:
        fixes = ckpt.fix()
        fixes.write(tmp_path / "repaired")
        turned = {meta.name: meta for meta in ckpt.index.tensors.values() if meta.name in str(fixes.changes.lines)}
    before, after = tensors_of(folder), tensors_of(tmp_path / "repaired")

    assert len(turned) == (4 if name.endswith("its scale") else 2)
    for meta in turned.values():
        width = f"V{meta.dtype.bits // 8}"
        matrix = np.frombuffer(before[meta.name], width).reshape(meta.shape)
        assert after[meta.name] == matrix.T.tobytes()


def test_a_transposed_weight_whose_scale_fits_both_ways_is_left_for_people(tmp_path):
    both = LLAMA.replace("F8_E4M3  [512, 256]", "F8_E4M3  [256, 512]").replace("[128, 128]", "[512, 512]")
    both = both.replace("F32      [4, 2]", "F32  [1, 1]").replace("F32      [2, 2]", "F32  [1, 1]")
    both = both.replace("F32      [2, 4]", "F32  [1, 1]")
    with fp8load.open(on_disk(Case(both), tmp_path / "faulty")) as ckpt:
        (finding,) = [found for found in ckpt.verify().findings if found.code == "F8L506"]

        assert ckpt.fix().changes.is_empty
    assert finding.fix is None


def test_an_unknown_code_names_those_that_can_be_repaired(tmp_path):
    with fp8load.open(on_disk(CASES["F8L302"], tmp_path / "faulty")) as ckpt, pytest.raises(UsageError, match="F8L302"):
        ckpt.fix(("F8L999",))
