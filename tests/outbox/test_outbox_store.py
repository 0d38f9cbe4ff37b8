"""The transactions of the outbox by themselves: an own clock, no reactor, no agent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.outboxes import database as database
from support.outboxes import postgres_dsn as postgres_dsn

from twisted_hangup.outbox import admin
from twisted_hangup.outbox.database import Database, SQLite, database_named
from twisted_hangup.outbox.policy import Verdict
from twisted_hangup.outbox.request import OutboxLimits, new_request
from twisted_hangup.outbox.sql import create_tables
from twisted_hangup.outbox.store import Claim, Demand, Result, Settlement, Work, run

DELIVERED, RETRY, DEAD = Verdict.DELIVERED, Verdict.RETRY, Verdict.DEAD
HERE, THERE = "http://here.test/", "http://there.test/"
LEASE = 60.0


class Store:
    """One process at work on a database."""

    def __init__(self, database: Database, clock: list[float]) -> None:
        self.database = database
        self.clock = clock
        self.connection: Any = database.connect()
        create_tables(self.connection.cursor(), database)

    def run(self, **work: Any) -> Result:
        done = run(self.connection.cursor(), self.database, Work(**work))
        self.connection.commit()
        return done

    def put(self, *bodies: bytes, url: str = THERE, age: float = 1e6, **options: Any) -> Result:
        """Store a request per body."""
        return self.run(requests=[make(body, url, age, **options) for body in bodies])

    def take(
        self, requests: int = 100, per_destination: int = 100, sweep: bool = False, **running: int
    ) -> list[Claim]:
        """Claim; *running* has ``here`` and ``there``."""
        claims = self.demand(requests, per_destination, sweep, **running).claims
        assert claims is not None
        return claims

    def demand(
        self, requests: int = 100, per_destination: int = 100, sweep: bool = False, **running: int
    ) -> Result:
        busy = {f"http://{name}.test:80": count for name, count in running.items()}
        demand = Demand(requests, per_destination, busy, LEASE, 3)
        return self.run(demand=demand, sweep=sweep)

    def settle(self, claimed: Claim, verdict: Verdict, **options: Any) -> Result:
        reached = options.pop("reached", verdict is not RETRY)
        settlement = Settlement(
            claimed, verdict, f"was {verdict.value}", reached=reached, **options
        )
        return self.run(
            settlements=[settlement], pause=lambda failures: 10.0 if failures >= 3 else None
        )

    def manage(self, function: Any, **arguments: Any) -> Any:
        result = admin.run(self.connection.cursor(), self.database, function, **arguments)
        self.connection.commit()
        return result


def make(body: bytes, url: str = THERE, age: float = 1e6, **options: Any) -> Any:
    arguments = {"key": None, "ordered": False, **options}
    return new_request(
        "POST", url, None, body, max_age_seconds=age, limits=OutboxLimits(), **arguments
    )


def bodies(claimed: list[Claim]) -> list[bytes]:
    return [one.body for one in claimed]


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def store(tmp_path: Path, clock: list[float]) -> Iterator[Store]:
    """An SQLite file whose time is in the test's hand."""
    store = Store(SQLite(str(tmp_path / "outbox"), lambda: clock[0]), clock)
    with closing(store.connection):
        yield store


@pytest.fixture
def stores(database: str) -> Iterator[tuple[Store, Store]]:
    """Two processes, so to say, at work on one database."""
    first, second = (Store(database_named(database), []) for _ in range(2))
    with closing(first.connection), closing(second.connection):
        yield first, second


def test_a_claim_is_nobody_elses(stores: tuple[Store, Store]) -> None:
    """What one process has claimed, the other does not get."""
    first, second = stores
    first.put(b"1", b"2", b"3")
    assert bodies(first.take(2)) == [b"1", b"2"]
    assert bodies(second.take()) == [b"3"]
    assert first.take() == second.take() == []


def test_what_is_delivered_is_gone(stores: tuple[Store, Store]) -> None:
    """Only what is queued or dead takes room."""
    first, second = stores
    first.put(b"1")
    (claimed,) = first.take()
    first.settle(claimed, DELIVERED)
    assert second.manage(admin.stats).queued == 0
    assert second.manage(admin.find, key=claimed.key) is None


