"""The layers and the range that a head's file does not state, and layers that do not fit it."""

from __future__ import annotations

from pathlib import Path

import head_files as files
import pytest
import torch
from head_files import WIDTH, architecture, preprocessing
from head_reading import refusal
from head_writers import Write, bare, saved

from clsspec_export.heads.read import read_head
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import CheckpointError, UsageError
from clsspec_serve.layers import parse_layers


def test_a_range_that_nobody_stated_is_asked_for(tmp_path: Path) -> None:
    files.dinov2_depth(tmp_path / "head.pth", 2 * WIDTH)
    message = (
        "{} does not say where its range ends; give --max-depth in metres, 10 for NYU, 80 for KITTI"
    )
    assert refusal("depth", tmp_path / "head.pth", UsageError) == message.format("head.pth")
    files.dinov2_depth(tmp_path / "nyu_kitti.pth", 2 * WIDTH)
    assert refusal("depth", tmp_path / "nyu_kitti.pth", UsageError) == message.format(
        "nyu_kitti.pth"
    )


@pytest.mark.parametrize(
    ("task", "write"),
    [
        ("segment", lambda path: files.dinov3_segmentation(path, 4 * WIDTH, 5)),
        ("depth", lambda path: files.dinov3_depth(path, 8 * WIDTH)),
        ("segment", saved(files.linear(5, 4 * WIDTH))),
    ],
)
def test_four_layers_that_nobody_named_are_asked_for(
    task: HeadTask, write: Write, tmp_path: Path
) -> None:
    write(tmp_path / "nyu.pth")
    assert refusal(task, tmp_path / "nyu.pth", UsageError) == (
        "nyu.pth takes four layers and does not say which; name them with --head-layers, such as "
        "8,9,10,11"
    )


def test_the_quarters_of_an_unofficial_depth_are_asked_for(tmp_path: Path) -> None:
    files.dinov2_depth(tmp_path / "nyu.pth", 8 * WIDTH)
    assert refusal("depth", tmp_path / "nyu.pth", UsageError, depth=6) == (
        "nyu.pth takes four layers; which of 6 blocks is not official: name them with "
        "--head-layers, such as 2:raw,5:raw,8:raw,11:raw"
    )


@pytest.mark.parametrize(("task", "times"), [("segment", 4), ("classify", 5)])
def test_a_backbone_of_three_blocks_has_no_four_layers(
    task: HeadTask, times: int, tmp_path: Path
) -> None:
    path = tmp_path / "head.pth"
    if task == "segment":
        files.dinov2_segmentation(path, times * WIDTH, 5)
    else:
        torch.save(files.linear(5, times * WIDTH), path)
    assert refusal(task, path, CheckpointError, depth=3).startswith("head.pth ")


def test_layers_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    bare()(tmp_path / "head.pth")
    taken = parse_layers("12")
    assert refusal("classify", tmp_path / "head.pth", UsageError, layers=taken) == (
        "layer 12 does not exist; accepted are 0 to 11"
    )


@pytest.mark.parametrize(("layers", "accepted"), [("0,1", "2 or twice"), ("0,1,2", "3 or twice")])
def test_more_layers_than_the_head_is_wide_are_refused(
    layers: str, accepted: str, tmp_path: Path
) -> None:
    bare()(tmp_path / "head.pth")
    message = refusal(
        "segment", tmp_path / "head.pth", CheckpointError, layers=parse_layers(layers)
    )
    assert accepted in message


def test_layers_without_a_final_norm_are_named_raw(tmp_path: Path) -> None:
    bare()(tmp_path / "head.pth")
    with pytest.raises(UsageError, match="no final norm; ask for raw layers, such as 5:raw"):
        read_head(
            "classify",
            tmp_path / "head.pth",
            architecture(final_norm=False),
            preprocessing(),
            layers=parse_layers("11"),
        )


@pytest.mark.parametrize(
    ("task", "layers", "said"),
    [("depth", "2,5,8,11", "without"), ("segment", "8,9,10,11:raw", "with")],
)
def test_dinov2s_layers_with_or_without_the_norm_contrary_to_its_code_are_refused(
    task: HeadTask, layers: str, said: str, tmp_path: Path
) -> None:
    write = files.dinov2_depth if task == "depth" else files.dinov2_segmentation
    write(tmp_path / "nyu.pth", (8 if task == "depth" else 4) * WIDTH, 5)
    message = refusal(task, tmp_path / "nyu.pth", UsageError, layers=parse_layers(layers))
    assert f"DINOv2's heads for {task} take layers {said} the final norm" in message


def test_a_bare_layer_of_twice_the_width_needs_to_be_told_its_layers(tmp_path: Path) -> None:
    torch.save(files.linear(5, 2 * WIDTH), tmp_path / "head.pth")
    fitting = architecture(), preprocessing()
    with pytest.raises(UsageError, match=r"patches of two layers, or of one and its \[CLS\]"):
        read_head("segment", tmp_path / "head.pth", *fitting)
    for layers, names in (("11", ["patches", "cls"]), ("10,11", ["patches_10", "patches"])):
        head = read_head("segment", tmp_path / "head.pth", *fitting, layers=parse_layers(layers))
        assert [output.name for output in head.description.inputs] == names
