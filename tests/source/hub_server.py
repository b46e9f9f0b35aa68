"""The Hub's endpoints on the loopback: a host with the repositories, and a second one that serves the large files.

Answers follow what huggingface.co sends: X-Repo-Commit on every resolve, 302 with X-Linked-Size, X-Linked-Etag and
X-Xet-Hash for large files, X-Error-Code with errors. Every request is recorded with the bytes that were really written.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "5f0c2ae3b1d94b7d8e6a4c3b2a1908f7e6d5c4b3"
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>revision|tree)/(?P<rev>[^/]+))?")
_CHUNK = bytes(1 << 16)


@dataclass(frozen=True)
class Blob:
    """A file: its first bytes, and zeros up to `size`."""

    head: bytes
    size: int
    large: bool = False

    @property
    def git_sha(self) -> str:
        """What git calls the file. Of one in LFS the Hub says that of the pointer, which nobody looks at."""
        content = b"" if self.large else self.part(0, self.size)
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()

    def part(self, begin: int, end: int) -> bytes:
        head = self.head[begin:end]
        return head + bytes(end - begin - len(head))


@dataclass
class Request:
    host: str
    method: str
    path: str
    range: str | None
    token: str | None
    num_sent: int = 0


@dataclass
class Repo:
    files: dict[str, Blob]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    digests: dict[str, str] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None  # status and X-Error-Code of every answer
    list_sizes: bool = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up early is what these tests are about; the traceback would only be noise."""


class FakeHub:
    """Start with `with FakeHub() as hub`; `hub.endpoint` is what HF_ENDPOINT would be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.breaks: list[int] = []  # bytes after which the next bodies of large files stop
        self.busy: list[int] = []  # statuses of the next answers for large files
        self.retry_after = "0"
        self.encoding = ""  # Content-Encoding of large files
        self.ignores_range = False
        self.wrong_range = False
        self.relative_hops = 0
        self.needs_token = ""
        self._hub = self._server("hub")
        self._cdn = self._server("cdn")
        self.endpoint = f"http://127.0.0.1:{self._hub.server_address[1]}"
        self.cdn = f"http://localhost:{self._cdn.server_address[1]}"

    def _server(self, host: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "host": host})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes | Blob], **facts: object) -> Repo:
        blobs = {name: blob if isinstance(blob, Blob) else Blob(blob, len(blob)) for name, blob in files.items()}
        repo = self.repos[repo_id] = Repo(blobs, **facts)
        return repo

    def sent(self, host: str | None = None) -> int:
        return sum(request.num_sent for request in self.requests if host in (None, request.host))

    def of(self, host: str, method: str = "GET") -> list[Request]:
        return [request for request in self.requests if (request.host, request.method) == (host, method)]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    host: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        wanted, token = self.headers.get("Range"), self.headers.get("Authorization")
        self.record = Request(self.host, self.command, self.path, wanted, token)
        self.hub.requests.append(self.record)
        path = urlsplit(self.path).path
        resolve, api = _RESOLVE.fullmatch(path), _API.fullmatch(path)
        if self.host == "cdn":
            repo, _, file = unquote(path).lstrip("/").partition("::")
            self._large(self.hub.repos[repo].files[file])
        elif api is not None:
            self._api(api["repo"], api["verb"], unquote(api["rev"] or "main"))
        elif resolve is not None:
            self._resolve(resolve["repo"], unquote(resolve["rev"]), unquote(resolve["file"]))
        else:
            self._send(404, b"{}", {})

    def _repo(self, repo_id: str, rev: str) -> Repo | None:
        """The repository at a revision, or None after the answer that refuses it."""
        repo = self.hub.repos.get(repo_id)
        if self.hub.needs_token and self.record.token != f"Bearer {self.hub.needs_token}":
            self._error(401, "RepoNotFound")
        elif repo is None:
            self._error(404, "RepoNotFound")
        elif repo.refusal is not None:
            self._error(*repo.refusal)
        elif rev not in repo.revisions and rev not in repo.revisions.values():
            self._error(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _api(self, repo_id: str, verb: str | None, rev: str) -> None:
        repo = self._repo(repo_id, rev)
        if repo is None:
            return
        commit = repo.revisions.get(rev, rev)
        if verb == "tree":
            entries = [
                {"type": "file", "path": name, "size": blob.size, "oid": blob.git_sha}
                | ({"lfs": {"oid": repo.digests[name], "size": blob.size, "pointerSize": 134}}
                   if name in repo.digests else {})
                for name, blob in repo.files.items()
            ]  # fmt: skip
            self._json(entries)
            return
        siblings = [
            {"rfilename": name}
            | ({"size": blob.size, "blobId": blob.git_sha} if repo.list_sizes and "blobs" in self.path else {})
            | (
                {"lfs": {"sha256": repo.digests[name], "size": blob.size, "pointerSize": 134}}
                if name in repo.digests and "blobs" in self.path
                else {}
            )
            for name, blob in repo.files.items()
        ]
        self._json(
            {"_id": "1", "id": repo_id, "modelId": repo_id, "sha": commit, "private": False, "siblings": siblings}
        )

    def _resolve(self, repo_id: str, rev: str, file: str) -> None:
        if self.hub.relative_hops and "hop" not in self.path:
            self._send(307, b"", {"Location": f"{urlsplit(self.path).path}?hop=1"})
            return
        repo = self._repo(repo_id, rev)
        if repo is None:
            return
        blob = repo.files.get(file)
        commit = repo.revisions.get(rev, rev)
        if blob is None:
            self._error(404, "EntryNotFound")
        elif blob.large:
            etag = repo.digests.get(file, "a" * 64)
            self._send(302, b"Found. Redirecting", {
                "Location": f"{self.hub.cdn}/{repo_id}::{file}?signature=abc", "X-Repo-Commit": commit,
                "X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{etag}"', "X-Xet-Hash": "b" * 64})  # fmt: skip
        else:
            self._send(
                200,
                blob.part(0, blob.size),
                {"ETag": f'"{blob.git_sha}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"},
            )

    def _large(self, blob: Blob) -> None:
        """A large file on the second host: 206 with the range, or 200 with all of it."""
        if self.hub.busy:
            self._send(self.hub.busy.pop(0), b"busy", {"Retry-After": self.hub.retry_after})
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.record.range or "")
        if wanted is None or self.hub.ignores_range:
            begin, end, status = 0, blob.size, 200
        else:
            begin, end, status = int(wanted[1]), min(int(wanted[2]) + 1, blob.size), 206
        shown = begin + 7 if self.hub.wrong_range else begin
        self.send_response(status)
        self.send_header("Content-Length", str(end - begin))
        if self.hub.encoding:
            self.send_header("Content-Encoding", self.hub.encoding)
        if status == 206:
            self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{blob.size}")
        self.end_headers()
        stop = begin + self.hub.breaks.pop(0) if self.hub.breaks else end
        try:
            for at in range(begin, min(stop, end), len(_CHUNK)):
                part = blob.part(at, min(at + len(_CHUNK), stop, end))
                self.wfile.write(part)
                self.record.num_sent += len(part)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if stop < end:
            self.close_connection = True

    def _json(self, document: object) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.record.num_sent += len(body)
