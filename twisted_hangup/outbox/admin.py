"""Looking at the queue and changing it by hand: in the service, and from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ..errors import OutboxUnavailable
from .database import Database
from .request import destination_of, headers_from_text
from .sql import ADD_LANE, WAKE_LANE, check_version, create_tables

T = TypeVar("T")

#: Rows per statement, so that nobody waits long for a lock.
_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request in the store, without its body.

    Attributes:
        id: Grows with each request.
        key: Its ``Idempotency-Key``.
        method: Token.
        url: Absolute, with what secrets its query may hold.
        headers: Pairs of a name and a value, credentials included.
        body_bytes: Length of its body.
        ordered: Whether it waits for those before it.
        stored_at: When it was sent, in seconds since the epoch, as the other times.
        due_at: Not before this is it tried (again).
        expires_at: When it is dead.
        attempts: How many there were.
        problem: How the last one ended; None if there was none, or it is under way.
        dead_at: When it was given up, or None.
    """

    id: int
    key: str
    method: str
    url: str
    headers: list[tuple[str, str]] = field(repr=False)
    body_bytes: int
    ordered: bool
    stored_at: float
    due_at: float
    expires_at: float
    attempts: int
    problem: str | None
    dead_at: float | None


@dataclass(frozen=True, slots=True)
class DestinationStats:
    """What is there for one destination.

    Attributes:
        queued: Requests to be delivered, those under way included.
        dead: Dead letters.
        failures: In a row, so far.
        paused_seconds: How much longer it is left alone; 0 if it is not.
        problem: How the last failure looked; None without one.
    """

    queued: int = 0
    dead: int = 0
    failures: int = 0
    paused_seconds: float = 0.0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """How the queue is.

    Attributes:
        queued: Requests to be delivered, those under way included.
        running: How many of them are claimed.
        dead: Dead letters.
        oldest_seconds: Age of the oldest that is queued; 0 without one.
        destinations: By scheme, host and port.
    """

    queued: int
    running: int
    dead: int
    oldest_seconds: float
    destinations: dict[str, DestinationStats]


_SELECT: Final = """
SELECT id, key, method, url, headers, length(body), ordered, stored_at, due_at, expires_at,
    attempts, problem, dead_at
FROM hangup_outbox_requests
"""


def run(
    cursor: Any,
    database: Database,
    function: Callable[..., T],
    *,
    create: bool = False,
    **arguments: Any,
) -> T:
    """Call *function* in a transaction; with *create*, after the tables are made.

    Raises:
        OutboxUnavailable: The database is no outbox, or not one of this version.
    """
    if create:
        create_tables(cursor, database)
    elif not database.has_tables(cursor):
        raise OutboxUnavailable(f"{database.name} is no outbox")
    else:
        check_version(cursor)
    if function in (requeue, drop):  # with SQLite, those that only read keep nobody waiting
        database.begin(cursor)
    return function(cursor, database, **arguments)


def stats(cursor: Any, database: Database) -> OutboxStats:
    """Count everything; takes as long as it takes to read one index."""
    now = database.now(cursor)
    counts: dict[str, dict[str, Any]] = {}
    for column, condition in (("queued", "dead_at IS NULL"), ("dead", "dead_at IS NOT NULL")):
        cursor.execute(
            f"SELECT lane, count(*) FROM hangup_outbox_requests WHERE {condition} GROUP BY lane"
        )
        for lane, count in cursor.fetchall():
            row = counts.setdefault(destination_of(lane), {})
            row[column] = row.get(column, 0) + count
    cursor.execute("SELECT name, failures, paused_until, problem FROM hangup_outbox_destinations")
    for name, failures, paused_until, problem in cursor.fetchall():
        counts.setdefault(name, {}).update(
            failures=failures, paused_seconds=max(0.0, paused_until - now), problem=problem
        )
    statement = "SELECT count(*) FROM hangup_outbox_requests WHERE claim IS NOT NULL AND due_at > "
    cursor.execute(database.sql(f"{statement} %(now)s"), {"now": now})
    (running,) = cursor.fetchone()
    cursor.execute(
        "SELECT stored_at FROM hangup_outbox_requests WHERE dead_at IS NULL ORDER BY id LIMIT 1"
    )
    oldest = cursor.fetchone()
    destinations = {name: DestinationStats(**counts[name]) for name in sorted(counts)}
    return OutboxStats(
        queued=sum(one.queued for one in destinations.values()),
        running=running,
        dead=sum(one.dead for one in destinations.values()),
        oldest_seconds=0.0 if oldest is None else max(0.0, now - oldest[0]),
        destinations=destinations,
    )


