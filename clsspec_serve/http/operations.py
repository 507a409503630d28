"""`/health/live`, `/health/ready` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from clsspec_serve.http.errors import Refused, documented
from clsspec_serve.http.health import Health
from clsspec_serve.http.metrics import CONTENT_TYPE, Metrics


class State(BaseModel):
    """That the server is in a good state, and which."""

    status: str


def operations(health: Health, metrics: Metrics) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["operations"])

    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live")
    async def live() -> State:
        """Whether the process answers at all."""
        return State(status="live")

    @router.head("/health/ready", include_in_schema=False)
    @router.get("/health/ready", responses=documented(503))
    async def ready() -> State:
        """Whether requests should come here; if not, why."""
        reason = await health.reason()
        if reason is not None:
            raise Refused(503, reason)
        return State(status="ready")

    @router.get("/metrics", response_class=Response)
    async def numbers() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return router
