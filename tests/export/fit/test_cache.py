from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fit_pictures import fitted, save, write_classes, write_depth, write_segmentation
from numpy.typing import NDArray
from tiny_bundle import write_tiny_bundle

from clsspec_export.fit.blueprint import Blueprint
from clsspec_export.fit.examples import Examples, Extractor, Sample, identify
from clsspec_export.fit.feature_cache import FeatureCache, digest
from clsspec_export.fit.fitting import Storage, fit_head
from clsspec_export.fit.labelled import Labelled
from clsspec_export.fit.training import Settings
from clsspec_serve.bundle import describe, open_bundle
from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import DatasetError, EngineError, ImageError, OutputError
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.layers import Layer
from clsspec_serve.loading import start

SIZE = (28, 42)


def examples(
    extractor: Extractor,
    samples: Sequence[Sample],
    batch_size: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> Examples:
    known = identify(samples, lambda amount: None)
    return extractor.examples(known, batch_size=batch_size, advance=advance)


class Spied:
    """A model, and how many pictures went through it; it can be made to fail."""

    def __init__(self, bundle: Path) -> None:
        self.model = start(open_bundle(bundle), engine="onnxruntime")
        self.pictures = 0
        self.fails_after: int | None = None
        run = self.model.engine.run

        def spied(inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
            if self.fails_after is not None and self.pictures >= self.fails_after:
                raise EngineError("out of memory")
            self.pictures += len(inputs["pixels"])
            return run(inputs, outputs)

        self.model.engine.run = spied  # type: ignore[method-assign]  # what a spy does


@pytest.fixture
def spied(tiny_bundle: Path) -> Spied:
    return Spied(tiny_bundle)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_segmentation(tmp_path / "data", 8, size=SIZE, block=14)
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_second_run_does_not_call_the_engine(spied: Spied, root: Path, cache: Path) -> None:
    fitted(spied.model, "segment", root, cache, size=SIZE)
    assert spied.pictures == 8
    fitted(spied.model, "segment", root, cache, size=SIZE, rates=(1e-4, 1e-1), seed=3)
    assert spied.pictures == 8


def test_files_that_were_moved_are_found_again(spied: Spied, root: Path, cache: Path) -> None:
    fitted(spied.model, "segment", root, cache, size=SIZE)
    fitted(spied.model, "segment", root.rename(root.with_name("moved")), cache, size=SIZE)
    assert spied.pictures == 8


def test_a_picture_that_was_edited_is_computed_anew(spied: Spied, root: Path, cache: Path) -> None:
    fitted(spied.model, "segment", root, cache, size=SIZE)
    save(root / "images" / "03.png", np.full((*SIZE, 3), 77, np.uint8))
    fitted(spied.model, "segment", root, cache, size=SIZE)
    assert spied.pictures == 9


def test_labels_that_were_edited_are_read_anew(spied: Spied, root: Path, cache: Path) -> None:
    def edit() -> None:
        for path in (root / "labels").iterdir():
            save(path, np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8) % 3)

    before = fitted(spied.model, "segment", root, cache, size=SIZE)
    edit()
    found = fitted(spied.model, "segment", root, cache, size=SIZE)
    fresh = fitted(spied.model, "segment", root, cache.with_name("fresh"), size=SIZE)
    assert (found.head.weight == fresh.head.weight).all()
    assert (found.head.weight != before.head.weight).any()


def test_another_size_and_another_layer_are_computed_anew(
    spied: Spied, root: Path, cache: Path
) -> None:
    fitted(spied.model, "segment", root, cache, size=SIZE)
    fitted(spied.model, "segment", root, cache, size=(56, 84))
    assert spied.pictures == 16
    fitted(spied.model, "segment", root, cache, size=SIZE, layers=(Layer(0, True),))
    assert spied.pictures == 24
    both = (Layer(0, True), Layer(1, True))
    fitted(spied.model, "segment", root, cache, size=SIZE, layers=both)
    assert spied.pictures == 24


def test_features_that_were_interrupted_go_on_where_they_stopped(
    spied: Spied, tmp_path: Path, cache: Path
) -> None:
    root = tmp_path / "many"
    write_segmentation(root, 20, size=SIZE, block=14)
    spied.fails_after = 8
    with pytest.raises(EngineError):
        fitted(spied.model, "segment", root, cache, size=SIZE)
    spied.fails_after = None
    found = fitted(spied.model, "segment", root, cache, size=SIZE)
    assert spied.pictures == 20
    fresh = fitted(spied.model, "segment", root, cache.with_name("fresh"), size=SIZE)
    assert (found.head.weight == fresh.head.weight).all()


def test_a_damaged_entry_is_computed_anew(spied: Spied, root: Path, cache: Path) -> None:
    whole = fitted(spied.model, "segment", root, cache, size=SIZE)
    whole.checkpoint.remove()
    entry = next(cache.rglob("*.patches.npy"))
    entry.write_bytes(entry.read_bytes()[:-5])
    found = fitted(spied.model, "segment", root, cache, size=SIZE)
    assert spied.pictures == 9
    assert (found.head.weight == whole.head.weight).all()


def test_the_features_kept_are_those_of_the_predictor(
    spied: Spied, root: Path, cache: Path
) -> None:
    data = Labelled("segment").training(root)
    blueprint = Blueprint(spied.model.manifest, (Layer(0, False),), True, "tests", size=SIZE)
    extractor = Extractor(spied.model, blueprint.head(data, 1), cache)
    found = examples(extractor, data.samples, batch_size=3)
    for index, sample in enumerate(data.samples):
        expected = spied.model(sample.image, layers=(Layer(0, False),), size=SIZE, policy="fit")
        patches, cls = found.features(index)
        np.testing.assert_array_equal(patches, expected.arrays["patches_0_raw"])
        np.testing.assert_array_equal(cls, expected.arrays["cls_0_raw"])
        assert isinstance(patches, np.memmap)
        assert found.target(index).shape == (8, 12)


def test_a_classification_keeps_the_mean_patch_alone(
    spied: Spied, tmp_path: Path, cache: Path
) -> None:
    write_classes(tmp_path / "data", 2, size=SIZE)
    data = Labelled("classify").training(tmp_path / "data")
    blueprint = Blueprint(spied.model.manifest, (), True, "tests")
    extractor = Extractor(spied.model, blueprint.head(data, 1), cache)
    found = examples(extractor, data.samples, batch_size=3)
    expected = spied.model(data.samples[5].image)
    cls, mean = found.features(5)
    np.testing.assert_array_equal(cls, expected.cls)
    np.testing.assert_allclose(mean[0, 0], expected.patches.mean(axis=(0, 1)), rtol=1e-6)
    assert int(found.target(5)) == 2
    assert not list(cache.rglob("*.patches.npy"))


def test_pictures_of_several_sizes_keep_their_own_features(
    spied: Spied, root: Path, cache: Path
) -> None:
    for index, width in enumerate((84, 28, 84)):
        save(root / "images" / f"0{index}.png", np.full((28, width, 3), 50 * index, np.uint8))
        save(root / "labels" / f"0{index}.png", np.full((28, width), index, np.uint8))
    data = Labelled("segment").training(root)
    blueprint = Blueprint(spied.model.manifest, (), False, "tests", size=SIZE)
    extractor = Extractor(spied.model, blueprint.head(data, 1), cache)
    done: list[int] = []
    found = examples(extractor, data.samples, batch_size=8, advance=done.append)
    assert sum(done) == 8
    for index, sample in enumerate(data.samples):
        expected = spied.model(sample.image, size=SIZE, policy="fit").patches
        # ONNX Runtime's kernels round differently by the number of pictures in a batch.
        np.testing.assert_allclose(found.features(index)[0], expected, rtol=1e-6)


def test_features_beyond_the_bound_are_refused_before_any_work(
    spied: Spied, root: Path, cache: Path
) -> None:
    data = Labelled("segment").training(root)
    head = Blueprint(spied.model.manifest, (), True, "tests", size=SIZE).head(data, 1)
    features = 8 * (2 * 3 + 1) * 4 * 4  # pictures, patches and [CLS], D, bytes
    needed = features + 8 * (2 * 3) * 4 * 4  # ids, in 4x4 cells of each patch

    def run(bound: int) -> None:
        samples = data.samples
        settings = Settings(1, (1e-3,), 4, 0)
        fit_head(spied.model, head, samples, samples, settings, Storage(cache, bound))

    with pytest.raises(OutputError, match="--cache-size") as refused:
        run(2 * needed - 1)
    assert f"{2 * needed / 1e9:.3g} GB" in str(refused.value)
    assert spied.pictures == 0
    assert not cache.exists()
    run(2 * needed)
    assert sum(np.load(path).nbytes for path in cache.rglob("*.npy")) == needed


def test_the_room_that_depths_take_is_known_before(
    spied: Spied, tmp_path: Path, cache: Path
) -> None:
    write_depth(tmp_path / "data", 3, size=SIZE, block=14)
    data = Labelled("depth").training(tmp_path / "data")
    head = Blueprint(spied.model.manifest, (), False, "tests", size=SIZE).head(data, 4)
    needed = 3 * (2 * 3) * (4 * 4 + 4 * 4 * 4)  # pictures, patches, float32: D and depths
    with pytest.raises(OutputError, match="--cache-size"):
        Extractor(spied.model, head, cache).require_within(data.samples, needed - 1)
    Extractor(spied.model, head, cache).require_within(data.samples, needed)
    examples(Extractor(spied.model, head, cache), data.samples, batch_size=2)
    assert sum(np.load(path).nbytes for path in cache.rglob("*.npy")) == needed


def test_a_full_disk_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 999

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(OutputError, match="--cache"):
        FeatureCache(tmp_path / "a" / "b").require_room(1000)
    FeatureCache(tmp_path / "a" / "b").require_room(999)


def test_the_disk_needs_room_for_no_more_than_what_is_lacking(
    spied: Spied, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10**9

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    fitted(spied.model, "segment", root, cache, size=SIZE)
    Usage.free = 0
    fitted(spied.model, "segment", root, cache, size=SIZE, seed=1)
    save(root / "labels" / "03.png", np.zeros(SIZE, np.uint8))
    target, feature = 2 * 3 * 4 * 4, 2 * 3 * 4 * 4
    for free, enough in ((target - 1, False), (target, True)):
        Usage.free = free
        if enough:
            fitted(spied.model, "segment", root, cache, size=SIZE)
        else:
            with pytest.raises(OutputError, match="free"):
                fitted(spied.model, "segment", root, cache, size=SIZE)
    save(root / "images" / "03.png", np.full((*SIZE, 3), 77, np.uint8))
    Usage.free = target + feature - 1
    with pytest.raises(OutputError, match="free"):
        fitted(spied.model, "segment", root, cache, size=SIZE)
    Usage.free = target + feature
    fitted(spied.model, "segment", root, cache, size=SIZE)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        FeatureCache(tmp_path / "file").store("ab", "target", np.zeros(3))


def test_an_array_that_was_not_finished_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(stream: Any, value: Any, **rest: Any) -> None:
        stream.write(b"half")
        assert not cache.path("ab", "target").exists()
        raise KeyboardInterrupt

    cache = FeatureCache(tmp_path)
    monkeypatch.setattr(np, "save", fails)
    with pytest.raises(KeyboardInterrupt):
        cache.store("ab", "target", np.zeros(3))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_picture_that_cannot_be_read_ends_the_run_in_its_name(
    spied: Spied, root: Path, cache: Path
) -> None:
    (root / "images" / "05.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"05\.png: is not an image"):
        fitted(spied.model, "segment", root, cache, size=SIZE)


def test_a_label_with_an_unknown_id_ends_the_run_in_its_name(
    spied: Spied, root: Path, cache: Path
) -> None:
    (root / "classes.txt").write_text("red\ngreen\n")
    with pytest.raises(DatasetError, match=r"labels/0\d\.png: has the id 2 .* accepted are 0..1"):
        fitted(spied.model, "segment", root, cache, size=SIZE)


def test_labels_that_were_accepted_for_more_classes_are_refused_for_fewer(
    spied: Spied, root: Path, cache: Path
) -> None:
    def read() -> None:
        data = Labelled("segment").training(root)
        head = Blueprint(spied.model.manifest, (), False, "tests", size=SIZE).head(data, 1)
        extractor = Extractor(spied.model, head, cache)
        examples(extractor, data.samples, batch_size=2)

    read()
    (root / "classes.txt").write_text("red\ngreen\n")
    with pytest.raises(DatasetError, match="has the id 2"):
        read()


def test_units_are_part_of_what_a_label_means(spied: Spied, tmp_path: Path, cache: Path) -> None:
    write_depth(tmp_path / "data", 2, size=SIZE, block=14)

    def deepest(units: float) -> float:
        data = Labelled("depth", units=units).training(tmp_path / "data")
        head = Blueprint(spied.model.manifest, (), False, "tests", size=SIZE).head(data, 4)
        extractor = Extractor(spied.model, head, cache)
        found = examples(extractor, data.samples, batch_size=2)
        return float(found.target(0).max())

    assert deepest(500) == pytest.approx(2 * deepest(1000))
    assert spied.pictures == 2


def test_ignored_pixels_stay_ignored(spied: Spied, root: Path, cache: Path) -> None:
    ids = np.zeros(SIZE, np.uint8)
    ids[:14] = IGNORE
    save(root / "labels" / "00.png", ids)
    data = Labelled("segment").training(root)
    head = Blueprint(spied.model.manifest, (), False, "tests", size=SIZE).head(data, 1)
    extractor = Extractor(spied.model, head, cache)
    found = examples(extractor, data.samples, batch_size=2)
    np.testing.assert_array_equal(found.target(0)[:, 0], [IGNORE] * 4 + [0] * 4)


def test_another_model_has_features_of_its_own(
    spied: Spied, tmp_path: Path, root: Path, cache: Path
) -> None:
    fitted(spied.model, "segment", root, cache, size=SIZE)
    folder = write_tiny_bundle(tmp_path / "other")
    position = np.load(folder / "position.npy")
    np.save(folder / "position.npy", position + 1)
    manifest = json.loads((folder / "clsspec.json").read_text())
    manifest["files"]["position.npy"] = describe(folder / "position.npy").model_dump()
    (folder / "clsspec.json").write_text(json.dumps(manifest))
    other = Spied(folder)
    fitted(other.model, "segment", root, cache, size=SIZE)
    assert other.pictures == 8


def test_a_digest_tells_where_one_part_ends() -> None:
    assert digest("ab", "c") != digest("a", "bc")


def test_a_file_that_cannot_be_hashed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.png: cannot be read"):
        digest(tmp_path / "gone.png")
