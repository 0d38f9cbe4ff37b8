"""One transaction of the outbox: it stores requests, stores results, and claims more.

All of it blocks, and runs in a thread.  PostgreSQL's row locks are taken in one order (requests,
lanes, destinations); where that is impossible, a locked row is skipped, so that two processes do
not wait for each other.

A claim is a lease: it ends by itself, and is long enough for one attempt.  In an ordered lane only
the first request is claimed.  Nothing is claimed for a paused destination; after the pause one
request at a time, the probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import uuid4

from . import sql
from .database import Database, Session
from .policy import Verdict
from .request import NewRequest, destination_of

#: Most requests that one transaction gives up because of their age, so that it stays short.
_MOST_EXPIRED: Final = 500

#: The longest time between two looks at a lane, to be sure.
_LATE_SECONDS: Final = 60.0

#: How often to try to store a request whose key is in use at times.
_TRIES: Final = 3

#: How long a lane whose destination is paused by hand waits; the end of the pause wakes it.
_HELD_SECONDS: Final = 30.0

#: When to look again at lanes that another process had locked.
_CONTENDED_SECONDS: Final = 0.05

Pause: TypeAlias = Callable[[int], "float | None"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What may be claimed.

    Attributes:
        requests: Most requests.
        per_destination: Most running requests for one destination.
        running: Destination -> how many are running in this process.
        lease_seconds: How long a claim lasts.
        failures_to_pause: After this many failures a destination is only probed.
        held: What is running in this process, by `Claim.id`: its lease does not end before it does,
            however the clock was set.
        max_attempts: A request that was claimed this often is given up.
        windows: Destination -> how many may run there, if not *per_destination*.
        spare: How many of *requests* are kept for destinations with none running.
    """

    requests: int
    per_destination: int
    running: Mapping[str, int]
    lease_seconds: float
    failures_to_pause: int
    held: frozenset[int] = frozenset()
    max_attempts: float = inf
    windows: Mapping[str, int] = field(default_factory=dict)
    spare: int = 0

    def room(self, destination: str) -> int:
        """How many more may run there."""
        window = self.windows.get(destination, self.per_destination)
        return window - self.running.get(destination, 0)


class Claim(NamedTuple):
    """A request that belongs to this process until its lease ends.

    Attributes:
        id: The number of its row.
        key: Its ``Idempotency-Key``.
        lane: The queue that it is in.
        destination: Scheme, host and port.
        ordered: Whether those after it in its lane wait for it.
        method: The method, a token.
        url: Absolute, ASCII.
        headers: One line for each header.
        body: The bytes of its body.
        attempt: 1 for the first.
        expires_at: When it is given up, in seconds since the epoch.
        lease: A token that tells our lease from a later one.
        probe: Whether it tests if a paused destination works again.
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
    lease: str
    probe: bool


class Settlement(NamedTuple):
    """The result of an attempt for a claimed request.

    Attributes:
        claim: The request.
        verdict: Delivered, to be tried again, or given up.
        problem: How the attempt ended, in one line; None if nothing was wrong.
        wait_seconds: Until the next attempt.
        reached: Whether the destination has answered as one that works; None if the attempt says
            nothing about that.
        pause_seconds: The least length of a pause: if the destination is paused, or with *reached*
            None in any case.
        given_back: Whether the attempt was cancelled, so that the next one need not wait.
    """

    claim: Claim
    verdict: Verdict
    problem: str | None = None
    wait_seconds: float = 0.0
    reached: bool | None = None
    pause_seconds: float = 0.0
    given_back: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest waits, in seconds from now; no stored time may be later.

    Attributes:
        base: After one attempt; it doubles with each further one.
        cap: Its largest value.
        pause: Of a destination's pause, and of what a server can ask for.
        lease: Of a claim.
    """

    base: float
    cap: float
    pause: float
    lease: float


def no_pause(failures: int) -> float | None:
    """Never."""
    return None