def requests(
    cursor: Any,
    database: Database,
    *,
    dead: bool,
    destination: str | None = None,
    limit: int = 100,
    after: int = 0,
) -> list[QueuedRequest]:
    """The dead letters or what is queued, oldest first, behind the id *after*."""
    where, parameters = _condition(dead, destination)
    cursor.execute(
        database.sql(f"{_SELECT} WHERE {where} AND id > %(after)s ORDER BY id LIMIT %(limit)s"),
        {**parameters, "after": after, "limit": limit},
    )
    return [_request(row) for row in cursor.fetchall()]


def find(cursor: Any, database: Database, *, key: str) -> tuple[QueuedRequest, bytes] | None:
    """The request with a key, and its body; None if there is none."""
    cursor.execute(database.sql(f"{_SELECT} WHERE key = %(key)s"), {"key": key})
    row = cursor.fetchone()
    if row is None:
        return None
    cursor.execute(
        database.sql("SELECT body FROM hangup_outbox_requests WHERE id = %(id)s"), {"id": row[0]}
    )
    return _request(row), bytes(cursor.fetchone()[0])


def requeue(
    cursor: Any, database: Database, *, keys: list[str] | None, destination: str | None = None
) -> int:
    """Dead letters become as if they were sent now, in their old place of an order."""
    now = database.now(cursor)
    revive = database.sql("""
        UPDATE hangup_outbox_requests SET dead_at = NULL, attempts = 0, claim = NULL,
            due_at = %(now)s, expires_at = %(now)s + (expires_at - stored_at),
            stored_at = %(now)s
        WHERE id = %(id)s
    """)
    count = 0
    lanes: set[str] = set()
    for rows in _chosen(cursor, database, "dead_at IS NOT NULL", keys, destination):
        cursor.executemany(revive, [{"now": now, "id": row[0]} for row in rows])
        count += len(rows)
        lanes.update(lane for _, lane in rows)
    _look_at(cursor, database, lanes, now)
    return count


def drop(
    cursor: Any, database: Database, *, keys: list[str] | None, destination: str | None = None
) -> int:
    """Delete the requests with *keys*, or all dead letters."""
    condition = "dead_at IS NOT NULL" if keys is None else "1 = 1"
    delete = database.sql("DELETE FROM hangup_outbox_requests WHERE id = %(id)s")
    count = 0
    lanes: set[str] = set()
    for rows in _chosen(cursor, database, condition, keys, destination):
        cursor.executemany(delete, [{"id": row[0]} for row in rows])
        count += len(rows)
        lanes.update(lane for _, lane in rows)
    _look_at(cursor, database, lanes, database.now(cursor))  # the next in an order may go
    return count


def _look_at(cursor: Any, database: Database, lanes: set[str], now: float) -> None:
    for lane in sorted(lanes):
        row = {"name": lane, "destination": destination_of(lane), "ordered": int(" " in lane)}
        cursor.execute(database.sql(ADD_LANE), {**row, "at": now})
        cursor.execute(database.sql(WAKE_LANE), {"name": lane, "at": now})


def _chosen(
    cursor: Any,
    database: Database,
    condition: str,
    keys: list[str] | None,
    destination: str | None,
) -> Iterable[list[tuple[int, str]]]:
    """Ids and lanes of the rows that are meant, some at a time, locked."""
    where, parameters = _lane_condition(destination)
    lock = database.words["skip_locked"].removesuffix(" SKIP LOCKED")
    select = f"SELECT id, lane FROM hangup_outbox_requests WHERE {condition} {where}"
    if keys is not None:
        statement = database.sql(f"{select} AND key = %(key)s {lock}")
        for key in keys:
            cursor.execute(statement, {**parameters, "key": key})
            if rows := cursor.fetchall():
                yield rows
        return
    statement = database.sql(f"{select} AND id > %(after)s ORDER BY id LIMIT %(limit)s {lock}")
    after = 0
    while True:
        cursor.execute(statement, {**parameters, "after": after, "limit": _ROWS})
        rows = cursor.fetchall()
        if not rows:
            return
        after = rows[-1][0]
        yield rows


def _condition(dead: bool, destination: str | None) -> tuple[str, dict[str, str]]:
    where, parameters = _lane_condition(destination)
    return f"dead_at IS {'NOT ' if dead else ''}NULL {where}", parameters


def _lane_condition(destination: str | None) -> tuple[str, dict[str, str]]:
    """A destination's lanes: its name, or that and something behind a space."""
    if destination is None:
        return "", {}
    return (
        "AND (lane = %(lane)s OR (lane >= %(first)s AND lane < %(last)s))",
        {"lane": destination, "first": f"{destination} ", "last": f"{destination}!"},
    )


def _request(row: tuple[Any, ...]) -> QueuedRequest:
    number, key, method, url, headers, body_bytes, ordered, *rest = row
    pairs = headers_from_text(headers)
    return QueuedRequest(number, key, method, url, pairs, body_bytes, bool(ordered), *rest)
