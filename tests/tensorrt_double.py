"""TensorRT 10 and 11 without a GPU: computed by ONNX Runtime, and refused as TensorRT refuses.

Its plans hold the graph, and what they were built for: another version, another architecture, or a
shape outside of the profile is refused, and only the log says why. What a GPU would not notice is
kept among the misuses of `standins/cuda_runtime.py`. Names, members and numbers of enumerations are
those of the bindings 10.16.1 and 11.4.0. In a process of its own, `standins/tensorrt_gpus` on the
path has the same effect from its beginning.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import IntEnum
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from standins.cuda_runtime import CudaRuntime
from standins.tensorrt_engine import Runtime
from standins.tensorrt_words import (
    DataType,
    HostMemory,
    IAttention,
    IAttentionInputLayer,
    ILayer,
    ILogger,
    LayerInformationFormat,
    LayerType,
    ProfilingVerbosity,
    Severity,
    TensorIOMode,
    element_types,
)

from clsspec_serve.engines import gpus as gpus_module
from clsspec_serve.engines import select
from clsspec_serve.engines.gpus import Gpu

VERSIONS = ("10.16.1.11", "11.4.0.106")
GPUS = (Gpu(0, "NVIDIA Double 9000"), Gpu(1, "NVIDIA Double 9000"))
Shape = tuple[int, ...]

_FLAGS = {"DEBUG": 2, "GPU_FALLBACK": 3, "REFIT": 4, "DISABLE_TIMING_CACHE": 5, "TF32": 6}
_FLAGS_10 = {"FP16": 0, "BF16": 17, "INT8": 1, **_FLAGS, "OBEY_PRECISION_CONSTRAINTS": 9}
_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


class TimingCache:
    """Which kernels were timed, on which architecture."""

    def __init__(self, architecture: str, kernels: set[str]) -> None:
        self.architecture, self.kernels = architecture, kernels

    def serialize(self) -> HostMemory:
        return HostMemory(json.dumps([self.architecture, sorted(self.kernels)]).encode())


class Profile:
    """Shapes of each input: the smallest, the fastest, the largest."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Shape, Shape, Shape]] = {}

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:
        for words, low, high in (("opt", min, opt), ("max", opt, max)):
            if len(low) != len(high) or any(a > b for a, b in zip(low, high, strict=True)):
                raise RuntimeError(f"Shape provided for {words} is inconsistent with other shapes.")
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class Config:
    """How to build. TF32 is on."""

    def __init__(self, double: Double) -> None:
        self._double = double
        self.flags = {double.BuilderFlag.TF32}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(self._double.BuilderFlag(flag))

    def set_flag(self, flag: Any) -> None:
        self.flags.add(self._double.BuilderFlag(flag))

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        try:
            architecture, kernels = json.loads(content) if content else (self._double.here, [])
        except ValueError:
            self._double.say("the timing cache is damaged")
            return None
        return TimingCache(architecture, {*kernels})

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.architecture != self._double.here and not ignore_mismatch:
            self._double.say("the timing cache is of another device")
            return False
        self.cache = cache
        return True

    def add_optimization_profile(self, profile: Profile) -> int:
        if not (profile.shapes and self._double.profiles):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Network:
    """What a parser fills."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model = onnx.ModelProto()
        self.attentions: list[IAttention] = []
        self.layers: list[ILayer] = []

    def parsed(self, model: onnx.ModelProto) -> None:
        """Take a model, whose attentions are two layers each."""
        self.model = model
        types = element_types(model)
        self.attentions = [
            IAttention(types[node.input[0]])
            for node in model.graph.node
            if node.op_type == "Attention"
        ]
        self.layers = [ILayer(LayerType.CONSTANT)]
        for each in self.attentions:
            self.layers.append(ILayer(LayerType.ATTENTION_INPUT, each))
            self.layers.append(ILayer(LayerType.ATTENTION_OUTPUT, each))

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        return self.model.graph.input[index]


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class Double:
    """In the place of the module `tensorrt`.

    `log`: what was built, loaded and run. `timed`: of each build, whether its kernels were not
    timed before. `networks`: all that were created. `cannot_build`: why it builds nothing. `slow`:
    called within each build. `spoil`: what its kernels make of right outputs. `contexts`: execution
    contexts that there is still room for. `starts`: whether CUDA does. `profiles`: whether any is
    valid.
    """

    __spec__ = ModuleSpec("tensorrt", None)  # who looks for a module asks for it
    ILogger = ILogger
    DataType = DataType
    TensorIOMode = TensorIOMode
    LayerType = LayerType
    IAttentionInputLayer = IAttentionInputLayer
    ProfilingVerbosity = ProfilingVerbosity
    LayerInformationFormat = LayerInformationFormat

    def __init__(self, version: str, cuda: CudaRuntime) -> None:
        self.__version__ = version
        self.cuda = cuda
        self.log: list[str] = []
        self.cannot_build = ""
        self.slow: Callable[[], None] = lambda: None
        self.spoil: Callable[[NDArray[Any]], NDArray[Any]] = lambda value: value
        self.timed: list[bool] = []
        self.contexts = 1000
        self.starts = True
        self.profiles = True
        self.networks: list[Network] = []
        self.new = int(version.split(".")[0]) > 10
        self.logger: ILogger | None = None
        flags = _FLAGS if self.new else _FLAGS_10
        self.BuilderFlag: Any = IntEnum("BuilderFlag", flags)  # type: ignore[misc]  # by version
        typed = {"STRONGLY_TYPED": 0} if self.new else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        self.NetworkDefinitionCreationFlag: Any = IntEnum("NetworkDefinitionCreationFlag", typed)  # type: ignore[misc]  # by version

    @property
    def here(self) -> str:
        """The architecture of the GPU that this thread uses."""
        return "sm{}{}".format(*self.cuda.architectures[self.cuda.device])

    def say(self, text: str, severity: Severity = Severity.ERROR) -> None:
        """To the first logger, as TensorRT does."""
        assert self.logger is not None
        self.logger.log(severity, text)

    def listen(self, logger: ILogger) -> None:
        """Take a logger as one of the bindings' constructors does."""
        if not isinstance(logger, ILogger) or not logger.begun:
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        if not self.starts:
            logger.log(Severity.INTERNAL_ERROR, "CUDA initialization failure")
            raise TypeError("factory function returned nullptr")
        if self.logger not in (None, logger):
            self.say("a second logger", Severity.WARNING)
        self.logger = self.logger or logger

    def nptype(self, kind: DataType) -> Any:
        if kind.name not in _TYPES:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return _TYPES[kind.name]

    def Builder(self, logger: ILogger) -> Builder:
        self.listen(logger)
        return Builder(self)

    def OnnxParser(self, network: Network, logger: ILogger) -> OnnxParser:
        self.listen(logger)
        return OnnxParser(self, network)

    def Runtime(self, logger: ILogger) -> Runtime:
        self.listen(logger)
        return Runtime(self)


