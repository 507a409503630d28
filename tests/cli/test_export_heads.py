from __future__ import annotations

import json
from pathlib import Path

import head_files as files
import pytest
import torch
from command_line import Clsspec, tree

from clsspec_serve.bundle import open_bundle

WIDTH = 32
"""Of the toy; it has two blocks."""


@pytest.fixture
def toy() -> str:
    from tiny_architecture import NAME

    return f"random:{NAME}"


@pytest.fixture
def heads(tmp_path: Path) -> dict[str, Path]:
    """A head for each task that fits the toy."""
    folder = tmp_path / "heads"
    folder.mkdir()
    found = {task: folder / f"{task}.pth" for task in ("segment", "depth", "classify")}
    files.dinov2_segmentation(found["segment"], WIDTH, 21)
    files.dinov2_depth(found["depth"], 2 * WIDTH)
    torch.save(files.linear(4, 2 * WIDTH), found["classify"])
    return found


def test_heads_for_all_tasks_are_exported_verified_and_inspected(
    clsspec: Clsspec, tmp_path: Path, toy: str, heads: dict[str, Path]
) -> None:
    out = tmp_path / "toy"
    options = [text for task, path in heads.items() for text in ("--head", f"{task}={path}")]
    result = clsspec("export", toy, "--out", out, *options, "--max-depth", "12.5")
    assert (result.code, result.out) == (0, "")
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith("reading ")] == [
        f"reading {toy}",
        *(f"reading {path}" for path in heads.values()),
    ]
    words = " fp32: difference to PyTorch, of the largest value: "
    said = [line for line in lines if words in line]
    assert len(said) == 2
    assert all(f", {task} " in line for task in heads for line in said)
    manifest = open_bundle(out).manifest
    assert [head.task for head in manifest.heads] == ["segment", "depth", "classify"]
    assert {f"heads/{task}.onnx" for task in heads} <= manifest.files.keys()
    assert all(head.source.name == heads[head.task].name for head in manifest.heads)

    verified = clsspec("verify", out)
    assert (verified.code, verified.err) == (0, "")
    # Of each of two samples: [CLS], patches, both of them raw, and three heads.
    assert "onnxruntime fp32: passed: 14 outputs" in verified.out

    shown = [" ".join(line.split()) for line in clsspec("inspect", out).out.splitlines()]
    assert "head: segment 21 classes, from patches" in shown
    assert "head: depth 0.001 to 12.5 m by bins, from patches_1_raw + cls_1_raw" in shown
    assert "head: classify 4 classes, from cls + patches" in shown
    facts = json.loads(clsspec("inspect", out, "--json").out)
    assert [head["task"] for head in facts["heads"]] == ["segment", "depth", "classify"]
    assert facts["parity"][0]["heads"].keys() == heads.keys()


def test_the_blocks_that_a_head_takes_are_named_where_its_file_does_not_say(
    clsspec: Clsspec, tmp_path: Path, toy: str
) -> None:
    files.dinov3_segmentation(tmp_path / "head.pth", 2 * WIDTH, 5)
    head = f"segment={tmp_path / 'head.pth'}"
    options = ("--head", head, "--head-layers", "0:raw,1", "--plain")
    assert clsspec("export", toy, "--out", tmp_path / "toy", *options).code == 0
    (found,) = open_bundle(tmp_path / "toy").manifest.heads
    assert [output.name for output in found.inputs] == ["patches_0_raw", "patches"]


