"""Reports for other programs, against what those programs specify.

SARIF 2.1.0 (OASIS) and what GitHub's code scanning wants of it; GitLab's code quality report; JUnit as Jenkins and
GitLab read it. The shapes here are written down from the specifications, not generated.
"""

from __future__ import annotations

import json
import shutil
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from .conftest import BROKEN, CLEAN

FAULTY = "fixtures/checkpoints/ctmf-gptoss-mxfp4a16"
ORPHANS = "fixtures/checkpoints/hf-llamaodd-fp8-block-16x8"
SOURCES = (CLEAN, BROKEN, FAULTY, ORPHANS)
SEVERITIES = {"info", "minor", "major", "critical", "blocker"}
KINDS = {"function", "member", "module", "namespace", "resource", "type", "parameter", "variable", "object", "array",
         "property", "value"}  # fmt: skip


def sarif(run, source) -> dict:
    (log,) = json.loads(run("verify", source, "-f", "sarif").out)["runs"]
    return log


@pytest.mark.parametrize("source", SOURCES)
def test_sarif_has_what_viewers_need_of_each_result(run, source):
    log = sarif(run, source)
    rules = log["tool"]["driver"]["rules"]

    assert len({rule["id"] for rule in rules}) == len(rules)
    for result in log["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        assert result["occurrenceCount"] >= 1
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["region"]["startLine"] == 1
        assert urlsplit(place["artifactLocation"]["uri"]).scheme == ""
        assert " " not in place["artifactLocation"]["uri"]
        assert {named["kind"] for named in location.get("logicalLocations", ())} <= KINDS
        assert len(result["partialFingerprints"]["finding/v1"]) == 64
    prints = [result["partialFingerprints"]["finding/v1"] for result in log["results"]]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("source", [BROKEN, FAULTY])
def test_sarif_explains_its_rules(run, source):
    for rule in sarif(run, source)["tool"]["driver"]["rules"]:
        assert rule["shortDescription"]["text"] == rule["name"]
        assert rule["fullDescription"]["text"].endswith(".")
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")


def test_a_path_is_percent_encoded_and_leads_to_the_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "my model #1"
    shutil.copytree(f"{__file__.rpartition('/tests/')[0]}/{ORPHANS}", odd)
    uris = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in sarif(run, odd)["results"]
    }

    assert {uri[:15] for uri in uris} == {"my%20model%20%2"}
    assert all((tmp_path / unquote(uri)).is_file() for uri in uris)


def test_a_place_within_a_file_is_shown_at_the_file(run):
    for form in ("sarif", "gitlab", "github"):
        out = run("verify", BROKEN, "--select", "F8L113", "-f", form).out
        assert "config.json" in out
    (issue,) = json.loads(run("verify", BROKEN, "--select", "F8L113", "-f", "gitlab").out)
    assert issue["location"]["path"] == "config.json"


def test_paths_are_those_of_the_repository_where_the_checkpoint_lies_in_it(run):
    issues = json.loads(run("verify", ORPHANS, "-f", "gitlab").out)

    assert {issue["location"]["path"].rpartition("/")[0] for issue in issues} == {ORPHANS}


@pytest.mark.parametrize("source", SOURCES)
def test_gitlab_gets_its_required_keys(run, source):
    issues = json.loads(run("verify", source, "-f", "gitlab").out)

    for issue in issues:
        assert issue.keys() == {"check_name", "description", "severity", "fingerprint", "location"}
        assert issue["severity"] in SEVERITIES
        assert issue["location"]["lines"]["begin"] == 1
        assert not issue["location"]["path"].startswith(("/", "./"))
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)


@pytest.mark.parametrize("source", SOURCES)
def test_junit_adds_up_and_names_every_rule(run, source):
    root = ElementTree.fromstring(run("verify", source, "-f", "junit").out)
    (suite,) = root
    cases = list(suite)

    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert int(suite.get("tests")) == len(cases) == len({case.get("name") for case in cases})
    for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert int(suite.get(count)) == len(suite.findall(f"testcase/{kind}"))
    for case in cases:
        assert case.get("classname")
        code, _, name = case.get("name").partition(" ")
        assert code
        assert name
        assert {child.tag for child in case} <= {"skipped", "error", "failure", "system-out"}


@pytest.mark.parametrize("source", SOURCES)
def test_github_annotations_are_workflow_commands(run, source):
    for line in run("verify", source, "-f", "github").out.splitlines():
        head, _, text = line.removeprefix("::").partition("::")
        kind, _, properties = head.partition(" ")
        assert kind in ("error", "warning", "notice")
        assert {part.partition("=")[0] for part in properties.split(",")} <= {"title", "file"}
        assert text


@pytest.mark.parametrize("source", SOURCES)
def test_jsonl_is_the_findings_of_json_one_a_line(run, source):
    lines = [json.loads(line) for line in run("verify", source, "-f", "jsonl").out.splitlines()]

    assert lines == json.loads(run("verify", source, "--json").out)["findings"]


@pytest.mark.parametrize("source", SOURCES)
def test_markdown_tables_have_as_many_cells_in_every_row(run, source):
    rows = [line for line in run("verify", source, "-f", "md").out.splitlines() if line.startswith("|")]

    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
