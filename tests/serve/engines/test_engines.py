from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny

from clsspec_serve.choices import EngineChoice, EngineName
from clsspec_serve.engines import onnxruntime as onnxruntime_module
from clsspec_serve.engines import openvino as openvino_module
from clsspec_serve.engines import select
from clsspec_serve.engines.onnxruntime import OnnxRuntimeEngine
from clsspec_serve.engines.openvino import OpenVinoEngine
from clsspec_serve.engines.protocol import Engine, Values
from clsspec_serve.engines.select import choose_engine, installed_engines, load_engine
from clsspec_serve.errors import EngineError, UsageError

NAMES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
NUMBERS = np.random.default_rng(1)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.tiny_graph())
    return path


def inputs(batch: int = 2, grid: tuple[int, int] = tiny.GRID) -> Values:
    sides = [side * tiny.PATCH for side in grid]
    return {
        "pixels": NUMBERS.integers(0, 256, (batch, 4, *sides), np.uint8),
        "position": NUMBERS.standard_normal((*grid, tiny.WIDTH), np.float32),
    }


def failure(engine: Engine, given: Values, outputs: list[str]) -> str:
    with pytest.raises(EngineError) as info:
        engine.run(given, outputs)
    message = str(info.value)
    assert message.startswith(f"{engine.name} failed: ")
    assert "\n" not in message
    return message


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None if name in missing else 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "grid"), [(1, (2, 3)), (3, (4, 1))])
def test_an_engine_computes_the_outputs_asked_for(
    graph: Path, name: EngineName, batch: int, grid: tuple[int, int]
) -> None:
    engine: Engine = load_engine(graph, engine=name)
    given = inputs(batch, grid)
    found = engine.run(given, ["patches_0", "cls"])
    expected = tiny.features(given["pixels"], given["position"])
    assert list(found) == ["patches_0", "cls"]
    for key, value in found.items():
        assert (value.shape, value.dtype) == (expected[key].shape, np.float32)
        np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_says_what_it_is(graph: Path, name: EngineName) -> None:
    engine = load_engine(graph, engine=name)
    assert (engine.name, engine.precision) == (name, "fp32")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_survive_the_next_run(graph: Path, name: EngineName) -> None:
    engine = load_engine(graph, engine=name)
    first = engine.run(inputs(), ["cls", "patches"])
    kept = {key: value.copy() for key, value in first.items()}
    engine.run(inputs(), ["cls", "patches"])
    for key, value in kept.items():
        np.testing.assert_array_equal(first[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_are_left_alone(graph: Path, name: EngineName) -> None:
    given = inputs()
    kept = {key: value.copy() for key, value in given.items()}
    load_engine(graph, engine=name).run(given, ["patches"])
    for key, value in kept.items():
        np.testing.assert_array_equal(given[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_graph_is_one_line(tmp_path: Path, name: EngineName) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph\n" * 10)
    with pytest.raises(EngineError) as info:
        load_engine(path, engine=name)
    assert str(info.value).startswith(f"{name} cannot load {path}: ")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_graph_is_refused(graph: Path, name: EngineName) -> None:
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(EngineError, match="cannot load"):
        load_engine(graph, engine=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_input_name_is_an_engine_error(graph: Path, name: EngineName) -> None:
    given = inputs()
    wrong = {"image": given["pixels"], "position": given["position"]}
    failure(load_engine(graph, engine=name), wrong, ["cls"])


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit_are_an_engine_error(graph: Path, name: EngineName) -> None:
    given = dict(inputs())
    given["position"] = given["position"][:1, :2]
    failure(load_engine(graph, engine=name), given, ["patches"])


@pytest.mark.parametrize("name", NAMES)
def test_an_output_that_the_graph_lacks_is_an_engine_error(graph: Path, name: EngineName) -> None:
    assert "nonsense" in failure(load_engine(graph, engine=name), inputs(), ["nonsense"])


def test_the_number_of_threads_reaches_onnxruntime(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = onnxruntime_module.onnxruntime.InferenceSession

    def session(path: Path, options: object, **rest: object) -> object:
        seen.append(options.intra_op_num_threads)  # type: ignore[attr-defined]  # onnxruntime's
        return real(path, options, **rest)

    monkeypatch.setattr(onnxruntime_module.onnxruntime, "InferenceSession", session)
    OnnxRuntimeEngine(graph, threads=3)
    OnnxRuntimeEngine(graph)
    assert seen == [3, 0]


def test_the_number_of_threads_reaches_openvino(graph: Path) -> None:
    engine = OpenVinoEngine(graph, threads=1)
    compiled = engine._model
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"


def test_openvino_without_bf16_instructions_says_so(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32"]

    with monkeypatch.context() as patch:
        patch.setattr(openvino_module, "_core", Core)
        with pytest.raises(EngineError, match="no bf16 instructions; use --precision fp32"):
            OpenVinoEngine(graph, precision="bf16")
    assert OpenVinoEngine(graph).precision == "fp32"


def test_auto_prefers_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_engines() == list(NAMES)
    assert choose_engine("auto", "fp32") == "onnxruntime"
    without(monkeypatch, "onnxruntime")
    assert choose_engine("auto", "fp32") == "openvino"


def test_auto_takes_the_engine_that_has_the_precision() -> None:
    assert choose_engine("auto", "bf16") == "openvino"


def test_an_engine_asked_for_is_the_one_that_runs(graph: Path) -> None:
    for name in NAMES:
        assert choose_engine(name, "fp32") == load_engine(graph, engine=name).name == name


@pytest.mark.parametrize(
    ("engine", "extra"), [("auto", "cpu"), ("onnxruntime", "cpu"), ("openvino", "openvino")]
)
def test_a_missing_engine_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, engine: EngineChoice, extra: str
) -> None:
    without(monkeypatch, *NAMES)
    with pytest.raises(EngineError, match=rf'pip install "clsspec-serve\[{extra}\]"$'):
        choose_engine(engine, "fp32")


def test_a_precision_is_never_lowered_or_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="onnxruntime runs fp32, int8 here; bf16 needs --en"):
        choose_engine("onnxruntime", "bf16")
    without(monkeypatch, "openvino")
    with pytest.raises(EngineError, match=r"no engine for bf16 .*clsspec-serve\[openvino\]"):
        choose_engine("auto", "bf16")


def test_both_packages_of_onnxruntime_together_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "version", {"onnxruntime": "1", "onnxruntime-gpu": "2"}.__getitem__)
    with pytest.raises(EngineError, match="onnxruntime 1 and onnxruntime-gpu 2 are both installed"):
        choose_engine("openvino", "fp32")
    monkeypatch.setattr(select, "version", importlib.metadata.version)
    assert find_spec(choose_engine("openvino", "fp32")) is not None


@pytest.mark.parametrize("name", NAMES)
def test_threads_that_share_an_engine_get_their_own_features(graph: Path, name: EngineName) -> None:
    engine = load_engine(graph, engine=name)
    given = [inputs(1) for _ in range(8)]
    expected = [engine.run(each, ["patches"])["patches"] for each in given]

    def wrong(index: int) -> int:
        pairs = [
            np.array_equal(engine.run(given[index], ["patches"])["patches"], expected[index])
            for _ in range(40)
        ]
        return pairs.count(False)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(wrong, range(len(given)))) == 0


_SIGNALLED = """
import gc, os, signal, sys
from pathlib import Path
from clsspec_serve.engines.select import load_engine
signal.signal(signal.SIGINT, lambda *_: print("alive"))
engines = [load_engine(Path(sys.argv[2]), engine=sys.argv[1]) for _ in range(2)]
while engines:
    del engines[0]
    gc.collect()
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("name", NAMES)
def test_signals_are_survived_after_engines_came_and_went(graph: Path, name: EngineName) -> None:
    command = (sys.executable, "-c", _SIGNALLED, name, str(graph))
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("linkable", [True, False])
def test_a_graph_whose_weights_are_links_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: EngineName, linkable: bool
) -> None:
    """As in the Hub's cache: links to files of other names in another folder."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    tiny.save_with_external_weights(blobs / "model.onnx")
    for number, file in enumerate(sorted(blobs.iterdir())):
        blob = file.rename(blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(blob)
    assert len(list(snapshot.iterdir())) == 2
    if not linkable:

        def refuse(*_: object) -> None:
            raise OSError

        monkeypatch.setattr("os.link", refuse)
    engine = load_engine(snapshot / "model.onnx", engine=name)
    given = inputs(1)
    found = engine.run(given, ["patches"])["patches"]
    expected = tiny.features(given["pixels"], given["position"])["patches"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in blobs.iterdir()) == ["blob0", "blob1"]


@pytest.mark.parametrize(("engine", "precision"), [("tensorflow", "fp32"), ("auto", "fp8")])
def test_words_that_name_nothing_are_refused(engine: Any, precision: Any) -> None:
    words = "accepted are auto, cuda, onnxruntime, openvino, tensorrt and fp32, bf16, fp16, int8"
    with pytest.raises(UsageError, match=words):
        choose_engine(engine, precision)


def test_onnxruntime_reports_nothing_and_leaves_nothing_in_the_home(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    code = f"""
import os
from clsspec_serve import load
import numpy as np
load({str(tiny_bundle)!r}, engine="onnxruntime")(np.zeros((28, 42, 3), np.uint8))
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if "XDG" not in key}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=environment | {"HOME": str(home)}, capture_output=True, text=True, check=True
    )
    assert result.stdout == "1\n"
    assert list(home.rglob("*")) == []
