"""Shards in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.runners.runner import Done, Tell, news_of
from clsspec_serve.dataset.stalls import Stalls
from clsspec_serve.dataset.working import Threads, pipeline_of, work
from clsspec_serve.predictor import Model


class Here:
    """A model that is loaded here."""

    def __init__(self, model: Model, threads: Threads) -> None:
        self.model, self._threads = model, threads
        self.gpu = None if model.gpu is None else model.gpu.name

    def run(self, run: Run, shards: Sequence[int], tell: Tell, done: Done) -> None:
        """See `Runner`."""
        pipeline = pipeline_of(run, self.model, self._threads)
        stalls = Stalls(pipeline.times)
        work(run, pipeline, shards, seen=lambda row: tell(news_of(row, stalls)), done=done)
