"""The kernels compile for Hopper, some for Ampere too: what the interpreter takes, the compiler need not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from under_test import pythonpath

pytest.importorskip("triton", reason="needs triton")


def test_every_kernel_compiles(tmp_path: Path) -> None:
    keep = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}

    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compiled.py")], capture_output=True, text=True, check=False,
        env={**keep, "PYTHONPATH": pythonpath(tmp_path), "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 105
