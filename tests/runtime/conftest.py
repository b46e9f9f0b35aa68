"""What several tests of reloading share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.updating import FOLDER, rewritten


@pytest.fixture(scope="session")
def newer_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of ours with other weights, by the name of the one that it was made of."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = rewritten(FOLDER / name, tmp_path_factory.mktemp("newer") / name)
        return made[name]

    return get
