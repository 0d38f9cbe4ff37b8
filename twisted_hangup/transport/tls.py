"""What a TLS transport knows about a failed handshake, a corrupt record and a lost client."""

from __future__ import annotations

import re
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IProtocolNegotiationFactory
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from ..errors import Phase, TLSError
from ..report.rules import HANDSHAKE_TIMEOUT
from .layers import tls_layer
from .preamble import Preamble
from .sockets import ConnectionBroken

#: The code of plain HTTP on a TLS port: the one failure whose client can read an answer.
HTTP_REQUEST: Final = "ERR_SSL_HTTP_REQUEST"

#: OpenSSL's words if the two sides have no ALPN protocol in common.
NO_COMMON_PROTOCOL: Final = "no application protocol"

# RFC 7301, section 3.2
#: The alert for it, number 120, fatal; not encrypted, as there are no keys yet.
_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x78"

_NOT_IN_CODES: Final = re.compile(r"[^A-Z0-9]+")


def openssl_reason(error: Exception) -> str | None:
    """The reason in pyOpenSSL's *error*, in OpenSSL's words; None if it has none."""
    queue = error.args[0] if error.args else None
    return str(queue[0][-1]) if isinstance(queue, list) and queue else None


def tls_error(error: Exception, phase: Phase) -> TLSError:
    """The `TLSError` for an error of OpenSSL.

    Args:
        error: An ``OpenSSL.SSL.Error``; its first argument is OpenSSL's error queue, a list of
            ``(library, function, reason)``.
        phase: The phase in which it happened.

    Returns:
        The error with Node's code for it, which is ``ERR_SSL_`` and OpenSSL's reason in capitals.
    """
    reason = openssl_reason(error) or "unknown"
    if reason == "internal error" and phase == "handshake":
        # OpenSSL reports this if Twisted chooses b"", because ALPN has no overlap.
        reason = NO_COMMON_PROTOCOL
    code = "ERR_SSL_" + _NOT_IN_CODES.sub("_", reason.upper()).strip("_")
    return TLSError(reason, code=code, phase=phase)


def answered_in_plain(error: TLSError) -> TLSError:
    """Give *error*, of plain HTTP on a TLS port, an answer that its client can read."""
    error.default_status = 400
    error.default_body = b"This port serves HTTPS: the address starts with https://\n"
    return error


def handshake_timeout(*, begun: bool = True) -> TLSError:
    """The error of a client that has not finished the handshake in time; Node's words.

    Args:
        begun: Whether a byte of it has come.
    """
    why = HANDSHAKE_TIMEOUT
    error = TLSError(why.reason, code=why.code, phase="handshake")
    error.quiet = not begun
    return error


def in_handshake(transport: Any) -> bool:
    """Whether the handshake on a TLS *transport* is not over yet."""
    handle = transport.getHandle()
    # The client's Finished message ends it for us, in every version of TLS.
    return handle is None or handle.get_peer_finished() is None


def handshake_is_heard(transport: Any) -> bool:
    """Whether TLS is being set up on *transport*, and will report to its protocol when done."""
    layer = tls_layer(transport)
    return (
        isinstance(layer, TLSMemoryBIOProtocol)
        and IHandshakeListener.providedBy(layer.wrappedProtocol)
        and in_handshake(layer)
    )


def accept_http10(factory: Any) -> None:
    """Let *factory* accept ``http/1.0`` by ALPN as well, if it accepts ``http/1.1``.

    ``curl -0`` offers nothing else.
    """
    if IProtocolNegotiationFactory.providedBy(factory):
        names = factory.acceptableProtocols()
        if {b"http/1.1", b"http/1.0"}.intersection(names) == {b"http/1.1"}:
            # The names are asked for in each handshake, and Twisted's site goes far for them.
            names = [*names, b"http/1.0"]
            factory.acceptableProtocols = lambda: names  # type: ignore[method-assign]


class EndedWithoutNotify(ConnectionLost):
    """The client ended TCP without ending TLS: it sent FIN, and no close_notify before it."""


class HangupTLS(Preamble, TLSMemoryBIOProtocol):
    """Comes before the protocol class of a `TLSMemoryBIOFactory`.

    It gives plain HTTP to the protocol inside, to be answered on the TCP transport.  It tells two
    kinds of lost TCP connections apart: a reset (`ConnectionBroken`, with its errno), and the end
    of the client's input (`EndedWithoutNotify`).  Twisted has one `ConnectionLost` for both.
    """

    _lost_because: ConnectionLost | None = None
    #: The ALPN protocol, b"" for none, if it was asked for after the handshake.
    _negotiated: bytes | None = None

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """The ALPN protocol; Twisted knows only one name for HTTP/1."""
        name = self._negotiated
        if name is None:
            name = super().negotiatedProtocol or b""
            if name == b"http/1.0":
                name = b"http/1.1"
            if self._handshakeDone:
                self._negotiated = name
        return name or None

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        if reason is not None and not self._handshakeDone and isinstance(reason.value, SSL.Error):
            error = tls_error(reason.value, "handshake")
            if error.code == HTTP_REQUEST and self.fail(answered_in_plain(error)):
                self._lostTLSConnection = True
                return
            if error.reason == NO_COMMON_PROTOCOL:
                self._tlsConnection.bio_read(len(_ALERT))  # the other
                transport: Any = self.transport
                transport.write(_ALERT)
        super()._tlsShutdownFinished(reason)
        because, reason = self._lost_because, self._reason
        if because is not None and reason is not None and isinstance(reason.value, ConnectionLost):
            # Twisted uses one ConnectionLost for every end that TLS did not announce.
            self._reason = Failure(because)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if isinstance(reason.value, ConnectionBroken):
            self._lost_because = reason.value
        elif isinstance(reason.value, ConnectionDone):
            self._lost_because = EndedWithoutNotify()
        super().connectionLost(reason)
        self._lost_because = None
