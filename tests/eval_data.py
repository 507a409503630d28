"""Labelled pictures of plain colours, and scores worked out from their definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import Result
from head_bundle import (
    HeadGraph,
    classify_head,
    nearest_colour_head,
    patch_means,
    write_head_bundle,
)
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE, "white": (255, 255, 255)}
ONLY_RED = [0.04, 0, 0, 0]
"""Of a depth head: 0.04 m for each step of red."""


def plain(colour: tuple[int, int, int], height: int = 28, width: int = 28) -> Pixels:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def save(path: Path, pixels: NDArray[Any]) -> Path:
    """Write a PNG, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def read(path: Path) -> Pixels:
    """A file's pixels."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def metrics(result: Result) -> dict[str, float]:
    """The numbers of an answer in JSON, by key."""
    assert result.code == 0, result.err
    found = json.loads(result.out)["metrics"]
    return {key: metric["value"] for key, metric in found.items()}


def table(result: Result) -> dict[str, str]:
    """The rows for people, by name."""
    assert result.code == 0, result.err
    rows = result.out.splitlines()
    start = rows[0].index(rows[0].split("  ")[-1].strip())
    return {row[:start].strip(): row[start:] for row in rows}


def segment_data(root: Path) -> Path:
    """A red picture, half red and half green by its label; a blue one, green but for a row."""
    halves = np.zeros((28, 42), np.uint8)
    halves[:, 21:] = 1
    rest = np.ones((28, 28), np.uint8)
    rest[0] = 255
    save(root / "images/a.png", plain(RED, 28, 42))
    save(root / "labels/a.png", halves)
    save(root / "images/b.png", plain(BLUE))
    save(root / "labels/b.png", rest)
    return root


def segment_bundle(tmp_path: Path) -> Path:
    """A bundle whose head gives every pixel the class of the nearest colour."""
    return write_head_bundle(tmp_path / "bundle", [nearest_colour_head(COLOURS)])


def depth_data(root: Path) -> Path:
    """4 m seen and 8 m true, but for a row without; 8 m seen, half 8 m true and half too far."""
    far = np.full((28, 42), 8000, np.uint16)
    far[0] = 0
    near = np.full((28, 28), 8.0, np.float32)
    near[:, :14] = 10
    save(root / "images/a.png", plain((100, 0, 0), 28, 42))
    save(root / "depth/a.png", far)
    save(root / "images/b.png", plain((200, 0, 0)))
    (root / "depth").mkdir(exist_ok=True)
    np.save(root / "depth/b.npy", near)
    return root


def class_data(root: Path, count: int, seed: int) -> Path:
    """Pictures of about one colour for each class; the last green one is a blue one."""
    random = np.random.default_rng(seed)
    for name, colour in (("blue", BLUE), ("green", GREEN), ("red", RED)):
        for index in range(count):
            last = name == "green" and index == count - 1
            base = np.asarray(BLUE if last else colour)
            noisy = np.abs(base - random.integers(0, 120, 3)).astype(int)
            save(root / name / f"{index}.png", plain(tuple(noisy.tolist())))
    return root


def colour_classifier() -> HeadGraph:
    """A head that takes the strongest channel."""
    weight = np.zeros((4, 3))
    weight[[2, 1, 0], [0, 1, 2]] = 1
    return classify_head(["blue", "green", "red"], weight, np.zeros(3))


def means_of(root: Path) -> tuple[Any, list[int]]:
    """Mean colour and coverage of all pictures of a folder of classes, and their classes."""
    paths = [(i, p) for i, d in enumerate(sorted(root.iterdir())) for p in sorted(d.iterdir())]
    values = [[*read(path).mean(axis=(0, 1)), 1] for _, path in paths]
    return np.asarray(values), [label for label, _ in paths]


def nearest_by_hand(known: Any, labels: Any, seen: Any, truths: Any, k: int) -> float:
    """Top-1 in percent, one picture after the other."""
    right = 0
    for feature, truth in zip(seen, truths, strict=True):
        cosines = [
            feature @ other / np.linalg.norm(feature) / np.linalg.norm(other) for other in known
        ]
        votes: dict[int, float] = {}
        for index in sorted(range(len(known)), key=lambda i: -cosines[i])[:k]:
            label = int(labels[index])
            votes[label] = votes.get(label, 0) + math.exp(cosines[index] / 0.07)
        right += max(votes, key=lambda label: votes[label]) == truth
    return 100 * right / len(seen)


def mean_iou(predicted: list[Any], truths: list[Any], classes: int) -> float:
    """In percent, straight from its definition."""
    shares = []
    for k in range(classes):
        both = either = 0
        for p, t in zip(predicted, truths, strict=True):
            counts = t != 255
            both += int(((p == k) & (t == k) & counts).sum())
            either += int((((p == k) | (t == k)) & counts).sum())
        if either:
            shares.append(both / either)
    return 100 * float(np.mean(shares))


def depth_errors(predicted: Any, truth: Any, counts: Any) -> tuple[float, float, float]:
    """RMSE, AbsRel and δ1 of one picture."""
    p, t = predicted[counts].astype(float), truth[counts].astype(float)
    ratio = np.maximum(p / t, t / p)
    return (
        float(np.sqrt(((p - t) ** 2).mean())),
        float((abs(p - t) / t).mean()),
        float((ratio < 1.25).mean()),
    )


def shown(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resampled to (H, W)."""
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)


def short(pixels: Pixels, side: int) -> Pixels:
    """Resampled to a short side, as MMSegmentation does."""
    scale = side / min(pixels.shape[:2])
    return shown(pixels, tuple(math.floor(n * scale + 0.5) for n in pixels.shape[:2]))  # type: ignore[arg-type]  # two


def enlarged(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """`(h, w, K)` to (H, W) by PyTorch."""
    batch = torch.from_numpy(np.asarray(values, np.float64)).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(batch, size, mode="bilinear", align_corners=False)
    return found[0].permute(1, 2, 0).numpy()


def seen_depth(pixels: Pixels, weight: list[float], size: tuple[int, int]) -> NDArray[Any]:
    """Metres from the network's input, enlarged to the picture."""
    values = np.clip(patch_means(pixels) @ np.asarray(weight), 0.001, 80)
    return enlarged(values[..., None], size)[..., 0]


def flipped_depth(pixels: Pixels, weight: list[float], size: tuple[int, int]) -> NDArray[Any]:
    """The mean over the picture and its mirror image."""
    mirrored = seen_depth(pixels[:, ::-1], weight, size)[:, ::-1]
    return (seen_depth(pixels, weight, size) + mirrored) / 2