def test_row_locks_are_skipped(postgres_dsn: str) -> None:
    """A process that is in the middle of claiming does not keep another one waiting."""
    first, second = (Store(database_named(postgres_dsn), []) for _ in range(2))
    with closing(first.connection), closing(second.connection):
        first.put(b"1", b"2", b"3")
        first.put(b"first", b"second", ordered=True)
        demand = Demand(3, 100, {}, LEASE, 3)
        open_claim = run(first.connection.cursor(), first.database, Work(demand=demand))
        second.connection.execute("SET lock_timeout = '1s'")
        got = second.demand()
        assert open_claim.claims is not None and got.claims is not None
        seen = sorted(bodies(open_claim.claims) + bodies(got.claims))
        assert len(open_claim.claims) == 3
        assert seen == sorted({*seen}) and b"second" not in seen
        assert got.look_again_seconds is not None and got.look_again_seconds < 1
        first.connection.commit()


def test_an_insert_that_a_claim_does_not_see_is_found(postgres_dsn: str) -> None:
    """The lane is woken again when the insert is committed."""
    first, second = (Store(database_named(postgres_dsn), []) for _ in range(2))
    with closing(first.connection), closing(second.connection):
        second.put(b"0")
        work = Work(requests=[make(b"1")])
        run(first.connection.cursor(), first.database, work)  # and its commit takes a while
        (claimed,) = second.take()
        second.settle(claimed, DELIVERED)
        assert second.take() == []
        first.connection.commit()
        first.run(rewake=frozenset([work.requests[0].lane]))
        assert bodies(second.take()) == [b"1"]


def test_a_lease_ends_by_itself(store: Store, clock: list[float]) -> None:
    """What a killed process had claimed comes back, and counts as an attempt."""
    store.put(b"1")
    assert store.take()[0].attempt == 1
    clock[0] += LEASE - 1
    assert store.take() == []
    clock[0] += 1
    assert store.take()[0].attempt == 2


def test_who_lost_the_lease_decides_nothing(store: Store, clock: list[float]) -> None:
    """A failure that is reported too late does not disturb the next attempt."""
    store.put(b"1")
    (late,) = store.take()
    clock[0] += LEASE
    (ours,) = store.take()
    store.settle(late, DEAD)
    store.settle(late, RETRY)
    assert store.manage(admin.stats).running == 1
    store.settle(ours, DELIVERED)
    assert store.manage(admin.stats).queued == 0


def test_a_late_delivery_counts(store: Store, clock: list[float]) -> None:
    """A request that was delivered is not sent a third time."""
    store.put(b"1")
    (late,) = store.take()
    clock[0] += LEASE
    store.take()
    store.settle(late, DELIVERED)
    clock[0] += LEASE
    assert store.take() == []


def test_retry_waits(store: Store, clock: list[float]) -> None:
    """A request that failed is not seen before its wait is over."""
    store.put(b"1")
    store.settle(store.take()[0], RETRY, wait_seconds=5.0)
    clock[0] += 4.9
    done = store.demand()
    assert done.claims == []
    assert done.look_again_seconds == pytest.approx(0.1)
    clock[0] += 0.1
    assert bodies(store.take()) == [b"1"]


def test_order(store: Store, clock: list[float]) -> None:
    """Of an order only the first goes out, and the next when that is settled."""
    store.put(b"1", b"2", b"3", ordered=True)
    store.put(b"other", ordered="other")
    store.put(b"free")
    (one,) = [claimed for claimed in store.take() if claimed.body == b"1"]
    assert store.take() == []
    store.settle(one, RETRY, wait_seconds=5.0)
    assert store.take() == []
    clock[0] += 5
    (one,) = store.take()
    assert one.body == b"1"
    store.settle(one, DELIVERED)
    (two,) = store.take()
    assert two.body == b"2"
    store.settle(two, DEAD)
    assert bodies(store.take()) == [b"3"]


def test_a_requeued_request_does_not_overtake(store: Store) -> None:
    """Back in its old place, it goes before all that wait, and after the one that is on its way."""
    store.put(b"1", b"2", b"3", ordered=True)
    store.settle(store.take()[0], DEAD)
    (two,) = store.take()
    assert store.manage(admin.requeue, keys=None) == 1
    assert store.take() == []
    store.settle(two, DELIVERED)
    (one,) = store.take()
    assert one.body == b"1"
    store.settle(one, DELIVERED)
    assert bodies(store.take()) == [b"3"]


def test_at_most_so_many_for_one_destination(store: Store) -> None:
    """One destination does not take all there is."""
    store.put(*[b"there"] * 10)
    store.put(*[b"here"] * 10, url=HERE)
    assert sorted(bodies(store.take(20, 3))) == [b"here"] * 3 + [b"there"] * 3
    assert bodies(store.take(20, 3, there=3, here=2)) == [b"here"]


