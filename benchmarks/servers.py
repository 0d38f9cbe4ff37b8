"""The servers that the benchmarks compare, and a way to run them.

    python benchmarks/servers.py KIND [--tls FOLDER] [--access-log FILE] [--handlers COUNT]

Serves one small resource on a free port of the loopback interface, prints the port, and
ends when its standard input does.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import AbstractContextManager
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measure import OURS, ROOT, Server, free_port, nginx, node, started

#: Twisted's own site and ours.
KINDS = ("stock", OURS)

#: What they are compared with, and what has to be installed for that in Python.
PEERS = {
    "uvicorn": ("uvicorn", "httptools", "uvloop"),
    "aiohttp": ("aiohttp",),
    "hypercorn": ("hypercorn",),
    "daphne": ("daphne",),
    "node": (),
    "nginx": (),
}

BODY = b"hello\n"

#: Node's own server, with the folder of the key and the certificate if it is to speak TLS.
NODE = """
const fs = require("fs"), folder = process.argv[1];
const answer = (request, response) => {
  response.setHeader("Content-Type", "text/html");
  response.end("hello\\n");
};
const server = folder
  ? require("https").createServer({
      key: fs.readFileSync(folder + "/key.pem"), cert: fs.readFileSync(folder + "/cert.pem"),
    }, answer)
  : require("http").createServer(answer);
server.listen(0, "127.0.0.1", 1024, () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
"""


def installed_peers() -> list[str]:
    """Those of `PEERS` that can be run here."""
    programs = {"node": node, "nginx": lambda: shutil.which("nginx")}
    return [
        name
        for name, modules in PEERS.items()
        if (programs[name]() if name in programs else all(map(find_spec, modules)))
    ]


def running(
    kind: str,
    access_log: str | None = None,
    tls: Path | None = None,
    root: Path | None = None,
    handlers: int = 1,
) -> AbstractContextManager[Server]:
    """Run the server *kind* in a process of its own.

    Args:
        tls: A folder with ``key.pem`` and ``cert.pem``; served is HTTPS with these.
        root: Another checkout of this project, which is to be served with.
        handlers: How many handlers of client errors ours has.
    """
    if kind == "nginx":
        keys = f"ssl_certificate {tls}/cert.pem; ssl_certificate_key {tls}/key.pem;"
        keys += "ssl_protocols TLSv1.2 TLSv1.3;"
        answer = 'location / { default_type text/html; return 200 "hello\\n"; }'
        return nginx(answer + (keys if tls else ""), listen="ssl" if tls else "")
    if kind == "node":
        return started([node() or "node", "-e", NODE, *([str(tls)] if tls else [])])
    command = [sys.executable, __file__, kind]
    command += ["--tls", str(tls)] if tls else []
    command += ["--access-log", access_log] if access_log else []
    command += ["--handlers", str(handlers)]
    return started(command, root or ROOT)


def make_certificate(folder: Path) -> Path:
    """Write a key and a certificate of its own (P-256) into *folder*; returns it."""
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*request.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


def trusting(*protocols: str) -> ssl.SSLContext:
    """A client's TLS that accepts any certificate, and offers *protocols* by ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=[*KINDS, *PEERS])
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--access-log")
    parser.add_argument("--handlers", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.tls and options.kind in (*KINDS, "daphne"):
        give_tickets()
    if options.kind in KINDS:
        serve_with_twisted(options.kind, options.access_log, options.tls, options.handlers)
    else:
        logging.disable()  # a client that leaves is a line in some
        serve = {
            "uvicorn": serve_with_uvicorn,
            "aiohttp": serve_with_aiohttp,
            "hypercorn": serve_with_hypercorn,
            "daphne": serve_with_daphne,
        }
        serve[options.kind](options.tls)


def give_tickets() -> None:
    """Let the TLS of Twisted's ports resume sessions, as that of ``twistd hangup`` and others."""
    from twisted.internet.ssl import CertificateOptions

    options: Any = CertificateOptions
    options.__init__ = partialmethod(options.__init__, enableSessionTickets=True)


def description(port: int, tls: Path | None) -> str:
    """What Twisted calls an endpoint on the loopback interface."""
    keys = f":privateKey={tls}/key.pem:certKey={tls}/cert.pem" if tls else ""
    return f"{'ssl' if tls else 'tcp'}:{port}:interface=127.0.0.1:backlog=1024{keys}"


def stop_at_end_of_input() -> None:
    """Stop the reactor when the standard input ends."""
    from twisted.internet import reactor, stdio
    from twisted.internet.protocol import Protocol

    class UntilEndOfInput(Protocol):
        def connectionLost(self, reason: object = None) -> None:
            if reactor.running:
                reactor.stop()

    stdio.StandardIO(UntilEndOfInput())


def serve_site(kind: str, site: Any, tls: Path | None = None) -> None:
    """Serve *site* on a free port, which is printed, until standard input ends.

    Args:
        kind: One of `KINDS`, to which the site belongs.
        tls: A folder with ``key.pem`` and ``cert.pem``.
    """
    from twisted.internet import endpoints, reactor

    from twisted_hangup import hangup_endpoint

    if site.logPath is None:
        site.log = lambda request: None  # a Site without logPath logs to twisted's log
    endpoint: Any = endpoints.serverFromString(reactor, description(0, tls))
    if kind == OURS:
        endpoint = hangup_endpoint(endpoint)
    endpoint.listen(site).addCallback(lambda port: print(port.getHost().port, flush=True))
    stop_at_end_of_input()
    reactor.run()


def serve_with_twisted(kind: str, access_log: str | None, tls: Path | None, handlers: int) -> None:
    from twisted.python.failure import Failure
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    from twisted_hangup import ClientSocket, HangupSite

    class Hello(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            request.setHeader(b"Content-Length", b"6")
            return BODY

    errors = 0

    def count(failure: Failure, socket: ClientSocket) -> Failure:
        nonlocal errors
        errors += 1
        return failure

    if kind == OURS:
        site: Any = HangupSite(Hello(), logPath=access_log)
        for _ in range(handlers):
            site.on_client_error(count)
    else:
        site = Site(Hello(), logPath=access_log)
    serve_site(kind, site, tls)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The same as an ASGI application."""
    headers = [(b"content-type", b"text/html"), (b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def listening() -> socket.socket:
    """A socket that listens, whose port has been printed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    return listener


def serve_with_uvicorn(tls: Path | None) -> None:
    import asyncio

    import uvicorn
    import uvloop

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

    async def run() -> None:
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listening()]))
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving

    uvloop.run(run())


def serve_with_hypercorn(tls: Path | None) -> None:
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config, port = Config(), listening()
    config.bind = [f"fd://{port.fileno()}"]
    config.errorlog = None
    config.alpn_protocols = ["http/1.1"]
    if tls is not None:
        config.certfile, config.keyfile = str(tls / "cert.pem"), str(tls / "key.pem")
    application: Any = hello

    async def end_of_input() -> None:
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(serve(application, config, shutdown_trigger=end_of_input))


def serve_with_daphne(tls: Path | None) -> None:
    from daphne.server import Server as Daphne  # installs a reactor
    from twisted.internet import reactor

    port = free_port()
    daphne = Daphne(hello, [description(port, tls)], signal_handlers=False, verbosity=0)
    reactor.callWhenRunning(lambda: print(port, flush=True))
    stop_at_end_of_input()
    daphne.run()


def serve_with_aiohttp(tls: Path | None) -> None:
    import asyncio

    from aiohttp import web

    async def answer(request: Any) -> Any:
        return web.Response(body=BODY, content_type="text/html")

    async def run() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
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
