"""The deadlines of all connections of a site, on one timer and the monotonic clock.

A connection owns one `Deadline` and may move it at any time: moving it later sets one attribute and
no timer.  The site's `Deadlines` looks four times a second at those that may be due.  So a deadline
is never early, and less than a second late unless tens of thousands pass together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil, inf
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .clock import steady

#: Seconds between two looks.
TICK: Final = 0.25

#: Longest work on expired connections in one turn of the reactor, in seconds: closing ten thousand
#: must not keep other clients waiting.  A request on a new connection takes three turns.
SLICE: Final = 0.001

#: The tick of a deadline that is not filed under one yet.
_NEW: Final = -1


def _nothing() -> None:
    """What a forgotten deadline calls."""


class Deadline:
    """A moment, and what to call when it has passed.

    Attributes:
        due: The moment, on the clock of the `Deadlines`; ``inf`` for never.  Change it through
            `Deadlines.set` only.
    """

    __slots__ = ("_expired", "_tick", "due")

    def __init__(self, expired: Callable[[], object]) -> None:
        self.due = inf
        self._expired = expired
        self._tick: int | None = None


class Deadlines:
    """All deadlines of one site.

    Args:
        clock: Gives the time.  Its one timer runs only while a deadline is set, so an idle site has
            no pending call in the reactor.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock = steady(clock)
        self.seconds = clock.seconds
        #: Deadlines that were set since the last look and are not filed: most are forgotten first.
        self._new: list[Deadline] = []
        self._waiting = 0
        #: The deadlines of a tick, and its number, which is one object for all of them.
        #: Dictionaries: a set takes three times the room.
        self._by_tick: dict[int, tuple[int, dict[Deadline, None]]] = {}
        self._looked_at = 0
        self._passed: deque[Deadline] = deque()
        self._timer: IDelayedCall | None = None

    def set(self, deadline: Deadline, due: float) -> None:
        """Let *deadline* pass at *due*; ``inf`` turns it off.  This replaces its earlier moment."""
        deadline.due = due
        tick = deadline._tick
        # If it is later than filed, its tick finds out; only a sooner one is filed again.
        if due == inf or tick == _NEW:
            return
        if tick is not None:
            if due > tick * TICK - TICK:
                return
            self._unfile(deadline)
        deadline._tick = _NEW
        self._new.append(deadline)
        self._waiting += 1
        if self._timer is None:
            self._timer = self._clock.callLater(TICK, self._look)

    def rest(self, deadline: Deadline) -> None:
        """Turn *deadline* off until it is set again; without any other, no timer runs."""
        deadline.due = inf
        if self._waiting == 1:
            self._unfile(deadline)
            self._stop_if_idle()

    def forget(self, deadline: Deadline) -> None:
        """Drop *deadline* for good: it never passes, and keeps nothing alive."""
        deadline.due = inf
        deadline._expired = _nothing
        self._unfile(deadline)
        if not self._waiting:
            self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if not self._waiting and not self._passed and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._new.clear()

    def _file(self, deadline: Deadline) -> None:
        tick = max(ceil(deadline.due / TICK), self._looked_at + 1)
        deadline._tick, filed = self._by_tick.setdefault(tick, (tick, {}))
        filed[deadline] = None

    def _unfile(self, deadline: Deadline) -> None:
        tick = deadline._tick
        if tick is None:
            return
        deadline._tick = None
        self._waiting -= 1
        if tick in self._by_tick:  # else it is new: the next look drops it
            _, filed = self._by_tick[tick]
            filed.pop(deadline, None)
            if not filed:
                del self._by_tick[tick]

    def _look(self) -> None:
        """Collect the deadlines that may be due, and expire them in slices from the next turn
        on."""
        self._timer = None
        now = self.seconds()
        self._looked_at = tick_now = int(now / TICK)
        new, self._new = self._new, []
        candidates = [deadline for deadline in new if deadline._tick == _NEW]
        for tick in [tick for tick in self._by_tick if tick <= tick_now]:
            candidates += self._by_tick.pop(tick)[1]
        for deadline in candidates:
            if now < deadline.due < inf:
                self._file(deadline)
            else:
                deadline._tick = None
                self._waiting -= 1
                if deadline.due <= now:
                    self._passed.append(deadline)
        self._go_on()

    def _expire(self) -> None:
        """Expire collected deadlines for one slice, then give the reactor its turn."""
        self._timer = None
        started = self.seconds()
        while self._passed:
            deadline = self._passed.popleft()
            # It may have been moved or forgotten since then.
            if deadline.due <= self.seconds():
                deadline.due = inf
                deadline._expired()
            else:
                self.set(deadline, deadline.due)
            if self.seconds() - started >= SLICE:
                break
        self._go_on()

    def _go_on(self) -> None:
        if self._passed:
            if self._timer is not None:  # an expired() has set a deadline
                self._timer.cancel()
            self._timer = self._clock.callLater(0, self._expire)
        elif self._waiting and self._timer is None:
            self._timer = self._clock.callLater(TICK, self._look)
