"""Accepting: exactly as many connections as there is room for, and no busy waiting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.wire import Client, in_thread, until
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent

from twisted_hangup.journal.flood import ThrottledWarning
from twisted_hangup.server.room import Room
from twisted_hangup.service import accept
from twisted_hangup.service.accept import LOOK_SECONDS, REST_SECONDS, Gate


class Greeter(Protocol):
    """Says hello, so that a client knows that it was accepted."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello\n")


class Others:
    """The places of all workers, as a test decides about them."""

    def __init__(self) -> None:
        self.held = 0
        self.most: int | None = 2
        self.theirs = 0
        self.leads = True
        self.waits = [0.0]
        self.locks: list[float] = []
        self.events: list[str] = []

    @property
    def excess(self) -> float:
        return -inf if self.most is None else self.held + self.theirs - self.most

    def wait_seconds(self) -> float:
        return self.waits.pop(0) if self.waits else 0.0

    def lock(self) -> float:
        seconds = self.locks.pop(0) if self.locks else 0.0
        self.events += [] if seconds else ["lock"]
        return seconds

    def unlock(self) -> None:
        self.events.append(f"unlock with {self.held}")


class Guarded:
    """A port behind a gate, and what the gate has said."""

    def __init__(self, most: int | None, places: Others | None = None) -> None:
        from twisted.internet import reactor as installed

        self.reactor: Any = installed
        self.clock = Clock()
        self.gate = Gate(self.clock, most, places=places)
        factory: Any = Factory.forProtocol(Greeter)
        self.port: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.gate.guard(self.port)
        self.events: Sequence[LogEvent] = []

    @property
    def warnings(self) -> list[str]:
        """The warnings of the gate so far."""
        return [
            formatEvent(event)
            for event in self.events
            if event.get("log_namespace") == ThrottledWarning.__module__
        ]

    def connect(self) -> Deferred[Client]:
        port = self.port.getHost().port
        return in_thread(lambda: Client(port))

    def accepting(self) -> bool:
        return self.port in self.reactor.getReaders()


@pytest.fixture
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    guarded = Guarded(getattr(request, "param", None))
    with capturedLogs() as guarded.events:
        yield guarded
    guarded.gate.retire()
    pytest_twisted.blockon(guarded.port.stopListening())


def greeting(client: Client) -> Deferred[bytes]:
    return in_thread(lambda: client.read_until(b"\n"))


@pytest.mark.parametrize("guarded", [2], indirect=True)
@pytest_twisted.ensureDeferred
async def test_one_too_many_waits(guarded: Guarded) -> None:
    """Above the limit a client waits, and is served when another one leaves."""
    clients = [await guarded.connect() for _ in range(4)]
    assert [await greeting(client) for client in clients[:2]] == [b"hello\n"] * 2
    await until(lambda: guarded.warnings)
    assert guarded.gate.open == 2
    assert not guarded.accepting()
    assert guarded.warnings == ["All 2 connections are taken; new clients wait until one ends"]

    clients[0].close()
    assert await greeting(clients[2]) == b"hello\n"
    assert guarded.gate.open == 2

    for client in clients[1:]:
        client.close()
    await until(lambda: guarded.gate.open == 0)
    assert guarded.accepting()


@pytest_twisted.ensureDeferred
async def test_many_at_once(guarded: Guarded) -> None:
    """Without a limit everybody who waits is accepted."""
    clients = [await guarded.connect() for _ in range(30)]
    assert [await greeting(client) for client in clients] == [b"hello\n"] * 30
    assert guarded.gate.open == 30
    for client in clients:
        client.close()
    await until(lambda: guarded.gate.open == 0)


