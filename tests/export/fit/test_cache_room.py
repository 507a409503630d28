"""How much room features and labels take, and what is said where it is lacking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cached_features import SIZE, Spied, examples
from fit_pictures import fitted, save, write_depth

from clsspec_export.fit.blueprint import Blueprint
from clsspec_export.fit.examples import Extractor
from clsspec_export.fit.feature_cache import FeatureCache
from clsspec_export.fit.fitting import Storage, fit_head
from clsspec_export.fit.labelled import Labelled
from clsspec_export.fit.training import Settings
from clsspec_serve.errors import OutputError


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
