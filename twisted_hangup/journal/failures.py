"""Bounds the tracebacks in Twisted's log, of which a client can cause any number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogPublisher,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from twisted.python.threadable import isInIOThread
from zope.interface import implementer

from .flood import FloodGate

#: Most lines of tracebacks in each second, of all failures together, so also of one.  With the
#: counts this is the bound of every flood: 50.
TRACEBACK_LINES: Final = 40

#: A longer line is cut: the text of an error may hold what a client sent.
_LINE_LENGTH: Final = 500

#: How much of the start of a traceback that is too long is kept; the end says more.
_FIRST_LINES: Final = 3

_log = Logger()


def bound_failures(reactor: Any) -> Callable[[], None]:
    """Let each second add at most `TRACEBACK_LINES` of tracebacks to this process's log.

    The other failures are counted by the type of their error, and the counts are logged when the
    second is over.  This covers all failures that are logged: by our code, by Twisted for a request
    that fails, and of Deferreds whose error nobody handles.  A program has to ask for it.  A
    library may not: tests of an application look for each failure.

    Returns:
        A function that ends it, and logs the counts so far.
    """
    observers = globalLogPublisher._observers  # the only way to come before them
    bounded = _BoundedFailures(LogPublisher(*observers), reactor)
    globalLogPublisher._observers = [bounded]

    def end() -> None:
        bounded.gate.close()
        globalLogPublisher._observers = [
            *observers,
            *(other for other in globalLogPublisher._observers if other is not bounded),
        ]

    return end


@implementer(ILogObserver)
class _BoundedFailures:
    """Passes events on, but not every failure."""

    def __init__(self, observer: ILogObserver, reactor: Any) -> None:
        self._observer = observer
        self._reactor = reactor
        self.gate = FloodGate(reactor, TRACEBACK_LINES, _suppressed, most_firsts=0)

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is None and event.get("log_level") is not LogLevel.critical:
            self._observer(event)
        elif not isInIOThread():
            self._reactor.callFromThread(self, event)  # timers are not for other threads
        elif failure is None:
            # Such as the headline of an error that nobody handles.
            if self.gate.admit(event.get("log_namespace", "")):
                self._observer(event)
        else:
            excerpt = _Excerpt(failure)
            if self.gate.admit(excerpt.name, excerpt.lines):
                names = event.keys() & {"log_failure", "failure"}  # `twisted.python.log` has both
                self._observer({**event, **dict.fromkeys(names, excerpt)})


def _suppressed(error: str, count: int) -> None:
    _log.warn(
        "... and {count} more failures with {error} in the last second",
        count=f"{count:,}",
        error=error,
        suppressed=count,
    )


class _Excerpt(Failure):
    """A failure whose traceback has a bounded number of lines.

    Attributes:
        name: The type of its exception.
        lines: How many lines it takes in a log.
    """

    def __init__(self, failure: Failure) -> None:
        self.__dict__.update(failure.__dict__)
        self.name = getattr(failure.type, "__qualname__", str(failure.type))
        # A headline, a line before the frames, two for each frame, and the error.
        lines = 3 + 2 * len(failure.frames) + safe_str(failure.value).count("\n")
        self.lines = min(lines, TRACEBACK_LINES)

    def getTraceback(self, *args: Any, **kwargs: Any) -> str:
        lines = [line[:_LINE_LENGTH] for line in super().getTraceback(*args, **kwargs).splitlines()]
        most = self.lines - 1  # one is the headline's
        if len(lines) > most:
            left_out = f"  ... {len(lines) - most + 1} lines left out ..."
            lines[_FIRST_LINES : _FIRST_LINES - most + 1] = [left_out]
        return "\n".join(lines) + "\n"
