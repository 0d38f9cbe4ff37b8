"""A database that does not answer: what was promised about time is kept all the same."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.awake import Awake
from support.awake import awake as awake
from support.cleanliness import LoggedErrors
from support.outboxes import URL, FakeAgent, Start
from support.outboxes import database as database
from support.outboxes import postgres_dsn as postgres_dsn
from support.outboxes import start as start
from support.postgres_server import PostgresServer
from support.wire import PATIENCE, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import provider

from twisted_hangup import OutboxUnavailable
from twisted_hangup.outbox import Outbox, OutboxLimits
from twisted_hangup.outbox.database import SQLite
from twisted_hangup.outbox.thread import DatabaseThread, NoAnswer

STORE_SECONDS: Final = 2.0
GRACE_SECONDS: Final = 0.5

#: What a busy machine may add while the reactor runs.
SLACK: Final = 2.0


@contextmanager
def locked(database: str) -> Iterator[None]:
    """Nobody else can write to *database*."""
    if "://" in database:
        connection = import_module("psycopg").connect(database)
        connection.execute("LOCK TABLE hangup_outbox_requests IN ACCESS EXCLUSIVE MODE")
    else:
        connection = sqlite3.connect(database, timeout=PATIENCE, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
    with closing(connection):
        yield
        connection.rollback()


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """*server* answers nobody."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the outbox logs of its database."""
    texts: list[str] = []

    @provider(ILogObserver)
    def note(event: dict[str, Any]) -> None:
        if event.get("log_namespace") == "twisted_hangup.outbox.writer":
            texts.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(note)
    yield texts
    globalLogPublisher.removeObserver(note)


def begin(start: Start, database: str, **options: Any) -> Outbox:
    limits = OutboxLimits(store_seconds=STORE_SECONDS, poll_seconds=0.1)
    return start(database, limits=limits, grace_seconds=GRACE_SECONDS, **options)


async def failed(awake: Awake, *sendings: Deferred[str]) -> list[OutboxUnavailable]:
    """How each ``send()`` fails that has just begun, which it must in time."""
    began = awake.seconds
    errors = []
    for sending in sendings:
        with pytest.raises(OutboxUnavailable) as caught:
            await sending
        errors.append(caught.value)
    assert awake.seconds - began < STORE_SECONDS + SLACK
    return errors


async def sent_again(outbox: Outbox, body: bytes, key: str) -> str:
    """Its key, as soon as the database takes it."""
    while True:
        try:
            return await outbox.send("POST", URL, None, body, key=key)
        except OutboxUnavailable:
            pass


async def stopped(outbox: Outbox, awake: Awake) -> None:
    """The service ends in time."""
    began = awake.seconds
    await outbox.stopService()
    assert awake.seconds - began < GRACE_SECONDS + 1.0 + SLACK


