"""The deadline by which a client has to send what comes next."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from ..errors import Phase
from ..limits import Timeouts
from ..transport.deadlines import Deadline, Deadlines


class MessageClock(Deadline):
    """The one deadline of a connection that waits for its client.

    A message counts from its first byte, even while an earlier request is being answered.  Before
    the first byte of the connection the time for a head counts from accept.  Between messages the
    keep-alive time counts from the end of the last response.  No other byte moves a deadline.  The
    clock stands while we read nothing.
    """

    __slots__ = (
        *("_began", "_deadlines", "_first_byte_came", "_idle_since", "_timeouts"),
        *("in_handshake", "stood_at"),
    )

    def __init__(
        self, deadlines: Deadlines, timeouts: Timeouts, out_of_time: Callable[[], object]
    ) -> None:
        super().__init__(out_of_time)
        self._deadlines = deadlines
        self._timeouts = timeouts
        #: When the message began; before the first message, when the connection did.
        self._began: float | None = deadlines.seconds()
        self._first_byte_came = False
        self._idle_since: float | None = None
        #: Since when it has stood; None while it runs.
        self.stood_at: float | None = None
        #: Whether the client was last given time for the TLS handshake.
        self.in_handshake = False

    @property
    def idle(self) -> bool:
        """Whether the keep-alive time is running."""
        return self._began is None

    @property
    def since(self) -> float | None:
        """When the client's current time began; None while it is our turn."""
        return self._idle_since if self._began is None else self._began

    def message_complete(self) -> None:
        """The client has sent its whole message."""
        self._began = self._idle_since = None

    def answering(self) -> None:
        """It is our turn: no deadline runs while a request is being answered."""
        self._deadlines.rest(self)

    def stand(self) -> None:
        """Reading is paused, so the client can do nothing."""
        self.due = inf
        if self.stood_at is None:
            self.stood_at = self._deadlines.seconds()

    def go_on(self) -> None:
        """Reading is resumed: the message keeps the time that it had left."""
        stood_at, self.stood_at = self.stood_at, None
        if stood_at is not None and self._began is not None:
            self._began += self._deadlines.seconds() - stood_at

    def waiting(self, phase: Phase) -> None:
        """It is the client's turn; *phase* is how far its message has come."""
        timeouts = self._timeouts
        self.in_handshake = phase == "handshake"
        if self.in_handshake:
            due = self._deadlines.seconds() + (
                timeouts.handshake_seconds
                or timeouts.head_seconds
                or timeouts.request_seconds
                or inf
            )
        elif phase == "idle" and self._began is None:
            if self._idle_since is None:
                self._idle_since = self._deadlines.seconds()
            due = self._idle_since + (timeouts.keep_alive_seconds or inf)
        else:
            if self._began is None or (phase != "idle" and not self._first_byte_came):
                self._began = self._deadlines.seconds()
                self._first_byte_came = True
            due = self._began + (timeouts.request_seconds or inf)
            if phase != "body":
                due = min(due, self._began + (timeouts.head_seconds or inf))
        self._deadlines.set(self, due)

    def stop(self) -> None:
        """End all deadlines."""
        self._deadlines.forget(self)
