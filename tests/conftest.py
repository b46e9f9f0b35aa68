"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracle.catalog import FOLDER, NAMES


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """The folder of each real checkpoint under fixtures/, one after the other. Read-only."""
    return FOLDER / str(request.param)
