from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import tree
from fit_pictures import fitted, write_classes, write_depth, write_segmentation

from clsspec_export.heads import attach as module_under_test
from clsspec_export.heads.attach import attach
from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.modules import module
from clsspec_export.heads.own import write_own
from clsspec_export.heads.read import read_head
from clsspec_serve.bundle import Bundle, open_bundle
from clsspec_serve.choices import HeadTask
from clsspec_serve.engines.select import installed_engines
from clsspec_serve.errors import CheckpointError, ExportError, OutputError, UsageError
from clsspec_serve.heads import Category, ClassificationHead, DepthHead, Protocol, SegmentationHead
from clsspec_serve.heads import Source as HeadSource
from clsspec_serve.layers import Layer
from clsspec_serve.loading import start
from clsspec_serve.parity import reference_samples, save_samples
from clsspec_serve.schema import Output
from clsspec_serve.verification import verify_engines

WIDTH = 72
PATCHES = Output(name="patches", kind="patches", layer=1, norm=True)
CLS = Output(name="cls", kind="cls", layer=1, norm=True)
EARLY = Output(name="patches_0", kind="patches", layer=0, norm=True)
PROTOCOL = Protocol(size=(56, 56), policy="squash")
SOURCE = HeadSource(name="made up", format="clsspec")


def head(task: HeadTask, seed: int = 0, inputs: tuple[Output, ...] = (PATCHES, CLS)) -> LinearHead:
    """Random weights; four classes, or sixteen bins."""
    common: dict[str, Any] = {"inputs": inputs, "protocol": PROTOCOL, "source": SOURCE}
    description: SegmentationHead | DepthHead | ClassificationHead
    if task == "segment":
        names = [Category(name=f"c{i}", colour=(i, 0, 0)) for i in range(4)]
        description, rows = SegmentationHead(classes=tuple(names), **common), 4
    elif task == "depth":
        rows = 16
        description = DepthHead(
            minimum=0.001, maximum=10, method="bins", bins=rows, upsample=4, **common
        )
    else:
        description, rows = ClassificationHead(classes=("a", "b", "c", "d"), **common), 4
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, WIDTH * len(inputs), generator=generator)
    return LinearHead(description, weight, torch.randn(rows, generator=generator))


@pytest.fixture(scope="module")
def heads() -> list[LinearHead]:
    return [head("segment"), head("depth", 1), head("classify", 2)]