def test_a_window(store: Store) -> None:
    """A destination may have a number of its own."""
    store.put(*[b"there"] * 9)
    store.put(*[b"here"] * 9, url=HERE)
    demand = Demand(
        20, 1, {"http://there.test:80": 1}, LEASE, 3, windows={"http://there.test:80": 4}
    )
    claims = store.run(demand=demand).claims
    assert claims is not None
    assert sorted(bodies(claims)) == [b"here"] + [b"there"] * 3


def test_what_is_kept_for_others(store: Store) -> None:
    """Who has something running gets nothing of it; who has nothing gets one."""
    store.put(*[b"there"] * 9)
    store.put(*[b"here"] * 9, url=HERE)
    store.put(*[b"new"] * 9, url="http://new.test/")
    busy = {"http://there.test:80": 1, "http://here.test:80": 1}
    result = store.run(demand=Demand(4, 9, busy, LEASE, 3, spare=2))
    assert result.claims is not None and sorted(bodies(result.claims)) in (
        [b"here", b"here", b"new"],
        [b"new", b"there", b"there"],
    )
    result = store.run(demand=Demand(1, 9, busy, LEASE, 3, spare=2))
    assert result.claims is not None and bodies(result.claims) == [b"new"]
    result = store.run(demand=Demand(1, 9, {**busy, "http://new.test:80": 2}, LEASE, 3, spare=2))
    assert result.claims == [] and result.look_again_seconds is None


def test_a_destination_that_asks_for_a_pause(store: Store, clock: list[float]) -> None:
    """It gets one, whatever else was under way; after that it is no suspect."""
    store.put(*[b"1"] * 9)
    first, second, third, *_ = store.take(4)
    paused = store.settle(first, RETRY, reached=None, pause_seconds=5.0)
    assert paused.pauses == {"http://there.test:80": 5.0}
    store.settle(second, DELIVERED)
    store.settle(third, RETRY, reached=None, pause_seconds=2.0)
    assert store.take() == []
    clock[0] += 4.9
    assert store.take() == []
    clock[0] += 0.2
    claims = store.take()
    assert len(claims) > 1 and not any(claim.probe for claim in claims)
    store.settle(claims[0], DELIVERED)
    assert store.manage(admin.stats).destinations["http://there.test:80"].problem is None


def test_a_probe_that_is_asked_for_a_pause(store: Store, clock: list[float]) -> None:
    """The destination is left alone for so long, and not for the lease of the probe."""
    store.put(*[b"1"] * 9)
    for claim in store.take(3):
        store.settle(claim, RETRY)
    clock[0] += 10
    (probe,) = store.take()
    store.settle(probe, RETRY, reached=None, pause_seconds=2.0)
    clock[0] += 2
    assert len(store.take()) == 1


def test_lanes_take_turns(store: Store, clock: list[float]) -> None:
    """A long queue for one destination does not keep another waiting."""
    store.put(*[b"there"] * 10)
    store.put(*[b"here"] * 10, url=HERE)
    seen = []
    for _ in range(6):
        clock[0] += 0.01
        seen += bodies(store.take(1))
    assert seen == [b"there", b"here"] * 3


def test_a_destination_that_fails_is_paused(store: Store, clock: list[float]) -> None:
    """After three failures nothing goes there for a while, and elsewhere all does."""
    store.put(*[b"there"] * 9)
    store.put(*[b"there"] * 9, ordered=True)
    store.put(b"here", url=HERE)
    claimed = [one for one in store.take() if one.body == b"there"][:4]
    assert not store.settle(claimed[0], RETRY).pauses
    assert not store.settle(claimed[1], RETRY).pauses
    assert store.settle(claimed[2], RETRY).pauses == {"http://there.test:80": 10.0}
    assert not store.settle(claimed[3], RETRY).pauses  # was on its way: says nothing new
    store.put(b"here", url=HERE)
    assert bodies(store.take()) == [b"here"]
    clock[0] += 10
    (probe,) = store.take()
    assert probe.probe and store.take() == []
    assert store.settle(probe, RETRY).pauses == {"http://there.test:80": 10.0}
    clock[0] += 9.9
    assert store.take() == []
    clock[0] += 0.1
    (probe,) = store.take()
    store.settle(probe, DELIVERED)
    assert not any(one.probe for one in store.take())
    assert store.manage(admin.stats).destinations["http://there.test:80"].failures == 0


def test_a_success_between_failures_starts_anew(store: Store) -> None:
    """A destination that fails now and then is not paused."""
    store.put(*[b"1"] * 9)
    for claimed, verdict in zip(store.take(), [RETRY, RETRY, DEAD] * 3, strict=True):
        assert not store.settle(claimed, verdict).pauses


