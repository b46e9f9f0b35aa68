"""What `verify` finds of clean checkpoints that were changed on purpose, against the record."""

from __future__ import annotations

import pytest

from fp8load.rules.base import LEVELS
from mutations.table import CHANGES, MISSED, names, of_checkpoint, recorded

RECORD = recorded()


@pytest.mark.parametrize("name", RECORD)
def test_each_change_is_found_at_the_recorded_level(name: str) -> None:
    assert of_checkpoint(name) == RECORD[name]


def test_the_record_is_of_every_clean_checkpoint_and_every_change() -> None:
    assert sorted(RECORD) == names()
    assert {change for found in RECORD.values() for change in found} == CHANGES.keys()
    assert {level for found in RECORD.values() for level in found.values()} <= {*LEVELS, MISSED}
