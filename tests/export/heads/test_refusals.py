"""Head files that do not fit: one line that says what was found and what is accepted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_files as files
import pytest
import torch
from head_files import WIDTH
from head_reading import refusal
from head_writers import Write, bare, saved

from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import CheckpointError
from clsspec_serve.layers import parse_layers


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Write:
    """DINOv2's segmentation head with another tensor."""

    def write(path: Path) -> None:
        state = files.dinov2_segmentation(path, WIDTH, 5)
        state[key] = change(state[key])
        torch.save({"state_dict": files.named("decode_head", state)}, path)

    return write


def without(*keys: str) -> Write:
    def write(path: Path) -> None:
        state = files.dinov2_segmentation(path, WIDTH, 5)
        kept = {key: value for key, value in state.items() if key not in keys}
        torch.save({"state_dict": files.named("decode_head", kept)}, path)

    return write


def beside(key: str) -> Write:
    """DINOv2's segmentation head in a file that holds more."""

    def write(path: Path) -> None:
        state = files.named("decode_head", files.dinov2_segmentation(path, WIDTH, 5))
        torch.save({"state_dict": state | {key: torch.zeros(1)}}, path)

    return write


def classifiers(*rates: str) -> Write:
    names = [files.classifier_name(1, rate) for rate in rates]
    return lambda path: files.classifiers(path, dict.fromkeys(names, (5, 2 * WIDTH)))


def nan(value: torch.Tensor) -> torch.Tensor:
    return torch.full_like(value, torch.nan)


class Bomb:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


