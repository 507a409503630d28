from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from standins.files import FileServer

from clsspec_serve import download as module
from clsspec_serve.download import download
from clsspec_serve.errors import SourceError, UsageError

OLD = bytes(range(256)) * 1000
NEW = OLD[::-1]
SHA256 = hashlib.sha256(OLD).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))


@pytest.fixture
def url(file_server: FileServer) -> str:
    file_server.files["/model.pth"] = OLD
    file_server.etags["/model.pth"] = '"old"'
    return f"{file_server.url}/model.pth"


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.pth"


def cut_short(url: str, destination: Path, server: FileServer, size: int) -> Path:
    """Leave a part of `size` bytes, as a connection does that never comes back."""
    server.cuts[:] = [size, 0, 0]
    with pytest.raises(SourceError):
        download(url, destination)
    server.requests.clear()
    part = destination.with_name("model.pth.part")
    assert part.read_bytes() == OLD[:size]
    return part


def names(destination: Path) -> list[str]:
    return sorted(path.name for path in destination.parent.iterdir())


def test_the_file_arrives_and_nothing_else_stays(url: str, destination: Path) -> None:
    assert download(url, destination) == destination
    assert destination.read_bytes() == OLD
    assert names(destination) == ["model.pth"]


def test_redirects_are_followed(url: str, destination: Path, file_server: FileServer) -> None:
    file_server.redirects["/latest"] = "/model.pth"
    download(f"{file_server.url}/latest", destination)
    assert destination.read_bytes() == OLD


def test_an_empty_file_arrives(url: str, destination: Path, file_server: FileServer) -> None:
    file_server.files["/model.pth"] = b""
    assert download(url, destination).read_bytes() == b""


