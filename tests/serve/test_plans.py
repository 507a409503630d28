"""Plans that are built before anything needs them, and what is said of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from half_bundle import write_half_bundle
from tensorrt_double import Double, install

from clsspec_serve.bundle import Bundle, describe_folder, open_bundle
from clsspec_serve.engines import select
from clsspec_serve.errors import EngineError
from clsspec_serve.loading import start
from clsspec_serve.plans import build_plans, require_tensorrt

TASKS = ("cls", "patches", "segment", "depth", "classify")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(put=monkeypatch.setattr, put_module=monkeypatch.setitem)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_half_bundle(tmp_path / "halves"))


def test_what_is_built_is_what_a_server_takes(double: Double, bundle: Bundle) -> None:
    lines: list[str] = []
    build_plans(bundle, precisions=("fp32", "fp16"), batch_size=4, report=lines.append)
    # The heads' own size is another one than the bundle's, which all of them share.
    sizes = ["4x28x28", "4x28x42"]
    for precision in ("fp32", "fp16"):
        graph = "model.onnx" if precision == "fp32" else "model-fp16.onnx"
        assert sorted(
            line.split(",")[1].split()[1]
            for line in lines
            if line.startswith(f"tensorrt {precision}: {graph},")
        ) == sorted(sizes)
    assert len(lines) == 2 * (2 + 3)
    built = double.log.count("build")
    assert built == 2 + 2 + 3
    # They are this machine's, and no part of the bundle.
    assert (bundle.path / "engines").is_dir()
    assert describe_folder(bundle.path) == open_bundle(bundle.path).manifest.files
    for precision in ("fp32", "fp16"):
        model = start(bundle, engine="tensorrt", precision=precision, batch_size=4)  # type: ignore[arg-type]  # words
        for tasks in (("cls", "patches"), *((task,) for task in TASKS[2:])):
            request = model.request(tasks=tasks)
            blank = np.zeros((*request.preprocessing.size, 3), np.uint8)
            view = next(model.prepare(blank, request).views())
            for batch in (1, 4):
                model.forward(np.stack([view] * batch), request)
    assert double.log.count("build") == built


def test_each_line_says_how_close_a_plan_is_and_how_much_of_it_is_half(
    double: Double, bundle: Bundle
) -> None:
    lines: list[str] = []
    build_plans(bundle, precisions=("fp16",), report=lines.append)
    line = next(each for each in lines if "pixels 4x28x42" in each)
    assert line.startswith(
        "tensorrt fp16: model-fp16.onnx, pixels 4x28x42, position 2x3x4 in batches of 1 to 8: "
        "largest relative difference to ONNX Runtime "
    )
    assert line.endswith(
        ", lowest cosine 1.000000; 8 % of 13 layers in half precision, 0 fused attentions"
    )
    difference = float(line.split("Runtime ")[1].split(",")[0])
    assert 0 < difference < 1e-3
    again: list[str] = []
    build_plans(bundle, precisions=("fp16",), report=again.append)
    assert again == lines
    assert double.log.count("build") == len(lines)


def test_a_precision_that_fails_does_not_end_the_others(double: Double, bundle: Bundle) -> None:
    """Of all that the bundle has for TensorRT; in its bf16 nothing is half."""
    lines: list[str] = []
    with pytest.raises(EngineError) as info:
        build_plans(bundle, report=lines.append)
    assert str(info.value) == f"{bundle.path}: not all plans for bf16 could be built"
    (failed,) = [line for line in lines if line.startswith("tensorrt bf16: ")]
    assert failed.startswith("tensorrt bf16: tensorrt is not right in bf16 on this machine: 0 % of")
    assert {line.split(":")[0] for line in lines} == {
        "tensorrt bf16",
        "tensorrt fp16",
        "tensorrt fp32",
    }
    assert not [*bundle.path.rglob("*-bf16-*")]


def test_the_plans_are_for_the_gpu_that_is_named(double: Double, bundle: Bundle) -> None:
    build_plans(bundle, precisions=("fp32",), device=1)
    assert double.cuda.device == 1
    with pytest.raises(EngineError, match="there is no GPU 2; there are NVIDIA Double 9000"):
        build_plans(bundle, device=2)


def test_what_a_machine_lacks_is_said_first(
    double: Double, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tensorrt(("bf16", "fp16"), device=1)
    with pytest.raises(EngineError, match="there is no GPU 2"):
        require_tensorrt(device=2)
    with pytest.raises(EngineError, match="tensorrt runs fp32, bf16, fp16 here; int8 needs"):
        require_tensorrt(("int8",))

    def no_driver() -> None:
        raise EngineError("this machine has no NVIDIA driver")

    monkeypatch.setattr(select, "gpus", no_driver)
    for act in (require_tensorrt, lambda: build_plans(bundle)):
        with pytest.raises(EngineError, match=r"^this machine has no NVIDIA driver$"):
            act()
    assert double.log == []
    monkeypatch.undo()
    with pytest.raises(EngineError, match="tensorrt is not installed; install it with: pip"):
        require_tensorrt()


def test_a_precision_that_the_bundle_does_not_have_is_said(
    double: Double, tiny_bundle: Path
) -> None:
    lines: list[str] = []
    with pytest.raises(EngineError, match="not all plans for bf16 could be built"):
        build_plans(open_bundle(tiny_bundle), precisions=("bf16",), report=lines.append)
    (line,) = lines
    assert "has no graph in bf16 for tensorrt; it has fp32 for it" in line
