"""The engine for CUDA where there is none: what it asks of ONNX Runtime, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny_bundle as tiny
from cuda_double import Double, Memory, Session, install
from http_server import colour_bundle

from clsspec_export.fit.feature_cache import cache_of
from clsspec_serve import load
from clsspec_serve.batching import Batcher
from clsspec_serve.choices import HeadTask
from clsspec_serve.engines import cuda, pinned
from clsspec_serve.engines.cuda import CudaEngine, Held, load_libraries
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.engines.protocol import Values, here
from clsspec_serve.errors import EngineError, UsageError
from clsspec_serve.evaluation.reported import _versions

PICTURE = np.random.default_rng(0).integers(0, 256, (28, 42, 3), np.uint8)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    double = install(monkeypatch.setattr)
    yield double
    assert double.cuda.misuses == []


def crossings(double: Double) -> list[str]:
    """What was run and copied since the last time."""
    found = [each for each in double.cuda.log if not each.startswith(("malloc", "free", "pin"))]
    double.cuda.log.clear()
    return found


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.tiny_graph())
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundle(tmp_path / "colours")


def inputs() -> dict[str, Any]:
    return {
        "pixels": np.random.default_rng(1).integers(0, 256, (2, 4, *tiny.SIZE), np.uint8),
        "position": tiny.POSITIONS,
    }


def test_outputs_are_those_of_the_graph_and_stay_on_the_gpu(graph: Path, double: Double) -> None:
    given = inputs()
    found = CudaEngine(graph).run(given, ["patches_0", "cls"])
    assert list(found) == ["patches_0", "cls"]
    assert crossings(double) == ["up pixels", "up position", "run"]
    expected = tiny.features(given["pixels"], given["position"])
    for name, value in found.items():
        assert isinstance(value, Held)
        assert value.shape == expected[name].shape
        np.testing.assert_allclose(here(value), expected[name], rtol=1e-5, atol=1e-4)
    assert crossings(double) == [f"down {expected[name].nbytes}" for name in found]


def test_what_one_engine_left_on_the_gpu_another_takes_there(graph: Path, double: Double) -> None:
    given = inputs()
    engine = CudaEngine(graph, device=1)
    there = engine.keep(given["position"])
    assert crossings(double) == ["keep (2, 3, 4)"]
    found = engine.run(given | {"position": there}, ["patches"])["patches"]
    assert crossings(double) == ["up pixels", "stays position", "run"]
    expected = tiny.features(given["pixels"], given["position"])["patches"]
    np.testing.assert_allclose(here(found), expected, rtol=1e-5, atol=1e-4)


def test_what_is_kept_is_the_array_whatever_its_layout(graph: Path, double: Double) -> None:
    given = inputs()
    kept = CudaEngine(graph, device=1).keep(np.asfortranarray(given["position"]))
    np.testing.assert_array_equal(here(kept), given["position"])


def test_arrays_of_any_layout_are_given_as_the_session_reads_them(
    graph: Path, double: Double
) -> None:
    given = inputs()
    turned = np.asfortranarray(given["pixels"])
    assert not turned.flags.c_contiguous
    found = CudaEngine(graph).run(given | {"pixels": turned}, ["cls"])["cls"]
    expected = tiny.features(given["pixels"], given["position"])["cls"]
    np.testing.assert_allclose(here(found), expected, rtol=1e-5)


def test_a_session_computes_in_fp32_and_rounds_alike_each_time(
    graph: Path, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    session = double.InferenceSession

    def noted(graph: Path, options: Any, **settings: Any) -> Session:
        seen.append(options.use_deterministic_compute)
        return session(graph, options, **settings)

    monkeypatch.setattr(double, "InferenceSession", noted)
    engine = CudaEngine(graph, device=1)
    assert (engine.name, engine.precision, str(engine.gpu)) == (
        "cuda",
        "fp32",
        "NVIDIA Double (cuda:1)",
    )
    assert seen == [True]
    assert double.sessions[0].options == {
        "device_id": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }


def test_a_session_that_went_to_the_cpu_is_refused(graph: Path, double: Double) -> None:
    double.providers = ["CPUExecutionProvider"]
    with pytest.raises(EngineError) as info:
        CudaEngine(graph)
    assert str(info.value) == (
        "onnxruntime 1.99 does not start CUDA on NVIDIA Double (cuda:0), and does not say why"
    )


def test_a_gpu_that_is_not_there_is_refused(graph: Path, double: Double) -> None:
    with pytest.raises(EngineError) as info:
        CudaEngine(graph, device=2)
    assert str(info.value) == (
        "there is no GPU 2; there are NVIDIA Double (cuda:0), NVIDIA Double (cuda:1)"
    )
    assert double.sessions == []


@pytest.mark.parametrize(
    ("wrong", "outputs"),
    [({"image": tiny.POSITIONS}, ["cls"]), ({"position": np.zeros((5, 5))}, ["patches"])],
)
def test_what_the_session_refuses_is_one_line(
    graph: Path, double: Double, wrong: dict[str, Any], outputs: Sequence[str]
) -> None:
    with pytest.raises(EngineError, match=r"^cuda failed: [^\n]+$"):
        CudaEngine(graph).run(inputs() | wrong, outputs)


def test_what_cannot_be_copied_is_one_line(graph: Path, double: Double) -> None:
    engine = CudaEngine(graph)
    found = engine.run(inputs(), ["cls"])["cls"]
    double.cuda.fails["cudaMemcpy"] = double.cuda.cudaError_t.cudaErrorLaunchFailure
    with pytest.raises(EngineError, match=r"^CUDA failed: error 719 of the double$"):
        here(found)
    double.cuda.capacity = 0
    with pytest.raises(EngineError, match=r"^cuda failed: [^\n]+$"):
        engine.keep(tiny.POSITIONS)


def test_an_output_that_numpy_does_not_have_is_one_line(
    graph: Path, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = CudaEngine(graph).run(inputs(), ["cls"])["cls"]
    monkeypatch.setattr(Memory, "data_type", lambda _: "tensor(bfloat16)")
    with pytest.raises(EngineError, match=r"^cuda failed: an output is tensor\(bfloat16\); "):
        here(found)


def test_a_broken_graph_is_one_line(tmp_path: Path, double: Double) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph\n" * 9)
    with pytest.raises(EngineError, match=r"^cuda cannot load \S+: [^\n]+$"):
        CudaEngine(path)


def test_only_what_was_asked_for_leaves_the_gpu(bundle: Path, double: Double) -> None:
    """A head takes the features where they are, and these are not copied."""
    expected = load(bundle, engine="onnxruntime")(PICTURE, tasks=("cls", "segment"))
    model = load(bundle, engine="cuda", device=1)
    found = model(PICTURE, tasks=("cls", "segment"))
    np.testing.assert_array_equal(found.segment, expected.segment)
    np.testing.assert_array_equal(found.cls, expected.cls)
    assert crossings(double) == [
        *("keep (2, 3, 4)", "up pixels", "stays position", "run", "down 16"),
        *("stays patches", "run", "down 72"),
    ]
    model(np.roll(PICTURE, 1), tasks=("cls",))
    assert crossings(double) == ["up pixels", "stays position", "run", "down 16"]
    assert [session.device for session in double.sessions] == [1, 1]


def test_batches_are_put_together_where_the_gpu_copies_them_from(
    bundle: Path, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "SMALLEST", 1)
    model = load(bundle, engine="cuda")
    request = model.request(tasks=("cls", "patches"))
    pictures = [np.roll(PICTURE, number, axis=1) for number in range(3)]
    batch = model.stack([model.prepare(each, request).pixels for each in pictures])
    assert double.cuda.log[-1] == f"pin {1 << (batch.nbytes - 1).bit_length()}"
    assert batch.base is not None
    whole = load(bundle, engine="onnxruntime")
    for picture, found in zip(pictures, model.predict(pictures, tasks=("cls",)), strict=True):
        np.testing.assert_array_equal(found.cls, whole(picture, tasks=("cls",)).cls)


def test_requests_that_share_a_batch_get_their_own(bundle: Path, double: Double) -> None:
    """On a GPU the head answers for all; only one of them is told."""
    whole = load(bundle, engine="onnxruntime")
    model = load(bundle, engine="cuda")
    wishes: list[tuple[HeadTask, ...]] = [("depth",), ("segment",), ("depth",), ("segment",)]
    pictures = [np.roll(PICTURE, number, axis=1) for number in range(4)]
    pixels = np.stack(
        [model.prepare(picture, model.request(tasks=("cls",))).pixels for picture in pictures]
    )
    features = model.features(pixels, ["patches", "cls"])
    for number in range(4):
        (task,) = wishes[number]
        rows = [row for row in range(4) if wishes[row] == wishes[number]]
        answers = model.answer(task, features, (2, 3), rows)
        alone = whole.infer(pixels[number : number + 1], ["patches", "cls"], [task])[task]
        np.testing.assert_allclose(answers[rows.index(number)], alone[0], rtol=1e-6)


class Meeting:
    """A session's runs, of which `parties` have to be under way at once."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)

    def wrap(self, run: Callable[[Values, Sequence[str]], Any]) -> Callable[..., Any]:
        def met(inputs: Values, outputs: Sequence[str]) -> Any:
            self._barrier.wait(20)
            return run(inputs, outputs)

        return met


