"""What a log says in a flood: so many errors one by one, and how many more there were."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Codes kept apart in one second.  There are fewer; OpenSSL's are its own to choose.
MOST_CODES: Final = 200

#: What the codes beyond `MOST_CODES` are counted under, and those for which `MOST_COUNTS`
#: has no room.
OTHER_CODES: Final = "(other codes)"

#: Events admitted in one second because they are the first of their code, though the number
#: is used up.
MOST_FIRSTS: Final = 10

#: How many counts there are of one second.
MOST_COUNTS: Final = 10

_log = Logger()


class FloodGate:
    """Admits so many events in each second of a clock, and counts the rest by code.

    The first event of a code is admitted even when that number is used up, so that a flood
    of one kind cannot hide that there are others.  Whatever is sent, a second has at most
    ``per_second + MOST_FIRSTS + MOST_COUNTS`` lines, and the counts add up.

    What was counted in a second comes out when the second is over: by the next event, by a
    timer where none comes, and by `close`.  The timer runs only in a flood.
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
            clock: Seconds and timers.
            per_second: Lines of events of any code in each second; 0 admits all.  On top
                of it come the first events of further codes, *most_firsts* at most.
            on_suppressed: Called with a code and how often it was not admitted, once per
                code, when the second is over; `MOST_COUNTS` times at most, the last time
                with `OTHER_CODES` and all that is left.
            most_firsts: See above.
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
        """Whether an event may have so many lines of its own; counts it under *code* if not."""
        now = self._clock.seconds()
        second = math.floor(now)
        if second != self._second:
            self._settle()
            self._second, self._admitted, self._firsts = second, 0, 0
            self._codes.clear()
        if not self._per_second or self._admitted + lines <= self._per_second:
            self._admitted += lines
            self._see(code, True)
            return True
        if code not in self._codes:
            admitted = self._firsts < self._most_firsts
            self._see(code, admitted)
            if admitted:
                self._firsts += 1
                return True
        if code not in self._codes:
            code = OTHER_CODES
        self._suppressed[code] = self._suppressed.get(code, 0) + 1
        if self._timer is None:
            self._timer = self._clock.callLater(second + 1 - now, self._settle)
        return False

    def _see(self, code: str, admitted: bool) -> None:
        if code not in self._codes and len(self._codes) < MOST_CODES:
            self._codes[code] = admitted

    def close(self) -> None:
        """Tell what has been counted so far, and leave no timer behind."""
        self._settle()

    def _settle(self) -> None:
        """Tell what the second that is over has suppressed."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        suppressed, self._suppressed = self._suppressed, {}
        for code, count in self._counts(suppressed):
            self._on_suppressed(code, count)

    def _counts(self, suppressed: dict[str, int]) -> list[tuple[str, int]]:
        """The counts, those that there is no room for as one."""
        counts = [*suppressed.items()]
        if len(counts) <= MOST_COUNTS:
            return counts
        # A code without any line comes first, and then the largest numbers.
        rest = suppressed.pop(OTHER_CODES, 0)
        counts = sorted(suppressed.items(), key=lambda item: (self._codes[item[0]], -item[1]))
        largest = counts[: MOST_COUNTS - 1]
        rest += sum(count for _, count in counts[MOST_COUNTS - 1 :])
        return [*largest, (OTHER_CODES, rest)]


class ThrottledWarning:
    """Warns at once, and again only when *seconds* have passed: a trouble may come often."""

    def __init__(self, clock: IReactorTime, seconds: float = 1.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._quiet_until: float | None = None

    def __call__(self, format: str, **values: object) -> None:  # noqa: A002  # Logger's own word
        """Log *format* with *values* at level *warn*, or say nothing."""
        now = self._clock.seconds()
        if self._quiet_until is not None and now < self._quiet_until:
            return
        self._quiet_until = now + self._seconds
        _log.warn(format, **values)
