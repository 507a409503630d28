"""TensorRT's plans of a bundle, built and compared before anything needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from clsspec_serve.acceptance import Acceptance
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import HeadTask, Precision, Task
from clsspec_serve.engines.gpus import gpu_at
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.engines.select import choose_engine, why_not
from clsspec_serve.engines.tensorrt.buckets import LARGEST
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError
from clsspec_serve.parity import Difference
from clsspec_serve.predictor import Model

Report = Callable[[str], None]


def require_tensorrt(precisions: Sequence[Precision] = ("fp32",), *, device: int = 0) -> None:
    """Raise `EngineError` that says what this machine lacks to build plans, before any work."""
    for precision in precisions:
        choose_engine("tensorrt", precision)
    reason = why_not("tensorrt")
    if reason is not None:
        raise EngineError(reason)
    gpu_at(device)


def build_plans(
    bundle: Bundle,
    *,
    precisions: Sequence[Precision] | None = None,
    device: int = 0,
    batch_size: int = LARGEST,
    report: Report = lambda line: None,
) -> None:
    """Build the plans that a server with this bundle has when it is ready, and keep them.

    Those of the backbone for the sizes of the bundle and of its heads, and those of its heads, for
    one picture to `batch_size`; what was built before is loaded. `precisions`: all that the bundle
    has for TensorRT unless given. `report` is told of each plan: how far it is from ONNX Runtime on
    the CPU, the share of its layers in half precision, its fused attentions. Where a precision
    fails, the others are built all the same. Raises `EngineError` at the end, naming those that
    failed, and before the beginning as `require_tensorrt`.
    """
    wanted = bundle.manifest.precisions("tensorrt") if precisions is None else precisions
    require_tensorrt(wanted, device=device)
    acceptance = Acceptance(bundle)
    failed = []
    for precision in dict.fromkeys(wanted):
        try:
            _build(bundle, precision, device, batch_size, acceptance, report)
        except EngineError as error:
            report(f"tensorrt {precision}: {error}")
            failed.append(precision)
    if failed:
        raise EngineError(f"{bundle.path}: not all plans for {', '.join(failed)} could be built")


def _build(
    bundle: Bundle,
    precision: Precision,
    device: int,
    batch_size: int,
    acceptance: Acceptance,
    report: Report,
) -> None:
    from clsspec_serve.engines.tensorrt.engine import TensorRtEngine

    on_gpu = partial(TensorRtEngine, device=device, largest=batch_size)
    graph = bundle.graph_for("tensorrt", precision)
    backbone = on_gpu(graph, precision=precision, accept=acceptance.accept)
    heads: dict[HeadTask, TensorRtEngine] = {}

    def load_head(task: HeadTask) -> Engine:
        accept = partial(acceptance.accept_head, task)
        heads[task] = on_gpu(bundle.head(task), accept=accept)
        return heads[task]

    _run_blank(Model(bundle, backbone, load_head, backbone.gpu))
    for plan in backbone.plans:
        found = acceptance.found.get(plan.sha256) or acceptance.differences(plan)
        report(_line(graph.name, plan, found))
    for task, engine in heads.items():
        for plan in engine.plans:
            found = acceptance.found.get(plan.sha256) or acceptance.differences_of_head(task, plan)
            report(_line(bundle.head(task).name, plan, found))


def _run_blank(model: Model) -> None:
    """A blank picture for each task, as the server's warm-up does."""
    heads = [head.task for head in model.manifest.heads]
    asked: list[tuple[Task, ...]] = [("cls", "patches"), *((task,) for task in heads)]
    for tasks in asked:
        request = model.request(tasks=tasks)
        blank = np.zeros((*request.preprocessing.size, 3), np.uint8)
        prepared = model.prepare(blank, request)
        model.forward(next(prepared.views())[None], request)


def _line(graph: str, plan: Plan, found: Sequence[Difference]) -> str:
    worst = max(each.relative for each in found)
    lowest = min(each.cosine for each in found)
    return (
        f"tensorrt {plan.precision}: {graph}, {plan.bucket}: largest relative difference to ONNX "
        f"Runtime {worst:.1e}, lowest cosine {lowest:.6f}; {plan.layers()}"
    )
