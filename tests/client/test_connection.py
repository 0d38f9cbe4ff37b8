"""What a connection to a server does with its socket."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from support.wire import PATIENCE
from twisted.internet import tcp
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from twisted_hangup.client.connection import OutboundRequest
from twisted_hangup.client.pool import OutboundPool
from twisted_hangup.events import Field, ResponseHead

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Counts(tcp.Server):
    """Counts the turns that it has to write in."""

    turns = 0

    def doWrite(self) -> Any:
        self.turns += 1
        return super().doWrite()


@implementer(IStreamClientEndpoint)
class Pair:
    """Connects to a socket of the test; the reactor is asked for nothing but the time."""

    def __init__(self, reactor: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            self.server, address = listening.accept()
        self.server.setblocking(False)
        client.setblocking(False)
        self._client = client
        server: Any = None
        self.transport = Counts(client, Protocol(), address, server, 0, reactor)

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = self.transport.protocol = factory.buildProtocol(None)
        protocol.makeConnection(self.transport)
        return succeed(protocol)

    def sent(self) -> bytes:
        """What the server gets of what was sent at a time: the kernel may be late."""
        assert select.select([self.server], [], [], PATIENCE)[0]
        return self.server.recv(99)

    def answer(self) -> None:
        """Let the server answer, and the client read that."""
        self.server.send(ANSWER)
        assert select.select([self._client], [], [], PATIENCE)[0]
        self.transport.doRead()


class Takes:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def head(self, head: ResponseHead) -> None:
        self.got.append(head.status)

    def data(self, data: bytes) -> None:
        self.got.append(data)

    def all_read(self) -> None:
        self.got.append("all read")

    def end(self, trailers: list[Field]) -> None:
        self.got.append("end")

    def failed(self, error: Exception) -> None:
        self.got.append(error)


@pytest.fixture
def reactor() -> Any:
    return MemoryReactorClock()


@pytest.fixture
def pair(reactor: Any) -> Iterator[Pair]:
    pair = Pair(reactor)
    yield pair
    pair.server.close()
    pair.transport.abortConnection()
    reactor.advance(0)


def test_requests_are_sent_once_a_turn(reactor: Any, pair: Pair) -> None:
    """Each in one piece, without asking the reactor for a turn to write in."""
    pool = OutboundPool(pair, reactor)
    for _ in range(2):
        receiver = Takes()
        pool.request(OutboundRequest(b"GET", HEAD), receiver)
        with pytest.raises(BlockingIOError):
            pair.server.recv(99)
        reactor.advance(0)
        assert pair.sent() == HEAD
        assert not reactor.getWriters() and not pair.transport.turns
        pair.answer()
        assert receiver.got == [200, b"ok", "end"]


def test_small_body_goes_with_its_head(reactor: Any, pair: Pair) -> None:
    """One send for both."""
    pool = OutboundPool(pair, reactor)
    pool.request(OutboundRequest(b"PUT", HEAD, BytesIO(b"body"), 4), Takes())
    reactor.advance(0)
    assert pair.sent() == HEAD + b"body"
    assert not reactor.getWriters() and not pair.transport.turns
