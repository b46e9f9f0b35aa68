"""Unified diffs: `patch` makes the new file of the old one, and a long file takes no time."""

from __future__ import annotations

import shutil
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from counted import calls
from fp8load.writing.diff import unified

LINES = st.lists(st.sampled_from(["a", "b", "c", "{", "}", "x1", "x2", "x3"]), max_size=14)


def applied(old: list[str], diff: list[str]) -> list[str]:
    """What a diff makes of a file: the hunks' lines, and what lies between them."""
    result, at = [], 0
    for line in diff[2:]:
        if line.startswith("@@"):
            begin, _, length = line.split()[1].removeprefix("-").partition(",")
            start = int(begin) - (length != "0")
            result += old[at:start]
            at = start
        elif line[0] == "+":
            result.append(line[1:])
        else:
            assert old[at] == line[1:]
            at += 1
            result += [line[1:]] if line[0] == " " else []
    return result + old[at:]


@given(LINES, LINES)
def test_a_diff_makes_the_new_file_of_the_old_one(old, new):
    diff = list(unified("\n".join(old), "\n".join(new), "a", "b"))

    assert applied(old, diff) == new
    assert bool(diff) == (old != new)


@settings(max_examples=20)
@given(LINES.filter(bool), LINES.filter(bool))
def test_patch_agrees(tmp_path_factory, old, new):
    patch = shutil.which("patch") or shutil.which("git")
    folder = tmp_path_factory.mktemp("patch")
    (folder / "f").write_text("".join(f"{line}\n" for line in old))
    diff = "".join(f"{line}\n" for line in unified("\n".join(old), "\n".join(new), "a/f", "b/f"))
    words = [patch, "-p1"] if patch.endswith("patch") else [patch, "apply", "--unidiff-zero"]
    if diff:
        subprocess.run(words, input=diff, text=True, cwd=folder, check=True, capture_output=True)

    assert (folder / "f").read_text().splitlines() == new


def halved(num_lines: int) -> list[str]:
    """The diff of an index that has lost every second line."""
    old = [f'    "model.layers.{at // 4}.w{at % 4}": "f.safetensors",' for at in range(num_lines)]
    return list(unified("\n".join(old), "\n".join(old[::2]), "a", "b"))


def test_the_work_of_a_long_index_grows_as_its_lines_do():
    assert sum(line.startswith("-") for line in halved(92_000)) == 46_001
    assert calls(lambda: halved(8000)) < 4.5 * calls(lambda: halved(2000))