FILES: dict[str, tuple[HeadTask, Write, str]] = {
    "a width that is no multiple": (
        "segment",
        lambda path: files.dinov2_segmentation(path, WIDTH + 1, 5),
        "head.pth is a head of width 25, the backbone is 24 wide; accepted is a multiple of that",
    ),
    "a smaller width": (
        "segment",
        lambda path: files.dinov2_segmentation(path, WIDTH // 2, 5),
        "head.pth is a head of width 12, the backbone is 24 wide; accepted is a multiple of that",
    ),
    "a width of no official head": (
        "segment",
        lambda path: files.dinov2_segmentation(path, 2 * WIDTH, 5),
        "head.pth is a head of width 48, the backbone is 24 wide; accepted is 1 or 4 times",
    ),
    "a depth head of another width": (
        "depth",
        lambda path: files.dinov2_depth(path, 3 * WIDTH),
        "head.pth is a head of width 72, the backbone is 24 wide; accepted is 2 or 8 times",
    ),
    "a bare head of another width": (
        "segment",
        saved(files.linear(5, 3 * WIDTH)),
        "head.pth is a head of width 72, the backbone is 24 wide; accepted is 1, 2, 4 or 8 times",
    ),
    "a classifier of another width": (
        "classify",
        saved(files.linear(5, 3 * WIDTH)),
        "head.pth is a head of width 72, the backbone is 24 wide; accepted is 1, 2, 4 or 5 times",
    ),
    "segmentation for depth": (
        "depth",
        lambda path: files.dinov2_segmentation(path, WIDTH, 5),
        "PATH is no head of this task: missing conv_depth.weight, conv_depth.bias; unexpected "
        "conv_seg.weight, conv_seg.bias",
    ),
    "depth for segmentation": (
        "segment",
        lambda path: files.dinov3_depth(path, WIDTH, normed=False),
        "PATH is no head of this task: missing conv.weight, conv.bias; unexpected "
        "conv_depth.weight, conv_depth.bias",
    ),
    "segmentation for classification": (
        "classify",
        lambda path: files.dinov2_segmentation(path, WIDTH, 5),
        "PATH is a file of dense heads; it holds none for classify",
    ),
    "classification for segmentation": (
        "segment",
        classifiers("0_1"),
        "PATH is a file of classifiers; it holds none for segment",
    ),
    "a tensor that is missing": (
        "segment",
        without("conv_seg.bias"),
        "PATH is no head of this task: missing conv_seg.bias; unexpected nothing",
    ),
    "half of a BatchNorm": (
        "segment",
        without("bn.running_var", "bn.weight"),
        "PATH is no head of this task: missing bn.weight, bn.running_var; unexpected nothing",
    ),
    "another layer in the head": (
        "segment",
        beside("decode_head.fusion.weight"),
        "PATH is no head of this task: missing nothing; unexpected fusion.weight",
    ),
    "a backbone in the same file": (
        "segment",
        beside("backbone.cls_token"),
        "PATH is no head of this task: missing nothing; unexpected backbone.cls_token",
    ),
    "nothing that is a head": (
        "segment",
        saved({"epoch": 3}),
        "PATH is no head of this task: missing weight, bias; unexpected epoch",
    ),
    "keys that are no names": (
        "segment",
        saved({1: torch.zeros(2)}),
        "PATH is no head of this task: missing weight, bias; unexpected 1",
    ),
    "a list": ("segment", saved([torch.zeros(2)]), "PATH holds a list, not tensors by name"),
    "a value that is no tensor": (
        "segment",
        bare(weight=[1.0]),
        "PATH: weight is a list, no tensor",
    ),
    "a convolution over neighbours": (
        "segment",
        bare(weight=torch.zeros(5, WIDTH, 3, 3)),
        "PATH: weight has shape (5, 24, 3, 3); expected (K, C) or (K, C, 1, 1)",
    ),
    "a weight without rows": (
        "depth",
        bare(weight=torch.zeros(0, WIDTH), bias=torch.zeros(0)),
        "PATH: weight has shape (0, 24); expected (K, C) or (K, C, 1, 1)",
    ),
    "a bias for other classes": (
        "segment",
        changed("conv_seg.bias", lambda bias: bias[:-1]),
        "PATH: bias has shape (4,); expected (5,)",
    ),
    "a BatchNorm of another width": (
        "segment",
        changed("bn.running_mean", lambda mean: mean[1:]),
        "PATH: norm.mean has shape (23,); expected (24,)",
    ),
    "weights that are not numbers": (
        "segment",
        changed("conv_seg.weight", nan),
        "PATH: its weight is not made of finite numbers",
    ),
    "a variance that is not a number": (
        "segment",
        changed("bn.running_var", nan),
        "PATH: its norm.variance is not made of finite numbers",
    ),
    "a negative variance": (
        "segment",
        changed("bn.running_var", lambda variance: -variance),
        "PATH: its weight is not made of finite numbers",
    ),
    "integers": (
        "segment",
        changed("conv_seg.weight", lambda weight: weight.to(torch.int8)),
        "PATH: its weight is not made of finite numbers",
    ),
    "integers without a BatchNorm": (
        "classify",
        bare(bias=torch.ones(5, dtype=torch.int64)),
        "PATH: its bias is not made of finite numbers",
    ),
    "a number beyond float32": (
        "classify",
        bare(bias=torch.full((5,), 1e300, dtype=torch.float64)),
        "PATH: its bias is not made of finite numbers",
    ),
    "text": (
        "segment",
        lambda path: path.write_text("no weights"),
        "PATH is not a readable PyTorch file",
    ),
    "an empty file": (
        "segment",
        lambda path: path.touch(),
        "PATH is not a readable PyTorch file: EOFError",
    ),
    "several classifiers": (
        "classify",
        classifiers("0_1", "0_2"),
        "PATH holds 2 classifiers, choose one as FILE#NAME: classifier_1_blocks_avgpool_True_lr_0_1"
        ", classifier_1_blocks_avgpool_True_lr_0_2",
    ),
}


@pytest.mark.parametrize(("task", "write", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_such_head_is_refused(
    task: HeadTask, write: Write, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "head.pth"
    write(path)
    options = {"maximum": 10.0} if task == "depth" else {}
    assert refusal(task, path, CheckpointError, **options) == message.replace("PATH", str(path))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "head.pth")
    message = refusal("segment", tmp_path / "head.pth", CheckpointError)
    assert "holds more than tensors and plain values" in message
    assert [path.name for path in tmp_path.iterdir()] == ["head.pth"]


@pytest.mark.parametrize("name", ["gone.pth", ".", "gone.pth#part", "dinov2_vits14_ade20k_linea"])
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    message = refusal("segment", tmp_path / name, CheckpointError)
    path = tmp_path / name.partition("#")[0]
    assert message == (
        f"{path} is not a file; --head takes TASK=FILE, or a name from `clsspec models`"
    )


@pytest.mark.parametrize("part", ["classifier_1", ""])
def test_a_part_that_is_not_there_is_refused(part: str, tmp_path: Path) -> None:
    classifiers("0_1", "0_2")(tmp_path / "head.pth")
    message = refusal("classify", Path(f"{tmp_path / 'head.pth'}#{part}"), CheckpointError)
    assert f"holds 2 classifiers, none is called '{part}': classifier_1_blocks" in message
    bare()(tmp_path / "head.pth")
    message = refusal("classify", Path(f"{tmp_path / 'head.pth'}#{part}"), CheckpointError)
    assert message == f"{tmp_path / 'head.pth'} holds a single head, none called '{part}'"


def test_a_classifier_whose_name_and_width_disagree_is_refused(tmp_path: Path) -> None:
    name = files.classifier_name(1, "0_1", pooled=False)
    files.classifiers(tmp_path / "head.pth", {name: (5, 2 * WIDTH)})
    taken = parse_layers("11")
    message = refusal("classify", tmp_path / "head.pth", CheckpointError, layers=taken)
    assert "head of width 48" in message
