"""A labelled data set as features and targets, computed once per picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_export.fit.cells import at_cells
from clsspec_export.fit.feature_cache import FeatureCache, cache_of, digest, require_within
from clsspec_serve.errors import ImageError
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.evaluation.datasets.samples import (
    DepthSample,
    LabelledPicture,
    SegmentationSample,
)
from clsspec_serve.heads import AnyHead
from clsspec_serve.predictor import Model, batches
from clsspec_serve.preparation import Prepared
from clsspec_serve.request import Request, framing
from clsspec_serve.schema import Output
from clsspec_serve.transform import plan

Array = NDArray[Any]
Sample = SegmentationSample | DepthSample | LabelledPicture
Measure = Callable[[Sample], int]

UPSAMPLE = 4
"""Cells per patch and axis in which dense heads are trained: the official depth heads' factor.

The loss is taken on logits that are enlarged so much, bilinearly. At patch 14 a cell is 3.5 pixels
wide, near the 4 of the label maps that segmentation networks are commonly trained on, and the
logits take 1/12 of the memory that those of all pixels would.
"""

_MEASURED = 16
"""Pictures from which the size of all features is estimated."""


@dataclass(frozen=True)
class Example:
    """One sample, and where its arrays are in the cache: `features`, and `labels` of a map.

    `target` is a class, or None where the target is a map.
    """

    sample: Sample
    features: str
    labels: str | None
    target: int | None


class Examples:
    """Features and targets, mapped from disk; what is one vector per picture is held in memory."""

    def __init__(
        self, cache: FeatureCache, names: Sequence[str], examples: Sequence[Example]
    ) -> None:
        self._cache = cache
        self._names = tuple(names)
        self._examples = tuple(examples)
        self._vectors: dict[tuple[str, str], Array] = {}

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """What the training depends on, in order."""
        return [(e.features, e.labels or "", str(e.target)) for e in self._examples]

    def name(self, index: int) -> str:
        """What messages call an example."""
        return self._examples[index].sample.name

    def features(self, index: int) -> list[Array]:
        """One array for each of the head's inputs, float32: patches `(h, w, D)`, [CLS] `(D,)`.

        For a head of whole pictures the patches are their mean, `(1, 1, D)`.
        """
        return [self._feature(self._examples[index].features, name) for name in self._names]

    def target(self, index: int) -> Array:
        """`(u*h, u*w)` ids (uint8) or metres (float32); of a whole picture the class, `()`."""
        example = self._examples[index]
        if example.labels is None:
            return np.asarray(example.target)
        return self._cache.load(example.labels, _TARGET)

    def _feature(self, key: str, name: str) -> Array:
        held = self._vectors.get((key, name))
        if held is not None:
            return held
        array = self._cache.load(key, name)
        if array.size == array.shape[-1]:
            array = self._vectors[key, name] = np.array(array)
        return array


_TARGET = "target"


class Extractor:
    """What turns samples into `Examples` for one head on one model."""

    def __init__(self, model: Model, description: AnyHead, root: Any) -> None:
        self._model = model
        self._description = description
        preprocessing = framing(model.manifest.preprocessing, description.protocol)
        self._request: Request = replace(
            model.request(), outputs=description.inputs, preprocessing=preprocessing
        )
        self.cache = cache_of(root, model, preprocessing)
        pooled = description.task == "classify"
        self._stored = {output: _stored_name(output, pooled) for output in description.inputs}

    def require_within(self, samples: Sequence[Sample], bound: int) -> None:
        """Raise `OutputError` where all arrays of the samples would take more than `bound` bytes.

        Estimated from up to 16 pictures, evenly over the data set.
        """
        features, targets = (_total(samples, each) for each in self._measures)
        require_within(features + targets, bound)

    def require_room(self, examples: Sequence[Example]) -> None:
        """Raise `OutputError` where the disk lacks room for what the cache lacks, so estimated."""
        new = [each.sample for each in examples if not self._has_features(each)]
        unread = [each.sample for each in examples if not self._has_target(each)]
        parts = zip((new, unread), self._measures, strict=True)
        self.cache.require_room(sum(_total(samples, measure) for samples, measure in parts))

    def examples(
        self, examples: Sequence[Example], *, batch_size: int, advance: Callable[[int], None]
    ) -> Examples:
        """All examples, those that the cache lacks computed in runs of `batch_size` of one shape.

        `advance` is told of every so many pictures that are done. Raises `ImageError` and
        `DatasetError` naming the file; what was computed until then is kept.
        """
        lacking: list[Example] = []
        for example in examples:
            if self._has_features(example) and self._has_target(example):
                advance(1)
            else:
                lacking.append(example)
        waiting: list[Example] = []

        def views() -> Iterator[NDArray[np.uint8]]:
            for example in lacking:
                prepared = self._prepare(example)
                if self._has_features(example):
                    # Only the labels were new.
                    advance(1)
                    continue
                waiting.append(example)
                yield prepared.pixels

        for batch in batches(views(), batch_size):
            found = self._model.forward(self._model.stack(batch), self._request)
            done, waiting[:] = waiting[: len(found)], waiting[len(found) :]
            for example, features in zip(done, found, strict=True):
                self._store(example, features)
            advance(len(done))
        return Examples(self.cache, list(self._stored.values()), examples)

    def _prepare(self, example: Example) -> Prepared:
        """The network's input; the target goes to the cache."""
        sample = example.sample
        pixels, truth = sample.load()
        try:
            prepared = self._model.prepare(pixels, self._request)
        except ImageError as error:
            raise ImageError(f"{sample.image}: {error}") from error
        if example.labels is not None:
            void = IGNORE if isinstance(sample, SegmentationSample) else 0
            target = at_cells(np.asarray(truth), prepared.geometry, UPSAMPLE, void)
            self.cache.store(example.labels, _TARGET, target)
        return prepared

    def _has_features(self, example: Example) -> bool:
        return self.cache.has(example.features, self._stored.values())

    def _has_target(self, example: Example) -> bool:
        return example.labels is None or self.cache.has(example.labels, [_TARGET])

    def _store(self, example: Example, found: Mapping[str, Array]) -> None:
        for output, name in self._stored.items():
            value = found[output.name]
            if name != output.name:
                value = value.mean(axis=(0, 1), dtype=np.float64, keepdims=True).astype(np.float32)
            self.cache.store(example.features, name, np.ascontiguousarray(value))

    @property
    def _measures(self) -> tuple[Measure, Measure]:
        return self._feature_bytes, self._target_bytes

    def _feature_bytes(self, sample: Sample) -> int:
        maps = sum(o.kind == "patches" and self._stored[o] == o.name for o in self._stored)
        vectors = len(self._stored) - maps
        width = self._model.manifest.architecture.embed_dim
        return 4 * width * (maps * self._count_patches(sample) + vectors)

    def _target_bytes(self, sample: Sample) -> int:
        if isinstance(sample, LabelledPicture):
            return 0
        each = 1 if isinstance(sample, SegmentationSample) else 4
        return each * UPSAMPLE**2 * self._count_patches(sample)

    def _count_patches(self, sample: Sample) -> int:
        pixels, _ = sample.load()
        size = (pixels.shape[0], pixels.shape[1])
        patch = self._model.manifest.architecture.patch_size
        grid = plan(size, self._request.preprocessing, patch).grid
        return grid[0] * grid[1]


