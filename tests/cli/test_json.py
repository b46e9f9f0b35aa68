"""stdout under --json: always one envelope, always of the checked-in schema."""

from __future__ import annotations

import json
import os
import stat
from itertools import product
from pathlib import Path

import pytest

from fp8load_cli.commands.schema import NAMES, schema_of

from .conftest import BROKEN, CLEAN, ROOT

SCHEMAS = Path(ROOT / "docs" / "schema")
QUESTIONS = {
    "inspect": ("inspect", CLEAN),
    "verify": ("verify", BROKEN),
    "plan": ("plan", CLEAN),
    "contract": ("inspect", CLEAN, "--contract"),
    "plans": ("plan", CLEAN, "--tp", "2", "--rank", "all"),
    "rule": ("rule", "--all"),
    "error": ("inspect", "./no-such-folder"),
}


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("flags", list(product([(), ("-v",), ("-vv",)], [(), ("-q",), ("-qq",)])))
def test_stdout_is_one_envelope_whatever_else_is_asked(run, name, flags):
    words = [flag for group in flags for flag in group]
    report = json.loads(run(*QUESTIONS[name], "--json", *words).out)

    assert report["schema"] == f"fp8load.{name}/1"
    assert report["tool"]["name"] == "fp8load"


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_has_the_keys_of_its_schema(run, name):
    report = json.loads(run(*QUESTIONS[name], "--json").out)
    schema = schema_of(name)

    assert report.keys() == schema["properties"].keys()
    assert set(schema["required"]) <= report.keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_checked_in_schema_is_current(run, name):
    """After a change: fp8load schema NAME > docs/schema/NAME.json, and look at the difference."""
    assert json.loads(run("schema", name).out) == json.loads((SCHEMAS / f"{name}.json").read_text())


def test_every_schema_file_has_a_report():
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(NAMES)


def test_options_may_stand_before_the_command(run):
    assert run("--json", "inspect", CLEAN).out == run("inspect", "--json", CLEAN).out
    assert run("-f", "json", "inspect", CLEAN).out == run("inspect", CLEAN, "-f", "json").out


def test_a_usage_error_is_an_envelope_too(run):
    result = run("inspect", CLEAN, "--no-such-option", "--json")
    report = json.loads(result.out)

    assert (result.code, report["schema"], report["exit_code"]) == (2, "fp8load.error/1", 2)


def test_the_format_may_come_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("FP8LOAD_FORMAT", "json")

    assert json.loads(run("inspect", CLEAN).out)["schema"] == "fp8load.inspect/1"
    assert run("inspect", CLEAN, "-f", "text").out.startswith(CLEAN)


def test_the_library_and_the_command_give_the_same_report(run):
    import fp8load

    assert fp8load.open(CLEAN).verify().to_json() + "\n" == run("verify", CLEAN, "--json").out


def test_output_goes_to_a_file_whole(run, tmp_path):
    path = tmp_path / "report.json"
    result = run("verify", BROKEN, "--json", "-o", path)

    assert (result.code, result.out) == (1, "")
    assert json.loads(path.read_text())["schema"] == "fp8load.verify/1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_behind(run, tmp_path):
    (tmp_path / "report.txt").mkdir()

    assert run("verify", CLEAN, "-o", tmp_path / "report.txt").code == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.txt"]


def test_a_report_may_be_read_by_whom_the_umask_says(run, tmp_path):
    umask = os.umask(0o027)
    try:
        run("verify", CLEAN, "-o", tmp_path / "report.txt")
    finally:
        os.umask(umask)

    assert stat.S_IMODE((tmp_path / "report.txt").stat().st_mode) == 0o640


def test_the_verdict_of_a_report_in_a_file_is_on_stderr(run, tmp_path):
    loud = run("verify", BROKEN, "-o", tmp_path / "report.txt")
    quiet = run("verify", BROKEN, "-q", "-o", tmp_path / "report.txt")

    assert loud.err.startswith("fail: ")
    assert loud.err.count("\n") == 1
    assert (loud.out, quiet.out, quiet.err) == ("", "", "")


@pytest.mark.parametrize("name", ["gitlab", "sarif"])
def test_other_json_formats_parse(run, name):
    assert json.loads(run("verify", BROKEN, "-f", name).out)


def test_jsonl_has_one_finding_a_line(run):
    lines = run("verify", BROKEN, "-f", "jsonl").out.splitlines()

    assert [json.loads(line)["code"] for line in lines]


def test_junit_is_xml_in_which_findings_fail(run):
    from xml.etree import ElementTree

    suite = ElementTree.fromstring(run("verify", BROKEN, "-f", "junit").out)[0]

    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) > 0
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))


def test_sarif_names_tensor_file_and_rule(run):
    log = json.loads(run("verify", BROKEN, "-f", "sarif").out)
    result = next(result for result in log["runs"][0]["results"] if result["ruleId"] == "F8L201")
    rules = log["runs"][0]["tool"]["driver"]["rules"]

    assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "model.safetensors"
    assert result["locations"][0]["logicalLocations"]
