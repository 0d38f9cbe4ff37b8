"""Failures of requests in Twisted's log: a client can cause as many of them as it likes."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from .flood import FloodGate

#: Lines of tracebacks in each second, of all failures together, and so of the longest one.
#: With the counts that is the bound of every flood: 50.
TRACEBACK_LINES: Final = 40

#: A line that is longer is cut: what a client sent may stand in the text of an error.
_LINE_LENGTH: Final = 500

#: What is left of the beginning of a traceback that is too long; the end says more.
_FIRST_LINES: Final = 3

_log = Logger()


class FailureLogger(Logger):
    """A `Logger` whose tracebacks are few in a flood, and of a length that has a bound.

    What has no traceback in a second is counted by the type of its error, and the counts
    are logged when the second is over.  All loggers of a process share the bound.
    """

    def failure(
        self,
        format: str,  # noqa: A002  # Logger's own word
        failure: Failure | None = None,
        level: Any = LogLevel.critical,
        **kwargs: object,
    ) -> None:
        """Log *failure*, by default the exception in flight, or count it."""
        excerpt = _Excerpt(failure or Failure())
        if _gate().admit(excerpt.name, excerpt.lines):
            super().failure(format, excerpt, level, **kwargs)


def tell_suppressed() -> None:
    """Tell what a flood has suppressed so far, and leave no timer behind."""
    if _gate.cache_info().currsize:
        _gate().close()


@cache
def _gate() -> FloodGate:
    from twisted.internet import reactor as installed

    reactor: Any = installed
    return FloodGate(reactor, TRACEBACK_LINES, _suppressed, most_firsts=0)


def _suppressed(error: str, count: int) -> None:
    _log.warn(
        "... and {count} more requests failed with {error} in the last second",
        count=f"{count:,}",
        error=error,
        suppressed=count,
    )


class _Excerpt(Failure):
    """A failure whose traceback has so many lines at most.

    Attributes:
        name: Of the type of its exception.
        lines: How many lines it takes in a log.
    """

    def __init__(self, failure: Failure) -> None:
        self.__dict__.update(failure.__dict__)
        self.name = getattr(failure.type, "__qualname__", str(failure.type))
        # A headline, a line before the frames, two for each, and the error.
        lines = 3 + 2 * len(failure.frames) + safe_str(failure.value).count("\n")
        self.lines = min(lines, TRACEBACK_LINES)

    def getTraceback(self, *args: Any, **kwargs: Any) -> str:
        lines = [line[:_LINE_LENGTH] for line in super().getTraceback(*args, **kwargs).splitlines()]
        most = self.lines - 1  # one is the headline's
        if len(lines) > most:
            left_out = f"  ... {len(lines) - most + 1} lines left out ..."
            lines[_FIRST_LINES : _FIRST_LINES - most + 1] = [left_out]
        return "\n".join(lines) + "\n"
