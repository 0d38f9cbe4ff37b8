"""The most frequent keys are told, never with more than is true, in bounded memory."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_hangup.journal.top import Top


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
    """Whatever comes: no more keys than there is room for, none told with too much, and
    none missed that is more than one in *room*."""
    truth = Counter(keys)
    top = added(room, keys)
    told = dict(top.most(room))
    assert len(top) == len(told) == min(room, len(truth))
    assert all(count <= truth[key] for key, count in told.items())
    for key, count in truth.items():
        if count > len(keys) / room:
            assert told[key] >= count - len(keys) // room


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
