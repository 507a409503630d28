"""What the server tells of itself: times, numbers, and its log."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Running, colour_bundle, observed, serving
from pictures import PHOTO, encoded
from prometheus_client.parser import text_string_to_metric_families

from clsspec_serve.engines.protocol import Values
from clsspec_serve.http.logs import JsonLines

PICTURE = encoded(PHOTO, "JPEG")


class Breakable:
    broken = False

    def __call__(self, inputs: Values) -> None:
        if self.broken:
            raise ZeroDivisionError("a secret of the engine")


@pytest.fixture
def engine() -> Breakable:
    return Breakable()


@pytest.fixture
def server(tmp_path: Path, engine: Breakable) -> Iterator[Running]:
    with serving([observed(colour_bundle(tmp_path / "colours"), engine)]) as running:
        yield running


def numbers(server: Running) -> dict[tuple[str, ...], float]:
    """All samples by name and label values."""
    text = server.client.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_times_of_a_request_stand_in_its_header(server: Running) -> None:
    answer = server.client.post("/depth", content=PICTURE)
    header = answer.headers["server-timing"]
    parts = re.fullmatch(
        r"decode;dur=([\d.]+), queue;dur=([\d.]+), model;dur=([\d.]+), encode;dur=([\d.]+)", header
    )
    assert parts is not None, header
    milliseconds = [float(part) for part in parts.groups()]
    assert all(0 <= part < 10_000 for part in milliseconds)
    assert sum(milliseconds) <= 1000 * answer.elapsed.total_seconds() + 0.05


def test_requests_pictures_parts_and_batches_are_counted(server: Running) -> None:
    before = numbers(server)
    server.client.post("/depth", content=PICTURE)
    files = [("file", ("a", PICTURE)), ("file", ("b", b"no picture"))]
    server.client.post("/embed", files=files)
    server.client.post("/embed", content=b"no picture")
    server.client.get("/nothing")
    after = numbers(server)

    def more(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert more("clsspec_requests_total", "/depth", "200") == 1
    assert more("clsspec_requests_total", "/embed", "207") == 1
    assert more("clsspec_requests_total", "/embed", "422") == 1
    assert more("clsspec_requests_total", "none", "404") == 1
    assert more("clsspec_request_seconds_count", "/embed") == 2
    assert more("clsspec_pictures_total", "answered") == 2
    assert more("clsspec_pictures_total", "failed") == 2
    for part in ("decode", "queue", "model", "encode"):
        assert more("clsspec_part_seconds_count", part) == 2
    assert more("clsspec_batch_views_sum") == 2
    assert more("clsspec_batch_seconds_count") == 2


def test_paths_that_do_not_exist_make_no_new_numbers(server: Running) -> None:
    for index in range(20):
        server.client.get(f"/nothing/{index}")
    routes = {key[1] for key in numbers(server) if key[0] == "clsspec_requests_total"}
    assert routes <= {"none", "/metrics"}


def fields(caplog: pytest.LogCaptureFixture, logger: str) -> list[dict[str, object]]:
    """What a logger has said; a line about a request comes a little after its answer."""
    deadline = time.monotonic() + 5
    while not (found := [record for record in caplog.records if record.name == logger]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [json.loads(JsonLines().format(record)) for record in found]


def test_each_request_is_a_line_of_json(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    server.client.get("/health/live")
    answer = server.client.post("/depth", content=PICTURE, headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    (line,) = fields(caplog, "clsspec.access")  # health is asked every second, and tells nothing
    assert line["request_id"] == "mine"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/depth", 200)
    assert line["client"] == "127.0.0.1"
    assert line["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line["time"]))
    for part in ("decode", "queue", "model", "encode"):
        assert isinstance(line[f"{part}_seconds"], float)


def test_what_nobody_foresaw_stands_in_the_log_and_not_in_the_answer(
    server: Running, engine: Breakable, caplog: pytest.LogCaptureFixture
) -> None:
    engine.broken = True
    answer = server.client.post("/embed", content=PICTURE)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["message"] == "the server failed; its log says why, under this request_id"
    assert "secret" not in answer.text
    with caplog.at_level(logging.INFO):
        (line,) = [
            line
            for line in fields(caplog, "clsspec.server")
            if line.get("request_id") == error["request_id"]
        ]
    assert "ZeroDivisionError: a secret of the engine" in str(line["traceback"])


def test_a_line_of_the_log_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "two\nlines \x1b[31m", (), None)
    text = JsonLines().format(record)
    assert "\n" not in text
    assert "\x1b" not in text
    assert json.loads(text)["message"] == "two\nlines \x1b[31m"