@dataclass(slots=True)
class Work:
    """What one transaction does.

    Attributes:
        requests: Requests to store, in this order.
        settlements: Results to store.
        rewake: Lanes in which the last transaction has stored something.
        demand: What may be claimed, or None.
        sweep: Whether to look for requests that are too old, and lanes that nobody looks at.
        pause: Seconds to pause a destination after this many failures in a row, or None; called in
            a thread.
        bounds: Bring forward later times, and look at all lanes; None unless the clock may have
            been set back.
        seconds: The monotonic clock; called in a thread.
    """

    requests: Sequence[NewRequest] = ()
    settlements: Sequence[Settlement] = ()
    rewake: frozenset[str] = frozenset()
    demand: Demand | None = None
    sweep: bool = False
    pause: Pause = no_pause
    bounds: Bounds | None = None
    seconds: Callable[[], float] = monotonic


@dataclass(slots=True)
class Result:
    """What a transaction did.

    Attributes:
        conflicts: Indexes in `Work.requests` of those that were not stored, because their key
            belongs to another request.
        pauses: Destinations that are paused from now on, and for how many seconds.
        expired: How many requests were given up because of their age.
        claims: The claimed requests in the order in which to send them; None without a demand.
        look_again_seconds: When there may be more to claim; None if only an event can tell.
        ahead: Seconds by which the database's clock is ahead of `Work.seconds`.
    """

    conflicts: set[int] = field(default_factory=set)
    pauses: dict[str, float] = field(default_factory=dict)
    expired: int = 0
    claims: list[Claim] | None = None
    look_again_seconds: float | None = None
    ahead: float = 0.0


def run(cursor: Any, database: Database, work: Work) -> Result:
    """Do all of *work*; if this raises, nothing of it is done."""
    return _Transaction(Session(cursor, database), work).run()


def store_in(cursor: Any, request: NewRequest) -> bool:
    """Store *request* in a transaction of the application's, on PostgreSQL.

    No statement fails because the request is stored already: that would end the transaction.

    Returns:
        Whether it is stored, now or before.  False if its key belongs to another request.
    """
    row = request._asdict()
    for _ in range(_TRIES):
        cursor.execute(sql.SEND_IN, row)
        if cursor.fetchone() is not None:
            return True
        cursor.execute(sql.SAME_IS_STORED, row)
        if cursor.fetchone() is not None:
            return True
        cursor.execute(sql.KEY_IS_STORED, row)
        if cursor.fetchone() is not None:
            return False
        # The request that had the key has just been delivered.
    return False


