"""An S3 server that fails: for a moment, for good, while it is read, written and listed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from bounded import within
from command_line import tree
from dataset_sources import as_folder, as_table, as_tar, computed, named, picture, rows
from faulty_store import FaultyStore, faulty_store
from fsspec.implementations.memory import MemoryFileSystem
from http_server import colour_bundle

from clsspec_serve.dataset import batch
from clsspec_serve.dataset.batch import Summary
from clsspec_serve.dataset.run import is_run
from clsspec_serve.dataset.sources.find import find_source
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.dataset.sources.source import Changed
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.errors import ClsspecError, DatasetError, OutputError, UsageError
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}
PICTURES = named(10)
SECONDS = 30
"""For any run here; those that try again take one or two."""
SOURCE, OUT = "s3://data/set", "s3://data/out"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyStore]:
    """The server that `s3://` addresses mean; clients try a few times, and soon."""
    with faulty_store() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in (
            *(("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")),
            *(("AWS_ENDPOINT_URL", store.address), ("AWS_DEFAULT_REGION", "us-east-1")),
            *(("AWS_MAX_ATTEMPTS", "3"), ("AWS_RETRY_MODE", "legacy")),
        ):
            patch.setenv(name, value)
        patch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
        patch.setattr(s3fs.S3FileSystem, "retries", 2)
        patch.setattr(s3fs.S3FileSystem, "read_timeout", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def outside(server: FaultyStore) -> s3fs.S3FileSystem:
    """The store as another process sees it: it shares no cache with a run."""
    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


@pytest.fixture
def store(server: FaultyStore) -> Iterator[FaultyStore]:
    """The server, so far without faults."""
    yield server
    server.faults.clear()


@pytest.fixture
def data(store: FaultyStore, outside: s3fs.S3FileSystem) -> Iterator[s3fs.S3FileSystem]:
    """An empty bucket of that name, from outside."""
    outside.mkdir("data")
    yield outside
    store.faults.clear()
    outside.rm("data", recursive=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture
def there(tmp_path: Path, data: s3fs.S3FileSystem) -> str:
    """Ten pictures in the store."""
    data.put(str(as_folder(tmp_path / "set", PICTURES)), "data/set", recursive=True)
    return SOURCE


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The same ones on this machine, one of which is none."""
    return as_folder(tmp_path / "set", PICTURES | {"006.png": b"no picture"})


def run_over(bundle: Path, source: str | Path, out: str | Path, **changes: Any) -> Summary:
    """A run that has to end."""
    return within(SECONDS, lambda: computed(bundle, source, out, OPTIONS, **changes))


def refused(kind: type[ClsspecError], run: Callable[[], object]) -> str:
    """What a run says that ends with an error of that kind: one line."""
    with pytest.raises(kind) as caught:
        run()
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("answer", ["500", "503", "reset", "cut", "stall"])
def test_pictures_that_cannot_be_read_for_a_moment_are_read_after_all(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, answer: str
) -> None:
    run_over(bundle, there, tmp_path / "whole")
    times = 1 if answer in ("cut", "stall") else 2
    faults = [
        store.fail("GET", f"data/set/{name}", answer, times=times)
        for name in ("000.png", "004.png", "009.png")
    ]
    assert not run_over(bundle, there, tmp_path / "out").failures
    assert [fault.failed for fault in faults] == [times] * 3
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("500", "cannot be read: We encountered an internal error."),
        ("503", "cannot be read: Please reduce your request rate."),
        ("two lines", "cannot be read: An internal error. Try again."),
        ("denied", "cannot be read: Access Denied"),
        ("reset", "cannot be read: Connection was closed before we rec"),
        ("cut", "cannot be read: Response payload is not completed"),
    ],
)
def test_a_picture_that_can_never_be_read_is_a_failure_of_its_own(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, answer: str, words: str
) -> None:
    run_over(bundle, there, tmp_path / "whole")
    store.fail("GET", r"data/set/003\.png", answer)
    assert run_over(bundle, there, tmp_path / "out").failures == {"unreadable": 1}
    found, whole = rows(tmp_path / "out"), rows(tmp_path / "whole")
    bad = found.pop(3)
    assert (bad["id"], bad["kind"], bad["cls"]) == ("003.png", "unreadable", None)
    assert bad["error"].startswith(words)
    assert bad["error"].isprintable()
    assert found == whole[:3] + whole[4:]