def test_one_classifier_of_a_file_is_exported(clsspec: Clsspec, tmp_path: Path, toy: str) -> None:
    names = [files.classifier_name(1, rate) for rate in ("0_1", "0_2")]
    files.classifiers(tmp_path / "checkpoint.pth", dict.fromkeys(names, (3, 2 * WIDTH)))
    head = f"classify={tmp_path / 'checkpoint.pth'}#{names[1]}"
    assert clsspec("export", toy, "--out", tmp_path / "toy", "--head", head).code == 0
    (found,) = open_bundle(tmp_path / "toy").manifest.heads
    assert found.source.name == "checkpoint.pth"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--head", "heads/segment.pth"],
            "--head heads/segment.pth; accepted is TASK=FILE with segment, depth, classify",
        ),
        (
            ["--head", "segment="],
            "--head segment=; accepted is TASK=FILE with segment, depth, classify",
        ),
        (
            ["--head", "cls=heads/segment.pth"],
            "--head cls=heads/segment.pth; accepted is TASK=FILE with segment, depth, classify",
        ),
        (
            ["--head", "segment=a.pth", "--head", "segment=b.pth"],
            "--head segment=b.pth; there is a head for segment already: a.pth",
        ),
        (["--head-layers", "1"], "--head-layers needs a --head, and names one layer or more"),
        (
            ["--head", "segment=heads/segment.pth", "--head-layers", ""],
            "--head-layers needs a --head, and names one layer or more",
        ),
        (
            ["--head", "segment=heads/segment.pth", "--head-layers", "last"],
            "layers 'last'; accepted are block numbers from 0, such as 5,11:raw",
        ),
        (["--max-depth", "10"], "--max-depth is for --head depth=FILE, and more than 0.001 m"),
        *(
            (
                ["--head", "depth=heads/depth.pth", "--max-depth", metres],
                "--max-depth is for --head depth=FILE, and more than 0.001 m",
            )
            for metres in ("0.001", "0", "-3", "nan", "inf")
        ),
        (
            ["--head", "depth=dinov2_vits14_ade20k_linear"],
            "dinov2_vits14_ade20k_linear is a head for segment, not for depth",
        ),
    ],
)
def test_options_that_contradict_themselves_are_refused_before_anything_is_read(
    clsspec: Clsspec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy: str,
    heads: dict[str, Path],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    result = clsspec("export", toy, "--out", "toy", *options)
    assert result.code == 2
    assert result.error() == message
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["depth=heads/depth.pth"], 2, "depth.pth does not say where its range ends; give"),
        (["segment=heads/depth.pth"], 1, "heads/depth.pth is no head of this task: missing"),
        (["segment=gone.pth"], 1, "gone.pth is not a file; --head takes TASK=FILE, or a name"),
        (["segment=heads"], 1, "heads is not a file; --head takes TASK=FILE, or a name"),
        (["segment=heads/segment.pth#x"], 1, "heads/segment.pth holds a single head, none called"),
        (
            ["segment=heads/segment.pth", "--head-layers", "2"],
            2,
            "layer 2 does not exist; accepted are 0 to 1",
        ),
        (["segment=heads/wide.pth"], 1, "wide.pth is a head of width 33, the backbone is 32 wide"),
        (["segment=heads/four.pth"], 1, "four.pth takes four layers, the backbone has 2"),
    ],
)
def test_a_head_that_does_not_fit_leaves_nothing(
    clsspec: Clsspec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy: str,
    heads: dict[str, Path],
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    files.dinov2_segmentation(tmp_path / "heads" / "wide.pth", WIDTH + 1, 5)
    files.dinov2_segmentation(tmp_path / "heads" / "four.pth", 4 * WIDTH, 5)
    before = tree(tmp_path)
    result = clsspec("export", toy, "--out", "new/toy", "--head", *options)
    assert (result.code, result.out) == (code, "")
    assert result.err.splitlines()[-1].startswith(f"clsspec: {message}")
    assert "Traceback" not in result.err
    assert tree(tmp_path) == before


def test_an_existing_bundle_is_kept_when_a_head_does_not_fit(
    clsspec: Clsspec, tmp_path: Path, toy: str, tiny_bundle: Path
) -> None:
    files.dinov2_segmentation(tmp_path / "wide.pth", WIDTH + 1, 5)
    before = tree(tmp_path)
    head = f"segment={tmp_path / 'wide.pth'}"
    result = clsspec("export", toy, "--out", tiny_bundle, "--head", head, "--force")
    assert result.code == 1
    assert tree(tmp_path) == before
