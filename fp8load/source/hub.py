"""A model repository on the Hugging Face Hub: headers by range request, small files through the ordinary cache.

Nothing of huggingface_hub is re-implemented: endpoint, token, cache folder, offline switch and timeouts are its own
(HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT). It is imported inside
functions, because the import takes 0.5 s that a local checkpoint must not pay.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fp8load.errors import NotFoundError, Problem
from fp8load.source.base import ReadMeter, SourceInfo
from fp8load.source.hub_errors import HubPlace, hub_errors, network, offline
from fp8load.source.hub_http import RangeReader
from fp8load.source.local import LocalSource

SMALL_FILE = 100_000_000
"""Largest JSON file that is downloaded; everything else is read in ranges. DeepSeek-V3's index.json has 8.9 MB."""


class HubSource:
    """One snapshot of one repository, or of a folder or file in it (`subpath`).

    Opening resolves the revision to a commit with one request; every later read is of that commit. Files that the
    cache has are read from disk; others by range request, except JSON files, which are downloaded into the cache.
    With HF_HUB_OFFLINE=1 only the cache is used. Errors: NotFoundError SRC001 (repository) and SRC002 (revision,
    file), AccessError SRC003, NetworkError SRC004, OfflineError SRC005.
    """

    def __init__(self, repo_id: str, *, revision: str | None = None, subpath: str = "") -> None:
        from huggingface_hub import constants

        self._place = HubPlace(repo_id=repo_id, revision=revision or constants.DEFAULT_REVISION)
        self._only = subpath.rpartition("/")[2] if subpath.endswith(".safetensors") else ""
        folder = subpath.rpartition("/")[0] if self._only else subpath
        self._prefix = folder + "/" if folder else ""
        self._cache: LocalSource | None = None
        self._lock = threading.Lock()
        self._published: dict[str, tuple[int | None, str | None]] = {}
        self.meter = ReadMeter()
        self._commit, sizes = self._snapshot() if constants.HF_HUB_OFFLINE else self._resolve()
        self._offline = bool(constants.HF_HUB_OFFLINE)
        self._sizes = self._select(sizes)
        self._cached = {file for file in self._sizes if self._look_up(file)}
        self.remote = any(file not in self._cached for file in self._sizes if file.endswith(".safetensors"))
        self.parallel_reads = 8 if self.remote else 1
        self.info = SourceInfo(kind="hub", id=f"hf://{repo_id}/{subpath}" if subpath else repo_id,
                               revision=self._place.revision, commit=self._commit)  # fmt: skip

    def _resolve(self) -> tuple[str, dict[str, int | None]]:
        """Commit, and files with their sizes, from one request."""
        from huggingface_hub import HfApi, constants

        self.meter.add(0)
        with hub_errors(self._place):
            info = HfApi(library_name="fp8load").model_info(
                self._place.repo_id, revision=self._place.revision, files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )  # fmt: skip
        if info.sha is None or info.siblings is None:
            raise network(self._place, "an answer without a commit or without files", expected="sha and siblings")
        self._published = {
            sibling.rfilename: (sibling.size, None if sibling.lfs is None else sibling.lfs.sha256)
            for sibling in info.siblings
        }
        return info.sha, {sibling.rfilename: sibling.size for sibling in info.siblings}

    def _snapshot(self) -> tuple[str, dict[str, int | None]]:
        """Commit, and files with their sizes, from the cache alone."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            # the pattern keeps a snapshot without all its weights acceptable: what is missing is told per file
            found = snapshot_download(self._place.repo_id, revision=self._place.revision, local_files_only=True,
                                      allow_patterns=["config.json"])  # fmt: skip
        except LocalEntryNotFoundError as error:
            raise offline(self._place) from error
        folder = Path(found)
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes: dict[str, int | None] = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        if not any(name.endswith(".safetensors") for name in sizes):
            raise offline(self._place)
        return folder.name, sizes

    def _select(self, sizes: Mapping[str, int | None]) -> dict[str, int | None]:
        """The files under `subpath`, by names relative to it; with a single file, that one and the JSON beside it."""
        prefix = self._prefix
        chosen = {name[len(prefix) :]: size for name, size in sizes.items() if name.startswith(prefix)}
        if self._only:
            chosen = {
                name: size for name, size in chosen.items()
                if name == self._only or (name.endswith(".json") and not name.endswith(".index.json"))
            }  # fmt: skip
        if not chosen or (self._only and self._only not in chosen):
            path = (prefix + self._only).rstrip("/")
            raise NotFoundError(Problem(code="SRC002", message="the repository has no such file or folder", file=path,
                                        got=f"{len(sizes)} files in {self._place}"))  # fmt: skip
        return dict(sorted(chosen.items()))

    def _look_up(self, file: str) -> bool:
        """Whether the cache has the file of this commit; the first hit tells where the snapshot lies."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self._place.repo_id, self._prefix + file, revision=self._commit)
        if not isinstance(found, str):
            return False
        with self._lock:
            if self._cache is None:
                self._cache = LocalSource(Path(found.removesuffix(file)))
                self._cache.meter = self.meter
        return True

    def _at(self, file: str) -> HubPlace:
        return HubPlace(repo_id=self._place.repo_id, revision=self._place.revision, file=self._prefix + file)

    def list(self) -> Mapping[str, int | None]:
        """Files with their sizes; a cached file's size is that on disk, so that a truncated one is noticed."""
        return {file: self.size(file) if file in self._cached else size for file, size in self._sizes.items()}

    def size(self, file: str) -> int:
        """Size in bytes: of the cached file, else as the Hub says."""
        if file in self._cached and self._cache is not None:
            return self._cache.size(file)
        if file not in self._sizes:
            if self._offline:
                raise offline(self._at(file))
            raise NotFoundError(Problem(code="SRC002", message="the repository has no such file", file=file,
                                        got=f"nothing of this name in {self.info}"))  # fmt: skip
        size = self._sizes[file]
        return self._ask_size(file) if size is None else size

    def published(self, file: str) -> tuple[int | None, str | None]:
        """Size and LFS object id (SHA-256) as the Hub listed them; None for what it did not say."""
        return self._published.get(self._prefix + file, (None, None))

    def _ask_size(self, file: str) -> int:
        """For endpoints whose listing has no sizes (mirrors): one HEAD request."""
        from huggingface_hub import get_hf_file_metadata

        self.meter.add(0)
        with hub_errors(self._at(file)):
            size = get_hf_file_metadata(self._url(file)).size
        if size is None:
            raise network(self._at(file), "an answer without a size", expected="Content-Length")
        self._sizes[file] = size
        return size

    def _url(self, file: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._place.repo_id, self._prefix + file, revision=self._commit)

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Bytes `begin:end`, fewer only where the file ends before `end`."""
        size = self.size(file)
        if file not in self._cached and file.endswith(".json") and size <= SMALL_FILE:
            self._download(file)
        if file in self._cached and self._cache is not None:
            return self._cache.read(file, begin, end)
        end = min(end, size)
        if begin >= end:
            return b""
        return RangeReader(url=self._url(file), place=self._at(file), meter=self.meter).read(begin, end)

    def _download(self, file: str) -> None:
        """Bring one small file into the cache."""
        from huggingface_hub import hf_hub_download

        self.meter.add(0, 2)  # HEAD and GET; its bytes are counted when it is read
        with hub_errors(self._at(file)), _no_progress_bar():
            hf_hub_download(self._place.repo_id, self._prefix + file, revision=self._commit, library_name="fp8load")
        if self._look_up(file):
            self._cached.add(file)

    def path(self, file: str) -> Path | None:
        """The file in the cache, where it is there."""
        return self._cache.path(file) if file in self._cached and self._cache is not None else None

    def close(self) -> None:
        """Let go of file handles; the HTTP session is huggingface_hub's and stays open."""
        if self._cache is not None:
            self._cache.close()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A library does not draw. HF_HUB_DISABLE_PROGRESS_BARS=0 asks for bars, and is honoured."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it has no __all__
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled() or constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
