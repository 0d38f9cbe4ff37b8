"""The outbox as a service: what `send()` promises, on both databases."""

from __future__ import annotations

import gc
import sqlite3
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.outboxes import URL, FakeAgent, Response, Sent, Start
from support.outboxes import database as database
from support.outboxes import postgres_dsn as postgres_dsn
from support.outboxes import start as start
from support.postgres_server import PostgresServer
from support.wire import PATIENCE, HandClock, Paths, settled, until
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from twisted_hangup import KeyInUse, OutboxUnavailable
from twisted_hangup.outbox import (
    Delivery,
    DeliveryPolicy,
    Outbox,
    OutboxLimits,
    QueuedRequest,
    Verdict,
)

#: Waits that a test can wait for.
QUICK = DeliveryPolicy(base_seconds=0.02, cap_seconds=0.05, pause_cap_seconds=0.05)


async def dead_letters(outbox: Outbox) -> list[QueuedRequest]:
    """Wait for some."""
    letters: list[QueuedRequest] = await until(outbox.requests)
    return letters


async def emptied(outbox: Outbox) -> None:
    """Wait until everything is delivered and that is written down."""

    async def empty() -> bool:
        return not (await outbox.stats()).queued

    await until(empty)


@pytest_twisted.ensureDeferred
async def test_delivers(database: str, start: Start) -> None:
    """What is sent arrives as it was given, with its key, and is forgotten."""
    agent = FakeAgent()
    outbox = start(database, agent=agent)
    key = await outbox.send("PUT", f"{URL}?a=b", {"X-Mine": "\xe9"}, b"\0body")
    await until(lambda: agent.sent)
    (sent,) = agent.sent
    assert (sent.method, sent.url, sent.body) == (b"PUT", f"{URL}?a=b".encode(), b"\0body")
    assert sent.headers.getRawHeaders(b"x-mine") == [b"\xe9"]
    assert sent.headers.getRawHeaders(b"idempotency-key") == [key.encode()]
    await outbox.stopService()
    outbox = start(database, agent=agent)
    assert (await outbox.stats()).queued == 0


@pytest_twisted.ensureDeferred
async def test_tries_again_with_the_same_key(database: str, start: Start) -> None:
    """Errors of the connection and of the server are tried again until it is delivered."""
    answers = [ConnectError(), 500, 429, Failure(ValueError()), 204]

    def answer(sent: Sent) -> Any:
        answer = answers[len(agent.sent) - 1]
        return Failure(answer) if isinstance(answer, Exception) else answer

    agent = FakeAgent(answer)
    outbox = start(database, agent=agent, policy=QUICK)
    seen: list[Delivery] = []
    outbox.watch(seen.append)
    key = await outbox.send("POST", URL)
    await until(lambda: seen and seen[-1].verdict is Verdict.DELIVERED)
    assert [sent.key for sent in agent.sent] == [key] * 5
    assert [one.attempt for one in seen] == [1, 2, 3, 4, 5]
    assert [one.problem for one in seen] == [
        *("ConnectError: An error occurred while connecting.", "answered 500 Whatever"),
        *("answered 429 Whatever", "ValueError", None),
    ]


@pytest_twisted.ensureDeferred
async def test_dead_letters(database: str, start: Start) -> None:
    """What is refused for good is kept, can be looked at and sent anew."""
    answer = 404
    agent = FakeAgent(lambda sent: answer)
    outbox = start(database, agent=agent)
    await outbox.send("POST", URL, {"A": "b"}, b"body", key="mine")
    (letter,) = await dead_letters(outbox)
    assert (letter.key, letter.attempts, letter.problem) == ("mine", 1, "answered 404 Whatever")
    assert (letter.url, letter.headers, letter.body_bytes) == (URL, [("A", "b")], 4)
    assert letter.dead_at is not None and not letter.ordered
    answer = 200
    assert await outbox.requeue(["mine"]) == 1
    await until(lambda: len(agent.sent) == 2)
    assert [sent.key for sent in agent.sent] == ["mine", "mine"]


@pytest_twisted.ensureDeferred
async def test_a_redirect_is_told(database: str, start: Start) -> None:
    """It is not followed; whoever looks at the dead letter learns where it led."""
    agent = FakeAgent(lambda sent: Response(307, {"Location": ["https://b.test/x?secret"]}))
    outbox = start(database, agent=agent)
    await outbox.send("POST", URL)
    (letter,) = await dead_letters(outbox)
    assert letter.problem == "answered 307 Whatever to https://b.test/x"


