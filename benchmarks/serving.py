"""What serving costs: `clsspec serve` beside the same work in one process, and beside LitServe.

Pictures are JPEGs of 500 x 375, answers are [CLS] embeddings of the embedded model. In each round
all candidates do the same work one after the other, in alternating order, and ratios are taken
round by round. CPU seconds are those of the server's own processes, or of the bare loop, from the
kernel; the clients are another process and are left out. LitServe takes part where it is installed.

    python benchmarks/serving.py [--rounds 5] [--pictures 400] [--clients 32]
"""

from __future__ import annotations

import argparse
import http.client
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local

import numpy as np
import skimage.data
from PIL import Image

TICK = os.sysconf("SC_CLK_TCK")
DENSE = {"2 MB": (725, 725), "20 MB": (2290, 2290)}
"""(H, W) of pictures whose depth takes that many bytes as float32."""


@dataclass(frozen=True)
class Load:
    """What came of a number of requests: seconds of CPU and of the clock for each picture."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Server:
    """A server's process, its port, and how a picture is posted to it."""

    pid: int
    port: int
    path: str
    multipart: bool


def jpegs() -> list[bytes]:
    """Eight photographs of 500 x 375."""
    photographs = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()]
    made = []
    for index in range(8):
        picture = Image.fromarray(photographs[index % 3])
        turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if index > 2 else picture
        stream = io.BytesIO()
        turned.resize((500, 375)).save(stream, "JPEG", quality=85 + index)
        made.append(stream.getvalue())
    return made


def bare(pictures: int) -> None:
    """The work without HTTP, in this process: decode, batch, engine as the server sets it up.

    Prints seconds of CPU and of the clock.
    """
    from clsspec_serve.models import find_bundle
    from clsspec_serve.predictor import start

    model, bodies = start(find_bundle(None), shared=True), jpegs()
    images = [bodies[index % len(bodies)] for index in range(pictures)]
    list(model.predict(images[:32], tasks=("cls",)))
    cpu, wall = time.process_time(), time.monotonic()
    list(model.predict(images, tasks=("cls",)))
    print(json.dumps([time.process_time() - cpu, time.monotonic() - wall]))


