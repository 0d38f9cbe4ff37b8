"""In a flood so many events a second are told one by one, and every other one is counted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parsing import own_size
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from twisted_hangup.journal.flood import (
    MOST_CODES,
    MOST_COUNTS,
    MOST_FIRSTS,
    OTHER_CODES,
    FloodGate,
    ThrottledWarning,
)


class Flood:
    """A gate with a clock, and what it has told."""

    def __init__(self, per_second: int) -> None:
        self.clock = Clock()
        self.suppressed: list[tuple[str, int]] = []
        self.gate = FloodGate(
            self.clock, per_second, lambda code, count: self.suppressed.append((code, count))
        )


def test_rest_is_told_when_the_second_is_over_without_another_event() -> None:
    """A flood that ends leaves nothing untold and no timer behind."""
    flood = Flood(2)
    flood.clock.advance(10.25)
    assert [flood.gate.admit(code) for code in "AABAB"] == [True, True, True, False, False]
    flood.clock.advance(0.7)
    assert flood.suppressed == []
    flood.clock.advance(0.05)
    assert flood.suppressed == [("A", 1), ("B", 1)]
    assert flood.clock.getDelayedCalls() == []


def test_next_second_starts_afresh() -> None:
    """Each second of the clock admits its own number."""
    flood = Flood(1)
    assert flood.gate.admit("A")
    assert not flood.gate.admit("A")
    flood.clock.advance(1)
    assert flood.gate.admit("A")
    assert flood.suppressed == [("A", 1)]


def test_late_timer_does_not_mix_two_seconds() -> None:
    """An event of a new second tells the old one first, also if the timer is late."""
    flood = Flood(1)
    flood.gate.admit("A")
    flood.gate.admit("A")
    flood.clock.rightNow = 3.5
    assert flood.gate.admit("B")
    assert flood.suppressed == [("A", 1)]
    assert flood.clock.getDelayedCalls() == []


def test_no_timer_runs_without_a_flood() -> None:
    """Whoever stays below the rate costs no timer."""
    flood = Flood(2)
    assert flood.gate.admit("A")
    assert flood.gate.admit("A")
    assert flood.clock.getDelayedCalls() == []


def test_zero_admits_all() -> None:
    """Zero is no limit, as everywhere."""
    flood = Flood(0)
    assert all(flood.gate.admit("A") for _ in range(1000))


def test_closing_tells_the_rest() -> None:
    """What is counted when the server stops is told then, once."""
    flood = Flood(1)
    flood.gate.admit("A")
    flood.gate.admit("A")
    flood.gate.close()
    flood.gate.close()
    assert flood.suppressed == [("A", 1)]
    assert flood.clock.getDelayedCalls() == []


def test_codes_are_bounded() -> None:
    """However many codes there are in a second, memory and lines are not."""
    flood = Flood(1)
    codes = [f"ERR_{number}" for number in range(MOST_CODES + 50)]
    assert [code for code in codes if flood.gate.admit(code)] == codes[: 1 + MOST_FIRSTS]
    for code in codes:
        assert not flood.gate.admit(code)
    flood.gate.close()
    assert len(flood.suppressed) == MOST_COUNTS
    assert flood.suppressed[-1][0] == OTHER_CODES
    assert sum(count for _, count in flood.suppressed) == 2 * len(codes) - 1 - MOST_FIRSTS


def test_codes_without_end_take_no_memory() -> None:
    """A client that could make up codes could not fill the memory with them."""
    flood = Flood(1)
    for number in range(20_000):
        flood.gate.admit(f"ERR_{number}")
    assert own_size(flood.gate) < 100_000
    flood.gate.close()
    assert flood.suppressed[-1][0] == OTHER_CODES


def test_codes_of_which_nothing_was_told_are_counted_first() -> None:
    """Where there is no room for every count, it goes to the rare ones that got no line."""
    flood = Flood(1)
    for code in "ABCDEFGHIJKL":
        for _ in range(100 if code < "L" else 1):
            flood.gate.admit(code)
    flood.gate.close()
    assert flood.suppressed[0] == ("L", 1)
    assert [code for code, _ in flood.suppressed[1:]] == [*"ABCDEFGH", OTHER_CODES]


def test_flood_of_one_kind_hides_no_other() -> None:
    """The first event of each code in a second is told, whatever has used up the number."""
    flood = Flood(2)
    for _ in range(2):
        assert [flood.gate.admit("A") for _ in range(4)] == [True, True, False, False]
        assert [flood.gate.admit(code) for code in "BCBC"] == [True, True, False, False]
        flood.clock.advance(1)
    assert flood.suppressed == [("A", 2), ("B", 1), ("C", 1)] * 2


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), st.floats(0, 0.2)), max_size=200
    ),
)
def test_every_event_is_admitted_or_counted(
    per_second: int, events: list[tuple[str, float]]
) -> None:
    """Nothing is lost, and no second tells more than it may, counts included."""
    flood = Flood(per_second)
    admitted = 0
    seconds: Counter[int] = Counter()
    for code, pause in events:
        flood.clock.advance(pause)
        before = len(flood.suppressed)
        if flood.gate.admit(code):
            admitted += 1
            seconds[int(flood.clock.seconds())] += 1
        assert len(flood.suppressed) - before <= MOST_COUNTS
    flood.gate.close()
    assert admitted + sum(count for _, count in flood.suppressed) == len(events)
    assert all(count <= per_second + MOST_FIRSTS for count in seconds.values())


@pytest.mark.parametrize("start", [0.0, 0.999999999, 1_700_000_000.123456])
def test_timer_never_fires_in_the_second_it_tells_of(start: float) -> None:
    """The second is over when its rest is told, wherever in it the flood began."""
    flood = Flood(1)
    flood.clock.advance(start)
    flood.gate.admit("A")
    flood.gate.admit("A")
    (timer,) = flood.clock.getDelayedCalls()
    assert timer.getTime() >= int(start) + 1
    flood.gate.close()


def test_throttled_warning() -> None:
    """A warning is given at once, then at most once a second."""
    clock = Clock()
    with capturedLogs() as events:
        warn = ThrottledWarning(clock)
        for _ in range(25):
            warn("trouble {n}", n=1)
            clock.advance(0.1)
    assert [formatEvent(event) for event in events] == ["trouble 1"] * 3


def test_counts_of_another_gate() -> None:
    """What another gate has left out is counted here with the rest, when the second is over."""
    flood = Flood(1)
    assert flood.gate.admit("A")
    assert not flood.gate.admit("A")
    flood.gate.count("A", 5)
    flood.gate.count("B", 7)
    flood.gate.count(OTHER_CODES, 2)
    flood.clock.advance(1)
    assert flood.suppressed == [("A", 6), ("B", 7), (OTHER_CODES, 2)]
    assert flood.gate.admit("A")
    assert flood.clock.getDelayedCalls() == []


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)), max_size=400))
def test_counts_of_many_codes(counts: list[tuple[int, int]]) -> None:
    """Their lines are bounded, and add up."""
    flood = Flood(1)
    for code, number in counts:
        flood.gate.count(str(code), number)
    flood.gate.close()
    assert sum(number for _, number in flood.suppressed) == sum(number for _, number in counts)
    assert len(flood.suppressed) <= MOST_COUNTS
