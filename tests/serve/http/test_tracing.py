"""Spans as the SDK of OpenTelemetry receives them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from http_server import Running, observed, serving
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from pictures import PHOTO, encoded

from clsspec_serve import load
from clsspec_serve.engines.protocol import Values

PICTURE = encoded(PHOTO, "JPEG")
SECONDS = 20
SLACK = 50_000_000
"""Nanoseconds that may pass between two looks, at two clocks, on a busy machine."""
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process can be given only one, once.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


@pytest.fixture
def server(spans: InMemorySpanExporter, bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)]) as running:
        yield running


def of_request(spans: InMemorySpanExporter) -> ReadableSpan:
    """The server's span, which ends a moment after the client has its answer."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for span in spans.get_finished_spans():
            if span.kind is SpanKind.SERVER:
                return span
        time.sleep(0.01)
    pytest.fail("no span of a request")


def parts_of(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    parent = of_request(spans).context
    found = [span for span in spans.get_finished_spans() if span.kind is SpanKind.INTERNAL]
    assert [span.parent for span in found] == [parent] * len(found)
    return sorted(found, key=began)


def began(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def ended(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    """The one request's line in the log."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        lines = [record for record in caplog.records if record.name == "clsspec.access"]
        if lines:
            (line,) = lines
            fields: dict[str, object] = line.__dict__["fields"]
            return fields
        time.sleep(0.01)
    pytest.fail("no line in the log")


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def test_a_request_is_a_span_as_the_conventions_have_it(
    server: Running, spans: InMemorySpanExporter
) -> None:
    server.client.post("/segment?format=png", content=PICTURE)
    span = of_request(spans)
    assert span.name == "POST /segment"
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert (
        dict(span.attributes or {}).items()
        >= {
            "http.request.method": "POST",
            "http.route": "/segment",
            "http.response.status_code": 200,
            "url.scheme": "http",
            "url.path": "/segment",
            "url.query": "format=png",
        }.items()
    )


def test_its_parts_are_spans_with_their_own_times(
    server: Running, spans: InMemorySpanExporter
) -> None:
    answer = server.client.post("/segment", content=PICTURE)
    parts = parts_of(spans)
    assert names(parts) == ["decode", "queue", "model", "encode"]
    request = of_request(spans)
    assert began(request) - SLACK <= began(parts[0])
    assert ended(parts[-1]) <= ended(request) + SLACK
    for before, after in pairwise(parts):
        assert began(before) <= ended(before) <= began(after) + 10
    # Work begins as soon as the queue ends.
    assert abs(began(parts[2]) - ended(parts[1])) <= 10
    said = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    for part in parts:
        assert (ended(part) - began(part)) / 1e6 == pytest.approx(float(said[part.name]), abs=0.01)


def test_the_model_s_span_is_as_long_as_its_work(spans: InMemorySpanExporter, bundle: Path) -> None:
    def slow(inputs: Values) -> None:
        time.sleep(0.2)

    with serving([observed(bundle, slow)]) as server:
        server.client.post("/segment", content=PICTURE)
    lengths = {part.name: ended(part) - began(part) for part in parts_of(spans)}
    assert lengths["model"] > 200_000_000 > lengths["queue"]


def test_each_picture_has_spans_of_its_own(server: Running, spans: InMemorySpanExporter) -> None:
    server.client.post("/embed", files=[("file", PICTURE), ("file", b"none"), ("file", PICTURE)])
    found = sorted(names(parts_of(spans)))
    assert found == ["decode", "decode", "encode", "model", "model", "queue", "queue"]


def test_a_trace_goes_on_that_began_elsewhere(
    server: Running, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    server.client.post("/embed", content=PICTURE, headers=headers)
    parent = of_request(spans).parent
    assert parent is not None
    assert (format_trace_id(parent.trace_id), format_span_id(parent.span_id)) == (TRACE, SPAN)
    found = {format_trace_id(span.context.trace_id) for span in spans.get_finished_spans()}
    assert found == {TRACE}
    assert logged(caplog)["trace_id"] == TRACE


def test_a_trace_that_begins_here_stands_in_the_log(
    server: Running, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.client.post("/embed", content=b"none")
    assert logged(caplog)["trace_id"] == format_trace_id(of_request(spans).context.trace_id)


def test_what_the_caller_does_not_sample_is_not_recorded(
    server: Running, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    assert server.client.post("/embed", content=PICTURE, headers=headers).status_code == 200
    assert logged(caplog)["trace_id"] == TRACE
    assert spans.get_finished_spans() == ()


def test_a_failure_of_the_server_is_an_error(spans: InMemorySpanExporter, bundle: Path) -> None:
    def fail(inputs: Values) -> None:
        raise ZeroDivisionError

    with serving([observed(bundle, fail)]) as server:
        assert server.client.post("/embed", content=PICTURE).status_code == 500
        span = of_request(spans)
        assert span.status.status_code is StatusCode.ERROR
        spans.clear()
        server.client.post("/embed", content=b"none")
        assert of_request(spans).status.status_code is StatusCode.UNSET


def test_probes_leave_no_spans(server: Running, spans: InMemorySpanExporter) -> None:
    name = server.client.get("/model").json()["name"]
    assert of_request(spans).name == "GET /model"
    spans.clear()
    probes = ("/health/live", "/health/ready", "/metrics", "/v2/health/live")
    for path in (*probes, f"/v2/models/{name}/ready"):
        assert server.client.get(path).status_code == 200
    server.client.get("/model")
    assert of_request(spans).name == "GET /model"
    assert len(spans.get_finished_spans()) == 1


def test_without_a_provider_there_is_no_trace(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving([load(bundle, threads=1)]) as server:
        assert server.client.post("/embed", content=PICTURE).status_code == 200
        assert "trace_id" not in logged(caplog)
