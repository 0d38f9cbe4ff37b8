"""One transaction of the outbox: what was sent goes in, what was tried is settled, more is taken.

All functions here block, and run in a thread of the pool.  PostgreSQL's row locks are taken
in one order (requests, lanes, destinations), and where that is impossible a locked row is
skipped, so that two processes do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from . import sql
from .claim import Claimed, Demand, Taken, take
from .database import Database
from .policy import Verdict
from .request import NewRequest, destination_of

#: Rows that one transaction buries because of their age, so that it stays short.
_MOST_EXPIRED = 500

#: A lane that is not to be looked at before this is looked at earlier, to be sure.
_LATE_SECONDS = 60.0

#: Lane -> when it is to be looked at.
_Wakes: TypeAlias = dict[str, float]

Pause: TypeAlias = Callable[[int], "float | None"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a request that was claimed.

    Attributes:
        claimed: Which.
        verdict: Delivered, to be tried again, or dead.
        problem: How the attempt ended, in one line; None if there was nothing wrong.
        wait_seconds: Until it is tried again.
        reached: Whether the destination has answered as one that works; None if the
            attempt says nothing about that.
        pause_seconds: At least so long it is to be left alone, if it is paused.
    """

    claimed: Claimed
    verdict: Verdict
    problem: str | None = None
    wait_seconds: float = 0.0
    reached: bool | None = None
    pause_seconds: float = 0.0


def no_pause(failures: int) -> float | None:
    """Never."""
    return None


@dataclass(slots=True)
class Work:
    """What one transaction does.

    Attributes:
        requests: To be stored, in this order.
        settlements: To be written down.
        rewake: Lanes into which the last transaction has stored something.
        demand: What may be claimed, or None.
        sweep: Whether to look for requests that are too old, and lanes nobody looks at.
        pause: How many seconds to leave a destination alone after so many failures in a
            row, or None; called in a thread.
    """

    requests: Sequence[NewRequest] = ()
    settlements: Sequence[Settlement] = ()
    rewake: frozenset[str] = frozenset()
    demand: Demand | None = None
    sweep: bool = False
    pause: Pause = no_pause


@dataclass(slots=True)
class Done:
    """What a transaction did.

    Attributes:
        refused: Places in `Work.requests` of those that were not stored, because their key
            belongs to another request.
        taken: What was claimed, or None.
        paused: Destinations that are left alone from now on, and for how many seconds.
        resumed: Destinations that were, and are not any more.
        expired: How many requests have died of age.
    """

    refused: set[int] = field(default_factory=set)
    taken: Taken | None = None
    paused: dict[str, float] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)
    expired: int = 0


def run(cursor: Any, database: Database, work: Work) -> Done:
    """Do *work*, all of it or, where this raises, nothing."""
    database.begin(cursor)
    now = database.now(cursor)
    done = Done()
    wakes: _Wakes = {}
    if work.requests:
        _insert(cursor, database, now, work.requests, wakes, done)
    for lane in work.rewake:
        wakes[lane] = now
    with database.together(cursor):
        _settle_rows(cursor, database, now, work.settlements, wakes)
        if work.sweep:
            _sweep(cursor, database, now, wakes, done)
        _wake_lanes(cursor, database, wakes)
    _settle_destinations(cursor, database, now, work, done)
    if work.demand is not None:
        with database.together(cursor):
            done.taken = take(cursor, database, now, work.demand)
    return done


def _insert(
    cursor: Any,
    database: Database,
    now: float,
    requests: Sequence[NewRequest],
    wakes: _Wakes,
    done: Done,
) -> None:
    rows = [
        {**request._asdict(), "now": now, "expires_at": now + request.max_age_seconds}
        for request in requests
    ]
    _execute_all(cursor, database, sql.INSERT, rows)
    inserted = cursor.rowcount
    for request in requests:
        wakes[request.lane] = now
    if inserted < len(requests):
        # Most often the same request, sent again by somebody who did not hear that it was
        # stored; that is what keys are for.
        for place, request in enumerate(requests):
            cursor.execute(database.sql(sql.SAME_KEY), {"key": request.key})
            if tuple(cursor.fetchone()) != _identity(request):
                done.refused.add(place)


def _identity(request: NewRequest) -> tuple[object, ...]:
    """What two requests with one key must have in common: all but the key and the age."""
    return request[1:-1]


