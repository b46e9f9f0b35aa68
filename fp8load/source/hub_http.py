"""Byte ranges of a file on the Hub, over huggingface_hub's session: no byte too many, no stray token."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from fp8load.source.base import ReadMeter
from fp8load.source.hub_errors import HubPlace, http_error_type, hub_errors, network

if TYPE_CHECKING:
    from httpx2 import Response

MAX_RETRIES = 3
"""Further attempts after a connection broke or the server was busy; each goes on at the missing byte."""

_MAX_REDIRECTS = 10
_MAX_SKIP = 1 << 20
"""Bytes that may be thrown away when a server ignores Range: enough for the second half of a header."""
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_SECRETS = frozenset({"authorization", "proxy-authorization", "cookie"})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class _BrokenError(Exception):
    """The connection broke, or the server is busy: worth another attempt. `wait` is what the server asked for."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeReader:
    """Reads one file. `pause` is the wait in seconds before the second attempt; it doubles with each further one."""

    url: str
    place: HubPlace
    meter: ReadMeter
    pause: float = 0.5

    def read(self, begin: int, end: int) -> bytes:
        """Bytes `begin:end`; the file has at least `end` bytes.

        Raises NetworkError SRC004 with the bytes that are missing after `MAX_RETRIES` further attempts, AccessError
        and NotFoundError for what the Hub refuses.
        """
        data = bytearray()
        for attempt in range(MAX_RETRIES + 1):
            try:
                with hub_errors(self.place):
                    self._continue(data, begin, end)
                return bytes(data)
            except _BrokenError as error:
                if attempt == MAX_RETRIES:
                    got = f"{len(data):,} bytes after {attempt + 1} attempts, then: {error}"
                    raise network(self.place, got, expected=f"bytes {begin:,} to {end:,}") from error
                time.sleep(max(self.pause * 2**attempt, min(error.wait, 30.0)))
        return bytes(data)

    def _continue(self, data: bytearray, begin: int, end: int) -> None:
        """One request for what `data` still lacks of `begin:end`. Raises `_BrokenError` when less comes."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            with self._get(begin + len(data), end) as response:
                skip = self._check(response, begin + len(data))
                for chunk in response.iter_raw():
                    self.meter.add(len(chunk), 0)
                    useful = chunk[skip:]
                    skip -= len(chunk) - len(useful)
                    data += useful[: end - begin - len(data)]
                    if len(data) == end - begin:
                        return  # leaving the block closes the connection: what a server sends beyond is not fetched
        except HfHubHTTPError:
            raise  # an answer, and of the same base class as what follows
        except http_error_type() as error:
            raise _BrokenError(f"{type(error).__name__}: {error}") from error
        raise _BrokenError("the connection ended early")

    @contextmanager
    def _get(self, begin: int, end: int) -> Iterator[Response]:
        """The answer to a GET of a byte range, with redirects followed here, one by one.

        Weights lie on other hosts, behind signed addresses. Whether the token goes there is decided here and not left
        to the session, which may be the caller's own: it goes to the first host only.
        """
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # it has no __all__

        wanted = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        headers: Mapping[str, str] = build_hf_headers(library_name="fp8load", headers=wanted)
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        url = self.url
        for _ in range(_MAX_REDIRECTS):
            self.meter.add(0)
            with get_session().stream(
                "GET", url, headers=dict(headers), timeout=timeout, follow_redirects=False
            ) as response:
                location = response.headers.get("Location") if response.is_redirect else None
                if location is None:
                    yield response
                    return
            target = urljoin(url, location)
            if _origin(target) != _origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() not in _SECRETS}
            url = target
        raise network(self.place, f"more than {_MAX_REDIRECTS} redirects", expected="the file")

    def _check(self, response: Response, begin: int) -> int:
        """How many bytes of the body come before `begin`. Raises for every answer that is of no use."""
        from huggingface_hub import hf_raise_for_status

        status = response.status_code
        if status in _BUSY:
            wait = response.headers.get("Retry-After", "")
            raise _BrokenError(f"HTTP {status}", float(wait) if wait.isascii() and wait.isdigit() else 0.0)
        hf_raise_for_status(response)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise network(self.place, f"a body in {encoding}", expected="the file's own bytes")
        content_range = response.headers.get("Content-Range", "")
        if status == 206:
            given = _CONTENT_RANGE.fullmatch(content_range)
            if given is not None and int(given[1]) == begin:
                return 0
            got = f"Content-Range {content_range!r}"
            raise network(self.place, got, expected=f"a range from byte {begin:,}")
        if status == 200 and begin <= _MAX_SKIP:
            return begin  # the server ignores Range and sends the file from its first byte
        raise network(self.place, f"HTTP {status}: the server does not serve byte ranges",
                      expected=f"HTTP 206 from byte {begin:,}",
                      hint="`hf download` the repository, then open the folder")  # fmt: skip


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: a token for https does not go to http, nor to another port."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
