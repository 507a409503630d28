"""`config.pbtxt`: what Triton is told of each model.

The schema is ModelConfig of Triton's `model_config.proto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clsspec_export.triton.plan import AnyModel, Ensemble, GraphModel, Tensor
from clsspec_export.triton.text_format import Message, Value, Word, entries, render
from clsspec_serve.choices import HeadTask

MAX_BATCH = 8
"""Pictures in one forward pass, as everywhere in clsspec unless told otherwise."""

QUEUE_MICROSECONDS = 1000
"""How long a request may wait for company."""

# TF32 keeps ten bits of each factor, which is not fp32.
_CUDA: Message = {"name": "cuda", "parameters": entries({"use_tf32": "0"})}
# 1, the heuristic: else algorithms are measured, and may differ each time. Triton's backend has its
# own default in place of one that stands beside TF32's.
_CONVOLUTIONS = {"cudnn_conv_algo_search": "1"}


def config(model: AnyModel, parameters: Mapping[str, str]) -> str:
    """The text for a model; `parameters` are for its clients."""
    if isinstance(model, Ensemble):
        return render(_described(model) | _steps(model) | _parameters(parameters))
    return render(_described(model) | _running(model) | _parameters(_CONVOLUTIONS | {**parameters}))


def labels_file(task: HeadTask) -> str:
    """The file of a head's classes in the folders of its models: a line for each."""
    return f"{task}.txt"


def _described(model: AnyModel) -> dict[str, Value]:
    kind = {"platform": "ensemble"} if isinstance(model, Ensemble) else {"backend": "onnxruntime"}
    return {
        "name": model.name,
        **kind,
        "max_batch_size": MAX_BATCH,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(each) for each in model.inputs],
        "output": [_tensor(each) | _labels(each) for each in model.outputs],
    }


def _running(model: GraphModel) -> dict[str, Value]:
    """On each GPU, or on the CPU where there is none; ready when it has answered once."""
    zeros: dict[str, Value] = {
        each.name: {**_shape(each), "zero_data": True} for each in model.inputs
    }
    return {
        "instance_group": [{"count": 1, "kind": Word("KIND_AUTO")}],
        "dynamic_batching": {"max_queue_delay_microseconds": QUEUE_MICROSECONDS},
        "optimization": {"execution_accelerators": {"gpu_execution_accelerator": [_CUDA]}},
        "model_warmup": [{"name": "zeros", "batch_size": 1, "inputs": entries(zeros)}],
    }


def _steps(ensemble: Ensemble) -> dict[str, Value]:
    """Tensors have the same names in the ensemble as in its models."""
    steps: list[Message] = [
        {
            "model_name": model.name,
            "model_version": -1,
            "input_map": _same(model.inputs),
            "output_map": _same(model.outputs),
        }
        for model in ensemble.steps
    ]
    return {"ensemble_scheduling": {"step": steps}}


def _same(tensors: Sequence[Tensor]) -> Sequence[Message]:
    return entries({each.name: each.name for each in tensors})


def _tensor(tensor: Tensor) -> dict[str, Value]:
    return {"name": tensor.name, **_shape(tensor)}


def _shape(tensor: Tensor) -> dict[str, Value]:
    return {"data_type": Word(tensor.data_type), "dims": tensor.dims}


def _labels(tensor: Tensor) -> dict[str, Value]:
    """Not of `segment`: Triton takes every value of an output for a class of the picture."""
    return {"label_filename": labels_file("classify")} if tensor.name == "classify" else {}


def _parameters(values: Mapping[str, str]) -> dict[str, Value]:
    texts: dict[str, Value] = {name: {"string_value": text} for name, text in values.items()}
    return {"parameters": entries(texts)}
