"""Uploads that are passed on, in memory: cut at random, with both sides pausing and leaving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from twisted_hangup import HangupSite, ProxyResource
from twisted_hangup.client import connection
from twisted_hangup.events import NEED_DATA, BodyData, EndOfMessage
from twisted_hangup.limits import Limits, OutboundTimeouts, Timeouts
from twisted_hangup.parser import RequestParser
from twisted_hangup.server import bodies
from twisted_hangup.testing import MemoryClient, _Kernel
from twisted_hangup.transport.sockets import LARGE_READ, telling

#: So that a few bytes are more than is held, and more than a transport's buffer takes.
SMALL: Final = 8

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is well!"

#: Most bytes that one read of the proxy gets, as a piece of a body or in chunks.
MOST_READ: Final = 40

#: Most bytes that the proxy may have taken and not passed on: it holds some, the transport does,
#: and one more read is under way.
MOST_BETWEEN: Final = 2 * SMALL + 2 * MOST_READ

#: More than any time-out here.
LONG_SECONDS: Final = 1000


@implementer(IStreamClientEndpoint)
class Endpoint:
    """A server in memory, to which a connection is made at once, or when the test says so."""

    def __init__(self, clock: Clock, at_once: bool) -> None:
        self._clock = clock
        self._at_once = at_once
        self._waiting: tuple[Any, Deferred[Any]] | None = None
        self.kernel: Any = None

    def connect(self, factory: Any) -> Deferred[Any]:
        assert self.kernel is self._waiting is None  # a streamed body is sent once
        connecting: Deferred[Any] = Deferred(lambda _: self.forget())
        self._waiting = factory, connecting
        if self._at_once:
            self.accept()
        return connecting

    def forget(self) -> None:
        self._waiting = None

    def accept(self) -> None:
        """Make the connection, if one is wanted."""
        if self._waiting is not None:
            (factory, connecting), self._waiting = self._waiting, None
            self.kernel = _Kernel(self._clock)
            protocol = factory.buildProtocol(None)
            address = ("192.0.2.9", 80)
            protocol.makeConnection(
                telling(tcp.Server)(self.kernel, protocol, address, None, 80, self.kernel)
            )
            connecting.callback(protocol)


class World:
    """A client, a proxy and a server.

    Args:
        body: What the client uploads, in one piece for each chunk.
        chunked: Whether it sends chunks, and no length.
        at_once: Whether the server accepts connections before the test says so.
    """

    def __init__(self, body: list[bytes], chunked: bool, at_once: bool) -> None:
        self.body = b"".join(body)
        if chunked:
            framing = b"Transfer-Encoding: chunked"
            wire = b"".join(b"%x\r\n%b\r\n" % (len(data), data) for data in body) + b"0\r\n\r\n"
        else:
            framing = b"Content-Length: %d" % len(self.body)
            wire = self.body
        self.unsent, self.size = wire, len(wire)
        clock = Clock()
        self.endpoint = Endpoint(clock, at_once)
        self.proxy = ProxyResource(
            "http://server/",
            reactor=clock,
            endpoint=self.endpoint,
            timeouts=OutboundTimeouts(silence_seconds=50, head_seconds=50),
        )
        self.site = HangupSite(self.proxy, reactor=clock, timeouts=Timeouts(request_seconds=100))
        self.clock = clock
        self.client = MemoryClient(self.site)
        self.client.feed(b"PUT / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
        #: Whether either side has left, or a time-out has come.
        self.disturbed = self.client_left = False

    def act(self, action: tuple[str, int]) -> None:
        what, count = action
        getattr(self, f"do_{what}")(count)
        self.clock.advance(0)

    # What may happen.

    def do_send(self, count: int) -> None:
        if not self.client_left:
            piece, self.unsent = self.unsent[:count], self.unsent[count:]
            self.client.feed(piece)

    def do_accept(self, _: int) -> None:
        self.endpoint.accept()

    def do_server_stops(self, _: int) -> None:
        self._server_reads(False)

    def do_server_reads(self, _: int) -> None:
        self._server_reads(True)

    def _server_reads(self, reads: bool) -> None:
        if self.endpoint.kernel is not None:
            self.endpoint.kernel.reading = reads
            self.endpoint.kernel.wake()

    def do_answer(self, count: int) -> None:
        self._answer(ANSWER[:count])

    def _answer(self, data: bytes) -> None:
        kernel = self.endpoint.kernel
        if kernel is not None and not kernel.input_ended:
            self.disturbed = True  # whatever comes before the upload is over
            kernel.arrived.append(data)
            kernel.input_ended = len(data) < len(ANSWER)
            kernel.wake()

    def do_client_stops(self, _: int) -> None:
        self.client.reading = False

    def do_client_reads(self, _: int) -> None:
        self.client.reading = True

    def do_client_resets(self, _: int) -> None:
        self._leave()
        self.client.reset()

    def do_client_ends(self, _: int) -> None:
        if not self.client_left:
            self._leave()
            self.client.fin()

    def _leave(self) -> None:
        self.client_left = self.disturbed = True

    def do_server_resets(self, _: int) -> None:
        kernel = self.endpoint.kernel
        if kernel is not None:
            self.disturbed = True
            kernel.arrived.clear()
            kernel.error = 104
            kernel.wake()

    def do_wait(self, count: int) -> None:
        self.disturbed = True
        self.client.advance(count)

    # What must be true.

    def look(self) -> bool:
        """Judge what the server has; whether it is complete."""
        kernel = self.endpoint.kernel
        received = b"" if kernel is None else bytes(kernel.received)
        unread = len(self.unsent) + sum(map(len, self.client._kernel.arrived))
        came = len(received.partition(b"\r\n\r\n")[2])
        assert self.disturbed or self.size - unread - came <= MOST_BETWEEN
        parser = RequestParser(Limits())
        parser.receive(received)
        body, ended = b"", False
        while (event := parser.next_event()) is not NEED_DATA:
            if isinstance(event, BodyData):
                body += event.data
            elif isinstance(event, EndOfMessage):
                assert not ended
                ended = True
        assert self.body.startswith(body)
        assert not parser.buffered or not ended
        assert not ended or (body == self.body and not self.unsent)
        return ended

    def finish(self) -> None:
        """Let all that can still happen do so, and look whether anything is left behind."""
        if not self.disturbed:
            self.client.reading = True
            self.act(("send", len(self.unsent)))
            self.act(("accept", 0))
            self.act(("server_reads", 0))
            assert self.look()
            self._answer(ANSWER)
            self.clock.advance(0)
            assert self.client.received.endswith(b"all is well!")
            assert not self.client.errors
        self.look()
        self.do_client_resets(0)
        self.act(("server_reads", 0))
        self.client.advance(LONG_SECONDS)
        self.look()
        assert self.site.open_connections == 0
        assert not self.proxy.pool._all and not self.proxy.pool._connecting
        assert not self.proxy.pool._waiting and not self.clock.getDelayedCalls()


ACTIONS: Final = st.one_of(
    st.tuples(st.just("send"), st.integers(1, MOST_READ)),
    st.sampled_from(
        [
            *(("accept", 0), ("server_stops", 0), ("server_reads", 0)),
            *(("client_stops", 0), ("client_reads", 0)),
        ]
    ),
)
ENDS: Final = st.one_of(
    st.sampled_from([("client_resets", 0), ("client_ends", 0), ("server_resets", 0)]),
    st.tuples(st.just("answer"), st.integers(1, len(ANSWER))),
    st.tuples(st.just("wait"), st.integers(1, 200)),
)


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Fail if an exception is logged, whoever has caught it."""
    events: list[Any] = []

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        if "log_failure" in event or event["log_level"] >= LogLevel.error:
            events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    assert events == []


