"""Failures that nobody has to handle."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import DebugInfo, Deferred
from twisted.python.failure import Failure


class _Expected(DebugInfo):
    """Replaces a Deferred's failure, which Twisted logs if nobody handles it."""

    def __init__(self, failure: Failure) -> None:
        self._expected = failure

    def __del__(self) -> None:
        # A callback has raised another failure.
        if self.failResult is not self._expected:
            super().__del__()


def fail_quietly(deferred: Deferred[Any], failure: Failure) -> None:
    """Fail *deferred* with *failure*, and log nothing if nobody handles it.

    Errors of its callbacks are logged as usual.
    """
    deferred._debugInfo = _Expected(failure)
    deferred.errback(failure)
