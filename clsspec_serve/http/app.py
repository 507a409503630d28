"""The application: a service, its routes and what is around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from clsspec_serve.http.description import description
from clsspec_serve.http.document import describe_keys, documented_app
from clsspec_serve.http.errors import install
from clsspec_serve.http.health import Health
from clsspec_serve.http.inference_protocol.routes import InferenceProtocol
from clsspec_serve.http.intake import Intake
from clsspec_serve.http.keys import Keys
from clsspec_serve.http.metrics import Metrics
from clsspec_serve.http.observation import QUIET, Observation
from clsspec_serve.http.openai import OpenAI
from clsspec_serve.http.operations import operations
from clsspec_serve.http.playground.router import playground
from clsspec_serve.http.remote.links import Links
from clsspec_serve.http.settings import Settings
from clsspec_serve.http.tasks import Tasks
from clsspec_serve.http.tracing import telemetry
from clsspec_serve.http.work import Work
from clsspec_serve.predictor import Model
from clsspec_serve.service import Capacity, Service


def create_app(models: Sequence[Model], capacity: Capacity, settings: Settings) -> FastAPI:
    """An ASGI application that serves a bundle; `models` are the same one, on each engine.

    `app.state.health` is its `Health`. Raises `UsageError` for settings that cannot be.
    """
    intake = Intake(settings)
    links = Links(settings, intake.quota)
    metrics = Metrics()
    service = Service(models, capacity, metrics.batch)
    health = Health(service)
    work = Work(service, settings, metrics, links)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(health.warm_up())
        yield
        health.drain()
        await warming
        await asyncio.to_thread(service.close)

    app = documented_app(lifespan=lifespan, telemetry=telemetry(QUIET))
    app.state.health = health
    install(app)
    # Routes are tried in this order, so the ones in a hurry come first.
    app.include_router(Tasks(work, intake).router())
    app.include_router(playground())
    app.include_router(description(service.manifest))
    app.include_router(operations(health, metrics))
    app.include_router(OpenAI(work, intake).router())
    app.include_router(InferenceProtocol(work, intake, health).router())
    if settings.keys:
        app.add_middleware(Keys, keys=settings.keys)
        describe_keys(app)
    app.add_middleware(Observation, metrics=metrics)
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "pictures_in_work": ("Pictures taken and not answered.", lambda: service.pictures),
        "views_waiting": ("Views that wait for an engine.", lambda: service.batcher.waiting),
        "decoding_bytes": ("For pictures in decoding.", lambda: service.decoding.used),
        "found_bytes": ("For what is shown to the network and found.", lambda: service.kept.used),
        "body_bytes": ("Of bodies, and of pictures fetched, in work.", lambda: intake.quota.used),
        "answer_bytes": ("Of the bodies that are being sent.", lambda: work.answers.used),
    }
    for name, (meaning, value) in gauges.items():
        metrics.gauge(name, meaning, value)
    return app