@pytest.fixture(scope="module")
def attached(
    exported_bundle: Bundle, heads: list[LinearHead], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle with three heads. Not to be changed."""
    destination = tmp_path_factory.mktemp("attached") / "with-heads"
    attach(exported_bundle, heads, destination)
    return destination


def test_the_new_bundle_is_whole_and_the_old_one_is_as_it_was(
    exported_bundle: Bundle, heads: list[LinearHead], tmp_path: Path
) -> None:
    before = tree(exported_bundle.path)
    attach(exported_bundle, heads, tmp_path / "new")
    assert tree(exported_bundle.path) == before
    opened = open_bundle(tmp_path / "new")
    assert opened.manifest.name == "new"
    assert [each.task for each in opened.manifest.heads] == ["segment", "depth", "classify"]
    assert {name for name in opened.manifest.files if name.startswith("heads/")} == {
        "heads/segment.onnx",
        "heads/depth.onnx",
        "heads/classify.onnx",
    }
    for name in ("model.onnx", "model.onnx.data", "position.npy", "LICENSE"):
        assert (tmp_path / "new" / name).read_bytes() == before[name]
        assert not (tmp_path / "new" / name).samefile(exported_bundle.path / name)
    card = (tmp_path / "new" / "README.md").read_text()
    assert "# new" in card
    for each in opened.manifest.heads:
        assert f"- head for {each.task}: {each.summary()}" in card
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


def test_the_predictor_gives_pytorchs_answer(attached: Path, heads: list[LinearHead]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    for engine in installed_engines():
        model = start(open_bundle(attached), engine=engine)
        for own in heads:
            task = own.description.task
            features = model(picture, tasks=("cls", "patches"), size=(56, 56), policy="squash")
            inputs = [
                torch.from_numpy(features.arrays[each.name])[None]
                for each in own.description.inputs
            ]
            raw = module(own)(*inputs)
            found = model(picture, tasks=(task,)).arrays[task]
            if task == "classify":
                np.testing.assert_allclose(found, raw[0].numpy(), rtol=1e-3, atol=1e-4)
                continue
            channels = raw.permute(0, 3, 1, 2) if task == "segment" else raw[:, None]
            large = torch.nn.functional.interpolate(
                channels, (56, 56), mode="bilinear", align_corners=False
            )[0]
            if task == "depth":
                np.testing.assert_allclose(found, large[0].numpy(), rtol=1e-4)
            else:
                assert (found == large.argmax(dim=0).numpy()).mean() > 0.999


def test_verify_covers_the_heads(attached: Path, exported_bundle: Bundle) -> None:
    reports = [each for each in verify_engines(open_bundle(attached)) if each.precision == "fp32"]
    assert reports
    for report in reports:
        assert report.passed
        seen = {each.output for each in report.differences}
        assert {"segment", "depth", "classify", "cls", "patches"} <= seen


def test_reference_outputs_are_pytorchs_on_pytorchs_features(
    attached: Path, exported_bundle: Bundle, heads: list[LinearHead]
) -> None:
    old = list(reference_samples(exported_bundle))
    new = list(reference_samples(open_bundle(attached)))
    assert len(old) == len(new) == 2
    for before, after in zip(old, new, strict=True):
        np.testing.assert_array_equal(before.pixels, after.pixels)
        for name, value in before.outputs.items():
            np.testing.assert_array_equal(value, after.outputs[name])
        for own in heads:
            inputs = [torch.from_numpy(before.outputs[i.name]) for i in own.description.inputs]
            np.testing.assert_array_equal(
                after.outputs[own.description.task], module(own)(*inputs).numpy()
            )


def test_parity_of_each_engine_is_written_down(attached: Path, exported_bundle: Bundle) -> None:
    manifest = open_bundle(attached).manifest
    assert len(manifest.parity) == len(exported_bundle.manifest.parity) > 0
    for before, after in zip(exported_bundle.manifest.parity, manifest.parity, strict=True):
        assert (after.engine, after.cls, after.patches) == (
            before.engine,
            before.cls,
            before.patches,
        )
        assert set(after.heads) == {"segment", "depth", "classify"}
        assert all(0 < value < 1e-4 for value in after.heads.values())
        assert after.mask_agreement is not None
        assert after.mask_agreement > 0.99


def test_a_head_for_the_same_task_is_replaced_and_the_others_stay(
    attached: Path, tmp_path: Path
) -> None:
    other = head("segment", 9, inputs=(EARLY,))
    attach(open_bundle(attached), [other], tmp_path / "new")
    before, after = open_bundle(attached), open_bundle(tmp_path / "new")
    assert sorted(each.task for each in after.manifest.heads) == ["classify", "depth", "segment"]
    (own,) = [each for each in after.manifest.heads if each.task == "segment"]
    assert own.taken() == "patches_0"
    for task in ("depth", "classify"):
        assert after.head(task).read_bytes() == before.head(task).read_bytes()
    assert after.head("segment").read_bytes() != before.head("segment").read_bytes()
    for sample in reference_samples(after):
        assert {"depth", "classify"} <= set(sample.outputs)
        expected = module(other)(torch.from_numpy(sample.outputs["patches_0"])).numpy()
        np.testing.assert_array_equal(sample.outputs["segment"], expected)
    assert all(report.passed for report in verify_engines(after) if report.precision == "fp32")


def test_the_reference_stays_within_its_bound(
    exported_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head of many classes would take 3 MB."""
    names = tuple(Category(name=f"c{i}", colour=(0, 0, 0)) for i in range(3000))
    own = head("segment")
    generator = torch.Generator().manual_seed(0)
    wide = LinearHead(
        own.description.model_copy(update={"classes": names}),
        torch.randn(3000, 2 * WIDTH, generator=generator),
        torch.randn(3000, generator=generator),
    )
    attach(exported_bundle, [wide, head("depth")], tmp_path / "new")
    assert (tmp_path / "new" / "reference.npz").stat().st_size < 2_000_000
    for sample in reference_samples(open_bundle(tmp_path / "new")):
        assert {"cls", "patches", "depth"} <= set(sample.outputs)


def test_a_replaced_heads_reference_does_not_stay_where_the_new_one_has_none(
    attached: Path, tmp_path: Path
) -> None:
    shutil.copytree(attached, tmp_path / "old")
    old = Bundle(tmp_path / "old", open_bundle(attached).manifest)
    without = []
    for sample in reference_samples(old):
        kept = {name: value for name, value in sample.outputs.items() if name != "patches_0"}
        assert "segment" in kept
        without.append(replace(sample, outputs=kept))
    save_samples(without, tmp_path / "old" / "reference.npz")
    attach(old, [head("segment", 9, inputs=(EARLY,))], tmp_path / "new")
    for sample in reference_samples(open_bundle(tmp_path / "new")):
        assert "segment" not in sample.outputs
        assert {"depth", "classify"} <= set(sample.outputs)


def test_a_bundle_can_be_replaced_by_itself_with_a_head(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(exported_bundle.path, tmp_path / "own")
    opened = open_bundle(tmp_path / "own")
    with pytest.raises(OutputError, match="--force"):
        attach(opened, [head("depth")], tmp_path / "own")
    attach(opened, [head("depth")], tmp_path / "own", replace_existing=True)
    assert [each.task for each in open_bundle(tmp_path / "own").manifest.heads] == ["depth"]


@pytest.mark.parametrize(("kept", "factor"), [("weight", 1.001), ("bias", 1.1)])
def test_a_graph_that_is_not_the_heads_is_refused_and_nothing_is_left(
    exported_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: str,
    factor: float,
) -> None:
    write = module_under_test.add_head

    def wrong(own: LinearHead, *rest: Any) -> None:
        altered = {kept: getattr(own, kept) * factor}
        write(replace(own, **altered), *rest)

    monkeypatch.setattr(module_under_test, "add_head", wrong)
    with pytest.raises(ExportError, match=r"differs from PyTorch; classify at .* at most 1e-04"):
        attach(exported_bundle, [head("classify")], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_what_the_bundle_does_not_put_out_is_refused(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    raw = Output(name="patches_0_raw", kind="patches", layer=0, norm=False)
    with pytest.raises(UsageError, match="layer 0:raw is not in this bundle; it has 1, 0 "):
        attach(exported_bundle, [head("segment", inputs=(raw,))], tmp_path / "new")
    own = head("segment")
    narrow = replace(own, weight=own.weight[:, :-1])
    with pytest.raises(CheckpointError, match="does not fit the backbone"):
        attach(exported_bundle, [narrow], tmp_path / "new")
    with pytest.raises(UsageError, match="one for a task"):
        attach(exported_bundle, [own, own], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_samples_stays_without(exported_bundle: Bundle, tmp_path: Path) -> None:
    files = {k: v for k, v in exported_bundle.manifest.files.items() if k != "reference.npz"}
    manifest = exported_bundle.manifest.model_copy(update={"files": files})
    attach(Bundle(exported_bundle.path, manifest), [head("depth")], tmp_path / "new")
    assert not (tmp_path / "new" / "reference.npz").exists()
    assert [each.task for each in open_bundle(tmp_path / "new").manifest.heads] == ["depth"]


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_a_trained_head_answers_the_same_from_its_file_and_from_the_bundle(
    exported_bundle: Bundle, tmp_path: Path, task: HeadTask
) -> None:
    """Trained, written, read as `clsspec export --head` reads it, attached, predicted."""
    size = (56, 56)
    writers: dict[HeadTask, Sequence[Any]] = {
        "segment": (write_segmentation, {"block": 28}),
        "depth": (write_depth, {"block": 28}),
        "classify": (write_classes, {}),
    }
    write, more = writers[task]
    write(tmp_path / "data", 4, size=size, **more)
    model = start(exported_bundle, engine="onnxruntime")
    layers = (Layer(0, True), Layer(1, True))
    found = fitted(
        model, task, tmp_path / "data", tmp_path / "cache", size=size, layers=layers, both=True
    )
    write_own(found.head, tmp_path / "head.safetensors")
    manifest = exported_bundle.manifest
    again = read_head(
        task, tmp_path / "head.safetensors", manifest.architecture, manifest.preprocessing
    )
    assert again.description == found.head.description
    assert torch.equal(again.weight, found.head.weight)
    attach(exported_bundle, [again], tmp_path / "new")
    loaded = start(open_bundle(tmp_path / "new"), engine="onnxruntime")
    image = next((tmp_path / "data").rglob("*00.png"))
    outputs = found.head.description.inputs
    features = model(image, tasks=("cls", "patches"), layers=layers, size=size)
    inputs = [torch.from_numpy(features.arrays[each.name])[None] for each in outputs]
    expected = module(found.head)(*inputs).numpy()
    request = loaded.request(tasks=(task,))
    (answer,) = loaded.forward(loaded.prepare(image, request).pixels[None], request)
    np.testing.assert_allclose(answer[task], expected[0], rtol=1e-4, atol=1e-5)
