"""What HTTP/2 over TLS costs, beside stock twisted.web, hypercorn and nginx.

    python benchmarks/http2.py [--rounds 8] [--only NAME] [--before CHECKOUT]

``h2load`` asks: small GETs and responses of 1 MB on 100 streams (four connections, 25 each), and
one upload of 64 MiB.  Measured is the CPU time of the server process, in the program and in the
kernel, for each request or MB.  All servers run at once and are asked in turn, round by round; what
counts is the median of the rounds' ratios.  More than 1 means that ours is cheaper.  ``--before``
adds another checkout of this project as a peer.

nginx sends the 1 MB from a file, and keeps the upload in one; Twisted and ours keep it in a
temporary file, hypercorn's application in memory.  Needs Linux, ``h2load`` and ``openssl``.

Exits with 1 where stock does not cost as many times ours as is aimed at.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from measure import OURS, ROOT, Options, Row, Server, compare, h2load, main, need, nginx, started
from servers import listening, make_certificate, serve_site

SMALL = b"hello\n"
LARGE = bytes(1_000_000)
UPLOAD = bytes(64 * 1024 * 1024)

NGINX = """
ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; root {folder};
location = / {{ default_type text/html; return 200 "hello\\n"; }}
location = /upload {{ dav_methods PUT; }}
"""


class Load(NamedTuple):
    """One kind of load.

    Attributes:
        arguments: Of ``h2load``, with the path at the end.
        unit: What a figure is.
        scale: How much of it is one second.
        units: How many requests, or MB, one request is.
    """

    name: str
    arguments: str
    unit: str = "us"
    scale: float = 1e6
    units: float = 1

    def asks(self, folder: Path) -> Callable[[int], float]:
        """Asks a port, and returns how many requests (or MB) were answered: all."""

        def ask(port: int) -> float:
            *arguments, path = self.arguments.format(folder=folder).split()
            return h2load(f"https://127.0.0.1:{port}{path}", *arguments) * self.units

        return ask


LOADS = [
    Load("HTTP/2 small GET", "-n 4000 -c 4 -m 25 /"),
    Load("HTTP/2 1 MB response", "-n 100 -c 4 -m 25 /large", "ms/MB", 1e3),
    Load(
        "HTTP/2 64 MiB upload",
        "-n 1 -c 1 -m 1 -H :method:PUT -d {folder}/body /upload",
        "ms/MB",
        1e3,
        len(UPLOAD) / 1e6,
    ),
]


def rows(options: Options) -> Iterator[Row]:
    """Measure each of `LOADS`."""
    need("h2load", "openssl")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = make_certificate(Path(name))
        (folder / "large").write_bytes(LARGE)
        (folder / "body").write_bytes(UPLOAD)
        servers: dict[str, Server] = {}
        others = ["hypercorn"] * bool(options.peers and find_spec("hypercorn"))
        for kind in ("stock", *others, OURS):
            servers[kind] = stack.enter_context(serving(kind, folder))
        if options.before:
            servers["before"] = stack.enter_context(serving(OURS, folder, options.before))
        if options.peers and shutil.which("nginx"):
            server = nginx(NGINX.format(folder=folder), listen="ssl http2")
            servers["nginx"] = stack.enter_context(server)
        for load in LOADS:
            if options.wants(load.name):
                rounds, ask = options.rounds, load.asks(folder)
                yield compare(load.name, servers, ask, rounds, load.unit, load.scale)


def serving(kind: str, folder: Path, root: Path = ROOT) -> AbstractContextManager[Server]:
    """Runs the server *kind*, with the certificate in *folder*."""
    return started([sys.executable, __file__, kind, str(folder)], root)


def serve_with_twisted(kind: str, folder: Path) -> None:
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    from twisted_hangup import HangupSite

    class Bytes(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return LARGE if request.path == b"/large" else SMALL

        render_PUT = render_GET

    site: Any = HangupSite(Bytes()) if kind == OURS else Site(Bytes())
    serve_site(kind, site, folder)


def serve_with_hypercorn(folder: Path) -> None:
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        body = []
        while scope["method"] == "PUT":
            message = await receive()
            body.append(message["body"])
            if not message.get("more_body"):
                break
        content = LARGE if scope["path"] == "/large" else SMALL
        headers = [(b"content-type", b"text/html"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    config, port = Config(), listening()
    config.bind = [f"fd://{port.fileno()}"]
    config.certfile, config.keyfile = str(folder / "cert.pem"), str(folder / "key.pem")
    config.errorlog = None

    async def run() -> None:
        end = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        await serve(answer, config, shutdown_trigger=lambda: end)

    asyncio.run(run())


if __name__ == "__main__":
    if sys.argv[1:2] == ["hypercorn"]:
        serve_with_hypercorn(Path(sys.argv[2]))
    elif len(sys.argv) == 3 and sys.argv[1] in ("stock", OURS):
        serve_with_twisted(sys.argv[1], Path(sys.argv[2]))
    else:
        main(__doc__, rows)
