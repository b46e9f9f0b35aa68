"""Every form of the page loads as the page says, and the page would notice if it did not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from docs.forms import ROOT, UNSCALED, Example, Row, forms, refusal, refused, rows
from fp8load.errors import Fp8LoadError
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Unclaimed
from fp8load.formats.locate import format_modules
from fp8load.scheme import Granularity, LinearScheme, PerBlock, PerChannel, PerGroup, PerTensor
from under_test import pythonpath

FORMS = forms()
NUMBERED = [number for example in FORMS for number in example.form.split(", ") if number.isdecimal()]


def content(example: Example) -> list[Row] | str:
    """The rows of a form, or why there are none."""
    try:
        return list(rows(example))
    except (Fp8LoadError, AssertionError, KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("example", FORMS, ids=lambda example: example.key)
def test_a_form_is_what_its_page_says(example: Example) -> None:
    page = (ROOT / "docs" / "formats" / "README.md").read_text()

    for row in rows(example):
        assert f"| {' | '.join(row)} |" in page, "run `python tests/docs/pages.py --write` and review the difference"


def test_every_form_that_was_seen_has_a_row() -> None:
    assert {int(number) for number in NUMBERED} | {int(each.form) for each in refused() if each.form.isdecimal()} == {
        *range(1, 40)
    }


def test_every_format_module_has_a_form() -> None:
    shown = {row.format for example in FORMS for row in rows(example)}

    assert shown - {"unquantized"} == {module.NAME for module in format_modules()}


def test_every_row_names_a_test_that_exists() -> None:
    named = {example.test for example in FORMS}
    files = sorted({test.partition("::")[0] for test in named})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, env={"PYTHONPATH": pythonpath(ROOT / "tests"), "PATH": ""}, text=True, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip

    assert named - set(done.stdout.splitlines()) == set()


def without(example: Example, key: str) -> Example:
    """The example without one of the things that it is recognised by."""
    if key == UNSCALED:
        return example._replace(detect=())
    if key.startswith("tensor "):
        name = key.removeprefix("tensor ")
        kept = [line for line in example.text.splitlines() if name not in line.partition(" ")[0]]
        return example._replace(text="\n".join(kept))
    place, colon, path = key.partition(":")
    start = "config" if not colon else place if place.startswith("inside ") else f"file {place}"
    lines = []
    for line in example.text.splitlines():
        if line.startswith(f"{start} {{"):
            document = json.loads(line.removeprefix(start))
            remove(document, path if colon else key)
            lines.append(f"{start} {json.dumps(document)}")
        else:
            lines.append(line)
    return example._replace(text="\n".join(lines))


def remove(document: dict[str, Any], path: str) -> None:
    """Delete a dotted key; keys may have dots themselves."""
    if path in document:
        del document[path]
        return
    first = next(key for key in document if path.startswith(f"{key}."))
    remove(document[first], path.removeprefix(f"{first}."))


@pytest.mark.parametrize(
    ("example", "key"),
    [(example, key) for example in FORMS for key in example.detect],
    ids=lambda it: it.key if isinstance(it, Example) else it,
)
def test_a_form_is_not_recognised_without_a_key_that_it_is_detected_by(example: Example, key: str) -> None:
    changed = without(example, key)

    assert changed.text != example.text or key == UNSCALED
    before = [row._replace(detected="") for row in rows(example)]
    after = content(changed)
    assert isinstance(after, str) or [row._replace(detected="") for row in after] != before


def coarser(granularity: Granularity) -> Granularity:
    """Another granularity."""
    match granularity:
        case PerBlock(rows=num_rows, cols=num_cols):
            return PerBlock(2 * num_rows, num_cols)
        case PerGroup(cols=num_cols):
            return PerGroup(2 * num_cols)
        case PerTensor():
            return PerChannel()
        case _:
            return PerTensor()


def other_scales(fmt: CheckpointFormat) -> CheckpointFormat:
    """A format that takes every weight to have scales of another granularity."""

    def swapped(scheme: LinearScheme) -> LinearScheme:
        return replace(scheme, weight=replace(scheme.weight, granularity=coarser(scheme.weight.granularity)))

    def claim(module: str) -> Claim:
        said = fmt.claim(module)
        if not isinstance(said, Claimed):
            return said
        others = tuple(swapped(scheme) for scheme in said.alternatives)
        return replace(said, scheme=swapped(said.scheme), alternatives=others)

    return replace(fmt, claim=claim)


def no_names(fmt: CheckpointFormat) -> CheckpointFormat:
    """A format that knows no name of a scale."""
    return replace(fmt, suffixes={}, by_module={})


def nothing_claimed(fmt: CheckpointFormat) -> CheckpointFormat:
    """A format that says nothing of any module."""
    return replace(fmt, claim=lambda _module: Unclaimed())


NAMES_OF_STACKS = {"gpt-oss"}
"""Experts in one tensor have names of their own, which no format can lose."""
NO_SCALES = {"raw-cast"}
"""There is no configuration to break."""


@pytest.mark.parametrize(("example", "breaking"), [
    pytest.param(example, breaking, id=f"{example.key}-{breaking.__name__}")
    for example in FORMS if example.key not in NO_SCALES
    for breaking in (other_scales, no_names, nothing_claimed)
    if not (breaking is no_names and example.key in NAMES_OF_STACKS)
])  # fmt: skip
def test_a_format_that_is_broken_changes_its_rows(
    example: Example, breaking: Callable[[CheckpointFormat], CheckpointFormat], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(rows(example))
    name = before[0].format
    module = next(module for module in format_modules() if name == module.NAME)
    parse = module.parse
    monkeypatch.setattr(module, "parse", lambda located: breaking(parse(located)))

    assert content(example) != before


@pytest.mark.parametrize("example", refused(), ids=lambda example: example.key)
def test_what_is_refused_is_refused_as_the_page_says(example: Example) -> None:
    assert f"| {refusal(example)} |" in (ROOT / "docs" / "formats" / "README.md").read_text()