def test_progress_ends_at_the_length(url: str, destination: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    download(url, destination, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(OLD), len(OLD))


def test_a_length_that_is_not_announced_is_no_error(
    url: str, destination: Path, file_server: FileServer
) -> None:
    file_server.announces_length = False
    seen: list[int | None] = []
    download(url, destination, progress=lambda done, total: seen.append(total))
    assert destination.read_bytes() == OLD
    assert set(seen) == {None}


def test_a_cut_connection_is_continued_where_it_broke(
    url: str, destination: Path, file_server: FileServer
) -> None:
    file_server.cuts = [100_000]
    download(url, destination, sha256=SHA256)
    assert destination.read_bytes() == OLD
    assert file_server.ranges() == [None, "bytes=100000-"]
    assert file_server.requests[1].headers["If-Range"] == '"old"'


def test_a_connection_that_keeps_breaking_is_continued_as_long_as_bytes_come(
    url: str, destination: Path, file_server: FileServer
) -> None:
    file_server.cuts = [50_000] * 5
    download(url, destination)
    assert destination.read_bytes() == OLD
    assert len(file_server.requests) == 6


def test_a_truncated_file_is_an_error_that_keeps_the_part(
    url: str, destination: Path, file_server: FileServer
) -> None:
    part = cut_short(url, destination, file_server, 1000)
    assert part.stat().st_size == 1000
    assert not destination.exists()


def test_a_later_call_continues_the_part(
    url: str, destination: Path, file_server: FileServer
) -> None:
    cut_short(url, destination, file_server, 1000)
    seen: list[tuple[int, int | None]] = []
    download(url, destination, progress=lambda done, total: seen.append((done, total)))
    assert destination.read_bytes() == OLD
    assert file_server.ranges() == ["bytes=1000-"]
    assert seen[0][0] > 1000
    assert seen[-1] == (len(OLD), len(OLD))


def test_a_part_that_is_whole_already_is_not_fetched_again(
    url: str, destination: Path, file_server: FileServer
) -> None:
    part = cut_short(url, destination, file_server, 1000)
    part.write_bytes(OLD)
    download(url, destination, sha256=SHA256)
    assert file_server.ranges() == [f"bytes={len(OLD)}-"]


def test_a_part_that_is_longer_than_the_file_is_dropped(
    url: str, destination: Path, file_server: FileServer
) -> None:
    part = cut_short(url, destination, file_server, 1000)
    part.write_bytes(OLD + b"more")
    download(url, destination)
    assert destination.read_bytes() == OLD


@pytest.mark.parametrize("obeys_if_range", [True, False])
def test_a_file_that_changed_meanwhile_starts_again(
    url: str, destination: Path, file_server: FileServer, obeys_if_range: bool
) -> None:
    cut_short(url, destination, file_server, 1000)
    file_server.obeys_if_range = obeys_if_range
    file_server.files["/model.pth"] = NEW
    file_server.etags["/model.pth"] = '"new"'
    download(url, destination)
    assert destination.read_bytes() == NEW


def test_a_server_that_knows_no_ranges_starts_again(
    url: str, destination: Path, file_server: FileServer
) -> None:
    cut_short(url, destination, file_server, 1000)
    file_server.obeys_range = False
    download(url, destination)
    assert destination.read_bytes() == OLD


def test_a_range_that_starts_elsewhere_starts_again(
    url: str, destination: Path, file_server: FileServer
) -> None:
    cut_short(url, destination, file_server, 1000)
    file_server.range_shift = 10
    download(url, destination)
    assert destination.read_bytes() == OLD
    assert file_server.ranges() == ["bytes=1000-", None]


def test_a_server_that_gives_short_ranges_is_asked_for_the_next_one(
    url: str, destination: Path, file_server: FileServer
) -> None:
    cut_short(url, destination, file_server, 1000)
    file_server.most_per_range = 200_000
    download(url, destination)
    assert destination.read_bytes() == OLD
    assert file_server.ranges() == ["bytes=1000-", "bytes=201000-"]


def test_a_server_that_compresses_unasked_is_understood(
    url: str, destination: Path, file_server: FileServer
) -> None:
    file_server.compresses = True
    download(url, destination, sha256=SHA256)
    assert [request.headers["Accept-Encoding"] for request in file_server.requests] == ["identity"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_part_without_a_strong_version_starts_again(
    url: str, destination: Path, file_server: FileServer, etag: str | None
) -> None:
    file_server.etags = {} if etag is None else {"/model.pth": etag}
    file_server.cuts = [1000] * 3
    with pytest.raises(SourceError):
        download(url, destination)
    assert destination.with_name("model.pth.part").stat().st_size == 1000
    download(url, destination)
    assert destination.read_bytes() == OLD
    assert file_server.ranges() == [None] * 4


def test_a_part_of_another_address_starts_again(
    url: str, destination: Path, file_server: FileServer
) -> None:
    cut_short(url, destination, file_server, 1000)
    file_server.files["/other.pth"] = NEW
    file_server.etags["/other.pth"] = '"old"'
    download(f"{file_server.url}/other.pth", destination)
    assert destination.read_bytes() == NEW


@pytest.mark.parametrize("digits", [64, 8])
def test_a_digest_or_its_beginning_is_accepted(url: str, destination: Path, digits: int) -> None:
    assert download(url, destination, sha256=SHA256[:digits].upper()) == destination


def test_another_hash_is_an_error_that_drops_the_part(url: str, destination: Path) -> None:
    with pytest.raises(SourceError, match=f"sha256 expected 0123456789abcdef, got {SHA256}"):
        download(url, destination, sha256="0123456789abcdef")
    assert names(destination) == []


def test_another_hash_leaves_an_older_file_in_place(url: str, destination: Path) -> None:
    destination.parent.mkdir()
    destination.write_bytes(b"older")
    with pytest.raises(SourceError):
        download(url, destination, sha256="00000000")
    assert destination.read_bytes() == b"older"


@pytest.mark.parametrize("sha256", ["abc", "0123456", "x" * 64, "a" * 65])
def test_what_is_no_hash_is_refused(url: str, destination: Path, sha256: str) -> None:
    with pytest.raises(UsageError, match="accepted are 8 to 64 hexadecimal digits"):
        download(url, destination, sha256=sha256)


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/hosts", "model.pth"])
def test_what_is_no_web_address_is_refused(url: str, destination: Path) -> None:
    with pytest.raises(UsageError, match="accepted is https://"):
        download(url, destination)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_names_address_and_place_and_is_not_repeated(
    url: str, destination: Path, file_server: FileServer, status: int
) -> None:
    file_server.refusals = [status]
    with pytest.raises(SourceError, match=f"HTTP {status}") as caught:
        download(url, destination)
    assert f"put it at {destination}" in str(caught.value)
    assert url in str(caught.value)
    assert len(file_server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(
    url: str, destination: Path, file_server: FileServer, status: int
) -> None:
    file_server.refusals = [status, status]
    download(url, destination)
    assert destination.read_bytes() == OLD


def test_a_server_that_stays_busy_is_not_asked_for_ever(
    url: str, destination: Path, file_server: FileServer
) -> None:
    file_server.refusals = [503] * 9
    with pytest.raises(SourceError, match="HTTP 503 Service Unavailable"):
        download(url, destination)
    assert len(file_server.requests) == 3


def test_a_refused_connection_names_address_and_place(
    closed_address: str, destination: Path
) -> None:
    url = f"{closed_address}/model.pth"
    with pytest.raises(SourceError) as caught:
        download(url, destination)
    message = str(caught.value)
    assert message.startswith(f"cannot download {url} (")
    assert message.endswith(f"download it by hand and put it at {destination}")
    assert "\n" not in message


def test_an_address_that_cannot_be_is_an_error(destination: Path) -> None:
    with pytest.raises(SourceError, match="cannot download http://"):
        download("http://[", destination)


def test_a_place_that_cannot_be_written_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cannot write"):
        download(url, tmp_path / "file" / "model.pth")
