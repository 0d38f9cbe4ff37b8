"""The last answer can be read, by clients that are still sending and by slow ones."""

from __future__ import annotations

import http.client
from typing import Any

import pytest
import pytest_twisted
import treq
from support.certificates import server_context
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    PATIENCE,
    SLOW,
    Client,
    HandClock,
    Paths,
    Serve,
    fill,
    in_thread,
    settled,
    until,
)
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.static import Data

from twisted_hangup import ClientSocket, HangupSite, Limits, Timeouts
from twisted_hangup.testing import End, RecordingSocket, feed

UPLOAD = 8 * 1024 * 1024

#: More than the kernel takes for a client that reads nothing.
SIZE = 16 * 1024 * 1024


def upload_with_http_client(port: int) -> int:
    """POST 8 MiB with the standard library, which reads only when it has sent everything."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
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
    served = serve(reactor=HandClock())
    for _ in range(5):
        assert await in_thread(lambda: upload_with_http_client(served.port)) == 400


@pytest_twisted.ensureDeferred
async def test_treq_reads_an_early_answer(serve: Serve) -> None:
    """treq learns why its 8 MiB upload was refused, every time."""
    from twisted.internet import reactor

    served = serve(limits=Limits(body_bytes=1), reactor=HandClock())
    agent = Agent(reactor)
    for _ in range(5):
        url = f"http://127.0.0.1:{served.port}/fast"
        response = await treq.post(url, data=bytes(UPLOAD), agent=agent, timeout=PATIENCE)
        assert response.code == 413
        await response.content()


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


# An idle connection, and nothing to wait for.


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("wire", [GOOD, b""], ids=["between requests", "before the first"])
@pytest_twisted.ensureDeferred
async def test_drain_waits_for_no_idle_client(serve: Serve, tls: bool, wire: bytes) -> None:
    """An idle connection is closed at once, though its client does not close its half."""
    clock = HandClock()  # which stands: nothing can be over because time has passed
    served = serve(tls=server_context() if tls else None, reactor=clock)
    client = await in_thread(lambda: Client(served.port, tls=tls).send(wire))
    if wire:
        await in_thread(lambda: client.read_until(b"fast"))
    await until(lambda: served.site.context.phases()["idle"])
    await settled()  # until the last of the handshake is sent
    await served.site.drain()
    assert await in_thread(client.read_all) == b""
    client.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_drain_of_a_client_that_reads_nothing(serve: Serve, tls: bool) -> None:
    """The kernel has the last response, and no room for the end of the connection."""
    clock = HandClock()
    served = serve(tls=server_context() if tls else None, reactor=clock)
    client = await in_thread(lambda: Client(served.port, tls=tls).send(GOOD))
    await in_thread(lambda: client.read_until(b"fast"))
    (channel,) = served.site.context.connections
    await fill(channel.transport)
    drained = served.site.drain()
    clock.wait(Timeouts().send_seconds - 1)
    await settled()
    assert not drained.called
    # The client's own kernel may take some more, late; its time then starts anew.
    await clock.wait_until(lambda: drained.called)
    client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_with_everything_and_reads_nothing(serve: Serve) -> None:
    """It has all of a response that is not finished; the kernel has no room for the end."""
    clock = HandClock()
    served = serve(reactor=clock)
    client = await in_thread(lambda: Client(served.port).send(SLOW))
    await until(lambda: served.root.slow.requests)
    (request,) = served.root.slow.requests
    request.setHeader(b"Content-Length", b"5")
    request.write(b"whole")
    await in_thread(lambda: client.read_until(b"whole"))
    (channel,) = served.site.context.connections
    await fill(channel.transport)
    client.end()
    await request.notifyFinish()
    await settled()
    assert served.site.open_connections == 1
    await clock.wait_until(lambda: not served.site.open_connections)
    await served.emptied()
    client.close()


@pytest_twisted.ensureDeferred
async def test_drain_lets_the_last_response_be_taken(serve: Serve) -> None:
    """A client that has still to take its response gets all of it."""
    served = serve(Paths(fast=Data(bytes(SIZE), "text/plain")), reactor=HandClock())
    client = await in_thread(lambda: Client(served.port).send(GOOD))
    await until(lambda: served.site.context.phases()["response"])
    drained = served.site.drain()
    await settled()
    assert not drained.called
    response = await in_thread(client.read_all)
    client.close()
    assert len(response.partition(b"\r\n\r\n")[2]) == SIZE
    await drained


@pytest_twisted.ensureDeferred
async def test_requests_hear_of_their_end_before_the_site_is_empty(serve: Serve) -> None:
    """Who waits for the last connection to go may stop the reactor its requests count on."""
    served = serve()
    started = served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW))
    request = await started
    order: list[str] = []
    request.notifyFinish().addErrback(lambda _: order.append("request"))
    served.site.context.when_empty().addCallback(lambda _: order.append("empty"))
    served.site.hang_up_all()
    await until(lambda: len(order) == 2)
    client.close()
    assert order == ["request", "empty"]


# How the lingering ends.


class Lingering:
    """A client that has been answered, and keeps its half open."""

    def __init__(self, **arguments: Any) -> None:
        self.site = HangupSite(Paths(), **arguments)
        self.client = feed(self.site, BAD)
        assert (self.client.received, self.client.ended) == (DEFAULT, "fin")
        self.assert_open()

    def assert_open(self) -> None:
        assert self.site.open_connections == 1
        assert self.client.ended == "fin"

    def assert_over(self, ended: End) -> None:
        assert self.site.open_connections == 0
        assert self.client.ended == ended
        assert self.client.clock.getDelayedCalls() == []


def test_end_half_closes_and_waits() -> None:
    """Our half is closed at once, and all is over with the client's FIN."""
    lingering = Lingering()
    lingering.client.fin()
    lingering.assert_over("fin")


