"""Families, not tensors: what part of its siblings a finding is, and which finding follows from which."""

from __future__ import annotations

import pytest

from fp8load.rules.families import Families, family
from fp8load.rules.samples import BLOCK, LISTED, QUANTIZED
from rules.examples import checkpoint_of

EXPERTS = """\
model.layers.{0..47}.mlp.experts.{0..3}.down_proj.weight            F8_E4M3  [256, 256]
model.layers.{0..4}.mlp.experts.{0..3}.down_proj.weight_scale_inv   F32      [2, 2]
model.layers.{5..47}.mlp.experts.{0..2}.down_proj.weight_scale_inv  F32      [2, 2]
"""
WIDE = "m.down_proj.weight F8_E4M3 [256, 1024]\nm.down_proj.weight_scale_inv {}\n"
QV = """\
model.layers.0.self_attn.{q,k}_proj.weight            F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k}_proj.weight_scale_inv  F32      [2, 2]
model.layers.0.self_attn.v_proj.weight                BF16     [256, 256]
"""


def only(skeleton: str, code: str, files=None):
    (finding,) = [
        finding for finding in checkpoint_of(skeleton, files=files).verify("headers").findings if finding.code == code
    ]
    return finding


@pytest.mark.parametrize(("name", "expected"), [
    ("model.layers.3.mlp.experts.17.w1.weight", "model.layers.*.mlp.experts.*.w1.weight"),
    ("lm_head.weight", "lm_head.weight"), ("0.weight", "*.weight"), ("blocks.12", "blocks.*"), ("h2o.w3", "h2o.w3"),
])  # fmt: skip
def test_a_family_is_a_name_without_its_numbers(name, expected):
    assert family(name) == expected


def test_forty_three_missing_scales_are_one_finding_that_names_the_odd_ones_out():
    finding = only(BLOCK + EXPERTS, "F8L201")

    assert finding.count == 43
    assert finding.pattern == "model.layers.{5..47}.mlp.experts.3.down_proj.weight_scale_inv"
    assert finding.siblings == "43 of 192 model.layers.*.mlp.experts.*.down_proj.weight_scale_inv"


def test_a_whole_family_has_no_odd_ones():
    lines = "model.layers.{0..3}.mlp.down_proj.weight  F8_E4M3  [256, 256]\n"

    assert only(BLOCK + lines, "F8L201").siblings == ""


def test_two_families_are_named_and_others_counted():
    families = Families([f"{kind}.{number}" for kind in "abc" for number in range(3)])

    assert families.share(["a.0"]) == "1 of 3 a.*"
    assert families.share(["a.0", "b.1", "b.7"]) == "1 of 3 a.*, 2 of 4 b.*"
    assert families.share(["a.0", "b.0", "c.0"]) == "1 of 3 a.*, 1 of 3 b.* and 1 more"
    assert families.share(["elsewhere.0"]) == ""


@pytest.mark.parametrize("scale", ["I32 [256, 2]", "F32 [8, 2]"])
def test_a_kernels_layout_explains_the_dtype_and_the_shape_of_the_scale(scale):
    report = checkpoint_of(BLOCK + WIDE.format(scale)).verify("headers")
    errors = {finding.code: finding.explained_by for finding in report.findings if finding.severity == "error"}

    assert errors.pop("F8L605") is None
    assert errors.pop("F8L501") == "F8L605"
    assert set(errors.values()) <= {"F8L605"}


def test_a_kernels_layout_explains_nothing_of_another_scale():
    other = "m.up_proj.weight F8_E4M3 [256, 1024]\nm.up_proj.weight_scale_inv F32 [3, 8]\n"

    assert only(BLOCK + WIDE.format("F32 [8, 2]") + other, "F8L501").explained_by is None


def test_a_member_in_16_bits_that_is_claimed_explains_the_mixed_group():
    assert only(LISTED + QV, "F8L306").explained_by == "F8L302"
    assert only(BLOCK + QV, "F8L306").explained_by is None


def test_a_missing_marker_explains_what_is_said_of_the_layers():
    skeleton = "a.weight F8_E4M3 [256, 256]\na.weight_scale F32 []\n"

    assert only(skeleton, "F8L101").explained_by == "F8C001"
    assert only(QUANTIZED, "F8L101").explained_by is None


def test_notes_on_many_files_are_one_finding():
    shards = "".join(f"m.{at}.weight F4 [2, 2] @ model-{at}.safetensors\n" for at in range(5))

    assert only(shards, "F8L008").count == 5