def clients(port: int, path: str, multipart: bool, pictures: int, count: int) -> None:
    """Post pictures from `count` threads, each over one connection.

    Prints the latencies and headers, and in the end the time of all of it, as JSON.
    """
    bodies = [_multipart(body) if multipart else body for body in jpegs()]
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"} if multipart else {}
    kept = local()

    def ask(index: int) -> tuple[float, str]:
        if not hasattr(kept, "connection"):
            kept.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            kept.connection.connect()
            kept.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        kept.connection.request("POST", path, bodies[index % len(bodies)], headers)
        answer = kept.connection.getresponse()
        content = answer.read()
        took = time.perf_counter() - start
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content[:300]!r}")
        return took, answer.getheader("server-timing") or ""

    with ThreadPoolExecutor(count) as pool:
        start = time.monotonic()
        answers = list(pool.map(ask, range(pictures)))
        print(json.dumps([*answers, time.monotonic() - start]))


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
def started(command: Sequence[str], port: int, path: str, multipart: bool) -> Iterator[Server]:
    """A server, once it answers."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    server = Server(process.pid, port, path, multipart)
    try:
        _measured(server, 64, 8, tries=100)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def under_load(server: Server, pictures: int, count: int) -> Load:
    """CPU and time for each picture with so many clients at once."""
    cpu = cpu_seconds(server.pid)
    answers = _measured(server, pictures, count)
    wall = float(answers.pop()[0])
    return Load((cpu_seconds(server.pid) - cpu) / pictures, wall / pictures)


def alone(pictures: int) -> Load:
    """CPU and time for each picture of the bare loop, in a process of its own."""
    command = [sys.executable, __file__, "--bare", str(pictures)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu, wall = json.loads(output)
    return Load(cpu / pictures, wall / pictures)


def overheads(server: Server, pictures: int) -> list[float]:
    """Seconds of single requests beyond decoding and model, smallest first."""
    answers = _measured(server, pictures, 1)[:-1]
    found = []
    for took, header in answers:
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
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(15):
            start = time.perf_counter()
            connection.request("POST", "/depth?format=npy", stream.getvalue())
            answer = connection.getresponse()
            content = answer.read()
            took = 1000 * (time.perf_counter() - start)
            parts = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.getheader("server-timing") or ""))
            rest.append(took - sum(map(float, parts.values())))
            encode.append(float(parts["encode"]))
        middle = statistics.median(rest)
        speed = len(content) / 1e6 / (middle / 1000)
        print(f"| {name} | {statistics.median(encode):.1f} | {middle:.1f} | {speed:.0f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare(given.bare)
    elif given.ask:
        port, path, multipart, pictures, count = given.ask
        clients(int(port), path, multipart == "True", int(pictures), int(count))
    else:
        _compare(given.rounds, given.pictures, given.clients)


def _compare(rounds: int, pictures: int, count: int) -> None:
    ports = _free_ports(3)
    serve = ["-c", "from clsspec_cli.app import main; main()", "serve", "--port"]
    other = [str(Path(__file__).with_name("serving_litserve.py")), str(ports[2])]
    replicas = [*serve, str(ports[1]), "--replicas", str(os.cpu_count())]
    with ExitStack() as stack:
        path = "/embed?format=npy"
        ours = stack.enter_context(started([*serve, str(ports[0])], ports[0], path, False))
        wide = stack.enter_context(started(replicas, ports[1], path, False))
        candidates: dict[str, Callable[[], Load]] = {
            "one process, no HTTP": lambda: alone(pictures),
            "clsspec serve": lambda: under_load(ours, pictures, count),
            "the same, a replica for each core": lambda: under_load(wide, pictures, count),
        }
        if importlib.util.find_spec("litserve"):
            theirs = stack.enter_context(started(other, ports[2], "/predict", True))
            candidates["LitServe"] = lambda: under_load(theirs, pictures, count)
        found: dict[str, list[Load]] = {name: [] for name in candidates}
        for index in range(rounds):
            order = list(candidates) if index % 2 else list(reversed(candidates))
            for name in order:
                found[name].append(candidates[name]())
        _print_loads(found)
        print("\n| one client | p50, ms | p99, ms |\n|---|---|---|")
        _print_times("clsspec serve, all but decode and model", overheads(ours, pictures))
        servers = {"clsspec serve": ours}
        if "LitServe" in candidates:
            servers["LitServe"] = theirs
        for name, server in servers.items():
            answers = _measured(server, pictures, 1)[:-1]
            _print_times(f"{name}, all of it", [took for took, _ in answers])
        dense(ours)


def _print_loads(found: dict[str, list[Load]]) -> None:
    print("| | CPU ms per picture | over the bare loop | pictures/s |")
    print("|---|---|---|---|")
    base = found["one process, no HTTP"]
    for name, loads in found.items():
        ratios = [load.cpu / other.cpu for load, other in zip(loads, base, strict=True)]
        cpu = 1000 * statistics.median(load.cpu for load in loads)
        speed = 1 / statistics.median(load.wall for load in loads)
        spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
        print(f"| {name} | {cpu:.1f} | {statistics.median(ratios):.3f} ({spread}) | {speed:.1f} |")


def _print_times(name: str, seconds: Sequence[float]) -> None:
    p50, p99 = (1000 * float(np.percentile(seconds, share)) for share in (50, 99))
    print(f"| {name} | {p50:.2f} | {p99:.2f} |")


def _measured(server: Server, pictures: int, count: int, tries: int = 1) -> list[tuple[float, str]]:
    """The latencies and headers of the clients' process, and in the end the time of all of it."""
    arguments = map(str, (server.port, server.path, server.multipart, pictures, count))
    command = [sys.executable, __file__, "--ask", *arguments]
    for left in range(tries, 0, -1):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            *answers, wall = json.loads(result.stdout)
            return [*answers, (wall, "")]
        if left == 1:
            raise RuntimeError(result.stderr)
        time.sleep(0.3)
    raise RuntimeError("no tries")


_BOUNDARY = "b0undary"


def _multipart(body: bytes) -> bytes:
    head = 'Content-Disposition: form-data; name="request"; filename="a.jpg"\r\n'
    return (
        f"--{_BOUNDARY}\r\n{head}Content-Type: image/jpeg\r\n\r\n".encode()
        + body
        + f"\r\n--{_BOUNDARY}--\r\n".encode()
    )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    main()