def test_silence_ends_with_a_plain_close() -> None:
    """A silent peer may still be reading: it gets a close and not a reset."""
    lingering = Lingering()
    lingering.client.advance(4.5)
    lingering.assert_open()
    lingering.client.advance(1)
    lingering.assert_over("fin")


def test_peer_that_goes_on_sending_is_aborted() -> None:
    """A peer that still sends after linger_seconds is aborted."""
    lingering = Lingering()
    for _ in range(29):
        lingering.client.advance(1).feed(b"a")
    lingering.assert_open()
    lingering.client.advance(2)
    lingering.assert_over("reset")


def test_linger_bytes() -> None:
    """A peer that sends more than linger_bytes is aborted at once."""
    lingering = Lingering(limits=Limits(linger_bytes=1000))
    lingering.client.feed(bytes(1000))
    lingering.assert_open()
    lingering.client.feed(b"a")
    lingering.assert_over("reset")


def test_the_time_counts_from_the_flush() -> None:
    """A peer that takes long to read is given its time when it has everything."""
    client = feed(site := HangupSite(Paths()))
    client.reading = False
    client.feed(BAD).advance(4)
    client.reading = True
    client.advance(4)
    assert (client.received, site.open_connections) == (DEFAULT, 1)
    client.advance(2)
    assert site.open_connections == 0


# The socket that a handler gets.


@pytest.mark.parametrize("again", ["end", "destroy", "respond", "write"])
def test_every_method_is_harmless_after_the_end(again: str) -> None:
    """Nothing is written after an end, and nothing fails."""
    arguments: dict[str, tuple[Any, ...]] = {"respond": (400,), "write": (b"more",)}
    sockets: list[ClientSocket] = []
    site = HangupSite(Paths())

    @site.on_client_error
    def end_twice(failure: Failure, socket: ClientSocket) -> None:
        sockets.append(socket)
        socket.end(b"bye")
        getattr(socket, again)(*arguments.get(again, ()))

    client = feed(site, BAD)
    if again != "destroy":
        assert (client.received, client.ended) == (b"bye", "fin")
    client.reset()
    assert sockets[0].closed
    received = client.received
    getattr(sockets[0], again)(*arguments.get(again, ()))
    assert client.advance(1).received == received


def test_when_closed() -> None:
    """Each waiter has its own Deferred; cancelling one affects no other."""
    socket = RecordingSocket()
    first, second = socket.when_closed(), socket.when_closed()
    second.addErrback(lambda _: None)
    second.cancel()
    fired: list[Any] = []
    first.addCallback(fired.append)
    socket.connection_lost()
    assert fired == [None]
    socket.when_closed().addCallback(fired.append)
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
    socket = RecordingSocket()
    with pytest.raises(ValueError):  # noqa: PT011  # its words differ
        socket.respond(status, b"", headers)
    assert socket.received == b""
    assert socket.writable


def test_no_body_in_answer_to_head() -> None:
    """respond() leaves the body out in answer to HEAD, and keeps its length."""
    site = HangupSite(Paths())
    site.on_client_error(lambda failure, socket: socket.respond(400, b"explained"))
    client = feed(site, BAD.replace(b"GET", b"HEAD"))
    assert client.received.endswith(b"Content-Length: 9\r\n\r\n")
