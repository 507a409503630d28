"""The application: a service, its routes and what is around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from clsspec_serve.http.errors import install
from clsspec_serve.http.health import Health
from clsspec_serve.http.intake import Intake
from clsspec_serve.http.keys import Keys
from clsspec_serve.http.metrics import Metrics
from clsspec_serve.http.observation import Observation
from clsspec_serve.http.operations import operations
from clsspec_serve.http.settings import Settings
from clsspec_serve.http.tasks import Tasks
from clsspec_serve.http.work import Work
from clsspec_serve.predictor import Model
from clsspec_serve.service import Capacity, Service


def create_app(models: Sequence[Model], capacity: Capacity, settings: Settings) -> FastAPI:
    """An ASGI application that serves a bundle; `models` are the same one, on each engine.

    `app.state.health` is its `Health`.
    """
    metrics = Metrics()
    service = Service(models, capacity, metrics.batch)
    health = Health(service)
    intake = Intake(settings)
    work = Work(service, settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(health.warm_up())
        yield
        health.drain()
        await warming
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="clsspec",
        summary=f"Features, masks and depth of pictures, by {service.manifest.name}.",
        version=version("clsspec-serve"),
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.health = health
    install(app)
    app.include_router(operations(health, metrics))
    app.include_router(Tasks(work, intake).router())
    if settings.keys:
        app.add_middleware(Keys, keys=settings.keys)
    app.add_middleware(Observation, metrics=metrics)
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "pictures_in_work": ("Pictures taken and not answered.", lambda: service.pictures),
        "views_waiting": ("Views that wait for an engine.", lambda: service.batcher.waiting),
        "decoded_bytes": ("Memory set aside for pictures.", lambda: service.decoded.used),
        "body_bytes": ("Of the bodies of requests in work.", lambda: intake.bytes),
    }
    for name, (meaning, value) in gauges.items():
        metrics.gauge(name, meaning, value)
    return app
