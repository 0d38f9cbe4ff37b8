"""Errors are counted by second, for one hour."""

from __future__ import annotations

from twisted_hangup.journal.rates import HOUR, Rates


def test_by_second_and_code() -> None:
    """Seconds without an error are left out."""
    rates = Rates()
    for second, code in [(100, "A"), (100, "B"), (100, "A"), (103, "A")]:
        rates.add(second, code)
    assert rates.last_hour(103) == ((100, {"A": 2, "B": 1}), (103, {"A": 1}))


def test_last_hour() -> None:
    """What is an hour old is not told any more."""
    rates = Rates()
    rates.add(100, "A")
    rates.add(101, "B")
    assert rates.last_hour(100 + HOUR) == ((101, {"B": 1}),)
    rates.add(100 + HOUR, "C")  # in the place of the first
    assert rates.last_hour(100 + HOUR) == ((101, {"B": 1}), (100 + HOUR, {"C": 1}))


def test_what_was_told_stays() -> None:
    """Further errors do not change what somebody holds in his hands."""
    rates = Rates()
    rates.add(100, "A")
    told = rates.last_hour(100)
    rates.add(100, "A")
    assert told == ((100, {"A": 1}),)


def test_clock_set_back() -> None:
    """Errors go on being counted, in seconds that come twice as well."""
    rates = Rates()
    rates.add(1000, "A")
    rates.add(200, "B")
    assert rates.last_hour(200) == ((200, {"B": 1}),)
    rates.add(1000, "A")
    assert rates.last_hour(1000) == ((200, {"B": 1}), (1000, {"A": 2}))


def test_bounded() -> None:
    """A day of errors takes no more than an hour."""
    rates = Rates()
    for second in range(24 * HOUR):
        rates.add(second, "A")
    assert len(rates.last_hour(24 * HOUR - 1)) == len(rates._ring) == HOUR
