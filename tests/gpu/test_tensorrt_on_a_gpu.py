"""TensorRT on a real GPU: plans that are built there, and what they compute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from clsspec_export.checkpoints.source import load_checkpoint
from clsspec_export.export import export_bundle, lift
from clsspec_serve import load
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import HeadTask, Precision
from clsspec_serve.engines.device import Device, cuda_runtime
from clsspec_serve.engines.protocol import Engine, here
from clsspec_serve.engines.tensorrt.captures import Captures
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.libraries import tensorrt
from clsspec_serve.engines.tensorrt.memory import pool_of
from clsspec_serve.engines.tensorrt.plans import PlanManifest
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError
from clsspec_serve.loading import build
from clsspec_serve.models import find_bundle
from clsspec_serve.parity import compare, reference_samples, run_sample
from clsspec_serve.plans import build_plans
from clsspec_serve.predictor import Model

from .conftest import Note

NAMES = (
    "vit_small_patch14_dinov2_clsspec",
    "vit_small_patch16_dinov3_clsspec",
    "deit3_base_patch16_224_clsspec",
)
NUMBERS = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def _with_tensorrt() -> None:
    try:
        tensorrt()
        cuda_runtime()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=("embedded", *NAMES))
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bundle]:
    """The model inside, whose plans are in the cache, and one of each family, random weights."""
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLSSPEC_CACHE", str(folder / "cache"))
        if request.param == "embedded":
            yield find_bundle(None)
            return
        checkpoint, origin = load_checkpoint(f"random:{request.param}")
        halves: tuple[Precision, ...] = ("bf16", "fp16")
        export_bundle(lift(checkpoint), folder / request.param, origin, precisions=halves)
        yield find_bundle(folder / request.param)


def on_tensorrt(bundle: Bundle, *, sizes: int = 8) -> Model:
    """The backbone and the heads, in fp32."""

    def head(task: HeadTask) -> Engine:
        return TensorRtEngine(bundle.head(task), sizes=sizes)

    backbone = TensorRtEngine(bundle.graph, sizes=sizes)
    return Model(bundle, backbone, head, backbone.gpu)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Model:
    """One for all tests of a bundle, since each build takes its time."""
    return on_tensorrt(bundle)


def engine_of(model: Model) -> TensorRtEngine:
    assert isinstance(model.engine, TensorRtEngine)
    return model.engine


def blank(bundle: Bundle, batch: int, patches: tuple[int, int]) -> Any:
    side = bundle.manifest.architecture.patch_size
    return NUMBERS.integers(0, 256, (batch, 4, patches[0] * side, patches[1] * side), np.uint8)


def test_it_gives_what_pytorch_gave_at_the_export(bundle: Bundle, model: Model, note: Note) -> None:
    found = [each for sample in reference_samples(bundle) for each in run_sample(model, sample)]
    worst = max(found, key=lambda difference: difference.relative)
    name = f"TensorRT {tensorrt().__version__}, {bundle.manifest.name}"
    note(f"{name}: {worst.describe('fp32')}")
    for plan in engine_of(model).plans:
        note(f"{name}: {plan.bucket}: {plan.layers()}, of {bundle.manifest.architecture.depth}")
    assert all(each.within("fp32") for each in found), [each.describe("fp32") for each in found]


@pytest.mark.parametrize(("batch", "patches"), [(1, (7, 10)), (5, (16, 16)), (11, (8, 8))])
def test_it_gives_what_the_cpu_gives_at_any_size(
    bundle: Bundle, model: Model, batch: int, patches: tuple[int, int], note: Note
) -> None:
    pixels = blank(bundle, batch, patches)
    names = [output.name for output in bundle.manifest.outputs]
    tasks = [head.task for head in bundle.manifest.heads]
    there = model.infer(pixels, names, tasks)
    expected = load(bundle.path, engine="onnxruntime").infer(pixels, names, tasks)
    found = [
        compare(
            name,
            pixels.shape[2:],
            there[name].reshape(batch, -1),
            expected[name].reshape(batch, -1),
        )
        for name in expected
    ]
    worst = max(found, key=lambda difference: difference.relative)
    note(f"TensorRT, {bundle.manifest.name}, batch {batch}: {worst.describe('fp32')}")
    assert all(each.within("fp32") for each in found), [each.describe("fp32") for each in found]


def test_a_plan_is_kept_and_loaded_in_place_of_a_build(
    bundle: Bundle, model: Model, note: Note
) -> None:
    pixels = blank(bundle, 2, (16, 16))
    names = [output.name for output in bundle.manifest.outputs]
    first = {name: here(value) for name, value in model.features(pixels, names).items()}
    manifests = [*engine_of(model).folder.glob("model-fp32-*.json")]
    seconds = [PlanManifest.model_validate_json(each.read_bytes()).seconds for each in manifests]
    other = on_tensorrt(bundle)
    start = time.monotonic()
    again = other.features(pixels, names)
    loading = time.monotonic() - start
    note(
        f"TensorRT, {bundle.manifest.name}: {len(seconds)} plans built in {min(seconds):.0f} to "
        f"{max(seconds):.0f} s each, one loaded and run in {loading:.1f} s"
    )
    assert len([*engine_of(other).folder.glob("model-fp32-*.json")]) == len(manifests)
    for name, value in first.items():
        np.testing.assert_array_equal(here(again[name]), value)


def test_threads_and_batches_give_the_same_bytes_each_time(bundle: Bundle, model: Model) -> None:
    batches = [blank(bundle, size, (16, 16)) for size in (8, 1, 3, 8, 5, 8, 2, 8)]
    request = model.request(tasks=("cls", "patches"))
    alone = [model.forward(batch, request) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda batch: model.forward(batch, request), batches)]
    for before, now in zip(alone, found, strict=True):
        for one, two in zip(before, now, strict=True):
            for name, value in one.items():
                np.testing.assert_array_equal(two[name], value)


def test_runs_that_are_replayed_give_the_same_bytes(
    bundle: Bundle, model: Model, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is run, the second captured, others replayed: one after the other, on one lane."""
    replayed: list[int] = []
    replay = Device.replay

    def counted(device: Device, captured: int, stream: int) -> None:
        replayed.append(captured)
        replay(device, captured, stream)

    monkeypatch.setattr(Device, "replay", counted)
    names = [output.name for output in bundle.manifest.outputs]
    for size in (1, 8):
        pixels = [blank(bundle, size, (16, 16)) for _ in range(4)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Captures, "run", lambda self, addresses, enqueue: enqueue())
            before = len(replayed)
            expected = [features(model, each, names) for each in pixels]
            plain = speed(model, pixels[0])
            assert len(replayed) == before
        for _ in range(3):
            for each, right in zip(pixels, expected, strict=True):
                for name, value in features(model, each, names).items():
                    np.testing.assert_array_equal(value, right[name])
        assert len(replayed) > before
        note(
            f"TensorRT, {bundle.manifest.name}, batch {size}: {speed(model, pixels[0]):.0f} "
            f"pictures/s when replayed, {plain:.0f} when not"
        )