@settings(deadline=None, max_examples=400)
@given(
    body=st.lists(st.binary(min_size=1, max_size=MOST_READ), max_size=10),
    chunked=st.booleans(),
    at_once=st.booleans(),
    actions=st.lists(ACTIONS, max_size=20),
    disturbed=st.lists(st.one_of(ENDS, ACTIONS), max_size=5),
)
@example([b"x" * 40] * 5, True, False, [("send", 40)] * 9, [])
@example([b"x" * 40] * 5, False, True, [("send", 40), ("server_stops", 0)] * 5, [])
def test_whatever_happens(
    body: list[bytes],
    chunked: bool,
    at_once: bool,
    actions: list[tuple[str, int]],
    disturbed: list[tuple[str, int]],
) -> None:
    """The server gets a prefix of the body, and its end only after the client's; all is over."""
    with pytest.MonkeyPatch.context() as patch, nothing_logged():
        patch.setattr(bodies, "LARGEST_HELD", SMALL)
        patch.setattr(connection, "LARGE_READ", SMALL)
        world = World(body, chunked, at_once)
        for action in actions + disturbed:
            world.act(action)
            world.look()
        world.finish()


def test_large_reads_while_a_body_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload takes fewer turns of the reactor; after its end a read is as small as before."""
    reads: list[int] = []
    recv = _Kernel.recv

    def note(kernel: Any, most: int) -> bytes:
        data = recv(kernel, most)
        reads.append(len(data))
        return data

    small, body = tcp.Connection.bufferSize, [bytes(LARGE_READ)] * 2
    world = World(body, chunked=False, at_once=True)
    monkeypatch.setattr(_Kernel, "recv", note)
    world.act(("send", world.size))
    assert reads == [small, LARGE_READ, LARGE_READ - small]
    world._answer(ANSWER)
    world.clock.advance(0)
    del reads[:]
    world.client.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % bytes(2 * small))
    assert reads[0] == small