@pytest_twisted.ensureDeferred
async def test_out_of_files(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file to open, accepting rests for a second at a time, with one line each."""
    files_left = False
    monkeypatch.setattr(accept, "files_left", lambda: files_left)
    client = await guarded.connect()
    await until(lambda: not guarded.accepting())
    warning = "Out of files with 0 connections open; new clients wait"
    assert guarded.warnings == [warning]

    guarded.clock.advance(REST_SECONDS)
    assert guarded.accepting()
    await until(lambda: not guarded.accepting())
    assert guarded.warnings == [warning] * 2

    files_left = True
    guarded.clock.advance(REST_SECONDS)
    assert await greeting(client) == b"hello\n"
    client.close()
    await until(lambda: guarded.gate.open == 0)


@pytest_twisted.ensureDeferred
async def test_connection_that_ends_while_accepting_rests(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest lasts its second even when connections end, or a flood could shorten it."""
    first = await guarded.connect()
    assert await greeting(first) == b"hello\n"
    monkeypatch.setattr(accept, "files_left", lambda: False)
    second = await guarded.connect()
    await until(lambda: not guarded.accepting())
    first.close()
    await until(lambda: guarded.gate.open == 0)
    assert not guarded.accepting()
    assert len(guarded.clock.getDelayedCalls()) == 1
    second.close()


def test_ports_that_are_ready_at_once(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ports rest together, for one second and on one timer; so does one that comes later."""
    monkeypatch.setattr(accept, "files_left", lambda: False)
    guarded.port.doRead()
    guarded.port.doRead()
    assert len(guarded.clock.getDelayedCalls()) == 1
    later = guarded.reactor.listenTCP(0, guarded.port.factory, interface="127.0.0.1")
    guarded.gate.guard(later)
    assert later not in guarded.reactor.getReaders()
    later.stopListening()


@pytest.mark.parametrize("guarded", [1], indirect=True)
@pytest_twisted.ensureDeferred
async def test_retired_gate_leaves_the_port_closed(guarded: Guarded) -> None:
    """After the end no connection that closes opens the port again."""
    clients = [await guarded.connect() for _ in range(2)]
    assert await greeting(clients[0]) == b"hello\n"
    await until(lambda: not guarded.accepting())
    guarded.gate.retire()
    clients[0].close()
    await until(lambda: guarded.gate.open == 0)
    assert not guarded.accepting()
    clients[1].close()


@pytest_twisted.ensureDeferred
async def test_protocol_that_fails_is_counted_all_the_same(
    guarded: Guarded, expected_errors: LoggedErrors
) -> None:
    """An exception in a protocol neither loses count nor stops accepting."""

    class Broken(Greeter):
        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.loseConnection()
            raise ZeroDivisionError("a bug")

    guarded.port.factory.protocol = Broken
    clients = [await guarded.connect() for _ in range(2)]
    assert [await greeting(client) for client in clients] == [b""] * 2
    await until(lambda: guarded.gate.open == 0)
    assert len(expected_errors.flush(ZeroDivisionError)) == 2
    for client in clients:
        client.close()


@pytest.fixture
def shared() -> Iterator[tuple[Guarded, Others]]:
    """A port that other workers have too."""
    others = Others()
    guarded = Guarded(None, others)
    with capturedLogs() as guarded.events:
        yield guarded, others
    guarded.gate.retire()
    pytest_twisted.blockon(guarded.port.stopListening())


@pytest.mark.parametrize("refusal", ["waits", "locks"])
@pytest_twisted.ensureDeferred
async def test_connection_is_left_to_other_workers(
    shared: tuple[Guarded, Others], refusal: str
) -> None:
    """The port is not read for as long as they say; then the client is accepted."""
    guarded, others = shared
    setattr(others, refusal, [0.25])
    client = await guarded.connect()
    await until(lambda: not guarded.accepting())
    guarded.port.doRead()
    assert len(guarded.clock.getDelayedCalls()) == 1
    guarded.clock.advance(0.25)
    assert guarded.accepting()
    assert await greeting(client) == b"hello\n"
    client.close()
    await until(lambda: guarded.gate.open == 0)
    assert others.held == 0


@pytest.mark.parametrize("refusal", ["waits", "locks"])
@pytest_twisted.ensureDeferred
async def test_worker_does_not_look_away_from_nobody(
    shared: tuple[Guarded, Others], refusal: str
) -> None:
    """Once it has accepted, only the next turn shows whether more clients wait."""
    guarded, others = shared
    setattr(others, refusal, [0.0, 0.25])
    client = await guarded.connect()
    assert await greeting(client) == b"hello\n"
    assert getattr(others, refusal) == []
    assert guarded.accepting()
    assert not guarded.clock.getDelayedCalls()
    client.close()
    await until(lambda: guarded.gate.open == 0)


@pytest_twisted.ensureDeferred
async def test_wait_ends_with_the_reason_for_it(shared: tuple[Guarded, Others]) -> None:
    """A worker whose connections end holds no more than others, and accepts at once."""
    guarded, others = shared
    others.most = None
    clients = [await guarded.connect() for _ in range(2)]
    for client in clients:
        assert await greeting(client) == b"hello\n"
    others.waits = [0.25]
    late = await guarded.connect()
    await until(lambda: not guarded.accepting())
    clients[0].close()
    await until(lambda: guarded.gate.open == 1)
    assert not guarded.accepting()
    others.leads = False
    clients[1].close()
    assert await greeting(late) == b"hello\n"
    assert not guarded.clock.getDelayedCalls()
    late.close()
    await until(lambda: guarded.gate.open == 0)


@pytest_twisted.ensureDeferred
async def test_place_that_another_worker_takes_meanwhile(
    shared: tuple[Guarded, Others], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has taken a free place makes no room, whatever the others take after that."""
    guarded, others = shared
    room = Room(list, guarded.clock.seconds)
    monkeypatch.setattr(guarded.gate, "_room", room)
    monkeypatch.setattr(others, "unlock", lambda: setattr(others, "theirs", 9))
    client = await guarded.connect()
    assert await greeting(client) == b"hello\n"
    assert not room.turned_away
    client.close()
    await until(lambda: guarded.gate.open == 0)


def test_place_is_taken_before_the_connection(shared: tuple[Guarded, Others]) -> None:
    """While it is looked for, no other worker can take it; if no client is there, it is free."""
    guarded, others = shared
    guarded.port.doRead()
    assert others.events == ["lock", "unlock with 1"]
    assert others.held == 0


@pytest_twisted.ensureDeferred
async def test_places_are_taken_by_other_workers(shared: tuple[Guarded, Others]) -> None:
    """A client waits, and is served once one of theirs has ended, of which nobody tells."""
    guarded, others = shared
    others.theirs = 2
    client = await guarded.connect()
    await until(lambda: guarded.warnings)
    assert guarded.warnings == ["All 2 connections are taken; new clients wait until one ends"]
    assert others.events == ["lock", "unlock with 0"]
    others.theirs = 1
    guarded.clock.advance(LOOK_SECONDS)
    assert await greeting(client) == b"hello\n"
    assert others.held == 1
    client.close()
    await until(lambda: guarded.gate.open == 0)
    assert others.held == 0


def test_foreign_port_is_left_alone() -> None:
    """What is no port of Twisted's is not counted, and not broken."""
    foreign: Any = object()
    Gate(Clock(), 1).guard(foreign)


def test_room_for_connections() -> None:
    """Connections leave some files to others, and one connection is always allowed."""
    assert accept.room_for_connections(1) == 1
    assert 0 < accept.room_for_connections(1024) <= 1024 - accept.LEAST_SPARE
    assert accept.room_for_connections(160_000) <= 150_000