def in_the_store(data: s3fs.S3FileSystem, tmp_path: Path, form: str, content: bytes) -> str:
    """A data set whose second picture has this content; gives its address."""
    pictures = {"000.png": picture(0), "001.png": content, "002.png": picture(2)}
    if form == "files":
        for name, each in pictures.items():
            data.pipe(f"data/set/{name}", each)
    elif form == "tars":
        data.put(str(as_tar(tmp_path / "a.tar", pictures)), "data/set/a.tar")
    else:
        table = as_table(tmp_path / "a.parquet", "image", list(pictures.values()))
        data.put(str(table), "data/set/a.parquet")
    return SOURCE


def between_listing_and_reading(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]
) -> None:
    """From now on it happens in each run, once the pictures are listed."""
    resume = batch.resume

    def resumed(*arguments: Any, **options: Any) -> Any:
        run = resume(*arguments, **options)
        happens()
        return run

    monkeypatch.setattr(batch, "resume", resumed)


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("files", "another size"),
        ("files", "the same size"),
        ("files", "nothing is left"),
        ("tars", "another size"),
        ("tars", "the same size"),
        ("tables", "another size"),
    ],
)
def test_what_is_overwritten_after_the_listing_is_a_failure_and_not_another_picture(
    bundle: Path,
    tmp_path: Path,
    data: s3fs.S3FileSystem,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    change: str,
) -> None:
    source = in_the_store(data, tmp_path, form, picture(1))
    content = {
        "another size": picture(99, 42, 56),
        "the same size": picture(99),
        "nothing is left": b"",
    }[change]
    assert (len(content) == len(picture(1))) == (change == "the same size")
    between_listing_and_reading(monkeypatch, lambda: in_the_store(data, tmp_path, form, content))
    run_over(bundle, source, tmp_path / "out")
    kinds = [row["kind"] for row in rows(tmp_path / "out")]
    if form == "files":
        # The others were written anew, too, with what they had before.
        assert kinds[1] == "changed"
    else:
        assert kinds == ["changed"] * 3


def test_a_table_that_is_overwritten_while_it_is_read_is_no_other_table(
    tmp_path: Path, data: s3fs.S3FileSystem
) -> None:
    def put(first: int) -> None:
        values = [picture(first + index) for index in range(7)]
        data.put(str(as_table(tmp_path / "a.parquet", "image", values)), "data/set/a.parquet")

    put(0)
    source = find_source(SOURCE)
    reader, items = open_reader(source.place), list(source.items())
    assert reader.read(items[0]) == picture(0)
    put(10)
    with pytest.raises(Changed):
        reader.read(items[5])


def test_what_was_overwritten_before_the_listing_is_what_is_read_in_the_same_process_too(
    bundle: Path, tmp_path: Path, data: s3fs.S3FileSystem, there: str
) -> None:
    run_over(bundle, there, tmp_path / "0")
    data.pipe("data/set/001.png", picture(99))
    assert not run_over(bundle, there, tmp_path / "1").failures
    before, after = rows(tmp_path / "0"), rows(tmp_path / "1")
    assert after[1]["cls"] != before[1]["cls"]
    assert after[2:] == before[2:]


