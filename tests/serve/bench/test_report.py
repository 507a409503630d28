from __future__ import annotations

import json
from dataclasses import replace

import pytest

from clsspec_serve.bench.machine import Machine
from clsspec_serve.bench.preprocessing import Preprocessing
from clsspec_serve.bench.report import Failure, Report
from clsspec_serve.bench.row import Ceiling, Row
from clsspec_serve.bench.times import Times

ROW = Row(
    engine="openvino",
    precision="bf16",
    size=(224, 448),
    batch=8,
    gflop=10.0,
    gpu=None,
    times=Times([[0.5, 0.25], [1.0, 0.5]]),
    twin=Times([[0.25, 0.25], [1.0, 0.5]]),
    ceiling=Ceiling("onnxruntime", (1024, 768, 3072), 400e9),
)
REPORT = Report(
    model="toy",
    path="models/toy",
    architecture="vit_toy_clsspec",
    machine=Machine("Abacus", 2, None, {"clsspec-serve": "0.1.0", "openvino": "2026.4.1"}),
    rows=(ROW,),
    failures=(Failure("cuda", "fp32", "this machine has no NVIDIA driver"),),
    preprocessing=(Preprocessing((400, 600), (224, 448), Times([[0.004]])),),
    seconds=12.5,
)


def test_rates_are_by_the_median_and_the_share_by_the_shortest_run() -> None:
    assert ROW.images_per_second == 8 / 0.5
    assert ROW.flops == 10e9 * 8 / 0.25
    assert ROW.share == 320 / 400
    assert replace(ROW, ceiling=None).share is None


def test_the_ratio_over_the_twin_is_the_median_of_the_rounds() -> None:
    facts = ROW.to_dict()
    assert facts["twin_ratio"] == (0.375 / 0.25 + 1) / 2
    assert facts["twin_ratio_quartiles"] is None
    long = replace(ROW, times=Times([[1.1]] * 5), twin=Times([[1.0]] * 5))
    assert long.to_dict()["twin_ratio_quartiles"] == pytest.approx((1.1, 1.1))


def test_machines_get_everything() -> None:
    facts = json.loads(json.dumps(REPORT.to_dict(), allow_nan=False))
    assert {*facts} == {
        *("model", "path", "architecture", "timed", "machine", "rows", "not_run"),
        *("preprocessing", "seconds"),
    }
    assert facts["rows"] == [
        {
            "engine": "openvino",
            "precision": "bf16",
            "gpu": None,
            "size": [224, 448],
            "batch": 8,
            "rounds": 2,
            "runs": 4,
            "latency_ms": {"p50": 500, "p90": None, "p99": None},
            "images_per_second": 16,
            "gflop_per_image": 10,
            "best_gflop_per_second": 320,
            "ceiling_share": 0.8,
            "ceiling": {
                "engine": "onnxruntime",
                "products": [1024, 768, 3072],
                "best_gflop_per_second": 400,
            },
            "twin_latency_ms": {"p50": 375, "p90": None, "p99": None},
            "twin_ratio": 1.25,
            "twin_ratio_quartiles": None,
        }
    ]
    assert facts["not_run"] == [
        {"engine": "cuda", "precision": "fp32", "reason": "this machine has no NVIDIA driver"}
    ]
    assert facts["preprocessing"] == [
        {
            "picture": [400, 600],
            "size": [224, 448],
            "runs": 1,
            "latency_ms": {"p50": 4, "p90": None, "p99": None},
            "images_per_second": 250,
        }
    ]
    assert facts["machine"]["cores"] == 2


def test_what_was_not_measured_is_null() -> None:
    facts = replace(ROW, twin=None, ceiling=None).to_dict()
    lacking = {name for name, value in facts.items() if value is None}
    assert lacking == {
        *("gpu", "ceiling", "ceiling_share"),
        *("twin_latency_ms", "twin_ratio", "twin_ratio_quartiles"),
    }


def test_people_get_a_table() -> None:
    lines = REPORT.lines()
    assert lines[0] == "model    toy (vit_toy_clsspec), models/toy"
    assert lines[1] == "machine  Abacus, cores: 2; clsspec-serve 0.1.0, openvino 2026.4.1"
    assert lines[2].startswith("timed    one forward pass, from pixels (uint8) to [CLS] and patch")
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:7:2]] == [
        [
            *("engine", "size", "batch", "ms", "p90", "p99", "images/s", "of ceiling"),
            *("twin ms", "over twin", "quartiles"),
        ],
        [
            *("openvino bf16", "224x448", "8", "500", "-", "-", "16.0", "80 %"),
            *("375", "1.250", "-"),
        ],
    ]
    assert len({len(line) for line in lines[4:7]}) == 1
    assert lines[8:] == [
        "ceiling of bf16: 400 GFLOP/s, by onnxruntime in products of 1024x768x3072; shares are of "
        "the shortest runs",
        "preprocessing: 4.00 ms for a JPEG of 400x600 to 224x448, 250 images/s on one core",
        "cuda fp32: not run: this machine has no NVIDIA driver",
    ]


def test_without_a_twin_the_table_says_nothing_of_it() -> None:
    lines = replace(REPORT, rows=(replace(ROW, twin=None),)).lines()
    assert "twin" not in "\n".join(lines)


def test_where_nothing_ran_there_is_no_table() -> None:
    lines = replace(REPORT, rows=(), preprocessing=()).lines()
    assert lines[3:] == ["cuda fp32: not run: this machine has no NVIDIA driver"]


def test_the_best_ceiling_of_each_precision_and_device_is_named() -> None:
    lower = replace(ROW, ceiling=Ceiling("openvino", (64, 64, 64), 300e9))
    gpu = replace(ROW, gpu="NVIDIA Double (cuda:0)", ceiling=Ceiling("cuda", (8, 8, 8), 9e12))
    lines = replace(REPORT, rows=(lower, ROW, lower, gpu)).lines()
    assert [line.partition(", by")[0] for line in lines if line.startswith("ceiling")] == [
        "ceiling of bf16: 400 GFLOP/s",
        "ceiling of bf16 on NVIDIA Double (cuda:0): 9000 GFLOP/s",
    ]
    assert lines[2] == "gpu      NVIDIA Double (cuda:0)"


def test_a_share_beyond_all_is_called_what_it_is() -> None:
    warning = "a share beyond 100 %: other work kept the machine from its ceiling; "
    assert warning not in "\n".join(REPORT.lines())
    beyond = replace(ROW, ceiling=Ceiling("openvino", (64, 64, 64), 300e9))
    assert warning in "\n".join(replace(REPORT, rows=(beyond,)).lines())


def test_percentiles_are_given_where_there_are_runs_enough() -> None:
    facts = replace(ROW, times=Times([[n / 1000 for n in range(1, 101)]]), twin=None).to_dict()
    assert facts["latency_ms"] == {"p50": 50.5, "p90": 90, "p99": 99}
