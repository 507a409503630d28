"""Data sets with smaller maps, and without duplicates, as typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import Clsspec, save_picture

CODEC = re.compile(
    r"codec: patches lose \S+ % of their variance, cosine 0\.\d{6}; on (\d+) pictures?"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six pictures, of which the last is the first once more."""
    for index in (0, 1, 2, 3, 4):
        save_picture(tmp_path / "set" / f"{index}.png", index)
    (tmp_path / "set" / "5.png").write_bytes((tmp_path / "set" / "0.png").read_bytes())
    return tmp_path / "set"


def test_what_a_codec_loses_is_said_by_the_plan_and_at_the_end(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("batch", source, "--out", out, "--model", tiny_bundle, "--resize", "squash")
    plan = clsspec(*command, "--codec", "pca:2,int8", "--plan")
    assert plan.code == 0, plan.err
    (line,) = [line for line in plan.out.splitlines() if line.startswith("codec: ")]
    found = CODEC.fullmatch(line)
    assert found is not None, line
    assert found[1] == "1"
    result = clsspec(*command, "--codec", "pca:2,int8")
    assert result.code == 0, result.err
    assert result.err.splitlines()[-1] == line
    assert json.loads((out / "run.json").read_text())["fingerprint"]["codec"] == "pca:2,int8"
    checked = clsspec("verify", out)
    assert checked.code == 0, checked.err
    assert "patches 0.0e+00" in checked.out
    assert line in checked.out.splitlines()


def test_a_codec_comes_from_the_environment(
    clsspec: Clsspec,
    tiny_bundle: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLSSPEC_CODEC", "int8")
    out = tmp_path / "out"
    assert clsspec("batch", source, "--out", out, "--model", tiny_bundle).code == 0
    assert json.loads((out / "run.json").read_text())["fingerprint"]["codec"] == "int8"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--codec", "jpeg"), "codec 'jpeg'; accepted are none, int8, pca:128 and pca:128,int8"),
        (("--codec", "pca:9999"), "codec pca:9999; patches have "),
        (("--codec", "int8", "--tasks", "cls"), "codec int8 is for patch maps, which are not"),
    ],
)
def test_a_codec_that_does_not_fit_is_refused_in_one_line_before_anything_is_written(
    clsspec: Clsspec,
    tiny_bundle: Path,
    source: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    words: str,
) -> None:
    result = clsspec("batch", source, "--out", tmp_path / "o", "--model", tiny_bundle, *options)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(f"clsspec: {words}")
    assert not (tmp_path / "o").exists()


def test_duplicates_are_counted_in_the_summary(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("batch", source, "--out", out, "--model", tiny_bundle, "--dedupe")
    plan = clsspec(*command, "--plan")
    words = "duplicates: not looked for here; they count as pictures in all of this"
    assert words in plan.out.splitlines()
    result = clsspec(*command)
    assert result.code == 0, result.err
    assert result.err.splitlines()[-1].endswith(" images/s; 1 duplicate; none failed")
    found = [row["duplicate_of"] for row in pq.read_table(out / "rows").to_pylist()]
    assert found == [None] * 5 + [0]
    assert clsspec("verify", out).code == 0
