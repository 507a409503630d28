"""What Triton would do with a model repository, as far as its schema and ONNX Runtime can tell.

The rules are those of Triton's own `model_config_utils.cc`, `ensemble_utils.cc` and of its backend
`onnxruntime.cc`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import text_format
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}
DTYPES = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


@cache
def schema() -> ModuleType:
    """Triton's published classes; the package that they are in would import gRPC."""
    path = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(text: str) -> Any:
    """A ModelConfig; what its schema does not know is an error."""
    return text_format.Parse(text, schema().ModelConfig())


class TritonServer:
    """A repository whose models have been loaded, each checked as Triton checks it."""

    def __init__(self, repository: Path) -> None:
        self.configs: dict[str, Any] = {}
        self.sessions: dict[str, Any] = {}
        for folder in sorted(repository.iterdir()):
            assert folder.is_dir(), folder
            self.configs[folder.name] = parse((folder / "config.pbtxt").read_text("utf-8"))
        for name, config in self.configs.items():
            self._load(repository / name, config)
        for config in self.configs.values():
            if config.platform == "ensemble":
                self._check_ensemble(config)

    def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs of a model, or of an ensemble by its maps."""
        config = self.configs[name]
        assert {each.name for each in config.input} == inputs.keys()
        for each in config.input:
            _fits(inputs[each.name], each)
        if config.platform == "ensemble":
            return self._chain(config, dict(inputs))
        outputs = [each.name for each in config.output]
        found = dict(zip(outputs, self.sessions[name].run(outputs, dict(inputs)), strict=True))
        for each in config.output:
            _fits(found[each.name], each)
        return found

    def _load(self, folder: Path, config: Any) -> None:
        assert config.name == folder.name
        assert config.max_batch_size > 0
        assert [each.name for each in folder.iterdir() if each.is_dir()] == ["1"]
        for output in config.output:
            assert not output.label_filename or (folder / output.label_filename).is_file()
        if config.platform == "ensemble":
            assert config.HasField("ensemble_scheduling")
            assert not config.instance_group
            assert not config.HasField("optimization")
            assert not config.model_warmup
            return
        assert config.backend == "onnxruntime"
        session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        for described, actual in (
            (config.input, session.get_inputs()),
            (config.output, session.get_outputs()),
        ):
            assert [each.name for each in described] == [each.name for each in actual]
            for each, one in zip(described, actual, strict=True):
                # The first dimension is free, and the others of an output are exactly these.
                assert isinstance(one.shape[0], str), one.shape
                assert one.shape[1:] == [*each.dims], (one.name, one.shape, each.dims)
                assert one.type == TYPES[_type(each)]
        self.sessions[config.name] = session
        for warmup in config.model_warmup:
            zeros = {
                name: np.zeros((warmup.batch_size, *each.dims), DTYPES[_type(each)])
                for name, each in warmup.inputs.items()
            }
            self.infer(config.name, zeros)

    def _check_ensemble(self, config: Any) -> None:
        """Each step's tensors are those of its model, each is written once, and each is used."""
        known = {each.name: (each.data_type, [*each.dims]) for each in config.input}
        used: set[str] = set()
        for step in config.ensemble_scheduling.step:
            model = self.configs[step.model_name]
            assert model.max_batch_size >= config.max_batch_size
            assert set(step.input_map) == {each.name for each in model.input}
            assert set(step.output_map) <= {each.name for each in model.output}
            for each in model.input:
                tensor = step.input_map[each.name]
                assert known[tensor] == (each.data_type, [*each.dims]), tensor
                used.add(tensor)
            for each in model.output:
                if each.name in step.output_map:
                    tensor = step.output_map[each.name]
                    assert tensor not in known
                    known[tensor] = (each.data_type, [*each.dims])
        for each in config.output:
            assert known[each.name] == (each.data_type, [*each.dims])
            used.add(each.name)
        assert used == set(known)

    def _chain(self, config: Any, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for step in config.ensemble_scheduling.step:
            given = {name: tensors[tensor] for name, tensor in step.input_map.items()}
            found = self.infer(step.model_name, given)
            tensors |= {tensor: found[name] for name, tensor in step.output_map.items()}
        return {each.name: tensors[each.name] for each in config.output}


def _fits(array: NDArray[Any], described: Any) -> None:
    assert array.dtype == DTYPES[_type(described)]
    assert list(array.shape[1:]) == [*described.dims]


def _type(described: Any) -> str:
    name: str = schema().DataType.Name(described.data_type)
    return name
