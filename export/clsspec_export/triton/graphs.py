"""A bundle's graphs for one size of pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from clsspec_export.triton.plan import GraphModel
from clsspec_serve.errors import BundleError, one_line

MODEL = "model.onnx"
"""What Triton looks for in a version's folder."""


def write_graph(
    source: Path, folder: Path, model: GraphModel, constants: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write `model.onnx`, and what its weights are in, to a folder.

    `constants`: inputs of the source's graph that the new one has inside. What else goes in and
    comes out has the shapes of the model, which Triton compares with its configuration; the batch
    stays free. Raises `BundleError` for a graph that cannot be read or lacks its weights.
    """
    try:
        proto = onnx.load(source, load_external_data=False)
    except Exception as error:  # protobuf's and the system's share no base class
        raise BundleError(f"{source} cannot be read: {one_line(error)}") from error
    graph = proto.graph
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    inputs = [each for each in graph.input if each.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    shapes = {each.name: each.dims for each in (*model.inputs, *model.outputs)}
    for each in (*graph.input, *graph.output):
        if each.name not in shapes:
            raise BundleError(f"{source} has {each.name}, which the bundle does not describe")
        _fix(each.type.tensor_type.shape, shapes[each.name])
    # Of any size.
    del graph.value_info[:]
    for name in sorted({*_data_files(proto)}):
        _copy_weights(source, name, folder)
    (folder / MODEL).write_bytes(proto.SerializeToString())


def _fix(shape: Any, dims: tuple[int, ...]) -> None:
    del shape.dim[:]
    shape.dim.add().dim_param = "batch"
    for side in dims:
        shape.dim.add().dim_value = side


def _data_files(proto: ModelProto) -> Iterator[str]:
    for tensor in proto.graph.initializer:
        if uses_external_data(tensor):
            yield from (each.value for each in tensor.external_data if each.key == "location")


def _copy_weights(source: Path, name: str, folder: Path) -> None:
    file = source.parent / name
    if Path(name).name != name or not file.is_file():
        raise BundleError(f"{source} has its weights in {name!r}, which is no file beside it")
    shutil.copyfile(file, folder / name)
