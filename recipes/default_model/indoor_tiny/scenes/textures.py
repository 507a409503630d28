"""Square textures drawn from a seed: what walls, floors, cloth, pictures and views look like.

A family draws `(S, S, 3)` float64 sRGB in [0, 1]; those of surfaces can be repeated side by side.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Picture = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Picture]


def draw(family: str, seed: int, side: int) -> NDArray[np.uint8]:
    """`(S, S, 3) uint8`, the same for the same arguments."""
    picture = FAMILIES[family](np.random.default_rng(seed), side)
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def random_colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> NDArray[np.float64]:
    """`(3,)` sRGB of a hue drawn evenly, the rest from their ranges."""
    hsv = (rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(colorsys.hsv_to_rgb(*hsv))


def noise(rng: np.random.Generator, side: int, grain: float, stretch: float = 1) -> Picture:
    """`(S, S)` smooth noise of unit deviation that repeats; `grain` in pixels, longer along x."""
    white = np.fft.rfft2(rng.standard_normal((side, side)))
    smoothed = ndimage.fourier_gaussian(white, (grain, grain * stretch), n=side)
    smooth = np.fft.irfft2(smoothed, (side, side))
    found: Picture = smooth / max(smooth.std(), 1e-9)
    return found


def _octaves(rng: np.random.Generator, side: int) -> Picture:
    grains = side / np.array([4, 10, 25, 60])
    layers = [noise(rng, side, grain) * 0.5**n for n, grain in enumerate(grains)]
    return np.sum(layers, axis=0)


def _cells(side: int, rows: int, columns: int, shift: float) -> tuple[Picture, Picture, Picture]:
    """Row and column of each pixel's cell, and its distance to the cell's border, in pixels."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float64)
    row = np.floor(y * rows / side)
    x = (x + (row % 2) * shift * side / columns) % side
    column = np.floor(x * columns / side)
    dy = np.minimum(y % (side / rows), side / rows - y % (side / rows))
    dx = np.minimum(x % (side / columns), side / columns - x % (side / columns))
    return row, column, np.minimum(dx, dy)


def _shades(rng: np.random.Generator, row: Picture, column: Picture, spread: float) -> Picture:
    table = rng.normal(1, spread, (int(row.max()) + 1, int(column.max()) + 1))
    found: Picture = table[row.astype(int), column.astype(int)]
    return found


def _wood_colour(rng: np.random.Generator) -> NDArray[np.float64]:
    tone = colorsys.hsv_to_rgb(
        rng.uniform(0.04, 0.11), rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.95)
    )
    return np.array(tone)


def _grain(rng: np.random.Generator, side: int) -> Picture:
    rings = np.sin(noise(rng, side, side / 20, 8) * rng.uniform(1, 5))
    found: Picture = 1 + 0.08 * rings + 0.05 * noise(rng, side, 0.7, 12)
    return found


def _planks(rng: np.random.Generator, side: int) -> Picture:
    rows, columns = int(rng.integers(4, 13)), int(rng.integers(1, 4))
    row, column, border = _cells(side, rows, columns, rng.uniform(0.2, 0.8))
    shade = _shades(rng, row, column, rng.uniform(0.03, 0.15)) * _grain(rng, side)
    shade *= np.where(border < rng.uniform(0.3, 1.5), rng.uniform(0.4, 0.9), 1)
    return shade[..., None] * _wood_colour(rng)


def _wood(rng: np.random.Generator, side: int) -> Picture:
    return _grain(rng, side)[..., None] * _wood_colour(rng)


def _tiles(rng: np.random.Generator, side: int) -> Picture:
    count = int(rng.integers(2, 9))
    row, column, border = _cells(side, count, count, rng.choice([0.0, 0.5]))
    shade = _shades(rng, row, column, rng.uniform(0, 0.06)) + 0.03 * _octaves(rng, side)
    colours = shade[..., None] * random_colour(rng, (0, 0.4), (0.3, 1))
    if rng.uniform() < 0.3:  # a chessboard
        other = random_colour(rng, (0, 0.5), (0.1, 1))
        colours = np.where(((row + column) % 2 == 0)[..., None], shade[..., None] * other, colours)
    joint = np.ones(3) * rng.uniform(0.3, 0.95)
    return np.where((border < rng.uniform(0.5, 3))[..., None], joint, colours)


