"""Selection, suppression, baselines, and how much of a report is shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import BROKEN, CLEAN, ROOT


@pytest.fixture
def codes(run):
    """`codes(words...)` -> codes of the findings, with stderr."""

    def ask(*words: str) -> tuple[set[str], str]:
        result = run("verify", *words, "--json")
        return {finding["code"] for finding in json.loads(result.out)["findings"]}, result.err

    return ask


def test_codes_are_selected_by_prefix(codes):
    everything, _ = codes(BROKEN)

    assert {"F8L201", "F8L501"} <= everything
    assert codes(BROKEN, "--select", "F8L2")[0] == {"F8L201"}
    assert codes(BROKEN, "--select", "f8l2,F8L501")[0] == {"F8L201", "F8L501"}
    assert codes(BROKEN, "--select", "fp8-weight-without-scale")[0] == {"F8L201"}
    assert codes(BROKEN, "--ignore", "F8L2")[0] == everything - {"F8L201"}
    assert codes(BROKEN, "--select", "F8L2", "--extend-select", "F8L501")[0] == {"F8L201", "F8L501"}


def test_a_letter_that_every_code_begins_with_selects_nothing_in_particular(run):
    assert run("verify", BROKEN, "--select", "F").code == 2


def test_a_rule_that_crashes_and_is_not_wanted_does_not_count(run, monkeypatch):
    from fp8load import verify

    def crash(context):
        raise RuntimeError("boom")

    first, *rest = verify.rules()
    monkeypatch.setattr(verify, "rules", lambda: (replace(first, check=crash), *rest))

    assert run("verify", CLEAN, "--ignore", first.code).code == 0
    assert run("verify", CLEAN, "--select", first.code).code == 3


def test_counts_follow_the_selection(run):
    summary = json.loads(run("verify", BROKEN, "--select", "F8L2", "--json").out)["summary"]

    assert summary["error"] == 1
    assert all(code.startswith("F8L2") for code in summary["passed"] + summary["not_run"])


def test_a_configuration_file_suppresses_and_unused_entries_are_reported(codes, tmp_path):
    config = tmp_path / "fp8load.toml"
    config.write_text(
        'ignore = ["F8L501", "F8L799"]\n[per-source-ignore]\n"*broken.skel" = ["F8L201"]\n"other/*" = ["F8L1"]\n'
    )
    left, err = codes(BROKEN, "--config", config)

    assert not left & {"F8L501", "F8L201"}
    assert "F8L113" in left
    assert err == "warning: fp8load.toml: ignore F8L799 suppresses nothing\n"


def test_a_module_is_suppressed_by_glob_and_the_others_stay(run, tmp_path):
    config = tmp_path / "pyproject.toml"
    config.write_text('[tool.fp8load.per-module-ignore]\n"model.layers.3.**" = ["F8L2", "F8L5"]\n')
    report = json.loads(run("verify", BROKEN, "--config", config, "--json").out)

    (finding,) = [finding for finding in report["findings"] if finding["severity"] == "error"]
    assert (finding["code"], finding["count"]) == ("F8L201", 1)
    assert finding["modules"] == ["model.layers.2.mlp.down_proj"]
    assert finding["pattern"].startswith("model.layers.2.mlp.down_proj")
    assert report["summary"]["error"] == 1


def test_a_suppressed_module_takes_all_of_its_tensors_from_the_count(run, tmp_path):
    config = tmp_path / "fp8load.toml"
    config.write_text('[per-module-ignore]\n"model.layers.0.**" = ["F8L601"]\n')
    words = ("verify", "fixtures/checkpoints/ct-llama128-fp8-static", "--select", "F8L601", "--json")

    (before,) = json.loads(run(*words).out)["findings"]
    (after,) = json.loads(run(*words, "--config", config).out)["findings"]

    assert (before["count"], after["count"]) == (28, 14)
    assert len(before["modules"]) == 14


def test_faults_beyond_those_that_a_finding_lists_are_never_hidden(run, skeleton, tmp_path):
    source = skeleton(
        'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}\n'
        "model.layers.{0..149}.mlp.down_proj.weight F8_E4M3 [16, 16]\n"
    )
    config = tmp_path / "fp8load.toml"
    config.write_text('[per-module-ignore]\n"**" = ["F8L201"]\n')

    result = run("verify", source, "--config", config, "--select", "F8L201", "--json")

    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["count"], finding["tensors"]) == (1, 50, [])


def test_codes_of_a_configuration_file_may_be_small_letters(codes, tmp_path):
    config = tmp_path / "fp8load.toml"
    config.write_text('ignore = ["f8l501"]\n')

    assert "F8L501" not in codes(BROKEN, "--config", config)[0]


def test_the_nearest_configuration_file_counts(codes, tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "fp8load.toml").write_text('ignore = ["F8L501"]\n')
    monkeypatch.chdir(inner)

    assert "F8L501" not in codes(str(ROOT / BROKEN))[0]


@pytest.mark.parametrize(
    "text", ["ignore = 3", "ignore = ['']", "ignroe = []", "[per-module-ignore]\n'{' = ['F8L2']", "= broken"]
)
def test_an_unusable_configuration_file_is_a_usage_error(run, tmp_path, text):
    config = tmp_path / "fp8load.toml"
    config.write_text(text)

    assert run("verify", CLEAN, "--config", config).code == 2


def test_a_baseline_hides_what_it_knows_and_nothing_else(run, tmp_path):
    baseline = tmp_path / "known.json"
    written = run("verify", BROKEN, "--select", "F8L2", "--write-baseline", baseline)

    assert written.code == 0
    assert "wrote 1 findings" in written.err
    again = json.loads(run("verify", BROKEN, "--baseline", baseline, "--json").out)
    assert "F8L201" not in {finding["code"] for finding in again["findings"]}
    assert run("verify", BROKEN, "--select", "F8L2", "--baseline", baseline).code == 0
    assert "suppresses nothing" in run("verify", CLEAN, "--baseline", baseline).err


def promised_in_vain(folder: Path, shard: str) -> Path:
    """A checkpoint whose index promises two tensors in `shard` that no file holds."""
    original = ROOT / "fixtures/checkpoints/ct-llama128-fp8-static"
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("reference"))
    path = folder / "model.safetensors.index.json"
    document = json.loads(path.read_text())
    document["weight_map"] |= {"model.lost.0.weight": shard, "model.lost.1.weight": shard}
    path.write_text(json.dumps(document))
    return folder


def test_a_baseline_knows_a_finding_by_its_file_too(run, tmp_path):
    baseline = tmp_path / "known.json"
    first = promised_in_vain(tmp_path / "first", "model-00001-of-00004.safetensors")
    second = promised_in_vain(tmp_path / "second", "model-00002-of-00004.safetensors")
    run("verify", first, "--write-baseline", baseline)

    assert run("verify", first, "--baseline", baseline).code == 0
    assert run("verify", second, "--baseline", baseline).code == 1


def test_unfolded_faults_of_a_file_all_keep_it(run, tmp_path):
    folder = promised_in_vain(tmp_path / "first", "model-00001-of-00004.safetensors")

    findings = json.loads(run("verify", folder, "--select", "F8L004", "--no-group", "--json").out)["findings"]

    assert [finding["tensors"] for finding in findings] == [["model.lost.0.weight"], ["model.lost.1.weight"]]
    assert {finding["file"] for finding in findings} == {"model-00001-of-00004.safetensors"}


def test_no_group_names_each_tensor(run):
    report = json.loads(run("verify", BROKEN, "--select", "F8L2", "--no-group", "--json").out)

    assert [finding["count"] for finding in report["findings"]] == [1, 1]
    assert report["summary"]["error"] == 2


def test_max_findings_hides_but_counts(run):
    result = run("verify", BROKEN, "--max-findings", "1", "--json")
    report = json.loads(result.out)

    assert (len(report["findings"]), result.code) == (1, 1)
    assert report["summary"]["error"] > 1
    assert "more; --max-findings" in run("verify", BROKEN, "--max-findings", "1").out


def test_quiet_gives_findings_and_very_quiet_nothing(run):
    quiet = run("verify", BROKEN, "-q", "--select", "F8L2").out

    assert quiet.startswith("error[F8L201]")
    assert "passed" not in quiet
    assert run("verify", CLEAN, "-q", "--select", "F8L2").out == ""
    for words in (("verify", BROKEN, "-qq"), ("-q", "verify", BROKEN, "-q")):
        very = run(*words)
        assert (very.code, very.out, very.err) == (1, "", "")


def test_an_error_is_shown_to_the_quiet_and_not_to_the_very_quiet(run):
    assert run("verify", "./no-such-folder", "-q").err.startswith("error[SRC001]")
    assert run("verify", "./no-such-folder", "-qq").err == ""


def test_global_options_may_stand_before_the_command_and_those_after_it_overrule_them(run):
    assert json.loads(run("--json", "inspect", CLEAN).out)["schema"] == "fp8load.inspect/1"
    assert json.loads(run("-f", "json", "inspect", CLEAN).out)["schema"] == "fp8load.inspect/1"
    assert run("-f", "json", "inspect", CLEAN, "-f", "text").out.startswith(CLEAN)


def test_rules_that_were_not_run_are_named(run):
    out = run("verify", CLEAN).out

    assert "not run: F8L402" in out
    assert "F8L701" in out.partition("not run: F8L402")[2]


def test_modules_are_chosen_by_dotted_globs(run):
    def modules(pattern: str) -> list[str]:
        return [
            module["name"] for module in json.loads(run("inspect", CLEAN, "--module", pattern, "--json").out)["modules"]
        ]

    assert modules("lm_head") == ["lm_head"]
    assert modules("model.layers.*.mlp.down_proj") == [f"model.layers.{i}.mlp.down_proj" for i in range(4)]
    assert modules("model.layers.0.self_attn.q_proj") == ["model.layers.0.self_attn.qkv_proj"]
    assert modules("model.layers.0.self_attn.qkv_proj") == ["model.layers.0.self_attn.qkv_proj"]
    assert modules("model.layers.0") == []
    assert len(modules("**")) > 16


def test_rows_are_sorted_as_wished(run):
    rows = run("inspect", CLEAN, "--sort", "bytes").out.split("Quantized modules")[1].splitlines()[2:5]

    assert all("mlp" in row for row in rows)
