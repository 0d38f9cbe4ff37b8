"""Deadlines pass in time, never early, and leave no timer behind."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from twisted_hangup.transport.deadlines import TICK, Deadline, Deadlines


class Watched:
    """A deadline that notes when it passed."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.passed_at: list[float] = []
        self.deadline = Deadline(lambda: self.passed_at.append(clock.seconds()))


@pytest.mark.parametrize("due", [0.0, 0.1, 0.5, 0.75, 1.0, 59.9, 60.0])
def test_passes_in_time(due: float) -> None:
    """A deadline passes once, not before its moment and less than a second after."""
    clock = Clock()
    deadlines, watched = Deadlines(clock), Watched(clock)
    deadlines.set(watched.deadline, due)
    clock.pump([0.05] * 1300)
    (passed,) = watched.passed_at
    assert due <= passed < due + 1.0
    assert clock.getDelayedCalls() == []


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5), st.booleans()), min_size=1, max_size=20),
    st.booleans(),
)
def test_moving(moves: list[tuple[float, float, bool]], alone: bool) -> None:
    """However it is moved about and rests, only the last moment set counts."""
    clock = Clock()
    deadlines, watched, other = Deadlines(clock), Watched(clock), Watched(clock)
    due = inf
    if not alone:
        deadlines.set(other.deadline, 10)
    for wait, more, rests in moves:
        clock.advance(wait)
        if watched.passed_at:
            assert watched.passed_at[-1] >= due
            watched.passed_at.clear()
        if rests:
            deadlines.rest(watched.deadline)
            assert not (alone and clock.getDelayedCalls())
        due = clock.seconds() + more
        deadlines.set(watched.deadline, due)
    clock.pump([TICK / 4] * 300)
    assert len(other.passed_at) == (not alone)
    assert len(watched.passed_at) == 1
    assert due <= watched.passed_at[0] < due + 1.0
    assert clock.getDelayedCalls() == []


def test_clock_that_nobody_sets() -> None:
    """The time of day may be set: waits on the reactor do not go by it, and a test's do."""
    from twisted.internet import reactor

    assert Deadlines(reactor).seconds is monotonic
    clock = Clock()
    clock.advance(7)
    assert Deadlines(clock).seconds() == 7.0


def test_later_is_only_an_attribute() -> None:
    """Moving a deadline later needs no call, and moving it to never neither."""
    clock = Clock()
    deadlines, watched = Deadlines(clock), Watched(clock)
    deadlines.set(watched.deadline, 1.0)
    watched.deadline.due = 3.0
    clock.pump([0.1] * 25)
    assert watched.passed_at == []
    watched.deadline.due = inf
    clock.pump([0.1] * 50)
    assert watched.passed_at == []
    assert clock.getDelayedCalls() == []


def test_forgotten() -> None:
    """A forgotten deadline never passes, and the timer goes with the last one."""
    clock = Clock()
    deadlines, watched = Deadlines(clock), Watched(clock)
    deadlines.set(watched.deadline, 1.0)
    deadlines.forget(watched.deadline)
    assert clock.getDelayedCalls() == []
    clock.advance(5)
    assert watched.passed_at == []


def test_one_timer_for_many() -> None:
    """Ten thousand deadlines share one timer."""
    clock = Clock()
    deadlines = Deadlines(clock)
    for number in range(10_000):
        deadlines.set(Deadline(lambda: None), 60 + number / 1000)
    assert len(clock.getDelayedCalls()) == 1


class SlowClock(Clock):
    """A clock on which looking at it takes a millisecond; it counts reactor turns asked for."""

    turns = 0

    def seconds(self) -> float:
        self.rightNow += 0.001
        return super().seconds()

    def callLater(self, delay: float, callable: Any, *args: Any, **kw: Any) -> Any:  # noqa: A002
        self.turns += delay == 0
        return super().callLater(delay, callable, *args, **kw)


def test_later_after_it_has_passed() -> None:
    """One that has passed, and is moved before its turn comes, passes at its new moment."""
    clock = Clock()
    deadlines, watched = Deadlines(clock), Watched(clock)
    before = Deadline(lambda: setattr(watched.deadline, "due", 2.0))
    deadlines.set(before, 1.0)
    deadlines.set(watched.deadline, 1.0)
    clock.pump([TICK] * 12)
    assert watched.passed_at == [2.0]
    assert clock.getDelayedCalls() == []


def test_slices() -> None:
    """Many that expire at once are spread over reactor turns, and all of them expire."""
    clock = SlowClock()
    deadlines = Deadlines(clock)
    expired: list[int] = []
    for number in range(100):
        deadlines.set(Deadline(lambda number=number: expired.append(number)), 1.0)  # type: ignore[misc]
    clock.advance(2)
    assert sorted(expired) == list(range(100))
    assert clock.turns >= 10


def test_setting_while_expiring() -> None:
    """What expires may set and forget deadlines of its own."""
    clock = Clock()
    deadlines, second = Deadlines(clock), Watched(clock)
    victim = Watched(clock)

    def first() -> None:
        deadlines.set(second.deadline, clock.seconds() + 1)
        deadlines.forget(victim.deadline)

    deadlines.set(Deadline(first), 1.0)
    deadlines.set(victim.deadline, 4.0)
    clock.pump([0.1] * 60)
    assert len(second.passed_at) == 1
    assert victim.passed_at == []
    assert clock.getDelayedCalls() == []


def test_one_number_for_a_tick() -> None:
    """Ten thousand that wait for the same moment share the number of its tick."""
    clock = Clock()
    deadlines, waiting = Deadlines(clock), [Deadline(list) for _ in range(3)]
    for deadline in waiting:
        deadlines.set(deadline, 100.0)
    clock.advance(TICK)
    assert waiting[0]._tick == 100.0 / TICK
    assert len({id(deadline._tick) for deadline in waiting}) == 1
