"""What a lost connection says about the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from ..errors import ClientError, ClientHangUp, ParseError, Phase
from ..transport.sockets import ConnectionBroken
from ..transport.tls import EndedWithoutNotify, tls_error


def reason_of_loss(
    reason: Failure, transport: Any, phase: Phase, end_of_input: Callable[[], None]
) -> ClientError | None:
    """Tell whether the client went wrong when the connection was lost.

    Args:
        reason: What ``connectionLost`` was given; often shared by the whole process, so
            nothing of it is kept.
        transport: The transport that was lost.
        phase: Where in a message it happened.
        end_of_input: Raises `ParseError` where the input may not end here.

    Returns:
        The error, or None where we closed, or the client did so between two messages.
    """
    lost = reason.value
    if isinstance(lost, SSL.Error):
        return tls_error(lost, phase)
    if isinstance(lost, ConnectionBroken):
        return ClientHangUp(str(lost), code=lost.code, phase=phase, errno=lost.errno)
    if not reason.check(ConnectionDone, ConnectionLost) or reason.check(ConnectionAborted):
        return None
    wrapped = isinstance(transport, ProtocolWrapper)
    if wrapped and transport.disconnecting:
        return None  # closed by the application
    if reason.check(ConnectionDone, EndedWithoutNotify):
        # A plain transport has told of the client's FIN before, and this is our own
        # close.  Wrappers turn a FIN straight into this.
        return _ended(phase, end_of_input) if wrapped else None
    if ISSLTransport.providedBy(transport):
        # FIN or reset: Twisted's own TLS does not tell, and the first is no error here.
        return None if phase == "idle" else _hang_up("socket hang up", phase)
    return _hang_up("read ECONNRESET", phase)


def _ended(phase: Phase, end_of_input: Callable[[], None]) -> ClientError | None:
    """What the end of the client's input means, where nothing can be answered any more."""
    if phase in ("handshake", "response"):
        return _hang_up("socket hang up", phase)
    try:
        end_of_input()
    except ParseError as error:
        return error
    return None


def _hang_up(reason: str, phase: Phase) -> ClientHangUp:
    return ClientHangUp(reason, code="ECONNRESET", phase=phase)
