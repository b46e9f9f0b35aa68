"""verify says of each real checkpoint what EXPECTED.json says: nothing of a clean one, the fault of a faulty one."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracle.catalog import FOLDER, NAMES, expected_findings

LOUD = ("error", "warning")
FAULTY = [name for name in NAMES if "must" in expected_findings(name)]


def codes(report, *severities: str) -> set[str]:
    """Codes of the findings of these severities."""
    return {finding.code for finding in report.findings if finding.severity in severities}


@pytest.mark.parametrize("level", ["scales", "weights"])
def test_nothing_loud_is_said_beyond_what_is_expected(checkpoint: Path, level):
    import fp8load

    report = fp8load.open(checkpoint).verify(level=level)
    allowed = expected_findings(checkpoint.name)

    assert codes(report, *LOUD) <= {*allowed.get("must", ()), *allowed.get("may", ())}, report.findings


@pytest.mark.parametrize("level", ["scales", "weights"])
@pytest.mark.parametrize("name", FAULTY)
def test_the_expected_fault_is_found(name, level):
    import fp8load

    report = fp8load.open(FOLDER / name).verify(level=level)

    assert set(expected_findings(name)["must"]) & codes(report, *LOUD, "info"), report.findings


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FAULTY])
def test_a_clean_checkpoint_is_ok_and_raises_nothing(name):
    import fp8load

    report = fp8load.open(FOLDER / name).verify(level="scales")

    assert report.ok
    report.raise_for_errors()


def test_no_rule_crashes(checkpoint: Path):
    import fp8load

    assert list(fp8load.open(checkpoint).verify(level="weights").summary.crashed) == []
