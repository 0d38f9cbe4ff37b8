"""Requests that are stored in the caller's own transaction, on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.awake import Awake
from support.awake import awake as awake
from support.cleanliness import LoggedErrors
from support.outboxes import URL, FakeAgent, Start
from support.outboxes import postgres_dsn as postgres_dsn
from support.outboxes import start as start
from support.postgres_server import PostgresServer
from support.wire import PATIENCE, in_thread, until

from twisted_hangup import KeyInUse, Outbox, OutboxUnavailable
from twisted_hangup.outbox import OutboxLimits

#: Nobody hears of a request in this time by looking.
NEVER: Final = OutboxLimits(poll_seconds=600.0)


class Application:
    """Connections of an application to its own database, which has the outbox's tables."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.outbox = Outbox(dsn)
        self._connections: list[Any] = []
        with self.connect() as connection:
            connection.execute("CREATE TABLE orders (id integer PRIMARY KEY)")

    def connect(self) -> Any:
        self._connections.append(import_module("psycopg").connect(self.dsn))
        return self._connections[-1]

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@pytest.fixture
def application(postgres_dsn: str) -> Iterator[Application]:
    application = Application(postgres_dsn)
    yield application
    application.close()


async def created(start: Start, dsn: str, agent: FakeAgent, **options: Any) -> Outbox:
    """A service that runs, and has created its tables."""
    outbox = start(dsn, agent=agent, **options)
    await outbox.stats()
    return outbox


@pytest_twisted.ensureDeferred
async def test_with_the_transaction(application: Application, start: Start) -> None:
    """What is committed is delivered, at once; what is rolled back was never sent."""
    agent = FakeAgent()
    await created(start, application.dsn, agent, limits=NEVER)
    connection = application.connect()
    cursor = connection.cursor()
    cursor.execute("INSERT INTO orders VALUES (1)")
    application.outbox.send_in(cursor, "POST", URL, None, b"never")
    connection.rollback()
    cursor.execute("INSERT INTO orders VALUES (1)")
    key = application.outbox.send_in(cursor, "PUT", f"{URL}?a", {"X-Mine": "\xe9"}, b"\0body")
    assert not agent.sent
    connection.commit()
    await until(lambda: agent.sent)
    (sent,) = agent.sent
    assert (sent.method, sent.url, sent.body, sent.key) == (
        *(b"PUT", f"{URL}?a".encode(), b"\0body", key),
    )
    assert sent.headers.getRawHeaders(b"x-mine") == [b"\xe9"]


@pytest_twisted.ensureDeferred
async def test_again_and_again(application: Application, start: Start) -> None:
    """Each one is heard of, ordered or not, also while lanes are empty or wait."""
    agent = FakeAgent(lambda sent: 500 if sent.body == b"bad" else 200)
    await created(start, application.dsn, agent, limits=NEVER)
    connection = application.connect()
    orders: list[bool | str] = [False, True, False, True, "tag", False]
    for number, ordered in enumerate(orders):
        body = b"bad" if number == 2 else b"%d" % number
        application.outbox.send_in(connection.cursor(), "POST", URL, None, body, ordered=ordered)
        connection.commit()
        await until(lambda body=body: body in agent.bodies)  # type: ignore[misc]


@pytest.mark.parametrize("delivering", [False, True])
@pytest_twisted.ensureDeferred
async def test_order_is_that_of_commits(
    delivering: bool, application: Application, start: Start
) -> None:
    """Whoever commits first comes first, however early the other one had sent."""
    agent = FakeAgent()
    outbox = await created(start, application.dsn, agent, deliver=delivering)
    connections = [application.connect() for _ in range(4)]
    for number, connection in enumerate(connections):
        application.outbox.send_in(
            connection.cursor(), "POST", URL, None, b"%d" % number, ordered=True
        )
    for number in (2, 0, 3):
        connections[number].commit()
    await outbox.send("POST", URL, None, b"sent", ordered=True)
    connections[1].commit()
    if not delivering:
        start(application.dsn, agent=agent)
    await until(lambda: len(agent.sent) == 5)
    assert agent.bodies == [b"2", b"0", b"3", b"sent", b"1"]


@pytest_twisted.ensureDeferred
async def test_an_open_transaction_holds_up_nobody(application: Application, start: Start) -> None:
    """However long it lasts, its lane goes on, for others that send in theirs as well."""
    agent = FakeAgent()
    outbox = await created(start, application.dsn, agent)
    await outbox.send("POST", URL, None, b"0", ordered=True)
    first, second = application.connect(), application.connect()
    for ordered in (False, True):
        application.outbox.send_in(first.cursor(), "POST", URL, None, b"late", ordered=ordered)
        application.outbox.send_in(second.cursor(), "POST", URL, None, b"1", ordered=ordered)
    second.commit()
    await outbox.send("POST", URL, None, b"2", ordered=True)
    await outbox.send("POST", URL, None, b"2")
    await until(lambda: sorted(agent.bodies) == [b"0", b"1", b"1", b"2", b"2"])
    first.commit()
    await until(lambda: agent.bodies.count(b"late") == 2)


