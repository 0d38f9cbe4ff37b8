"""Half-closes over TLS (RFC 8446, section 6.1), which Twisted does not know.

To Twisted a peer's close_notify is the end of the connection: it closes at once, and nothing that
is still to be written reaches the peer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_DONE
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from .layers import tls_layer, transport_beneath

#: Bytes decrypted at a time; as in Twisted.
_READ_BYTES = 2**15


@implementer(IHalfCloseableProtocol)
class HalfClosingTLS(TLSMemoryBIOProtocol):
    """Comes before the class of a TLS transport whose protocol wants to know half-closes.

    Our own half-close is ``loseConnection``: it sends close_notify, and reads on until the peer has
    sent it, too.

    Attributes:
        half_closes: Whether the protocol gets to know the end of the peer's output, and may still
            write after it.
    """

    half_closes = False
    _input_over = False

    def _flushReceiveBIO(self) -> None:
        """As Twisted's, but for the peer's close_notify."""
        while not self._lostTLSConnection:
            try:
                data = self._tlsConnection.recv(_READ_BYTES)
            except WantReadError:
                break
            except ZeroReturnError:
                if self.half_closes and not self.disconnecting:
                    self._input_ended()
                    break
                self._shutdownTLS()
                self._tlsShutdownFinished(None)
            except Error:
                self._tlsShutdownFinished(Failure())
            else:
                if not self._aborted:
                    ProtocolWrapper.dataReceived(self, data)
        self._flushSendBIO()

    def _input_ended(self) -> None:
        if not self._input_over:
            self._input_over = True
            protocol: Any = self.wrappedProtocol
            protocol.readConnectionLost()

    def readConnectionLost(self) -> None:
        """The peer has ended its TCP output: after close_notify this is no news."""
        if not self._input_over:
            transport_beneath(self.transport).connectionLost(Failure(CONNECTION_DONE))

    def writeConnectionLost(self) -> None:
        """Do nothing: TLS ends in its own way."""


@lru_cache(maxsize=16)
def _half_closing(kind: Any) -> Any:
    """*kind* with `HalfClosingTLS` before it, if it is not there yet."""
    if issubclass(kind, HalfClosingTLS):
        return kind
    return type(kind.__name__, (HalfClosingTLS, kind), {"__module__": kind.__module__})


def half_closing(transport: Any) -> HalfClosingTLS | None:
    """Make *transport* a `HalfClosingTLS`, if it is Twisted's TLS; else return None.

    Call it while no data is being read from it.
    """
    layer = tls_layer(transport)
    if not isinstance(layer, TLSMemoryBIOProtocol):
        return None
    kind: Any = type(layer)
    if (closing := _half_closing(kind)) is not kind:
        layer.__class__ = closing
        alsoProvides(layer, IHalfCloseableProtocol)
    return layer  # type: ignore[return-value]  # its class was changed
