"""What serving costs: `clsspec serve` beside the same work in one process, and beside LitServe.

Pictures are JPEGs of 500 x 375, answers are [CLS] embeddings of the embedded model. In each round
all candidates do the same work one after the other, in alternating order, and ratios are taken
round by round. CPU seconds are those of the server's own processes, or of the bare loop, from the
kernel; the clients are another process and are left out. LitServe takes part where it is installed.

    python benchmarks/serving.py [--rounds 5] [--pictures 400] [--clients 32]
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from serving_clients import Connection, jpegs

TICK = os.sysconf("SC_CLK_TCK")
_BARE = "one process, no HTTP"
DENSE = {"2 MB": (725, 725), "20 MB": (2290, 2290)}
"""(H, W) of pictures whose depth takes that many bytes as float32."""


@dataclass(frozen=True)
class Load:
    """What came of a number of requests: seconds of CPU and of the clock for each picture."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Server:
    """A server's process, its port, and how a picture is posted to it: `raw` or `multipart`."""

    pid: int
    port: int
    path: str
    form: str


@dataclass(frozen=True)
class Answers:
    """Of each picture the seconds and the Server-Timing header, and the seconds of all together."""

    pictures: list[tuple[float, str]]
    seconds: float


def bare(pictures: int) -> None:
    """The work without HTTP, in this process: decode, batch, engine as the server sets it up.

    Prints seconds of CPU and of the clock.
    """
    from clsspec_serve.loading import start
    from clsspec_serve.models import find_bundle

    model, bodies = start(find_bundle(None), shared=True), jpegs()
    images = [bodies[index % len(bodies)] for index in range(pictures)]
    list(model.predict(images[:32], tasks=("cls",)))
    cpu, wall = time.process_time(), time.monotonic()
    list(model.predict(images, tasks=("cls",)))
    print(json.dumps([time.process_time() - cpu, time.monotonic() - wall]))


def cpu_seconds(pid: int) -> float:
    """Of a process and its descendants, those that have ended included."""
    total, waiting = 0.0, [pid]
    while waiting:
        each = waiting.pop()
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            tasks = Path(f"/proc/{each}/task").iterdir()
            children = [(task / "children").read_text().split() for task in tasks]
        except FileNotFoundError:
            continue
        total += sum(int(value) for value in fields[11:15]) / TICK
        waiting += [int(child) for some in children for child in some]
    return total


