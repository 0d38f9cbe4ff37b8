"""SQLite and PostgreSQL, as far as they differ; and a connection pool that recovers.

Statements are written once, with ``%(name)s`` for parameters; `Database.sql` makes them
what the driver wants.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache
from typing import Any, Final

from twisted.enterprise import adbapi
from twisted.python.reflect import namedModule

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")

#: How long a statement waits for another process that writes to the same SQLite file.
_BUSY_SECONDS: Final = 5.0

#: How often to try to switch a file to WAL that another process is about to switch.
_SWITCH_SECONDS: Final = 0.01

#: The table that tells which form the others have.
VERSION_TABLE: Final = "hangup_outbox_version"

#: Any number, but always the same: processes that start together create the tables once.
_ADVISORY_LOCK: Final = 0x68616E6775700001


class Database(ABC):
    """A database and the words that it has of its own.

    Attributes:
        name: What to call it in a message, without a password.
        driver: DB-API module.
        words: What the statements of `sql` leave open.
        shared_writes: Whether transactions of two processes run at the same time, so that
            one may not see what another is about to commit.
    """

    name: str
    driver: str
    words: dict[str, str]
    shared_writes: bool

    @abstractmethod
    def connect(self) -> Any:
        """A new connection, in which `begin` begins a transaction."""

    @abstractmethod
    def sql(self, statement: str) -> str:
        """The statement in the form of the driver, with the `words` where it names them."""

    @abstractmethod
    def begin(self, cursor: Any) -> None:
        """Begin a transaction that will write."""

    @abstractmethod
    def together(self, cursor: Any) -> AbstractContextManager[object]:
        """A block whose statements need not wait for each other's results.

        Reading a result does; the number of rows is only known after the block.
        """

    @abstractmethod
    def now(self, cursor: Any) -> float:
        """Seconds since the epoch, by the one clock that all processes have in common."""

    @abstractmethod
    def has_tables(self, cursor: Any) -> bool:
        """Whether the tables are there."""

    @abstractmethod
    def lock_tables(self, cursor: Any) -> None:
        """Keep other processes from creating the tables while we do."""

    @abstractmethod
    def is_away(self, error: BaseException) -> bool:
        """Whether an error says that the same may work later: locked, or not connected."""

    @abstractmethod
    def is_failing(self, error: BaseException) -> bool:
        """Whether an error is the database's and not that of what it was asked to do."""

    def explain(self, error: BaseException) -> str:
        """An error of the database in one line."""
        return " ".join(str(error).split()) or type(error).__name__


class SQLite(Database):
    """A file.

    Every commit is on the disk before it counts (``synchronous=FULL``): with WAL alone, a
    power failure could take back what ``send()`` has promised.
    """

    driver = "sqlite3"
    shared_writes = False
    words: Final = {  # type: ignore[misc]
        "id": "integer PRIMARY KEY AUTOINCREMENT",  # a settled id never comes back
        "text": "text",
        "bytes": "blob",
        "least": "min",
        "real": "real",
        "lock": "",
        "skip_locked": "",
    }

    def __init__(self, path: str, seconds: Callable[[], float] = time.time) -> None:
        """
        Args:
            path: Of the file; created, readable for its owner alone, if it is not there.
            seconds: The clock.  All processes with the same file are on one machine.
        """
        if not path or path == ":memory:" or "\0" in path:
            raise ValueError(f"not the name of a file: {path!r}")
        self.name = self._path = path
        self._seconds = seconds

    def connect(self) -> Any:
        # SQLite would make it readable for everybody, and there are credentials in it.
        with suppress(OSError):  # SQLite says better what is wrong
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            self._path,
            timeout=_BUSY_SECONDS,
            isolation_level=None,  # no BEGIN of Python's: it would not be IMMEDIATE
            check_same_thread=False,  # adbapi closes connections from another thread
        )
        try:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def sql(self, statement: str) -> str:
        return _for_sqlite(statement)

    def begin(self, cursor: Any) -> None:
        # A transaction that reads first and then finds that another one has written fails
        # at once, whatever the timeout is.
        cursor.execute("BEGIN IMMEDIATE")

    def together(self, cursor: Any) -> AbstractContextManager[object]:
        return nullcontext()

    def now(self, cursor: Any) -> float:
        return self._seconds()

    def has_tables(self, cursor: Any) -> bool:
        cursor.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,))
        return cursor.fetchone() is not None

    def lock_tables(self, cursor: Any) -> None:
        """Nothing to do: `begin` has locked the file."""

    def is_away(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and any(
            word in str(error) for word in ("locked", "busy")
        )

    def is_failing(self, error: BaseException) -> bool:
        # Full, read-only, gone, not a database: IntegrityError and ProgrammingError are ours.
        return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


class PostgreSQL(Database):
    """A server, and with it the clock and the row locks that several machines share."""

    driver = "psycopg"
    shared_writes = True
    words: Final = {  # type: ignore[misc]
        "id": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "text": 'text COLLATE "C"',  # compared byte by byte, which is fast and enough
        "bytes": "bytea",
        "least": "least",
        "real": "double precision",
        "lock": "FOR UPDATE",
        "skip_locked": "FOR UPDATE SKIP LOCKED",
    }

    def __init__(self, dsn: str) -> None:
        """
        Args:
            dsn: A ``postgresql://`` URL, as libpq takes it.

        Raises:
            ModuleNotFoundError: psycopg is not installed.
            ValueError: libpq does not understand *dsn*.
        """
        try:
            self._psycopg = namedModule("psycopg")
        except ImportError as problem:
            raise ModuleNotFoundError(
                "PostgreSQL needs psycopg 3: pip install 'twisted_hangup[postgres]'"
            ) from problem
        try:
            settings = namedModule("psycopg.conninfo").conninfo_to_dict(dsn)
        except self._psycopg.Error as problem:
            raise ValueError(f"not a PostgreSQL URL: {self.explain(problem)}") from None
        # A server that is gone without a word is noticed within half a minute.
        self._settings = {
            "connect_timeout": 10,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "application_name": "twisted_hangup outbox",
        } | settings
        host, port = settings.get("host", "localhost"), settings.get("port", "5432")
        self.name = f"postgresql://{host}:{port}/{settings.get('dbname', '')}"

    def connect(self) -> Any:
        return self._psycopg.connect(**self._settings)

    def sql(self, statement: str) -> str:
        return statement.format_map(self.words)

    def begin(self, cursor: Any) -> None:
        """Nothing to do: psycopg begins one with the first statement."""

    def together(self, cursor: Any) -> AbstractContextManager[object]:
        # A thread that waits for the server also waits for Python's lock, each time.
        pipeline: AbstractContextManager[object] = cursor.connection.pipeline()
        return pipeline

    def now(self, cursor: Any) -> float:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::double precision")
        return float(cursor.fetchone()[0])

    def has_tables(self, cursor: Any) -> bool:
        # to_regclass() would answer from a cache that does not see what was just created.
        cursor.execute(
            "SELECT 1 FROM pg_class WHERE relname = %s AND pg_table_is_visible(oid)",
            (VERSION_TABLE,),
        )
        return cursor.fetchone() is not None

    def lock_tables(self, cursor: Any) -> None:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))

    def is_away(self, error: BaseException) -> bool:
        # OperationalError is also what a deadlock, a shutdown and a lost connection are.
        errors = self._psycopg.errors
        return isinstance(error, self._psycopg.OperationalError) and not isinstance(
            error, (errors.DiskFull, errors.OutOfMemory)
        )

    def is_failing(self, error: BaseException) -> bool:
        # What is left of OperationalError, and a server that has become read-only.
        errors = self._psycopg.errors
        return isinstance(
            error,
            (
                *(self._psycopg.OperationalError, self._psycopg.InterfaceError),
                *(errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege),
            ),
        )


