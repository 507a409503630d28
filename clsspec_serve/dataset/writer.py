"""The rows of a shard, as they come → its files, and its record when all of them are in place."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.shards import Record, write_record
from clsspec_serve.dataset.sinks.maps import Maps
from clsspec_serve.dataset.sinks.samples import Samples
from clsspec_serve.dataset.sinks.sink import Sink
from clsspec_serve.dataset.sinks.table import Table
from clsspec_serve.dataset.trees.tree import Tree, writing_to


class ShardWriter:
    """Writes one shard; `close` at any time leaves nothing of it behind but what is in place."""

    def __init__(self, tree: Tree, layout: Layout, shard: int, shard_size: int) -> None:
        self._tree, self._shard = tree, shard
        self._pictures, self._failures, self._duplicates = 0, Counter[str](), 0
        self._sinks: list[Sink] = []
        first = shard * shard_size
        with ExitStack() as opened, writing_to(tree.name):
            folder = opened.enter_context(tree.scratch())

            def use(sink: Sink) -> None:
                self._sinks.append(sink)
                opened.callback(sink.close)

            use(Table(folder, shard, first, layout))
            if layout.maps:
                use(Maps(folder, shard, shard_size, layout))
            if layout.files:
                use(Samples(folder, shard, first))
            self._open = opened.pop_all()

    def add(self, row: Row) -> None:
        """The next row."""
        self._pictures += 1
        if row.failure is not None:
            self._failures[row.failure.kind] += 1
        self._duplicates += row.content.duplicate_of is not None
        with writing_to(self._tree.name):
            for sink in self._sinks:
                sink.add(row)

    def finish(self) -> Record:
        """Put the files in place, and the record last; then it is closed, whatever happened."""
        files = {}
        try:
            with writing_to(self._tree.name):
                for sink in self._sinks:
                    for path, written in sink.finish().items():
                        files[path] = written.about
                        self._tree.place(written.path, path)
            failures = dict(sorted(self._failures.items()))
            record = Record(
                shard=self._shard,
                pictures=self._pictures,
                failures=failures,
                duplicates=self._duplicates,
                files=files,
            )
            write_record(self._tree, record)
        finally:
            self.close()
        return record

    def close(self) -> None:
        """Remove the scratch folder."""
        self._open.close()
