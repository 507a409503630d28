"""Put things where they belong: along walls, on the floor, around tables, on top of each other."""

from __future__ import annotations

import numpy as np

from indoor_tiny.classes import class_id
from indoor_tiny.scenes.catalogue import LOW
from indoor_tiny.scenes.plan import ANGLES, WALLS, Box, Plan, footprint
from indoor_tiny.scenes.scene import Item, Paint, Scene
from indoor_tiny.scenes.shell import panel, rug
from indoor_tiny.scenes.stock import Model, Stock

_TRIES = 25
_WALL_GAP = 0.02


class Filling:
    """One room being filled."""

    def __init__(self, stock: Stock, scene: Scene, plan: Plan, rng: np.random.Generator) -> None:
        self._stock, self._scene, self._plan, self._rng = stock, scene, plan, rng
        self._tops: list[tuple[Model, Item]] = []

    def put(self, label: int, places: tuple[str, ...]) -> None:
        """A piece of a class that goes to one of `places`, if it can be put there somewhere."""
        model = self._stock.choose(label, self._scene.room, self._rng, places)
        if model is None:
            return
        place = model.piece.place
        if place in ("wall", "hung", "opening"):
            self._put_along_wall(model)
        elif place == "ceiling":
            self._put_at_ceiling(model)
        elif model.piece.size[1] > LOW or place in ("middle", "seat", "floor"):
            item = self._put_on_floor(model)
            if item is not None and place == "middle":
                self._chairs_around(model, item)

    def cover(self, mean: float) -> None:
        """Put things on top of what stands on the floor, `mean` on each on average."""
        for model, item in list(self._tops):
            self._cover(model, item, mean)

    def _add(self, model: Model, x: float, y: float, z: float, angle: float) -> Item:
        paints = self._stock.paints(model, self._rng)
        item = Item(model.mesh, paints, model.piece.label, (x, y, z), angle)
        self._scene.items.append(item)
        if model.piece.top is not None and model.piece.place in ("wall", "middle"):
            self._tops.append((model, item))
        return item

    def _put_along_wall(self, model: Model) -> None:
        piece, rng, plan = model.piece, self._rng, self._plan
        width, height, depth = piece.size
        elevation = piece.elevation
        if elevation and elevation + height > plan.height:
            elevation = plan.height - height - 0.02
        opening = piece.place == "opening"
        for _ in range(_TRIES):
            wall = int(rng.integers(WALLS))
            if width > plan.length(wall) - 0.05:
                continue
            along = rng.uniform(width / 2, plan.length(wall) - width / 2)
            gap = _WALL_GAP if opening else depth / 2 + _WALL_GAP
            x, z = plan.on_wall(wall, along, gap)
            angle = ANGLES[wall] + (rng.normal(0, 0.03) if piece.place == "wall" else 0)
            at = plan.on_wall(wall, along, depth / 2 + 0.001) if opening else (x, z)
            box = footprint(*at, ANGLES[wall], piece.size, elevation)
            if elevation < 0 or not plan.free(box):
                continue
            self._add(model, x, elevation, z, angle)
            plan.taken.append(box)
            if piece.label == class_id("door"):
                plan.taken.append(
                    footprint(*plan.on_wall(wall, along, 0.45), ANGLES[wall], (width, height, 0.9))
                )
            return

    def _put_at_ceiling(self, model: Model) -> None:
        piece, plan = model.piece, self._plan
        y = plan.height - piece.size[1]
        if y < 1.7:
            return
        x, z = self._rng.uniform(0.2, 0.8, 2) * (plan.width, plan.depth)
        box = footprint(x, z, 0, piece.size, y)
        if plan.free(box):
            self._add(model, x, y, z, self._rng.uniform(0, 2 * np.pi))
            plan.taken.append(box)

    def _put_on_floor(self, model: Model) -> Item | None:
        piece, rng, plan = model.piece, self._rng, self._plan
        for _ in range(_TRIES):
            straight = rng.uniform() < 0.5
            angle = ANGLES[int(rng.integers(4))] if straight else rng.uniform(0, 2 * np.pi)
            x, z = rng.uniform(0, 1, 2) * (plan.width, plan.depth)
            box = footprint(x, z, angle, piece.size)
            if plan.free(box, 0.02):
                plan.taken.append(box)
                return self._add(model, x, 0, z, angle)
        return None

    def _chairs_around(self, table: Model, item: Item) -> None:
        rng, plan = self._rng, self._plan
        chair = self._stock.choose(class_id("chair"), self._scene.room, rng, ("seat",))
        if chair is None or table.piece.size[1] < 0.6 or rng.uniform() < 0.25:
            return
        width, _, depth = table.piece.size
        own = plan.taken.pop()  # chairs reach under their table
        boxes: list[Box] = []
        for side in range(4):
            across = width if side % 2 == 0 else depth
            for n in range(max(int(across / 0.75), 1)):
                if rng.uniform() < 0.35:
                    continue
                offset = (n + 0.5) * across / max(int(across / 0.75), 1) - across / 2
                reach = (depth if side % 2 == 0 else width) / 2
                reach += rng.uniform(0.0, 0.35) + chair.piece.size[2] * 0.15
                local = np.array([offset, reach])
                # Side 0 is the table's front; the others a quarter turn further each.
                turn = item.angle + side * np.pi / 2
                x = item.position[0] + np.cos(turn) * local[0] + np.sin(turn) * local[1]
                z = item.position[2] - np.sin(turn) * local[0] + np.cos(turn) * local[1]
                angle = turn + np.pi + rng.normal(0, 0.15)
                box = footprint(x, z, angle, chair.piece.size)
                if plan.free(box) and not any(box.overlaps(each) for each in boxes):
                    self._add(chair, x, 0, z, angle)
                    boxes.append(box)
        plan.taken += [own, *boxes]

    def _cover(self, below: Model, item: Item, mean: float) -> None:
        rng, room = self._rng, self._scene.room
        width, _, depth = below.piece.size
        top = (below.piece.top or 0) + item.position[1]
        if top > 1.5:
            return
        placed: list[Box] = []
        for _ in range(rng.poisson(mean)):
            weights = np.array([0.5, 0.12, 0.12, 0.12, 0.14])
            names = ("other", "screen", "lamp", "plant", "appliance")
            name = names[int(rng.choice(len(names), p=weights))]
            model = self._stock.choose(class_id(name), room, rng, ("top", "stand"))
            if model is None or model.piece.size[1] > LOW + 0.2:
                continue
            w, h, d = model.piece.size
            if w > width or d > depth or top + h > self._plan.height:
                continue
            x, z = rng.uniform(-0.5, 0.5, 2) * (width - w, depth - d)
            local = footprint(x, z, 0, model.piece.size)
            if any(local.overlaps(each) for each in placed):
                continue
            placed.append(local)
            c, s = np.cos(item.angle), np.sin(item.angle)
            place = (item.position[0] + c * x + s * z, item.position[2] - s * x + c * z)
            spread = 0.3 if name == "screen" else 1.5
            self._add(model, place[0], top, place[1], item.angle + rng.normal(0, spread))

    def picture(self) -> None:
        """Hang a picture in a frame on some wall, if it fits there."""
        rng, plan = self._rng, self._plan
        width, height = rng.uniform(0.2, 1.1, 2)
        wall = int(rng.integers(WALLS))
        elevation = rng.uniform(1.0, 1.7)
        if width > plan.length(wall) - 0.2 or elevation + height > plan.height:
            return
        along = rng.uniform(width / 2, plan.length(wall) - width / 2)
        x, z = plan.on_wall(wall, along, 0.015)
        box = footprint(
            *plan.on_wall(wall, along, 0.03), ANGLES[wall], (width, height, 0.04), elevation
        )
        if not plan.free(box):
            return
        frame = Paint(tuple(rng.uniform(0, 1, 3) ** 1.5), gloss=0.2)
        picture = Paint((1, 1, 1), self._stock.texture(rng, "art", "art", "view"), gloss=0.2)
        rim = rng.uniform(0.01, 0.05)
        label = class_id("other")
        place = (x, elevation, z)
        self._scene.items.append(Item(panel(width, height), (frame,), label, place, ANGLES[wall]))
        front = plan.on_wall(wall, along, 0.02)
        place = (front[0], elevation + rim, front[1])
        inner = panel(max(width - 2 * rim, 0.05), max(height - 2 * rim, 0.05))
        self._scene.items.append(Item(inner, (picture,), label, place, ANGLES[wall]))
        plan.taken.append(box)

    def rug(self) -> None:
        """Lay a rug somewhere on the floor, if it fits there."""
        rng, plan = self._rng, self._plan
        width, depth = rng.uniform(0.6, 2.6, 2)
        x, z = rng.uniform(0.25, 0.75, 2) * (plan.width, plan.depth)
        angle = float(rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]))
        if not plan.inside(footprint(x, z, angle, (width, 0.01, depth))):
            return
        layer = self._stock.texture(rng, "carpet", "wallpaper", "checks", "stripes", "art")
        look = Paint((1, 1, 1), layer, repeat=float(rng.choice([0, rng.uniform(0.5, 2)])))
        height = 0.006 + 0.004 * rng.uniform()
        self._scene.items.append(
            Item(rug(width, depth), (look,), class_id("floor"), (x, height, z), angle)
        )
