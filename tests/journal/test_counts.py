"""Errors are counted by second for one hour, and the most frequent keys in bounded memory."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_hangup.journal.counts import HOUR, Rates, Top

# Seconds.


def test_by_second_and_code() -> None:
    """Seconds without an error are left out."""
    rates = Rates()
    for second, code in [(100, "A"), (100, "B"), (100, "A"), (103, "A")]:
        rates.add(second, code)
    assert rates.last_hour(103) == ((100, {"A": 2, "B": 1}), (103, {"A": 1}))


def test_last_hour() -> None:
    """What is an hour old is left out."""
    rates = Rates()
    rates.add(100, "A")
    rates.add(101, "B")
    assert rates.last_hour(100 + HOUR) == ((101, {"B": 1}),)
    rates.add(100 + HOUR, "C")  # in the place of the first
    assert rates.last_hour(100 + HOUR) == ((101, {"B": 1}), (100 + HOUR, {"C": 1}))


def test_what_was_returned_stays() -> None:
    """Further errors do not change what somebody holds in his hands."""
    rates = Rates()
    rates.add(100, "A")
    before = rates.last_hour(100)
    rates.add(100, "A")
    assert before == ((100, {"A": 1}),)


def test_clock_set_back() -> None:
    """Errors go on being counted, in seconds that come twice as well."""
    rates = Rates()
    rates.add(1000, "A")
    rates.add(200, "B")
    assert rates.last_hour(200) == ((200, {"B": 1}),)
    rates.add(1000, "A")
    assert rates.last_hour(1000) == ((200, {"B": 1}), (1000, {"A": 2}))


def test_seconds_are_bounded() -> None:
    """A day of errors takes no more than an hour."""
    rates = Rates()
    for second in range(24 * HOUR):
        rates.add(second, "A")
    assert len(rates.last_hour(24 * HOUR - 1)) == len(rates._ring) == HOUR


# Keys: never with more than is true.


def added(room: int, keys: list[str]) -> Top:
    top = Top(room)
    for key in keys:
        top.add(key)
    return top


@pytest.mark.parametrize(
    "keys, most",
    [
        ("", ()),
        ("a", (("a", 1),)),
        ("abcab", (("a", 2), ("b", 2), ("c", 1))),
        ("cccbba", (("c", 3), ("b", 2), ("a", 1))),
        ("ba", (("a", 1), ("b", 1))),
        # d has taken the place of c, and then c that of d: what either had is forgotten.
        ("aabbcd", (("a", 2), ("b", 2), ("d", 1))),
        ("aabbcdc", (("a", 2), ("b", 2), ("c", 1))),
    ],
)
def test_most(keys: str, most: tuple[tuple[str, int], ...]) -> None:
    """Most first, and in the order of the alphabet where they are equal."""
    assert added(3, [*keys]).most(5) == most


def test_no_more_than_asked_for() -> None:
    """A table has as many rows as it has room for."""
    assert added(10, [*"aabbc"]).most(2) == (("a", 2), ("b", 2))


@given(st.integers(1, 6), st.lists(st.sampled_from("abcdefghij"), max_size=200))
def test_promises(room: int, keys: list[str]) -> None:
    """Whatever comes: no more keys than there is room for, none with too much, and
    none missed that is more than one in *room*."""
    truth = Counter(keys)
    top = added(room, keys)
    counts = dict(top.most(room))
    assert len(top) == len(counts) == min(room, len(truth))
    assert all(count <= truth[key] for key, count in counts.items())
    for key, count in truth.items():
        if count > len(keys) / room:
            assert counts[key] >= count - len(keys) // room


@given(st.integers(10, 20), st.lists(st.sampled_from("abcdefghij"), max_size=200))
def test_exact_while_there_is_room(room: int, keys: list[str]) -> None:
    """As long as every key has a place, each count is the truth."""
    assert dict(added(room, keys).most(room)) == Counter(keys)


def test_flood_of_keys_hides_nobody() -> None:
    """Ten thousand peers with one error each do not push out the one with a thousand."""
    top = Top(100)
    for number in range(10_000):
        top.add(f"once {number}")
        if number % 10 == 0:
            top.add("often")
    (first, often), (_, second) = top.most(2)
    assert first == "often" and 880 <= often <= 1000
    assert second == 1
    assert len(top) == len(top._inherited) + 1 == 100
