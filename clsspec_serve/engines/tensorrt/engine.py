"""TensorRT on an NVIDIA GPU, in the precision of the graph that it is given."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clsspec_serve.choices import Precision
from clsspec_serve.engines.gpus import gpu_at
from clsspec_serve.engines.protocol import Value, Values
from clsspec_serve.engines.tensorrt.buckets import LARGEST, SIZES, Bucket, bucket_of
from clsspec_serve.engines.tensorrt.libraries import tensorrt
from clsspec_serve.engines.tensorrt.making import Accept, Source, make
from clsspec_serve.engines.tensorrt.memory import Held, pool_of
from clsspec_serve.engines.tensorrt.plans import digest
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError


class TensorRtEngine:
    """A graph, and a plan of it for each size of input that comes.

    The precision is the graph's own: for fp32 the bundle's graph, for bf16 and fp16 the graph that
    was cast to it, whose inputs and outputs are as before. The first input of a size waits until
    its plan is built, or loaded where it was built before, and so do others of a new size; what has
    a plan goes on. A new plan that `accept` refuses is not kept, and its size is refused from then
    on, as is one size more than `sizes`.

    `device`: the index of the GPU. `largest`: the batch that plans are made for.
    """

    name = "tensorrt"

    def __init__(
        self,
        graph: Path,
        *,
        precision: Precision = "fp32",
        device: int = 0,
        largest: int = LARGEST,
        sizes: int = SIZES,
        accept: Accept | None = None,
    ) -> None:
        """Raises `EngineError` for what is missing here; nothing is built yet."""
        self.precision: Precision = precision
        self.gpu = gpu_at(device)
        module, pool = tensorrt(), pool_of(device)
        architecture = pool.device.architecture
        if precision == "bf16" and architecture < (8, 0):
            raise EngineError(f"{self.gpu} has no bf16; use --precision fp16")
        self._source = Source(
            module=module,
            pool=pool,
            gpu=self.gpu,
            architecture="sm{}{}".format(*architecture),
            graph=graph,
            digest=digest(graph),
            precision=precision,
            accept=accept,
        )
        self._largest, self._sizes = largest, sizes
        self._plans: dict[Bucket, Plan] = {}
        self._refused: dict[Bucket, str] = {}
        self._making = threading.Lock()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Those that are loaded, in the order of their first use."""
        return tuple(self._plans.values())

    @property
    def folder(self) -> Path:
        """Where its plans are kept."""
        return self._source.plans().folder

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """See `Engine.run`. The outputs are `Held`. The first run of a size can take minutes."""
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        return self.plan(bucket_of(shapes, self._largest)).run(inputs, outputs)

    def keep(self, array: NDArray[Any]) -> Held:
        """See `WithMemory.keep`."""
        return self._source.pool.keep(array)

    def room(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """See `WithMemory.room`."""
        return self._source.pool.pinned.array(shape, dtype)

    def plan(self, bucket: Bucket) -> Plan:
        """The plan for a bucket, built where there is none; raises `EngineError`."""
        found = self._plans.get(bucket)
        if found is not None:
            return found
        with self._making:
            if bucket not in self._plans:
                self._refuse(bucket)
                try:
                    self._plans[bucket] = make(self._source, bucket)
                except EngineError as error:
                    # Not the error, whose frames hold the plan and its memory.
                    self._refused[bucket] = str(error)
                    raise
            return self._plans[bucket]

    def _refuse(self, bucket: Bucket) -> None:
        """Raise what is known to fail, without the minutes that it takes, and one size too many."""
        if bucket in self._refused:
            raise EngineError(self._refused[bucket])
        if len(self._plans) + len(self._refused) < self._sizes:
            return
        there = "; ".join(str(each) for each in self._plans) or "none"
        raise EngineError(
            f"tensorrt makes plans of {self._source.graph.name} for {self._sizes} sizes at most: "
            f"got {bucket}, accepted are {there}; --resize squash gives all pictures one size"
        )
