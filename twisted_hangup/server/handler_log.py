"""What handlers of client errors do wrong, as lines of the log.

A client decides how often a handler runs, and must not be able to fill a disk.  So the log has a
handler's mistake the first time, the second, the fourth, the eighth and so on.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ..errors import ClientError
from ..report.text import shortened

#: Most kinds of mistakes that are counted apart; all others are counted as one.
MOST_KINDS: Final = 100

_EXCEPTION_COLUMNS: Final = 200

_log = Logger()


class HandlerLog:
    """Logs which handler did what, on which error, and how often."""

    def __init__(self) -> None:
        self._times: Counter[tuple[str, str]] = Counter()

    def failed(self, handler: object, failure: Failure, error: ClientError) -> None:
        """It raised.  The first line has the traceback."""
        kind = type(failure.value).__name__
        text = f"{kind}: {failure.value}" if str(failure.value) else kind
        words = shortened(text.encode("utf-8", "surrogateescape"), _EXCEPTION_COLUMNS)
        self._tell(LogLevel.error, handler, f"failed with {words}", error, kind, failure)

    def returned(self, handler: object, result: object, error: ClientError) -> None:
        """It returned something that has no meaning."""
        kind = type(result).__name__
        words = (
            f"returned {kind}, and must return None, bytes, the failure, a Deferred or a coroutine"
        )
        self._tell(LogLevel.error, handler, words, error)

    def returned_bytes(self, handler: object, error: ClientError) -> None:
        """It returned bytes over HTTP/2, which has frames."""
        words = "returned bytes, which HTTP/2 cannot send as they are (call socket.respond())"
        self._tell(LogLevel.error, handler, words, error)

    def still_waits(self, handler: object, error: ClientError) -> None:
        """It takes longer than it may."""
        words = "still waits after Timeouts.handler_seconds and is cancelled"
        self._tell(LogLevel.warn, handler, words, error)

    def never_answered(self, handler: object, error: ClientError) -> None:
        """It returned None, did nothing, and its time is over."""
        words = "returned None, but neither answered nor closed within Timeouts.handler_seconds"
        self._tell(LogLevel.warn, handler, words, error)

    def never_closed(self, handler: object, error: ClientError) -> None:
        """It has written something, did not close, and its time is over."""
        words = "began an answer, but did not close within Timeouts.handler_seconds"
        self._tell(LogLevel.warn, handler, words, error)

    def answered_in_vain(
        self, handler: object, error: ClientError, *, late: bool, client_gone: bool
    ) -> None:
        """It answered or closed too late, or twice."""
        if late:
            level, words = (
                LogLevel.warn,
                "answered after Timeouts.handler_seconds, too late for the client",
            )
        elif client_gone:
            level, words = LogLevel.info, "answered after the client had left"
        else:
            level, words = LogLevel.warn, "closed the connection twice"
        self._tell(level, handler, words, error)

    def _tell(
        self,
        level: LogLevel,
        handler: object,
        words: str,
        error: ClientError,
        kind: str | None = None,
        failure: Failure | None = None,
    ) -> None:
        name = _name(handler)
        counted = (name, kind or words)
        if counted not in self._times and len(self._times) >= MOST_KINDS:
            counted = ("", "")
        self._times[counted] += 1
        times = self._times[counted]
        if times & (times - 1):
            return
        line = "Client error handler {log_handler} {log_words}; the client error is {log_error}"
        values = {"log_handler": name, "log_words": words, "log_error": str(error)}
        if times > 1:
            _log.emit(level, line + " ({log_times} times so far)", log_times=times, **values)
        elif failure is not None:
            _log.failure(line, failure, LogLevel.critical, **values)
        else:
            _log.emit(level, line, **values)


def _name(handler: object) -> str:
    name = getattr(handler, "__qualname__", None)
    return repr(handler) if name is None else f"{getattr(handler, '__module__', '?')}.{name}"


#: One for the process, like Twisted's log.
handler_log: Final = HandlerLog()
