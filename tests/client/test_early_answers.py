"""A server answers before it has read the request, and closes: its answer is read all the same."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any, Final

import pytest
import pytest_twisted
from support.certificates import pem
from support.upstreams import Connection, RawServer
from support.wire import PATIENCE, Client, Serve, in_thread, settled, talk, until, wait_for
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web.client import FileBodyProducer, PartialDownloadError, readBody

from twisted_hangup import HangupAgent, ProxyResource
from twisted_hangup.transport.sockets import TellingSocket

#: As much as a kernel keeps for a peer that does not read.
WORDS: Final = b"too large\n" * 3000

HEAD: Final = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n"
ANSWERS: Final = {
    "with a length": HEAD + b"Content-Length: %d\r\n\r\n" % len(WORDS) + WORDS,
    "in chunks": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(WORDS)
    + WORDS
    + b"\r\n0\r\n\r\n",
}

TRUST: Final = optionsForClientTLS("localhost", Certificate.loadPEM(pem()))

SMALL, LARGE = 60_000, 3_000_000


def refusing(answer: bytes, connection: Connection) -> None:
    """Answer to a part of the body, and close: that resets, because the rest is not read."""
    connection.read_head()
    connection.read(100)
    connection.send(answer)


class Upstream:
    """A server that refuses, and how to reach it."""

    def __init__(self, kind: str, script: Callable[[Connection], object], path: Path) -> None:
        unix = str(path / "socket") if kind == "UNIX" else None
        tls = None
        if kind == "TLS":
            (path / "server.pem").write_bytes(pem())
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(path / "server.pem")
        self.server = RawServer(script, unix=unix, tls=tls)
        self.url = "http://localhost/"
        self.endpoint: Any = (
            UNIXClientEndpoint(reactor, unix)
            if unix
            else TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.port)
        )
        if tls:
            self.endpoint = wrapClientTLS(TRUST, self.endpoint)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[RawServer], None]:
    """Let a write of a body be overtaken: when it goes on, the server has answered and closed."""
    write: Callable[..., Any] = TellingSocket.writeSomeData

    def make_late(server: RawServer) -> None:
        def write_late(self: Any, data: Any) -> Any:
            if len(data) < SMALL or server.ended:
                return write(self, data)
            write(self, bytes(data[:20_000]))
            wait_for(lambda: server.ended)
            return write(self, data[20_000:])

        monkeypatch.setattr(TellingSocket, "writeSomeData", write_late)

    return make_late


KINDS: Final = pytest.mark.parametrize("kind", ["TCP", "TLS", "UNIX"])
SIZES: Final = pytest.mark.parametrize("size", [SMALL, LARGE])


@KINDS
@SIZES
@pytest.mark.parametrize("answer", ANSWERS)
@pytest_twisted.ensureDeferred
async def test_agent(
    kind: str, size: int, answer: str, late: Callable[[RawServer], None], tmp_path: Path
) -> None:
    """A program gets the answer, whatever has become of the rest of its request."""
    upstream = Upstream(kind, partial(refusing, ANSWERS[answer]), tmp_path)
    late(upstream.server)
    agent = HangupAgent.from_reactor(reactor, endpoint=lambda uri: upstream.endpoint)
    body: Any = FileBodyProducer(BytesIO(bytes(size)))
    response = await agent.request(b"POST", upstream.url.encode(), None, body)
    assert response.code == 413
    assert await readBody(response) == WORDS
    await agent.close()
    upstream.server.close()


@pytest_twisted.ensureDeferred
async def test_file_of_a_held_body(serve: Serve, tmp_path: Path) -> None:
    """It is not read after the answer, when it is closed; Twisted logged that now and then."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.read(100_000)
        connection.send(ANSWERS["with a length"])

    upstream = Upstream("TLS", script, tmp_path)
    proxy = ProxyResource(upstream.url, endpoint=upstream.endpoint, buffer_requests=True)
    served = serve(proxy, parsePOSTFormSubmission=False)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    for _ in range(60):
        received = await talk(served.port, head % LARGE, bytes(LARGE))
        assert received.endswith(b"\r\n\r\n" + WORDS)
    await proxy.pool.close()
    upstream.server.close()


@KINDS
@SIZES
@pytest.mark.parametrize("buffered", [False, True])
@pytest_twisted.ensureDeferred
async def test_proxy(
    kind: str,
    size: int,
    buffered: bool,
    late: Callable[[RawServer], None],
    serve: Serve,
    tmp_path: Path,
) -> None:
    """So does the client of a proxy, and never a 502 in its place."""
    upstream = Upstream(kind, partial(refusing, ANSWERS["with a length"]), tmp_path)
    late(upstream.server)
    proxy = ProxyResource(upstream.url, endpoint=upstream.endpoint, buffer_requests=buffered)
    served = serve(proxy, parsePOSTFormSubmission=False)

    def run() -> bytes:
        client = Client(served.port)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        with suppress(OSError):  # a client may hear that nobody reads
            client.send(head % size, bytes(size))
        received = client.read_all()
        client.close()
        return received

    received = await in_thread(run)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert received.endswith(b"\r\n\r\n" + WORDS)
    await proxy.pool.close()
    upstream.server.close()


@pytest_twisted.ensureDeferred
async def test_answer_that_ends_with_the_connection(
    late: Callable[[RawServer], None], tmp_path: Path
) -> None:
    """It is complete if the server has ended its output before the reset."""

    def script(connection: Connection) -> None:
        refusing(HEAD + b"\r\n" + WORDS, connection)
        connection.socket.shutdown(socket.SHUT_WR)

    upstream = Upstream("TCP", script, tmp_path)
    late(upstream.server)
    agent = HangupAgent.from_reactor(reactor, endpoint=lambda uri: upstream.endpoint)
    body: Any = FileBodyProducer(BytesIO(bytes(LARGE)))
    response = await agent.request(b"POST", upstream.url.encode(), None, body)
    with pytest.raises(PartialDownloadError) as ended:  # Twisted's word for such an end
        await readBody(response)
    assert ended.value.response == WORDS
    await agent.close()
    upstream.server.close()


class Pausing(Protocol):
    """Reads a body when it is told to."""

    def __init__(self) -> None:
        self.body = b""
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.pauseProducing()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.body += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(None)


@KINDS
@pytest_twisted.ensureDeferred
async def test_answer_that_waits_for_its_reader(kind: str, tmp_path: Path) -> None:
    """Who reads it later gets all of it, though the server was noticed to be gone before."""
    paused = Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(ANSWERS["with a length"][:1000])
        paused.wait(PATIENCE)
        connection.send(ANSWERS["with a length"][1000:])

    upstream = Upstream(kind, script, tmp_path)
    agent = HangupAgent.from_reactor(reactor, endpoint=lambda uri: upstream.endpoint)
    body: Any = FileBodyProducer(BytesIO(bytes(30_000_000)))
    response = await agent.request(b"POST", upstream.url.encode(), None, body)
    reader = Pausing()
    response.deliverBody(reader)
    paused.set()
    await until(lambda: upstream.server.ended)
    await settled()
    reader.transport.resumeProducing()  # type: ignore[union-attr]
    await reader.done
    assert reader.body == WORDS
    await agent.close()
    upstream.server.close()
