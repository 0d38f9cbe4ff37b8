"""How many errors of a flood are told one by one, and how the rest are told at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Codes told apart in one second.  There are fewer; OpenSSL's are its own to choose.
MOST_CODES: Final = 200

#: What the codes beyond `MOST_CODES` are counted under.
OTHER_CODES: Final = "(other codes)"


class FloodGate:
    """Admits so many events in each second of a clock, and counts the rest by code.

    The first event of each code is admitted even when that number is used up, so that a
    flood of one kind cannot hide that there are others.

    What was counted in a second is told when the second is over: by the next event, by a
    timer where none comes, and by `close`.  The timer runs only in a flood.
    """

    def __init__(
        self, clock: IReactorTime, per_second: int, on_suppressed: Callable[[str, int], object]
    ) -> None:
        """
        Args:
            clock: Seconds and timers.
            per_second: Events of any code admitted in each second; 0 admits all.  On top
                of it comes the first event of each code, of `MOST_CODES` codes at most.
            on_suppressed: Called with a code and how often it was not admitted, once per
                code, when the second is over.
        """
        self._clock = clock
        self._per_second = per_second
        self._on_suppressed = on_suppressed
        self._second = -1
        self._admitted = 0
        self._codes: set[str] = set()
        self._suppressed: dict[str, int] = {}
        self._timer: IDelayedCall | None = None

    def admit(self, code: str) -> bool:
        """Whether an event may be told by itself; counts it under *code* if not."""
        now = self._clock.seconds()
        second = math.floor(now)
        if second != self._second:
            self._settle()
            self._second, self._admitted = second, 0
            self._codes.clear()
        first = code not in self._codes and len(self._codes) < MOST_CODES
        if first:
            self._codes.add(code)
        if not self._per_second or self._admitted < self._per_second:
            self._admitted += 1
            return True
        if first:
            return True
        if code not in self._codes:
            code = OTHER_CODES
        self._suppressed[code] = self._suppressed.get(code, 0) + 1
        if self._timer is None:
            self._timer = self._clock.callLater(second + 1 - now, self._settle)
        return False

    def close(self) -> None:
        """Tell what has been counted so far, and leave no timer behind."""
        self._settle()

    def _settle(self) -> None:
        """Tell what the second that is over has suppressed."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        suppressed, self._suppressed = self._suppressed, {}
        for code, count in suppressed.items():
            self._on_suppressed(code, count)
