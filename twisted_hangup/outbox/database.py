"""SQLite and PostgreSQL, as far as they differ.

Statements are written once, with ``%(name)s`` for parameters, or with ``%s`` in their order;
`Database.sql` turns them into the driver's form.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import socket
import sqlite3
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.reflect import namedModule

from ..errors import OutboxUnavailable

_log = Logger()

_QUIET: Final = logging.NullHandler()

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")

#: How long a statement waits for what another process has locked.
LOCK_SECONDS: Final = 5.0

#: How long PostgreSQL works on a statement: one that nobody waits for any more keeps its locks.
_STATEMENT_SECONDS: Final = 60.0

#: The statements need ``ON CONFLICT`` of SQLite, and identity columns of PostgreSQL.
_LEAST_SQLITE: Final = (3, 24)
_LEAST_POSTGRESQL: Final = 10

#: A name that is easily taken for the path of a file, and would create one.
_OTHER_NAME: Final = re.compile(
    r"([a-z][a-z0-9+.-]+(?=://)|(?:file|postgres|postgresql)(?=:))"
    r"|\s*(?:dbname|host|hostaddr|port|service|user)\s*=",
    re.I,
)

_REPLACED: Final = "deleted or replaced while it was open"

#: How often to try to switch a file to WAL while another process may be doing the same.
_SWITCH_SECONDS: Final = 0.01

#: The table with the version of the other tables.
VERSION_TABLE: Final = "hangup_outbox_version"

#: Any number, but always the same: processes that start together create the tables once.
_ADVISORY_LOCK: Final = 0x68616E6775700001


class Database(ABC):
    """A database, with what differs between the two kinds.

    Attributes:
        name: Its name for messages, without a password.
        words: The words that replace the gaps in the statements of `sql`.
        shared_writes: Whether transactions of two processes run at the same time, so that one may
            not see what another is about to commit.
    """

    name: str
    words: dict[str, str]
    shared_writes: bool

    def __init__(self, lock_seconds: float) -> None:
        """
        Args:
            lock_seconds: How long a statement waits for what another process has locked.
        """
        self.lock_seconds = lock_seconds

    @abstractmethod
    def connect(self) -> Any:
        """A new connection, in which `begin` begins a transaction."""

    def is_usable(self, connection: Any) -> bool:
        """Whether a connection can be used for another transaction."""
        return True

    @abstractmethod
    def shut(self, connection: Any) -> None:
        """Called in another thread: let what waits for the database fail, as far as possible."""

    @abstractmethod
    def sql(self, statement: str) -> str:
        """The statement in the driver's form, with its gaps filled from `words`."""

    @abstractmethod
    def begin(self, cursor: Any, *, write: bool = True) -> float:
        """Begin a transaction, which may *write*.

        Returns:
            Seconds since the epoch, by the one clock that all processes have in common.
        """

    @abstractmethod
    def together(self, cursor: Any) -> AbstractContextManager[object]:
        """A block whose statements need not wait for each other's results.

        Reading a result waits.  The number of changed rows is only known after the block.
        """

    @abstractmethod
    def has_tables(self, cursor: Any) -> bool:
        """Whether the tables exist."""

    @abstractmethod
    def lock_tables(self, cursor: Any) -> None:
        """Keep other processes from creating the tables while we do."""

    @abstractmethod
    def is_away(self, error: BaseException) -> bool:
        """Whether the same may work later: the database is locked, or not connected."""

    @abstractmethod
    def is_failing(self, error: BaseException) -> bool:
        """Whether the error is the database's, and not that of the request."""

    @abstractmethod
    def is_stale(self, error: BaseException) -> bool:
        """Whether the file that the connection has opened is gone."""

    def is_certain(self, error: BaseException) -> bool:
        """Whether a transaction that failed with this error has certainly stored nothing."""
        return True

    def explain(self, error: BaseException) -> str:
        """An error of the database in one line."""
        return " ".join(str(error).split()) or type(error).__name__


