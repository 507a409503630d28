"""`/v2`: metadata, health and inference."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version as installed
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from clsspec_serve.http.answers import Body
from clsspec_serve.http.errors import PROTOCOL, ProtocolProblem, Refused
from clsspec_serve.http.health import Health
from clsspec_serve.http.inference_protocol.answer import answer
from clsspec_serve.http.inference_protocol.binary import HEADER
from clsspec_serve.http.inference_protocol.inference import asked_of, read_inference
from clsspec_serve.http.inference_protocol.messages import (
    VERSION,
    InferenceResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from clsspec_serve.http.inference_protocol.schema import REQUEST
from clsspec_serve.http.inference_protocol.tensors import input_tensor, output_tensors
from clsspec_serve.http.intake import Intake
from clsspec_serve.http.results import Result
from clsspec_serve.http.work import Work
from clsspec_serve.predictor import Prediction

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProtocolProblem, "description": "The request cannot be answered."},
    "5XX": {"model": ProtocolProblem, "description": "The server cannot answer."},
}


class InferenceProtocol:
    """Answers the clients of the Open Inference Protocol."""

    def __init__(self, work: Work, intake: Intake, health: Health) -> None:
        self._work, self._intake, self._health = work, intake, health
        manifest = work.service.manifest
        self._metadata = ModelMetadata(
            name=manifest.name,
            versions=[VERSION],
            platform="clsspec_bundle",
            inputs=[input_tensor()],
            outputs=output_tensors(manifest),
        )
        self._outputs = [tensor.name for tensor in self._metadata.outputs]

    def router(self) -> APIRouter:
        """The routes of the server, and those of the model with and without its version."""
        router = APIRouter(prefix=PROTOCOL)

        @router.get("")
        async def server() -> ServerMetadata:
            """The server and its extensions."""
            return ServerMetadata(
                name="clsspec",
                version=installed("clsspec-serve"),
                extensions=["binary_tensor_data"],
            )

        @router.get("/health/live")
        async def live() -> Live:
            """Whether the process answers at all."""
            return Live()

        @router.get("/health/ready")
        async def ready() -> Ready:
            """Whether requests should come here; if not, why."""
            await self._require_ready()
            return Ready()

        async def known(name: str) -> None:
            self._require_known(name, VERSION)

        async def known_version(name: str, version: str) -> None:
            self._require_known(name, version)

        of_name = self._of_model("/models/{name}", known)
        of_version = self._of_model("/models/{name}/versions/{version}", known_version)
        routers = APIRouter(tags=["Open Inference Protocol"], responses=_ERRORS)
        for each in (router, of_name, of_version):
            routers.include_router(each)
        return routers

    def _of_model(self, path: str, known: Callable[..., Awaitable[None]]) -> APIRouter:
        # All of the path is here, as the numbers of requests go by what a route itself has.
        router = APIRouter(prefix=PROTOCOL + path, dependencies=[Depends(known)])

        @router.get("")
        async def model() -> ModelMetadata:
            """The model's inputs and outputs."""
            return self._metadata

        @router.get("/ready")
        async def model_ready() -> ModelReady:
            """Whether the model answers; if not, why."""
            await self._require_ready()
            return ModelReady(name=self._metadata.name)

        @router.post(
            "/infer",
            response_class=Response,
            responses={
                200: {
                    "model": InferenceResponse,
                    "content": {
                        "application/octet-stream": {
                            "schema": {"type": "string", "format": "binary"}
                        }
                    },
                }
            },
            openapi_extra=REQUEST,
        )
        async def infer(request: Request) -> Response:
            """Outputs by their names, all unless given, of pictures that have one size."""
            return await self._infer(request)

        return router

    async def _infer(self, request: Request) -> Response:
        work, model = self._work, self._metadata.name
        async with self._intake.body(request) as body:

            async def answered() -> Body:
                inference = await work.service.in_decoder(
                    read_inference,
                    body,
                    request.headers.get(HEADER),
                    model,
                    self._outputs,
                    work.settings.pictures,
                )
                asked = asked_of(work.service, inference, work.settings.pixels)

                def write(results: Sequence[Result]) -> Body:
                    # With partly=False all of them are predictions.
                    outcomes = [each.outcome for each in results]
                    found = [each for each in outcomes if isinstance(each, Prediction)]
                    return answer(model, inference, found)

                pictures = inference.pictures
                return (await work.done(request.scope, pictures, asked, write, partly=False))[0]

            written = await work.in_time(request, answered())
        return work.response(written)

    def _require_known(self, name: str, version: str) -> None:
        if name != self._metadata.name:
            raise Refused(404, f"there is no model {name!r}; accepted is {self._metadata.name!r}")
        if version != VERSION:
            raise Refused(404, f"there is no version {version!r}; accepted is {VERSION!r}")

    async def _require_ready(self) -> None:
        reason = await self._health.reason()
        if reason is not None:
            raise Refused(503, reason)