class _Transaction:
    """A transaction in progress."""

    def __init__(self, session: Session, work: Work) -> None:
        self._session = session
        self._work = work
        self._now = session.now
        self._result = Result(ahead=self._now - work.seconds())
        #: Lane -> when to look at it.
        self._wakes: dict[str, float] = {}

    def run(self) -> Result:
        work, session = self._work, self._session
        if work.bounds is not None:
            self._bring_forward(work.bounds)
        if work.requests:
            self._insert(work.requests)
        self._wakes.update(dict.fromkeys(work.rewake, self._now))
        with session.together():
            self._settle_requests()
            if work.sweep:
                self._sweep()
            wake_lanes(session, self._wakes)
        self._settle_destinations()
        if work.demand is not None:
            with session.together():
                _Turn(session, self._now, work.demand, self._result).run()
        return self._result

    def _bring_forward(self, bounds: Bounds) -> None:
        now, session = self._now, self._session
        paused = now + bounds.pause
        session.execute(sql.WAIT_LESS, now=now, base=bounds.base, cap=bounds.cap, latest=paused)
        session.execute(sql.LEASE_LESS, latest=now + bounds.lease)
        session.execute(sql.LOOK_AT_ALL, now=now)
        session.execute(sql.PAUSE_LESS, now=now, latest=max(paused, now + bounds.lease))

    def _insert(self, requests: Sequence[NewRequest]) -> None:
        now = self._now

        def row(request: NewRequest) -> tuple[object, ...]:
            return (*request[:-1], now, now + request.max_age_seconds, now)

        grouped = len(requests) - len(requests) % sql.TOGETHER
        starts = range(0, grouped, sql.TOGETHER)
        # No row outlives its group: the garbage collector would look at each.
        groups = [
            [*chain.from_iterable(map(row, requests[at : at + sql.TOGETHER]))] for at in starts
        ]
        stored = self._session.execute_all(sql.INSERT_TOGETHER, groups)
        stored += self._session.execute_all(sql.INSERT, [*map(row, requests[grouped:])])
        self._wakes.update(dict.fromkeys([request.lane for request in requests], now))
        if stored < len(requests):
            # Usually the same request, sent again by a caller who did not learn that it was
            # stored; keys are for this.
            for place, request in enumerate(requests):
                if self._session.row(sql.SAME_KEY, key=request.key) != _identity(request):
                    self._result.conflicts.add(place)

    def _settle_requests(self) -> None:
        now = self._now
        delivered, again, dead = [], [], []
        for settlement in sorted(self._work.settlements, key=lambda one: one.claim.id):
            claim = settlement.claim
            row = {"id": claim.id, "claim": claim.lease, "problem": settlement.problem}
            wake_at = now
            if settlement.verdict is Verdict.DELIVERED:
                delivered.append({"id": claim.id, "key": claim.key})
            elif settlement.verdict is Verdict.DEAD:
                dead.append({**row, "now": now})
            else:
                # At its end of life it has to be looked at, too.
                wake_at = min(now + settlement.wait_seconds, max(now, claim.expires_at))
                again.append({**row, "at": wake_at})
            if claim.ordered or settlement.verdict is Verdict.RETRY:
                self._wakes[claim.lane] = min(wake_at, self._wakes.get(claim.lane, wake_at))
        self._session.execute_all(sql.DELIVERED, delivered)
        self._session.execute_all(sql.AGAIN, again)
        self._session.execute_all(sql.DEAD, dead)

    def _settle_destinations(self) -> None:
        reached: set[str] = set()
        failed: dict[str, list[Settlement]] = {}
        busy: dict[str, Settlement] = {}
        for settlement in self._work.settlements:
            name = settlement.claim.destination
            if settlement.reached:
                reached.add(name)
            elif settlement.reached is not None:
                failed.setdefault(name, []).append(settlement)
            elif settlement.pause_seconds:
                before = busy.get(name, settlement)
                busy[name] = max(before, settlement, key=lambda one: one.pause_seconds)
        for name in sorted(reached | {*failed}):
            # One request that got through says more than those that did not.
            if name in reached:
                self._session.execute(sql.GOT_THROUGH, name=name, now=self._now)
                if self._session.changed:
                    self._session.execute(sql.WAKE_DESTINATION, name=name, at=self._now)
            else:
                self._count_failures(name, failed[name])
        for name in sorted(busy):
            self._leave_alone(name, busy[name])

    def _leave_alone(self, name: str, settlement: Settlement) -> None:
        """Pause as the destination asks, which is not a failure of it."""
        until = self._now + settlement.pause_seconds
        row = {"name": name, "until": until, "problem": settlement.problem}
        self._session.execute(sql.LEAVE_ALONE, **row, probe=int(settlement.claim.probe))
        self._result.pauses[name] = settlement.pause_seconds

    def _count_failures(self, name: str, failed: Sequence[Settlement]) -> None:
        """Count failures until the destination is paused; running attempts then say no more."""
        probe = int(any(settlement.claim.probe for settlement in failed))
        row = {"name": name, "problem": failed[-1].problem, "now": self._now, "probe": probe}
        for _ in failed:
            self._session.execute(sql.FAILED, **row)
            if not self._session.changed:
                return
            failures, _ = self._session.row(sql.DESTINATION, name=name)
            seconds = self._work.pause(failures)
            if seconds is not None:
                seconds = max(seconds, *(settlement.pause_seconds for settlement in failed))
                self._session.execute(sql.PAUSE, name=name, until=self._now + seconds)
                self._result.pauses[name] = seconds
                return

    def _sweep(self) -> None:
        rows = self._session.rows(sql.OVER_AGE, now=self._now, limit=_MOST_EXPIRED)
        self._result.expired = len(rows)
        bury(self._session, self._now, [row[0] for row in rows], "too old")
        lanes = [lane for _, lane, ordered in rows if ordered]
        for ordered in (0, 1):
            statement = sql.NEGLECTED_LANES.format(ordered=ordered)
            neglected = self._session.rows(statement, late=self._now + _LATE_SECONDS)
            lanes += [lane for (lane,) in neglected]
        self._wakes.update(dict.fromkeys(lanes, self._now))


