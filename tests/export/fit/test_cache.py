"""What a second run finds again in the cache, and what is computed anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cached_features import SIZE, Spied, examples
from fit_pictures import fitted, save, write_depth, write_segmentation
from tiny_bundle import write_tiny_bundle

from clsspec_export.fit.blueprint import Blueprint
from clsspec_export.fit.examples import Extractor
from clsspec_export.fit.feature_cache import FeatureCache, digest
from clsspec_export.fit.labelled import Labelled
from clsspec_serve.bundle import describe
from clsspec_serve.errors import DatasetError, EngineError, OutputError
from clsspec_serve.layers import Layer


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
