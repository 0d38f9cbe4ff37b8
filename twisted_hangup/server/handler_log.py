"""What handlers of client errors do wrong, in the log: one line each, and ever more seldom.

A client decides how often a handler runs, and must not be able to fill a disk: what a
handler does wrong is told the first time, the second, the fourth, the eighth and so on.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ..errors import ClientError
from ..report.text import shortened

#: Kinds of trouble that are told apart; further ones count as one.
MOST_KINDS: Final = 100

_EXCEPTION_COLUMNS: Final = 200

_log = Logger()


class HandlerLog:
    """Tells which handler did what over which error, and how often it has done so."""

    def __init__(self) -> None:
        self._times: Counter[tuple[str, str]] = Counter()

    def failed(self, handler: object, failure: Failure, error: ClientError) -> None:
        """It raised; the first time, the traceback stands below the line."""
        kind = type(failure.value).__name__
        text = f"{kind}: {failure.value}" if str(failure.value) else kind
        words = shortened(text.encode("utf-8", "surrogateescape"), _EXCEPTION_COLUMNS)
        self._tell(LogLevel.error, handler, f"failed with {words}", error, kind, failure)

    def returned(self, handler: object, result: object, error: ClientError) -> None:
        """It returned what means nothing."""
        kind = type(result).__name__
        words = (
            f"returned {kind}, which is none of None, bytes, a Failure, a Deferred or a coroutine,"
        )
        self._tell(LogLevel.error, handler, words, error)

    def returned_bytes(self, handler: object, error: ClientError) -> None:
        """It returned bytes where there are none to be sent as they are."""
        words = "returned bytes, which mean nothing in HTTP/2 (answer with respond()),"
        self._tell(LogLevel.error, handler, words, error)

    def still_waits(self, handler: object, error: ClientError) -> None:
        """Its time is over."""
        words = "is cancelled and done without, as it still waits"
        self._tell(LogLevel.warn, handler, words, error)

    def never_answered(self, handler: object, error: ClientError) -> None:
        """It said that it had handled the error, did nothing, and its time is over."""
        words = "returned None but neither answered nor closed, and is done without,"
        self._tell(LogLevel.warn, handler, words, error)

    def never_closed(self, handler: object, error: ClientError) -> None:
        """It has written something, and its time is over."""
        words = "never closed the connection that it took, which is closed for it,"
        self._tell(LogLevel.warn, handler, words, error)

    def answered_in_vain(
        self, handler: object, error: ClientError, *, late: bool, client_gone: bool
    ) -> None:
        """It answered or closed when there was no connection for it to do so."""
        if late:
            level, words = LogLevel.warn, "answered after its time was over, and so in vain,"
        elif client_gone:
            level, words = LogLevel.info, "answered after its client had gone, and so in vain,"
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
        line = "Client error handler {log_handler} {log_words} over {log_error}"
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


#: One for the process: where the log goes, and who writes to it, is the process's too.
handler_log: Final = HandlerLog()