@pytest.mark.parametrize("form", ["files", "tars", "tables"])
def test_what_is_deleted_after_the_listing_is_a_failure(
    bundle: Path,
    tmp_path: Path,
    data: s3fs.S3FileSystem,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    source = in_the_store(data, tmp_path, form, picture(1))
    gone = {"files": "001.png", "tars": "a.tar", "tables": "a.parquet"}[form]
    between_listing_and_reading(monkeypatch, lambda: data.rm(f"data/set/{gone}"))
    run_over(bundle, source, tmp_path / "out")
    found = [row["error"] or "" for row in rows(tmp_path / "out")]
    bad = found[1:2] if form == "files" else found
    assert all(re.fullmatch(r"cannot be read: .*key does not exist.*|.*data/set.*", _) for _ in bad)
    if form == "files":
        assert found[0] == found[2] == ""


@pytest.mark.parametrize("form", ["tars", "tables"])
@pytest.mark.parametrize("answer", ["500", "reset"])
def test_an_archive_that_cannot_be_listed_is_a_failure_of_its_own(
    bundle: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    form: str,
    answer: str,
) -> None:
    source = in_the_store(data, tmp_path, form, picture(1))
    store.fail("GET", r"data/set/a\..+", answer)
    run_over(bundle, source, tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert row["kind"] == "unreadable"
    assert row["error"].startswith("cannot be read: ")
    assert row["error"].isprintable()


def test_an_empty_member_of_a_tar_is_read_as_such(
    bundle: Path, tmp_path: Path, data: s3fs.S3FileSystem
) -> None:
    run_over(bundle, in_the_store(data, tmp_path, "tars", b""), tmp_path / "out")
    assert [row["kind"] for row in rows(tmp_path / "out")] == [None, "no picture", None]


@pytest.mark.parametrize(
    ("answer", "words"), [("500", "Internal Server Error"), ("reset", "Connection was closed")]
)
def test_a_listed_picture_of_which_nothing_is_known_is_not_taken_for_a_missing_one(
    bundle: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    there: str,
    answer: str,
    words: str,
) -> None:
    source = f"{there}/list.txt"
    data.pipe(source, b"000.png\nno.png\n001.png\n")
    run_over(bundle, source, tmp_path / "whole")
    errors = [row["error"] for row in rows(tmp_path / "whole")]
    assert errors == [None, "there is no such file", None]
    store.fail("HEAD", r"data/set/001\.png", answer)
    message = refused(DatasetError, lambda: run_over(bundle, source, tmp_path / "out"))
    assert message.startswith(f"{source}: cannot be read: {words}")


WRITTEN = (
    *(("run.json", 0), ("listing/0.parquet", 0), ("patches.zarr/zarr.json", 0), ("run.json", 1)),
    *(("rows/000001.parquet", 0), ("patches.zarr/c/1/0/0/0", 0), ("samples/000001.tar", 0)),
    *(("shards/000001.json", 0), ("shards/000002.json", 0)),
)
"""Objects of a run, and how many times each was written before."""


@pytest.mark.parametrize(
    ("path", "skip", "answer"),
    [
        *((path, skip, "500") for path, skip in WRITTEN),
        *((path, skip, "denied") for path, skip in WRITTEN[::4]),
        *((path, skip, "reset") for path, skip in WRITTEN[::4]),
    ],
)
def test_a_file_that_cannot_be_written_ends_the_run_and_the_same_command_goes_on(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    path: str,
    skip: int,
    answer: str,
) -> None:
    fault = store.fail("PUT", f"data/out/{path}", answer, skip=skip)
    message = refused(OutputError, lambda: run_over(bundle, here, OUT))
    assert fault.failed
    assert message.startswith(f"cannot write {OUT}/{path}: ")
    number = re.search(r"/c/(\d)|00000(\d)", path)
    done = int(number[1] or number[2]) if number else 0
    records = [Path(name).name for name in data.find("data/out/shards")]
    assert records == [f"{shard:06}.json" for shard in range(done)]
    if path == "run.json" and not skip:
        assert not data.exists("data/out")
    store.faults.clear()
    run_over(bundle, here, OUT)
    run_over(bundle, here, tmp_path / "whole")
    data.get("data/out", str(tmp_path / "out"), recursive=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("answer", ["500", "reset"])
def test_files_that_cannot_be_written_for_a_moment_are_written_after_all(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    answer: str,
) -> None:
    faults = [
        store.fail("PUT", f"data/out/{path}", answer, times=1)
        for path in ("run.json", "rows/000001.parquet", "shards/000002.json")
    ]
    run_over(bundle, here, OUT)
    assert [fault.failed for fault in faults] == [1, 1, 1]
    run_over(bundle, here, tmp_path / "whole")
    data.get("data/out", str(tmp_path / "out"), recursive=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["LIST", "PUT"])
def test_an_answer_of_two_lines_is_told_in_one(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, kind: str
) -> None:
    store.fail(kind, "data/set/" if kind == "LIST" else "data/out/run.json", "two lines")
    assert "An internal error. Try again." in refused(
        ClsspecError, lambda: run_over(bundle, there, OUT)
    )


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        pytest.param(0, "500", id="when it is looked for"),
        pytest.param(1, "denied", id="when it is counted"),
        pytest.param(2, "500", id="when it is listed"),
        pytest.param(0, "reset", id="when it is looked for, lost"),
        pytest.param(2, "reset", id="when it is listed, lost"),
    ],
)
def test_a_source_that_cannot_be_listed_is_one_line(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, before: int, answer: str
) -> None:
    fault = store.fail("LIST", "data/set/", answer, skip=before)
    message = refused(DatasetError, lambda: run_over(bundle, there, tmp_path / "out"))
    assert fault.failed
    assert message.startswith(f"{SOURCE}: cannot be read: ")


def test_a_source_that_cannot_be_listed_for_a_moment_is_listed_after_all(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str
) -> None:
    fault = store.fail("LIST", "data/set/", "reset", skip=2, times=2)
    assert run_over(bundle, there, tmp_path / "out").pictures == 10
    assert fault.failed == 2


@pytest.mark.parametrize("answer", ["500", "denied", "reset"])
def test_a_run_whose_state_cannot_be_read_is_one_line_and_stays_as_it_is(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    answer: str,
) -> None:
    with pytest.raises(DatasetError, match="1 picture failed"):
        run_over(bundle, here, OUT, max_errors=0)
    before = {name: data.cat(name) for name in data.find("data/out")}
    store.fail("GET", "data/out/run.json", answer)
    message = refused(DatasetError, lambda: run_over(bundle, here, OUT))
    assert message.startswith(f"{OUT}/run.json cannot be read: ")
    store.faults.clear()
    assert {name: data.cat(name) for name in data.find("data/out")} == before


@pytest.mark.parametrize(
    ("kind", "key", "answer"),
    [
        ("HEAD", r"data/out/run\.json", "denied"),
        ("LIST", "data/out/shards/", "500"),
        ("GET", r"data/out/shards/000000\.json", "denied"),
        ("GET", r"data/out/listing/0\.parquet", "500"),
    ],
)
def test_a_run_that_cannot_be_looked_at_is_one_line(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    kind: str,
    key: str,
    answer: str,
) -> None:
    with pytest.raises(DatasetError, match="1 picture failed"):
        run_over(bundle, here, OUT, max_errors=0)
    fault = store.fail(kind, key, answer)
    message = refused(ClsspecError, lambda: run_over(bundle, here, OUT))
    assert fault.failed
    assert OUT in message


def test_a_listing_that_is_damaged_is_one_line(
    bundle: Path, here: Path, data: s3fs.S3FileSystem
) -> None:
    with pytest.raises(DatasetError, match="1 picture failed"):
        run_over(bundle, here, OUT, max_errors=0)
    data.pipe("data/out/listing/0.parquet", b"PAR1")
    message = refused(DatasetError, lambda: run_over(bundle, here, OUT))
    assert message.startswith(f"{OUT}/listing/0.parquet cannot be read: ")


class Picky(MemoryFileSystem):
    """A store that takes no options, as sftp, and at times does not answer."""

    protocol = "picky"
    cachable = False
    up = True

    def __init__(self) -> None:
        super().__init__()
        if not self.up:
            raise RuntimeError("no\nconnection")

    def info(self, path: str, **options: Any) -> Any:
        if path.endswith("lost/run.json"):
            raise RuntimeError("no\nconnection")
        return super().info(path, **options)


def test_errors_of_any_store_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("picky", Picky)
    assert not is_run(open_tree("picky://data/out"))
    message = refused(DatasetError, lambda: is_run(open_tree("picky://data/lost")))
    assert message == "picky://data/lost/run.json cannot be read: no connection"
    monkeypatch.setattr(Picky, "up", False)
    message = refused(UsageError, lambda: open_tree("picky://data/out"))
    assert message == "picky://data/out: no connection"


def test_a_bucket_that_is_not_there_cannot_be_written_to(
    bundle: Path, here: Path, data: s3fs.S3FileSystem
) -> None:
    message = refused(OutputError, lambda: run_over(bundle, here, "s3://nowhere/out"))
    assert message == "cannot write s3://nowhere/out/run.json: The specified bucket does not exist"


def test_a_store_that_denies_everything_is_one_line(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str
) -> None:
    for kind in ("GET", "HEAD", "LIST", "PUT"):
        store.fail(kind, ".*", "denied")
    message = refused(DatasetError, lambda: run_over(bundle, there, tmp_path / "out"))
    assert re.fullmatch(f"{SOURCE}: cannot be read: (Forbidden|Access Denied)", message)
    assert not os.path.exists(tmp_path / "out")


def test_a_server_that_is_not_there_is_one_line(
    bundle: Path, tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        message = refused(DatasetError, lambda: run_over(bundle, there, tmp_path / "out"))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert message.startswith(f"{SOURCE}: ")
