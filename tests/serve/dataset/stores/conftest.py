"""A store that fails, and pictures in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from dataset_sources import as_folder
from faulty_store import FaultyStore, faulty_store
from store_runs import PICTURES, SOURCE


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


@pytest.fixture
def there(tmp_path: Path, data: s3fs.S3FileSystem) -> str:
    """Ten pictures in the store."""
    data.put(str(as_folder(tmp_path / "set", PICTURES)), "data/set", recursive=True)
    return SOURCE


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The same ones on this machine, one of which is none."""
    return as_folder(tmp_path / "set", PICTURES | {"006.png": b"no picture"})
