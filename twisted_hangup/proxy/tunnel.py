"""Two connections joined into one, after both have left HTTP (RFC 9110, section 7.8)."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure


class TunnelEnd(Protocol):
    """One end: what comes in here goes out at the other end, as fast as that takes it.

    When one end closes so does the other, after what it has still to send; when one is
    reset, so is the other.
    """

    transport: Any
    other: TunnelEnd

    _lost = False

    def connectionMade(self) -> None:
        """The connection has changed hands; its producer was HTTP's."""
        self.transport.unregisterProducer()

    def join(self) -> None:
        """Both ends are connected: each slows down the other."""
        self.transport.registerProducer(self.other.transport, True)
        self.other.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        if not self.other._lost:
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        other = self.other
        if other._lost:
            return
        other.transport.unregisterProducer()
        if reason.check(ConnectionDone):
            other.transport.loseConnection()
        else:
            other.transport.abortConnection()


def tunnel() -> tuple[TunnelEnd, TunnelEnd]:
    """The two ends of a new tunnel."""
    one, other = TunnelEnd(), TunnelEnd()
    one.other, other.other = other, one
    return one, other
