"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: without a GPU its kernels are interpreted

from oracle.catalog import FOLDER, NAMES

settings.register_profile("fp8load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fp8load")  # what a law says does not depend on how busy the machine is


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """The folder of each real checkpoint under fixtures/, one after the other. Read-only."""
    return FOLDER / str(request.param)
