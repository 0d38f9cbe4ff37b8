"""Shows and changes the queue by hand, for the service and for the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from . import sql
from .database import Database, Session
from .request import destination_named, destination_of, headers_from_text
from .store import wake_lanes

T = TypeVar("T")

#: Rows per statement, so that a lock is short.
_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request in the queue, without its body.

    Attributes:
        id: A number that grows with each request.
        key: Its ``Idempotency-Key``.
        method: Its method.
        url: Absolute, with any secrets in its query.
        headers: Pairs of name and value, with credentials.
        body_bytes: Length of its body.
        ordered: Whether it waits for those before it.
        stored_at: When it was stored, in seconds since the epoch, as all times here.
        due_at: It is not tried (again) before this.
        expires_at: When it is given up.
        attempts: How many attempts there were.
        problem: How the last attempt ended; None without one.
        dead_at: When it was given up, or None.
        running: Whether an attempt is running.
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
    running: bool = False

    @property
    def state(self) -> str:
        """``"queued"``, ``"under way"`` or ``"dead"``."""
        if self.dead_at is not None:
            return "dead"
        return "under way" if self.running else "queued"


@dataclass(frozen=True, slots=True)
class DestinationStats:
    """The queue for one destination.

    Attributes:
        queued: Number of requests to be delivered, with those that are running.
        dead: Number of dead letters.
        failures: Failures in a row so far.
        paused_seconds: How much longer it is paused; 0 if it is not.
        problem: The last failure; None without one.
        held: Whether it is paused by hand, until somebody resumes it.
    """

    queued: int = 0
    dead: int = 0
    failures: int = 0
    paused_seconds: float = 0.0
    problem: str | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """The state of the queue.

    Attributes:
        queued: Number of requests to be delivered, with those that are running.
        running: How many of them are running.
        dead: Number of dead letters.
        oldest_seconds: Age of the oldest queued request; 0 without one.
        destinations: Scheme, host and port -> `DestinationStats`.
    """

    queued: int
    running: int
    dead: int
    oldest_seconds: float
    destinations: dict[str, DestinationStats]


def run(cursor: Any, database: Database, function: Callable[..., T], **arguments: Any) -> T:
    """Call *function* in a transaction; with SQLite, one that only reads blocks nobody."""
    writes = function not in (stats, requests, find)
    session = Session(cursor, database, write=writes)
    return function(session, **arguments)


def stats(session: Session) -> OutboxStats:
    """Count everything; this takes as long as reading one index."""
    now = session.now
    counts: dict[str, dict[str, Any]] = {}
    for column, where in (("queued", sql.QUEUED), ("dead", sql.DEAD_LETTER)):
        for lane, count in session.rows(sql.COUNT_LANES.replace("{where}", where)):
            row = counts.setdefault(destination_of(lane), {})
            row[column] = row.get(column, 0) + count
    for name, failures, paused_until, problem, held in session.rows(sql.DESTINATIONS):
        counts.setdefault(name, {}).update(
            failures=failures,
            paused_seconds=max(0.0, paused_until - now),
            problem=problem or None,
            held=bool(held),
        )
    (running,) = session.row(sql.COUNT_RUNNING, now=now)
    oldest = session.row(sql.OLDEST)
    destinations = {name: DestinationStats(**counts[name]) for name in sorted(counts)}
    return OutboxStats(
        queued=sum(one.queued for one in destinations.values()),
        running=running,
        dead=sum(one.dead for one in destinations.values()),
        oldest_seconds=0.0 if oldest is None else max(0.0, now - oldest[0]),
        destinations=destinations,
    )


def requests(
    session: Session,
    *,
    dead: bool | None = None,
    destination: str | None = None,
    limit: int = 100,
    after: int = 0,
) -> list[QueuedRequest]:
    """Dead letters, queued requests, or both; oldest first, after the id *after*."""
    condition = sql.ANY if dead is None else sql.DEAD_LETTER if dead else sql.QUEUED
    where, parameters = _where(condition, destination)
    statement = sql.PAGE.replace("{where}", where)
    rows = session.rows(statement, after=after, limit=limit, now=session.now, **parameters)
    return [_request(row) for row in rows]


def find(session: Session, *, key: str) -> tuple[QueuedRequest, bytes] | None:
    """The request with this key, and its body; None if there is none."""
    row = session.row(sql.WITH_KEY, key=key, now=session.now)
    if row is None:
        return None
    (body,) = session.row(sql.BODY, id=row[0])
    return _request(row), bytes(body)


def requeue(session: Session, *, keys: list[str] | None, destination: str | None = None) -> int:
    """Queue dead letters as if they were sent now, in their old place of an order."""
    return _change(session, sql.REQUEUE, sql.DEAD_LETTER, keys, destination).total()


def drop(session: Session, *, keys: list[str] | None, destination: str | None = None) -> int:
    """Delete the requests with *keys*, or all dead letters."""
    condition = sql.DEAD_LETTER if keys is None else sql.ANY
    return _change(session, sql.DELETE, condition, keys, destination).total()


def retry_now(session: Session, *, keys: list[str] | None, destination: str | None = None) -> int:
    """Let queued requests that do not run wait no longer, not even for a paused destination."""
    lanes = _change(session, sql.RETRY_NOW, sql.WAITING, keys, destination)
    for name in sorted({destination_of(lane) for lane in lanes}):
        session.execute(sql.TRY_NOW, name=name)
    return lanes.total()


def hold(session: Session, *, destination: str) -> None:
    """Pause a destination until `let_go`."""
    session.execute(sql.HOLD, name=destination_named(destination))


def let_go(session: Session, *, destination: str) -> None:
    """Deliver to a destination again, at once."""
    name = destination_named(destination)
    session.execute(sql.LET_GO, name=name)
    session.execute(sql.WAKE_DESTINATION, name=name, at=session.now)


def _change(
    session: Session,
    statement: str,
    condition: str,
    keys: list[str] | None,
    destination: str | None,
) -> Counter[str]:
    """Call a function for each chosen request, and wake their lanes; returns how many in each."""
    lanes: Counter[str] = Counter()
    for rows in _chosen(session, condition, keys, destination):
        session.execute_all(statement, [{"now": session.now, "id": row[0]} for row in rows])
        lanes.update(lane for _, lane in rows)
    wake_lanes(session, dict.fromkeys(lanes, session.now))
    return lanes


def _chosen(
    session: Session, condition: str, keys: list[str] | None, destination: str | None
) -> Iterable[list[tuple[int, str]]]:
    """Ids and lanes of the chosen rows, some at a time, locked."""
    where, parameters = _where(condition, destination)
    if keys is not None:
        statement = sql.LOCK_WITH_KEY.replace("{where}", where)
        for key in keys:
            yield session.rows(statement, key=key, now=session.now, **parameters)
        return
    statement = sql.LOCK_PAGE.replace("{where}", where)
    after = 0
    page = {"limit": _ROWS, "now": session.now, **parameters}
    while rows := session.rows(statement, after=after, **page):
        after = rows[-1][0]
        yield rows


def _where(condition: str, destination: str | None) -> tuple[str, dict[str, str]]:
    if destination is None:
        return condition, {}
    name = destination_named(destination)
    lanes = {"lane": name, "first": f"{name} ", "last": f"{name}!"}
    return condition + sql.TO_DESTINATION, lanes


def _request(row: tuple[Any, ...]) -> QueuedRequest:
    number, key, method, url, headers, body_bytes, ordered, *rest, running = row
    pairs = headers_from_text(headers)
    rest = [*rest, bool(running)]
    return QueuedRequest(number, key, method, url, pairs, body_bytes, bool(ordered), *rest)