def test_a_prober_that_was_killed(store: Store, clock: list[float]) -> None:
    """Another probe goes out when its lease is over."""
    store.put(*[b"1"] * 5)
    for claimed in store.take(3):
        store.settle(claimed, RETRY)
    clock[0] += 10
    assert len(store.take()) == 1
    clock[0] += LEASE
    assert len(store.take()) == 1


def test_given_back_says_nothing_about_the_destination(store: Store) -> None:
    """A service that stops gives back what it has not finished, to be sent at once."""
    store.put(b"1")
    for attempt in range(1, 6):
        (claimed,) = store.take()
        assert claimed.attempt == attempt and not claimed.probe
        store.settle(claimed, RETRY, reached=None)


@pytest.mark.parametrize("ordered", [False, True])
def test_too_old(store: Store, clock: list[float], ordered: bool) -> None:
    """A request is never sent after its age; it is dead, and those after it go on."""
    store.put(b"old", age=10, ordered=ordered)
    store.put(b"new", ordered=ordered)
    for claimed in store.take():
        store.settle(claimed, RETRY, wait_seconds=100.0)
    clock[0] += 10
    assert b"old" not in bodies(store.take())
    (dead,) = store.manage(admin.requests, dead=True)
    assert dead.problem == "too old; was retry"
    clock[0] += 100
    assert bodies(store.take()) == [b"new"]


@pytest.mark.parametrize("ordered", [False, True])
def test_too_many_attempts(store: Store, clock: list[float], ordered: bool) -> None:
    """What its claimers never came back from is not tried for ever, and the next goes on."""
    store.put(b"deadly", ordered=ordered)
    for _ in range(2):
        assert bodies(store.take()) == [b"deadly"]
        clock[0] += LEASE
    store.put(b"next", ordered=ordered)
    demand = Demand(9, 9, {}, LEASE, 3, max_attempts=2)
    claims = [*(store.run(demand=demand).claims or []), *(store.run(demand=demand).claims or [])]
    assert bodies(claims) == [b"next"]
    (dead,) = store.manage(admin.requests, dead=True)
    assert dead.problem == "too many attempts"


def test_too_old_behind_a_paused_destination(store: Store, clock: list[float]) -> None:
    """Nobody has to claim a request for it to die; one that is on its way may finish."""
    store.put(b"running", b"1", b"2", age=10)
    store.take(1)
    clock[0] += 11
    assert store.run(sweep=True).expired == 2
    assert store.manage(admin.stats).dead == 2


def test_a_sweep_finds_lanes_that_nobody_looks_at(store: Store) -> None:
    """A process was killed between storing a request and telling the others."""
    store.put(b"1", b"2")
    store.put(b"3", ordered=True)
    store.connection.execute("DELETE FROM hangup_outbox_lanes")
    assert store.take() == []
    assert sorted(bodies(store.take(sweep=True))) == [b"1", b"2", b"3"]


def test_lanes_that_are_empty_are_forgotten(store: Store, clock: list[float]) -> None:
    """After some time as many lanes are kept as have something queued."""
    store.put(b"1")
    store.put(b"2", ordered=True)
    for claimed in store.take():
        store.settle(claimed, DELIVERED)
    clock[0] += LEASE
    store.take()
    rows = store.connection.execute("SELECT count(*) FROM hangup_outbox_lanes").fetchall()
    assert rows == [(0,)]


def test_many_empty_lanes_do_not_hide_a_full_one(store: Store, clock: list[float]) -> None:
    """What there is is found in the next turn, which comes at once."""
    for number in range(5):
        store.put(b"x", url=f"http://{number}.test/")
    for claimed in store.take():
        clock[0] += LEASE
        store.run(settlements=[Settlement(claimed, DELIVERED)])
    store.put(b"1")
    looks = 0
    while not (result := store.demand(2)).claims:
        assert result.look_again_seconds == 0
        looks += 1
        assert looks < 5
    assert bodies(result.claims) == [b"1"]


def test_same_key(stores: tuple[Store, Store]) -> None:
    """The same request with the same key is stored once; another one is refused."""
    first, second = stores
    assert first.put(b"1", key="k").conflicts == set()
    assert second.put(b"1", key="k").conflicts == set()
    assert second.put(b"2", key="k").conflicts == {0}
    again = [make(b"new", key="n"), make(b"other", key="n"), make(b"new", key="n")]
    assert second.run(requests=again).conflicts == {1}
    assert sorted(bodies(first.take())) == [b"1", b"new"]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("count", [9, 10, 11, 25])
