"""Exported heads against the official formulas, on random features, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import head_files as files
import official_heads as official
import pytest
import torch
from head_files import WIDTH
from official_heads import Tokens
from torch import Tensor

from clsspec_export.heads.graph import export_head
from clsspec_export.heads.own import write_own
from clsspec_export.heads.read import read_head
from clsspec_serve.choices import EngineName, HeadTask
from clsspec_serve.engines.select import load_engine
from clsspec_serve.layers import parse_layers

TOLERANCE = 1e-5
"""Of the largest value; the worst seen is a quarter of it, OpenVINO on depth."""

SIZES = ((1, 4, 6), (2, 7, 3), (5, 1, 5), (1, 5, 1), (3, 16, 16))
"""(B, h, w)."""

LAST, FOUR, QUARTERS = "11", "8,9,10,11", "2:raw,5:raw,8:raw,11:raw"
Formula = Callable[[list[Tokens]], Tensor]


@dataclass(frozen=True)
class Case:
    """A file, the layers that its official code takes, and what that computes from them.

    `write` gives the formula: patches and [CLS]s of the layers to the answer, channels first.
    """

    task: HeadTask
    layers: str
    write: Callable[[Path], Formula]
    name: str = "head.pth"
    part: str = ""
    options: dict[str, Any] | None = None


def segmentation(width: int, classes: int, *, code: str, prefix: str = "") -> Any:
    def write(path: Path) -> Formula:
        state = (
            files.dinov2_segmentation(path, width, classes)
            if code == "dinov2"
            else files.dinov3_segmentation(path, width, classes, prefix)
        )
        return lambda layers: official.segmentation(state, [patches for patches, _ in layers])

    return write


def dinov2_depth(width: int, farthest: float, bins: int = 256) -> Any:
    def write(path: Path) -> Formula:
        state = files.dinov2_depth(path, width, bins)
        return lambda layers: official.dinov2_depth(state, layers, 0.001, farthest)

    return write


def dinov3_depth(width: int, *, cls: bool, bins: int = 256, **options: Any) -> Any:
    def write(path: Path) -> Formula:
        state = files.dinov3_depth(path, width, bins, **options)
        return lambda layers: official.dinov3_depth(state, layers, 0.001, 10.0, cls=cls)

    return write


def bare(state: files.State, *, pooled: bool) -> Any:
    def write(path: Path) -> Formula:
        torch.save(state, path)
        return lambda layers: official.classifier(state, layers, pooled=pooled)

    return write


def classifiers(
    blocks: int, *, pooled: bool = True, chosen: str = "0_02000", **options: Any
) -> Any:
    def write(path: Path) -> Formula:
        names = [files.classifier_name(blocks, r, pooled=pooled) for r in ("0_00100", "0_02000")]
        shapes = dict.fromkeys(names, (10, (blocks + pooled) * WIDTH))
        states = files.classifiers(path, shapes, **options)
        state = states[files.classifier_name(blocks, chosen, pooled=pooled)]
        return lambda layers: official.classifier(state, layers, pooled=pooled)

    return write


def dense_of_bare(state: files.State) -> Any:
    """A linear layer over the patches of one layer and over its [CLS]."""

    def write(path: Path) -> Formula:
        torch.save(state, path)

        def formula(layers: list[Tokens]) -> Tensor:
            ((patches, cls),) = layers
            x = torch.cat([patches, cls[:, :, None, None].expand_as(patches)], dim=1)
            return torch.einsum("bchw,kc->bkhw", x, state["weight"]) + state["bias"].view(-1, 1, 1)

        return formula

    return write


NAME_OF_ONE = "#" + files.classifier_name(1, "0_02000")
NAME_OF_THREE = "#" + files.classifier_name(3, "0_02000")
NAME_OF_FOUR = "#" + files.classifier_name(4, "0_02000", pooled=False)
CASES = {
    "dinov2 ade20k linear": Case("segment", LAST, segmentation(WIDTH, 150, code="dinov2")),
    "dinov2 voc2012 linear": Case("segment", LAST, segmentation(WIDTH, 21, code="dinov2")),
    "dinov2 ade20k ms": Case("segment", FOUR, segmentation(4 * WIDTH, 150, code="dinov2")),
    "dinov2 own classes": Case("segment", LAST, segmentation(WIDTH, 7, code="dinov2")),
    "dinov2 nyu linear": Case("depth", "11:raw", dinov2_depth(2 * WIDTH, 10.0), "nyu_head.pth"),
    "dinov2 nyu linear4": Case("depth", QUARTERS, dinov2_depth(8 * WIDTH, 10.0), "nyu_head.pth"),
    "dinov2 kitti linear": Case("depth", "11:raw", dinov2_depth(2 * WIDTH, 80.0), "KITTI.pth"),
    "dinov2 kitti linear4": Case("depth", QUARTERS, dinov2_depth(8 * WIDTH, 80.0), "KITTI.pth"),
    "dinov2 regression": Case("depth", "11:raw", dinov2_depth(2 * WIDTH, 10.0, 1), "nyu_head.pth"),
    "dinov2 classifier": Case(
        "classify", LAST, bare(files.linear(1000, 2 * WIDTH), pooled=True), "m_linear_head.pth"
    ),
    "dinov2 classifier of four": Case(
        "classify", FOUR, bare(files.linear(1000, 5 * WIDTH), pooled=True), "m_linear4_head.pth"
    ),
    "dinov2 evaluation": Case(
        "classify", FOUR, classifiers(4, pooled=False, key="model"), part=NAME_OF_FOUR
    ),
    "dinov3 segmentation": Case("segment", LAST, segmentation(WIDTH, 150, code="dinov3")),
    "dinov3 segmentation, DDP": Case(
        "segment", LAST, segmentation(WIDTH, 21, code="dinov3", prefix="module.")
    ),
    "dinov3 segmentation of four": Case(
        "segment",
        "2,5,8,11",
        segmentation(4 * WIDTH, 19, code="dinov3"),
        options={"layers": parse_layers("2,5,8,11")},
    ),
    "dinov3 depth": Case("depth", LAST, dinov3_depth(WIDTH, cls=False), "nyu.pth"),
    "dinov3 depth, DDP": Case(
        "depth", LAST, dinov3_depth(WIDTH, cls=False, prefix="module."), "nyu.pth"
    ),
    "dinov3 depth without BatchNorm": Case(
        "depth", LAST, dinov3_depth(WIDTH, cls=False, normed=False), "nyu.pth"
    ),
    "dinov3 depth with [CLS]": Case("depth", LAST, dinov3_depth(2 * WIDTH, cls=True), "nyu.pth"),
    "dinov3 depth of four with [CLS]": Case(
        "depth",
        "1:raw,5:raw,8:raw,11:raw",
        dinov3_depth(8 * WIDTH, cls=True),
        options={"layers": parse_layers("1:raw,5:raw,8:raw,11:raw"), "maximum": 10.0},
    ),
    "dinov3 regression": Case("depth", LAST, dinov3_depth(WIDTH, cls=False, bins=1), "nyu.pth"),
    "dinov3 classifier": Case("classify", LAST, classifiers(1), part=NAME_OF_ONE),
    "dinov3 classifier, DDP": Case(
        "classify", LAST, classifiers(1, prefix="module."), part=NAME_OF_ONE
    ),
    "dinov3 classifier of three": Case("classify", "9,10,11", classifiers(3), part=NAME_OF_THREE),
    "bare [CLS] classifier": Case("classify", LAST, bare(files.linear(5, WIDTH), pooled=False)),
    "bare [CLS] classifier of another layer": Case(
        "classify",
        "4:raw",
        bare(files.linear(5, WIDTH), pooled=False),
        options={"layers": parse_layers("4:raw")},
    ),
    "bare linear layer with [CLS]": Case(
        "segment",
        LAST,
        dense_of_bare(files.linear(4, 2 * WIDTH)),
        options={"layers": parse_layers("11")},
    ),
}


def features(layers: int, size: tuple[int, int, int]) -> list[Tokens]:
    """Patches `(B, D, h, w)` and [CLS]s `(B, D)`, no two of them alike."""
    batch, *grid = size
    generator = torch.Generator().manual_seed(batch)
    return [
        (
            torch.randn(batch, WIDTH, *grid, generator=generator) + layer,
            2 * torch.randn(batch, WIDTH, generator=generator) - layer,
        )
        for layer in range(layers)
    ]


def inputs_of(layers: str, tokens: list[Tokens]) -> dict[str, Any]:
    """The backbone's outputs under the names that a bundle gives them."""
    given = {}
    for layer, (patches, cls) in zip(layers.split(","), tokens, strict=True):
        suffix = "" if layer == "11" else f"_{layer.replace(':', '_')}"
        given[f"patches{suffix}"] = patches.permute(0, 2, 3, 1).contiguous().numpy()
        given[f"cls{suffix}"] = cls.numpy()
    return given


