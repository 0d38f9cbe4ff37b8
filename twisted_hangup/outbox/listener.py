"""Hears at once of what others have stored in transactions of their own, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from .database import PostgreSQL
from .sql import CHANNEL
from .thread import DatabaseThread

#: How long one question waits; and how much longer it may take.
_LISTEN_SECONDS: Final = 30.0
_MARGIN_SECONDS: Final = 30.0

#: How long to wait before listening again after the connection was lost.  What polls goes on.
_RETRY_SECONDS: Final = 1.0


class Listener:
    """Has a connection and a thread of its own, which do nothing but wait."""

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
            reactor: For what the thread has to say.
            clock: An ``IReactorTime`` that nobody can set.
            begun: Called when a connection listens: what came before that was not heard.
            heard: Called with the lanes into which something was stored.
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
        """Hear nothing more."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._thread.give_up("closed")

    def _prepare(self, cursor: Any) -> None:
        """In the thread: a connection is there."""
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
        """The writer tells of it, which has the same server."""
        if not self._closed:
            self._retry = self._clock.callLater(_RETRY_SECONDS, self._listen)
