"""Bundles with heads: from photographs to the heads' answers, beside timm's own forward pass."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import head_files as files
import numpy as np
import official_heads as official
import onnx
import pytest
import skimage.data
import timm
import torch
from head_files import State
from long_cases import mostly_long
from numpy.typing import NDArray
from official_heads import Tokens
from onnx import numpy_helper
from PIL import Image
from standins.backbones import DINOV2, DINOV3, REG4, WIDTH, made_once
from torch import Tensor, nn
from torch.nn import functional

from clsspec_export import export as export_module
from clsspec_export.checkpoints.checkpoint import Origin
from clsspec_export.checkpoints.timm_files import timm_checkpoint
from clsspec_export.export import architecture_of, export_bundle, lift
from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.read import read_head
from clsspec_export.random_weights import randomize
from clsspec_export.reference import shrink
from clsspec_serve.bundle import describe, describe_folder, open_bundle, write_manifest
from clsspec_serve.choices import EngineName, HeadTask
from clsspec_serve.errors import ExportError
from clsspec_serve.loading import start
from clsspec_serve.parity import Sample, reference_samples, save_samples
from clsspec_serve.verification import verify_engines

PHOTO: NDArray[np.uint8] = np.ascontiguousarray(skimage.data.chelsea()[:200, :260])
TOLERANCE = 2e-5
"""Of the largest value, twelve blocks included; the worst seen is a quarter of it."""


@dataclass(frozen=True)
class Made:
    """A bundle with three heads, timm's model that it was made of, and the official tensors."""

    path: Path
    model: nn.Module
    base: str
    states: dict[HeadTask, State]

    @property
    def patch(self) -> int:
        return int(self.model.patch_embed.patch_size[0])

    def tokens(self, pixels: Tensor, layers: list[int], *, norm: bool) -> list[Tokens]:
        """timm's own forward pass: patches `(B, D, h, w)` and [CLS]s."""
        found = self.model.forward_intermediates(
            pixels,
            indices=layers,
            norm=norm,
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        return [(patches, prefix[:, 0]) for patches, prefix in found]

    def official(self, task: HeadTask, pixels: Tensor) -> Tensor:
        """The head's official formula over the layers that its code names."""
        state = self.states[task]
        if self.base == DINOV3:
            (last,) = self.tokens(pixels, [11], norm=True)
            if task == "segment":
                return official.segmentation(state, [last[0]]).permute(0, 2, 3, 1)
            if task == "depth":
                return official.dinov3_depth(state, [last], 0.001, 10.0, cls=False)
            return official.classifier(state, [last], pooled=True)
        if self.base == REG4:
            (last,) = self.tokens(pixels, [11], norm=True)
            if task == "segment":
                return official.segmentation(state, [last[0]]).permute(0, 2, 3, 1)
            if task == "depth":
                raw = self.tokens(pixels, [11], norm=False)
                return official.dinov2_depth(state, raw, 0.001, 10.0)
            return official.classifier(state, [last], pooled=True)
        four = self.tokens(pixels, [8, 9, 10, 11], norm=True)
        if task == "segment":
            patches = [patches for patches, _ in four]
            return official.segmentation(state, patches).permute(0, 2, 3, 1)
        if task == "classify":
            return official.classifier(state, four, pooled=True)
        raw = self.tokens(pixels, [2, 5, 8, 11], norm=False)
        return official.dinov2_depth(state, raw, 0.001, 80.0)


def make(base: str, folder: Path) -> Made:
    patch = 16 if base == DINOV3 else 14
    size = {"embed_dim": WIDTH, "depth": 12, "num_heads": 3, "img_size": 4 * patch}
    model = timm.create_model(base, num_classes=0, dynamic_img_size=True, **size).eval()
    randomize(model)
    untouched = copy.deepcopy(model)
    checkpoint = lift(timm_checkpoint(model, base))
    names = {task: folder / f"{task}.pth" for task in ("segment", "depth", "classify")}
    states: dict[HeadTask, State] = {}
    if base == DINOV3:
        names["depth"] = folder / "depth_nyu.pth"
        states["segment"] = files.dinov3_segmentation(names["segment"], WIDTH, 150, "module.")
        states["depth"] = files.dinov3_depth(names["depth"], WIDTH)
        rates = [files.classifier_name(1, rate) for rate in ("0_1", "0_2")]
        every = files.classifiers(names["classify"], dict.fromkeys(rates, (9, 2 * WIDTH)))
        states["classify"] = every[rates[1]]
        names["classify"] = Path(f"{names['classify']}#{rates[1]}")
    elif base == REG4:
        names["depth"] = folder / "x_nyu_linear_head.pth"
        states["segment"] = files.dinov2_segmentation(names["segment"], WIDTH, 150)
        states["depth"] = files.dinov2_depth(names["depth"], 2 * WIDTH)
        states["classify"] = files.linear(1000, 2 * WIDTH)
        torch.save(states["classify"], names["classify"])
    else:
        names["depth"] = folder / "x_kitti_linear4_head.pth"
        states["segment"] = files.dinov2_segmentation(names["segment"], 4 * WIDTH, 21)
        states["depth"] = files.dinov2_depth(names["depth"], 8 * WIDTH)
        states["classify"] = files.linear(1000, 5 * WIDTH)
        torch.save(states["classify"], names["classify"])
    seen = architecture_of(checkpoint), checkpoint.preprocessing
    heads = [read_head(task, path, *seen) for task, path in names.items()]  # type: ignore[arg-type]  # the keys are tasks
    export_bundle(checkpoint, folder / "bundle", Origin("random"), heads=heads)
    return Made(folder / "bundle", untouched, base, states)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The bundle of a kind of backbone, written once for all workers. Not to be changed."""

    @cache
    def get(base: str) -> Made:
        folder = made_once(
            tmp_path_factory,
            f"heads of {base}",
            lambda folder: torch.save(make(base, folder), folder / "made.pt"),
        )
        found: Made = torch.load(folder / "made.pt", weights_only=False)
        return found

    return get


def views_of(task: HeadTask, made: Made) -> list[Tensor]:
    """`(1, 3, H, W)`: what the official evaluation shows of the photograph, padded by it."""
    own = {"segment": 640, "depth": 352} if made.base == DINOV2 else {"segment": 512, "depth": 480}
    short = (own | {"classify": 256})[task]
    height, width = PHOTO.shape[:2]
    resized = (short, int(width * short / height + 0.5))
    if task == "classify":
        resized = (256, int(width * 256 / height))
    filter = Image.Resampling.BICUBIC if task == "classify" else Image.Resampling.BILINEAR
    picture = np.asarray(Image.fromarray(PHOTO).resize(resized[::-1], filter))
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    if task == "classify":
        top, left = (round((side - 224) / 2) for side in resized)
        return [pixels[:, :, top : top + 224, left : left + 224]]
    if task == "depth":
        return [_padded(pixels, made.patch), _padded(pixels.flip(3), made.patch)]
    first = pixels[:, :, :, :short]
    mirrored_too = made.base == DINOV2  # four layers: DINOv2's `ms`, averaged over the mirror image
    last = (pixels.flip(3) if mirrored_too else pixels)[:, :, :, -short:]
    return [_padded(first, made.patch), _padded(last, made.patch)]


def _padded(pixels: Tensor, patch: int) -> Tensor:
    """Zeros after the normalisation, in the middle, the odd one right or below."""
    pads = []
    for side in reversed(pixels.shape[2:]):
        missing = -side % patch
        pads += [missing // 2, missing - missing // 2]
    return functional.pad(pixels, pads)


@pytest.mark.parametrize("engine", mostly_long(["onnxruntime", "openvino"], ["onnxruntime"]))
@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
@pytest.mark.parametrize("base", mostly_long([DINOV2, DINOV3, REG4], [DINOV2]))
def test_a_photograph_gets_the_answer_of_the_official_code(
    base: str, task: HeadTask, engine: EngineName, made: Callable[[str], Made]
) -> None:
    bundle = made(base)
    model = start(open_bundle(bundle.path), engine=engine)
    request = model.request(tasks=[task], flip=None)
    prepared = model.prepare(PHOTO, request)
    shown = list(prepared.views())
    views = views_of(task, bundle)
    for pixels, view in zip((shown[0], shown[-1]), (views[0], views[-1]), strict=True):
        assert pixels.shape[1:] == view.shape[2:]
        if task != "classify" and bundle.patch == 14:
            assert not pixels[3].all()
        found = model.infer(pixels[None], request.needed, [task])[task]
        with torch.inference_mode():
            expected = bundle.official(task, view).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() / np.abs(expected).max() < TOLERANCE
        if task != "depth":
            agreement = (found.argmax(-1) == expected.argmax(-1)).mean()
            assert agreement > 0.999


@pytest.mark.parametrize("base", mostly_long([DINOV2, DINOV3], [DINOV2]))
def test_several_pictures_at_once_get_what_each_gets_alone(
    base: str, made: Callable[[str], Made]
) -> None:
    bundle = made(base)
    model = start(open_bundle(bundle.path), engine="onnxruntime")
    patch = bundle.patch
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5 * patch, 3 * patch), np.uint8)
    pixels[:, 3] = 1
    tasks: list[HeadTask] = ["segment", "depth", "classify"]
    needed = [output.name for output in model.manifest.outputs]
    together = model.infer(pixels, needed, tasks)
    for task in tasks:
        alone = [model.infer(pixels[n : n + 1], needed, [task])[task][0] for n in range(3)]
        np.testing.assert_allclose(together[task], np.stack(alone), rtol=1e-4, atol=1e-4)
        assert np.abs(alone[0] - alone[1]).max() > 0


def test_the_manifest_lists_heads_files_and_their_parity(made: Callable[[str], Made]) -> None:
    path = made(DINOV2).path
    manifest = open_bundle(path).manifest
    assert [head.task for head in manifest.heads] == ["segment", "depth", "classify"]
    for head in manifest.heads:
        name = f"heads/{head.task}.onnx"
        assert manifest.files[name] == describe(path / name)
        assert {output.name for output in head.inputs} <= {o.name for o in manifest.outputs}
        inputs = onnx.load(path / name).graph.input
        assert [value.name for value in inputs] == [output.name for output in head.inputs]
    assert len({output.name for output in manifest.outputs}) == len(manifest.outputs)
    assert [output.name for output in manifest.outputs[:2]] == ["cls", "patches"]
    for parity in manifest.parity:
        assert parity.heads.keys() == {"segment", "depth", "classify"}
        assert all(0 < value <= 1e-4 for value in parity.heads.values())
        assert parity.mask_agreement is not None
        assert 0.999 <= parity.mask_agreement <= 1
    assert [parity.engine for parity in manifest.parity] == ["onnxruntime", "openvino"]


def test_the_reference_holds_the_answers_of_the_heads(made: Callable[[str], Made]) -> None:
    path = made(DINOV2).path
    assert (path / "reference.npz").stat().st_size < 2_000_000
    samples = list(reference_samples(open_bundle(path)))
    assert all({"segment", "depth", "classify"} <= sample.outputs.keys() for sample in samples)
    assert samples[1].outputs["segment"].shape == (1, 7, 10, 21)
    assert samples[1].outputs["depth"].shape == (1, 28, 40)
    assert samples[1].outputs["classify"].shape == (1, 1000)


def test_the_heads_answers_of_the_largest_backbone_fit_into_the_reference(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    shapes = {
        **{"cls": (1536,), "patches": (-1, -1, 1536)},
        **{f"patches_{n}_raw": (-1, -1, 1536) for n in (9, 19, 29, 39)},
        **{"segment": (-1, -1, 150), "depth": (-4, -4), "classify": (1000,)},
    }
    samples = []
    for rows, columns in ((16, 16), (7, 10)):
        sides = {-1: (rows, columns), -4: (4 * rows, 4 * columns)}
        outputs = {}
        for name, shape in shapes.items():
            grid = sides.get(shape[0], ())
            own = (*grid, *(side for side in shape if side > 0))
            outputs[name] = random.standard_normal((2, *own), np.float32)
        pixels = np.zeros((2, 4, 14 * rows, 14 * columns), np.uint8)
        samples.append(Sample(pixels, outputs))
    kept = shrink(samples)
    save_samples(kept, tmp_path / "reference.npz")
    assert (tmp_path / "reference.npz").stat().st_size < 2_000_000
    for sample in kept:
        assert {"segment", "depth", "classify", "cls"} <= sample.outputs.keys()


def disturb(graph: Path) -> None:
    """One per cent more of the largest weight that is not the table of bins."""
    model = onnx.load(graph)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weight = numpy_helper.to_array(tensor).copy()
    weight *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, graph)


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_an_altered_head_with_the_right_hash_fails_the_verification(
    task: HeadTask, made: Callable[[str], Made], tmp_path: Path
) -> None:
    shutil.copytree(made(DINOV2).path, tmp_path / "bundle")
    disturb(tmp_path / "bundle" / "heads" / f"{task}.onnx")
    manifest = open_bundle(made(DINOV2).path).manifest
    sealed = manifest.model_copy(update={"files": describe_folder(tmp_path / "bundle")})
    write_manifest(tmp_path / "bundle", sealed)
    assert all(report.passed for report in verify_engines(open_bundle(made(DINOV2).path)))
    for report in verify_engines(open_bundle(tmp_path / "bundle")):
        if report.precision == "fp32":
            assert not report.passed
            failed = {d.output for d in report.differences if not d.within("fp32")}
            assert failed == {task}


def test_a_head_whose_graph_differs_from_pytorch_is_not_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from standins.backbones import tiny

    checkpoint = tiny()
    files.dinov3_segmentation(tmp_path / "head.pth", WIDTH, 5)
    seen = architecture_of(checkpoint), checkpoint.preprocessing
    head = read_head("segment", tmp_path / "head.pth", *seen)

    def add(head: LinearHead, *arguments: Any) -> None:
        real(LinearHead(head.description, head.weight * 1.01, head.bias), *arguments)

    real = export_module.add_head
    monkeypatch.setattr(export_module, "add_head", add)
    with pytest.raises(
        ExportError, match=r"^onnxruntime in fp32 differs from PyTorch; segment at 56x56"
    ):
        export_bundle(checkpoint, tmp_path / "bundle", Origin("random"), heads=[head])
    assert [path.name for path in tmp_path.iterdir()] == ["head.pth"]


def test_heads_ask_for_layers_once_beside_those_that_people_ask_for(tmp_path: Path) -> None:
    from standins.backbones import tiny

    from clsspec_serve.layers import Layer

    checkpoint = tiny()
    files.dinov2_depth(tmp_path / "nyu.pth", 2 * WIDTH, 16)
    seen = architecture_of(checkpoint), checkpoint.preprocessing
    head = read_head("depth", tmp_path / "nyu.pth", *seen)
    layers = [Layer(1, False), Layer(0, True)]
    export_bundle(checkpoint, tmp_path / "b", Origin("random"), layers=layers, heads=[head])
    names = [
        output["name"]
        for output in json.loads((tmp_path / "b/clsspec.json").read_text())["outputs"]
    ]
    assert names == ["cls", "patches", "cls_1_raw", "patches_1_raw", "cls_0", "patches_0"]
