"""README and docs show what the commands really print, and their Python runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pages import ROOT, executed, pages, same


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_really_happens(page: Path) -> None:
    written = page.read_text().splitlines()

    real = executed(page).splitlines()

    wrong = [(old, new) for old, new in zip(written, real, strict=False) if not same(old, new)]
    assert not wrong, "run `python tests/docs/pages.py --write` and review the difference"
    assert len(written) == len(real)


@pytest.mark.parametrize(("written", "real", "expected"), [
    ("a 1 s", "a 1 s", True), ("read ... s", "read 0.1 s", True), ("read ... s", "wrote 0.1 s", False), ("", "", True),
])  # fmt: skip
def test_dots_stand_for_what_differs_from_run_to_run(written: str, real: str, expected: bool) -> None:
    assert same(written, real) is expected
