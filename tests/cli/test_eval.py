"""`clsspec eval` on one's own folders, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Clsspec
from eval_data import (
    COLOURS,
    ONLY_RED,
    class_data,
    colour_classifier,
    depth_data,
    depth_errors,
    flipped_depth,
    mean_iou,
    means_of,
    metrics,
    nearest_by_hand,
    plain,
    save,
    seen_depth,
    segment_bundle,
    segment_data,
    table,
)
from head_bundle import depth_head, nearest_colour_head, write_head_bundle

from clsspec_serve.heads import Protocol


def test_segmentation_by_hand(clsspec: Clsspec, tmp_path: Path) -> None:
    data, bundle = segment_data(tmp_path / "data"), segment_bundle(tmp_path)
    result = clsspec("eval", data, "--task", "segment", "-m", bundle, "--json")
    # Red: 588 of 1176 pixels. Green, which is never seen: 0 of 588 + 756. Blue: 0 of 756. White
    # occurs nowhere.
    assert metrics(result) == pytest.approx(
        {
            "mean_iou": 100 * (0.5 + 0 + 0) / 3,
            "mean_accuracy": 100 * (1 + 0) / 2,
            "pixel_accuracy": 100 * 588 / (1176 + 756),
        }
    )
    classes = json.loads(result.out)["classes"]
    assert [(row["id"], row["name"]) for row in classes] == list(enumerate(COLOURS))
    assert [row["value"] for row in classes] == [50, 0, 0, None]
    assert classes[3]["reason"] == "in no prediction and in no truth"


def test_depth_by_hand(clsspec: Clsspec, tmp_path: Path) -> None:
    data = depth_data(tmp_path / "data")
    bundle = write_head_bundle(tmp_path / "bundle", [depth_head(ONLY_RED)])
    result = clsspec("eval", data, "--task", "depth", "-m", bundle, "--json")
    # The first picture is off by 4 of 8 m everywhere, the second by nothing; mean over pictures.
    expected = {"rmse": (4 + 0) / 2, "abs_rel": (0.5 + 0) / 2, "delta1": (0 + 1) / 2}
    assert metrics(result) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_stated_units_are_used(clsspec: Clsspec, tmp_path: Path) -> None:
    save(tmp_path / "data/images/a.png", plain((100, 0, 0)))
    save(tmp_path / "data/depth/a.png", np.full((28, 28), 512, np.uint16))
    bundle = write_head_bundle(tmp_path / "bundle", [depth_head(ONLY_RED)])
    ask = ("eval", tmp_path / "data", "--task", "depth", "-m", bundle, "--json")
    # 512 / 256 are 2 m where 4 m are seen; in millimetres it would be 0.512 m.
    assert metrics(clsspec(*ask, "--units", 256))["rmse"] == pytest.approx(2, rel=1e-5)
    assert metrics(clsspec(*ask))["rmse"] == pytest.approx(3.488, rel=1e-5)


def test_classification_by_hand(clsspec: Clsspec, tmp_path: Path) -> None:
    data = class_data(tmp_path / "data", 4, 0)
    bundle = write_head_bundle(tmp_path / "bundle", [colour_classifier()])
    result = clsspec("eval", data, "--task", "classify", "-m", bundle, "--json")
    assert metrics(result) == {"top1": pytest.approx(100 * 11 / 12), "top5": None}
    reason = json.loads(result.out)["metrics"]["top5"]["reason"]
    assert reason == "there are no more than five classes"


def test_nearest_neighbours_need_no_head(clsspec: Clsspec, tmp_path: Path) -> None:
    test, train = class_data(tmp_path / "test", 5, 0), class_data(tmp_path / "train", 8, 1)
    bundle = write_head_bundle(tmp_path / "bundle")
    result = clsspec(
        "eval", test, "--task", "knn", "--train", train, "-m", bundle, "--json", "--batch-size", 4
    )
    known, seen = means_of(train), means_of(test)
    found = metrics(result)
    # 24 pictures to train on: no k of 100 or 200.
    assert list(found) == ["knn10_top1", "knn10_top5", "knn20_top1", "knn20_top5"]
    for k in (10, 20):
        assert found[f"knn{k}_top1"] == pytest.approx(nearest_by_hand(*known, *seen, k))
    assert 50 < found["knn10_top1"] < 100
    facts = json.loads(result.out)
    assert facts["task"] == "knn"
    assert facts["neighbours"]["used"] == 24
    assert facts["shown"]["policy"] == "squash"


def test_the_table_has_the_numbers_of_json(clsspec: Clsspec, tmp_path: Path) -> None:
    data, bundle = segment_data(tmp_path / "data"), segment_bundle(tmp_path)
    ask = ("eval", data, "--task", "segment", "-m", bundle, "--engine", "onnxruntime")
    rows = table(clsspec(*ask, "--per-class", "--threads", 1))
    facts = json.loads(clsspec(*ask, "--json", "--threads", 1).out)
    for metric in facts["metrics"].values():
        assert rows[metric["name"]] == f"{metric['value']:.2f} %"
    for found in facts["classes"]:
        without = "- (in no prediction and in no truth)"
        expected = without if found["value"] is None else f"{found['value']:.2f} %"
        assert rows[f"IoU of {found['name']}"] == expected
    assert rows["pictures"] == f"2 of 2 of folders ({data})"
    assert rows["scored"] == facts["rule"]
    assert rows["shown"] == facts["shown"]["text"]
    assert rows["shown"] == "short side 28, bilinear; the whole at once; not mirrored"
    assert rows["model"] == f"tiny ({bundle})"
    version = facts["run"]["versions"]["onnxruntime"]
    assert rows["run"].startswith(f"onnxruntime {version}, fp32, threads: 1, batches of 8, ")
    manifest = json.loads((bundle / "clsspec.json").read_text())
    assert facts["run"]["sha256"] == {
        name: manifest["files"][name]["sha256"] for name in ("heads/segment.onnx", "model.onnx")
    }
    assert set(facts["run"]["versions"]) >= {"clsspec-serve", "python", "numpy", "pillow"}
    plain_rows = table(clsspec(*ask))
    assert not [name for name in plain_rows if name.startswith("IoU of")]


def test_depths_and_votes_are_printed_with_their_units(clsspec: Clsspec, tmp_path: Path) -> None:
    data = depth_data(tmp_path / "data")
    heads = [depth_head(ONLY_RED), colour_classifier()]
    bundle = write_head_bundle(tmp_path / "bundle", heads)
    rows = table(clsspec("eval", data, "--task", "depth", "-m", bundle))
    assert (rows["RMSE"], rows["AbsRel"], rows["δ1"]) == ("2.0000 m", "0.2500", "0.5000")
    assert rows["scored"].startswith("depths between 0.001 and 10 m; of each picture")
    test, train = class_data(tmp_path / "test", 2, 0), class_data(tmp_path / "train", 4, 1)
    rows = table(clsspec("eval", test, "--task", "knn", "--train", train, "-m", bundle))
    assert rows["neighbours"] == f"12 of 12 of folders ({train})"
    assert rows["k-NN, k = 10: top-5"] == "- (there are no more than five classes)"


@pytest.mark.parametrize(
    ("options", "flipped"), [([], True), (["--flip"], True), (["--no-flip"], False)]
)
def test_the_heads_own_mirroring_holds_unless_told(
    clsspec: Clsspec, tmp_path: Path, options: list[str], flipped: bool
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (29, 43, 3), np.uint8)
    truth = np.random.default_rng(6).integers(1000, 9000, (29, 43)).astype(np.uint16)
    save(tmp_path / "data/images/a.png", pixels)
    save(tmp_path / "data/depth/a.png", truth)
    protocol = Protocol(size=(29, 29), policy="short", flip=True)
    weight = [0.02, 0.01, 0, 0]
    bundle = write_head_bundle(tmp_path / "bundle", [depth_head(weight, protocol=protocol)])
    result = clsspec("eval", tmp_path / "data", "--task", "depth", "-m", bundle, "--json", *options)
    predict = flipped_depth if flipped else seen_depth
    expected = depth_errors(predict(pixels, weight, (29, 43)), truth / 1000, truth > 0)
    assert tuple(metrics(result).values()) == pytest.approx(expected, rel=1e-5)
    assert json.loads(result.out)["shown"]["flip"] is flipped


def test_a_few_pictures_are_spread_over_the_classes(clsspec: Clsspec, tmp_path: Path) -> None:
    data = class_data(tmp_path / "data", 4, 0)
    bundle = write_head_bundle(tmp_path / "bundle", [colour_classifier()])
    ask = ("eval", data, "--task", "classify", "-m", bundle, "--limit", 6)
    result = clsspec(*ask, "--json")
    # Numbers 0, 2, 4, 6, 8, 10 of twelve: two of each class, without the blue one among the green.
    assert metrics(result)["top1"] == 100
    assert table(clsspec(*ask))["pictures"] == f"6 of 12 of folders ({data})"


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_pictures_of_many_sizes_keep_their_truths(
    clsspec: Clsspec, tmp_path: Path, batch_size: int
) -> None:
    random = np.random.default_rng(0)
    predicted, truths = [], []
    for index, width in enumerate((28, 28, 42, 28, 30, 30, 56)):
        colour = list(COLOURS.values())[index % 3]
        save(tmp_path / f"data/images/{index}.png", plain(colour, 28, width))
        truths.append(random.integers(0, 4, (28, width)).astype(np.uint8))
        predicted.append(np.full((28, width), index % 3))
        save(tmp_path / f"data/labels/{index}.png", truths[-1])
    bundle = segment_bundle(tmp_path)
    result = clsspec(
        "eval",
        tmp_path / "data",
        "--task",
        "segment",
        "-m",
        bundle,
        "--json",
        "--batch-size",
        batch_size,
    )
    assert metrics(result)["mean_iou"] == pytest.approx(mean_iou(predicted, truths, 4))


def test_a_limit_holds_for_masks_and_depths(clsspec: Clsspec, tmp_path: Path) -> None:
    heads = [nearest_colour_head(COLOURS), depth_head(ONLY_RED)]
    bundle = write_head_bundle(tmp_path / "bundle", heads)
    masks, depths = segment_data(tmp_path / "masks"), depth_data(tmp_path / "depths")
    first = clsspec("eval", masks, "--task", "segment", "-m", bundle, "--json", "--limit", 1)
    # Of the first pictures alone: half red is right, half green is not; 4 of 8 m.
    assert metrics(first)["mean_iou"] == pytest.approx(25)
    first = clsspec("eval", depths, "--task", "depth", "-m", bundle, "--json", "--limit", 1)
    assert metrics(first)["rmse"] == pytest.approx(4, rel=1e-5)


def test_batch_size_and_threads_reach_the_engine(
    clsspec: Clsspec, tmp_path: Path, spy: Any
) -> None:
    test, train = class_data(tmp_path / "test", 2, 0), class_data(tmp_path / "train", 4, 1)
    bundle = write_head_bundle(tmp_path / "bundle")
    options = ("--batch-size", 5, "--threads", 2, "--engine", "onnxruntime", "--json")
    result = clsspec("eval", test, "--task", "knn", "--train", train, "-m", bundle, *options)
    ((graph, how),) = spy.loaded
    assert graph == bundle / "model.onnx"
    own = {"engine": "onnxruntime", "precision": "fp32", "threads": 2}
    own |= {"accept": None, "batch_size": 8, "sizes": 4}
    assert how == own | {"shared": False, "device": 0}
    # Twelve to train on, then six; nothing but [CLS] is asked for.
    assert [shape[0] for shape, _ in spy.asked] == [5, 5, 2, 5, 1]
    assert {tuple(names) for _, names in spy.asked} == {("cls",)}
    run = json.loads(result.out)["run"]
    assert (run["batch_size"], run["threads"], run["seconds"] > 0) == (5, 2, True)
