"""`/model`: what is served here, and what it can be asked."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from clsspec_serve.choices import Task
from clsspec_serve.heads import AnyHead
from clsspec_serve.http.errors import documented
from clsspec_serve.layers import FEATURES, TASKS
from clsspec_serve.manifest import Manifest, Preprocessing
from clsspec_serve.schema import Output


class Description(BaseModel):
    """Of a bundle's manifest what matters to a client.

    `tasks`: what `/predict` accepts. `embed_dim`: numbers in an embedding. `patch_size`: pixels
    along its side. `heads`: their classes or range, and how each is evaluated.
    """

    name: str
    description: str | None
    tasks: tuple[Task, ...]
    embed_dim: int
    patch_size: int
    preprocessing: Preprocessing
    outputs: tuple[Output, ...]
    heads: tuple[AnyHead, ...]


def description(manifest: Manifest) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["operations"])
    heads = {head.task for head in manifest.heads}
    described = Description(
        name=manifest.name,
        description=manifest.description,
        tasks=tuple(task for task in TASKS if task in FEATURES or task in heads),
        embed_dim=manifest.architecture.embed_dim,
        patch_size=manifest.architecture.patch_size,
        preprocessing=manifest.preprocessing,
        outputs=manifest.outputs,
        heads=manifest.heads,
    )

    @router.get("/model", responses=documented(401))
    async def model() -> Description:
        """The model, its heads and their classes."""
        return described

    return router
