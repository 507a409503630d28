"""`/v1/embeddings` and `/v1/models`: pictures for the clients of OpenAI's API."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from clsspec_serve.http.answers import Body
from clsspec_serve.http.errors import Refused, documented
from clsspec_serve.http.intake import Intake, Picture, pictures_in
from clsspec_serve.http.json_request import read_json
from clsspec_serve.http.results import Result
from clsspec_serve.http.work import Work
from clsspec_serve.images import ImageLimits
from clsspec_serve.predictor import Prediction

Encoding = Literal["float", "base64"]


class EmbeddingRequest(BaseModel):
    """Pictures where OpenAI has texts: each in base64, or as a `data:` URI.

    `dimensions`: the model's width, which is all that it has. `base64`: of little-endian float32.
    `user`: a label that the protocol lets clients add for their own books; no answer depends on it.
    """

    model_config = ConfigDict(extra="forbid")

    input: str | list[str]
    model: str = Field(max_length=256)
    encoding_format: Encoding = "float"
    dimensions: int | None = None
    user: str | None = None


class Embedding(BaseModel):
    """Of the picture at `index` in the input."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Pictures have no tokens."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingList(BaseModel):
    """The embeddings, in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage = Usage()


class ModelCard(BaseModel):
    """The model by the name that requests give. `created`: 0, as bundles have no date."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "clsspec"


class ModelList(BaseModel):
    """The one model of this server."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAI:
    """Answers the clients of OpenAI's API."""

    def __init__(self, work: Work, intake: Intake) -> None:
        self._work, self._intake = work, intake
        self._name = work.service.manifest.name
        self._width = work.service.manifest.architecture.embed_dim

    def router(self) -> APIRouter:
        """The three routes."""
        router = APIRouter(prefix="/v1", tags=["OpenAI"])
        schema = EmbeddingRequest.model_json_schema()

        @router.post(
            "/embeddings",
            response_class=Response,
            responses={
                200: {"model": EmbeddingList},
                **documented(401, 404, 408, 413, 422, 424, 429, 503, 504),
            },
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": schema}},
                }
            },
        )
        async def embeddings(request: Request) -> Response:
            """The [CLS] embeddings of pictures, as they come from the model: not normalised."""
            return await self._embeddings(request)

        @router.get("/models", responses=documented(401))
        async def models() -> ModelList:
            """The model's name."""
            return ModelList(data=[ModelCard(id=self._name)])

        @router.get("/models/{name}", responses=documented(401, 404, 422))
        async def model(name: str) -> ModelCard:
            """Whether the model is here."""
            self._require(name)
            return ModelCard(id=self._name)

        return router

    async def _embeddings(self, request: Request) -> Response:
        work = self._work
        limits = ImageLimits(work.settings.pixels)
        asked = work.service.request({"tasks": ("cls",), "limits": limits})
        async with self._intake.body(request) as body:

            async def answered() -> Body:
                pictures, encoding = await work.service.in_decoder(self._read, body)

                def write(results: Sequence[Result]) -> Body:
                    # With partly=False all of them are predictions.
                    outcomes = [each.outcome for each in results]
                    found = [each.cls for each in outcomes if isinstance(each, Prediction)]
                    return self._written(found, encoding)

                return (await work.done(request.scope, pictures, asked, write, partly=False))[0]

            answer = await work.in_time(request, answered())
        return work.response(answer)

    def _read(self, body: bytes) -> tuple[list[Picture], Encoding]:
        given = read_json(EmbeddingRequest, body)
        self._require(given.model)
        if given.dimensions not in (None, self._width):
            raise Refused(422, f"dimensions {given.dimensions}; accepted are {self._width}")
        texts = [given.input] if isinstance(given.input, str) else given.input
        return pictures_in(texts, self._work.settings.pictures), given.encoding_format

    def _require(self, name: str) -> None:
        if name != self._name:
            raise Refused(404, f"there is no model {name!r}; accepted is {self._name!r}")

    def _written(self, embeddings: Sequence[NDArray[np.float32]], encoding: Encoding) -> Body:
        data = [
            Embedding(index=index, embedding=_encoded(embedding, encoding))
            for index, embedding in enumerate(embeddings)
        ]
        answer = EmbeddingList(data=data, model=self._name)
        return Body(answer.model_dump_json().encode(), "application/json")


def _encoded(embedding: NDArray[np.float32], encoding: Encoding) -> Any:
    if encoding == "base64":
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    return embedding.tolist()
