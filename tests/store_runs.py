"""Runs from and to a store that fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from bounded import within
from dataset_sources import as_table, as_tar, computed, named, picture

from clsspec_serve.dataset.batch import Summary
from clsspec_serve.errors import ClsspecError
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}
PICTURES = named(10)
SECONDS = 30
"""For any run here; those that try again take one or two."""
SOURCE, OUT = "s3://data/set", "s3://data/out"


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
