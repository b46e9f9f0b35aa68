"""`verify --hash` of what huggingface_hub fetched, against the LFS object ids of a Hub: other processes, over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fp8load.rules.samples import BLOCK, QUANTIZED
from rules.examples import written
from source.hub_server import Blob, FakeHub
from under_test import pythonpath

FILE, CONFIG = "model.safetensors", "config.json"
FILES = written(BLOCK + QUANTIZED, {})
SHA256 = hashlib.sha256(FILES[FILE]).hexdigest()
REPO = "acme/model"
FETCH = "import sys, huggingface_hub as hub; print(hub.snapshot_download(sys.argv[1], local_dir=sys.argv[2] or None))"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        shards = {FILE: Blob(FILES[FILE], len(FILES[FILE]), large=True), CONFIG: FILES[CONFIG]}
        server.add(REPO, shards, digests={FILE: SHA256})
        yield server


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path) -> Run:
    """Python in a process that knows the Hub by HF_ENDPOINT alone, and has an empty cache."""

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FP8LOAD_"))}
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": pythonpath()}  # fmt: skip
        return subprocess.run(
            [sys.executable, *words], env=env, capture_output=True, text=True, check=False, timeout=120
        )

    return python


def fetched(run: Run, folder: Path | None = None) -> Path:
    """Where huggingface_hub put the repository."""
    done = run("-c", FETCH, REPO, str(folder or ""))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def verified(run: Run, source: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code, and what F8L009 finds."""
    done = run("-m", "fp8load", "verify", source, "--level", "headers", "--hash", "--json")
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, [finding for finding in findings if finding["code"] == "F8L009"]


def change_a_byte(path: Path) -> None:
    """Through the cache's link, so that the blob has another content under its name."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_cached_file_is_compared_with_the_object_id_that_the_hub_lists(run: Run, hub: FakeHub) -> None:
    snapshot = fetched(run)
    assert verified(run, REPO) == (0, [])
    assert hub.of("hub")[-1].path.endswith("?blobs=true")

    change_a_byte(snapshot / FILE)
    code, (finding,) = verified(run, REPO)

    assert (code, finding["file"], finding["severity"]) == (1, FILE, "error")
    assert finding["expected"] == f"{SHA256}, as the Hub's listing says"
    assert finding["got"] == hashlib.sha256((snapshot / FILE).read_bytes()).hexdigest()


def test_a_configuration_that_is_not_in_lfs_is_compared_with_gits_checksum(run: Run) -> None:
    snapshot = fetched(run)
    text = (snapshot / CONFIG).read_text()
    (snapshot / CONFIG).write_text(text.replace('": ', '" :', 1))  # valid JSON of the same size
    code, (finding,) = verified(run, REPO)

    assert (code, finding["file"]) == (1, CONFIG)


def test_what_the_hub_publishes_now_counts_and_not_what_the_blob_is_called(run: Run, hub: FakeHub) -> None:
    fetched(run)
    hub.repos[REPO].digests[FILE] = "1" * 64
    code, (finding,) = verified(run, REPO)

    assert (code, finding["expected"]) == (1, f"{'1' * 64}, as the Hub's listing says")


def test_a_download_into_a_folder_is_compared_with_the_etag_that_was_noted(run: Run, tmp_path: Path) -> None:
    folder = fetched(run, tmp_path / "folder")
    assert verified(run, str(folder)) == (0, [])
    change_a_byte(folder / FILE)
    code, (finding,) = verified(run, str(folder))

    assert (code, finding["file"]) == (1, FILE)
    assert finding["expected"].startswith(f"{SHA256}, as .cache/huggingface/download")