def database_named(name: str, seconds: Callable[[], float] = time.time) -> Database:
    """The database that a ``postgresql://`` URL or else the path of a file stands for.

    Raises:
        ModuleNotFoundError: psycopg is not installed.
        ValueError: It stands for none.
    """
    if name.startswith(("postgresql:", "postgres:")):
        return PostgreSQL(name)
    return SQLite(name, seconds)


class Session:
    """A cursor of one transaction that takes the statements of `sql` as they stand there."""

    def __init__(self, cursor: Any, database: Database) -> None:
        self._cursor = cursor
        self._database = database

    def execute(self, statement: str, **parameters: object) -> None:
        self._cursor.execute(self._database.sql(statement), parameters)

    def execute_all(self, statement: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Execute it once for each of *rows*, which are its parameters."""
        if rows:
            self._cursor.executemany(self._database.sql(statement), rows)

    def row(self, statement: str, **parameters: object) -> Any:
        """The first row of the result; None without one."""
        self.execute(statement, **parameters)
        return self._cursor.fetchone()

    def rows(self, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
        """All rows of the result."""
        self.execute(statement, **parameters)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    @property
    def changed(self) -> int:
        """How many rows the last statement has changed, or the last `execute_all` together."""
        return int(self._cursor.rowcount)

    def together(self) -> AbstractContextManager[object]:
        """See `Database.together`."""
        return self._database.together(self._cursor)

    def now(self) -> float:
        """See `Database.now`."""
        return self._database.now(self._cursor)


class Pool(adbapi.ConnectionPool):
    """Twisted's pool, which does not keep a connection that is broken, nor log each error.

    Twisted's `reconnect` does more than is needed: it logs a traceback for each failure and
    reports another error than the database's.
    """

    def __init__(self, database: Database, reactor: Any) -> None:
        super().__init__(database.driver, cp_min=0, cp_max=2, cp_reactor=reactor)
        self._database = database
        self.connectionFactory = _Connection

    def connect(self) -> Any:
        """This thread's connection."""
        thread = self.threadID()
        if thread not in self.connections:
            self.connections[thread] = self._database.connect()
        return self.connections[thread]


class _Connection(adbapi.Connection):
    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        if getattr(self._connection, "closed", False):
            self.reconnect()

    def rollback(self) -> None:
        try:
            connection: Any = self._connection
            connection.rollback()
        except Exception:  # the error that led here is the one to tell
            self._pool.disconnect(self._connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL, which is never waited for: not even within the timeout."""
    give_up_at = time.monotonic() + _BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_SWITCH_SECONDS)


@lru_cache(maxsize=256)
def _for_sqlite(statement: str) -> str:
    return _PARAMETER.sub(r":\1", statement.format_map(SQLite.words))