def test_many_are_stored_in_order(stores: tuple[Store, Store], count: int, ordered: bool) -> None:
    """However many statements that takes."""
    store, _ = stores
    sent = [b"%d" % number for number in range(count)]
    assert store.put(*sent, ordered=ordered).conflicts == set()
    queued = store.manage(admin.requests, dead=False, limit=100)
    assert [store.manage(admin.find, key=one.key)[1] for one in queued] == sent
    taken = store.take(1)
    assert len(taken) == 1 and (not ordered or taken[0].body == b"0")


def test_many_are_stored_with_a_few_statements(store: Store) -> None:
    """Ten with each, and the rest one by one."""
    statements: list[str] = []
    store.connection.set_trace_callback(statements.append)
    store.put(*[b"x"] * 25)
    assert sum("INTO hangup_outbox_requests" in one for one in statements) == 2 + 5


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abcdefghijklm"), st.booleans()), max_size=32))
def test_together_is_as_one_by_one(sent: list[tuple[str, bool]]) -> None:
    """Requests with the same keys: as many are stored, and the same ones are refused."""
    requests = [make(b"1" if body else b"2", key=key) for key, body in sent]
    with tempfile.TemporaryDirectory() as folder:
        stores = [Store(SQLite(f"{folder}/{name}", lambda: 1000.0), []) for name in "ab"]
        with closing(stores[0].connection), closing(stores[1].connection):
            conflicts = stores[0].run(requests=requests).conflicts
            refused = [stores[1].run(requests=[one]).conflicts for one in requests]
            assert conflicts == {place for place, one in enumerate(refused) if one}
            keys, alone = (
                [one.key for one in store.manage(admin.requests, dead=False)] for store in stores
            )
            assert keys == alone


def test_requeue_and_drop(stores: tuple[Store, Store]) -> None:
    """By key, by destination, or all; a requeued request starts anew."""
    store, _ = stores
    store.put(b"1", b"2", b"3", b"4")
    store.put(b"5", url=HERE, key="five", ordered="tag")
    for claimed in store.take():
        store.settle(claimed, DEAD)
    page = store.manage(admin.requests, dead=True, limit=2)
    page += store.manage(admin.requests, dead=True, limit=9, after=page[-1].id)
    assert [one.body_bytes for one in page] == [1] * 5
    assert [one.problem for one in page] == ["was dead"] * 5
    assert store.manage(admin.requeue, keys=[page[0].key, "none"]) == 1
    assert store.manage(admin.requeue, keys=None, destination="http://here.test:80") == 1
    assert {(one.key, one.attempt) for one in store.take()} == {(page[0].key, 1), ("five", 1)}
    assert store.manage(admin.requeue, keys=["five"]) == 0  # it is not dead
    assert store.manage(admin.drop, keys=["five"]) == 1
    assert store.manage(admin.drop, keys=None) == 3
    assert store.manage(admin.stats).queued == 1


def test_the_queue_is_the_same_for_many(store: Store) -> None:
    """No statement of every day reads through the queue: each finds what it needs by an index."""
    from twisted_hangup.outbox import sql

    names = {
        *("DUE_ROWS", "FIRST_ROW", "FIRST_DUE", "RUNNING_IN_LANE", "OVER_AGE", "CLAIM"),
        *("DELETE", "AGAIN", "DEAD", "SAME_KEY", "NEXT_LANE"),
    }
    values = dict.fromkeys(("lane", "now", "limit", "id", "key", "claim", "at", "problem"), 1)
    values["due_at"] = 1
    for name in sorted(names):
        statement = getattr(sql, name).replace("{skip_locked}", "")
        plan = store.connection.execute(
            f"EXPLAIN QUERY PLAN {store.database.sql(statement)}", values
        ).fetchall()
        assert not [row for row in plan if row[3].startswith("SCAN")], name
        assert not [row for row in plan if "TEMP B-TREE" in row[3]], name


def test_another_version_is_left_alone(store: Store) -> None:
    """Tables of a later version are not touched."""
    store.connection.execute("UPDATE hangup_outbox_version SET version = 3")
    with pytest.raises(Exception, match="version 3"):
        create_tables(store.connection.cursor(), store.database)


def test_the_file_is_its_owners(tmp_path: Path, store: Store) -> None:
    """There are credentials in it."""
    store.put(b"1")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["", ":memory:", "a\0b"])
def test_not_a_file(name: str) -> None:
    """What would not keep anything is no database."""
    with pytest.raises(ValueError, match="not the name of a file"):
        database_named(name)