def check(case: Case, formula: Formula, graph: Path, taken: set[str], engine: EngineName) -> float:
    """The largest relative difference over all sizes."""
    loaded = load_engine(graph, engine=engine)
    worst = 0.0
    for size in SIZES:
        tokens = features(len(case.layers.split(",")), size)
        expected = formula(tokens)
        if case.task == "segment":
            expected = expected.permute(0, 2, 3, 1)
        given = inputs_of(case.layers, tokens)
        assert taken <= given.keys()
        answer = loaded.run({name: given[name] for name in taken}, [case.task])[case.task]
        found = torch.from_numpy(answer)
        assert found.shape == expected.shape
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst


@pytest.mark.parametrize("kind", CASES)
def test_an_exported_head_computes_what_the_official_code_does(kind: str, tmp_path: Path) -> None:
    case = CASES[kind]
    path = tmp_path / case.name
    formula = case.write(path)
    head = read_head(
        case.task,
        Path(f"{path}{case.part}"),
        files.architecture(),
        files.preprocessing(),
        **(case.options or {}),
    )
    export_head(head, WIDTH, tmp_path / "head.onnx")
    taken = {output.name for output in head.description.inputs}
    for engine in ("onnxruntime", "openvino"):
        worst = check(case, formula, tmp_path / "head.onnx", taken, engine)
        print(f"| {kind} | {engine} | {worst:.1e} |")
        assert worst < TOLERANCE