class SQLite(Database):
    """A file.

    Every commit is on the disk before it counts (``synchronous=FULL``).  With WAL alone, a power
    failure could take back what ``send()`` has promised.
    """

    shared_writes = False
    words: Final = {  # type: ignore[misc]
        "id": "integer PRIMARY KEY AUTOINCREMENT",  # a settled id never comes back
        "text": "text",
        "bytes": "blob",
        "least": "min",
        "real": "real",
        "place": "id",
        "place_column": "",
        "lock": "",
        "skip_locked": "",
    }

    def __init__(
        self,
        path: str,
        seconds: Callable[[], float] = time.time,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        """
        Args:
            path: The file; if it does not exist, it is created, readable for its owner alone.
            seconds: The clock.  All processes that use the file are on one machine.
            lock_seconds: See `Database`.
        """
        super().__init__(lock_seconds)
        if not path or path == ":memory:" or "\0" in path:
            raise ValueError(f"not the name of a file: {path!r}")
        self.name = self._path = path
        self._paths = (path, f"{path}-wal", f"{path}-shm")
        self._seconds = seconds

    def connect(self) -> Any:
        if sqlite3.sqlite_version_info < _LEAST_SQLITE:
            raise OutboxUnavailable(f"SQLite {sqlite3.sqlite_version} is too old")
        # SQLite would make it readable for everybody, and it holds credentials.
        with suppress(OSError):  # SQLite's own error is clearer
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._close_to_others()
        connection = sqlite3.connect(
            self._path,
            timeout=self.lock_seconds,
            isolation_level=None,  # no BEGIN of Python's: it would not be IMMEDIATE
            check_same_thread=False,  # `shut` is called in another one
            factory=_Opened,
        )
        try:
            _use_wal(connection, self.lock_seconds)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # opens the log
            connection.files = self._files()
        except BaseException:
            connection.close()
            raise
        return connection

    def _close_to_others(self) -> None:
        """Take from others their rights to the file, and to the files that SQLite adds."""
        for path in self._paths:
            with suppress(OSError):  # SQLite's own error is clearer
                mode = stat.S_IMODE(os.stat(path).st_mode)
                if mode & (stat.S_IRWXG | stat.S_IRWXO):
                    try:
                        os.chmod(path, mode & stat.S_IRWXU)
                    except OSError:
                        raise OutboxUnavailable(f"{path} is open to others: chmod 600") from None
                    _log.warn("{path} was open to others; now it is its owner's", path=path)

    def _files(self) -> list[tuple[int, int]]:
        """The files that the names of the file and its log stand for right now."""
        try:
            stats = [os.stat(path) for path in self._paths[:2]]
        except OSError:
            return []
        return [(one.st_dev, one.st_ino) for one in stats]

    def shut(self, connection: Any) -> None:
        connection.interrupt()

    def sql(self, statement: str) -> str:
        return _for_sqlite(statement)

    def begin(self, cursor: Any, *, write: bool = True) -> float:
        # If a transaction reads first, and then finds that another one has written, it fails at
        # once, whatever the timeout is.
        cursor.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        # The open file may have lost its name: nobody would find it again.
        if self._files() != cursor.connection.files:
            raise sqlite3.OperationalError(_REPLACED)
        return self._seconds()

    def together(self, cursor: Any) -> AbstractContextManager[object]:
        return nullcontext()

    def has_tables(self, cursor: Any) -> bool:
        cursor.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,))
        return cursor.fetchone() is not None

    def lock_tables(self, cursor: Any) -> None:
        """Nothing to do: `begin` has locked the file."""

    def is_away(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and any(
            word in str(error) for word in ("locked", "busy")
        )

    def is_stale(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and any(
            words in str(error) for words in (_REPLACED, "no such table", "no such column")
        )

    def is_failing(self, error: BaseException) -> bool:
        # Full, read-only, gone, not a database.  IntegrityError and ProgrammingError are our bugs.
        return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


class PostgreSQL(Database):
    """A server, with its clock and with row locks that several machines share."""

    shared_writes = True
    words: Final = {  # type: ignore[misc]
        "id": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "text": 'text COLLATE "C"',  # compared byte by byte, which is fast and enough
        "bytes": "bytea",
        "least": "least",
        "real": "double precision",
        "place": "place, id",
        "place_column": ",\n    place bigint",
        "lock": "FOR UPDATE",
        "skip_locked": "FOR UPDATE SKIP LOCKED",
    }

    def __init__(self, dsn: str, lock_seconds: float = LOCK_SECONDS) -> None:
        """
        Args:
            dsn: A ``postgresql://`` URL in libpq's form.
            lock_seconds: See `Database`.

        Raises:
            ModuleNotFoundError: psycopg is not installed.
            ValueError: libpq does not understand *dsn*.
        """
        super().__init__(lock_seconds)
        try:
            self._psycopg = namedModule("psycopg")
        except ImportError as problem:
            missing = "psycopg 3: pip install 'twisted_hangup[postgres]'"
            if not isinstance(problem, ModuleNotFoundError):  # psycopg is there
                missing = "the system's libpq (libpq5), or: pip install 'psycopg[binary]'"
            raise ModuleNotFoundError(f"PostgreSQL needs {missing}") from problem
        # Without a handler Python writes psycopg's words about each lost connection to stderr.
        logging.getLogger("psycopg").addHandler(_QUIET)
        if "@" in dsn.partition("//")[2].partition("?")[0].partition("/")[2]:
            raise ValueError("not a PostgreSQL URL: write %2F for a slash in its password")
        try:
            settings = namedModule("psycopg.conninfo").conninfo_to_dict(dsn)
        except self._psycopg.Error as problem:
            # libpq quotes what it does not understand, which may be a password.
            why = self.explain(problem).partition('"')[0].rstrip(" :")
            raise ValueError(f"not a PostgreSQL URL: {why}") from None
        # A server that disappears is noticed within half a minute.
        self._settings = {
            "connect_timeout": 10,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "application_name": "twisted_hangup outbox",
        } | settings
        # Otherwise a database without an encoding would return texts as bytes.
        self._settings["client_encoding"] = "UTF8"
        host, port = settings.get("host", "localhost"), settings.get("port", "5432")
        self.name = f"postgresql://{host}:{port}/{settings.get('dbname', '')}"

    def wait_for_notices(self, cursor: Any, seconds: float) -> list[str]:
        """Notices on the channels that the connection listens to; waits up to *seconds* for one."""
        connection = cursor.connection
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.select(seconds)
        connection.pgconn.consume_input()
        notices = iter(connection.pgconn.notifies, None)
        return [notice.extra.decode() for notice in notices]

    def connect(self) -> Any:
        connection = self._psycopg.connect(**self._settings)
        info = connection.info
        if info.encoding != "utf-8":
            wrong = f"the encoding of the connection is {info.encoding}, not UTF-8"
        elif info.server_version < _LEAST_POSTGRESQL * 10_000:
            wrong = f"PostgreSQL {_LEAST_POSTGRESQL} or later is needed"
        else:
            return connection
        connection.close()
        raise OutboxUnavailable(f"{self.name}: {wrong}")

    def is_usable(self, connection: Any) -> bool:
        return not connection.closed

    def shut(self, connection: Any) -> None:
        # Not the connection itself: its thread uses it.
        with (
            suppress(OSError, self._psycopg.Error),  # it may just have closed
            socket.socket(fileno=os.dup(connection.fileno())) as duplicate,
        ):
            duplicate.shutdown(socket.SHUT_RDWR)

    def sql(self, statement: str) -> str:
        return statement.format_map(self.words)

    def begin(self, cursor: Any, *, write: bool = True) -> float:
        # psycopg begins a transaction with the first statement.  A SET for the connection would
        # outlive it if a pooler lends connections to others.
        with self.together(cursor):
            cursor.execute(
                "SELECT extract(epoch FROM clock_timestamp())::double precision,"
                " set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
                (_milliseconds(self.lock_seconds), _milliseconds(_STATEMENT_SECONDS)),
            )
            return float(cursor.fetchone()[0])

    def together(self, cursor: Any) -> AbstractContextManager[object]:
        # A thread that waits for the server also waits for Python's lock, each time.
        pipeline: AbstractContextManager[object] = cursor.connection.pipeline()
        return pipeline

    def has_tables(self, cursor: Any) -> bool:
        # to_regclass() would answer from a cache that does not see a table that was just created.
        cursor.execute(
            "SELECT 1 FROM pg_class WHERE relname = %s AND pg_table_is_visible(oid)",
            (VERSION_TABLE,),
        )
        return cursor.fetchone() is not None

    def lock_tables(self, cursor: Any) -> None:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))

    def is_away(self, error: BaseException) -> bool:
        # OperationalError is also raised for a deadlock, a shutdown and a lost connection.
        errors = self._psycopg.errors
        return isinstance(error, self._psycopg.OperationalError) and not isinstance(
            error, (errors.DiskFull, errors.OutOfMemory)
        )

    def is_stale(self, error: BaseException) -> bool:
        errors = self._psycopg.errors
        return isinstance(
            error, (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName)
        )

    def is_certain(self, error: BaseException) -> bool:
        # Not if the connection or the server went away: perhaps in a commit.
        state = getattr(error, "sqlstate", None)
        return state is not None and not state.startswith(("08", "57P"))

    def is_failing(self, error: BaseException) -> bool:
        # The rest of OperationalError, and a server that has become read-only.
        errors = self._psycopg.errors
        return isinstance(
            error,
            (
                *(self._psycopg.OperationalError, self._psycopg.InterfaceError),
                *(errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege),
            ),
        ) or self.is_stale(error)