@contextmanager
def started(command: Sequence[str], port: int, path: str, form: str) -> Iterator[Server]:
    """A server, once it answers."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = Server(process.pid, port, path, form)
    try:
        _measured(server, 64, 8, tries=100)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        # LitServe's workers outlive it, and keep a core busy.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def under_load(server: Server, pictures: int, count: int) -> Load:
    """CPU and time for each picture with so many clients at once."""
    cpu = cpu_seconds(server.pid)
    wall = _measured(server, pictures, count).seconds
    return Load((cpu_seconds(server.pid) - cpu) / pictures, wall / pictures)


def alone(pictures: int) -> Load:
    """CPU and time for each picture of the bare loop, in a process of its own."""
    command = [sys.executable, __file__, "--bare", str(pictures)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu, wall = json.loads(output)
    return Load(cpu / pictures, wall / pictures)


def overheads(server: Server, pictures: int) -> list[float]:
    """Seconds of single requests beyond decoding and model, smallest first."""
    found = []
    for took, header in _measured(server, pictures, 1).pictures:
        parts = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", header)}
        found.append(took - (parts["decode"] + parts["model"]) / 1000)
    return sorted(found)


def dense(server: Server) -> None:
    """Long answers: the time that is neither decoding, queue, model nor encoding."""
    print("\n| answer | encode, ms | rest, ms | MB/s of the rest |")
    print("|---|---|---|---|")
    for name, (height, width) in DENSE.items():
        stream = io.BytesIO()
        Image.fromarray(skimage.data.astronaut()).resize((width, height)).save(stream, "JPEG")
        rest, encode = [], []
        connection = Connection(server.port)
        for _ in range(15):
            answer = connection.post("/depth?format=npy", stream.getvalue(), "image/jpeg")
            parts = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.timing))
            rest.append(1000 * answer.seconds - sum(map(float, parts.values())))
            encode.append(float(parts["encode"]))
        middle = statistics.median(rest)
        speed = len(answer.content) / 1e6 / (middle / 1000)
        print(f"| {name} | {statistics.median(encode):.1f} | {middle:.1f} | {speed:.0f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare(given.bare)
    else:
        _compare(given.rounds, given.pictures, given.clients)


def _compare(rounds: int, pictures: int, count: int) -> None:
    """One server at a time: LitServe keeps half a core busy while nobody asks it anything."""
    servers: dict[str, Callable[[], AbstractContextManager[Server]]] = {
        "clsspec serve": _ours,
        "the same, a replica for each core": lambda: _ours("--replicas", str(os.cpu_count())),
    }
    if importlib.util.find_spec("litserve"):
        servers["LitServe"] = _theirs
    found: dict[str, list[Load]] = {name: [] for name in (_BARE, *servers)}
    for index in range(rounds):
        for name in found if index % 2 else reversed(found):
            if name == _BARE:
                found[name].append(alone(pictures))
                continue
            with servers[name]() as server:
                found[name].append(under_load(server, pictures, count))
    _print_loads(found)
    print("\n| one client | p50, ms | p99, ms |\n|---|---|---|")
    if "LitServe" in servers:
        with _theirs() as server:
            _print_times("LitServe, all of it", _seconds(server, pictures))
    with _ours() as server:
        _print_times("clsspec serve, all of it", _seconds(server, pictures))
        _print_times("clsspec serve, all but decode and model", overheads(server, pictures))
        dense(server)


def _ours(*options: str) -> AbstractContextManager[Server]:
    port = _free_port()
    command = ["-c", "from clsspec_cli.app import main; main()", "serve", "--port", str(port)]
    return started([*command, *options], port, "/embed?format=npy", "raw")


def _theirs() -> AbstractContextManager[Server]:
    port = _free_port()
    command = [str(Path(__file__).with_name("serving_litserve.py")), str(port)]
    return started(command, port, "/predict", "multipart")


def _seconds(server: Server, pictures: int) -> list[float]:
    return [took for took, _ in _measured(server, pictures, 1).pictures]


def _print_loads(found: dict[str, list[Load]]) -> None:
    print("| | CPU ms per picture | over the bare loop | pictures/s |")
    print("|---|---|---|---|")
    base = found[_BARE]
    for name, loads in found.items():
        ratios = [load.cpu / other.cpu for load, other in zip(loads, base, strict=True)]
        cpu = 1000 * statistics.median(load.cpu for load in loads)
        speed = 1 / statistics.median(load.wall for load in loads)
        spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
        print(f"| {name} | {cpu:.1f} | {statistics.median(ratios):.3f} ({spread}) | {speed:.1f} |")


def _print_times(name: str, seconds: Sequence[float]) -> None:
    p50, p99 = (1000 * float(np.percentile(seconds, share)) for share in (50, 99))
    print(f"| {name} | {p50:.2f} | {p99:.2f} |")


def _measured(server: Server, pictures: int, count: int, tries: int = 1) -> Answers:
    """What the clients' process says."""
    program = Path(__file__).with_name("serving_clients.py")
    arguments = (program, server.port, server.path, server.form, pictures, count)
    command = [sys.executable, *map(str, arguments)]
    for left in range(tries, 0, -1):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            said = json.loads(result.stdout)
            return Answers(said["answers"], said["seconds"])
        if left == 1:
            raise RuntimeError(result.stderr)
        time.sleep(0.3)
    raise RuntimeError("no tries")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
