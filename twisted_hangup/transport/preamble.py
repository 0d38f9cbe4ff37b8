"""What comes before HTTP on a connection, and who hears that it went wrong.

A PROXY header and a TLS handshake are read by wrappers around the HTTP protocol.  They see
what is wrong, and have the transport on which the client can still be told in plain text;
the HTTP protocol inside has the handlers, the journal and the way to close.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_DONE
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from ..errors import ClientError
from .layers import protocol_within, transport_beneath


class IPreambleListener(Interface):
    """A protocol that takes over when what comes before it has failed."""

    def preamble_failed(error: ClientError, transport: Any) -> None:
        """*error* has happened; the client may be answered, in plain, on *transport*."""


def preamble_begun(transport: Any) -> bool | None:
    """Whether a part of what comes before HTTP has come on *transport*, and not all of it.

    Returns:
        None where *transport* does not tell.  Nobody asks it about TLS after the handshake.
    """
    begun: bool | None = getattr(transport, "preamble_begun", None)
    return begun


@implementer(IHalfCloseableProtocol)
class Preamble(ProtocolWrapper):
    """Mixed in before a `ProtocolWrapper` that reads a preamble.

    Once the preamble has failed it is a mere pipe: what still comes goes to the protocol
    that answers for it, unread, and so do both ends of the connection.

    Attributes:
        half_closes: Whether the end of the client's input is the protocol's to hear.
    """

    half_closes = False

    def fail(self, error: ClientError) -> bool:
        """Hand *error* and the transport over; False where nobody takes them."""
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
        else:  # as where half-closes are not known at all
            transport_beneath(self.transport).connectionLost(Failure(CONNECTION_DONE))

    def writeConnectionLost(self) -> None:
        """Our half is closed, and all that was written is with the kernel."""
        inside = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if inside is not None:
            inside.writeConnectionLost()