@pytest.mark.parametrize("kind", ["dinov2 ade20k ms", "dinov2 nyu linear4", "dinov2 classifier"])
def test_our_own_file_holds_the_same_head(kind: str, tmp_path: Path) -> None:
    case = CASES[kind]
    formula = case.write(tmp_path / case.name)
    seen = files.architecture(), files.preprocessing()
    first = read_head(case.task, tmp_path / case.name, *seen)
    write_own(first, tmp_path / "own.safetensors")
    again = read_head(case.task, tmp_path / "own.safetensors", *seen)
    assert again.description == first.description
    export_head(again, WIDTH, tmp_path / "own.onnx")
    taken = {output.name for output in again.description.inputs}
    assert check(case, formula, tmp_path / "own.onnx", taken, "onnxruntime") < TOLERANCE


@pytest.mark.parametrize(("bins", "factor"), [(256, 1e4), (1, 20.0)])
def test_depth_stays_within_its_range_where_the_logits_are_far_beyond(
    bins: int, factor: float, tmp_path: Path
) -> None:
    state = files.dinov2_depth(tmp_path / "nyu.pth", 2 * WIDTH, bins)
    state["conv_depth.weight"] *= factor
    content = {"state_dict": files.named("decode_head", state)}
    torch.save(content, tmp_path / "nyu.pth")
    head = read_head("depth", tmp_path / "nyu.pth", files.architecture(), files.preprocessing())
    export_head(head, WIDTH, tmp_path / "head.onnx")
    (tokens,) = features(1, (2, 8, 8))
    given = inputs_of("11:raw", [tokens])
    for engine in ("onnxruntime", "openvino"):
        depth = load_engine(tmp_path / "head.onnx", engine=engine).run(given, ["depth"])["depth"]
        assert depth.min() >= 0.001
        assert depth.max() <= 10
        expected = official.dinov2_depth(state, [tokens], 0.001, 10.0).numpy()
        assert abs(depth - expected).max() < 10 * TOLERANCE
