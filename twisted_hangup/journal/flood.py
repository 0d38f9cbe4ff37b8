"""Bounds a log in a flood: it lets a number of errors through, and counts the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Most codes counted apart in one second.  There are fewer, but OpenSSL may add more.
MOST_CODES: Final = 200

#: The name for codes beyond `MOST_CODES`, and for those that `MOST_COUNTS` has no room for.
OTHER_CODES: Final = "(other codes)"

#: Events admitted in one second as the first of their code, after the number is used up.
MOST_FIRSTS: Final = 10

#: Most lines with counts for one second.
MOST_COUNTS: Final = 10

_log = Logger()


class FloodGate:
    """Admits a number of events in each second of a clock, and counts the rest by code.

    The first event of a code is admitted even after that, so that a flood of one kind cannot hide
    the others.  Whatever is sent, a second has at most ``per_second + MOST_FIRSTS + MOST_COUNTS``
    lines, and the counts add up.

    The counts of a second come out when it is over: with the next event, by a timer, or at `close`.
    The timer runs only in a flood.
    """

    def __init__(
        self,
        clock: IReactorTime,
        per_second: int,
        on_suppressed: Callable[[str, int], object],
        *,
        most_firsts: int = MOST_FIRSTS,
    ) -> None:
        """
        Args:
            clock: Gives the time and timers.
            per_second: Events of any code that are admitted in each second; 0 admits all.  In
                addition come the first events of more codes, *most_firsts* at most.
            on_suppressed: Called when the second is over with a code and how many of its events
                were not admitted; `MOST_COUNTS` times at most, the last time with `OTHER_CODES` and
                the rest.
            most_firsts: See *per_second*.
        """
        self._clock = clock
        self._per_second = per_second
        self._on_suppressed = on_suppressed
        self._most_firsts = most_firsts
        self._second = -1
        self._admitted = 0
        self._firsts = 0
        #: The codes seen in this second, and whether an event of each was admitted.
        self._codes: dict[str, bool] = {}
        self._suppressed: dict[str, int] = {}
        self._timer: IDelayedCall | None = None

    def admit(self, code: str, lines: int = 1) -> bool:
        """Whether an event of this many lines is admitted; if not, it is counted under *code*."""
        if not self._per_second:
            return True
        self._look_at_the_clock()
        if self._admitted + lines <= self._per_second:
            self._admitted += lines
            self._see(code, True)
            return True
        if code not in self._codes:
            admitted = self._firsts < self._most_firsts
            self._see(code, admitted)
            if admitted:
                self._firsts += 1
                return True
        self._count(code, 1)
        return False

    def count(self, code: str, number: int) -> None:
        """Count *number* events that another gate has not admitted."""
        self._look_at_the_clock()
        self._see(code, False)
        self._count(code, number)

    def _look_at_the_clock(self) -> None:
        second = math.floor(self._clock.seconds())
        if second != self._second:
            self._settle()
            self._second, self._admitted, self._firsts = second, 0, 0
            self._codes.clear()

    def _count(self, code: str, number: int) -> None:
        if code not in self._codes:
            code = OTHER_CODES
        self._suppressed[code] = self._suppressed.get(code, 0) + number
        if self._timer is None:
            rest = self._second + 1 - self._clock.seconds()
            self._timer = self._clock.callLater(max(0, rest), self._settle)

    def _see(self, code: str, admitted: bool) -> None:
        if code not in self._codes and len(self._codes) < MOST_CODES:
            self._codes[code] = admitted

    def close(self) -> None:
        """Report the counts so far, and stop the timer."""
        self._settle()

    def _settle(self) -> None:
        """Report what was suppressed in the second that is over."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        suppressed, self._suppressed = self._suppressed, {}
        for code, count in self._counts(suppressed):
            self._on_suppressed(code, count)

    def _counts(self, suppressed: dict[str, int]) -> list[tuple[str, int]]:
        """The counts, those without room as one."""
        counts = [*suppressed.items()]
        if len(counts) <= MOST_COUNTS:
            return counts
        # Codes without any line come first, then the largest numbers.
        rest = suppressed.pop(OTHER_CODES, 0)
        counts = sorted(suppressed.items(), key=lambda item: (self._codes[item[0]], -item[1]))
        largest = counts[: MOST_COUNTS - 1]
        rest += sum(count for _, count in counts[MOST_COUNTS - 1 :])
        return [*largest, (OTHER_CODES, rest)]


class ThrottledWarning:
    """Warns at once, and then again only after *seconds*."""

    def __init__(self, clock: IReactorTime, seconds: float = 1.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._quiet_until: float | None = None

    def __call__(self, format: str, **values: object) -> None:  # noqa: A002  # Logger's own word
        """Log *format* with *values* at level *warn*, unless it was done a short time ago."""
        now = self._clock.seconds()
        if self._quiet_until is not None and now < self._quiet_until:
            return
        self._quiet_until = now + self._seconds
        _log.warn(format, **values)
