"""What a large body costs the server, up and down, beside stock twisted.web.

    python benchmarks/bodies.py [--rounds 8] [--only NAME] [--before CHECKOUT]

Measured is the CPU time of the server process, in the program and in the kernel, for each MiB.
Up: bodies of 64 MiB, with a Content-Length or in chunks of 64 KiB, which the server holds until
they are complete.  Down: as much, written by a push or a pull producer in pieces of 64 KiB.  Over
TCP and TLS.  The client is this process, and costs the server nothing.  More than 1 means that
ours is cheaper.  ``--before`` adds another checkout of this project as a peer.  Needs Linux, and
``openssl``.

Exits with 1 where stock does not cost as many times ours as is aimed at.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from measure import OURS, ROOT, Options, Row, compare, main, started
from servers import make_certificate, serve_site, trusting

MIB: Final = 1 << 20

#: Bytes of a body.
SIZE: Final = 64 * MIB

#: Bytes of a chunk on the way up, and of what a producer writes at a time.
PIECE: Final = 64 * 1024


class Load(NamedTuple):
    """One kind of body: moves one over a connection to the server."""

    name: str
    move: Callable[[socket.socket], None]

    def asked_over(self, tls: ssl.SSLContext | None) -> Callable[[int], int]:
        """Moves a body over a new connection to a port, and says how many MiB that were."""

        def ask(port: int) -> int:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                if tls is None:
                    self.move(connection)
                else:
                    with tls.wrap_socket(connection) as secure:
                        self.move(secure)
            return SIZE // MIB

        return ask


def upload(framing: bytes, pieces: list[bytes]) -> Callable[[socket.socket], None]:
    """POSTs a body that is framed so, and reads the answer."""

    def move(connection: socket.socket) -> None:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % framing)
        for piece in pieces:
            connection.sendall(piece)
        answer = connection.recv(PIECE)
        if not answer.endswith(b"\r\n\r\n%d" % SIZE):
            sys.exit(f"the body did not arrive: {answer[-300:]!r}")

    return move


def download(target: bytes) -> Callable[[socket.socket], None]:
    """GETs *target*, of whose answer only the length is looked at."""

    def move(connection: socket.socket) -> None:
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
        room = bytearray(4 * PIECE)
        count = connection.recv_into(room)
        head, _, begun = bytes(room[:count]).partition(b"\r\n\r\n")
        rest = SIZE - len(begun)
        if b"chunked" in head:
            rest += SIZE // PIECE * len(b"%x\r\n\r\n" % PIECE) + len(b"0\r\n\r\n")
        while rest > 0 and (count := connection.recv_into(room)):
            rest -= count
        if rest:
            sys.exit(f"{target!r}: {rest} bytes too few")

    return move


def loads() -> Iterator[Load]:
    sized, chunked = b"Content-Length: %d" % SIZE, b"Transfer-Encoding: chunked"
    yield Load("up, Content-Length", upload(sized, [bytes(MIB)] * (SIZE // MIB)))
    chunks = b"%x\r\n%b\r\n" % (PIECE, bytes(PIECE)) * (MIB // PIECE)
    yield Load("up, chunked", upload(chunked, [chunks] * (SIZE // MIB) + [b"0\r\n\r\n"]))
    for producer in ("push", "pull"):
        yield Load(f"down, {producer}, Content-Length", download(f"/{producer}/sized".encode()))
        yield Load(f"down, {producer}, chunked", download(f"/{producer}/chunked".encode()))


def rows(options: Options) -> Iterator[Row]:
    """Measure each load over TCP and TLS."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for keys in ("", str(make_certificate(Path(folder)))):
            checkouts = {"stock": ROOT, OURS: ROOT}
            if options.before:
                checkouts["before"] = options.before
            servers = {}
            for peer, root in checkouts.items():
                kind = "stock" if peer == "stock" else OURS
                command = [sys.executable, __file__, kind, keys]
                servers[peer] = stack.enter_context(started(command, root))
            for load in loads():
                name = f"{'TLS' if keys else 'TCP'} body {load.name}"
                if options.wants(name):
                    ask = load.asked_over(trusting() if keys else None)
                    yield compare(name, servers, ask, options.rounds, "us/MiB")


def serve(kind: str, keys: str) -> None:
    """Serve on a free port of the loopback interface, with TLS if *keys* is a folder."""
    from twisted.internet.interfaces import IPullProducer, IPushProducer
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET, Request, Site
    from zope.interface import implementer

    from twisted_hangup import HangupSite

    piece = bytes(PIECE)

    class Body:
        """Writes the body of a response."""

        def __init__(self, request: Request) -> None:
            self.request: Any = request
            self.left = SIZE
            self.paused = False

        def write(self) -> None:
            self.request.write(piece)
            self.left -= PIECE
            if not self.left:
                self.request.unregisterProducer()
                self.request.finish()

        def stopProducing(self) -> None:
            self.left = 0

    @implementer(IPullProducer)
    class Pulled(Body):
        def resumeProducing(self) -> None:
            self.write()

    @implementer(IPushProducer)
    class Pushing(Body):
        def pauseProducing(self) -> None:
            self.paused = True

        def resumeProducing(self) -> None:
            self.paused = False
            while self.left and not self.paused:
                self.write()

    class Bodies(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            _, producer, framing = request.path.split(b"/")
            if framing == b"sized":
                request.setHeader(b"Content-Length", b"%d" % SIZE)
            if producer == b"pull":
                request.registerProducer(Pulled(request), False)
            else:
                pushing = Pushing(request)
                request.registerProducer(pushing, True)
                pushing.resumeProducing()
            return NOT_DONE_YET

        def render_POST(self, request: Request) -> bytes:
            content: Any = request.content
            return b"%d" % content.seek(0, os.SEEK_END)

    site: Any = HangupSite(Bodies()) if kind == OURS else Site(Bodies())
    serve_site(kind, site, Path(keys) if keys else None)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("stock", OURS):
        serve(*sys.argv[1:])
    else:
        main(__doc__, rows)
