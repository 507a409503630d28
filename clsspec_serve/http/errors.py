"""Which status an error has, and the one body that all of them come in."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from clsspec_serve.errors import (
    Busy,
    ClsspecError,
    ImageError,
    ImageTooLarge,
    Stopped,
    UsageError,
    one_line,
)

PROTOCOL = "/v2"
"""Under it all is as the Open Inference Protocol has it, the body and the status of errors too."""
UNFORESEEN = "the server failed; its log says why, under this request_id"
_LONGEST = 1000
"""Letters of a message, which may quote what a client sent."""
RETRY_AFTER = 1
"""Seconds that a client is asked to wait where there is too much to do."""

_KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (ImageTooLarge, 413, "image_too_large"),
    (ImageError, 422, "invalid_image"),
    (UsageError, 422, "invalid_request"),
    (Busy, 429, "busy"),
    (Stopped, 503, "shutting_down"),
    (TimeoutError, 504, "timeout"),
)
_OF_STATUS = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    424: "not_fetched",
    429: "busy",
    431: "too_large",
    503: "unavailable",
    504: "timeout",
}


class Refused(ClsspecError):
    """A request that is wrong as HTTP, with the status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Problem(BaseModel):
    """What went wrong: a word for programs, a sentence for people, and the request's id."""

    type: str
    message: str
    request_id: str


class ProblemBody(BaseModel):
    """The body of every answer that is no success."""

    error: Problem


class ProtocolProblem(BaseModel):
    """The same for clients of the Open Inference Protocol, whose `error` is the sentence."""

    error: str
    type: str
    request_id: str


def status_of(error: Exception) -> int:
    """The HTTP status of an error; 500 for what nobody foresaw."""
    if isinstance(error, Refused | HTTPException):
        return error.status if isinstance(error, Refused) else error.status_code
    return next((status for kind, status, _ in _KINDS if isinstance(error, kind)), 500)


def describe(error: Exception, request_id: str) -> Problem:
    """An error as clients see it; of what nobody foresaw only that it happened."""
    status = status_of(error)
    word = next((word for kind, _, word in _KINDS if isinstance(error, kind)), None)
    if isinstance(error, HTTPException):
        message = str(error.detail)
    elif status == 500 and not isinstance(error, ClsspecError):
        message = UNFORESEEN
    elif isinstance(error, TimeoutError):
        message = "the time for an answer was up"
    else:
        message = one_line(error)
    return Problem(
        type=word or _OF_STATUS.get(status, "internal_error"),
        message=message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...",
        request_id=request_id,
    )


def problem_response(error: Exception, scope: Scope) -> Response:
    """The answer to a request that failed."""
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    if status == 408:
        headers["Connection"] = "close"  # the rest of the body may still come
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException):
        headers |= dict(error.headers or {})
    problem = describe(error, scope["request_id"])
    if f"{scope['path']}/".startswith(f"{PROTOCOL}/"):
        flat = ProtocolProblem(
            error=problem.message, type=problem.type, request_id=problem.request_id
        )
        # The protocol knows no 422.
        return JSONResponse(flat.model_dump(), 400 if status == 422 else status, headers)
    return JSONResponse(ProblemBody(error=problem).model_dump(), status, headers)


def install(app: FastAPI) -> None:
    """Let all errors of an application come in that body."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = Refused(422, _first_problem(error))
        return problem_response(error, request.scope)

    for kind in (ClsspecError, TimeoutError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses for these statuses."""
    return {
        status: {"model": ProblemBody, "description": _OF_STATUS[status]} for status in statuses
    }


def _first_problem(error: RequestValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "extra_forbidden":
        return f"there is no option {name} here; /docs has those of every route"
    given = first.get("input")
    words = f"{first['msg']}, not {given!r}" if isinstance(given, str) else str(first["msg"])
    return f"{name}: {words}" if name else words
