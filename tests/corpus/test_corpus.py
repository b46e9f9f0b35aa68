"""Real faults, rebuilt: each is found and named, and of its twin that is right nothing of the kind is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpus.repositories import url_of
from corpus.row import Row
from corpus.table import BEYOND, ROWS, UNBUILT, corpus_tables
from fp8load.errors import Severity

CAUGHT = [pytest.param(row, id=f"{row.number} {row.thread}") for row in ROWS if not row.missed]
MISSED = [pytest.param(row, id=f"{row.number} {row.thread}") for row in ROWS if row.missed]
RIGHT = [pytest.param(row, id=f"{row.number} {row.thread}") for row in ROWS if row.missed and row.is_right]
NUM_ROWS = 190
PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules" / "corpus.md"


@pytest.mark.parametrize("row", CAUGHT)
def test_the_fault_is_found_and_named(row: Row) -> None:
    said = [(finding.severity.value, finding.code, finding.pattern, finding.message) for finding in row.of_fault()]

    assert row.caught is not None, said


@pytest.mark.parametrize("row", CAUGHT)
def test_of_the_twin_nothing_of_the_kind_is_said(row: Row) -> None:
    findings = row.of_twin()

    assert [finding.message for finding in findings if finding.code in row.codes] == []
    assert [finding.message for finding in findings if finding.severity is not Severity.INFO] == []


@pytest.mark.parametrize("row", MISSED)
def test_a_row_that_is_found_by_now_is_no_longer_called_missed(row: Row) -> None:
    assert row.caught is None


@pytest.mark.parametrize("row", RIGHT)
def test_of_a_checkpoint_that_is_right_and_that_one_reader_gets_wrong_nothing_is_said(row: Row) -> None:
    findings = row.of_fault()

    assert [finding.message for finding in findings if finding.severity is not Severity.INFO] == []


def test_every_row_is_there_once() -> None:
    numbers = [row.number for row in (*ROWS, *UNBUILT, *BEYOND)]

    assert sorted(numbers) == list(range(1, NUM_ROWS + 1))


def test_every_thread_has_an_address() -> None:
    assert all(url_of(row.thread).startswith("https://github.com/") for row in (*ROWS, *UNBUILT, *BEYOND))


def test_the_page_has_every_table() -> None:
    text = PAGE.read_text()

    assert all(f"<!-- table {name} -->\n{table}\n<!-- end -->" in text for name, table in corpus_tables().items())
