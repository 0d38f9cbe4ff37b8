"""What a database must be: seen when it is opened, and when it is no more what it was."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.outboxes import URL, FakeAgent, Start
from support.outboxes import database as database
from support.outboxes import postgres_dsn as postgres_dsn
from support.outboxes import start as start
from support.postgres_server import PostgresServer
from support.wire import PATIENCE, until
from twisted.internet.defer import Deferred

from twisted_hangup import Outbox, OutboxUnavailable
from twisted_hangup.__main__ import main
from twisted_hangup.outbox import OutboxLimits
from twisted_hangup.outbox.database import database_named
from twisted_hangup.outbox.sql import create_tables

_NUMBERS: Final = count()


@pytest.mark.parametrize(
    "name",
    [
        *("mysql://me:secret@db/x", "sqlite:///outbox.sqlite", "MYSQL://x", "redis://x"),
        *("postgresql+psycopg://me:secret@db/x", "file:outbox.sqlite?mode=rwc"),
        *("host=db dbname=x password=secret", "dbname = x", "postgresql:/me:secret@db/x"),
    ],
)
def test_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is meant for another database becomes no file, and no secret is shown."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="neither the path of an SQLite file") as caught:
        Outbox(name)
    assert "secret" not in str(caught.value) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://me:s/secret@db/x", "postgres://me:secret/s@db/x?connect_timeout=5"),
        *("postgresql://me:secret@[::1/x", "postgresql://me:secret%zz@db/x"),
        *("postgresql://db/x?secret", "postgresql://me:s/s?secret=1@db/x"),
    ],
)
def test_no_postgresql_url(url: str) -> None:
    """What libpq does not understand, or would take for another host, may be a password."""
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match="not a PostgreSQL URL") as caught:
        Outbox(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a:b", "x=1", "dir/some file", "C:\\outbox", "/a/user=b/c"])
def test_a_path(name: str) -> None:
    """Most names may be a file's."""
    assert database_named(name).name == name


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o777])
@pytest_twisted.ensureDeferred
async def test_an_open_file_is_closed(mode: int, tmp_path: Path, start: Start) -> None:
    """Nobody but its owner may read a file that was there, nor what SQLite puts beside it."""
    path = tmp_path / "outbox"
    outbox = start(str(path), agent=FakeAgent())
    await outbox.send("POST", URL)
    for one in tmp_path.iterdir():
        one.chmod(mode)
    another = start(str(path), agent=FakeAgent())
    await another.send("POST", URL)
    assert len([*tmp_path.iterdir()]) == 3
    assert {one.stat().st_mode & 0o077 for one in tmp_path.iterdir()} == {0}


@pytest_twisted.ensureDeferred
async def test_anothers_open_file(
    tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """What is not ours to close is not used."""
    path = tmp_path / "outbox"
    path.touch(0o644)
    with mock.patch("os.chmod", side_effect=PermissionError):
        outbox = start(str(path), agent=FakeAgent())
        with pytest.raises(OutboxUnavailable, match="is open to others") as caught:
            await outbox.send("POST", URL)
    assert caught.value.stored is False
    await outbox.send("POST", URL)
    (event,) = expected_errors.flush()
    assert "is open to others" in event["text"]


def remove(path: Path) -> None:
    """All of it, as somebody does who wants to begin anew."""
    for one in path.parent.iterdir():
        one.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("away"))


def restore(path: Path) -> None:
    """An older copy is put in its place."""
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def remove_log(path: Path) -> None:
    """Half of what is stored stands in it."""
    Path(f"{path}-wal").unlink()


@pytest.mark.parametrize("vanish", [remove, rename, restore, remove_log])
@pytest_twisted.ensureDeferred
async def test_a_file_that_goes(
    vanish: Callable[[Path], None], tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """Nobody is told "stored" of what nobody will find again; what is stored then stays."""
    path = tmp_path / "outbox" / "file"
    path.parent.mkdir()
    agent = FakeAgent()
    outbox = start(str(path), agent=agent, deliver=False)
    await outbox.send("POST", URL)
    vanish(path)
    with pytest.raises(OutboxUnavailable, match="deleted or replaced") as caught:
        await outbox.send("POST", URL, key="lost")
    assert caught.value.stored is False
    key = await outbox.send("POST", URL)
    await outbox.stopService()
    start(str(path), agent=agent)
    await until(lambda: key in [sent.key for sent in agent.sent])
    assert "lost" not in [sent.key for sent in agent.sent]
    (event,) = expected_errors.flush()
    assert "deleted or replaced" in event["text"]


@pytest_twisted.ensureDeferred
async def test_numbers_come_again(
    tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """What was delivered from the old file deletes nothing in the new one."""
    path = tmp_path / "outbox"
    answers: list[Deferred[int]] = [Deferred(), Deferred()]
    agent = FakeAgent(lambda sent: answers[len(agent.sent) - 1])
    outbox = start(str(path), agent=agent, limits=OutboxLimits(deliveries_per_destination=1))
    await outbox.send("POST", URL, None, b"old")
    await until(lambda: agent.sent)
    remove(path)
    with pytest.raises(OutboxUnavailable):
        await outbox.send("POST", URL)
    await outbox.send("POST", URL, None, b"new")
    answers[0].callback(200)
    await until(lambda: len(agent.sent) == 2)
    assert agent.bodies == [b"old", b"new"]
    answers[1].callback(200)
    expected_errors.flush()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "UTF8"])
