"""Which transports are made to tell, and that they stay what they were."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cleanliness import LoggedErrors
from support.wire import BAD, Paths, has_left, statuses, wait_for
from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.static import Data

from twisted_hangup import HangupSite
from twisted_hangup.testing import feed
from twisted_hangup.transport import sockets
from twisted_hangup.transport.deadlines import Deadlines
from twisted_hangup.transport.layers import host_of
from twisted_hangup.transport.sockets import (
    LARGEST_READ,
    LARGEST_WRITE,
    ConnectionBroken,
    JointWrites,
    SendWatch,
    TellingSocket,
    adopted,
    telling,
)


class ReadsItself(tcp.Server):
    """An application's own way to read."""

    def doRead(self) -> Any:
        return super().doRead()


class WritesItself(tcp.Server):
    """An application's own way to write."""

    def writeSomeData(self, data: Any) -> int:
        return len(data)


class Counts(tcp.Server):
    """Has more to do when a connection ends, and reads as Twisted does."""

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)


def unconnected(kind: Any) -> Any:
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", [tcp.Server, tcp.Client, unix.Server, unix.Client, Counts])
def test_sockets_are_adopted(kind: Any) -> None:
    """A socket of Twisted's tells from then on, and is still of its own class."""
    transport = unconnected(kind)
    assert adopted(transport) is transport
    assert isinstance(transport, TellingSocket) and isinstance(transport, kind)
    assert adopted(transport) is transport
    assert type(transport) is telling(kind)


def test_port_makes_sockets_that_tell() -> None:
    """The first connection of a port is changed, and the port makes the others so itself."""
    port: Any = tcp.Port(0, Factory())
    first = unconnected(tcp.Server)
    first.server = port
    adopted(first)
    assert port.transport is telling(tcp.Server)


@pytest.mark.parametrize("transport", [StringTransport(), unconnected(ReadsItself)])
def test_others_are_left_as_they_are(transport: Any) -> None:
    """A transport in memory, and one that its application reads in a way of its own."""
    kind = type(transport)
    assert adopted(transport) is None
    assert type(transport) is kind


def test_every_socket_is_watched() -> None:
    """Whoever reads and writes it, a peer that takes nothing is noticed; nothing else changes."""
    transport = unconnected(WritesItself)
    transport.server = port = tcp.Port(0, Factory())
    port.transport = WritesItself
    stalled: list[float] = []
    clock = Clock()
    watch = SendWatch(transport, Deadlines(clock), 5, lambda: stalled.append(clock.seconds()))
    watch.start()
    clock.advance(4)
    transport.writeSomeData(b"x")
    clock.pump([0.25] * 24)
    assert stalled == [10.0]  # it looks once a second
    assert isinstance(transport, WritesItself) and not isinstance(transport, TellingSocket)
    assert port.transport is WritesItself


class Fails(telling(tcp.Server)):  # type: ignore[misc]
    """Raises when it sends."""

    def send_joined(self) -> None:
        raise ZeroDivisionError("a bug")


class Sends(telling(tcp.Server)):  # type: ignore[misc]
    sent = 0

    def send_joined(self) -> None:
        self.sent += 1


def test_joint_writes_go_on(expected_errors: LoggedErrors) -> None:
    """What one transport raises is logged, and keeps no other from sending."""
    writes = JointWrites(clock := Clock())
    writes.add(unconnected(Fails))
    writes.add(other := unconnected(Sends))
    clock.advance(0)
    assert other.sent == 1
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


class Reads(Protocol):
    """Reads a body: so many times it says that more of it comes."""

    def __init__(self, times: int, size: int) -> None:
        self.times, self.size = times, size
        self.reads: list[int] = []

    def dataReceived(self, data: bytes) -> None:
        self.reads.append(len(data))
        if self.times:
            self.times -= 1
            transport: Any = self.transport
            transport.expect(self.size)