def _bricks(rng: np.random.Generator, side: int) -> Picture:
    rows = int(rng.integers(6, 17))
    row, column, border = _cells(side, rows, max(rows // 3, 2), 0.5)
    shade = _shades(rng, row, column, 0.12) + 0.08 * _octaves(rng, side)
    brick = np.array(
        colorsys.hsv_to_rgb(rng.uniform(0, 0.1), rng.uniform(0, 0.7), rng.uniform(0.4, 1))
    )
    joint = np.ones(3) * rng.uniform(0.4, 0.9)
    return np.where((border < rng.uniform(0.8, 2.2))[..., None], joint, shade[..., None] * brick)


def _plaster(rng: np.random.Generator, side: int) -> Picture:
    light = rng.uniform() < 0.8
    colour = (
        random_colour(rng, (0, 0.25), (0.75, 1))
        if light
        else random_colour(rng, (0, 0.8), (0.2, 1))
    )
    rough = 1 + rng.uniform(0, 0.04) * noise(rng, side, rng.uniform(0.5, 3))
    patchy = rng.uniform(0, 0.03) * _octaves(rng, side)
    return (rough + patchy)[..., None] * colour


def _stripes(rng: np.random.Generator, side: int) -> Picture:
    count = int(rng.integers(3, 24))
    x = np.mgrid[0:side, 0:side][int(rng.uniform() < 0.8)]
    phase = (x * count / side) % 1
    mask = (phase < rng.uniform(0.1, 0.6))[..., None]
    base, line = random_colour(rng, (0, 0.6), (0.3, 1)), random_colour(rng, (0, 0.8), (0.1, 1))
    cloth = 1 + 0.03 * noise(rng, side, 0.6)
    return np.where(mask, line, base) * cloth[..., None]


def _checks(rng: np.random.Generator, side: int) -> Picture:
    count = int(rng.integers(2, 12))
    y, x = np.mgrid[0:side, 0:side] * count / side
    share = ((x % 1 < 0.5).astype(float) + (y % 1 < 0.5)) / 2
    base, line = random_colour(rng, (0, 0.8), (0.4, 1)), random_colour(rng, (0, 0.9), (0.1, 0.9))
    return base + share[..., None] * (line - base)


def _cloth(rng: np.random.Generator, side: int) -> Picture:
    y, x = np.mgrid[0:side, 0:side]
    period = int(rng.choice([2, 4, 8]))
    weave = np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)
    shade = 1 + rng.uniform(0, 0.12) * weave + rng.uniform(0.02, 0.1) * noise(rng, side, 0.8)
    shade += rng.uniform(0, 0.08) * _octaves(rng, side)
    return shade[..., None] * random_colour(rng, (0, 0.9), (0.1, 1))


def _carpet(rng: np.random.Generator, side: int) -> Picture:
    shade = 1 + rng.uniform(0.05, 0.25) * noise(rng, side, rng.uniform(0.4, 1.2))
    return shade[..., None] * random_colour(rng, (0, 0.7), (0.1, 0.9))


def _marble(rng: np.random.Generator, side: int) -> Picture:
    veins = np.exp(-np.abs(_octaves(rng, side)) * rng.uniform(4, 15)) * rng.uniform(0.1, 0.6)
    base, vein = random_colour(rng, (0, 0.2), (0.2, 1)), random_colour(rng, (0, 0.4), (0.1, 0.9))
    return base + veins[..., None] * (vein - base)


def _wallpaper(rng: np.random.Generator, side: int) -> Picture:
    count = int(rng.integers(2, 9))
    cell = side // count
    blot = ndimage.gaussian_filter(rng.standard_normal((cell, cell)), cell / 10, mode="wrap")
    blot = np.concatenate([blot, blot[:, ::-1]], axis=1)[:, ::2]
    motif = np.tile(blot > np.quantile(blot, rng.uniform(0.55, 0.9)), (count + 1, count + 1))
    base, ink = random_colour(rng, (0, 0.4), (0.5, 1)), random_colour(rng, (0, 0.7), (0.2, 1))
    return np.where(motif[:side, :side, None], ink, base) * np.ones((side, side, 1))


def _art(rng: np.random.Generator, side: int) -> Picture:
    """A picture on a wall: a smooth ground with blobs, bars and discs."""
    y, x = np.mgrid[0:side, 0:side] / side
    field = [noise(rng, side, side / rng.uniform(3, 12)) for _ in range(3)]
    picture = np.stack(field, axis=-1) * 0.15 + random_colour(rng, (0, 0.6), (0.2, 1))
    for _ in range(int(rng.integers(0, 12))):
        cx, cy, size = rng.uniform(0, 1, 3) * (1, 1, 0.35)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < size**2
        bar = (abs(x - cx) < size) & (abs(y - cy) < size * rng.uniform(0.05, 1))
        shape = disc if rng.uniform() < 0.5 else bar
        picture = np.where(shape[..., None], random_colour(rng, (0, 1), (0, 1)), picture)
    return picture


def _view(rng: np.random.Generator, side: int) -> Picture:
    """What a window shows: sky, hills or houses, green; row 0 is the lowest."""
    y, x = np.mgrid[0:side, 0:side] / side
    zenith, haze = np.array([0.35, 0.6, 0.95]), np.array([0.85, 0.92, 1.0])
    if rng.uniform() < 0.2:  # night
        zenith, haze = np.array([0.02, 0.03, 0.08]), np.array([0.1, 0.1, 0.15])
    clouds = (_octaves(rng, side) * 0.15).clip(0, 0.4)
    picture = haze + y[..., None] * (zenith - haze) + clouds[..., None]
    for _ in range(int(rng.integers(0, 7))):
        left, width, top = rng.uniform(0, 1), rng.uniform(0.05, 0.4), rng.uniform(0.2, 0.8)
        house = (x > left) & (x < left + width) & (y < top)
        panes = ((x * 40) % 1 < 0.5) & ((y * 40) % 1 < 0.5) & (rng.uniform() < 0.6)
        wall = random_colour(rng, (0, 0.4), (0.3, 0.9))
        picture = np.where(house[..., None], np.where(panes[..., None], wall * 0.5, wall), picture)
    skyline = rng.uniform(0.05, 0.6) + 0.08 * noise(rng, side, side / 12)[0]
    leaves = 1 + 0.25 * noise(rng, side, 1.5)
    green = np.array(
        colorsys.hsv_to_rgb(rng.uniform(0.2, 0.4), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.7))
    )
    return np.where((y < skyline)[..., None], leaves[..., None] * green, picture)


