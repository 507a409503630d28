"""Whether a plan of TensorRT computes what ONNX Runtime computes on the CPU from fp32 graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.bundle import REFERENCE, Bundle
from clsspec_serve.choices import HeadTask, Precision
from clsspec_serve.dense.views import Pixels
from clsspec_serve.engines.protocol import Engine, here
from clsspec_serve.engines.select import choose_engine, load_engine
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError
from clsspec_serve.models import find_bundle
from clsspec_serve.parity import Array, Difference, compare, reference_samples
from clsspec_serve.position import position_map
from clsspec_serve.request import Size

Arrays = Mapping[str, Array]
Compare = Callable[[Plan], list[Difference]]


class Acceptance:
    """Looks at the plans of a bundle.

    A plan is shown the photographs that the bundle carries, or the embedded one where it carries
    none, and their mirror images, in its own size: one alone, and its largest batch. A head's plan
    is shown the features that ONNX Runtime finds in them. `found`: the differences by the plan's
    sha256. `threads`: of ONNX Runtime.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Raises `EngineError` without ONNX Runtime, before minutes are spent on a plan."""
        choose_engine("onnxruntime", "fp32")
        self.found: dict[str, list[Difference]] = {}
        self._bundle, self._threads = bundle, threads
        self._patch = bundle.manifest.architecture.patch_size

    def accept(self, plan: Plan) -> None:
        """Of the backbone; raises `EngineError` for one that is not to be kept."""
        self._require(plan, self.differences)

    def accept_head(self, task: HeadTask, plan: Plan) -> None:
        """Of a head; raises as `accept`."""
        self._require(plan, lambda plan: self.differences_of_head(task, plan))

    def differences(self, plan: Plan) -> list[Difference]:
        """Of every output of a plan of the backbone."""
        size = _sides(plan, "pixels", 1)
        names = [output.name for output in self._bundle.manifest.outputs]
        inputs, expected = self._backbone(size, names)
        return self._compared(plan, size, inputs, expected)

    def differences_of_head(self, task: HeadTask, plan: Plan) -> list[Difference]:
        """Of what a plan of a head answers."""
        head = next(head for head in self._bundle.manifest.heads if head.task == task)
        maps = [output.name for output in head.inputs if output.kind == "patches"]
        size = self._bundle.manifest.preprocessing.size
        if maps:
            rows, columns = _sides(plan, maps[0], 0)
            size = rows * self._patch, columns * self._patch
        _, features = self._backbone(size, [output.name for output in head.inputs])
        engine = self._on_the_cpu(self._bundle.head(task))
        answers: Arrays = {task: here(engine.run(features, [task])[task])}
        return self._compared(plan, size, features, answers)

    def _backbone(self, size: Size, names: list[str]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Photographs of a size with their position map, and these outputs for them.

        One by one, as for large models a batch takes more memory than it saves time.
        """
        photographs = np.stack([_shown(each, size) for each in _photographs(self._bundle)])
        grid = size[0] // self._patch, size[1] // self._patch
        table = self._bundle.position_table()
        position = position_map(self._bundle.manifest.position, table, grid)
        engine = self._on_the_cpu(self._bundle.graph_for("onnxruntime", "fp32"))
        rows = [
            engine.run({"pixels": photographs[[row]], "position": position}, names)
            for row in range(len(photographs))
        ]
        features = {name: np.concatenate([here(row[name]) for row in rows]) for name in names}
        return {"pixels": photographs, "position": position}, features

    def _on_the_cpu(self, graph: Path) -> Engine:
        return load_engine(graph, engine="onnxruntime", threads=self._threads)

    def _compared(
        self, plan: Plan, size: Size, inputs: Arrays, expected: Arrays
    ) -> list[Difference]:
        found = []
        count = len(next(iter(expected.values())))
        for batch in sorted({1, plan.bucket.largest}):
            rows = np.arange(batch) % count
            given = {
                name: value if name == "position" else value[rows] for name, value in inputs.items()
            }
            there = plan.run(given, [*expected])
            found += [
                compare(name, size, here(there[name]), value[rows])
                for name, value in expected.items()
            ]
        self.found[plan.sha256] = found
        return found

    def _require(self, plan: Plan, differences: Compare) -> None:
        layers, precision = plan.layers(), plan.precision
        if precision != "fp32" and layers.floating and not layers.half:
            raise _refusal(precision, f"{layers} of a plan for {plan.bucket}")
        for difference in differences(plan):
            if not difference.within(precision):
                raise _refusal(precision, difference.describe(precision))


def _refusal(precision: Precision, reason: str) -> EngineError:
    return EngineError(
        f"tensorrt is not right in {precision} on this machine: {reason}; the plan is not kept"
    )


def _sides(plan: Plan, name: str, first: int) -> Size:
    """Two axes of an input of a plan, from `first` on behind the batch."""
    shape = dict(plan.bucket.sizes)[name]
    return shape[first], shape[first + 1]


def _photographs(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """Network inputs, each `(4, H, W) uint8`, and their mirror images.

    In a batch of equal ones it would not be seen that one has the answer of another.
    """
    if REFERENCE not in bundle.manifest.files:
        bundle = find_bundle(None)
    found = [sample.pixels[0] for sample in reference_samples(bundle)]
    return [*found, *(pixels[:, :, ::-1] for pixels in found)]


def _shown(pixels: NDArray[np.uint8], size: Size) -> Pixels:
    """A network input in another size; what is not covered is black, as it has to be."""
    if pixels.shape[1:] == size:
        return pixels
    filters = [Image.Resampling.BILINEAR] * 3 + [Image.Resampling.NEAREST]
    planes = [
        np.asarray(Image.fromarray(plane).resize(size[::-1], each))
        for plane, each in zip(pixels, filters, strict=True)
    ]
    return np.stack([*(plane * planes[3] for plane in planes[:3]), planes[3]])
