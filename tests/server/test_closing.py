"""The last answer can be read, by clients that are still sending and by slow ones."""

from __future__ import annotations

import http.client
import time
from typing import Any

import pytest
import pytest_twisted
import treq
from support.wire import BAD, DEFAULT, Client, Paths, Serve, in_thread, pause, talk
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.web.client import Agent

from twisted_hangup import ClientSocket, HangupSite, Limits, Timeouts
from twisted_hangup.transport.deadlines import Deadlines

MIB = 1024 * 1024
UPLOAD = 8 * MIB


def upload_with_http_client(port: int) -> int:
    """POST 8 MiB with the standard library, which reads only when it has sent everything."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest("POST", "/fast")
        connection.putheader("Content-Length", str(UPLOAD))
        connection.putheader("X-Broken", "a\x01b")
        connection.endheaders()
        body = bytes(64 * 1024)
        for _ in range(UPLOAD // len(body)):
            connection.send(body)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest_twisted.ensureDeferred
async def test_http_client_reads_an_early_answer(serve: Serve) -> None:
    """http.client learns why its 8 MiB upload was refused, every time."""
    served = serve()
    for _ in range(5):
        assert await in_thread(lambda: upload_with_http_client(served.port)) == 400


@pytest_twisted.ensureDeferred
async def test_treq_reads_an_early_answer(serve: Serve) -> None:
    """treq learns why its 8 MiB upload was refused, every time."""
    from twisted.internet import reactor

    served = serve(limits=Limits(body_bytes=1))
    agent = Agent(reactor)
    for _ in range(5):
        url = f"http://127.0.0.1:{served.port}/fast"
        response = await treq.post(url, data=bytes(UPLOAD), agent=agent, timeout=20)
        assert response.code == 413
        await response.content()


@pytest_twisted.ensureDeferred
async def test_slow_reader_of_a_large_answer(serve: Serve) -> None:
    """A client that reads slowly gets all of a 1 MB error page."""
    served = serve(timeouts=Timeouts(linger_silence_seconds=0.5))
    page = bytes(range(256)) * 4096
    served.site.on_client_error(lambda failure, socket: page)

    def run() -> bytes:
        client = Client(served.port, receive_buffer=16 * 1024).send(BAD)
        received = bytearray()
        while more := client.socket.recv(64 * 1024):
            received += more
            time.sleep(0.02)
        client.close()
        return bytes(received)

    assert await in_thread(run) == page


@pytest_twisted.ensureDeferred
async def test_close_with_unread_input(serve: Serve) -> None:
    """A response before Connection: close is whole, though input behind it stays unread."""
    from twisted.web.static import Data

    page = bytes(range(256)) * 4096
    served = serve()
    served.root.putChild(b"page", Data(page, "application/octet-stream"))
    wire = b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + bytes(300 * 1024)

    def run() -> bytes:
        client = Client(served.port)
        client.socket.setblocking(False)
        sent = 0
        while sent < len(wire):
            try:
                sent += client.socket.send(wire[sent : sent + 4096])
            except BlockingIOError:
                break
        time.sleep(0.2)
        client.socket.settimeout(10)
        received = client.read_all()
        client.close()
        return received

    for _ in range(5):
        assert (await in_thread(run)).endswith(page)


@pytest_twisted.ensureDeferred
async def test_silent_client_is_closed_on(serve: Serve) -> None:
    """A client that keeps its half open in silence is closed after linger_silence_seconds."""
    served = serve(timeouts=Timeouts(linger_silence_seconds=0.3))
    client = await in_thread(lambda: Client(served.port).send(BAD))
    assert await in_thread(client.read_all) == DEFAULT
    assert served.site.open_connections == 1
    await pause(1.5)
    assert served.site.open_connections == 0
    client.close()


@pytest.mark.parametrize("kind", [StringTransport, StringTransportWithDisconnection])
def test_answer_on_a_transport_in_memory(kind: type[StringTransport]) -> None:
    """Twisted's own transports for tests do: they have no half-close, and none is missed."""
    clock = Clock()
    site = HangupSite(Paths(), reactor=clock)
    protocol: Any = site.buildProtocol(IPv4Address("TCP", "192.0.2.7", 51410))
    transport: Any = kind()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    protocol.dataReceived(BAD)
    clock.advance(0)
    assert transport.value() == DEFAULT
    if kind is StringTransport:
        assert transport.disconnecting
        protocol.connectionLost(Failure(ConnectionDone()))
    assert clock.getDelayedCalls() == []