def _display(rng: np.random.Generator, side: int) -> Picture:
    """What a screen shows: nothing, an artwork, or a page with windows of text; row 0 is lowest."""
    kind = rng.uniform()
    if kind < 0.45:
        return np.ones((side, side, 3)) * rng.uniform(0, 0.08)
    if kind < 0.7:
        return _art(rng, side)
    y, _ = np.mgrid[0:side, 0:side] / side
    picture = np.ones((side, side, 3)) * random_colour(rng, (0, 0.3), (0.1, 1))
    ink = random_colour(rng, (0, 0.5), (0, 1))
    ragged = rng.uniform(0, 1, 40)[(y * 39).astype(int)] > np.mgrid[0:side, 0:side][1] / side
    lines = ((y * 39) % 1 < 0.5) & ragged & (rng.uniform(size=(side, side)) < 0.7)
    return np.where(lines[..., None], ink, picture)


FAMILIES: dict[str, Draw] = {
    "planks": _planks,
    "wood": _wood,
    "tiles": _tiles,
    "bricks": _bricks,
    "plaster": _plaster,
    "stripes": _stripes,
    "checks": _checks,
    "cloth": _cloth,
    "carpet": _carpet,
    "marble": _marble,
    "wallpaper": _wallpaper,
    "art": _art,
    "view": _view,
    "display": _display,
}

FLOORS = ("planks", "planks", "wood", "tiles", "tiles", "carpet", "carpet", "marble")
WALLS = (
    "plaster",
    "plaster",
    "plaster",
    "plaster",
    "wallpaper",
    "stripes",
    "bricks",
    "tiles",
    "wood",
)
CEILINGS = ("plaster", "plaster", "plaster", "tiles", "wood")
CLOTHS = ("cloth", "cloth", "stripes", "checks", "carpet", "wallpaper", "wood", "marble")
