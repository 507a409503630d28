"""The parts of a request as spans of OpenTelemetry, and the trace that they belong to.

The request's own span is FastAPI's, in the trace that its headers name. There is one when the
process has a provider: from `opentelemetry-instrument clsspec serve`, or, where the SDK and its
exporter are installed, with FASTAPI_OTEL_AUTO_CONFIGURE=true and OTEL_EXPORTER_OTLP_ENDPOINT.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from importlib.metadata import version
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.routing import compile_path

from clsspec_serve.http.times import Times


def telemetry(quiet: Sequence[str]) -> TelemetryConfig:
    """For FastAPI: nothing of these routes, and no spans of its own within a request's."""
    patterns = [compile_path(route)[0] for route in quiet]

    def exclude(scope: MutableMapping[str, Any]) -> bool:
        return any(pattern.match(scope["path"]) for pattern in patterns)

    return {"exclude": exclude, "operation_spans": False}


def trace_id() -> str | None:
    """Of the request in work, 32 hexadecimal digits; None where nothing is traced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def record(times: Times) -> None:
    """Let the parts be spans; before the answer is sent, as its end is that of the request's."""
    if not trace.get_current_span().is_recording():
        return
    tracer = trace.get_tracer("clsspec_serve", version("clsspec-serve"))
    since_epoch = time.time_ns() - time.monotonic_ns()
    for part in times.parts:
        start = since_epoch + int(1e9 * part.start)
        span = tracer.start_span(part.name, start_time=start)
        span.end(start + int(1e9 * part.seconds))
