"""Training examples: labels stay below their pixels, and everything follows from the seed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_frames import PER_CLASS, SIDE, write_frames

from indoor_tiny.frames import open_shards
from indoor_tiny.training.augment import (
    CELL,
    Crop,
    crop_classes,
    crop_depth,
    crop_image,
    random_crop,
    whole,
)
from indoor_tiny.training.loader import Batches, load
from indoor_tiny.training.photometric import photograph
from indoor_tiny.training.plan import Plan

PLAN = Plan(steps=6, batch=4, side=64, last_side=96, last_batch=2, last_share=0.3)


@pytest.mark.parametrize("seed", range(8))
def test_classes_lie_where_their_colour_does(tmp_path: Path, seed: int) -> None:
    frames = open_shards(write_frames(tmp_path, 1, seed))[0]
    crop = random_crop(SIDE, 0.5, np.random.default_rng(seed))
    side = 96
    colours = np.asarray(crop_image(frames.images[0], crop, side), np.float32)[..., 0]
    classes = crop_classes(frames.classes[0], crop, side)
    centres = colours.reshape(side // CELL, CELL, side // CELL, CELL)[:, 1:3, :, 1:3]
    pure = np.ptp(centres, axis=(1, 3)) == 0
    assert pure.mean() > 0.5
    seen = np.rint(centres.mean(axis=(1, 3)) / PER_CLASS)
    assert (seen == classes)[pure].all()
    depth = crop_depth(frames.depth[0], crop, side)
    expected = (1 + 0.2 * classes) * crop.side / SIDE
    np.testing.assert_allclose(depth[depth > 0], expected[depth > 0], rtol=1e-6)


def test_a_mirrored_crop_is_the_crop_from_right_to_left(tmp_path: Path) -> None:
    frames = open_shards(write_frames(tmp_path, 1, 3))[0]
    straight, mirrored = (Crop(5, 9, 40, mirrored=each) for each in (False, True))
    for crop in (crop_classes, crop_image):
        source = frames.classes[0] if crop is crop_classes else frames.images[0]
        one, other = (np.asarray(crop(source, each, 64)) for each in (straight, mirrored))
        np.testing.assert_array_equal(one[:, ::-1], other)


def test_a_closer_crop_is_nearer_and_holes_stay_holes() -> None:
    depth = np.full((64, 64), 4000, np.uint16)
    depth[:32] = 0
    found = crop_depth(depth, Crop(0, 16, 32, mirrored=False), 32)
    assert found[:4].max() == 0
    np.testing.assert_allclose(found[4:], 2.0)


def test_a_whole_frame_at_its_own_size_is_unchanged(tmp_path: Path) -> None:
    frames = open_shards(write_frames(tmp_path, 1, 4))[0]
    shown = crop_image(frames.images[0], whole(SIDE), SIDE)
    np.testing.assert_array_equal(np.asarray(shown), frames.images[0])


def test_crops_keep_within_the_frame() -> None:
    rng = np.random.default_rng(0)
    crops = [random_crop(SIDE, 0.5, rng) for _ in range(300)]
    assert all(min(each.left, each.top) >= 0 for each in crops)
    assert all(max(each.left, each.top) + each.side <= SIDE + 1e-9 for each in crops)
    assert min(each.side for each in crops) >= 32
    assert 0.05 < np.mean([each.side == SIDE for each in crops]) < 0.4
    assert 0.3 < np.mean([each.mirrored for each in crops]) < 0.7


def test_photographs_differ_and_follow_from_the_seed() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8))
    made = [np.asarray(photograph(image, np.random.default_rng(seed))) for seed in range(40)]
    again = [np.asarray(photograph(image, np.random.default_rng(seed))) for seed in range(40)]
    assert all(np.array_equal(one, other) for one, other in zip(made, again, strict=True))
    assert all(each.shape == (32, 32, 3) and each.dtype == np.uint8 for each in made)
    assert len({each.tobytes() for each in made}) == 40
    assert any((each == each[..., :1]).all() for each in made)


def test_an_epoch_shows_every_frame_of_every_shard_once(tmp_path: Path) -> None:
    folder = write_frames(tmp_path, 6, 5, shards=2)
    batches = Batches(Plan(steps=3, batch=4, side=64, last_share=0.0), folder)
    shown = [batches._locate(int(index)) for index in batches._epoch(0)]
    assert len({(id(frames), row) for frames, row in shown}) == 12
    assert not np.array_equal(batches._epoch(0), batches._epoch(1))


def test_no_frame_is_sent_to_another_process(tmp_path: Path) -> None:
    batches = Batches(PLAN, write_frames(tmp_path, 5, 6))
    sent = pickle.dumps(batches)
    assert len(sent) < 2000
    assert torch.equal(pickle.loads(sent)[0].images, batches[0].images)


def test_a_batch_is_the_same_whoever_makes_it_and_whenever(tmp_path: Path) -> None:
    folder = write_frames(tmp_path, 5, 6)
    late = list(load(Batches(PLAN, folder), range(3, 6), workers=0))
    everything = list(load(Batches(PLAN, folder), range(6), workers=1))
    assert [tuple(each.images.shape) for each in everything[3:]] == [
        (4, 64, 64, 3),
        (2, 96, 96, 3),
        (2, 96, 96, 3),
    ]
    for one, other in zip(late, everything[3:], strict=True):
        for name in ("images", "classes", "depth", "rooms"):
            assert torch.equal(getattr(one, name), getattr(other, name))
