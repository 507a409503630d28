"""The clients of `serving.py`: a process that posts pictures over connections of its own.

A socket and httptools' parser, since what the client itself takes counts as the server's overhead.

    python benchmarks/serving_clients.py PORT PATH raw|multipart PICTURES CLIENTS

prints JSON: for each picture the seconds until the whole answer was there and its Server-Timing,
and the seconds that everything took.
"""

from __future__ import annotations

import io
import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import local

import httptools
import skimage.data
from PIL import Image

_BOUNDARY = "b0undary"


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


class Connection:
    """One connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        """Send a body and wait for the whole answer; raises RuntimeError unless its status is 200.

        Seconds run from before the request is sent until after the answer has been parsed.
        """
        start = time.perf_counter()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.whole:
            received = self._socket.recv(1 << 20)
            if not received:
                raise RuntimeError("the server closed the connection")
            parser.feed_data(received)
        answer.seconds = time.perf_counter() - start
        if parser.get_status_code() != 200:
            raise RuntimeError(f"{parser.get_status_code()}: {bytes(answer.content[:300])!r}")
        return answer


class Answer:
    """What came back; httptools calls the methods."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.timing = ""
        self.content = bytearray()
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if name.lower() == b"server-timing":
            self.timing = value.decode()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.content += body

    def on_message_complete(self) -> None:
        """The end."""
        self.whole = True


def main(port: int, path: str, form: str, pictures: int, count: int) -> None:
    """Post the pictures from `count` threads, each over its own connection."""
    bodies, content_type = jpegs(), "image/jpeg"
    if form == "multipart":
        bodies = [_multipart(body) for body in bodies]
        content_type = f"multipart/form-data; boundary={_BOUNDARY}"
    kept = local()

    def ask(index: int) -> tuple[float, str]:
        if not hasattr(kept, "connection"):
            kept.connection = Connection(port)
        answer = kept.connection.post(path, bodies[index % len(bodies)], content_type)
        return answer.seconds, answer.timing

    with ThreadPoolExecutor(count) as pool:
        start = time.monotonic()
        answers = list(pool.map(ask, range(pictures)))
        print(json.dumps({"answers": answers, "seconds": time.monotonic() - start}))


def _multipart(body: bytes) -> bytes:
    head = 'Content-Disposition: form-data; name="request"; filename="a.jpg"\r\n'
    return (
        f"--{_BOUNDARY}\r\n{head}Content-Type: image/jpeg\r\n\r\n".encode()
        + body
        + f"\r\n--{_BOUNDARY}--\r\n".encode()
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
