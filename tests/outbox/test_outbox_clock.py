"""The clock of a database is set: nothing waits longer for that, and nothing is sent twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest
from support.outboxes import database as database
from support.outboxes import postgres_dsn as postgres_dsn

from twisted_hangup.outbox import admin
from twisted_hangup.outbox.database import database_named
from twisted_hangup.outbox.policy import Verdict
from twisted_hangup.outbox.request import OutboxLimits, new_request
from twisted_hangup.outbox.sql import create_tables
from twisted_hangup.outbox.store import Bounds, Claim, Demand, Result, Settlement, Work, run

HOUR: Final = 3600.0
LEASE: Final = 60.0
BOUNDS: Final = Bounds(base=1.0, cap=900.0, pause=300.0, lease=LEASE)


class Store:
    """One process at work on a database, whose clock a test sets."""

    def __init__(self, database: str) -> None:
        self.database = database_named(database)
        self.connection: Any = self.database.connect()
        create_tables(self.connection.cursor(), self.database)

    def run(self, **work: Any) -> Result:
        result = run(self.connection.cursor(), self.database, Work(**work))
        self.connection.commit()
        return result

    def put(self, body: bytes, ordered: bool = False) -> None:
        request = new_request(
            *("POST", "http://a.test/", None, body),
            key=None,
            ordered=ordered,
            max_age_seconds=1e6,
            limits=OutboxLimits(),
        )
        self.run(requests=[request])

    def take(self, bounds: Bounds | None = None, held: list[Claim] | None = None) -> list[Claim]:
        ids = frozenset(claim.id for claim in held or [])
        claims = self.run(demand=Demand(9, 9, {}, LEASE, 3, ids), bounds=bounds).claims
        assert claims is not None
        return claims

    def fail(self, claim: Claim, wait: float, pause: float | None = None) -> None:
        settlement = Settlement(claim, Verdict.RETRY, "no", wait, reached=False)
        self.run(settlements=[settlement], pause=lambda failures: pause)

    def set_clock(self, seconds: float) -> None:
        """As if what is stored had been stored so much earlier or later."""
        cursor = self.connection.cursor()
        for statement in (
            f"UPDATE hangup_outbox_requests SET due_at = due_at - {seconds:f}",
            f"UPDATE hangup_outbox_lanes SET next_at = next_at - {seconds:f}",
            f"UPDATE hangup_outbox_destinations SET paused_until = paused_until - {seconds:f}",
        ):
            cursor.execute(statement)
        self.connection.commit()

    def paused(self) -> float:
        """How long the destination is paused, from now."""
        stats = admin.run(self.connection.cursor(), self.database, admin.stats)
        self.connection.commit()
        (destination,) = stats.destinations.values()
        return destination.paused_seconds

    def now(self) -> float:
        """The time by the database's clock."""
        now = self.database.begin(self.connection.cursor())
        self.connection.commit()
        return now

    def due(self) -> list[float]:
        """When each request is due, by the same clock."""
        cursor = self.connection.cursor()
        self.database.begin(cursor)
        cursor.execute("SELECT due_at FROM hangup_outbox_requests ORDER BY id")
        due = [due_at for (due_at,) in cursor.fetchall()]
        self.connection.commit()
        return due


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store(database)
    with closing(store.connection):
        yield store


@pytest.mark.parametrize("back", [10.0, 600.0, HOUR, 1e8])
@pytest.mark.parametrize("ordered", [False, True])
def test_never_tried(store: Store, ordered: bool, back: float) -> None:
    """It goes out at once."""
    store.put(b"1", ordered)
    store.set_clock(-back)
    assert store.take() == []
    assert [claim.body for claim in store.take(BOUNDS)] == [b"1"]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("attempts, longest", [(1, 1.0), (2, 2.0), (4, 8.0)])
def test_tried(store: Store, ordered: bool, attempts: int, longest: float) -> None:
    """It waits no longer than after so many attempts at most."""
    store.put(b"1", ordered)
    for _ in range(attempts):
        (claim,) = store.take()
        store.fail(claim, 0.0)
    store.set_clock(-HOUR)
    before = store.now()
    assert store.take(BOUNDS) == []
    (due,) = store.due()
    assert before <= due - longest <= store.now()
    store.set_clock(longest)
    assert len(store.take()) == 1


def test_after_many_attempts(store: Store) -> None:
    """However many there were, the wait is bounded."""
    store.put(b"1")
    store.connection.cursor().execute("UPDATE hangup_outbox_requests SET attempts = 2000000000")
    store.connection.commit()
    store.set_clock(-HOUR)
    before = store.now()
    store.run(bounds=BOUNDS)
    (due,) = store.due()
    assert before <= due - BOUNDS.cap <= store.now()


def test_what_may_be_so_stays(store: Store) -> None:
    """A wait that a server may have asked for, and a pause, are left as they are."""
    store.put(b"1")
    (claim,) = store.take()
    store.fail(claim, 290.0, pause=280.0)
    before = store.due()
    store.run(bounds=BOUNDS)
    assert store.due() == before
    assert store.paused() > 270


def test_pause(store: Store) -> None:
    """It is over, so that the next request probes the destination."""
    store.put(b"1")
    for _ in range(3):
        (claim,) = store.take()
        store.fail(claim, 0.0)
    store.put(b"2")
    claims = store.take()
    store.fail(claims[0], 0.0, pause=2.0)
    store.set_clock(-HOUR)
    assert store.paused() > HOUR - 10
    store.run(bounds=BOUNDS)
    assert store.paused() == 0


def test_lease(store: Store) -> None:
    """What a killed process had claimed comes back when its lease is over."""
    store.put(b"1")
    store.take()
    store.set_clock(-HOUR)
    before = store.now()
    assert store.take(BOUNDS) == []
    (due,) = store.due()
    assert before <= due - BOUNDS.lease <= store.now()


@pytest.mark.parametrize("ordered", [False, True])
def test_set_forward(store: Store, ordered: bool) -> None:
    """What is under way in this process is not sent once more, though its lease seems over."""
    store.put(b"1", ordered)
    store.put(b"2", ordered)
    claims = store.take()
    store.set_clock(HOUR)
    before = store.now()
    assert store.take(held=claims) == []
    for due in store.due()[: len(claims)]:
        assert before <= due - LEASE <= store.now()
    store.set_clock(HOUR)
    assert len(store.take()) == len(claims)  # in no process, it comes again
