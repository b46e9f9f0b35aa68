"""Repairs of real checkpoints: a clean one needs none, and an exact repair changes no weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fp8load
from oracle.catalog import FOLDER, expected_findings

NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
CLEAN = [name for name in NAMES if not expected_findings(name).get("must")]
EXACT = ("F8L601", "F8L902", "F8L106")
"""Repairs of what is legal: done only where they are named."""


def repaired(name: str, codes: tuple[str, ...], out: Path) -> Path | None:
    """A repaired copy; None where nothing is to be repaired."""
    with fp8load.open(FOLDER / name) as ckpt:
        fixes = ckpt.fix(codes)
        if fixes.changes.is_empty:
            return None
        fixes.write(out)
    return out


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_checkpoint_is_left_as_it_is(name):
    with fp8load.open(FOLDER / name) as ckpt:
        assert ckpt.fix().changes.is_empty


@pytest.mark.parametrize("name", CLEAN)
def test_an_exact_repair_changes_no_weight(name, tmp_path):
    copy = repaired(name, EXACT, tmp_path / "copy")
    if copy is None:  # nothing of the kind is in this checkpoint: the law holds
        return
    with fp8load.open(FOLDER / name) as before, fp8load.open(copy) as after:
        old, new = dict(before.plain_tensors()), dict(after.plain_tensors())
        report = after.verify()

    assert report.ok
    assert not {finding.code for finding in report.findings} & {"F8L601"}
    assert old.keys() == new.keys()
    assert all(torch.equal(old[tensor], new[tensor]) for tensor in old)
