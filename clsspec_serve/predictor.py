"""One forward pass from pictures to features, masks and depth: the road that every front takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import Any, Generic, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.bundle import MANIFEST, Bundle
from clsspec_serve.choices import HeadTask
from clsspec_serve.dense.maps import depth_map, segment_map
from clsspec_serve.dense.views import Pixels, Tiling
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.engines.protocol import Engine, Value, Values, WithMemory, here
from clsspec_serve.errors import BundleError, ImageError, UsageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.heads import answer_shape
from clsspec_serve.images import ImageLike
from clsspec_serve.manifest import Manifest
from clsspec_serve.position import position_map
from clsspec_serve.preparation import Prepared, frame, prepare
from clsspec_serve.request import Options, Request, Size, settle

FloatArray = NDArray[np.float32]
Picture = TypeVar("Picture", bound=ImageLike)
LoadHead = Callable[[HeadTask], Engine]

POSITION_CACHE = 32
"""Position maps kept per model; each takes h * w * D * 4 bytes."""


@dataclass(frozen=True)
class Prediction:
    """What was asked of one picture.

    `arrays` holds the answers by name: `cls` `(D,)`, `patches` `(h, w, D)`, further layers as
    `cls_5`, `patches_5`, `patches_5_raw`; `classify` `(K,)`, logits; `segment` `(H, W)`, class ids
    for the picture's own pixels (uint8, or uint16 beyond 255 classes); `depth` `(H, W)`, metres.
    All float32 but the ids. Where a picture was cropped, the ids are the type's largest value and
    the depth NaN.
    """

    arrays: Mapping[str, NDArray[Any]]
    geometry: Geometry

    @property
    def cls(self) -> FloatArray:
        """The [CLS] embedding of the last layer, `(D,)`."""
        return self._get("cls")

    @property
    def patches(self) -> FloatArray:
        """The patch map of the last layer, `(h, w, D)`."""
        return self._get("patches")

    @property
    def segment(self) -> NDArray[Any]:
        """The class of every pixel, `(H, W)`."""
        return self._get("segment")

    @property
    def depth(self) -> FloatArray:
        """The depth of every pixel in metres, `(H, W)`."""
        return self._get("depth")

    @property
    def classify(self) -> FloatArray:
        """The logit of every class, `(K,)`."""
        return self._get("classify")

    def _get(self, name: str) -> NDArray[Any]:
        if name not in self.arrays:
            raise UsageError(f"{name} was not asked for; there are {', '.join(self.arrays)}")
        return self.arrays[name]


@dataclass
class _Pending(Generic[Picture]):
    """A picture whose views are on their way through the network."""

    picture: Picture
    prepared: Prepared
    found: list[dict[str, NDArray[Any]]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.found) == self.prepared.tiling.views


class Model:
    """A bundle on an engine; `load_head` gives the engine of one of its heads.

    `gpu`: where it runs, None for the CPU. `at_once`: forward passes that may be begun before the
    first of them has ended, in threads, so that a GPU can compute one while another is copied.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, load_head: LoadHead, gpu: Gpu | None = None
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.gpu = gpu
        self.at_once = 1 if gpu is None else 2
        self._load_head = load_head
        self._heads: dict[HeadTask, Engine] = {}
        self._loading = Lock()
        table = bundle.position_table()

        @lru_cache(maxsize=POSITION_CACHE)
        def position(grid: Size) -> Value:
            found = position_map(bundle.manifest.position, table, grid)
            return engine.keep(found) if isinstance(engine, WithMemory) else found

        self._position = position

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    def __call__(self, image: ImageLike, **options: Unpack[Options]) -> Prediction:
        """What is asked of one picture; see `Options`.

        Raises `UsageError` for what the bundle does not have, `ImageError` for a picture that
        cannot be read, `EngineError` when the engine fails.
        """
        (prediction,) = self.predict([image], **options)
        return prediction

    def predict(
        self, images: Iterable[ImageLike], *, batch_size: int = 8, **options: Unpack[Options]
    ) -> Iterator[Prediction]:
        """The same of many pictures, in order; neighbours of one shape share a forward pass."""

        def refuse(image: ImageLike, error: ImageError) -> None:
            raise error

        found = self.predict_each(images, refuse, batch_size=batch_size, **options)
        return (prediction for _, prediction in found)

    def predict_each(
        self,
        images: Iterable[Picture],
        refuse: Callable[[Picture, ImageError], None],
        *,
        batch_size: int = 8,
        **options: Unpack[Options],
    ) -> Iterator[tuple[Picture, Prediction]]:
        """As `predict`, each picture beside its answers.

        A picture that cannot be read goes to `refuse` with the reason; unless that raises, the
        others go on without it. `batch_size` counts views: a picture in windows has several.
        """
        request = self.request(**options)
        waiting: deque[_Pending[Picture]] = deque()

        def views() -> Iterator[Pixels]:
            for image in images:
                try:
                    prepared = self.prepare(image, request)
                except ImageError as error:
                    refuse(image, error)
                    continue
                waiting.append(_Pending(image, prepared))
                yield from prepared.views()

        for batch in batches(views(), batch_size):
            found = iter(self.forward(self.stack(batch), request))
            for pending in [*waiting]:
                lacking = pending.prepared.tiling.views - len(pending.found)
                pending.found += islice(found, lacking)
                if not pending.complete:
                    break
                waiting.popleft()
                yield pending.picture, self.finish(pending.prepared, pending.found, request)

    def request(self, **options: Unpack[Options]) -> Request:
        """Settle options against the bundle; raises `UsageError`."""
        return settle(self.manifest, options)

    def prepare(self, image: ImageLike, request: Request) -> Prepared:
        """Read and transform one picture; raises `ImageError`."""
        return prepare(self.manifest, image, request)

    def frame(self, image: Size, request: Request) -> tuple[Geometry, Tiling]:
        """How a picture of (H, W) `image` is shown; raises `ImageError`."""
        return frame(self.manifest, image, request)

    def stack(self, views: Sequence[Pixels]) -> Pixels:
        """A batch `(B, 4, h, w) uint8` of views of one shape."""
        return np.stack(views, out=self.room((len(views), *views[0].shape)))

    def room(self, shape: tuple[int, ...]) -> Pixels:
        """An array for a batch, to be filled, where the engine takes it from fastest."""
        engine = self.engine
        if isinstance(engine, WithMemory):
            return engine.room(shape, np.uint8)
        return np.empty(shape, np.uint8)

    def forward(self, pixels: Pixels, request: Request) -> list[dict[str, NDArray[Any]]]:
        """One pass of `(B, 4, h, w) uint8`: for each view the features and the heads' raw answers.

        A head takes the backbone's outputs as they come; nothing that was not asked for is
        computed. Raises `EngineError`.
        """
        features = self.features(pixels, request.needed)
        found = {output.name: here(features[output.name]) for output in request.outputs}
        grid = self._grid(pixels)
        found |= {head.task: self.answer(head.task, features, grid) for head in request.heads}
        return [
            {name: value[index] for name, value in found.items()} for index in range(len(pixels))
        ]

    def infer(
        self, pixels: Pixels, outputs: Sequence[str], heads: Sequence[HeadTask]
    ) -> dict[str, NDArray[Any]]:
        """The named outputs of the backbone and of the heads for one batch, by name.

        Raises as `features` and `answer` do.
        """
        features = self.features(pixels, outputs)
        grid = self._grid(pixels)
        answers = {task: self.answer(task, features, grid) for task in heads}
        return {name: here(value) for name, value in features.items()} | answers

    def features(self, pixels: Pixels, outputs: Sequence[str]) -> Mapping[str, Value]:
        """The named outputs of the backbone for one batch `(B, 4, h, w) uint8`, by name.

        They are where the engine has them. Raises `EngineError`.
        """
        inputs: Values = {"pixels": pixels, "position": self._position(self._grid(pixels))}
        return self.engine.run(inputs, outputs)

    def answer(
        self, task: HeadTask, features: Values, grid: Size, rows: Sequence[int] | None = None
    ) -> NDArray[Any]:
        """What a head makes of a batch of features of (h, w) patches, with all that it takes.

        The features are taken from where `features` left them. `rows`: of these of the batch only.

        Raises `EngineError`, and `BundleError` for an answer of another shape than the head's
        description says.
        """
        head = next(head for head in self.manifest.heads if head.task == task)
        given: Values = {output.name: features[output.name] for output in head.inputs}
        arrays = {name: each for name, each in given.items() if isinstance(each, np.ndarray)}
        # On a device there is no taking of some rows, other than by way of this machine.
        if rows is not None and len(arrays) == len(given):
            given, rows = {name: each[rows] for name, each in arrays.items()}, None
        answer = here(self._head(task).run(given, [task])[task])
        expected = answer_shape(head, given[head.inputs[0].name].shape[0], grid)
        if answer.shape != expected:
            raise BundleError(
                f"{self.bundle.path}: the graph of the head for {task} gives "
                f"{answer.shape}, {MANIFEST} says {expected}"
            )
        return answer if rows is None else answer[rows]

    def _grid(self, pixels: Pixels) -> Size:
        patch = self.manifest.architecture.patch_size
        return pixels.shape[2] // patch, pixels.shape[3] // patch

    def _head(self, task: HeadTask) -> Engine:
        with self._loading:
            if task not in self._heads:
                self._heads[task] = self._load_head(task)
            return self._heads[task]

    def finish(
        self, prepared: Prepared, found: Sequence[Mapping[str, NDArray[Any]]], request: Request
    ) -> Prediction:
        """Put together what `forward` found for the views of one picture, in their order."""
        arrays = {output.name: found[0][output.name] for output in request.outputs}
        for head in request.heads:
            views = [view[head.task] for view in found]
            if head.task == "classify":
                arrays["classify"] = views[0]
            else:
                assemble = segment_map if head.task == "segment" else depth_map
                arrays[head.task] = assemble(views, prepared.tiling, prepared.geometry)
        return Prediction(arrays, prepared.geometry)


def batches(views: Iterable[Pixels], size: int) -> Iterator[list[Pixels]]:
    """Runs of neighbours with one shape, at most `size` long."""
    if size < 1:
        raise UsageError(f"batch size is {size}; accepted are 1 and more")
    batch: list[Pixels] = []
    for view in views:
        if batch and (len(batch) == size or view.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(view)
    if batch:
        yield batch