def bury(session: Session, now: float, ids: Sequence[int], why: str) -> None:
    """Make dead letters of requests that are not running."""
    rows = [{"id": number, "now": now, "why": why} for number in ids]
    session.execute_all(sql.BURY, rows)


def wake_lanes(session: Session, wakes: Mapping[str, float]) -> None:
    """Let each lane be looked at no later than its time; create lanes that do not exist."""
    rows: list[dict[str, object]] = [
        {
            "name": lane,
            "destination": destination_of(lane),
            "ordered": int(" " in lane),
            "at": wakes[lane],
        }
        for lane in sorted(wakes)
    ]
    session.execute_all(sql.ADD_LANE, rows)
    session.execute_all(sql.WAKE_LANE, [{"name": row["name"], "at": row["at"]} for row in rows])


def _identity(request: NewRequest) -> tuple[object, ...]:
    """What two requests with one key must have in common: everything but key and age."""
    return request[1:-1]


class _Turn:
    """One turn through the lanes: it claims what a demand allows, the longest waits first."""

    def __init__(self, session: Session, now: float, demand: Demand, result: Result) -> None:
        self._session = session
        self._now = now
        self._demand = demand
        self._result = result
        self._claims: list[Claim] = []
        self._rooms: dict[str, int] = {}
        self._busy = {*demand.running}
        self._lease = uuid4().hex

    def run(self) -> None:
        result, limit = self._result, self._demand.requests
        result.claims = self._claims
        lanes = self._due_lanes(limit)
        for lane, destination, ordered, failures, paused_until, held in lanes:
            if self._room(destination) > 0:
                paused_until = self._now + _HELD_SECONDS if held else paused_until or 0.0
                circuit = (failures or 0, paused_until)
                self._claim_from(lane, destination, bool(ordered), *circuit)
        if len(lanes) == limit and len(self._claims) < limit:
            result.look_again_seconds = 0.0  # some lanes were not looked at
        if result.look_again_seconds is None:
            (next_at,) = self._session.row(sql.NEXT_LANE, now=self._now)
            if next_at is not None:
                result.look_again_seconds = next_at - self._now

    def _due_lanes(self, limit: int) -> list[tuple[Any, ...]]:
        """Lane, destination, whether ordered; failures, end of pause, held, if known."""
        full = [name for name in self._demand.running if self._room(name) <= 0]
        names = {f"full{place}": name for place, name in enumerate(full)}
        condition = ""
        if names:
            condition = f"AND destination NOT IN ({', '.join(f'%({name})s' for name in names)})"
        statement = sql.DUE_LANES.replace("{condition}", condition)
        return self._session.rows(statement, now=self._now, limit=limit, **names)

    def _room(self, destination: str) -> int:
        """How many more can be claimed for it now."""
        left = self._demand.requests - len(self._claims)
        if destination in self._busy:
            left -= self._demand.spare
        else:
            left = min(left, max(1, left - self._demand.spare))
        return min(left, self._rooms.setdefault(destination, self._demand.room(destination)))

    def _claim_from(
        self, lane: str, destination: str, ordered: bool, failures: int, paused_until: float
    ) -> None:
        locked = self._session.row(sql.LOCK_LANE, name=lane) is not None
        if ordered and not locked:
            self._contended()
            return
        probe, ready_at = self._circuit(destination, failures, paused_until)
        if ready_at > self._now:
            if locked:
                self._look_at_lane(lane, ready_at)
            return
        room = 1 if probe else self._room(destination)
        rows = self._first_row(lane) if ordered else self._due_rows(lane, room)
        held = [row[0] for row in rows if row[0] in self._demand.held]
        if held:
            self._renew(held)
            rows = [row for row in rows if row[0] not in held]
        claims = [
            Claim(
                *(number, key, lane, destination, ordered, method, url, headers, bytes(body)),
                *(attempts + 1, expires_at, self._lease, probe),
            )
            for number, key, method, url, headers, body, attempts, expires_at, due_at in rows
            if due_at <= self._now < expires_at and attempts < self._demand.max_attempts
        ]
        self._bury([row for row in rows if row[-1] <= self._now])
        self._take(claims, destination, probe)
        if locked:
            self._next_look(lane, ordered)
        elif not claims:
            self._contended()

    def _bury(self, rows: list[tuple[Any, ...]]) -> None:
        """Give up those of the due rows that may not be tried any more."""
        old = [row[0] for row in rows if row[-2] <= self._now]
        most = self._demand.max_attempts
        worn = [row[0] for row in rows if row[-2] > self._now and row[-3] >= most]
        bury(self._session, self._now, old, "too old")
        bury(self._session, self._now, worn, "too many attempts")

    def _renew(self, held: list[int]) -> None:
        until = self._now + self._demand.lease_seconds
        self._session.execute_all(sql.RENEW, [{"id": number, "due_at": until} for number in held])

    def _circuit(self, destination: str, failures: int, paused_until: float) -> tuple[bool, float]:
        """Whether a request would be a probe, and when one may be sent."""
        if failures < self._demand.failures_to_pause or paused_until > self._now:
            return False, paused_until
        row = self._session.row(sql.LOCK_DESTINATION, name=destination)
        if row is None:  # another process is about to probe it, or knows that it works
            return False, self._now + _CONTENDED_SECONDS
        return True, row[1]

    def _due_rows(self, lane: str, limit: int) -> list[tuple[Any, ...]]:
        return self._session.rows(sql.DUE_ROWS, lane=lane, now=self._now, limit=limit)

    def _first_row(self, lane: str) -> list[tuple[Any, ...]]:
        """The first of an ordered lane, unless a later one is running: this one was requeued."""
        if self._running_until(lane) is not None:
            return []
        return self._session.rows(sql.FIRST_ROW, lane=lane)

    def _running_until(self, lane: str) -> float | None:
        until: float | None
        (until,) = self._session.row(sql.RUNNING_IN_LANE, lane=lane, now=self._now)
        return until

    def _take(self, claims: list[Claim], destination: str, probe: bool) -> None:
        if not claims:
            return
        until = self._now + self._demand.lease_seconds
        rows = [{"id": claim.id, "claim": self._lease, "due_at": until} for claim in claims]
        self._session.execute_all(sql.CLAIM, rows)
        if probe:
            self._session.execute(sql.PAUSE, name=destination, until=until)
        self._rooms[destination] = 0 if probe else self._rooms[destination] - len(claims)
        self._busy.add(destination)
        self._claims += claims

    def _next_look(self, lane: str, ordered: bool) -> None:
        if ordered:
            at = self._running_until(lane)
            if at is None:
                row = self._session.row(sql.FIRST_ROW, lane=lane)
                at = row and row[-1]
        else:
            (at,) = self._session.row(sql.FIRST_DUE, lane=lane)
        if at is None:
            self._session.execute(sql.DROP_LANE, name=lane)
        else:
            # After those that wait already: lanes take turns.
            self._look_at_lane(lane, max(at, self._now))

    def _look_at_lane(self, lane: str, at: float) -> None:
        self._session.execute(sql.DELAY_LANE, name=lane, at=at)

    def _contended(self) -> None:
        self._result.look_again_seconds = _CONTENDED_SECONDS
