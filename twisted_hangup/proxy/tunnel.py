"""Joins two connections into one after both have left HTTP (RFC 9110, section 7.8)."""

from __future__ import annotations

from math import inf
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..transport.deadlines import Deadline, Deadlines
from ..transport.sockets import SendWatch


class Tunnel:
    """Sends the input of each end to the other, as fast as the other takes it.

    When one end closes, the other closes after what it has still to send.  When one is reset, so is
    the other.  When neither sends anything for *seconds*, both close.  If reading is paused because
    a peer takes no more, the peer has the same time to take some; else it is hung up on.

    Args:
        deadlines: The deadlines to wait on.
        seconds: How long; 0 for no limit.

    Attributes:
        client: The protocol for the connection to the client.
        server: The protocol for the connection to the server.
    """

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._idle = Deadline(self._close)
        self.client, self.server = TunnelEnd(self), TunnelEnd(self)
        self.client.other, self.server.other = self.server, self.client

    def join(self) -> None:
        """Both ends are connected: each slows down the other."""
        for end in (self.client, self.server):
            end.transport.registerProducer(end.other, True)
        self.moved()

    def watch(self, end: TunnelEnd) -> SendWatch:
        """A watch that notices when the peer of *end* takes nothing."""
        return SendWatch(end.transport, self._deadlines, self._seconds, end.abort)

    def moved(self) -> None:
        """Data has arrived, or reading was paused or resumed."""
        ends = (self.client, self.server)
        idle = self._seconds and not any(end.paused or end.lost for end in ends)
        due = self._deadlines.seconds() + self._seconds if idle else inf
        self._deadlines.set(self._idle, due)

    def over(self) -> None:
        """One end has gone; the other closes on its own clock."""
        self._deadlines.forget(self._idle)

    def _close(self) -> None:
        for end in (self.client, self.server):
            end.close()


@implementer(IPushProducer)
class TunnelEnd(Protocol):
    """One end: the protocol of its own transport, and the producer of the other end's.

    Attributes:
        paused: Whether reading is paused until the other end's peer takes something.
        lost: Whether the connection has gone.
    """

    transport: Any
    other: TunnelEnd

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.paused = self.lost = False

    def connectionMade(self) -> None:
        """The connection has changed hands; its producer was HTTP's."""
        self.transport.unregisterProducer()
        self._send_watch = self._tunnel.watch(self)

    def dataReceived(self, data: bytes) -> None:
        if not self.other.lost:
            self._tunnel.moved()
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._send_watch.forget()
        self._tunnel.over()
        other = self.other
        if other.lost:
            return
        other.transport.unregisterProducer()
        if reason.check(ConnectionDone):
            other.close()
        else:
            other.abort()

    def close(self) -> None:
        """Close the connection after what it has still to send, if its peer takes that."""
        self._send_watch.start()
        self.transport.loseConnection()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()

    # Called by the other end's transport.

    def pauseProducing(self) -> None:
        self.paused = True
        self._tunnel.moved()
        self.other._send_watch.start()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        self._tunnel.moved()
        self.other._send_watch.stop()
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.transport.stopProducing()
