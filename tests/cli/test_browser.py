"""The HTML report in a real headless browser, where one is installed (Debian: chromium-headless-shell)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from . import browser
from .conftest import ROOT

needs_browser = pytest.mark.skipif(not any(map(shutil.which, browser.NAMES)), reason="needs a headless Chromium")


@needs_browser
@pytest.mark.parametrize("name", ["hf-llama256-fp8-block", "ar-llama128-fp8static-llmc", "mo-qwen3moe-auto"])
def test_the_page_sorts_filters_fits_and_asks_nobody(name: str, tmp_path: Path) -> None:
    browser.check(browser.page_of(str(ROOT / "fixtures" / "checkpoints" / name), tmp_path))
