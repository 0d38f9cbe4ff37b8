"""The servers that the benchmarks compare, and a way to run them.

    python benchmarks/servers.py stock|hangup|uvicorn|aiohttp [--tls FOLDER] [--access-log FILE]

Serves one small resource on a free port of the loopback interface, prints the port, and
ends when its standard input does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

#: Twisted's own site and ours.
KINDS = ("stock", "hangup")

#: What they are compared with where it is installed: uvicorn with httptools and uvloop.
PEERS = {"uvicorn": ("uvicorn", "httptools", "uvloop"), "aiohttp": ("aiohttp",)}

BODY = b"hello\n"


class Server(NamedTuple):
    """A server in a process of its own."""

    port: int
    process: int

    def cpu_seconds(self) -> float:
        """What its process has used so far, in the program and in the kernel; Linux only."""
        threads = Path(f"/proc/{self.process}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def installed_peers() -> list[str]:
    """Those of `PEERS` that can be run here."""
    return [name for name, modules in PEERS.items() if all(map(find_spec, modules))]


@contextmanager
def running(
    kind: str, access_log: str | None = None, tls: Path | None = None, root: Path | None = None
) -> Iterator[Server]:
    """Run the server *kind* in a process of its own.

    Args:
        tls: A folder with ``key.pem`` and ``cert.pem``; served is HTTPS with these.
        root: Another checkout of this project, which is to be served with.
    """
    command = [sys.executable, __file__, kind]
    command += ["--tls", str(tls)] if tls else []
    command += ["--access-log", access_log] if access_log else []
    environment = {**os.environ, "PYTHONPATH": str(root or Path(__file__).parents[1])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdin and server.stdout
        try:
            yield Server(int(server.stdout.readline()), server.pid)
        finally:
            server.stdin.close()
            server.wait(10)


def make_certificate(folder: Path) -> Path:
    """Write a key and a certificate of its own (P-256) into *folder*; returns it."""
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*request.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=[*KINDS, *PEERS])
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--access-log")
    options = parser.parse_args(arguments)
    if options.kind in KINDS:
        serve_with_twisted(options.kind, options.access_log, options.tls)
    elif options.kind == "uvicorn":
        serve_with_uvicorn(options.tls)
    else:
        serve_with_aiohttp(options.tls)


def serve_with_twisted(kind: str, access_log: str | None, tls: Path | None) -> None:
    from twisted.internet import endpoints, reactor, stdio
    from twisted.internet.protocol import Protocol
    from twisted.python.failure import Failure
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    from twisted_hangup import ClientSocket, HangupSite, hangup_endpoint

    class Hello(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            request.setHeader(b"Content-Length", b"6")
            return BODY

    class UntilEndOfInput(Protocol):
        def connectionLost(self, reason: object = None) -> None:
            if reactor.running:
                reactor.stop()

    errors = 0

    def count(failure: Failure, socket: ClientSocket) -> Failure:
        nonlocal errors
        errors += 1
        return failure

    if kind == "hangup":
        site: Any = HangupSite(Hello(), logPath=access_log)
        site.on_client_error(count)
    else:
        site = Site(Hello(), logPath=access_log)
    if access_log is None:
        site.log = lambda request: None  # a Site without logPath logs to twisted's log
    description = "tcp:0:interface=127.0.0.1:backlog=1024"
    if tls is not None:
        keys = f"privateKey={tls}/key.pem:certKey={tls}/cert.pem"
        description = f"ssl:0:interface=127.0.0.1:backlog=1024:{keys}"
    endpoint: Any = endpoints.serverFromString(reactor, description)
    if kind == "hangup":
        endpoint = hangup_endpoint(endpoint)
    endpoint.listen(site).addCallback(lambda port: print(port.getHost().port, flush=True))
    stdio.StandardIO(UntilEndOfInput())
    reactor.run()


def serve_with_uvicorn(tls: Path | None) -> None:
    import asyncio
    import socket

    import uvicorn
    import uvloop

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html"), (b"content-length", b"6")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    options: dict[str, Any] = {}
    if tls is not None:
        options = {"ssl_keyfile": str(tls / "key.pem"), "ssl_certfile": str(tls / "cert.pem")}
    config = uvicorn.Config(
        hello,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
        backlog=1024,
        **options,
    )
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listening.getsockname()[1], flush=True)

    async def run() -> None:
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving

    uvloop.run(run())


def serve_with_aiohttp(tls: Path | None) -> None:
    import asyncio
    import ssl

    from aiohttp import web

    async def hello(request: Any) -> Any:
        return web.Response(body=BODY, content_type="text/html")

    async def run() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", hello)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        context = None
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024, ssl_context=context)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