def test_a_server_has_two_passes_under_way_on_a_gpu(
    bundle: Path, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(bundle, engine="cuda")
    monkeypatch.setattr(model.engine, "run", Meeting(2).wrap(model.engine.run))
    request = model.request(tasks=("cls",))
    batcher = Batcher([model], largest=1)
    found = [batcher.submit(model.prepare(PICTURE, request), request) for _ in range(4)]
    for future in found:
        future.result(20)
    batcher.close()


def test_threads_that_share_a_gpu_get_their_own_features(graph: Path, double: Double) -> None:
    engine = CudaEngine(graph)
    given = [
        {"pixels": np.full((1, 4, *tiny.SIZE), value, np.uint8), "position": tiny.POSITIONS}
        for value in range(8)
    ]

    def right(value: int) -> bool:
        return all(
            (here(engine.run(given[value], ["cls"])["cls"]) == value).all() for _ in range(40)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(8)))


def test_a_device_is_for_an_engine_on_gpus(bundle: Path, double: Double) -> None:
    model = load(bundle, device=1)
    assert (model.engine.name, str(model.gpu)) == ("cuda", "NVIDIA Double (cuda:1)")
    with pytest.raises(UsageError, match="device 0: openvino runs on the CPU; cuda and"):
        load(bundle, engine="openvino", device=0)


