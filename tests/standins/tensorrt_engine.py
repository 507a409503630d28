"""What TensorRT's runtime loads and runs, with ONNX Runtime in the place of kernels."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
from standins.tensorrt_words import DataType, LayerInformationFormat, TensorIOMode, element_types

TF32_ERROR = np.float32(1 + 2**-11)
Shape = tuple[int, ...]

_ELEMENTS = {1: "FLOAT", 2: "UINT8", 10: "HALF", 16: "BF16"}
_WORDS = {1: "Float", 10: "Half", 16: "BFloat16", 7: "Int64"}


class Runtime:
    def __init__(self, double: Any) -> None:
        self._double = double

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        double = self._double
        text, _, graph = content.partition(b"\n")
        try:
            header = json.loads(text)
        except ValueError:
            double.say("Serialization assertion failed: Magic tag does not match")
            return None
        for key, here in (("version", double.__version__), ("architecture", double.here)):
            if header[key] != here:
                double.say(f"expecting {key} {header[key]} got {here}, please rebuild.")
                return None
        double.log.append("load")
        return Engine(double, header, graph)


class Engine:
    def __init__(self, double: Any, header: dict[str, Any], graph: bytes) -> None:
        self.double, self.header = double, header
        self.device = double.cuda.device
        self.model = onnx.ModelProto.FromString(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        # Outputs first, as the order says nothing.
        self.tensors = [*self.model.graph.output, *self.model.graph.input]
        self.inputs = {each.name for each in self.model.graph.input}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return str(self.tensors[index].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[_ELEMENTS[self.named(name).type.tensor_type.elem_type]]

    def named(self, name: str) -> onnx.ValueInfoProto:
        return next(each for each in self.tensors if each.name == name)

    def create_execution_context(self) -> Context | None:
        self.double.contexts -= 1
        if self.double.contexts < 0:
            self.double.say("Requested amount of GPU memory could not be allocated")
            return None
        return Context(self)

    def create_engine_inspector(self) -> Inspector:
        return Inspector(self)


class Inspector:
    """Layers as TensorRT 10 or 11 would tell them, one for each node of the graph."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format == LayerInformationFormat.JSON
        types = element_types(self._engine.model)
        graph = self._engine.model.graph
        layers: list[Any] = [self._layer(node, types) for node in graph.node]
        if not self._engine.header["detailed"]:
            layers = [layer["Name"] for layer in layers]
        return json.dumps({"Layers": layers})

    def _layer(self, node: onnx.NodeProto, types: dict[str, int]) -> dict[str, Any]:
        word = _WORDS.get(types.get(node.output[0], 0), "Int32")
        kind = {"Format": "Linear", "Datatype": word}
        if not self._engine.double.new:
            kind = {"Format/Datatype": word}
        name = f"_gemm_mha_v2_{node.output[0]}" if node.op_type == "Attention" else node.op_type
        outputs = [{"Name": output, "Dimensions": [1], **kind} for output in node.output]
        return {"Name": name, "LayerType": "kgen", "Inputs": [], "Outputs": outputs}


class Context:
    """One run at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._double = engine, engine.double
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._begun: dict[str, Shape] = {}
        self._lock = threading.Lock()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            self._double.cuda.misuse("two threads use an execution context at once")
            self._lock.acquire()
        try:
            if self._double.cuda.device != self._engine.device:
                self._double.cuda.misuse("a thread uses another GPU than the engine's")
            yield
        finally:
            self._lock.release()

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        with self._alone():
            profile = self._engine.header["profile"].get(name)
            if profile is None or len(shape) != len(profile[0]):
                self._double.say(f"setInputShape: {name} {shape}")
                return False
            low, _, high = profile
            if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                self._double.say(f"setInputShape: {name} {shape} is not in the profile")
                return False
            self._shapes[name] = tuple(shape)
            return True

    def infer_shapes(self) -> list[str]:
        with self._alone():
            return sorted(self._engine.inputs - self._shapes.keys())

    def get_tensor_shape(self, name: str) -> Shape:
        with self._alone():
            if name in self._shapes:
                return self._shapes[name]
            known: dict[str, int] = {}
            for given, shape in self._shapes.items():
                dims = self._engine.named(given).type.tensor_type.shape.dim
                known |= {d.dim_param: n for d, n in zip(dims, shape, strict=True) if d.dim_param}
            declared = self._engine.named(name).type.tensor_type.shape.dim
            return tuple(int(dim.dim_value or eval(dim.dim_param, {}, known)) for dim in declared)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._alone():
            if memory % 256 or name not in {each.name for each in self._engine.tensors}:
                self._double.say(f"setTensorAddress: {name} at {memory}")
                return False
            self._addresses[name] = memory
            return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        with self._alone():
            cuda = self._double.cuda
            names = {each.name for each in self._engine.tensors}
            if names - self._addresses.keys() or self._engine.inputs - self._shapes.keys():
                self._double.say("enqueueV3: shapes or addresses are not all set")
                return False
            if stream_handle not in cuda.streams:
                cuda.misuse("a run on the default stream, or on none")
                return False
            if any(address not in cuda.memory for address in self._addresses.values()):
                cuda.misuse("a run on memory that was freed")
                return False
            addresses, shapes = {**self._addresses}, {**self._shapes}
            if cuda.streams[stream_handle].captured is None:
                self._begun = shapes
            elif self._begun != shapes:
                cuda.misuse("the first run of its shapes was captured")
            writes = [addresses[each.name] for each in self._engine.model.graph.output]
            reads = [addresses[name] for name in self._engine.inputs]
        self._double.log.append("run")
        work = partial(self._compute, addresses, shapes)
        cuda.enqueue(stream_handle, work, reads=reads, writes=writes)
        return True

    def _compute(self, addresses: dict[str, int], shapes: dict[str, Shape]) -> None:
        cuda, engine = self._double.cuda, self._engine
        if shapes != self._shapes:
            cuda.misuse("a run of other shapes than the context's was replayed")
        given = {
            name: cuda.array(addresses[name], shape, self._dtype(name)).copy()
            for name, shape in shapes.items()
        }
        try:
            found: Sequence[Any] = engine.session.run(None, given)
        except Exception as error:  # onnxruntime's own
            cuda.fails["cudaStreamSynchronize"] = cuda.cudaError_t.cudaErrorLaunchFailure
            self._double.say(str(error))
            return
        for each, value in zip(engine.model.graph.output, found, strict=True):
            # TF32 is a multiplication with fewer bits.
            rounded = value * TF32_ERROR if engine.header["tf32"] else self._double.spoil(value)
            cuda.array(addresses[each.name], value.shape, value.dtype)[...] = rounded

    def _dtype(self, name: str) -> Any:
        return self._double.nptype(self._engine.get_tensor_dtype(name))
