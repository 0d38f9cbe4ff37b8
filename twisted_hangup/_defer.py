"""Failures that nobody has to handle."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import DebugInfo, Deferred
from twisted.python.failure import Failure


class _Expected(DebugInfo):
    """Stands where Twisted keeps a Deferred's failure, to log it if nobody handles it."""

    def __init__(self, failure: Failure) -> None:
        self._expected = failure

    def __del__(self) -> None:
        # Another failure has taken its place where a callback raised it.
        if self.failResult is not self._expected:
            super().__del__()


def fail_quietly(deferred: Deferred[Any], failure: Failure) -> None:
    """Let *deferred* fail with *failure*, and nothing be logged if nobody handles that.

    What its callbacks raise is logged as ever.
    """
    deferred._debugInfo = _Expected(failure)
    deferred.errback(failure)
