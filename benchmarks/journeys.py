"""Through how many of our files a request, an error and a hang-up go.

    python benchmarks/journeys.py [--path]

Five journeys over real sockets, with the site and its clients in this one process;
sys.setprofile notes each call of a named function of the package, and what Twisted does in
between is left out.

- calls: of our functions
- files: that these functions stand in
- moves: calls for which the reader opens another file than that of the call before
- returns: of these, to a file that had been left
- rooms: folders of the package that are entered; its top counts as one

``--path`` prints the files of each journey, move by move.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

import twisted_hangup
from twisted_hangup import ClientSocket, HangupSite, ProxyResource, cancel_on_hangup

PACKAGE = Path(twisted_hangup.__file__).parent

GOOD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BROKEN = b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n"
LONG = b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

#: Of each call, the file of our function, as a path in the package.
Journey: TypeAlias = list[str]


@asynccontextmanager
async def recorded() -> AsyncIterator[Journey]:
    """Note the calls while the block runs, and not what had begun before."""
    await deferLater(reactor, 0)
    files: Journey = []
    folder = f"{PACKAGE}/"

    def call(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name[0] != "<" and file.startswith(folder):
            files.append(file.removeprefix(folder))

    sys.setprofile(call)
    try:
        yield files
    finally:
        sys.setprofile(None)


def path(journey: Journey) -> list[str]:
    return [file for file, _ in groupby(journey)]


def counts(journey: Journey) -> tuple[int, ...]:
    files, moves = {*journey}, len(path(journey)) - 1
    rooms = {file.split("/")[0] if "/" in file else "" for file in files}
    return len(journey), len(files), moves, moves - (len(files) - 1), len(rooms)


class Peer(Protocol):
    """The other end of a connection: a client, or the server behind the proxy."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.left = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.left = True

    async def send(self, data: bytes, until: Callable[[], object]) -> None:
        """Send *data*, and wait until what is wanted of it has happened."""
        self.received = b""
        self.transport.write(data)
        await come_true(until)

    def answered(self) -> bool:
        return self.received.endswith(b"hello")


class Root(Resource):
    """Says hello at ``/``; what it begins elsewhere takes until it is cancelled."""

    isLeaf = True
    begun = cancelled = False

    def render_GET(self, request: Request) -> bytes | int:
        if request.uri == b"/":
            return b"hello"
        self.begun = True
        cancel_on_hangup(request, Deferred(self.cancel)).addErrback(lambda _: None)
        return NOT_DONE_YET

    def cancel(self, _: Deferred[Any]) -> None:
        self.cancelled = True


def passes(failure: Failure, socket: ClientSocket) -> Failure:
    return failure


async def come_true(true: Callable[[], object]) -> None:
    while not true():
        await deferLater(reactor, 0)


async def listen(factory: Any) -> int:
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    return int(port.getHost().port)


async def connect(resource: Resource) -> Peer:
    """A client, connected to a site of its own."""
    site = HangupSite(resource)
    site.on_client_error(passes)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", await listen(site))
    peer: Peer = await connectProtocol(endpoint, Peer())
    return peer


async def good() -> Journey:
    client = await connect(Root())
    await client.send(GOOD, client.answered)
    async with recorded() as journey:
        await client.send(GOOD, client.answered)
    return journey


async def broken() -> Journey:
    client = await connect(Root())
    await client.send(GOOD, client.answered)
    async with recorded() as journey:
        await client.send(BROKEN, lambda: client.received)
    return journey


async def hang_up(leave: str) -> Journey:
    root = Root()
    client = await connect(root)
    await client.send(LONG, lambda: root.begun)
    async with recorded() as journey:
        getattr(client.transport, leave)()
        await come_true(lambda: root.cancelled and client.left)
    return journey


async def proxied() -> tuple[Journey, Journey]:
    """To the server behind the proxy, and back."""
    servers: list[Peer] = []

    class Server(Peer):
        def connectionMade(self) -> None:
            servers.append(self)

    port = await listen(Factory.forProtocol(Server))
    client = await connect(ProxyResource(f"http://127.0.0.1:{port}/"))
    async with recorded() as there:
        await client.send(GOOD, lambda: servers and servers[0].received)
    async with recorded() as back:
        await servers[0].send(ANSWER, client.answered)
    return there, back


async def main(_: object) -> None:
    there, back = await proxied()
    journeys = {
        "good GET on keep-alive": await good(),
        "broken GET, passed on, default answer": await broken(),
        "FIN in a response, Deferred cancelled": await hang_up("loseWriteConnection"),
        "RST in a response, Deferred cancelled": await hang_up("abortConnection"),
        "proxied GET, client to server": there,
        "proxied GET, server to client": back,
    }
    names = ["calls", "files", "moves", "returns", "rooms"]
    print(" " * 38 + "".join(f"{name:>9}" for name in names))
    for name, journey in journeys.items():
        print(f"{name:38}" + "".join(f"{count:9}" for count in counts(journey)))
        if "--path" in sys.argv:
            print("   ", " > ".join(path(journey)))


react(main)
