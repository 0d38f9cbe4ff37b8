"""What the channels of one site share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator

from ..journal.flood import ThrottledWarning
from ..journal.journal import Journal
from ..limits import Limits, Timeouts
from ..parser.common_head import FieldBlock
from ..report.masking import MaskingPolicy
from ..transport.clock import steady
from ..transport.deadlines import Deadlines
from ..transport.forwarded import ForwardedClients
from ..transport.paused import PausedSockets
from ..transport.sockets import JointWrites, SendWatch
from .client_socket import LingerEnd
from .errbacks import ClientErrbacks
from .pages import ErrorPages
from .room import Room

#: The share of the files that a process may open that `MoreStreams` takes.
_STREAMS_SHARE: Final = 4


class MoreStreams:
    """Places for HTTP/2 requests that are being answered, besides the first of each connection.

    Like a connection, each may hold a file: its body, or what it is answered from.

    Args:
        warn: Logs a line, at a limited rate: there was no place.

    Attributes:
        most: How many places there are; by default a quarter of the files that the process may
            open, read when the first is taken.
        taken: How many of them are taken.
    """

    def __init__(self, warn: Callable[..., object]) -> None:
        self.most: float | None = None
        self.taken = 0
        self._warn = warn

    def take(self) -> bool:
        """Take one; False if none is left."""
        if self.most is None:
            self.most = _files_allowed() // _STREAMS_SHARE
        if self.taken >= self.most:
            self._warn("All {most} HTTP/2 streams are taken; more are refused", most=self.most)
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """Free one that was taken."""
        self.taken -= 1


def _files_allowed() -> float:
    try:
        import resource
    except ImportError:  # Windows has handles instead, some 16 million of them
        return inf
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return inf if allowed == resource.RLIM_INFINITY else allowed


class SiteContext:
    """What the connections of one site share: limits, handlers, journal, timer.

    Attributes:
        connections: The open channels, except upgraded ones, as the keys of a dictionary: a set
            takes three times the room.
        tunnels: The channels whose open connection is a tunnel's: see `HangupChannel.upgrade`.
            Connections that an application has upgraded are its own affair.
        forms: Reads large forms, for a slice of time in each turn of the reactor.
        warn_of_bodies: Logs a line, at a limited rate: there was no room for the body of a request.
        warn_of_lengths: Logs a line, at a limited rate: a response was longer or shorter than its
            head said.
        more_streams: The places for HTTP/2 streams.
        forwarded: Names the client behind a trusted proxy; None without one.
        pages: The error pages; None for Node's answers, which have no body.
        room: Closes a connection when all places are taken.
        lingered: How lingering closes have ended so far; see `ClientSocket.linger_end`.
        section: The last header section of a client, as the next client may send the same: clients
            that connect for each request often do.
        request_factories: What a channel last asked `hangup_factory` for, and what it got.
        retired: Whether the next response of each connection is its last one.
    """

    forwarded: ForwardedClients | None = None
    pages: ErrorPages | None = None
    section: FieldBlock | None = None
    request_factories: tuple[Any, Any] = (None, None)
    retired = False

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
        # Any: the channels import this module.
        self.connections: dict[Any, None] = {}
        self.tunnels: dict[Any, None] = {}
        self.room = Room(self.open, lambda: self.deadlines.seconds())
        self._waiting_for_none: list[Deferred[None]] = []

    def keep_time_by(self, clock: IReactorTime) -> None:
        """Take the time from *clock* for every connection from now on."""
        self.deadlines = Deadlines(clock)
        self.joint_writes = JointWrites(clock)
        self.paused = PausedSockets(steady(clock))
        self.warn_of_bodies = ThrottledWarning(steady(clock))
        self.warn_of_lengths = ThrottledWarning(steady(clock))
        self.more_streams = MoreStreams(ThrottledWarning(steady(clock)))
        self.forms = Cooperator(scheduler=lambda step: clock.callLater(0, step))

    def send_watch(self, transport: Any, stalled: Callable[[], object]) -> SendWatch:
        """A watch that calls *stalled* if the client reads nothing for ``send_seconds``."""
        return SendWatch(transport, self.deadlines, self.timeouts.send_seconds, stalled)

    def met(self, section: FieldBlock | None) -> None:
        """A client has sent *section*."""
        known = self.section
        if section is not None and (
            known is None or known.raw != section.raw or known.version != section.version
        ):
            self.section = section.copy()

    def joined(self, channel: Any) -> None:
        """*channel* has a connection."""
        self.connections[channel] = None

    def open(self) -> list[Any]:
        """The channels with a connection, except those that autobahn has emptied."""
        for channel in list(self.connections):
            if channel.transport is None:
                channel.leave()
        return list(self.connections)

    def phases(self) -> Counter[str]:
        """How many connections are in each phase of a `ClientError`, or ``"closing"``."""
        return Counter("closing" if one.closing else one.phase for one in self.open())

    def tunnelled(self, channel: Any) -> None:
        """The connection of *channel* is a tunnel's from now on."""
        self.tunnels[channel] = None
        self.left(channel)

    def tunnel_lost(self, channel: Any) -> None:
        """The connection of *channel*, a tunnel's, has gone."""
        self.tunnels.pop(channel, None)
        self._look_if_empty()

    def left(self, channel: Any) -> None:
        """*channel* has lost its connection, or given it to another protocol."""
        self.connections.pop(channel, None)
        self._look_if_empty()

    def _look_if_empty(self) -> None:
        if not (self.connections or self.tunnels):
            waiting, self._waiting_for_none = self._waiting_for_none, []
            for waiter in waiting:
                waiter.callback(None)

    def when_empty(self) -> Deferred[None]:
        """Return a new Deferred that fires with None once no connection or tunnel is open."""
        waiter: Deferred[None] = Deferred()
        if self.connections or self.tunnels:
            self._waiting_for_none.append(waiter)
        else:
            waiter.callback(None)
        return waiter
