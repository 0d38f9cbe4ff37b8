"""One transaction of the outbox: what was sent goes in, what was tried is settled, more is taken.

All functions here block, and run in a thread of the pool.  PostgreSQL's row locks are taken
in one order (requests, lanes, destinations), and where that is impossible a locked row is
skipped, so that two processes do not wait for each other.

A claim is a lease: it ends by itself, and is long enough for one attempt.  In an ordered
lane only the first request is ever claimed.  From a destination that is paused nothing is,
and after the pause one request at a time, the probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from uuid import uuid4

from . import sql
from .database import Database
from .policy import Verdict
from .request import NewRequest, destination_of

#: Rows that one transaction buries because of their age, so that it stays short.
_MOST_EXPIRED: Final = 500

#: A lane that is not to be looked at before this is looked at earlier, to be sure.
_LATE_SECONDS: Final = 60.0

#: When to look again at lanes that another process had locked.
_CONTENDED_SECONDS: Final = 0.05

#: Lane -> when it is to be looked at.
_Wakes: TypeAlias = dict[str, float]

Pause: TypeAlias = Callable[[int], "float | None"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What may be claimed.

    Attributes:
        requests: How many, at most.
        per_destination: How many may run for one destination at the same time.
        running: Destination -> how many do already, in this process.
        lease_seconds: How long they are ours.
        failures_to_pause: After so many failures a destination is only probed.
    """

    requests: int
    per_destination: int
    running: Mapping[str, int]
    lease_seconds: float
    failures_to_pause: int

    def room(self, destination: str) -> int:
        """How many more may run there."""
        return self.per_destination - self.running.get(destination, 0)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A request that is ours until its lease ends.

    Attributes:
        id: Of its row.
        key: Its ``Idempotency-Key``.
        lane: What it queues in.
        destination: Scheme, host and port.
        ordered: Whether those behind it in its lane wait for it.
        method: Token.
        url: Absolute, ASCII.
        headers: A line for each field.
        body: Its octets.
        attempt: 1 for the first.
        expires_at: When it is dead, in seconds since the epoch.
        claim: Token that tells our lease from a later one.
        probe: Whether it tells if a paused destination works again.
    """

    id: int
    key: str
    lane: str
    destination: str
    ordered: bool
    method: str
    url: str
    headers: str
    body: bytes
    attempt: int
    expires_at: float
    claim: str
    probe: bool


@dataclass(slots=True)
class Taken:
    """What was claimed.

    Attributes:
        claimed: In the order in which they are to go out.
        look_again_seconds: When there may be more; None if only an event can tell.
    """

    claimed: list[Claimed] = field(default_factory=list)
    look_again_seconds: float | None = None


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


def take(cursor: Any, database: Database, now: float, demand: Demand) -> Taken:
    """Claim what *demand* allows, the lanes that have waited longest first."""
    return _Taking(cursor, database, now, demand).run()


#: Lane, destination, whether it is ordered; failures and end of the pause, if any.
_DueLane: TypeAlias = tuple[str, str, int, "int | None", "float | None"]


class _Taking:
    """One turn through the lanes."""

    def __init__(self, cursor: Any, database: Database, now: float, demand: Demand) -> None:
        self._cursor = cursor
        self._database = database
        self._now = now
        self._demand = demand
        self._rooms: dict[str, int] = {}
        self._claim = uuid4().hex
        self._taken = Taken()

    def run(self) -> Taken:
        limit = self._demand.requests
        lanes = self._due_lanes(limit)
        for lane, destination, ordered, failures, paused_until in lanes:
            if len(self._taken.claimed) < limit and self._room(destination) > 0:
                circuit = (failures or 0, paused_until or 0.0)
                self._take_from(lane, destination, bool(ordered), *circuit)
        if len(lanes) == limit and len(self._taken.claimed) < limit:
            self._taken.look_again_seconds = 0.0  # there are lanes that were not looked at
        if self._taken.look_again_seconds is None:
            self._execute(sql.NEXT_LANE, now=self._now)
            (next_at,) = self._cursor.fetchone()
            if next_at is not None:
                self._taken.look_again_seconds = next_at - self._now
        return self._taken

    def _due_lanes(self, limit: int) -> list[_DueLane]:
        full = [name for name in self._demand.running if self._demand.room(name) <= 0]
        parameters: dict[str, object] = {f"full{place}": name for place, name in enumerate(full)}
        condition = ""
        if full:
            condition = (
                f"AND destination NOT IN ({', '.join(f'%({name})s' for name in parameters)})"
            )
        self._execute(
            sql.DUE_LANES.replace("{condition}", condition),
            now=self._now,
            limit=limit,
            **parameters,
        )
        lanes: list[_DueLane] = self._cursor.fetchall()
        return lanes

    def _room(self, destination: str) -> int:
        return self._rooms.setdefault(destination, self._demand.room(destination))

    def _take_from(
        self, lane: str, destination: str, ordered: bool, failures: int, paused_until: float
    ) -> None:
        self._execute(sql.LOCK_LANE, name=lane)
        locked = self._cursor.fetchone() is not None
        if ordered and not locked:
            self._contended()
            return
        room = min(self._room(destination), self._demand.requests - len(self._taken.claimed))
        probe, ready_at = self._circuit(destination, failures, paused_until)
        if ready_at > self._now:
            if locked:
                self._look_at_lane(lane, ready_at)
            return
        room = 1 if probe else room
        rows = self._first_row(lane) if ordered else self._due_rows(lane, room)
        claimed = [
            Claimed(
                *(number, key, lane, destination, ordered, method, url, headers, bytes(body)),
                *(attempts + 1, expires_at, self._claim, probe),
            )
            for number, key, method, url, headers, body, attempts, expires_at, due_at in rows
            if due_at <= self._now < expires_at
        ]
        self._bury(row[0] for row in rows if max(row[-2:]) <= self._now)
        self._lease(claimed, destination, probe)
        if locked:
            self._next_look(lane, ordered)
        elif not claimed:
            self._contended()

    def _circuit(self, destination: str, failures: int, paused_until: float) -> tuple[bool, float]:
        """Whether a request would be a probe, and when one may be sent."""
        if failures < self._demand.failures_to_pause or paused_until > self._now:
            return False, paused_until
        self._execute(sql.LOCK_DESTINATION, name=destination)
        row = self._cursor.fetchone()
        if row is None:  # another process is about to probe it, or has found it well
            return False, self._now + _CONTENDED_SECONDS
        return True, row[1]

    def _due_rows(self, lane: str, limit: int) -> list[tuple[Any, ...]]:
        self._execute(sql.DUE_ROWS, lane=lane, now=self._now, limit=limit)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def _first_row(self, lane: str) -> list[tuple[Any, ...]]:
        """The first of an ordered lane, unless one is on its way that was requeued behind it."""
        self._execute(sql.RUNNING_IN_LANE, lane=lane, now=self._now)
        if self._cursor.fetchone()[0] is not None:
            return []
        self._execute(sql.FIRST_ROW, lane=lane)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def _lease(self, claimed: list[Claimed], destination: str, probe: bool) -> None:
        if not claimed:
            return
        until = self._now + self._demand.lease_seconds
        rows = [{"id": one.id, "claim": self._claim, "due_at": until} for one in claimed]
        self._cursor.executemany(self._database.sql(sql.CLAIM), rows)
        if probe:
            self._execute(sql.PAUSE, name=destination, until=until)
        self._rooms[destination] = 0 if probe else self._rooms[destination] - len(claimed)
        self._taken.claimed += claimed

    def _bury(self, ids: Iterable[int]) -> None:
        for number in ids:
            self._execute(sql.EXPIRED, id=number, now=self._now)

    def _next_look(self, lane: str, ordered: bool) -> None:
        if ordered:
            self._execute(sql.RUNNING_IN_LANE, lane=lane, now=self._now)
            (at,) = self._cursor.fetchone()
            if at is None:
                self._execute(sql.FIRST_ROW, lane=lane)
                row = self._cursor.fetchone()
                at = row and row[-1]
        else:
            self._execute(sql.FIRST_DUE, lane=lane)
            (at,) = self._cursor.fetchone()
        if at is None:
            self._execute(sql.DROP_LANE, name=lane)
        else:
            # Behind those that wait already: lanes take turns.
            self._look_at_lane(lane, max(at, self._now))

    def _look_at_lane(self, lane: str, at: float) -> None:
        self._execute(sql.DELAY_LANE, name=lane, at=at)

    def _contended(self) -> None:
        self._taken.look_again_seconds = _CONTENDED_SECONDS

    def _execute(self, statement: str, **parameters: object) -> None:
        text = statement.replace("{skip_locked}", self._database.words["skip_locked"])
        self._cursor.execute(self._database.sql(text), parameters)
