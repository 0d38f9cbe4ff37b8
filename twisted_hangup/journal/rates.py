"""How many errors each second of the last hour has had, by code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Seconds that are remembered.
HOUR: Final = 3600


class Rates:
    """Counts by second in a ring of an hour, so that nothing has to be thrown away.

    A clock that is set back does no harm: seconds that are not over yet are not told, and
    are written over when they come again.
    """

    __slots__ = ("_ring", "_second", "_this")

    def __init__(self) -> None:
        #: Place in the hour -> the second that was there last, and its counts.
        self._ring: dict[int, tuple[int, dict[str, int]]] = {}
        self._second = -1
        self._this: dict[str, int] = {}

    def add(self, second: int, code: str) -> None:
        """Count one error in *second*, a Unix time."""
        if second != self._second:
            place = second % HOUR
            there = self._ring.get(place)
            if there is None or there[0] != second:
                there = self._ring[place] = (second, {})
            self._second, self._this = there
        self._this[code] = self._this.get(code, 0) + 1

    def last_hour(self, now: int) -> tuple[tuple[int, Mapping[str, int]], ...]:
        """Those of the 3600 seconds up to *now* that have errors, oldest first."""
        seconds = sorted(entry for entry in self._ring.values() if now - HOUR < entry[0] <= now)
        return tuple((second, dict(counts)) for second, counts in seconds)
