"""Draws scenes with OpenGL, off screen: light, distance and class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import moderngl
import numpy as np
from numpy.typing import NDArray

from indoor_tiny.classes import class_id
from indoor_tiny.scenes.bank import SIDE
from indoor_tiny.scenes.meshes import MOST_MATERIALS, Mesh
from indoor_tiny.scenes.scene import Camera, Item, Scene

NEAR, FAR = 0.05, 60.0
SHADOW_SIDE = 512
_SHADOW_FIELD = np.radians(140)
_LIGHTS = 4
_SHADERS = Path(__file__).with_name("shaders")
_NO_SHADOW = tuple(map(class_id, ("wall", "floor", "ceiling", "lamp", "window")))


@dataclass(frozen=True)
class View:
    """What a camera sees, the first row on top.

    `radiance`: `(S, S, 3) float32`, linear RGB without exposure. `distance`: `(S, S) float32`,
    metres along the optical axis, 0 where nothing was hit. `classes`: `(S, S) uint8`.
    """

    radiance: NDArray[np.float32]
    distance: NDArray[np.float32]
    classes: NDArray[np.uint8]


class Renderer:
    """An OpenGL context (EGL, no window) for pictures of `side` pixels with these textures.

    Meshes in `kept` stay on the device; others are dropped when their scene is done.
    """

    def __init__(
        self, side: int, layers: Sequence[NDArray[np.uint8]], kept: Sequence[Mesh]
    ) -> None:
        self._side = side
        self._context = moderngl.create_standalone_context(
            backend="egl"  # type: ignore[arg-type]  # annotated as if it were all the settings
        )
        self._context.enable(moderngl.DEPTH_TEST)
        self._room = self._program("room")
        self._shadow = self._program("shadow")
        self._textures = self._context.texture_array(
            (SIDE, SIDE, len(layers)), 3, np.stack(layers).tobytes()
        )
        self._textures.build_mipmaps()
        self._textures.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)
        size = (side, side)
        self._target = self._context.framebuffer(
            [
                self._context.texture(size, 4, dtype="f2"),
                self._context.texture(size, 2, dtype="f4"),
            ],
            self._context.depth_renderbuffer(size),
        )
        self._shadow_map = self._context.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self._shadow_map.compare_func = ""
        self._shadow_map.repeat_x = self._shadow_map.repeat_y = False
        self._shadow_target = self._context.framebuffer(depth_attachment=self._shadow_map)
        self._arrays: dict[int, _Arrays] = {}
        self._kept = {id(mesh) for mesh in kept}
        self._held = list(kept)  # an id is only good as long as its mesh lives

    def draw(self, scene: Scene, cameras: Sequence[Camera]) -> list[View]:
        """The scene from each camera."""
        shadow = self._draw_shadow(scene)
        views = [self._view(scene, camera, shadow) for camera in cameras]
        for key in [key for key in self._arrays if key not in self._kept]:
            self._arrays.pop(key).release()
        return views

    def _program(self, name: str) -> moderngl.Program:
        vertex, fragment = (
            (_SHADERS / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("vert", "frag")
        )
        return self._context.program(vertex_shader=vertex, fragment_shader=fragment)

    def _arrays_of(self, mesh: Mesh) -> _Arrays:
        if id(mesh) not in self._arrays:
            self._arrays[id(mesh)] = _Arrays(self._context, self._room, self._shadow, mesh)
        return self._arrays[id(mesh)]

    def _draw_shadow(self, scene: Scene) -> NDArray[np.float32]:
        place = np.array(scene.lights[0].position)
        down = Camera(place, place + np.array([0.0, -1.0, 1e-3]), 0.0, float(_SHADOW_FIELD))
        projection = _projection(down)
        self._shadow_target.use()
        self._shadow_target.clear(depth=1.0)
        _set(self._shadow, "view_projection", projection)
        for item in scene.items:
            if item.label not in _NO_SHADOW:
                _set(self._shadow, "model", item.matrix())
                self._arrays_of(item.mesh).shadow.render()
        return projection

    def _view(self, scene: Scene, camera: Camera, shadow: NDArray[np.float32]) -> View:
        self._target.use()
        self._target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        self._textures.use(0)
        self._shadow_map.use(1)
        program = self._room
        program["textures"], program["shadow"] = 0, 1
        _set(program, "view_projection", _projection(camera))
        _set(program, "shadow_projection", shadow)
        program["eye"] = tuple(camera.position)
        program["forward"] = tuple(-camera.rotation()[2])
        program["ambient_above"], program["ambient_below"] = (tuple(a) for a in scene.ambient)
        lights = np.zeros((2, _LIGHTS, 3), np.float32)
        for index, light in enumerate(scene.lights[:_LIGHTS]):
            lights[:, index] = light.position, light.colour
        _write(program, "light_places", lights[0])
        _write(program, "light_colours", lights[1])
        for item in reversed(scene.items):  # the walls, which the rest hides, come first there
            self._draw_item(item)
        return self._read()

    def _draw_item(self, item: Item) -> None:
        colours = np.zeros((MOST_MATERIALS, 4), np.float32)
        looks = np.zeros((MOST_MATERIALS, 4), np.float32)
        for index, paint in enumerate(item.paints):
            colours[index] = (*paint.colour, 0.0 if paint.hidden else 1.0)
            looks[index] = (paint.layer, paint.repeat, paint.glow, paint.gloss)
        _set(self._room, "model", item.matrix())
        self._room["label"] = float(item.label)
        _write(self._room, "colours", colours)
        _write(self._room, "looks", looks)
        self._arrays_of(item.mesh).room.render()

    def _read(self) -> View:
        side = self._side
        light = np.frombuffer(self._target.read(components=4, dtype="f2"), np.float16)
        truth = np.frombuffer(
            self._target.read(components=2, attachment=1, dtype="f4"), np.float32
        ).reshape(side, side, 2)[::-1]
        return View(
            radiance=light.reshape(side, side, 4)[::-1, :, :3].astype(np.float32),
            distance=truth[..., 0],
            classes=truth[..., 1].astype(np.uint8),
        )


class _Arrays:
    """A mesh on the device, bound to both programs."""

    def __init__(
        self,
        context: moderngl.Context,
        room: moderngl.Program,
        shadow: moderngl.Program,
        mesh: Mesh,
    ) -> None:
        self._buffer = context.buffer(mesh.vertices.tobytes())
        names = ("in_position", "in_normal", "in_uv", "in_material")
        self.room = context.vertex_array(room, [(self._buffer, "3f 3f 2f 1u", *names)])
        self.shadow = context.vertex_array(shadow, [(self._buffer, "3f 24x", "in_position")])

    def release(self) -> None:
        """Free the device's memory."""
        self.room.release()
        self.shadow.release()
        self._buffer.release()


def _projection(camera: Camera) -> NDArray[np.float32]:
    """`(4, 4)`: the scene's coordinates to OpenGL's clip space, of a square picture."""
    scale = 1 / np.tan(camera.field / 2)
    lens = np.array(
        [
            [scale, 0, 0, 0],
            [0, scale, 0, 0],
            [0, 0, -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
            [0, 0, -1, 0],
        ]
    )
    eye = np.eye(4)
    eye[:3, :3] = camera.rotation()
    eye[:3, 3] = -camera.rotation() @ camera.position
    found: NDArray[np.float32] = (lens @ eye).astype(np.float32)
    return found


def _set(program: moderngl.Program, name: str, matrix: NDArray[np.float32]) -> None:
    _write(program, name, matrix.T)  # OpenGL's are by column


def _write(program: moderngl.Program, name: str, values: NDArray[np.float32]) -> None:
    uniform = program[name]
    if not isinstance(uniform, moderngl.Uniform):
        raise TypeError(f"{name} is a {type(uniform).__name__}, not a uniform")
    uniform.write(np.ascontiguousarray(values).tobytes())
