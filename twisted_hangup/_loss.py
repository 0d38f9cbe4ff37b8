"""What a lost connection says about the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from .errors import ClientError, ClientHangUp, ParseError, Phase
from .tls import tls_error


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
    if isinstance(reason.value, SSL.Error):
        return tls_error(reason.value, phase)
    if not reason.check(ConnectionDone, ConnectionLost) or reason.check(ConnectionAborted):
        return None
    secure = ISSLTransport.providedBy(transport)
    if secure and transport.disconnecting:
        return None  # closed by the application
    if reason.check(ConnectionDone) or (phase == "idle" and secure):
        # A plain transport has told of the client's FIN before, and this is our own
        # close.  TLS and other wrappers turn a FIN straight into this (and claim every
        # interface of the transport they wrap).
        if not isinstance(transport, ProtocolWrapper):
            return None
        if phase == "response":
            return _hang_up("socket hang up", phase, reason)
        try:
            end_of_input()
        except ParseError as error:
            return error
        return None
    return _hang_up("socket hang up" if secure else "read ECONNRESET", phase, reason)


def _hang_up(words: str, phase: Phase, reason: Failure) -> ClientHangUp:
    return ClientHangUp(
        words, code="ECONNRESET", phase=phase, errno=getattr(reason.value, "errno", None)
    )
