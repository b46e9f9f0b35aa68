"""What repairs read: nothing for a report, and each number once where a repair is carried out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fp8load.verify
from fp8load.fixable import with_fixes
from fp8load.rules.f8l204_input_scale_missing import comfy
from fp8load.rules.f8l703_scale_direction import CT, DIVIDES
from fp8load.rules.samples import LLAMA, STATIC
from rules.examples import checkpoint_of
from rules.repair_cases import CASES, Case
from rules.test_repairs import on_disk, tensors_of

EXPERTS = (
    STATIC
    + "m.layers.0.mlp.experts.{0..7}.up_proj.weight F8_E4M3 [16, 16]\n"
    + "m.layers.0.mlp.experts.{0..7}.up_proj.weight_scale F32 []\n"
    + "m.layers.0.mlp.experts.{0..5}.up_proj.input_scale F32 []\n"
)
"""Two of eight experts were never calibrated."""

INPUT = "m.layers.0.mlp.experts.{}.up_proj.input_scale"


@pytest.mark.parametrize("level", ["scales", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_a_report_reads_nothing_to_say_what_can_be_repaired(name, level, monkeypatch):
    """Rules have read before that; a repair that has to look into tensors does so when it is carried out."""
    reads = []

    def counted(findings, problems, context):
        meter = context.checkpoint.source.meter
        before = meter.num_requests
        found = with_fixes(findings, problems, context)
        reads.append(meter.num_requests - before)
        return found

    monkeypatch.setattr(fp8load.verify, "with_fixes", counted)
    case = CASES[name]
    with checkpoint_of(case.skeleton, case.values, case.files) as ckpt:
        ckpt.verify(level)

    assert reads == [0]


def fixed(case: Case, codes: tuple[str, ...], folder: Path):
    """What was planned, and the tensors of the copy."""
    with fp8load.open(on_disk(case, folder / "faulty")) as ckpt:
        fixes = ckpt.fix(codes)
        fixes.write(folder / "repaired")
    return fixes, tensors_of(folder / "repaired")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -7.0, 0.0])
def test_a_sibling_that_is_no_scale_is_left_out_and_said_so(bad, tmp_path):
    values = {INPUT.format(0): bad, INPUT.format(1): 0.25, **{INPUT.format(at): 0.125 for at in (2, 3, 4, 5)}}
    fixes, stored = fixed(Case(EXPERTS, values=values), ("F8L204",), tmp_path)

    assert [np.frombuffer(stored[INPUT.format(at)], "<f4")[0] for at in (6, 7)] == [0.25, 0.25]
    assert "0.25, the widest of 5 siblings; 1 more are not finite, or not above zero" in fixes.diff()


def test_no_sound_sibling_at_all_is_why_nothing_is_added(tmp_path):
    values = {INPUT.format(at): np.nan for at in range(6)}
    with fp8load.open(on_disk(Case(EXPERTS, values=values), tmp_path / "it")) as ckpt:
        fixes = ckpt.fix(("F8L204",))

    assert fixes.changes.is_empty
    ((code, why, count),) = fixes.failed
    assert (code, count) == ("F8L204", 2)
    assert "no sibling has a scale that is finite and above zero" in why


def test_siblings_are_measured_once_however_many_are_missing(monkeypatch):
    """Planning reads no sibling on its own: 4 missing among 400 cost as many reads as one."""
    requests = []
    for calibrated in (199, 196):
        skeleton = EXPERTS.replace("0..7", "0..199").replace("0..5", f"0..{calibrated - 1}")
        with checkpoint_of(skeleton) as ckpt:
            before = ckpt.source.meter.num_requests
            assert ckpt.fix(("F8L204",)).num_fixed == 200 - calibrated
            requests.append(ckpt.source.meter.num_requests - before)

    assert requests[0] == requests[1]


def test_of_input_scales_that_divide_the_smallest_is_the_widest(tmp_path):
    layers = "".join(DIVIDES.replace("layers.0", f"layers.{at}") for at in range(3))
    lost = "model.layers.2.mlp.up_proj.input_global_scale"
    kept = layers.replace("layers.2.mlp.{gate,up}_proj.input_global_scale", "layers.2.mlp.gate_proj.input_global_scale")
    assert kept != layers
    values = {f"model.layers.{at}.mlp.up_proj.input_global_scale": 100.0 + at for at in (0, 1)}
    _, stored = fixed(Case(CT + kept, values=values), ("F8L204",), tmp_path)

    assert np.frombuffer(stored[lost], "<f4")[0] == 100


def test_an_input_scale_of_comfyui_lands_in_the_file_of_its_weight(tmp_path):
    """The fault is told of the place of the configuration, which is no file."""
    case = Case(comfy(3) + "blocks.{0..1}.mlp.input_scale F32 []\n", values={"blocks.1.mlp.input_scale": 2.0})
    _, stored = fixed(case, ("F8L204",), tmp_path)

    assert np.frombuffer(stored["blocks.2.mlp.input_scale"], "<f4")[0] == 2


def test_a_scale_that_is_not_one_of_weights_is_offered_no_repair():
    """Over a KV cache, or an input, there are no blocks that could be zero."""
    with checkpoint_of(EXPERTS, {INPUT.format(0): np.nan}) as ckpt:
        (finding,) = [found for found in ckpt.verify().findings if found.code == "F8L701"]
        fixes = ckpt.fix(("F8L701",))

    assert finding.fix is None
    assert not fixes.failed


@pytest.mark.parametrize("codes", [(), ("F8L203",)])
def test_of_two_equal_scales_of_a_cache_one_stays(codes, tmp_path):
    """Each of the two is told of the other."""
    attention = "model.layers.0.self_attn"
    twice = f"{attention}.k_scale F32 []\n{attention}.k_proj.k_scale F32 []\n{attention}.v_scale F32 []\n"
    skeleton = LLAMA.replace('"quant_method"', '"kv_cache_scheme": "static", "quant_method"') + twice
    _, stored = fixed(Case(skeleton), codes, tmp_path)

    assert len([name for name in stored if name.endswith("k_scale")]) == 1
