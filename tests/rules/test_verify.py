"""The report: which rules run, what a crash does, how equal faults fold, and what explains what."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

import fp8load.verify
from fp8load.errors import NetworkError, Problem, Severity, SourceError, UsageError, VerifyError
from fp8load.rules.base import Rule
from fp8load.rules.registry import find_rule, rule_names, rules
from fp8load.rules.samples import BLOCK, LISTED, LLAMA, QUANTIZED
from fp8load.rules.scales import ScaleReader
from fp8load.source.skeleton import SkeletonSource
from fp8load.values.read import together
from fp8load.verify import verify_report
from rules.examples import checkpoint_of

NO_SCALES = "\n".join(line for line in LLAMA.splitlines() if "weight_scale_inv" not in line)
SPLIT = LLAMA.replace("F32      [4, 2]", "F32 [4, 2] @ model-2.safetensors").replace(
    "F32      [2, 4]", "F32 [2, 4] @ model-2.safetensors"
)


def only(report, code: str):
    (finding,) = [finding for finding in report.findings if finding.code == code]
    return finding


def with_rule(monkeypatch: pytest.MonkeyPatch, check) -> Rule:
    rule = replace(find_rule("F8L701"), code="F8L799", name="made-up", check=check)
    monkeypatch.setattr(fp8load.verify, "rules", lambda: (*rules(), rule))
    return rule


def test_a_sound_checkpoint_passes_every_rule():
    report = checkpoint_of(LLAMA).verify("weights")

    assert report.ok
    assert report.raise_for_errors() is report
    assert report.legal_tp == [1, 2]
    assert report.summary.not_run == ["F8L806"]  # nothing to compare with
    assert {*report.summary.passed} | {"F8L504", "F8L806"} == {code for code, _ in rule_names()}


def test_a_skeleton_is_verified_at_level_headers_and_rules_on_values_do_not_run():
    report = fp8load.open(SkeletonSource(LLAMA)).verify()

    assert report.level == "headers"
    assert report.read.nbytes == 0
    assert report.summary.not_run == [rule.code for rule in rules() if rule.level != "headers"]


def test_a_local_checkpoint_is_verified_at_level_scales():
    report = checkpoint_of(LLAMA).verify()

    assert report.level == "scales"
    assert report.summary.not_run == [rule.code for rule in rules() if rule.level == "weights"]


def test_scales_are_read_once_for_all_rules():
    ckpt = checkpoint_of(LLAMA)
    before = ckpt.source.meter.nbytes
    ckpt.verify("scales")

    assert ckpt.source.meter.nbytes - before == sum(meta.nbytes for meta in ScaleReader(ckpt).metas())


def test_scales_that_lie_side_by_side_in_a_file_are_one_read():
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(4)]
    scales = "".join(f"{name}_scale_inv  F32  [2, 2]\n" for name in names)
    ckpt = checkpoint_of(BLOCK + scales + "".join(f"{name}  F8_E4M3  [256, 256]\n" for name in names))
    before = ckpt.source.meter.num_requests
    stats = ScaleReader(ckpt).stats

    assert [entry.meta.name for entry in stats] == [f"{name}_scale_inv" for name in names]
    assert ckpt.source.meter.num_requests - before == 1


def test_a_file_that_ends_within_scales_read_together_is_an_error_with_the_first_that_is_cut():
    ckpt = checkpoint_of(BLOCK + "model.layers.{0..3}.mlp.down_proj.weight_scale_inv  F32  [2, 2]\n")
    cut = [meta._replace(begin=meta.begin + 40, end=meta.end + 40) for meta in ckpt.index.tensors.values()]

    with pytest.raises(NetworkError, match=r"layers\.1.*weight_scale_inv"):
        together(ckpt, cut)


def test_scales_that_cannot_be_read_are_an_error_of_the_source_and_no_finding():
    with pytest.raises(SourceError):
        fp8load.open(SkeletonSource(LLAMA)).verify("scales")


def test_a_rule_that_crashes_is_listed_and_logged_and_the_report_is_not_ok(monkeypatch, caplog):
    def check(context):
        raise ZeroDivisionError("made up")
        yield

    with_rule(monkeypatch, check)
    with caplog.at_level(logging.ERROR, logger="fp8load.verify"):
        report = checkpoint_of(LLAMA).verify()

    assert report.summary.crashed == ["F8L799"]
    assert not report.ok
    assert "made up" in caplog.text
    with pytest.raises(VerifyError, match="F8L799"):
        report.raise_for_errors()


def test_what_lowering_found_is_reported_although_the_rule_for_it_crashed(monkeypatch):
    def check(context):
        raise ZeroDivisionError
        yield

    broken = tuple(replace(rule, check=check) if rule.code == "F8L201" else rule for rule in rules())
    monkeypatch.setattr(fp8load.verify, "rules", lambda: broken)
    report = checkpoint_of(NO_SCALES).verify()

    assert only(report, "F8L201").count == 7
    assert report.summary.crashed == ["F8L201"]


def test_equal_faults_are_one_finding_with_a_pattern_and_literal_names():
    finding = only(checkpoint_of(NO_SCALES).verify(), "F8L201")

    assert finding.count == 7
    assert finding.severity is Severity.ERROR
    assert "model.layers.0.mlp.down_proj.weight_scale_inv" in finding.tensors
    assert "model.layers.0.mlp.down_proj" in finding.modules
    assert finding.pattern.startswith("model.layers.0.mlp.{down,gate,up}_proj.weight_scale_inv, ")
    assert finding.expected.endswith("... and 6 others")
    assert finding.got == "no such tensor"


def test_a_finding_lists_a_hundred_names_and_counts_all():
    skeleton = LISTED + QUANTIZED + "model.layers.{1..150}.mlp.up_proj.weight  BF16  [256, 256]\n"
    finding = only(checkpoint_of(skeleton).verify(), "F8L302")

    assert finding.count == 150
    assert len(finding.tensors) == len(finding.modules) == 100
    assert finding.tensors[1] == "model.layers.2.mlp.up_proj.weight"
    assert finding.pattern == "model.layers.{1..150}.mlp.up_proj.weight"


def test_findings_are_ordered_by_code_and_then_naturally():
    report = checkpoint_of(NO_SCALES.replace("model.norm.weight", "odd")).verify()
    keys = [finding.code for finding in report.findings]

    assert keys == sorted(keys)


def test_a_missing_shard_explains_what_it_took():
    report = checkpoint_of(SPLIT, files={"model-2.safetensors": None}).verify()

    assert only(report, "F8L003").explained_by is None
    assert only(report, "F8L201").explained_by == "F8L003"
    assert only(report, "F8L201").count == 3


def test_a_fault_that_the_missing_shard_does_not_explain_is_not_explained():
    report = checkpoint_of(SPLIT.replace("model.norm.weight", "odd"), files={"model-2.safetensors": None}).verify()

    assert all(finding.explained_by is None for finding in report.findings if finding.code == "F8L109")


def test_a_weight_that_is_gone_explains_its_orphaned_scale():
    lost = LLAMA.replace("model.layers.0.mlp.down_proj.weight   ", "# model.layers.0.mlp.down_proj.weight   ")
    report = checkpoint_of(lost).verify()

    assert only(report, "F8L202").explained_by == "F8L109"
    assert "model.layers.0.mlp.down_proj.weight" in only(report, "F8L109").tensors


def test_without_a_configuration_scales_are_no_faults_of_their_own():
    report = checkpoint_of("\n".join(line for line in LLAMA.splitlines() if "quantization_config" not in line)).verify()

    assert only(report, "F8L101").explained_by is None
    assert {finding.explained_by for finding in report.findings if finding.code == "F8L109"} == {"F8L101"}


def test_a_problem_of_no_rule_file_is_reported_under_its_own_name(monkeypatch):
    ckpt = checkpoint_of(LLAMA)
    ckpt.index = replace(ckpt.index, problems=(Problem(code="F8L010", message="a link points nowhere", file="x"),))
    finding = only(ckpt.verify(), "F8L010")

    assert finding.name == "cache-broken"
    assert finding.file == finding.pattern == "x"


def test_sizes_that_were_asked_for_are_errors_with_the_sizes_that_work():
    report = checkpoint_of(LLAMA).verify(tp=(1, 2, 4))
    findings = [finding for finding in report.findings if finding.code == "F8L504"]

    assert report.tp == [1, 2, 4]
    assert {finding.severity for finding in findings} == {Severity.ERROR}
    assert all("1, 2" in finding.hint for finding in findings)


def test_sizes_that_nobody_asked_for_are_a_note():
    report = checkpoint_of(LLAMA).verify()

    assert only(report, "F8L504").severity is Severity.INFO
    assert report.ok


@pytest.mark.parametrize("tp", [(0,), (-1, 2)])
def test_a_size_that_is_no_number_of_ranks_is_a_usage_error(tp):
    with pytest.raises(UsageError, match="USE004"):
        checkpoint_of(LLAMA).verify(tp=tp)


def test_an_unknown_level_is_a_usage_error():
    with pytest.raises(UsageError, match="everything"):
        verify_report(checkpoint_of(LLAMA), level="everything", tp=None)


def test_rules_are_found_by_code_and_by_name():
    assert find_rule("f8l201") is find_rule("fp8-weight-without-scale")


def test_an_unknown_rule_is_a_usage_error_that_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean F8L201"):
        find_rule("F8L2O1")


def test_scales_larger_than_a_read_are_measured_in_pieces(monkeypatch):
    monkeypatch.setattr("fp8load.rules.scales.CHUNK", 8)
    scale = "model.layers.0.mlp.down_proj.weight_scale_inv"
    report = checkpoint_of(BLOCK + QUANTIZED, {scale: float("nan")}).verify()

    assert only(report, "F8L701").got == "4 NaN, the first at [0, 0]"


def test_one_size_instead_of_a_sequence_is_a_usage_error():
    with pytest.raises(UsageError) as caught:
        fp8load.open(SkeletonSource(LLAMA)).verify(tp=2)

    assert caught.value.expected == "tp=(2,)"