def identify(samples: Sequence[Sample], advance: Callable[[int], None]) -> list[Example]:
    """Samples by their content. `advance` is told of every one; raises `DatasetError`."""
    found = []
    for sample in samples:
        found.append(_example(sample))
        advance(1)
    return found


def _total(samples: Sequence[Sample], measure: Measure) -> int:
    """The bytes of all samples, from those of some."""
    step = max(len(samples) // _MEASURED, 1)
    sizes = [measure(sample) for sample in samples[::step][:_MEASURED]]
    return sum(sizes) * len(samples) // max(len(sizes), 1)


def _stored_name(output: Output, pooled: bool) -> str:
    """A head for whole pictures needs no more of the patches than their mean."""
    return f"{output.name}.mean" if pooled and output.kind == "patches" else output.name


def _example(sample: Sample) -> Example:
    if isinstance(sample, LabelledPicture):
        return Example(sample, digest(sample.image), None, sample.label)
    if isinstance(sample, SegmentationSample):
        key = digest(sample.image)
        meaning = str(sorted(sample.meaning.items()))
        labels = digest(key, sample.label, meaning, str(UPSAMPLE))
        return Example(sample, key, labels, None)
    key = digest(sample.image, _named(sample.crop))
    labels = digest(key, sample.depth, _named(sample.read), str(UPSAMPLE))
    return Example(sample, key, labels, None)


def _named(function: Callable[..., Any]) -> str:
    """A function and what is bound to it, in words that are the same in the next process."""
    if isinstance(function, partial):
        return f"{_named(function.func)}{function.args}{sorted(function.keywords.items())}"
    return f"{function.__module__}.{function.__qualname__}"