@pytest_twisted.ensureDeferred
async def test_encodings(
    encoding: str, postgres: PostgresServer, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever encoding a database has, also none: what is stored is delivered."""
    name = f"encoded{next(_NUMBERS)}"
    with import_module("psycopg").connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
            " TEMPLATE template0"
        )
    dsn = postgres.dsn.replace("/postgres?", f"/{name}?")
    agent = FakeAgent(lambda sent: 404 if sent.body == b"dead" else 200)
    outbox = start(dsn, agent=agent)
    await outbox.send("POST", URL, {"X-Mine": "\xe9"}, b"\0\xff", key="same", ordered=True)
    await until(lambda: agent.sent)
    assert agent.sent[0].headers.getRawHeaders(b"x-mine") == [b"\xe9"]
    assert agent.bodies == [b"\0\xff"]
    await outbox.send("POST", URL, None, b"dead", key="dead")
    await until(outbox.requests)
    await outbox.stopService()
    assert main(["outbox", dsn, "list"]) == 0
    assert "  dead  " in capsys.readouterr().out


@pytest_twisted.ensureDeferred
async def test_an_old_server(
    postgres_dsn: str, start: Start, expected_errors: LoggedErrors
) -> None:
    """It is refused in one line."""
    with mock.patch("twisted_hangup.outbox.database._LEAST_POSTGRESQL", 99):
        outbox = start(postgres_dsn, agent=FakeAgent())
        with pytest.raises(OutboxUnavailable, match="PostgreSQL 99 or later"):
            await outbox.send("POST", URL)
        await outbox.stopService()
    (event,) = expected_errors.flush()
    assert "PostgreSQL 99 or later" in event["text"]


@pytest_twisted.ensureDeferred
async def test_tables_of_another_form(
    database: str, start: Start, expected_errors: LoggedErrors
) -> None:
    """They are not touched, and the reason is told in one line."""
    used = database_named(database)
    with closing(used.connect()) as connection:
        create_tables(connection.cursor(), used)
        connection.execute("ALTER TABLE hangup_outbox_lanes RENAME COLUMN next_at TO other")
        connection.commit()
    outbox = start(database, agent=FakeAgent())
    with pytest.raises(OutboxUnavailable, match=r"tables have another form: .*next_at"):
        await outbox.send("POST", URL)
    with pytest.raises(OutboxUnavailable, match=r"tables have another form: .*next_at"):
        await outbox.stats()
    await outbox.stopService()
    (event,) = expected_errors.flush()
    assert "tables have another form" in event["text"] and "log_failure" not in event


@pytest_twisted.ensureDeferred
async def test_nowhere_to_create_tables(
    postgres_dsn: str, start: Start, expected_errors: LoggedErrors
) -> None:
    """The same where the search path leads nowhere."""
    dsn = postgres_dsn.replace("search_path%3D", "search_path%3Dnowhere_")
    outbox = start(dsn, agent=FakeAgent())
    with pytest.raises(OutboxUnavailable, match="no schema"):
        await outbox.send("POST", URL)
    await outbox.stopService()
    (event,) = expected_errors.flush()
    assert "no schema" in event["text"] and "log_failure" not in event


@pytest_twisted.ensureDeferred
async def test_tables_that_go(database: str, start: Start, expected_errors: LoggedErrors) -> None:
    """They are told of once, and are created again."""
    agent = FakeAgent()
    outbox = start(database, agent=agent, limits=OutboxLimits(poll_seconds=0.05))
    await outbox.send("POST", URL)

    async def delivered() -> bool:
        return not (await outbox.stats()).queued

    await until(delivered)
    connection: Any = (
        import_module("psycopg").connect(database)
        if "://" in database
        else sqlite3.connect(database, timeout=PATIENCE)
    )
    with closing(connection):
        if "://" not in database:
            connection.execute("BEGIN IMMEDIATE")  # all of them go at once
        for table in ("lanes", "requests", "destinations", "version"):
            connection.execute(f"DROP TABLE hangup_outbox_{table}")
        connection.commit()
    await until(lambda: expected_errors.events)
    key = await outbox.send("POST", URL)
    await until(lambda: agent.sent[-1].key == key)
    await outbox.stopService()
    (event,) = expected_errors.flush()
    assert "log_failure" not in event


@pytest_twisted.ensureDeferred
async def test_tables_of_version_1(database: str, start: Start) -> None:
    """They are brought up to date, with what is queued in them."""
    used = database_named(database)
    outbox = start(database, agent=FakeAgent(), deliver=False)
    await outbox.send("POST", URL, key="old", ordered=True)
    await outbox.stopService()
    with closing(used.connect()) as connection:
        connection.execute("ALTER TABLE hangup_outbox_destinations DROP COLUMN held")
        if used.shared_writes:
            connection.execute("DROP FUNCTION hangup_outbox_take_place CASCADE")
            connection.execute("ALTER TABLE hangup_outbox_requests DROP COLUMN place")
            connection.execute(
                "CREATE INDEX hangup_outbox_first ON hangup_outbox_requests (lane, id)"
            )
        connection.execute("UPDATE hangup_outbox_version SET version = 1")
        connection.commit()
    agent = FakeAgent()
    outbox = start(database, agent=agent)
    await outbox.send("POST", URL, key="new", ordered=True)
    await until(lambda: len(agent.sent) == 2)
    assert [sent.key for sent in agent.sent] == ["old", "new"]


@pytest.mark.parametrize(
    "problem, words",
    [
        (ModuleNotFoundError("No module named 'psycopg'"), r"'twisted_hangup\[postgres\]'"),
        (
            ImportError("no pq wrapper available."),
            r"the system's libpq \(libpq5\), or: pip",
        ),
    ],
)
def test_what_postgresql_lacks(problem: ImportError, words: str) -> None:
    """One line says what to install: psycopg, or the library of PostgreSQL's that it calls."""
    with (
        mock.patch("twisted_hangup.outbox.database.namedModule", side_effect=problem),
        pytest.raises(ModuleNotFoundError, match=words),
    ):
        Outbox("postgresql://db/x")
