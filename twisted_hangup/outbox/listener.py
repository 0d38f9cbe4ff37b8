"""On PostgreSQL, notices at once what other processes have stored in transactions of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from .database import PostgreSQL
from .sql import CHANNEL
from .thread import DatabaseThread

#: How long one wait for notices takes, and how much longer it may take.
_LISTEN_SECONDS: Final = 30.0
_MARGIN_SECONDS: Final = 30.0

#: How long to wait after a lost connection before listening again.  Polling goes on meanwhile.
_RETRY_SECONDS: Final = 1.0


class Listener:
    """Waits for notices, on a connection and in a thread of its own."""

    def __init__(
        self,
        database: PostgreSQL,
        reactor: Any,
        clock: Any,
        *,
        begun: Callable[[], None],
        heard: Callable[[list[str]], None],
    ) -> None:
        """
        Args:
            database: Where to listen.
            reactor: Where the callbacks run.
            clock: An ``IReactorTime`` on the monotonic clock.
            begun: Called when a connection listens: earlier notices were missed.
            heard: Called with the lanes in which something was stored.
        """
        self._database = database
        self._reactor = reactor
        self._clock = clock
        self._begun = begun
        self._heard = heard
        self._thread = DatabaseThread(database, self._prepare, reactor, clock)
        self._retry: IDelayedCall | None = None
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._thread.give_up("closed")

    def _prepare(self, cursor: Any) -> None:
        """In the thread: there is a connection."""
        cursor.execute(f"LISTEN {CHANNEL}")
        cursor.execute("COMMIT")
        self._reactor.callFromThread(self._tell_begun)

    def _tell_begun(self) -> None:
        if not self._closed:
            self._begun()

    def _listen(self) -> None:
        self._retry = None
        waiting = self._thread.run(
            lambda cursor: self._database.wait_for_notices(cursor, _LISTEN_SECONDS),
            _LISTEN_SECONDS + _MARGIN_SECONDS,
        )
        waiting.addCallbacks(self._cb_heard, self._eb_lost)

    def _cb_heard(self, lanes: list[str]) -> None:
        if not self._closed:
            if lanes:
                self._heard(lanes)
            self._listen()

    def _eb_lost(self, failure: Failure) -> None:
        """Do nothing: the writer uses the same server, and reports it."""
        if not self._closed:
            self._retry = self._clock.callLater(_RETRY_SECONDS, self._listen)