@pytest_twisted.ensureDeferred
async def test_order(database: str, start: Start) -> None:
    """Ordered requests arrive in order though some fail, and others do not wait for them."""
    agent = FakeAgent(lambda sent: 503 if agent.bodies.count(sent.body) % 2 else 200)
    outbox = start(database, agent=agent, policy=QUICK)
    sending = [outbox.send("POST", URL, None, b"%d" % n, ordered=True) for n in range(10)]
    await gatherResults(sending)
    await outbox.send("POST", "http://other.test/", None, b"x")
    await until(lambda: len(agent.sent) == 22)
    assert [body for body in agent.bodies if body != b"x"] == [b"%d" % (n // 2) for n in range(20)]
    assert agent.bodies.index(b"x") < 21


@pytest_twisted.ensureDeferred
async def test_survives_a_restart(database: str, start: Start) -> None:
    """What one process could not deliver, the next one does."""
    first = start(database, agent=FakeAgent(lambda sent: 503))
    keys = await gatherResults([first.send("POST", URL) for _ in range(5)])
    await first.stopService()
    agent = FakeAgent()
    start(database, agent=agent)
    await until(lambda: len(agent.sent) == 5)
    assert {sent.key for sent in agent.sent} == {*keys}


@pytest_twisted.ensureDeferred
async def test_another_process_delivers(database: str, start: Start) -> None:
    """A process that only stores leaves the delivery to one that polls."""
    agent = FakeAgent()
    start(database, agent=agent, limits=OutboxLimits(poll_seconds=0.05))
    storing = start(database, agent=FakeAgent(), deliver=False)
    key = await storing.send("POST", URL)
    await until(lambda: agent.sent)
    assert agent.sent[0].key == key


@pytest_twisted.ensureDeferred
async def test_retry_after(database: str, start: Start) -> None:
    """A server that says when to come back is not asked earlier."""
    agent = FakeAgent(lambda sent: Response(503, {"Retry-After": ["7"]}))
    outbox = start(database, agent=agent, policy=QUICK)
    seen: list[Delivery] = []
    policy = DeliveryPolicy(base_seconds=0.02)
    start(database, agent=FakeAgent(), policy=policy, deliver=False)
    outbox.watch(seen.append)
    await outbox.send("POST", URL)
    await until(lambda: seen)
    assert seen[0].wait_seconds == QUICK.pause_cap_seconds  # no longer than that


@pytest_twisted.ensureDeferred
async def test_together_in_one_transaction(tmp_path: Path, start: Start) -> None:
    """Requests that are sent at the same time wait for the disk once."""
    outbox = start(str(tmp_path / "outbox"), deliver=False)
    await outbox.send("POST", URL)
    writer: Any = import_module("twisted_hangup.outbox.writer")
    with mock.patch.object(writer, "run", wraps=writer.run) as transaction:
        keys = await gatherResults([outbox.send("POST", URL) for _ in range(500)])
    assert len({*keys}) == 500 and transaction.call_count <= 2


@pytest_twisted.ensureDeferred
async def test_bad_arguments_lose_nothing(database: str, start: Start) -> None:
    """One that is refused does not disturb those that are sent with it."""
    outbox = start(database, deliver=False)
    good = [outbox.send("POST", URL, key=f"k{n}") for n in range(3)]
    with pytest.raises(ValueError, match="not an absolute"):
        outbox.send("POST", "there")
    other = outbox.send("POST", URL, None, b"other", key="k1")
    await gatherResults(good)
    with pytest.raises(KeyInUse, match="k1"):
        await other
    assert (await outbox.stats()).queued == 3


@pytest_twisted.ensureDeferred
async def test_one_spoils_nothing(
    database: str, start: Start, expected_errors: LoggedErrors
) -> None:
    """A request that the database does not take fails alone."""
    _outbox_writer: Any = import_module("twisted_hangup.outbox.writer")
    real = _outbox_writer.run

    def run(cursor: Any, database: Any, work: Any) -> Any:
        if any(request.body == b"bad" for request in work.requests):
            raise ArithmeticError("cannot do that")
        return real(cursor, database, work)

    agent = FakeAgent()
    outbox = start(database, agent=agent)
    with mock.patch.object(_outbox_writer, "run", run):
        sending = [outbox.send("POST", URL, None, body) for body in (b"1", b"bad", b"2")]
        with pytest.raises(OutboxUnavailable, match="cannot do that"):
            await sending[1]
        await gatherResults([sending[0], sending[2]])
    await until(lambda: sorted(agent.bodies) == [b"1", b"2"])


@pytest_twisted.ensureDeferred
async def test_not_running(tmp_path: Path, start: Start) -> None:
    """Before the start and after the end nothing is taken in."""
    outbox = Outbox(str(tmp_path / "outbox"))
    with pytest.raises(OutboxUnavailable, match="start the service"):
        outbox.send("POST", URL)
    with pytest.raises(OutboxUnavailable, match="start the service"):
        outbox.stats()
    outbox = start(str(tmp_path / "outbox"))
    sending = outbox.send("POST", URL)
    stopping = outbox.stopService()
    with pytest.raises(OutboxUnavailable):
        outbox.send("POST", URL)
    await sending  # taken in before: stored
    await stopping


@pytest_twisted.ensureDeferred
async def test_stopping_lets_attempts_finish(database: str, start: Start) -> None:
    """An attempt that ends in time is settled."""
    answer: Deferred[int] = Deferred()
    agent = FakeAgent(lambda sent: answer)
    outbox = start(database, agent=agent)
    await outbox.send("POST", URL)
    await until(lambda: agent.sent)
    stopping = outbox.stopService()
    await settled()
    assert not stopping.called
    answer.callback(200)
    await stopping
    assert (await start(database, deliver=False).stats()).queued == 0


@pytest_twisted.ensureDeferred
async def test_stopping_gives_back_the_rest(database: str, start: Start) -> None:
    """An attempt that does not end is cancelled, and the next process begins with it."""
    cancelled: list[object] = []
    clock = HandClock()
    agent = FakeAgent(lambda sent: Deferred(cancelled.append))
    outbox = start(database, agent=agent, clock=clock, grace_seconds=5)
    key = await outbox.send("POST", URL)
    await until(lambda: agent.sent)
    stopping = outbox.stopService()
    clock.advance(5)
    await stopping
    assert len(cancelled) == 1
    agent = FakeAgent()
    start(database, agent=agent, clock=clock)
    await until(lambda: agent.sent)
    assert agent.sent[0].key == key


@pytest_twisted.ensureDeferred
async def test_an_attempt_has_a_time(database: str, start: Start) -> None:
    """A server that does not answer is tried again."""
    agent = FakeAgent(lambda sent: 200 if len(agent.sent) > 1 else Deferred())
    policy = DeliveryPolicy(attempt_seconds=0.1, base_seconds=0.01)
    outbox = start(database, agent=agent, policy=policy)
    seen: list[Delivery] = []
    outbox.watch(seen.append)
    await outbox.send("POST", URL)
    await until(lambda: len(seen) == 2)
    assert [one.problem for one in seen] == ["no response within 0.1 s", None]


@pytest_twisted.ensureDeferred
async def test_a_destination_that_is_down(tmp_path: Path, start: Start) -> None:
    """It is paused after some failures, and probed by one request at a time, on a clock."""
    clock = Clock()
    clock.advance(1e9)
    up = False
    agent = FakeAgent(lambda sent: 200 if up or b"other" in sent.url else 503)
    policy = DeliveryPolicy(failures_to_pause=3, base_seconds=10, pause_cap_seconds=40)
    outbox = start(
        str(tmp_path / "outbox"), agent=agent, policy=policy, clock=clock, jitter=lambda most: most
    )

    async def turn(seconds: float = 0.0) -> None:
        clock.advance(seconds)
        for _ in range(8):  # what the database answers is a reason to ask it again
            await until(lambda: not thread.busy)
            await settled()
            clock.advance(0)

    thread: Any = outbox._writer._thread  # type: ignore[union-attr]

    sending = [outbox.send("POST", URL, None, b"%d" % n, ordered=f"{n}") for n in range(8)]
    clock.advance(0)
    await turn()
    await gatherResults(sending)
    first = len(agent.sent)
    assert 3 <= first <= 8
    sending = [outbox.send("POST", "http://other.test/"), outbox.send("POST", URL)]
    await turn()
    await gatherResults(sending)
    assert len(agent.sent) == first + 1  # the other destination
    await turn(9.9)
    assert len(agent.sent) == first + 1
    await turn(0.2)
    assert len(agent.sent) == first + 2  # the probe fails
    await turn(19.9)
    assert len(agent.sent) == first + 2
    up = True
    for _ in range(4):
        await turn(1)
    assert (await outbox.stats()).queued == 0
    assert len(agent.sent) == first + 2 + 9
    stopping = outbox.stopService()

    def stopped() -> bool:
        clock.advance(0)
        return bool(stopping.called)

    await until(stopped)


@pytest_twisted.ensureDeferred
async def test_a_locked_file_is_waited_for(
    tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """Another program that holds the lock keeps requests waiting, not failing."""
    name = str(tmp_path / "outbox")
    with mock.patch("twisted_hangup.outbox.service.LOCK_SECONDS", 0.05):
        outbox = start(name, deliver=False)
        await outbox.send("POST", URL)
        other = sqlite3.connect(name, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        sending = outbox.send("POST", URL)
        await until(lambda: expected_errors.events)
        await settled()
        assert not sending.called
        other.execute("ROLLBACK")
        other.close()
        await sending
        (event,) = expected_errors.flush()
    assert "database is locked" in event["text"]


@pytest_twisted.ensureDeferred
async def test_a_locked_file_is_not_waited_for_for_ever(
    tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """The time that sending may take is bounded, and the error says why."""
    name = str(tmp_path / "outbox")
    with mock.patch("twisted_hangup.outbox.service.LOCK_SECONDS", 0.05):
        await start(name, deliver=False).send("POST", URL)  # which takes longer
        clock = Clock()
        outbox = start(name, deliver=False, clock=clock)
        other = sqlite3.connect(name, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        sending = outbox.send("POST", URL)
        clock.advance(0)
        await until(lambda: expected_errors.events)
        clock.advance(OutboxLimits().store_seconds)
        with pytest.raises(OutboxUnavailable, match="database is locked"):
            await sending
        other.close()
        await outbox.stopService()
        expected_errors.flush()


@pytest_twisted.ensureDeferred
async def test_a_full_disk(tmp_path: Path, start: Start, expected_errors: LoggedErrors) -> None:
    """send() fails at once and says why; delivery goes on when there is room again."""
    name = str(tmp_path / "outbox")
    agent = FakeAgent()
    outbox = start(name, agent=agent)
    await outbox.send("POST", URL)
    await emptied(outbox)
    _set_most_pages(outbox, 1)
    with pytest.raises(OutboxUnavailable, match="full"):
        await outbox.send("POST", URL, None, b"x" * 1_000_000)
    _set_most_pages(outbox, 1_000_000)
    key = await outbox.send("POST", URL, None, b"x" * 100_000)
    await until(lambda: agent.sent[-1].key == key)
    (event,) = expected_errors.flush()
    assert "full" in event["text"]


def _set_most_pages(outbox: Any, pages: int) -> None:
    connection = outbox._writer._thread._thread._connection
    connection.execute(f"PRAGMA max_page_count = {pages}")


@pytest_twisted.ensureDeferred
async def test_no_such_folder(tmp_path: Path, start: Start, expected_errors: LoggedErrors) -> None:
    """A file that cannot be opened is told to who sends, and to the log in one line."""
    outbox = start(str(tmp_path / "missing" / "outbox"))
    with pytest.raises(OutboxUnavailable, match="unable to open database file"):
        await outbox.send("POST", URL)
    with pytest.raises(OutboxUnavailable, match="unable to open database file"):
        await outbox.stats()
    (tmp_path / "missing").mkdir()
    await outbox.send("POST", URL)
    (event,) = expected_errors.flush()
    assert "unable to open database file" in event["text"]


@pytest_twisted.ensureDeferred
async def test_a_lost_connection(
    postgres: PostgresServer, postgres_dsn: str, start: Start, expected_errors: LoggedErrors
) -> None:
    """A server that restarts keeps requests waiting; all are delivered, none twice stored."""
    agent = FakeAgent()
    limits = OutboxLimits(store_seconds=2 * PATIENCE)  # in which the server is back
    outbox = start(postgres_dsn, agent=agent, limits=limits)
    await outbox.send("POST", URL, None, b"0")
    with import_module("psycopg").connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
    await gatherResults([outbox.send("POST", URL, None, b"%d" % n) for n in range(1, 10)])
    await until(lambda: {*agent.bodies} == {b"%d" % n for n in range(10)})
    known = len(expected_errors.events)
    with postgres.away():
        sending = [outbox.send("POST", URL, None, b"%d" % n) for n in range(10, 20)]
        await until(lambda: len(expected_errors.events) > known)
    keys = await gatherResults(sending)
    await until(lambda: {*agent.bodies} == {b"%d" % n for n in range(20)})
    await emptied(outbox)
    assert len({*keys}) == 10
    assert all("log_failure" not in event for event in expected_errors.flush())


@pytest_twisted.ensureDeferred
async def test_what_waits_is_bounded(tmp_path: Path, start: Start) -> None:
    """A flood while the database is slow does not fill the memory."""
    limits = OutboxLimits(unstored_bytes=100_000)
    outbox = start(str(tmp_path / "outbox"), deliver=False, limits=limits)
    sending = [outbox.send("POST", URL, None, b"x" * 30_000) for _ in range(3)]
    with pytest.raises(OutboxUnavailable, match="wait"):
        outbox.send("POST", URL, None, b"x" * 30_000)
    await gatherResults(sending)
    await outbox.send("POST", URL, None, b"x" * 30_000)


@pytest_twisted.ensureDeferred
async def test_cancelling_withdraws(tmp_path: Path, start: Start) -> None:
    """What is cancelled before it is stored is not stored."""
    outbox = start(str(tmp_path / "outbox"), deliver=False)
    sending = outbox.send("POST", URL)
    sending.cancel()
    with pytest.raises(CancelledError):
        await sending
    await outbox.send("POST", URL)
    assert (await outbox.stats()).queued == 1


@pytest_twisted.ensureDeferred
async def test_a_watcher_that_fails(
    tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """It is logged, and delivery goes on."""
    agent = FakeAgent()
    outbox = start(str(tmp_path / "outbox"), agent=agent)
    forget = outbox.watch(lambda delivery: 1 / 0)
    await outbox.send("POST", URL)
    await until(lambda: agent.sent)
    forget()
    forget()
    await outbox.send("POST", URL)
    await until(lambda: len(agent.sent) == 2)
    assert len(expected_errors.flush(ZeroDivisionError)) == 1
    await emptied(outbox)


class Broken(DeliveryPolicy):
    """A policy with a mistake in it."""

    def judge(self, status: int | None, attempt: int) -> Verdict:
        if attempt == 1:
            raise ZeroDivisionError("a mistake")
        return super().judge(status, attempt)


@pytest_twisted.ensureDeferred
async def test_a_policy_that_raises(
    tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """It is logged, and the request is tried again."""
    agent = FakeAgent()
    outbox = start(str(tmp_path / "outbox"), agent=agent, policy=Broken(base_seconds=0.01))
    await outbox.send("POST", URL)
    await until(lambda: len(agent.sent) == 2)
    await emptied(outbox)
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_stopping_twice(tmp_path: Path, start: Start) -> None:
    """A service that has not started, or was stopped, can be stopped."""
    outbox = Outbox(str(tmp_path / "outbox"), deliver=False)
    await outbox.stopService()
    outbox.startService()
    await outbox.send("POST", URL, key="k")
    await outbox.stopService()
    await outbox.stopService()
    outbox = start(str(tmp_path / "outbox"), deliver=False)
    assert (await outbox.stats()).queued == 1


class Recording(Resource):
    """A real server that remembers keys and bodies."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[bytes | None, bytes]] = []

    def render_POST(self, request: Request) -> Any:
        content: Any = request.content
        body = content.read()
        self.got.append((request.getHeader(b"idempotency-key"), body))
        if body == b"endless":
            request.write(b"x" * 100_000)
            return NOT_DONE_YET
        return b"thanks"


@pytest_twisted.ensureDeferred
async def test_over_sockets(database: str, start: Start, serve: Any) -> None:
    """With Twisted's agent, to a server; and everything is closed after that."""
    root = Recording()
    served = serve(Paths(hook=root))
    outbox = start(database)
    url = f"http://127.0.0.1:{served.port}/hook"
    keys = await gatherResults([outbox.send("POST", url, None, b"%d" % n) for n in range(50)])
    await until(lambda: len(root.got) == 50)
    assert sorted(root.got) == sorted((key.encode(), b"%d" % n) for n, key in enumerate(keys))
    await outbox.stopService()


@pytest_twisted.ensureDeferred
async def test_a_response_without_end(tmp_path: Path, start: Start, serve: Any) -> None:
    """Its status counts, and no more of it is read."""
    root = Recording()
    served = serve(Paths(hook=root))
    outbox = start(str(tmp_path / "outbox"))
    seen: list[Delivery] = []
    outbox.watch(seen.append)
    await outbox.send("POST", f"http://127.0.0.1:{served.port}/hook", None, b"endless")
    await until(lambda: seen)
    assert seen[0].verdict is Verdict.DELIVERED
    await outbox.stopService()


@pytest_twisted.ensureDeferred
async def test_nothing_is_kept_of_what_is_queued(tmp_path: Path, start: Start) -> None:
    """Memory holds what is under way, however much is queued."""
    outbox = start(
        str(tmp_path / "outbox"), agent=FakeAgent(lambda sent: Deferred()), grace_seconds=0
    )
    for _ in range(20):
        await gatherResults([outbox.send("POST", URL, None, b"marked") for _ in range(100)])
    gc.collect()
    held = [one for one in gc.get_objects() if getattr(one, "body", None) == b"marked"]
    assert len(held) < 300  # of 2,000: the last batch, and what is under way
    await outbox.stopService()
