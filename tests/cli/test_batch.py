from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import Clsspec, features_of, save_picture
from video_clips import H264, numbered

PICTURES = 5


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for index in range(PICTURES):
        save_picture(tmp_path / "set" / f"{index}.png", index)
    (tmp_path / "set" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "set"


def test_a_data_set_becomes_a_table_and_the_summary_says_what_failed(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = clsspec("batch", source, "--out", out, "--model", tiny_bundle, "--tasks", "cls")
    assert result.code == 0, result.err
    *_, summary = result.err.splitlines()
    assert summary.startswith(f"{out}: 6 pictures in 1 shard, ")
    assert summary.endswith(" images/s; 1 failed: 1 no picture")
    found = pq.read_table(out / "rows").to_pylist()
    assert [row["id"] for row in found] == [*(f"{index}.png" for index in range(5)), "broken.png"]
    for index in range(PICTURES):
        np.testing.assert_allclose(found[index]["cls"], features_of(index)["cls"], rtol=1e-6)


def test_the_options_reach_the_run(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = (
        *("--layers", "0:raw", "--dtype", "float16", "--shard-size", "2", "--batch-size", "3"),
        *("--size", "56x70", "--resize", "crop", "--background", "102030", "--max-pixels", "9999"),
        *("--engine", "onnxruntime", "--threads", "1", "--readers", "3"),
    )
    result = clsspec("batch", source, "--out", out, "--model", tiny_bundle, *options)
    assert result.code == 0, result.err
    text = (out / "run.json").read_text()
    for part in (
        *('"answers": "cls_0_raw, patches_0_raw"', '"size": "56x70"', '"resize": "crop"'),
        *('"dtype": "float16"', '"shard-size": "2"', '"batch-size": "3"'),
        *('"background": "102030"', '"max-pixels": "9999"'),
    ):
        assert part in text
    assert len(list((out / "shards").iterdir())) == 3


def test_too_many_failures_end_the_run_with_one_line(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    command = ("batch", source, "--out", tmp_path / "out", "--model", tiny_bundle)
    result = clsspec(*command, "--max-errors", "0")
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(
        "clsspec: 1 picture failed, the last one broken.png: is not an image; accepted are JPEG"
    )
    assert result.err.splitlines()[-1].endswith("; accepted are 0 (--max-errors)")
    assert clsspec(*command, "--max-errors", "1").code == 0


def test_a_run_that_has_failed_too_often_before_is_not_gone_on_with(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    (source / "broken.png").rename(source / "0-broken.png")
    (source / "4.png").write_bytes(b"no picture")
    command = ("batch", source, "--out", tmp_path / "out", "--model", tiny_bundle)
    shards = ("--shard-size", "2", "--batch-size", "1")
    assert clsspec(*command, *shards, "--max-errors", "1").code == 1
    result = clsspec(*command, *shards, "--max-errors", "0")
    assert result.code == 1
    assert result.err.splitlines()[-1] == (
        "clsspec: 1 picture failed before; accepted are 0 (--max-errors)"
    )
    assert clsspec(*command, *shards, "--max-errors", "2").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no/such",), 1, "no/such: there is no such folder or file"),
        (("set", "--tasks", "segment"), 2, "this bundle has no head for segment"),
        (("set", "--column", "image"), 2, "--column is for Parquet tables"),
        (("set", "--fps", "2"), 2, "--fps is for videos; set has pictures"),
        *(
            (("set", f"--fps={rate}"), 2, f"fps is {float(rate)}; accepted are numbers above 0")
            for rate in ("0", "-1", "nan", "inf")
        ),
        (("set", "--size", "big"), 2, "size 'big'; accepted is HxW in pixels"),
    ],
)
def test_what_cannot_be_is_one_line(
    clsspec: Clsspec,
    tiny_bundle: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(source.parent)
    result = clsspec("batch", *arguments, "--out", "out", "--model", tiny_bundle)
    assert result.code == code
    assert result.error().startswith(message) or message in result.error()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nowhere", "Invalid address format: nowhere"),
        ("127.0.0.1:9", "127.0.0.1:9 cannot be reached: [Errno 111] Connection refused"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    clsspec: Clsspec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    result = clsspec("batch", tmp_path, "--out", tmp_path / "out", "--runner", "ray")
    assert result.code == 1
    # Ray prints words of its own before.
    assert result.err.splitlines()[-1] == f"clsspec: ray: {reason}"


def test_without_its_extra_the_command_says_what_installs_it(
    clsspec: Clsspec, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = clsspec("batch", source, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.error() == (
        'this command needs pyarrow, zarr; install with: pip install "clsspec-serve[dataset]"'
    )


def test_frames_of_a_video_are_the_pictures_of_a_run(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    file, out = numbered(tmp_path / "clip.mp4", 30, **H264), tmp_path / "out"
    command = ("batch", file, "--out", out, "--model", tiny_bundle, "--tasks", "cls")
    result = clsspec(*command, "--fps", "0.7")
    assert result.code == 0, result.err
    found = pq.read_table(out / "rows").to_pylist()
    assert [row["id"] for row in found] == [
        f"clip.mp4#t={at}" for at in ("0.000", "1.400", "2.800")
    ]
    result = clsspec(*command)
    assert result.code == 1
    assert result.error() == f"{out} was begun otherwise: fps was 0.7 and is every frame"


def test_without_its_extra_a_video_is_refused_with_what_installs_it(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = numbered(tmp_path / "clip.mp4", 1, **H264)
    monkeypatch.setattr("clsspec_serve.dataset.videos.extra.find_spec", lambda name: None)
    result = clsspec("batch", file, "--out", tmp_path / "out", "--model", tiny_bundle)
    assert result.code == 2
    assert result.error() == ('videos need av; install it with: pip install "clsspec-serve[video]"')


def test_an_interrupt_says_how_to_go_on(
    clsspec: Clsspec,
    tiny_bundle: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clsspec_serve.predictor import Model

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = ("batch", source, "--out", tmp_path / "out", "--model", tiny_bundle)
    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", interrupted)
        result = clsspec(*command)
    assert result.code == 130
    assert result.err.splitlines()[-1] == "clsspec: interrupted; the same command goes on"
    assert clsspec(*command).code == 0


def test_a_run_is_verified_file_by_file_and_row_by_row(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("batch", source, "--out", out, "--model", tiny_bundle, "--resize", "squash")
    assert clsspec(*command, "--shard-size", "4").code == 0
    result = clsspec("verify", out)
    assert result.code == 0
    assert result.out.splitlines() == [
        "shards: 2 of 2 done, with 6 pictures, of which 1 failed",
        "files: 5 whole, their rows those of the listing",
        "sample: 6 pictures computed again; largest differences: cls 0.0e+00, patches 0.0e+00",
    ]
    array, table = (
        out / "patches.zarr" / "c" / "1" / "0" / "0" / "0",
        out / "rows" / "000000.parquet",
    )
    content = bytearray(array.read_bytes())
    content[100] ^= 1
    array.write_bytes(content)
    table.write_bytes(table.read_bytes()[:-1])
    (out / "rows" / "000001.parquet").unlink()
    result = clsspec("verify", out)
    assert result.code == 1
    assert result.out.splitlines()[1:] == [
        f"rows/000000.parquet: has {len(table.read_bytes())} bytes, recorded are "
        f"{len(table.read_bytes()) + 1}",
        "rows/000001.parquet: cannot be read: No such file or directory",
        "patches.zarr/c/1/0/0/0: was changed: its sha256 is another one",
    ]
    assert result.err == f"clsspec: {out} failed: 3 of its 5 files are not as recorded\n"


def test_a_run_that_is_not_finished_says_how_far_it_is(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("batch", source, "--out", out, "--model", tiny_bundle, "--shard-size", "3")
    assert clsspec(*command, "--max-errors", "0").code == 1
    result = clsspec("verify", out)
    assert result.code == 0
    assert result.out.startswith("shards: 1 of 2 done, with 3 pictures, of which 0 failed\n")


def test_pictures_of_a_run_that_cannot_be_computed_again_are_one_line(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert clsspec("batch", source, "--out", out, "--model", tiny_bundle).code == 0
    result = clsspec("verify", out, "--model", tmp_path / "nowhere")
    assert result.code == 1
    assert result.err.startswith("clsspec: no picture can be computed again: ")
    assert result.err.endswith("; --model names the model, --sample 0 leaves it out\n")
    for each in source.iterdir():
        each.unlink()
    result = clsspec("verify", out, "--sample", 2)
    assert result.code == 1
    assert "cannot be read: No such file or directory" in result.out
    assert result.err == (
        f"clsspec: no picture of {source} could be compared; --sample 0 leaves them out\n"
    )
    assert clsspec("verify", out, "--sample", 0).code == 0
    result = clsspec("verify", tiny_bundle, "--sample", 2)
    assert result.code == 2
    assert result.error() == (
        "--sample and --model are for the run of a data set; this is a bundle"
    )


def test_vectors_are_written_as_one_array_too(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("batch", source, "--out", out, "--model", tiny_bundle, "--tasks", "cls", "--npy")
    assert clsspec(*command).code == 0
    array = np.load(out / "cls.npy")
    rows = pq.read_table(out / "rows").to_pylist()
    for row, vector in zip(rows, array, strict=True):
        assert np.isnan(vector).all() if row["cls"] is None else vector.tolist() == row["cls"]


def test_a_plan_says_what_a_run_takes_and_writes_nothing(
    clsspec: Clsspec, tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("batch", source, "--out", out, "--model", tiny_bundle, "--resize", "squash")
    result = clsspec(*command, "--plan", "--batch-size", "2", "--shard-size", "3", "--npy")
    assert result.code == 0
    lines = dict(line.split(": ", 1) for line in result.out.splitlines())
    assert list(lines) == ["pictures", "to write", "free", "sample"]
    assert lines["pictures"] == "6 in 2 shards"
    assert lines["to write"].startswith("7 files, ")
    assert lines["sample"] == "6 pictures, 1 failed: 1 no picture"
    assert not out.exists()


def test_a_plan_that_does_not_fit_ends_with_an_error(
    clsspec: Clsspec,
    tiny_bundle: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clsspec_serve.dataset.trees.local.LocalTree.free", lambda self: 1000)
    out = tmp_path / "out"
    result = clsspec("batch", source, "--out", out, "--model", tiny_bundle, "--plan")
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(f"clsspec: {out} has room for 1.0 kB, not for ")


def test_durations_are_in_their_two_largest_units() -> None:
    from clsspec_cli.plan import duration

    assert duration(0.2) == "1 s"
    assert duration(59.6) == "1 min"
    assert duration(7799) == "2 h 9 min"
    assert duration(86_400 * 3) == "3 d"
    assert duration(86_400 * 3 + 3600 * 5 + 60) == "3 d 5 h"