class OnnxParser:
    def __init__(self, double: Double, network: Network) -> None:
        self._double, self._network = double, network
        self._errors: list[str] = []

    def parse_from_file(self, model: str) -> bool:
        try:
            self._network.parsed(onnx.load(model))
        except Exception as error:  # protobuf's own
            self._errors.append(f"ModelImporter:\n{error}")
            self._double.say(f"could not parse {model}")
            return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(self._errors[index])


class Builder:
    def __init__(self, double: Double) -> None:
        self._double = double

    def create_network(self, flags: int = 0) -> Network:
        known = sum(1 << int(each) for each in self._double.NetworkDefinitionCreationFlag)
        if flags & ~known:
            self._double.say(f"flags {flags} are not known")
            raise TypeError("factory function returned nullptr")
        self._double.networks.append(Network(flags))
        return self._double.networks[-1]

    def create_builder_config(self) -> Config:
        return Config(self._double)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
        double = self._double
        double.slow()
        if double.cannot_build:
            double.say(double.cannot_build)
            return None
        if any(not each.decomposable and each.element == 1 for each in network.attentions):
            double.say("no fused kernel for an attention in FP32")
            return None
        if len(config.profiles) != 1:
            double.say("Network has dynamic or shape inputs, but no optimization profile.")
            return None
        (profile,) = config.profiles
        for each in network.model.graph.input:
            given = profile.shapes.get(each.name)
            declared = each.type.tensor_type.shape.dim
            if given is None or len(given[0]) != len(declared):
                double.say(f"input {each.name} has no shapes in the profile")
                return None
            fixed = [(i, dim.dim_value) for i, dim in enumerate(declared) if dim.dim_value]
            if any(shape[i] != value for shape in given for i, value in fixed):
                double.say(f"input {each.name}: static dimensions differ")
                return None
        assert config.cache is not None, "nobody keeps the timings"
        kernel = f"{hash(network.model.SerializeToString())} {profile.shapes}"
        double.timed.append(kernel not in config.cache.kernels)
        config.cache.kernels.add(kernel)
        header = {
            "version": double.__version__,
            "architecture": double.here,
            "profile": profile.shapes,
            "tf32": double.BuilderFlag.TF32 in config.flags,
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
        }
        double.log.append("build")
        text = json.dumps(header).encode()
        return HostMemory(text + b"\n" + network.model.SerializeToString())


def install(
    version: str = VERSIONS[-1],
    architecture: tuple[int, int] = (9, 0),
    put: Callable[[Any, str, Any], None] = setattr,
    put_module: Callable[[Any, str, Any], None] = dict.__setitem__,
) -> Double:
    """Let there be TensorRT and two GPUs; `put`, `put_module`: pytest's, for a test."""
    double = Double(version, CudaRuntime([architecture, architecture]))
    put_module(sys.modules, "tensorrt", double)
    put_module(sys.modules, "cuda.bindings.runtime", double.cuda)
    for module in (gpus_module, select):
        put(module, "gpus", lambda: GPUS)
    found, distribution = select._found, select._distribution
    put(select, "_found", lambda name: name.split(".")[0] in ("tensorrt", "cuda") or found(name))
    put(
        select,
        "_distribution",
        lambda name: version if name == "tensorrt-cu13" else distribution(name),
    )
    return double