def features(model: Model, pixels: Any, names: list[str]) -> dict[str, Any]:
    return {name: here(value) for name, value in model.features(pixels, names).items()}


def test_many_runs_take_no_more_memory(bundle: Bundle, model: Model, note: Note) -> None:
    cuda = cuda_runtime()
    pixels = blank(bundle, 8, (16, 16))

    def free() -> int:
        status, there, _ = cuda.cudaMemGetInfo()
        assert int(status) == 0
        return int(there)

    model.features(pixels, ["cls"])
    before = free()
    note_speed(model, pixels, note)
    assert free() >= before


def note_speed(model: Model, pixels: Any, note: Note) -> None:
    found, size = speed(model, pixels), "x".join(map(str, pixels.shape[2:]))
    name, precision = model.manifest.name, model.engine.precision
    note(f"TensorRT, {name}, {precision}, {size}, batch {len(pixels)}: {found:.0f} pictures/s")


def speed(model: Model, pixels: Any) -> float:
    """Pictures in a second, whose features stay on the GPU."""
    names = [output.name for output in model.manifest.outputs]
    model.features(pixels, names)
    start = time.monotonic()
    for _ in range(100):
        model.features(pixels, names)
    return 100 * len(pixels) / (time.monotonic() - start)


def test_every_plan_of_a_server_is_accepted_in_each_precision(bundle: Bundle, note: Note) -> None:
    """The lines say how close each is, how much of it is half, how many attentions are fused."""
    build_plans(bundle, report=lambda line: note(f"{bundle.manifest.name}: {line}"))


def test_in_half_precision_it_is_close_to_pytorch_and_faster(bundle: Bundle, note: Note) -> None:
    halves = [each for each in bundle.manifest.precisions("tensorrt") if each != "fp32"]
    if not halves:
        pytest.skip(f"{bundle.manifest.name} has no graph below fp32")
    for precision in halves:
        model = build(bundle, engine="tensorrt", precision=precision, sizes=8)
        found = [each for sample in reference_samples(bundle) for each in run_sample(model, sample)]
        worst = min(found, key=lambda difference: difference.cosine)
        note(f"TensorRT, {bundle.manifest.name}, {precision}: {worst.describe(precision)}")
        note_speed(model, blank(bundle, 8, (16, 16)), note)
        assert all(each.within(precision) for each in found)
        plans = engine_of(model).plans
        assert all(plan.layers().half for plan in plans)


def test_why_a_plan_is_refused_is_one_line(model: Model, note: Note) -> None:
    """As TensorRT says it: its log is all that tells."""
    engine = engine_of(model)
    (plan, *_) = sorted(engine.folder.glob("model-fp32-*.plan"))
    content = plan.read_bytes()
    bucket = engine.plans[0].bucket
    with pytest.raises(EngineError, match=r"^tensorrt cannot load a plan for [^\n]+$") as info:
        Plan(tensorrt(), pool_of(0), b"\0" * 64 + content[64:4096], bucket, "fp32")
    note(f"TensorRT, of a damaged plan: {info.value}")
