"""Selection, suppression, baselines, and how much of a report is shown."""

from __future__ import annotations

import json

import pytest

from .conftest import BROKEN, CLEAN


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


def test_the_nearest_configuration_file_counts(codes, tmp_path, monkeypatch):
    from .conftest import ROOT

    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "fp8load.toml").write_text('ignore = ["F8L501"]\n')
    monkeypatch.chdir(inner)

    assert "F8L501" not in codes(str(ROOT / BROKEN))[0]


@pytest.mark.parametrize("text", ["ignore = 3", "ignroe = []", "[per-module-ignore]\n'{' = ['F8L2']", "= broken"])
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
    very = run("verify", BROKEN, "-qq")
    assert (very.code, very.out, very.err) == (1, "", "")


def test_rules_that_were_not_run_are_named(run):
    out = run("verify", CLEAN).out

    assert "not run: F8L701" in out


def test_modules_are_chosen_by_dotted_globs(run):
    def modules(pattern: str) -> list[str]:
        return [
            module["name"] for module in json.loads(run("inspect", CLEAN, "--module", pattern, "--json").out)["modules"]
        ]

    assert modules("lm_head") == ["lm_head"]
    assert modules("model.layers.*.mlp.down_proj") == [f"model.layers.{i}.mlp.down_proj" for i in range(4)]
    assert modules("model.layers.0.self_attn.q_proj") == ["model.layers.0.self_attn.qkv_proj"]
    assert modules("model.layers.0") == []
    assert len(modules("**")) > 16


def test_rows_are_sorted_as_wished(run):
    rows = run("inspect", CLEAN, "--sort", "bytes").out.split("Quantized modules")[1].splitlines()[2:5]

    assert all("mlp" in row for row in rows)
