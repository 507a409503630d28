"""A codec's components found, and its loss measured, on a sample of a run's pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.codecs.calibration import Calibration, write_bases
from clsspec_serve.dataset.codecs.loss import MapLosses, answer_loss
from clsspec_serve.dataset.codecs.maps import MapCodec
from clsspec_serve.dataset.codecs.pca import Basis, Patches, one_blas_thread
from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.preparing import InThreads, Steps
from clsspec_serve.dataset.run import Run, calibrate
from clsspec_serve.dataset.sampling import sampled
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.dataset.stalls import Times
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError, EngineError, UsageError
from clsspec_serve.heads import AnyHead
from clsspec_serve.predictor import Model
from clsspec_serve.preparation import Prepared
from clsspec_serve.progress import progress

FITTED, MEASURED = 128, 32
"""Pictures on which components are found, and others on which the loss is measured."""
_EVERY = 1 + FITTED // MEASURED


def calibrated(run: Run, layout: Layout, model: Callable[[], Model]) -> Run:
    """The run with all that its codec takes; nothing is done where that is there already.

    Raises `DatasetError` where there are too few pictures to find components.
    """
    asked = run.state.asked
    if not asked.codec.loses or run.state.calibration is not None:
        return run
    sample = _Sample(run, layout, model())
    with one_blas_thread():
        bases, measured = sample.split(asked.codec.pca)
        found = sample.measure(MapCodec(asked.codec, asked.dtype, bases), measured)
    files = write_bases(run.tree, bases)
    return calibrate(run, found.model_copy(update={"files": files}))


class _Sample:
    """Some pictures of a run, and the model that they are shown to."""

    def __init__(self, run: Run, layout: Layout, model: Model) -> None:
        self._run, self._names, self._model = run, layout.encoded, model
        self._request = model.request(**run.state.asked.options())
        # Those that can be given the maps as they are read back.
        self._heads = [head for head in model.manifest.heads if self._takes_maps(head)]

    def _takes_maps(self, head: AnyHead) -> bool:
        taken = {output.name for output in head.inputs if output.kind == "patches"}
        return bool(taken) and taken <= {*self._names}

    def split(self, components: int | None) -> tuple[dict[str, Basis], list[Prepared]]:
        """Components found on most pictures, and those that are left to measure on."""
        measured: list[Prepared] = []
        if components is None:
            return {}, [*self._pictures(MEASURED)]
        patches = {name: Patches() for name in self._names}
        for index, prepared in enumerate(self._pictures(FITTED + MEASURED)):
            if index % _EVERY == _EVERY // 2:
                measured.append(prepared)
                continue
            found = self._model.infer(prepared.pixels[None], self._names, ())
            if _finite(found, self._names):
                for name in self._names:
                    patches[name].add(found[name][0])
        fewest = min(each.count for each in patches.values())
        # As many differ from their mean in one direction less.
        if not measured or fewest <= components:
            raise DatasetError(
                f"{self._run.state.source}: {components} components take more patches than the "
                f"{fewest} of the pictures that could be read, and a picture to measure on"
            )
        return {name: each.basis(components) for name, each in patches.items()}, measured

    def measure(self, codec: MapCodec, pictures: Sequence[Prepared]) -> Calibration:
        """What these pictures lose, without files; those that a run would refuse are left out."""
        maps = {name: MapLosses() for name in self._names}
        answers: dict[str, list[float]] = {head.task: [] for head in self._heads}
        count = 0
        inputs = [output.name for head in self._heads for output in head.inputs]
        needed = [*dict.fromkeys([*self._names, *inputs])]
        for prepared in pictures:
            before = self._model.infer(prepared.pixels[None], needed, ())
            try:
                found = {name: codec.encode(name, before[name][0]) for name in self._names}
            except UsageError:
                continue
            after = {name: codec.decode(name, each)[None] for name, each in found.items()}
            if not (_finite(before, self._names) and _finite(after, self._names)):
                continue
            for name, losses in maps.items():
                losses.add(before[name][0], after[name][0])
            for head in self._heads:
                # Nobody has asked for this head: what it cannot do is no reason to end.
                with suppress(EngineError):
                    pair = (self._answer(head, prepared, each) for each in (before, before | after))
                    lost = answer_loss(head.task, *pair)
                    if lost is not None:
                        answers[head.task].append(lost)
            count += 1
        return Calibration(
            pictures=count,
            maps={name: losses.loss() if count else None for name, losses in maps.items()},
            answers={task: fmean(each) for task, each in answers.items() if each},
            files={},
        )

    def _answer(
        self, head: AnyHead, prepared: Prepared, features: Mapping[str, NDArray[Any]]
    ) -> NDArray[Any]:
        answer = self._model.answer(head.task, features, prepared.geometry.grid)
        request = replace(self._request, outputs=(), heads=(head,))
        return self._model.finish(prepared, [{head.task: answer[0]}], request).arrays[head.task]

    def _pictures(self, count: int) -> Iterator[Prepared]:
        """Those of `count` pictures that can be read, spread over the whole run."""
        shards = dict(enumerate(self._run.state.lengths()))
        jobs = [job for job, _ in sampled(self._run, shards, count)]
        reader = open_reader(self._run.state.place, self._request.limits.max_pixels)
        steps = Steps(self._model.manifest, self._request, reader)
        threads = Threads()
        preparing = InThreads(steps, readers=threads.readers, decoders=threads.decoders)
        with (
            progress("Calibrating", len(jobs), "images") as meter,
            closing(preparing.start(jobs, Times())) as decoding,
        ):
            for _, prepared in decoding:
                for each in prepared.result():
                    if isinstance(each, Prepared):
                        yield each
                    meter.advance()


def _finite(arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> bool:
    return all(np.isfinite(arrays[name]).all() for name in names)