def test_what_is_reported_and_kept_says_which_gpu(
    bundle: Path, tmp_path: Path, double: Double
) -> None:
    assert "gpu" not in _versions(load(bundle, engine="onnxruntime"))
    model = load(bundle, engine="cuda")
    assert _versions(model)["gpu"] == "NVIDIA Double"
    preprocessing = model.request(tasks=("patches",)).preprocessing
    before = cache_of(tmp_path, model, preprocessing)
    assert cache_of(tmp_path, model, preprocessing) == before
    model.gpu = Gpu(0, "NVIDIA Other")
    assert cache_of(tmp_path, model, preprocessing) != before


def test_libraries_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the loader of this system, and ONNX Runtime printing what it prints then."""

    class Package:
        __file__ = str(tmp_path / "__init__.py")
        __version__ = "1.99"
        cuda_version = "13.0"
        set_default_logger_severity = staticmethod(onnxruntime.set_default_logger_severity)

        @staticmethod
        def preload_dlls() -> None:
            print("Failed to load libcublasLt.so.13")

    monkeypatch.setattr(cuda, "onnxruntime", Package)
    monkeypatch.setattr(cuda, "driver_cuda", lambda: (13, 1))
    words = refused()
    assert words.startswith("CUDA's libraries cannot be loaded: ")
    assert "libonnxruntime_providers_shared.so: cannot open shared object file" in words
    assert words.endswith('; they are installed with: pip install "clsspec-serve[gpu]"')
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(cuda, "driver_cuda", lambda: (12, 4))
    assert refused() == (
        "onnxruntime-gpu 1.99 needs an NVIDIA driver for CUDA 13; this one is for CUDA 12.4"
    )


def refused() -> str:
    load_libraries.cache_clear()
    with pytest.raises(EngineError) as info:
        load_libraries()
    return str(info.value)
