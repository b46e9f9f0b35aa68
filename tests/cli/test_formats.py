"""The formats that other programs read: what they are told of severities, places, crashes, and odd names."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fp8load_cli.render.document import Column, Table
from fp8load_cli.render.text import Style, cut, draw
from fp8load_cli.render.units import many, plural, share

from .conftest import BROKEN

UNUSED_ENTRY = (
    'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", '
    '"weight_block_size": [128, 128], "modules_to_not_convert": ["no.such.module"]}}\n'
    "m.down_proj.weight F8_E4M3 [128, 128]\nm.down_proj.weight_scale_inv F32 [1, 1]\n"
)
NO_SCALE = (
    'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", '
    '"weight_block_size": [128, 128]}}\n'
    "m.{0..1}.weight F8_E4M3 [128, 128] @ a,b%d.safetensors\n"
)
LOST_NORM = (
    'config {"model_type": "llama", "num_hidden_layers": 0, "hidden_size": 8, "vocab_size": 4}\n'
    "{model.embed_tokens,lm_head}.weight BF16 [4, 8]\n"
)


@pytest.fixture
def crashing(monkeypatch):
    """The first rule crashes; its code."""
    from fp8load import verify

    def crash(context):
        raise RuntimeError("boom")

    first, *rest = verify.rules()
    monkeypatch.setattr(verify, "rules", lambda: (replace(first, check=crash), *rest))
    return first.code


@pytest.mark.parametrize("form", ["json", "jsonl", "gitlab", "sarif", "junit", "github", "concise", "text", "md"])
def test_no_name_can_steer_a_terminal(run, skeleton, form):
    evil = NO_SCALE.replace("m.{0..1}", r"m\u007f\u001b[31m\u009b.x")
    out = run("verify", skeleton(evil), "-f", form).out

    assert "31m" in out
    assert not [char for char in out if not char.isprintable() and char != "\n"]


def test_a_warning_fails_in_junit_and_a_note_does_not(run, skeleton):
    suite = ElementTree.fromstring(run("verify", skeleton(UNUSED_ENTRY), "-f", "junit").out)[0]
    failed = {case.get("name") for case in suite if case.find("failure") is not None}

    assert suite.get("failures") == "1"
    assert failed == {"F8L301 ignore-entry-matches-nothing"}


def test_a_crash_is_an_error_in_junit_and_no_success_in_sarif(run, crashing):
    suite = ElementTree.fromstring(run("verify", BROKEN, "-f", "junit").out)[0]
    (log,) = json.loads(run("verify", BROKEN, "-f", "sarif").out)["runs"]

    assert (suite.get("errors"), len(suite.findall("testcase/error"))) == ("1", 1)
    assert log["invocations"][0]["executionSuccessful"] is False
    assert crashing in log["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_sarif_calls_a_run_without_a_crash_a_success(run):
    (log,) = json.loads(run("verify", BROKEN, "-f", "sarif").out)["runs"]

    assert log["invocations"] == [{"executionSuccessful": True, "toolExecutionNotifications": []}]


def test_a_finding_without_a_file_has_a_place_in_gitlab(run, skeleton):
    issues = json.loads(run("verify", skeleton(LOST_NORM), "-f", "gitlab").out)

    assert [issue["location"]["path"] for issue in issues if "model.norm.weight" in issue["description"]] == [
        "config.json"
    ]


def test_findings_that_differ_in_their_file_alone_have_fingerprints_of_their_own(run, tmp_path):
    header = b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    for number in (1, 2, 3):
        (tmp_path / f"model-{number}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    issues = json.loads(run("verify", tmp_path, "--select", "F8L005", "-f", "gitlab").out)

    assert [issue["location"]["path"] for issue in issues] == ["model-2.safetensors", "model-3.safetensors"]
    assert len({issue["description"] for issue in issues}) == 1
    assert len({issue["fingerprint"] for issue in issues}) == 2


def test_a_finding_in_two_files_says_that_there_is_one_other(run, skeleton):
    two = NO_SCALE + NO_SCALE.splitlines()[1].replace("{0..1}", "2").replace("a,b%d", "other")

    assert "a,b%d.safetensors and 1 other: m.{0..2}.weight_scale_inv" in run("verify", skeleton(two)).out


@pytest.mark.parametrize("width", range(43, 80))
def test_a_table_is_never_wider_than_the_terminal(width):
    columns = (Column("name", cut=True), Column("other", cut=True), Column("count", right=True))
    table = Table(columns, (("a" * 40, "b" * 33, "1"), ("c" * 20, "", "12")))

    lines = draw([table], Style(width=width)).splitlines()

    assert max(map(len, lines)) == width


def test_no_name_of_a_file_can_end_a_property_of_a_github_annotation(run, skeleton):
    lines = run("verify", skeleton(NO_SCALE), "--select", "F8L201", "-f", "github").out.splitlines()

    assert [line.partition("::error ")[2].partition("::")[0] for line in lines] == [
        "title=fp8load (F8L201),file=a%2Cb%25d.safetensors"
    ]


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (1000, "1.0 K"), (999_949, "999.9 K"), (999_950, "1.0 M"), (684_531_386_000, "684.5 B"),
     (10**18, "1000000.0 T")],
)  # fmt: skip
def test_a_large_number_never_shows_a_thousand_of_its_unit(number, shown):
    assert many(number) == shown


def test_words_for_numbers():
    assert [plural(number, "copy", "copies") for number in (0, 1, 1024)] == ["0 copies", "1 copy", "1,024 copies"]
    assert [share(1, 8), share(0, 0)] == ["12.5 %", "-"]


def test_a_name_that_is_cut_keeps_more_of_its_end():
    name = "model.layers.3.mlp.experts.17.gate_proj.weight"

    assert cut(name, len(name)) == name
    assert cut(name, 22) == f"{name[:7]}…{name[-14:]}"
    assert cut(name, 1) == "m"
    assert {len(cut(name, width)) for width in range(1, 50)} == set(range(1, len(name) + 1))


def test_markdown_is_another_name_of_md(run) -> None:
    assert run("verify", BROKEN, "-f", "markdown").out == run("verify", BROKEN, "-f", "md").out