def assert_told_once(lines: list[str]) -> None:
    """Each time that the database is away is told once, and its end; at the end it is back.

    More than one is where the machine stops for so long that nothing answers in time.
    """
    assert lines and len(lines) % 2 == 0
    assert [line.endswith(" is back") for line in lines] == [False, True] * (len(lines) // 2)


@pytest_twisted.ensureDeferred
async def test_locked(
    database: str, start: Start, lines: list[str], awake: Awake, expected_errors: LoggedErrors
) -> None:
    """send() fails in time; the log says so once, and once that it is over; all goes on."""
    agent = FakeAgent()
    outbox = begin(start, database, agent=agent)
    await sent_again(outbox, b"first", "first")
    lines.clear()
    with locked(database):
        sending = [outbox.send("POST", URL, None, b"%d" % n, key=f"k{n}") for n in range(3)]
        await failed(awake, *sending)
    keys = [await sent_again(outbox, b"%d" % n, f"k{n}") for n in range(3)]
    await until(lambda: {*agent.bodies} == {b"first", b"0", b"1", b"2"})
    assert keys == ["k0", "k1", "k2"]
    assert_told_once(lines)
    expected_errors.flush()


@pytest.mark.parametrize("seconds", [1e12, float("inf")])
@pytest_twisted.ensureDeferred
async def test_a_time_without_end(seconds: float, database: str, start: Start) -> None:
    """Whoever waits for ever may."""
    outbox = start(database, deliver=False, limits=OutboxLimits(store_seconds=seconds))
    await outbox.send("POST", URL)


@pytest_twisted.ensureDeferred
async def test_stopping_while_locked(
    database: str, start: Start, awake: Awake, expected_errors: LoggedErrors
) -> None:
    """The service ends, and what waits to be stored fails."""
    agent = FakeAgent(lambda sent: answer)
    answer: Deferred[int] = Deferred()
    outbox = begin(start, database, agent=agent)
    await sent_again(outbox, b"first", "first")
    await until(lambda: agent.sent)
    with locked(database):
        answer.callback(200)
        sending = outbox.send("POST", URL)
        await stopped(outbox, awake)
        await failed(awake, sending)
    expected_errors.flush()


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_stopped(
    postgres: PostgresServer,
    postgres_dsn: str,
    start: Start,
    lines: list[str],
    awake: Awake,
    expected_errors: LoggedErrors,
) -> None:
    """It keeps its connections and says nothing: nobody waits for it, and nothing is lost."""
    agent = FakeAgent()
    outbox = begin(start, postgres_dsn, agent=agent)
    await sent_again(outbox, b"first", "first")
    lines.clear()
    with frozen(postgres):
        (error,) = await failed(awake, outbox.send("POST", URL, None, b"1", key="k"))
        assert error.stored is None
        await failed(awake, outbox.send("POST", URL, None, b"2"))
        await until(lambda: lines)
    assert await sent_again(outbox, b"1", "k") == "k"
    await until(lambda: {*agent.bodies} >= {b"first", b"1"})
    assert_told_once(lines)
    expected_errors.flush()


@pytest_twisted.ensureDeferred
async def test_stopping_with_a_server_that_is_stopped(
    postgres: PostgresServer,
    postgres_dsn: str,
    start: Start,
    awake: Awake,
    expected_errors: LoggedErrors,
) -> None:
    """The service ends, whether or not somebody asks for the state of the queue."""
    outbox = begin(start, postgres_dsn, agent=FakeAgent())
    await sent_again(outbox, b"first", "first")
    with frozen(postgres):
        asking = outbox.stats()
        sending = outbox.send("POST", URL)
        await stopped(outbox, awake)
        for one in (asking, sending):
            with pytest.raises(OutboxUnavailable):
                await one
    expected_errors.flush()


@pytest_twisted.ensureDeferred
async def test_starting_with_a_server_that_is_stopped(
    postgres: PostgresServer,
    postgres_dsn: str,
    start: Start,
    awake: Awake,
    expected_errors: LoggedErrors,
) -> None:
    """There is not even a connection: the same."""
    with frozen(postgres):
        outbox = begin(start, postgres_dsn, agent=FakeAgent())
        (error,) = await failed(awake, outbox.send("POST", URL))
        await stopped(outbox, awake)
    assert error.stored is None
    expected_errors.flush()


@pytest_twisted.ensureDeferred
async def test_refused_is_not_stored(
    postgres: PostgresServer, postgres_dsn: str, start: Start, expected_errors: LoggedErrors
) -> None:
    """Where nothing can have been stored the error says so."""
    clock = Clock()
    with postgres.away():
        outbox: Any = begin(start, postgres_dsn, agent=FakeAgent(), clock=clock)
        sending = outbox.send("POST", URL)
        clock.advance(0)
        while not sending.called:
            await until(lambda: not outbox._writer._thread.busy)
            # One timer at a time: while somebody asks the server, nobody knows.
            clock.advance(clock.getDelayedCalls()[0].getTime() - clock.seconds())
        with pytest.raises(OutboxUnavailable) as caught:
            await sending
        await outbox.stopService()
    assert clock.seconds() == STORE_SECONDS
    assert caught.value.stored is False
    expected_errors.flush()


class Stuck(SQLite):
    """A disk that has gone: whoever asks is not heard of again until `let_go`."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.asked = 0
        self.let_go = threading.Event()

    def has_begun(self, threads: int) -> bool:
        return self.asked == threads

    def connect(self) -> Any:
        self.asked += 1
        self.let_go.wait(PATIENCE)
        return super().connect()


@pytest_twisted.ensureDeferred
async def test_threads_are_bounded(tmp_path: Path) -> None:
    """One that does not come back is left alone; after some, no other is begun until it does."""
    database, clock = Stuck(str(tmp_path / "outbox")), Clock()
    thread = DatabaseThread(database, lambda cursor: None, reactor, clock)

    def ask() -> Deferred[int]:
        question: Callable[[Any], int] = lambda cursor: 7  # noqa: E731
        return thread.run(question, 5.0)

    for begun in (1, 2, 3, 4, 4, 4):
        asking = ask()
        await until(partial(database.has_begun, begun))
        clock.advance(4.9)
        assert asking.called == (len(thread._stuck) == 4)
        clock.advance(0.1)
        with pytest.raises(NoAnswer):
            await asking
    assert database.asked == 4
    database.let_go.set()
    await until(lambda: len(thread._stuck) < 4)
    assert await ask() == 7
    await until(lambda: not thread._stuck)
    await thread.close()
    assert not clock.getDelayedCalls()
