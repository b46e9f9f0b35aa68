"""Ranks that load together in processes of their own, over gloo: what each gets is what it would get alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from under_test import pythonpath

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
TESTS = Path(__file__).resolve().parents[1]
SECONDS = 90


def run(tmp_path: Path, size: int, name: str, scenario: str) -> list[dict[str, Any]]:
    """What each rank wrote; an empty answer of one that did not."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "runtime.ranks", str(out)]
    started = [
        subprocess.Popen([*command, str(rank), str(size), str(FOLDER / name), scenario], cwd=TESTS,
                         env={"PYTHONPATH": pythonpath(TESTS), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
                         stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]  # fmt: skip
    try:
        said = [each.communicate(timeout=SECONDS)[1] for each in started]
    finally:
        for each in started:
            each.kill()
    answers = []
    for rank in range(size):
        path = tmp_path / f"out.{rank}"
        answers.append(json.loads(path.read_text()) if path.exists() else {"said": said[rank]})
    return answers


@pytest.mark.parametrize(
    ("name", "size", "scenario"),
    [("ct-llama128-fp8-static", 2, "tp"), ("ct-mixtral-fp8-dynamic", 6, "tp x ep"), ("mo-qwen2-fp8", 2, "mesh"),
     ("ct-llama128-fp8-static", 4, "two hosts"), ("ct-llama128-fp8-static", 4, "two hosts, a rank in one more group")],
)  # fmt: skip
def test_each_rank_gets_what_it_would_get_alone(name: str, size: int, scenario: str, tmp_path: Path) -> None:
    answers = run(tmp_path, size, name, scenario)

    for answer in answers:
        assert answer.get("digest") == answer.get("alone") != None, answer  # noqa: E711
    read, alone = (sum(answer[key] for answer in answers) for key in ("nbytes", "nbytes_alone"))
    stored = sum(path.stat().st_size for path in (FOLDER / name).glob("*.safetensors"))
    num_hosts = 2 if scenario.startswith("two hosts") else 1
    assert read <= num_hosts * stored
    assert read < alone


def test_a_disk_error_of_one_rank_is_an_error_of_all_that_names_file_and_rank(tmp_path: Path) -> None:
    one, two = run(tmp_path, 2, "ct-llama128-fp8-static", "a read fails")

    assert "Input/output error" in two["error"]
    assert "model-00001-of-00004.safetensors" in two["error"]
    assert one["code"] == "FILL732"
    assert "rank 1" in one["error"]
    assert "SRC006" in one["error"]


def test_pieces_that_cannot_be_placed_end_all_ranks_and_keep_none_waiting(tmp_path: Path) -> None:
    one, two = run(tmp_path, 2, "ct-llama128-fp8-static", "placing fails")

    assert "Input/output error" in two["error"]
    assert (one["code"], two["code"]) == ("FILL732", "")
    assert "rank 1" in one["error"]


@pytest.mark.parametrize(
    ("scenario", "message"), [("no room for rounds", "out of memory"), ("a progress fails", "out of patience")]
)
def test_what_fails_beside_reading_ends_all_ranks_too(scenario: str, message: str, tmp_path: Path) -> None:
    start = time.monotonic()
    one, two = run(tmp_path, 2, "ct-llama128-fp8-static", scenario)

    assert message in two["error"]
    assert one["code"] == "FILL732"
    assert message in one["error"]
    assert time.monotonic() - start < 40


@pytest.mark.parametrize("when", ["", " while threads wait for the device"])
def test_a_rank_that_breaks_off_within_a_round_says_its_own_error(when: str, tmp_path: Path) -> None:
    """And asks nothing of the others, who are elsewhere; they notice when its process ends."""
    start = time.monotonic()
    one, two = run(tmp_path, 2, "ct-llama128-fp8-static", f"a round breaks{when}")

    assert two["error"] == "an error that nobody foresaw"
    assert one["code"] == "FILL733"
    assert time.monotonic() - start < 40


@pytest.mark.parametrize("when", ["", " while the device waits for it"])
def test_a_rank_that_dies_ends_the_others_within_seconds(when: str, tmp_path: Path) -> None:
    """A device on which NCCL waits never comes back by itself; it is played by one that has nothing done."""
    start = time.monotonic()
    one, two = run(tmp_path, 2, "ct-llama128-fp8-static", f"a rank dies{when}")

    assert "digest" not in two
    assert one["code"] == "FILL733"
    assert time.monotonic() - start < 60