@pytest_twisted.ensureDeferred
async def test_keys(application: Application, start: Start) -> None:
    """A key that is in use ends no transaction: it is said, and all else is stored."""
    await created(start, application.dsn, FakeAgent(), deliver=False)
    connection = application.connect()
    cursor = connection.cursor()
    send_in = application.outbox.send_in
    assert send_in(cursor, "POST", URL, None, b"1", key="k") == "k"
    connection.commit()
    cursor.execute("INSERT INTO orders VALUES (1)")
    assert send_in(cursor, "POST", URL, None, b"1", key="k") == "k"
    for other in ({"body": b"2"}, {"body": b"1", "ordered": True}, {"body": b"1", "method": "PUT"}):
        arguments: Any = {"method": "POST", "url": URL, **other}
        with pytest.raises(KeyInUse, match="k has another request"):
            send_in(cursor, key="k", **arguments)
    with pytest.raises(ValueError, match="not an absolute"):
        send_in(cursor, "POST", "there")
    send_in(cursor, "POST", URL, None, b"3")
    connection.commit()
    assert cursor.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    assert (await start(application.dsn, deliver=False).stats()).queued == 2


@pytest_twisted.ensureDeferred
async def test_from_any_thread(application: Application, start: Start) -> None:
    """Many threads with a connection each: everything arrives once."""
    agent = FakeAgent()
    await created(start, application.dsn, agent)

    def work(thread: int) -> None:
        connection = application.connect()
        for number in range(20):
            body = b"%d %d" % (thread, number)
            ordered = f"{thread}" if thread % 2 else False
            application.outbox.send_in(
                connection.cursor(), "POST", URL, None, body, ordered=ordered
            )
            connection.commit()

    def run() -> None:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(work, range(5)))

    await in_thread(run)
    await until(lambda: len(agent.sent) == 100)
    for thread in (1, 3):
        mine = [body for body in agent.bodies if body.startswith(b"%d " % thread)]
        assert mine == [b"%d %d" % (thread, number) for number in range(20)]
    assert len({*agent.bodies}) == 100


PROGRAM: Final = """
import sys
import psycopg
from twisted_hangup import Outbox

outbox = Outbox(sys.argv[1])
with psycopg.connect(sys.argv[1]) as connection:
    print(outbox.send_in(connection.cursor(), "POST", "http://there.test/hook", key="k"))
assert "twisted.internet.reactor" not in sys.modules
"""


@pytest_twisted.ensureDeferred
async def test_without_a_reactor(application: Application, start: Start) -> None:
    """A program that knows nothing of Twisted needs none."""
    agent = FakeAgent()
    await created(start, application.dsn, agent)
    command = [sys.executable, "-c", PROGRAM, application.dsn]
    ended = await in_thread(
        lambda: subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE)
    )
    assert (ended.returncode, ended.stdout) == (0, b"k\n")
    await until(lambda: agent.sent)


@pytest_twisted.ensureDeferred
async def test_a_connection_that_was_lost(
    application: Application,
    postgres: PostgresServer,
    start: Start,
    expected_errors: LoggedErrors,
) -> None:
    """What nobody heard of while it was gone is found when it is back."""
    agent = FakeAgent()
    outbox: Any = await created(start, application.dsn, agent, limits=NEVER)
    await outbox.send("POST", URL, None, b"0")
    with import_module("psycopg").connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
    connection = application.connect()
    application.outbox.send_in(connection.cursor(), "POST", URL, None, b"1")
    connection.commit()
    await until(lambda: b"1" in agent.bodies)
    expected_errors.flush()


def test_no_tables(application: Application) -> None:
    """Before the first start there are none, which ends no transaction either."""
    connection = application.connect()
    cursor = connection.cursor()
    cursor.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(OutboxUnavailable, match="no tables of an outbox"):
        application.outbox.send_in(cursor, "POST", URL)
    connection.commit()
    assert cursor.execute("SELECT count(*) FROM orders").fetchone() == (1,)


def test_sqlite(tmp_path: Path) -> None:
    """A file has no transactions of others."""
    with pytest.raises(ValueError, match="needs PostgreSQL"):
        Outbox(str(tmp_path / "outbox")).send_in(None, "POST", URL)


def test_an_asynchronous_cursor(application: Application) -> None:
    """It would store nothing, and nobody would hear of that."""
    connection: Any = import_module("psycopg").AsyncConnection
    with pytest.raises(TypeError, match="not asynchronous"):
        application.outbox.send_in(connection, "POST", URL)


@pytest_twisted.ensureDeferred
async def test_stopping_while_listening(
    application: Application, start: Start, awake: Awake
) -> None:
    """Nobody waits for what listens."""
    outbox = await created(start, application.dsn, FakeAgent())
    began = awake.seconds
    await outbox.stopService()
    assert awake.seconds - began < 5
