"""One file over HTTP: resumed where it was cut, checked before it takes its name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from clsspec_serve.errors import SourceError, UsageError

if TYPE_CHECKING:
    import httpx

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further attempt; one that came farther than ever starts the list anew."""

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_SECONDS_TO_CONNECT = 10.0
_SECONDS_OF_SILENCE = 30.0

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes that there will be, if the server says."""


class _Unfinished(Exception):
    """This attempt failed; another one may not."""


class _Refused(Exception):
    """The server will not give this file, however often it is asked."""


@dataclass(frozen=True)
class _Part:
    """The bytes so far, and beside them a note of the version of the file they belong to."""

    path: Path

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self, url: str) -> str | None:
        """The ETag or date of the bytes so far; None where they cannot be continued."""
        try:
            note = json.loads(self.note.read_text("utf-8"))
            version = note["version"] if note["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return version if isinstance(version, str) and self.size() else None

    def restart(self, url: str, version: str | None) -> None:
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps({"url": url, "version": version}), "utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    url: str, destination: Path, *, sha256: str | None = None, progress: Progress | None = None
) -> Path:
    """Fetch `url` (https or http) to `destination`, which appears only when it is whole.

    Until then the bytes lie in `destination.part`, which a later call continues if the server
    still has the same version. `sha256` is a digest or its first 8 or more hexadecimal digits.

    Raises SourceError when the server cannot be reached, refuses or cuts the file (the part stays),
    or when the hash differs (the part goes); UsageError for an address or a hash that is none.
    """
    import httpx

    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{8,64}", sha256):
        raise UsageError(f"not a sha256: got {sha256!r}, accepted are 8 to 64 hexadecimal digits")
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"not an address to download from: got {url!r}, accepted is https://...")
    part = _Part(destination.with_name(f"{destination.name}.part"))
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _fetch_patiently(url, part, progress)
        if sha256 is not None and not sha256_matches(part.path, sha256):
            got = sha256_of(part.path)
            part.discard()
            raise SourceError(
                f"{url} is not the file it should be: sha256 expected {sha256}, got {got}"
            )
        os.replace(part.path, destination)
        part.discard()
    except (_Unfinished, _Refused, httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise SourceError(
            f"cannot download {url} ({reason}): download it by hand and put it at {destination}"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot write {destination}: {error.strerror or error}") from error
    return destination


def sha256_of(path: Path) -> str:
    """The file's sha256 as 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_matches(path: Path, expected: str) -> bool:
    """Whether the file's sha256 is `expected`, or starts with it."""
    return sha256_of(path).startswith(expected.lower())


def _fetch_patiently(url: str, part: _Part, progress: Progress | None) -> None:
    import httpx

    # No transport of our own with `retries`: httpx would then pass over the proxy settings.
    timeout = httpx.Timeout(_SECONDS_OF_SILENCE, connect=_SECONDS_TO_CONNECT)
    farthest, failures = part.size(), 0
    with httpx.Client(follow_redirects=True, timeout=timeout) as client:
        while True:
            try:
                return _fetch(client, url, part, progress)
            except (_Unfinished, httpx.TransportError):
                failures = 1 if part.size() > farthest else failures + 1
                farthest = max(farthest, part.size())
                if failures > len(PAUSES):
                    raise
                time.sleep(PAUSES[failures - 1])


def _fetch(client: httpx.Client, url: str, part: _Part, progress: Progress | None) -> None:
    # A compressed answer would make nonsense of offsets and lengths.
    headers = {"Accept-Encoding": "identity"}
    version = part.version(url)
    if version is not None:
        headers |= {"Range": f"bytes={part.size()}-", "If-Range": version}
    with client.stream("GET", url, headers=headers) as response:
        start, total = _extent(response)
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if total == part.size():
                return
            part.discard()
            raise _Unfinished("the file on the server has another length now")
        if response.status_code in _TRANSIENT:
            raise _Unfinished(f"HTTP {response.status_code} {response.reason_phrase}")
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise _Refused(f"HTTP {response.status_code} {response.reason_phrase}")
        if response.status_code == HTTPStatus.OK:
            part.restart(url, _version(response))
        # Some servers honour Range and pass over If-Range.
        elif start != part.size() or _version(response) not in (None, version):
            part.discard()
            raise _Unfinished("the file on the server has changed")
        _append(response, part, total, progress)


def _append(
    response: httpx.Response, part: _Part, total: int | None, progress: Progress | None
) -> None:
    done = part.size()
    with part.path.open("ab") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    # The file itself, not our count: another process may have appended to it.
    if total is not None and part.size() != total:
        raise _Unfinished(f"got {part.size()} of {total} bytes")


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """Where the body starts in the file, and the file's length, in bytes."""
    span = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "")
    )
    if span is not None:
        return int(span[1] or 0), None if span[2] == "*" else int(span[2])
    length = response.headers.get("Content-Length")
    if length is None or "Content-Encoding" in response.headers:
        return 0, None
    return 0, int(length)


def _version(response: httpx.Response) -> str | None:
    """What If-Range accepts: a strong ETag, else the date."""
    etag: str = response.headers.get("ETag", 'W/""')
    date: str | None = response.headers.get("Last-Modified")
    return date if etag.startswith("W/") else etag
