"""`/embed`, `/features`, `/segment`, `/depth` and `/predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from clsspec_serve.choices import Form, Task
from clsspec_serve.http import options
from clsspec_serve.http.answers import ALONE, Body, Writer, check_form
from clsspec_serve.http.errors import Refused, documented
from clsspec_serve.http.intake import BODIES, Intake, Picture, is_raw, pictures_of
from clsspec_serve.http.negotiation import MEDIA_TYPES, choose
from clsspec_serve.http.results import Result
from clsspec_serve.http.work import Work
from clsspec_serve.layers import FEATURES

PARTLY = 207
"""The status when some of several pictures failed (RFC 4918)."""
_EMBED: tuple[Form, ...] = ("json", "npy", "npz", "safetensors")
_FEATURES: tuple[Form, ...] = ("npz", "npy", "safetensors", "json", "png")
_MAP: tuple[Form, ...] = ("png", "npy", "npz", "safetensors", "json")
_PREDICT: tuple[Form, ...] = ("npz", "safetensors", "json")


class Tasks:
    """Answers requests for tasks."""

    def __init__(self, work: Work, intake: Intake) -> None:
        self._work, self._intake = work, intake
        self._manifest = work.service.manifest
        self._writer = Writer(self._manifest.name, self._manifest.heads)

    def router(self) -> APIRouter:
        """The five routes."""
        router = APIRouter(tags=["tasks"])
        heads = tuple(head.task for head in self._manifest.heads)

        @router.post("/embed", **_documents(_EMBED))
        async def embed(request: Request, query: Annotated[options.Features, Query()]) -> Response:
            """The [CLS] embedding of pictures."""
            return await self._answer(request, query, ("cls",), _EMBED)

        @router.post("/features", **_documents(_FEATURES))
        async def features(
            request: Request, query: Annotated[options.DenseFeatures, Query()]
        ) -> Response:
            """The [CLS] embedding and the patch map of pictures; as PNG the map's PCA."""
            form = self._form(request, query.format, _FEATURES)
            default: tuple[Task, ...] = ("patches",) if form in ALONE else FEATURES
            tasks = options.tasks_of(query.tasks, default)
            others = [task for task in tasks if task not in FEATURES]
            if others:
                raise Refused(422, f"{others[0]} is no feature; POST /predict has all tasks")
            return await self._answer(request, query, tasks, _FEATURES)

        @router.post("/segment", **_documents(_MAP))
        async def segment(request: Request, query: Annotated[options.Windows, Query()]) -> Response:
            """The class of every pixel; as PNG indexed, with a palette."""
            return await self._answer(request, query, ("segment",), _MAP)

        @router.post("/depth", **_documents(_MAP))
        async def depth(request: Request, query: Annotated[options.Depth, Query()]) -> Response:
            """The depth of every pixel; as PNG in 16 bits, metres times `Clsspec-Depth-Scale`."""
            return await self._answer(request, query, ("depth",), _MAP)

        @router.post("/predict", **_documents(_PREDICT))
        async def predict(
            request: Request, query: Annotated[options.Everything, Query()]
        ) -> Response:
            """Several tasks from one decode and one forward pass."""
            tasks = options.tasks_of(query.tasks, (*FEATURES, *heads))
            return await self._answer(request, query, tasks, _PREDICT)

        return router

    async def _answer(
        self,
        request: Request,
        query: options.Shown,
        tasks: tuple[Task, ...],
        forms: Sequence[Form],
    ) -> Response:
        options.refuse_repeated(request.query_params.multi_items())
        delivery = query.delivery()
        work = self._work
        asked = work.service.request(query.options(tasks, work.settings.pixels))
        async with self._intake.body(request) as body:

            async def answered() -> tuple[Body, bool]:
                kind = request.headers.get("content-type", "")
                pictures = await self._pictures(kind, body)
                several = len(pictures) > 1
                left = [form for form in forms if not (several and form in ALONE)]
                reason = " for several pictures" if len(left) < len(forms) else ""
                form = self._form(request, query.format, left, reason)
                check_form(form, asked, delivery)

                def write(results: Sequence[Result]) -> Body:
                    return self._writer.write(results, form, delivery)

                return await work.done(request.scope, pictures, asked, write, partly=True)

            answer, whole = await work.in_time(request, answered())
        return work.response(answer, 200 if whole else PARTLY)

    async def _pictures(self, kind: str, body: bytes) -> list[Picture]:
        settings = self._work.settings
        if is_raw(kind):
            return pictures_of(kind, body, settings)
        # There is something to be parsed, which may be long.
        return await self._work.service.in_decoder(pictures_of, kind, body, settings)

    @staticmethod
    def _form(
        request: Request, asked: Form | None, forms: Sequence[Form], reason: str = ""
    ) -> Form:
        return choose(asked, request.headers.get("accept"), forms, reason)


def _documents(forms: Sequence[Form]) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {
        MEDIA_TYPES[form]: {"schema": {"type": "object"}} if form == "json" else binary
        for form in forms
    }
    answers = {
        200: {"description": "Every picture was answered.", "content": content},
        PARTLY: {"description": "Some of several pictures were answered.", "content": content},
    }
    errors = documented(400, 401, 406, 408, 413, 415, 422, 424, 429, 503, 504)
    return {
        "response_class": Response,
        "responses": {**answers, **errors},
        "openapi_extra": BODIES,
    }
