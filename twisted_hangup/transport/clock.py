"""Waits on the monotonic clock, which nobody can set.

Twisted's reactors use the time of day.  It steps when an administrator sets it, when a machine
wakes up, and when it first hears of NTP.  If it is set back by an hour, a pending `callLater` comes
an hour late, even one of 0 seconds.  If it is set forward, the call comes at once.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from threading import Thread
from time import monotonic
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.python import runtime
from zope.interface import implementer

#: Seconds between two comparisons of the two clocks, while something waits.
INTERVAL: Final = 0.5

#: A difference of this many seconds is a step of the time of day.  NTP slews it by half a
#: millisecond in each second, and the two clocks cannot be read at the same moment.
STEP: Final = 0.1

#: The name of the thread that compares them.
THREAD: Final = "twisted_hangup clock"

#: Seconds that a call may come early without a step, because clocks are slewed.
_EARLY: Final = 0.001

#: If reading both clocks takes longer than this, in seconds, the reading does not count.
_APART: Final = 0.01


def steady(clock: IReactorTime) -> IReactorTime:
    """*clock*, but with waits that no step of the time of day makes longer or shorter.

    A clock that is not a reactor, such as a test's, is returned as it is.
    """
    if clock.seconds is runtime.seconds and IReactorFromThreads.providedBy(clock):
        return _steady(clock)
    return clock


@lru_cache(maxsize=4)  # there is one reactor, and a thread for each
def _steady(reactor: Any) -> SteadyClock:
    return SteadyClock(reactor)


@implementer(IReactorTime)
class SteadyClock:
    """The time of a reactor on the monotonic clock.

    A call that comes too early is noticed when it comes.  A call that would come too late is not
    made, and the reactor does not wake up before it.  Linux reports a step only through a file
    descriptor that Python cannot open before 3.13.  So a daemon thread compares the clocks twice a
    second, and lets the reactor correct the pending calls.  The thread runs only while a call is
    pending here, and costs nothing on the path of a request.
    """

    def __init__(self, reactor: Any) -> None:
        self.seconds: Callable[[], float] = monotonic
        self.reactor = reactor
        self._pending: set[SteadyCall] = set()
        self._thread: Thread | None = None
        self._compared_at = self._ahead = 0.0

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002  # the interface's own word
        *args: object,
        **kw: object,
    ) -> SteadyCall:
        call = SteadyCall(self, delay, partial(callable, *args, **kw))
        self._pending.add(call)
        # The thread may be about to end, or have stayed in the parent process; then the next
        # call starts another.
        if self._thread is None or not self._thread.is_alive():
            self._compared_at, self._ahead = _compared()
            thread = Thread(target=self._watch, name=THREAD, daemon=True)
            with suppress(RuntimeError):  # no room for a thread: the next call tries again
                thread.start()
                self._thread = thread
        return call

    def getDelayedCalls(self) -> list[SteadyCall]:
        return [*self._pending]

    def over(self, call: SteadyCall) -> None:
        """*call* is not pending any more."""
        self._pending.discard(call)

    def _watch(self) -> None:
        while self._pending:
            select.select([], [], [], INTERVAL)  # `sleep` fails under libfaketime
            self.compare()

    def compare(self) -> None:
        """Let the reactor correct the pending calls if the time of day was set back."""
        since, before = self._compared_at, self._ahead
        self._compared_at, self._ahead = _compared()
        if before - self._ahead > STEP:
            self.reactor.callFromThread(self.set_back, before - self._ahead, since)

    def set_back(self, step: float, since: float) -> None:
        """The time of day was set back by *step* seconds, at *since* or later.

        Each pending call of ours waits for its rest.  For calls of others it is unknown when they
        were made, and so whether they use the old time or the new.  But a call that was due between
        *since* and now by the old time is overdue: it is made at once.  Most of these were due in
        the next turn.
        """
        for call in self.getDelayedCalls():
            call.put_right()
        now = self.reactor.seconds() + step
        begun = now - (monotonic() - since)
        for other in self.reactor.getDelayedCalls():
            if begun <= other.getTime() <= now:
                other.reset(0)


@implementer(IDelayedCall)
class SteadyCall:
    """A pending call of a `SteadyClock`."""

    __slots__ = ("_call", "_clock", "_due", "_function")

    def __init__(self, clock: SteadyClock, delay: float, function: Callable[[], object]) -> None:
        self._clock = clock
        self._function = function
        self._due = monotonic() + delay
        self._call: IDelayedCall = clock.reactor.callLater(delay, self._run)

    def put_right(self) -> None:
        """Wait for the rest, whatever the time of day is."""
        self._call.reset(max(0.0, self._due - monotonic()))

    def _run(self) -> None:
        rest = self._due - monotonic()
        if rest > _EARLY:
            self._call = self._clock.reactor.callLater(rest, self._run)
            return
        self._clock.over(self)
        self._function()

    def getTime(self) -> float:
        return self._due

    def active(self) -> bool:
        return self._call.active()

    def cancel(self) -> None:
        self._call.cancel()
        self._clock.over(self)

    def delay(self, secondsLater: float) -> None:
        self._due += secondsLater
        self.put_right()

    def reset(self, secondsFromNow: float) -> None:
        self._due = monotonic() + secondsFromNow
        self.put_right()


def _compared() -> tuple[float, float]:
    """Now, and the seconds by which the time of day is ahead of the monotonic clock."""
    while True:
        before = monotonic()
        now: float = runtime.seconds()
        if monotonic() - before < _APART:  # no other thread has run in between
            return before, now - before
