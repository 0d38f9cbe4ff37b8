"""A log line for a trouble that may come a thousand times a second."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

_log = Logger()


class SeldomWarning:
    """Warns once, and again only after *seconds* have passed."""

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