def _settle_rows(
    cursor: Any,
    database: Database,
    now: float,
    settlements: Iterable[Settlement],
    wakes: _Wakes,
) -> None:
    delivered, again, dead = [], [], []
    for settlement in sorted(settlements, key=lambda one: one.claimed.id):
        claimed = settlement.claimed
        row = {"id": claimed.id, "claim": claimed.claim, "problem": settlement.problem}
        wake_at = now
        if settlement.verdict is Verdict.DELIVERED:
            delivered.append({"id": claimed.id})
        elif settlement.verdict is Verdict.DEAD:
            dead.append({**row, "now": now})
        else:
            # At its end of life somebody has to look at it, too.
            wake_at = min(now + settlement.wait_seconds, max(now, claimed.expires_at))
            again.append({**row, "at": wake_at})
        if claimed.ordered or settlement.verdict is Verdict.RETRY:
            wakes[claimed.lane] = min(wake_at, wakes.get(claimed.lane, wake_at))
    _execute_all(cursor, database, sql.DELIVERED, delivered)
    _execute_all(cursor, database, sql.AGAIN, again)
    _execute_all(cursor, database, sql.DEAD, dead)


def _settle_destinations(
    cursor: Any, database: Database, now: float, work: Work, done: Done
) -> None:
    failed: dict[str, list[Settlement]] = {}
    reached = set()
    for settlement in work.settlements:
        name = settlement.claimed.destination
        if settlement.reached:
            reached.add(name)
        elif settlement.reached is not None:
            failed.setdefault(name, []).append(settlement)
    for name in sorted(reached | {*failed}):
        # One that got through says more than those that did not.
        if name in reached:
            cursor.execute(database.sql(sql.GOT_THROUGH), {"name": name})
            if cursor.rowcount:
                cursor.execute(database.sql(sql.WAKE_DESTINATION), {"name": name, "at": now})
                done.resumed.append(name)
        else:
            _count_failures(cursor, database, now, failed[name], work.pause, done)


def _count_failures(
    cursor: Any,
    database: Database,
    now: float,
    failed: Sequence[Settlement],
    pause: Pause,
    done: Done,
) -> None:
    """Count them until the destination is paused: those that were under way then say no more."""
    name = failed[0].claimed.destination
    probe = int(any(settlement.claimed.probe for settlement in failed))
    row = {"name": name, "problem": failed[-1].problem, "now": now, "probe": probe}
    for _ in failed:
        cursor.execute(database.sql(sql.FAILED), row)
        if not cursor.rowcount:
            return
        cursor.execute(database.sql(sql.DESTINATION), {"name": name})
        failures, _ = cursor.fetchone()
        seconds = pause(failures)
        if seconds is not None:
            seconds = max(seconds, *(settlement.pause_seconds for settlement in failed))
            cursor.execute(database.sql(sql.PAUSE), {"name": name, "until": now + seconds})
            done.paused[name] = seconds
            return


def _wake_lanes(cursor: Any, database: Database, wakes: _Wakes) -> None:
    rows = [
        {
            "name": lane,
            "destination": destination_of(lane),
            "ordered": int(" " in lane),
            "at": wakes[lane],
        }
        for lane in sorted(wakes)
    ]
    _execute_all(cursor, database, sql.ADD_LANE, rows)
    _execute_all(
        cursor, database, sql.WAKE_LANE, [{"name": row["name"], "at": row["at"]} for row in rows]
    )


def _sweep(cursor: Any, database: Database, now: float, wakes: _Wakes, done: Done) -> None:
    statement = database.sql(sql.OVER_AGE.format_map(database.words))
    cursor.execute(statement, {"now": now, "limit": _MOST_EXPIRED})
    rows = cursor.fetchall()
    done.expired = len(rows)
    _execute_all(cursor, database, sql.EXPIRED, [{"now": now, "id": row[0]} for row in rows])
    wakes.update((lane, now) for _, lane, ordered in rows if ordered)
    for ordered in (0, 1):
        statement = database.sql(sql.NEGLECTED_LANES.format(ordered=ordered))
        cursor.execute(statement, {"late": now + _LATE_SECONDS})
        wakes.update((lane, now) for (lane,) in cursor.fetchall())


def _execute_all(
    cursor: Any, database: Database, statement: str, rows: Sequence[Mapping[str, object]]
) -> None:
    if rows:
        cursor.executemany(database.sql(statement), rows)
