"""A plan on a GPU, run by several threads at once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.choices import Precision
from clsspec_serve.engines.protocol import Value, Values, here
from clsspec_serve.engines.tensorrt.buckets import Bucket
from clsspec_serve.engines.tensorrt.captures import Captures
from clsspec_serve.engines.tensorrt.inspection import Layers, inspect
from clsspec_serve.engines.tensorrt.libraries import Refused, listening, the_log, why
from clsspec_serve.engines.tensorrt.memory import Block, Held, Pool
from clsspec_serve.errors import EngineError, one_line

Types = Mapping[str, np.dtype[Any]]
Source = Held | NDArray[Any]
"""What a run takes: memory of the plan's own GPU as it is, and of this machine to be copied."""


class Plan:
    """A plan that TensorRT has loaded: an engine for the shapes of its bucket.

    Threads that are in `run` at the same time have a lane each; lanes are kept. `sha256`: of the
    plan, since two builds of one graph can round differently.
    """

    name = "tensorrt"

    def __init__(
        self, module: Any, pool: Pool, content: bytes, bucket: Bucket, precision: Precision
    ) -> None:
        """Raises `EngineError` when TensorRT refuses the content."""
        self.precision: Precision = precision
        self.bucket = bucket
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._module, self._pool = module, pool
        pool.device.use()
        with listening(module) as heard:
            try:
                self._runtime = module.Runtime(the_log(module))  # which has to outlive the engine
                self._engine = self._runtime.deserialize_cuda_engine(content)
            except (RuntimeError, TypeError) as error:  # the bindings' own
                heard.append(str(error))
                self._engine = None
        if self._engine is None:
            raise EngineError(f"tensorrt cannot load a plan for {bucket}: {why(heard)}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        types = {name: _dtype(module, self._engine, name) for name in names}
        inputs = module.TensorIOMode.INPUT
        taken = {name for name in names if self._engine.get_tensor_mode(name) == inputs}
        self._inputs: Types = {name: types[name] for name in names if name in taken}
        self._outputs: Types = {name: types[name] for name in names if name not in taken}
        self._idle: list[Lane] = []
        self._choosing = threading.Lock()

    def layers(self) -> Layers:
        """What TensorRT made of the graph."""
        return inspect(self._module, self._engine)

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """See `Engine.run`, for shapes of the bucket. The outputs are `Held`."""
        self._refuse(inputs, outputs)
        sources = {name: self._source(value) for name, value in inputs.items()}
        # After the sources: to read another GPU's memory, this thread has used that one.
        self._pool.device.use()
        with listening(self._module) as heard:
            try:
                lane = self._lane({name: source.shape for name, source in sources.items()})
                found = lane.run(sources, outputs)
            # The bindings raise errors of their own for arguments that they refuse.
            except (Refused, RuntimeError, TypeError, ValueError) as error:
                reason = why(heard) if heard else one_line(error)
                raise EngineError(f"tensorrt failed: {reason}") from error
        self._idle.append(lane)
        return {name: found[name] for name in outputs}

    def _refuse(self, inputs: Values, outputs: Sequence[str]) -> None:
        """What TensorRT would take without a word, or with a crash."""
        if inputs.keys() != self._inputs.keys():
            raise EngineError(
                f"tensorrt failed: the graph takes {', '.join(self._inputs)}; it was given "
                f"{', '.join(inputs) or 'nothing'}"
            )
        lacking = [name for name in outputs if name not in self._outputs]
        if lacking:
            raise EngineError(
                f"tensorrt failed: the graph has no output {lacking[0]}; it has "
                f"{', '.join(self._outputs)}"
            )
        for name, value in inputs.items():
            dtype = value.dtype if isinstance(value, np.ndarray | Held) else here(value).dtype
            if dtype != self._inputs[name]:
                raise EngineError(
                    f"tensorrt failed: {name} is {dtype}; the graph takes {self._inputs[name]}"
                )

    def _source(self, value: Value) -> Source:
        if isinstance(value, Held) and value.block.pool.device.index == self._pool.device.index:
            return value
        return np.ascontiguousarray(here(value))

    def _lane(self, shapes: Mapping[str, tuple[int, ...]]) -> Lane:
        """An idle one, of the same shapes where there is one, or a new one."""
        with self._choosing:
            fitting = [lane for lane in self._idle if lane.shapes == shapes] or [*self._idle]
            if fitting:
                self._idle.remove(fitting[-1])
                return fitting[-1]
            return Lane(self._engine, self._pool, self.bucket, self._inputs, self._outputs)


class Lane:
    """What one run at a time needs: an execution context, a stream, and memory for its inputs.

    Memory is for the bucket's largest batch, so that nothing is allocated twice. `shapes`: of the
    inputs of the run before.
    """

    def __init__(
        self, engine: Any, pool: Pool, bucket: Bucket, inputs: Types, outputs: Types
    ) -> None:
        self._pool, self._device = pool, pool.device
        self._outputs = outputs
        self._context = engine.create_execution_context()
        if self._context is None:
            pool.trim()
            self._context = engine.create_execution_context()
        if self._context is None:
            raise Refused("there is no room for another run at the same time")
        self.shapes: dict[str, tuple[int, ...]] = {}
        largest = bucket.shapes(bucket.largest)
        self._set_shapes(largest)
        self._room = {name: _size(self._shape(name), outputs[name]) for name in outputs}
        self._given = {name: pool.take(_size(largest[name], inputs[name])) for name in inputs}
        self._unasked: dict[str, Block] = {}
        self._stream = self._device.stream()
        self._captures = Captures(self._device, self._stream)

    def run(self, sources: Mapping[str, Source], outputs: Sequence[str]) -> dict[str, Held]:
        """Run once, and return when all is there."""
        try:
            shapes = {name: sources[name].shape for name in sorted(sources)}
            if shapes != self.shapes:
                self._captures.forget()
                self._set_shapes(shapes)
            blocks = {name: self._block(name, sources[name]) for name in shapes}
            blocks |= {name: self._room_for(name, name in outputs) for name in self._outputs}
            addresses = tuple(block.address for block in blocks.values())
            self._captures.run(addresses, partial(self._enqueue, blocks))
        finally:
            # Also when nothing was begun: copies of inputs can be under way.
            self._device.wait(self._stream)
        return {
            name: Held(blocks[name], self._shape(name), self._outputs[name]) for name in outputs
        }

    def _block(self, name: str, source: Source) -> Block:
        if isinstance(source, Held):
            return source.block
        self._device.upload(source, self._given[name].address, self._stream)
        return self._given[name]

    def _room_for(self, name: str, asked: bool) -> Block:
        """TensorRT computes every output, so those that nobody asked for need room, too."""
        if asked:
            return self._pool.take(self._room[name])
        if name not in self._unasked:
            self._unasked[name] = self._pool.take(self._room[name])
        return self._unasked[name]

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = {}
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise Refused(f"{name} cannot be {shape}")
        lacking = self._context.infer_shapes()
        if lacking:
            raise Refused(f"the shapes of {', '.join(lacking)} are not known")
        self.shapes = shapes

    def _enqueue(self, blocks: Mapping[str, Block]) -> None:
        for name, block in blocks.items():
            if not self._context.set_tensor_address(name, block.address):
                raise Refused(f"{name} cannot be at {block.address:#x}")
        if not self._context.execute_async_v3(self._stream):
            raise Refused("the run was not begun")

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))

    def __del__(self) -> None:
        if hasattr(self, "_captures"):
            self._captures.forget()
        if hasattr(self, "_stream"):
            self._device.end(self._stream)


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """In bytes; an empty array has room for one number, as an address must not be null."""
    return max(int(np.prod(shape)), 1) * dtype.itemsize


def _dtype(module: Any, engine: Any, name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name)
    try:
        return np.dtype(module.nptype(kind))
    except TypeError as error:
        raise EngineError(
            f"tensorrt failed: {name} is {kind}, which NumPy does not have; inputs and outputs of "
            "a bundle's graphs are uint8 and float32"
        ) from error
