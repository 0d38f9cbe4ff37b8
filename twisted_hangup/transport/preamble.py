"""What comes before HTTP on a connection (a PROXY header, a TLS handshake), and its failures.

Wrappers around the HTTP protocol read it.  They see what is wrong, and have the transport on which
the client can still be answered in plain text.  The HTTP protocol inside has the handlers, the
journal and the lingering close.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import Interface, implementer

from ..errors import ClientError
from .layers import protocol_within, transport_beneath


class IPreambleListener(Interface):
    """A protocol that takes over the connection when its preamble has failed."""

    def preamble_failed(error: ClientError, transport: Any) -> None:
        """*error* has happened; *transport* can answer the client in plain text."""


def preamble_begun(transport: Any) -> bool | None:
    """Whether a part of the preamble has come on *transport*, and not all of it.

    Returns:
        None if *transport* cannot tell.  For TLS, only meaningful before the end of the handshake.
    """
    begun: bool | None = getattr(transport, "preamble_begun", None)
    return begun


@implementer(IHalfCloseableProtocol)
class Preamble(ProtocolWrapper):
    """Comes before the class of a `ProtocolWrapper` that reads a preamble.

    Once the preamble has failed it only passes things on: what still comes, and both ends of the
    connection, go to the protocol that answers.

    Attributes:
        half_closes: Whether the protocol gets to know the end of the client's input.
    """

    half_closes = False

    def fail(self, error: ClientError) -> bool:
        """Give *error* and the transport to the protocol; False if it does not take them."""
        listener = IPreambleListener(protocol_within(self.wrappedProtocol), None)
        if listener is None:
            return False
        self.half_closes = True
        self.dataReceived = self.wrappedProtocol.dataReceived  # type: ignore[method-assign]
        listener.preamble_failed(error, self.transport)
        return True

    def readConnectionLost(self) -> None:
        """The client has ended its input (FIN)."""
        inside = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if inside is not None and self.half_closes:
            inside.readConnectionLost()
        else:  # as for protocols that know no half-close
            transport_beneath(self.transport).connectionLost(connectionDone)

    def writeConnectionLost(self) -> None:
        """Our half is closed: the kernel has all that was written."""
        inside = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if inside is not None:
            inside.writeConnectionLost()
