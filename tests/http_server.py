"""Real servers on loopback, in a thread of the test's process, with models made for tests."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from head_bundle import classify_head, depth_head, nearest_colour_head, write_head_bundle
from numpy.typing import NDArray

from clsspec_serve import Model, load
from clsspec_serve.engines.protocol import Engine, Values
from clsspec_serve.http.app import create_app
from clsspec_serve.http.server import Server, listen
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@dataclass(frozen=True)
class Running:
    """A server that answers at `url`; `stop` sends it what SIGTERM would."""

    url: str
    client: httpx.Client
    stop: Callable[[], None]


@contextmanager
def serving(
    models: Sequence[Model], capacity: Capacity | None = None, settings: Settings | None = None
) -> Iterator[Running]:
    """A server that is ready."""
    chosen = settings or Settings()
    app = create_app(models, capacity or Capacity(threads=2), chosen)
    listener = listen("127.0.0.1", 0)
    server = Server(app, chosen)
    thread = Thread(target=server.run, args=([listener],))
    thread.start()

    def stop() -> None:
        server.handle_exit(signal.SIGTERM, None)

    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {chosen.keys[0]}"} if chosen.keys else {}
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
        try:
            while not app.state.health.warmed_up.is_set():
                app.state.health.warmed_up.wait(0.01)
                if not thread.is_alive():
                    raise RuntimeError("the server ended before it was ready")
            yield Running(url, client, stop)
        finally:
            if not server.should_exit:
                stop()
            thread.join(60)
            if thread.is_alive():
                raise RuntimeError("the server did not stop")


def colour_bundle(folder: Path) -> Path:
    """A bundle with three heads: the nearest of `COLOURS`, depth by brightness, and a class.

    Depth is a 50th of the mean of red, in metres; see `head_bundle`.
    """
    heads = [
        nearest_colour_head(COLOURS),
        depth_head([1 / 50, 0, 0, 0]),
        classify_head(["dark", "bright"], [[-1, 1]] * 3 + [[0, 0]], [300, -300]),
    ]
    return write_head_bundle(folder, heads)


class Wrapped:
    """An engine that runs another one, after `before` has seen the inputs."""

    def __init__(self, engine: Engine, before: Callable[[Values], None]) -> None:
        self._engine, self._before = engine, before

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def precision(self) -> Any:
        return self._engine.precision

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        self._before(inputs)
        return self._engine.run(inputs, outputs)


def observed(bundle: Path, before: Callable[[Values], None]) -> Model:
    """The bundle's model; `before` is told of each forward pass of the backbone."""
    model = load(bundle, threads=1)
    model.engine = Wrapped(model.engine, before)
    return model
