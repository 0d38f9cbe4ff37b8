"""Joins two connections into one after both have left HTTP (RFC 9110, section 7.8)."""

from __future__ import annotations

from math import inf
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..transport.deadlines import Deadline, Deadlines
from ..transport.half_close import half_closing
from ..transport.layers import transport_beneath
from ..transport.paused import PausedSockets
from ..transport.sockets import SendWatch, adopted


class Tunnel:
    """Sends the input of each end to the other, as fast as the other takes it.

    When the peer at one end sends no more (FIN, or close_notify over TLS), the other peer gets to
    know it after all bytes, and may go on sending.  When one end is reset, so is the other, unless
    its peer had ended its output: then the other closes after what it has still to send.  When
    neither peer sends anything for *seconds*, both ends close.  If reading is paused because a peer
    takes no more, the peer has the same time to take some; else it is hung up on.

    Args:
        deadlines: The deadlines to wait on.
        seconds: How long; 0 for no limit.
        ended: Watches connections whose peers have ended their output.

    Attributes:
        client: The protocol for the connection to the client.
        server: The protocol for the connection to the server.
    """

    def __init__(self, deadlines: Deadlines, seconds: float, ended: PausedSockets) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._idle = Deadline(self._close)
        self.ended = ended
        self.client, self.server = TunnelEnd(self), TunnelEnd(self)
        self.client.other, self.server.other = self.server, self.client

    def join(self) -> None:
        """Both ends are connected: each slows down the other."""
        for end in (self.client, self.server):
            end.transport.registerProducer(end.other, True)
        self.moved()

    def watch(self, end: TunnelEnd) -> SendWatch:
        """A watch that notices when the peer of *end* takes nothing."""
        return SendWatch(end.transport, self._deadlines, self._seconds, end.stalled)

    def moved(self) -> None:
        """Data or its end has arrived, or reading was paused or resumed."""
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


@implementer(IPushProducer, IHalfCloseableProtocol)
class TunnelEnd(Protocol):
    """One end: the protocol of its own transport, and the producer of the other end's.

    Attributes:
        paused: Whether reading is paused until the other end's peer takes something.
        input_over: Whether the peer sends no more.
        output_over: Whether the peer is sent no more than what waits to be sent.
        lost: Whether the connection has gone.
    """

    transport: Any
    other: TunnelEnd

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.paused = self.input_over = self.output_over = self.lost = False
        self._closing = False
        self._ended: int | None = None

    def connectionMade(self) -> None:
        """The connection has changed hands; its producer was HTTP's."""
        self.transport.unregisterProducer()
        self._socket = adopted(transport_beneath(self.transport))
        if self._socket is not None:
            self._socket.reads_first = True
        if (tls := half_closing(self.transport)) is not None:
            tls.half_closes = True
        self._send_watch = self._tunnel.watch(self)

    def dataReceived(self, data: bytes) -> None:
        if not self.other.lost:
            self._tunnel.moved()
            self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        """The peer has ended its output."""
        self.input_over = True
        self._tunnel.moved()
        self._ended = self._tunnel.ended.add(
            self.transport, lambda errno: self.abort(), input_over=True
        )
        if not (self.paused or self.other.lost):
            self.other.finish()
        if self.output_over:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The kernel has all that the peer is sent."""
        self._send_watch.stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._send_watch.forget()
        self._tunnel.ended.remove(self._ended)
        self._tunnel.over()
        other = self.other
        if other.lost:
            return
        if self.input_over or self._ended_in_order(reason):
            other.close()
        else:
            other.abort()

    def _ended_in_order(self, reason: Failure) -> bool:
        if reason.check(ConnectionDone):
            return True
        # Many peers answer our close_notify with a FIN alone.
        reset = self._socket is None or self._socket.failure is not None
        return self.output_over and not reset and bool(reason.check(ConnectionLost))

    def finish(self) -> None:
        """End our output to the peer after what it has still to be sent; it may send more."""
        self.output_over = True
        self._send_watch.start()
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if self.input_over or half_close is None or ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()  # over TLS this is the half-close
        else:
            half_close()
        self.transport.unregisterProducer()  # last: TLS may still hold bytes for one

    def close(self) -> None:
        """Close the connection after what it has still to send, if its peer takes that."""
        self._closing = True
        self._send_watch.stop()
        self._send_watch.start()
        self.transport.loseConnection()
        self.transport.unregisterProducer()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()

    def stalled(self) -> None:
        """The peer has taken nothing for so long; over TLS perhaps because nothing waits."""
        if self._closing or self._socket is None or self._socket.unsent:
            self.abort()

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
        if self.input_over:
            self.other.finish()

    def stopProducing(self) -> None:
        self.transport.stopProducing()
