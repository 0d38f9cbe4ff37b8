"""What the channels of one site share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator

from ..journal.flood import ThrottledWarning
from ..journal.journal import Journal
from ..limits import Limits, Timeouts
from ..parser.common_head import FieldBlock
from ..report.masking import MaskingPolicy
from ..transport.deadlines import Deadlines
from ..transport.paused import PausedSockets
from ..transport.sockets import JointWrites, SendWatch
from .client_socket import LingerEnd
from .errbacks import ClientErrbacks


class SiteContext:
    """The numbers, the handlers, the record, the timer and the connections of one site.

    Attributes:
        connections: The channels now open, upgraded ones excepted, as the keys of a
            dictionary: a set takes three times the room.
        forms: Reads what is large of them, one slice of time in each turn of the reactor.
        warn_of_bodies: Logs a line, seldom: there was no room for the body of a request.
        lingered: How lingering closes have ended so far; see `ClientSocket.linger_end`.
        section: A field section of a client's, as the next client may send it too: those that
            make a connection for each request often say the same on all of them.
        request_factories: What a channel has asked `hangup_factory` for last, and what it was
            given.
    """

    section: FieldBlock | None = None
    request_factories: tuple[Any, Any] = (None, None)

    def __init__(
        self, limits: Limits, timeouts: Timeouts, masking: MaskingPolicy, clock: IReactorTime
    ) -> None:
        self.limits = limits
        self.timeouts = timeouts
        self.masking = masking
        self.errbacks = ClientErrbacks()
        self.journal = Journal()
        self.keep_time_by(clock)
        self.lingered: Counter[LingerEnd | None] = Counter()
        # Typed loosely because the channels import this module.
        self.connections: dict[Any, None] = {}
        self._waiting_for_none: list[Deferred[None]] = []

    def keep_time_by(self, clock: IReactorTime) -> None:
        """Take the time from *clock* for every connection from now on."""
        self.deadlines = Deadlines(clock)
        self.joint_writes = JointWrites(clock)
        self.paused = PausedSockets(clock)
        self.warn_of_bodies = ThrottledWarning(clock)
        self.forms = Cooperator(scheduler=lambda step: clock.callLater(0, step))

    def send_watch(self, transport: Any, stalled: Callable[[], object]) -> SendWatch:
        """A watch that calls *stalled* where the client takes nothing for ``send_seconds``."""
        return SendWatch(transport, self.deadlines, self.timeouts.send_seconds, stalled)

    def joined(self, channel: Any) -> None:
        """*channel* has a connection."""
        self.connections[channel] = None

    def open(self) -> list[Any]:
        """The channels that have a connection, without those that autobahn has emptied."""
        for channel in list(self.connections):
            if channel.transport is None:
                channel.leave()
        return list(self.connections)

    def phases(self) -> Counter[str]:
        """How many connections are in each phase of a `ClientError`, or ``"closing"``."""
        return Counter("closing" if one.closing else one.phase for one in self.open())

    def left(self, channel: Any) -> None:
        """*channel* has lost its connection, or given it to another protocol."""
        self.connections.pop(channel, None)
        if not self.connections:
            waiting, self._waiting_for_none = self._waiting_for_none, []
            for waiter in waiting:
                waiter.callback(None)

    def when_empty(self) -> Deferred[None]:
        """Return a new Deferred that fires with None once no connection is open."""
        waiter: Deferred[None] = Deferred()
        if self.connections:
            self._waiting_for_none.append(waiter)
        else:
            waiter.callback(None)
        return waiter