class Endless:
    """A socket that has as much as is asked for, until *most* bytes were."""

    def __init__(self, most: int) -> None:
        self.left = most

    def recv(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        if not size:
            raise BlockingIOError
        return bytes(size)


USUAL: Final = tcp.Connection.bufferSize


@pytest.mark.parametrize(
    "times, size, most, reads",
    [
        (0, 0, 10**7, [USUAL]),
        (1, 0, 10**7, [USUAL, USUAL]),
        (99, 10, 10**7, [USUAL] * (LARGEST_READ // USUAL)),
        (1, 10**7, 10**7, [USUAL, LARGEST_READ]),
        (99, 100_000, 10**7, [USUAL, *[USUAL + 100_000] * 3]),
        (99, 0, 100_000, [USUAL, 100_000 - USUAL]),
    ],
)
def test_bodies_are_read_on(times: int, size: int, most: int, reads: list[int]) -> None:
    """While a body comes, a turn reads more of it at a time and more often, up to a bound."""
    transport: Any = unconnected(telling(tcp.Server))
    transport.protocol = protocol = Reads(times, size)
    protocol.transport = transport
    transport.socket = Endless(most)
    assert transport.doRead() is None
    assert protocol.reads == reads
    if times < 99:
        assert transport.expected is None


class Takes:
    """A socket that takes so much in each call, and then all."""

    def __init__(self, *amounts: int | None) -> None:
        self.amounts = [*amounts]
        self.taken: list[bytes] = []

    def send(self, data: bytes) -> int:
        return self.sendmsg([data])

    def sendmsg(self, pieces: Sequence[bytes]) -> int:
        data = b"".join(pieces)
        if self.amounts and (amount := self.amounts.pop(0)) is not None:
            data = data[:amount]
            if not data:
                raise BlockingIOError
        self.taken.append(data)
        return len(data)


class Pauses:
    """A push producer."""

    paused = 0

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class Writes:
    """A transport over *takes*, its producer, and the turns of its reactor."""

    def __init__(self, takes: Takes) -> None:
        self.takes = takes
        self.clock = MemoryReactorClock()
        self.transport: Any = unconnected(telling(tcp.Server))
        FileDescriptor.__init__(self.transport, self.clock)
        self.transport.connected = 1
        self.transport.socket = takes
        self.transport.fileno = lambda: 0
        self.transport.join(JointWrites(self.clock))
        self.producer = Pauses()
        self.transport.registerProducer(self.producer, True)

    def turn(self) -> None:
        writers = self.clock.getWriters()
        self.clock.advance(0)
        for writer in writers:
            writer.doWrite()


PIECE: Final = bytes(40_000)


def test_much_is_sent_at_once() -> None:
    """What is too much to be kept is sent while it is written, and its producer is not paused."""
    writes = Writes(Takes())
    writes.transport.write(PIECE)
    assert writes.takes.taken == []
    writes.transport.writeSequence([b"", b"x", PIECE])
    assert writes.takes.taken == [PIECE + b"x" + PIECE]
    assert not (writes.producer.paused or writes.transport.unsent or writes.transport.sending)
    writes.turn()
    assert len(writes.takes.taken) == 1 and not writes.clock.getWriters()


def test_one_turn_sends_no_more() -> None:
    """So that other connections get their turn."""
    writes = Writes(Takes())
    while not writes.producer.paused:
        writes.transport.write(PIECE)
    assert sum(map(len, writes.takes.taken)) <= LARGEST_WRITE
    assert writes.transport.unsent <= 2 * len(PIECE)
    sent = len(writes.takes.taken)
    while writes.transport.unsent:
        writes.turn()
    assert len(writes.takes.taken) > sent
    writes.transport.writeSequence([PIECE, PIECE])
    assert writes.transport.unsent == 0


@pytest.mark.parametrize("amounts, given_back", [((), 0), ((1,), 1)], ids=["all", "a part"])
def test_reactor_need_not_forget_what_it_was_not_asked(
    amounts: tuple[int, ...], given_back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent in its own turn, to the last byte, is no affair of the reactor's."""
    writes = Writes(Takes(*amounts))
    monkeypatch.setattr(type(writes.transport), "_closeWriteConnection", lambda _: None)
    removed: list[object] = []
    monkeypatch.setattr(writes.clock, "removeWriter", removed.append)
    writes.transport.unregisterProducer()
    writes.transport.write(b"the last")
    writes.transport.loseWriteConnection()
    writes.turn()
    writes.turn()
    assert b"".join(writes.takes.taken) == b"the last"
    assert removed == [writes.transport] * given_back
    assert not writes.transport.sending


def test_adopted_with_something_to_send() -> None:
    """A transport that has asked the reactor for a turn before it was adopted gives that back."""
    clock = MemoryReactorClock()
    transport: Any = unconnected(tcp.Server)
    FileDescriptor.__init__(transport, clock)
    transport.connected, transport.socket = 1, Takes()
    transport.write(b"hello of TLS")
    adopted(transport)
    transport.join(JointWrites(clock))
    transport.doWrite()
    assert not clock.getWriters()


@pytest.mark.parametrize(
    "name, value",
    [
        ("disconnecting", True),
        ("_writeDisconnecting", True),
        ("_aborting", True),
        ("producer", None),
        ("streamingProducer", False),
        ("producerPaused", True),
        ("dataBuffer", b"before"),
        ("unwritten", object()),
        ("_joint", None),
        ("_room", 10),
        ("fileno", lambda: -1),
    ],
)
def test_not_at_once(name: str, value: object) -> None:
    """If anything else is to be done, Twisted's way is the only one."""
    writes = Writes(Takes())
    setattr(writes.transport, name, value)
    writes.transport.writeSequence([PIECE, PIECE])
    assert writes.takes.taken == []
    assert writes.transport.sending


def test_at_once_only_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere nobody says what the peer has taken of what the kernel holds."""
    monkeypatch.setattr(sockets, "_HELD", None)
    writes = Writes(Takes())
    writes.transport.writeSequence([PIECE, PIECE])
    assert writes.takes.taken == []


def test_failed_at_once() -> None:
    """Whoever writes does not hear of it; the reactor does, in the next turn."""
    writes = Writes(Takes())

    def fails(pieces: object) -> int:
        raise OSError(errno.ECONNRESET, "gone")

    writes.takes.send = writes.takes.sendmsg = fails  # type: ignore[assignment]
    writes.transport.writeSequence([PIECE, PIECE])
    assert writes.producer.paused
    assert writes.transport.unsent == 2 * len(PIECE)
    assert writes.transport.doWrite() is writes.transport.failure


@given(
    st.lists(st.none() | st.sampled_from([0, 1, 40_000, 80_000]) | st.integers(0, 10**6)),
    st.lists(st.lists(st.integers(0, 10**5), max_size=3) | st.just("turn"), max_size=30),
)
def test_order_of_what_is_sent(amounts: list[int | None], steps: list[list[int] | str]) -> None:
    """However much fits, every byte is sent once, in order, and no more waits than before."""
    writes = Writes(Takes(*amounts))
    written, number = [], 0
    for step in steps:
        if isinstance(step, str):
            writes.turn()
            continue
        number += 1
        pieces = [bytes([number % 256]) * size for size in step]
        before = writes.producer.paused
        writes.transport.writeSequence(pieces)
        written += pieces
        waits = len(writes.transport.dataBuffer) + writes.transport._tempDataLen
        if any(pieces) and waits > USUAL:
            assert writes.producer.paused > before
    for _ in range(10 + len(amounts) + len(steps) * 3):
        writes.turn()
    assert writes.transport.unsent == 0
    assert b"".join(writes.takes.taken) == b"".join(written)
    assert writes.transport.taken == len(b"".join(written))


class Loses(Protocol):
    """Remembers why its connection was lost."""

    reason: Failure

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


def reset_transport(protocol: Protocol, reactor: Any) -> Any:
    """A transport that tells, of a connection that its client has reset."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, address = listening.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport = telling(tcp.Server)(accepted, protocol, address, None, 0, reactor)
    protocol.makeConnection(transport)
    client.close()
    wait_for(lambda: has_left(accepted))
    return transport


@pytest.mark.parametrize("again", ["doRead", "doWrite"])
def test_reset_that_a_joint_write_meets(again: str) -> None:
    """It is a reset for whoever reads or writes next, and no end of input."""
    reactor: Any = MemoryReactorClock()
    transport = reset_transport(Protocol(), reactor)
    transport.join(JointWrites(reactor))
    transport.write(b"an answer")
    reactor.advance(0)
    broken = getattr(transport, again)()
    transport.connectionLost(Failure(broken))
    assert isinstance(broken, ConnectionBroken) and broken.code == "ECONNRESET"


def test_reset_that_a_reactor_takes_for_an_end() -> None:
    """Twisted's do where they see an error on a socket before there is anything to read."""
    protocol = Loses()
    transport = reset_transport(protocol, MemoryReactorClock())
    transport.readConnectionLost(connectionDone)
    broken = protocol.reason.value
    assert isinstance(broken, ConnectionBroken) and broken.code == "ECONNRESET"


def test_half_close_is_made_once() -> None:
    """Also where the reactor has sent, in that turn, what it was asked to send before."""
    site = HangupSite(Paths(page=Data(b"x" * 10_000, "text/plain")))
    client = feed(site)
    client.reading = False
    client.feed(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
    client._kernel.reading = True  # from the same turn on in which the server reads
    client.feed(BAD)
    assert statuses(client.received) == [200, 400]
    assert (client.ended, site.open_connections) == ("fin", 1)


def test_half_close_that_fails_is_seen() -> None:
    """Where nothing is written, the end of our half still finds the client gone."""
    site = HangupSite(Resource())
    site.on_client_error(lambda failure, socket: socket.end())
    client = feed(site).reset(errno.EPIPE)
    client.advance(site.context.timeouts.head_seconds + 1)
    assert [error.code for error in client.errors] == ["ERR_HTTP_REQUEST_TIMEOUT"]
    assert site.open_connections == 0


def test_private_names_are_twisteds() -> None:
    """What is used of a transport's insides, for the day on which it is called otherwise."""
    for name in ("_tempDataBuffer", "_tempDataLen", "dataBuffer", "offset", "SEND_LIMIT"):
        assert hasattr(FileDescriptor(None), name)
    for name in ("_maybePauseProducer", "_writeDisconnecting", "_writeDisconnected", "bufferSize"):
        assert hasattr(FileDescriptor, name)
    assert tcp.Connection.TLS is False


def test_host_under_wrappers() -> None:
    """The local address is one object for all connections to it, over TLS as well."""
    addresses: list[object] = []

    def address(*words: object) -> object:
        addresses.append(words)
        return object()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport: Any = object.__new__(tcp.Server)
        transport.socket, transport._addressType = listening, address
        wrapper: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapper.transport = transport
        assert host_of(wrapper) is host_of(wrapper)
        assert addresses == [("TCP", *listening.getsockname())]
