"""Checksums and sizes of what was published: in the Hub's cache, in a downloaded folder, in the Hub's listing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

import fp8load
from fp8load.rules.samples import BLOCK, QUANTIZED
from fp8load.source.local import LocalSource
from fp8load.source.published import METADATA, digest_of, published
from rules.examples import written
from source.hub_server import COMMIT, FakeHub

FILE = "model.safetensors"
FILES = written(BLOCK + QUANTIZED, {})
DATA = FILES[FILE]
SHA256 = hashlib.sha256(DATA).hexdigest()


def codes(source, **options) -> dict[str, list[str]]:
    """Code -> files of its loud findings."""
    report = fp8load.open(source).verify("headers", **options)
    return {finding.code: finding.files for finding in report.findings if finding.severity != "info"}


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot in a cache as huggingface_hub lays it out."""
    repo = tmp_path / "hub" / "models--acme--model"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "blobs" / SHA256).write_bytes(DATA)
    (folder / FILE).symlink_to(f"../../blobs/{SHA256}")
    (folder / "config.json").write_bytes(FILES["config.json"])
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, snapshot: Path) -> Iterator[FakeHub]:
    with FakeHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(snapshot.parents[2]))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def damaged(path: Path, at: int = -1) -> None:
    """Write through a link, as a tool that edits in place does."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_blob_is_called_by_its_digest(snapshot: Path) -> None:
    known = published(LocalSource(snapshot), FILE)

    assert known is not None
    assert (known.digest, known.nbytes) == (SHA256, None)
    assert codes(snapshot, hash=True) == {}


def test_a_blob_that_was_written_through_its_link_is_found_by_its_digest_alone(snapshot: Path) -> None:
    damaged(snapshot / FILE)

    assert codes(snapshot) == {}
    assert codes(snapshot, hash=True) == {"F8L009": [FILE]}


def test_a_download_into_a_folder_is_checked_against_the_etag_that_was_noted(tmp_path: Path) -> None:
    (tmp_path / METADATA).mkdir(parents=True)
    (tmp_path / METADATA / f"{FILE}.metadata").write_text(f"{COMMIT}\n{SHA256}\n1700000000.0\n")
    (tmp_path / FILE).write_bytes(DATA)
    assert codes(tmp_path, hash=True).get("F8L009") is None
    damaged(tmp_path / FILE)

    assert codes(tmp_path, hash=True)["F8L009"] == [FILE]


@pytest.mark.parametrize(
    "note", [b"", b"one line", b"commit\nnot a digest\n0\n", b"\xff\xfe\n\xff\n", b"a\n" + b"0" * 5000]
)
def test_a_note_that_is_none_says_nothing(tmp_path: Path, note: bytes) -> None:
    (tmp_path / METADATA).mkdir(parents=True)
    (tmp_path / METADATA / f"{FILE}.metadata").write_bytes(note)
    (tmp_path / FILE).write_bytes(DATA)

    assert published(LocalSource(tmp_path), FILE) is None


def test_what_could_not_be_checked_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(DATA)
    report = fp8load.open(tmp_path).verify("headers", hash=True)

    assert [(f.severity, f.file) for f in report.findings if f.code == "F8L009"] == [("info", FILE)]


def test_gits_checksum_is_that_of_git(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello\n")

    assert digest_of(LocalSource(tmp_path), "a", "0" * 40) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_hubs_size_is_compared_without_reading(hub: FakeHub, snapshot: Path) -> None:
    hub.add("acme/model", {FILE: DATA, "config.json": FILES["config.json"]}, digests={FILE: SHA256})
    assert codes("acme/model") == {}
    (snapshot / FILE).write_bytes(DATA + b"\0")

    assert codes("acme/model")["F8L009"] == [FILE]


def test_the_hubs_object_id_counts_before_the_name_of_the_blob(hub: FakeHub, snapshot: Path) -> None:
    hub.add("acme/model", {FILE: DATA, "config.json": FILES["config.json"]}, digests={FILE: "1" * 64})

    assert FILE in codes("acme/model", hash=True)["F8L009"]


def test_a_file_that_is_only_on_the_hub_is_not_downloaded_to_be_hashed(hub: FakeHub, snapshot: Path) -> None:
    (snapshot / FILE).unlink()
    hub.add("acme/model", {FILE: DATA, "config.json": FILES["config.json"]}, digests={FILE: SHA256})
    report = fp8load.open("acme/model").verify("headers", hash=True)

    assert [(f.severity, f.got) for f in report.findings if f.code == "F8L009" and f.file == FILE] == [
        ("info", "a file on the Hub")
    ]


def test_an_unfinished_blob_is_noticed(snapshot: Path) -> None:
    (snapshot.parents[1] / "blobs" / f"{'a' * 64}.incomplete").write_bytes(b"")

    assert codes(snapshot) == {"F8L010": [f"blobs/{'a' * 64}.incomplete"]}


def test_an_unfinished_download_into_a_folder_is_noticed(tmp_path: Path) -> None:
    (tmp_path / METADATA).mkdir(parents=True)
    (tmp_path / METADATA / "abc.123.incomplete").write_bytes(b"")
    (tmp_path / FILE).write_bytes(DATA)

    assert codes(tmp_path)["F8L010"] == ["download/abc.123.incomplete"]


def test_a_link_that_points_nowhere_is_an_error_under_the_rules_name(snapshot: Path) -> None:
    (snapshot.parents[1] / "blobs" / SHA256).unlink()
    report = fp8load.open(snapshot).verify("headers", hash=True)
    (finding,) = [f for f in report.findings if f.code == "F8L010"]

    assert (finding.name, finding.severity, finding.file) == ("cache-broken", "error", FILE)