class FakeTransport(StringTransport):
    """A transport that notes how it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def loseConnection(self) -> None:
        self.calls.append("close")

    def abortConnection(self) -> None:
        self.calls.append("abort")

    def loseWriteConnection(self) -> None:
        self.calls.append("half-close")


class Ended:
    """A socket on a fake transport that has answered and lingers."""

    def __init__(self, **changes: Any) -> None:
        self.clock = Clock()
        self.transport = FakeTransport()
        self.released = 0
        limits = Limits(linger_bytes=1000)
        timeouts = Timeouts(linger_seconds=30, linger_silence_seconds=5)
        self.socket = ClientSocket(
            self.transport,
            peer="peer",
            host="host",
            deadlines=Deadlines(self.clock),
            limits=limits,
            timeouts=timeouts,
            release=self.release,
            watch_sending=lambda: None,
        )

    def release(self) -> None:
        self.released += 1

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds * 4))


def test_end_half_closes_and_waits() -> None:
    """end() writes, closes our half at once, and is over with the client's FIN."""
    ended = Ended()
    ended.socket.end(b"bye")
    assert ended.transport.value() == b"bye"
    assert ended.transport.calls == ["half-close"]
    assert ended.released == 1
    ended.socket.peer_left()
    assert ended.transport.calls == ["half-close", "close"]
    ended.socket.connection_lost()
    assert ended.clock.getDelayedCalls() == []


def test_silence_ends_with_a_plain_close() -> None:
    """A silent peer may still be reading: it gets a close and not a reset."""
    ended = Ended()
    ended.socket.end(b"bye")
    ended.wait(4.5)
    assert ended.transport.calls == ["half-close"]
    ended.wait(2)
    assert ended.transport.calls == ["half-close", "close"]


def test_peer_that_goes_on_sending_is_aborted() -> None:
    """A peer that still sends after linger_seconds is aborted."""
    ended = Ended()
    ended.socket.end(b"bye")
    for _ in range(29):
        ended.wait(1)
        ended.socket.dropped(1)
    assert ended.transport.calls == ["half-close"]
    ended.wait(2)
    assert ended.transport.calls == ["half-close", "abort"]


def test_linger_bytes() -> None:
    """A peer that sends more than linger_bytes is aborted at once."""
    ended = Ended()
    ended.socket.end(b"bye")
    ended.socket.dropped(1000)
    assert ended.transport.calls == ["half-close"]
    ended.socket.dropped(1)
    assert ended.transport.calls == ["half-close", "abort"]


def test_the_time_counts_from_the_flush() -> None:
    """A peer that takes long to read is given its time when it has everything."""
    ended = Ended()
    ended.socket.end(b"bye")
    ended.wait(4)
    ended.socket.flushed()
    ended.wait(4)
    assert ended.transport.calls == ["half-close"]


@pytest.mark.parametrize("again", ["end", "destroy", "respond", "write"])
def test_every_method_is_harmless_after_the_end(again: str) -> None:
    """Nothing is written behind an end, and nothing fails."""
    arguments: dict[str, tuple[Any, ...]] = {"respond": (400,), "write": (b"more",)}
    ended = Ended()
    ended.socket.end(b"bye")
    getattr(ended.socket, again)(*arguments.get(again, ()))
    ended.socket.connection_lost()
    getattr(ended.socket, again)(*arguments.get(again, ()))
    assert ended.transport.value() == b"bye"
    assert ended.released == 1


def test_when_closed() -> None:
    """Each waiter has its own Deferred; cancelling one affects no other."""
    ended = Ended()
    first, second = ended.socket.when_closed(), ended.socket.when_closed()
    second.addErrback(lambda _: None)
    second.cancel()
    fired: list[Any] = []
    first.addCallback(fired.append)
    ended.socket.connection_lost()
    assert fired == [None]
    ended.socket.when_closed().addCallback(fired.append)
    assert fired == [None, None]


@pytest.mark.parametrize(
    "status, headers",
    [
        (100, {}),
        (42, {}),
        (400, {"X": "a\r\nb"}),
        (400, {"X y": "a"}),
        (400, {"": "a"}),
        (400, {"Content-Length": "1"}),
    ],
)
def test_respond_refuses_what_would_break_the_response(status: int, headers: Any) -> None:
    """A response that could not be read as one is the handler's bug, and nothing is written."""
    ended = Ended()
    with pytest.raises(ValueError):  # noqa: PT011  # its words differ
        ended.socket.respond(status, b"", headers)
    assert ended.transport.value() == b""


@pytest_twisted.ensureDeferred
async def test_no_body_in_answer_to_head(serve: Serve) -> None:
    """respond() leaves the body out in answer to HEAD, and keeps its length."""
    served = serve()

    @served.site.on_client_error
    def answer(failure: Failure, socket: ClientSocket) -> None:
        socket.respond(400, b"explained")

    received = await talk(served.port, BAD.replace(b"GET", b"HEAD"))
    assert received.endswith(b"Content-Length: 9\r\n\r\n")
