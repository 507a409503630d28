"""`clsspec serve`: features, masks and depth over HTTP."""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import sys
from typing import Annotated

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.devices import chosen_devices, chosen_engine
from clsspec_cli.precision import settled
from clsspec_serve.errors import UsageError

Host = Annotated[
    str,
    typer.Option(
        envvar="CLSSPEC_HOST", help="The address to listen on; 0.0.0.0 is every one of IPv4."
    ),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, envvar="CLSSPEC_PORT", help="0 takes a free one.")
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        envvar="CLSSPEC_API_KEY",
        metavar="KEY",
        help="Ask clients for this key; may be given several times, and in the environment "
        "several with spaces between. Where the address is not this machine's alone and no key is "
        "given, one is made and printed.",
        show_default=False,
    ),
]
NoAuth = Annotated[
    bool, typer.Option("--no-auth", envvar="CLSSPEC_NO_AUTH", help="Ask nobody for a key.")
]
Replicas = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="CLSSPEC_REPLICAS",
        help="Copies of the model, each with its own threads. One, or one for each of --devices, "
        "unless given.",
        show_default=False,
    ),
]
Pending = Annotated[
    int,
    typer.Option(
        min=1,
        envvar="CLSSPEC_MAX_PENDING",
        help="Pictures in work and waiting; what comes beyond is answered by 429.",
    ),
]
Pictures = Annotated[int, typer.Option(min=1, envvar="CLSSPEC_MAX_IMAGES", help="In one request.")]
Body = Annotated[
    int, typer.Option(min=1, envvar="CLSSPEC_MAX_BODY_MB", help="Of one request, in MiB.")
]
Memory = Annotated[
    int,
    typer.Option(
        min=1,
        envvar="CLSSPEC_MAX_DECODED_MB",
        help="MiB of pictures while they are decoded, and half as many of what is found in them: "
        "others wait. And half as many of answers being sent: others get 429.",
    ),
]
Patches = Annotated[
    int,
    typer.Option(
        min=1, envvar="CLSSPEC_MAX_PATCHES", help="Of what clients may show the network at once."
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0.001,
        envvar="CLSSPEC_TIMEOUT",
        help="Seconds to read a request, and as many to answer it.",
    ),
]
UrlHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--url-host",
        envvar="CLSSPEC_URL_HOST",
        metavar="HOST",
        help="Fetch pictures that clients give as https: addresses, from this host only; may be "
        "given several times, and in the environment several with spaces between. *.example.org "
        "are all hosts below a domain, example.org:8443 is another port. What leads to an address "
        "that is not public is refused.",
        show_default=False,
    ),
]
Drain = Annotated[
    float,
    typer.Option(
        "--drain",
        min=0,
        envvar="CLSSPEC_DRAIN",
        help="Seconds between not being ready and taking no more connections, at the end.",
    ),
]


def serve(
    model: options.Model = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: Keys = None,
    no_auth: NoAuth = False,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    devices: options.Devices = None,
    replicas: Replicas = None,
    batch_size: options.BatchSize = 8,
    max_pending: Pending = 256,
    max_images: Pictures = 32,
    max_pixels: options.MaxPixels = 89_478_485,
    max_patches: Patches = 4096,
    max_body_mb: Body = 64,
    max_decoded_mb: Memory = 2304,
    timeout: Seconds = 30.0,
    drain: Drain = 0.0,
    url_host: UrlHosts = None,
) -> None:
    """Answer HTTP requests: `/embed`, `/features`, `/segment`, `/depth`, `/predict`.

    `/docs` describes them, `/` is a page to try them on.
    """
    from clsspec_serve.http import logs
    from clsspec_serve.http.app import create_app
    from clsspec_serve.http.server import Server, listen
    from clsspec_serve.http.settings import Settings
    from clsspec_serve.loading import start
    from clsspec_serve.service import Capacity

    # Before the server runs nobody else listens, and process 1 of a container ignores what nobody
    # listens to.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    keys = tuple(api_key or ())
    if keys and no_auth:
        raise UsageError("--api-key and --no-auth contradict each other")
    if not (keys or no_auth or _is_loopback(host)):
        keys = (secrets.token_urlsafe(24),)
    settings = Settings(
        body_bytes=max_body_mb << 20,
        bodies_bytes=max(512, max_body_mb) << 20,
        answers_bytes=max_decoded_mb << 19,
        pictures=max_images,
        pixels=max_pixels,
        seconds=timeout,
        drain_seconds=drain,
        keys=keys,
        url_hosts=tuple(url_host or ()),
    )
    bundle = chosen_bundle(model)
    engine, exact = settled(bundle, engine, precision, threads=threads, devices=devices)
    chosen = chosen_engine(engine, exact, devices)
    places = chosen_devices(chosen, devices, replicas)
    each = threads or max((os.cpu_count() or 1) // len(places), 1)
    capacity = Capacity(
        batch=batch_size,
        pictures=max_pending,
        decoding_bytes=max_decoded_mb << 20,
        found_bytes=max_decoded_mb << 19,
        view_patches=max_patches,
        picture_patches=16 * max_patches,
        threads=max(each * len(places), 2),
    )
    models = [
        start(
            bundle,
            engine=chosen,
            precision=exact,
            threads=each,
            shared=True,
            device=place,
            batch_size=batch_size,
        )
        for place in places
    ]
    listener = listen(host, port)
    name = f"[{host}]" if ":" in host else host
    logs.configure()
    app = create_app(models, capacity, settings)
    if keys and not api_key:
        print(f"clsspec: clients need this key: {keys[0]}", file=sys.stderr)
    print(f"clsspec: http://{name}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    Server(app, settings).run([listener])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
