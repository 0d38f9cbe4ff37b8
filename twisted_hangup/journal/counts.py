"""The counts of a journal: errors by second and code, and the peers with most errors.

Their memory is bounded, however many errors there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nsmallest
from typing import Final

#: Seconds that are remembered.
HOUR: Final = 3600


class Rates:
    """Counts by second, in a ring of one hour.

    If the clock is set back, seconds that have not come yet are left out, and written over when
    they come.
    """

    __slots__ = ("_ring", "_second", "_this")

    def __init__(self) -> None:
        #: Place in the hour -> the last second at that place, and its counts.
        self._ring: dict[int, tuple[int, dict[str, int]]] = {}
        self._second = -1
        self._this: dict[str, int] = {}

    def add(self, second: int, code: str, number: int = 1) -> None:
        """Count *number* errors in *second*, a Unix time."""
        if second != self._second:
            place = second % HOUR
            counts = self._ring.get(place)
            if counts is None or counts[0] != second:
                counts = self._ring[place] = (second, {})
            self._second, self._this = counts
        self._this[code] = self._this.get(code, 0) + number

    def last_hour(self, now: int) -> tuple[tuple[int, Mapping[str, int]], ...]:
        """The 3600 seconds up to *now*, without those that have no errors, oldest first."""
        seconds = sorted(entry for entry in self._ring.values() if now - HOUR < entry[0] <= now)
        return tuple((second, dict(counts)) for second, counts in seconds)


class Top:
    """The keys that were added most often: Space-Saving with a bucket for each count.

    Once there are *room* keys, a new one replaces one that has been added least, and inherits its
    count.  So every key that makes up more than one in *room* of all is there.  (Metwally, Agrawal,
    El Abbadi: "Efficient computation of frequent and top-k elements in data streams", 2005.)

    `most` leaves out what a key has inherited.  So a count may be less than the truth and never
    more: a million peers with one error each do not look like a thousand with a thousand each.
    """

    __slots__ = ("_by_count", "_counts", "_inherited", "_least", "_room")

    def __init__(self, room: int) -> None:
        self._room = room
        self._counts: dict[str, int] = {}
        #: Key -> the count that it began at, if that is not 0.
        self._inherited: dict[str, int] = {}
        #: Dictionaries: a set cannot remove its youngest member in constant time.
        self._by_count: dict[int, dict[str, None]] = {}
        self._least = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: str) -> None:
        """Count *key* once more, in constant time."""
        counts, by_count = self._counts, self._by_count
        count = counts.get(key, 0)
        if count:
            del by_count[count][key]
        elif len(counts) < self._room:
            self._least = 1
        else:
            count = self._least
            replaced, _ = by_count[count].popitem()
            del counts[replaced]
            self._inherited.pop(replaced, None)
            self._inherited[key] = count
        if count and not by_count[count]:
            del by_count[count]
            if count == self._least:
                self._least = count + 1
        counts[key] = count + 1
        by_count.setdefault(count + 1, {})[key] = None

    def most(self, number: int) -> tuple[tuple[str, int], ...]:
        """The *number* most frequent keys, each with how often it was added at least."""
        own = ((key, count - self._inherited.get(key, 0)) for key, count in self._counts.items())
        return tuple(nsmallest(number, own, key=lambda pair: (-pair[1], pair[0])))