def _milliseconds(seconds: float) -> str:
    """For PostgreSQL, which takes 0 for no bound."""
    return f"{max(1, round(seconds * 1000))}ms"


def database_named(
    name: str,
    seconds: Callable[[], float] = time.time,
    lock_seconds: float = LOCK_SECONDS,
) -> Database:
    """The database for a ``postgresql://`` URL or the path of a file.

    Args:
        name: Either of them.
        seconds: See `SQLite`.
        lock_seconds: See `Database`.

    Raises:
        ModuleNotFoundError: psycopg is not installed.
        ValueError: *name* is neither of them.
    """
    if name.startswith(("postgresql://", "postgres://")):
        return PostgreSQL(name, lock_seconds)
    other = _OTHER_NAME.match(name)
    if other is not None:
        what = f"{other[1]}:" if other[1] else "a list of settings"
        raise ValueError(f"neither the path of an SQLite file nor a postgresql:// URL, but {what}")
    return SQLite(name, seconds, lock_seconds)


class Session:
    """A transaction that executes the statements of `sql`.

    Attributes:
        now: When it began, in seconds since the epoch, on the database's clock.
    """

    def __init__(self, cursor: Any, database: Database, *, write: bool = True) -> None:
        self._cursor = cursor
        self._database = database
        self.now = database.begin(cursor, write=write)

    def execute(self, statement: str, **parameters: object) -> None:
        self._cursor.execute(self._database.sql(statement), parameters)

    def execute_all(
        self, statement: str, rows: Sequence[Mapping[str, object] | Sequence[object]]
    ) -> int:
        """Execute a statement once for each of *rows*, its parameters.

        Returns:
            How many rows of the table this has changed, if not `together` with others.
        """
        if not rows:
            return 0
        self._cursor.executemany(self._database.sql(statement), rows)
        return self.changed

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
        """How many rows the last statement has changed."""
        return int(self._cursor.rowcount)

    def together(self) -> AbstractContextManager[object]:
        """See `Database.together`."""
        return self._database.together(self._cursor)


class _Opened(sqlite3.Connection):
    """A connection that knows which files it has opened: the database and its log."""

    files: list[tuple[int, int]]


def _use_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Switch the file to WAL; SQLite never waits for this, not even within the timeout."""
    give_up_at = time.monotonic() + seconds
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_SWITCH_SECONDS)


@lru_cache(maxsize=256)
def _for_sqlite(statement: str) -> str:
    statement = _PARAMETER.sub(r":\1", statement.format_map(SQLite.words))
    return statement.replace("%s", "?")
