"""Translates the errors of Twisted's client into `ServerHangUp`, in Node's words.

The phase is the state of our own connection.  For another agent's connection the class of Twisted's
error gives it:

=============================================  ==========
what Twisted raises                            phase
=============================================  ==========
`ConnectError`, `DNSLookupError`               connecting
`RequestNotSent`                               connecting
`RequestTransmissionFailed`                    request
`ResponseNeverReceived`                        waiting
`ResponseFailed`, before the response          head
`ResponseFailed`, in the body                  body
=============================================  ==========

The errors inside these give the reason.  An error that the network did not cause passes unchanged.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any, Final

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.internet.error import ConnectionRefusedError as ConnectRefusal
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure
from twisted.web._newclient import BadHeaders, BadResponseVersion, RequestNotSent
from twisted.web._newclient import ParseError as TwistedParseError
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived
from twisted.web.http import _DataLoss, _MalformedChunkedDataError

from ..errors import HangupError, ResponseParseError, ServerHangUp, ServerPhase
from ..parser.refusals import Why
from ..report.rules import HANG_UP, RESET
from ..transport.sockets import ConnectionBroken
from ..transport.tls import tls_error

#: Reason and code if a server takes longer than it may.
NO_ANSWER: Final = ("no answer in time", "ETIMEDOUT")
NO_CONNECTION: Final = ("connect ETIMEDOUT", "ETIMEDOUT")

#: Node's words if a server goes away during the handshake.
TLS_CUT: Final = "Client network socket disconnected before secure TLS connection was established"

#: What Twisted's parser raises in a head.  In a body, a decoder's ValueError would mean otherwise.
_NOT_A_HEAD: Final = (TwistedParseError, BadResponseVersion, BadHeaders, ValueError)
_NOT_A_BODY: Final = (_MalformedChunkedDataError,)

#: The classes of another agent's errors, and the phase for each.
_TWISTEDS: Final[tuple[tuple[tuple[type[Exception], ...], ServerPhase], ...]] = (
    ((ConnectError, DNSLookupError, RequestNotSent), "connecting"),
    ((RequestTransmissionFailed,), "request"),
    ((ResponseNeverReceived, ConnectionClosed, SSL.Error, DeferredTimeout), "waiting"),
    ((ResponseFailed,), "head"),
)


class HandshakeCut(ConnectionLost):
    """The server has ended a connection of ours during the TLS handshake."""


class RequestCancelled(CancelledError):
    """A request of ours was cancelled in *phase*."""

    def __init__(self, phase: ServerPhase) -> None:
        super().__init__()
        self.phase: ServerPhase = phase


class NotConnected(ServerHangUp, ConnectError):
    """There is no connection.

    Attributes:
        osError: The operating system's error number, or None.
    """

    def __init__(self, reason: str, *, code: str, **attributes: Any) -> None:
        super().__init__(reason, code=code, **attributes)
        self.osError = getattr(errno, code, None)


class ConnectionRefused(NotConnected, ConnectRefusal):
    """The server refuses connections."""


class ConnectTimedOut(NotConnected, ConnectTimeout):
    """Connecting took too long."""


class HostNotFound(NotConnected, DNSLookupError):
    """The name does not exist."""


class HandshakeFailed(NotConnected, ResponseNeverReceived):
    """The TLS handshake failed; Twisted notices when it waits for the response."""


class RequestCut(ServerHangUp, RequestTransmissionFailed):
    """The request could not be sent completely."""


class NoResponse(ServerHangUp, ResponseNeverReceived):
    """No byte of a response arrived."""


class ResponseCut(ServerHangUp, ResponseFailed):
    """The response was not complete."""


_KINDS: Final[Mapping[ServerPhase, type[ServerHangUp]]] = {
    "connecting": NotConnected,
    "request": RequestCut,
    "waiting": NoResponse,
    "head": ResponseCut,
    "body": ResponseCut,
}

_NOT_CONNECTED: Final[Mapping[str, type[NotConnected]]] = {
    "ECONNREFUSED": ConnectionRefused,
    "ETIMEDOUT": ConnectTimedOut,
    "ENOTFOUND": HostNotFound,
}


def hang_up(
    reason: str, code: str, phase: ServerPhase, failure: Failure, **attributes: Any
) -> ServerHangUp:
    """Make the `ServerHangUp` for *phase*, an instance of Twisted's class for it as well.

    Args:
        failure: The cause; its reasons become the error's.
        attributes: More attributes of the error.
    """
    kind = _KINDS[phase]
    if phase == "connecting":
        tls = code.startswith(("ERR_SSL_", "ERR_TLS_"))
        kind = HandshakeFailed if tls else _NOT_CONNECTED.get(code, kind)
    error = kind(reason, code=code, phase=phase, **attributes)
    error.reasons = [*getattr(failure.value, "reasons", [failure])]
    if phase == "body" and not any(inner.check(_DataLoss) for inner in error.reasons):
        error.reasons.append(Failure(_DataLoss()))  # what Twisted has for half a body
    error.__cause__ = failure.value
    return error


def hang_up_of(
    failure: Failure, phase: ServerPhase, *, lost: Why = HANG_UP, **attributes: Any
) -> Exception:
    """The `ServerHangUp` for a connection that *failure* ended in *phase*.

    Args:
        lost: What a `ConnectionLost` without a cause means.
        attributes: More attributes of the error.

    Returns:
        The exception in *failure* itself, if the network did not cause it: a bug in the program, or
        a request that the program cancelled.
    """
    leaves = [*_leaves(failure)]
    words = [_words(error, phase, lost) for error in leaves if not isinstance(error, _DataLoss)]
    if None in words or not words:
        return failure.value  # type: ignore[return-value]  # a Failure always has one
    reason, code = words[0]  # type: ignore[misc]  # as above
    if phase == "body" and words[0] != NO_ANSWER:
        reason = "aborted"
    return hang_up(reason, code, phase, failure, **attributes)


def anothers_request_failed(failure: Failure) -> Failure:
    """The failure of another agent's request that has no response.

    The class of Twisted's error is all that is known of the connection's state.
    """
    value = failure.value
    if isinstance(value, HangupError):
        return failure
    if (broken := _not_http(failure, _NOT_A_HEAD)) is not None:
        return broken
    phase = next((phase for kinds, phase in _TWISTEDS if isinstance(value, kinds)), None)
    if phase is None:
        return failure
    if phase in ("request", "waiting") and any(map(_of_certificate, _leaves(failure))):
        phase = "connecting"  # for Twisted, TLS is set up on a connection
    # Over TCP, where the end of input is a ConnectionDone.
    return Failure(hang_up_of(failure, phase, lost=RESET if phase == "waiting" else HANG_UP))


def anothers_body_ended(failure: Failure, received: int, response: Any) -> Failure:
    """The end of the body of *response*, which is another agent's."""
    if not failure.check(ResponseFailed, ConnectionDone, ConnectionLost) or failure.check(
        HangupError
    ):
        return failure
    if (broken := _not_http(failure, _NOT_A_BODY)) is not None:
        return broken
    error = hang_up_of(failure, "body", bytes_received=received)
    if isinstance(error, ServerHangUp):
        error.response = response
    return Failure(error)


def phase_of_cancelled(failure: Failure) -> ServerPhase:
    """The phase of a request that *failure* says was cancelled, as far as it is known."""
    if isinstance(failure.value, (RequestCancelled, ServerHangUp)):
        return failure.value.phase
    connecting = any(isinstance(leaf, ConnectingCancelledError) for leaf in _leaves(failure))
    return "connecting" if connecting else "waiting"


def _words(error: BaseException, phase: ServerPhase, lost: Why) -> tuple[str, str] | None:
    """Reason and code, in Node's words, of what ended a connection; None for anything else."""
    if isinstance(error, ConnectionBroken):
        return str(error), error.code
    if isinstance(error, HandshakeCut):
        return TLS_CUT, HANG_UP.code
    if isinstance(error, SSL.Error):
        tls = tls_error(error, "handshake")
        return tls.reason, tls.code
    if isinstance(error, VerificationError):
        return "Hostname/IP does not match certificate's altnames", "ERR_TLS_CERT_ALTNAME_INVALID"
    if isinstance(error, (ConnectTimeout, DeferredTimeout)):
        return NO_CONNECTION if phase == "connecting" else NO_ANSWER
    if isinstance(error, DNSLookupError):
        return "getaddrinfo ENOTFOUND", "ENOTFOUND"
    if isinstance(error, ConnectError):
        name = errno.errorcode.get(error.osError or 0)
        return (f"connect {name}", name) if name else (" ".join(str(error).split()), "ECONNRESET")
    if isinstance(error, ConnectionLost):
        return lost.reason, lost.code
    if isinstance(error, (ConnectionClosed, RequestNotSent)):
        return HANG_UP.reason, HANG_UP.code
    return None


def _of_certificate(error: BaseException) -> bool:
    """Whether we have refused the server's certificate, before any byte of a request was sent.

    Other errors of TLS may come after the request.
    """
    if isinstance(error, SSL.Error):
        return tls_error(error, "handshake").reason == "certificate verify failed"
    return isinstance(error, VerificationError)


def _leaves(failure: Failure) -> Iterator[BaseException]:
    """The innermost exceptions of *failure*'s reasons; its own if it has none."""
    value: Any = failure.value
    inside = [inner for inner in getattr(value, "reasons", ()) if isinstance(inner, Failure)]
    for inner in inside:
        yield from _leaves(inner)
    if not inside:
        yield value


def _not_http(failure: Failure, kinds: tuple[type[Exception], ...]) -> Failure | None:
    """A `ResponseParseError` if Twisted's parser has failed with one of *kinds*; else None."""
    broken = next((leaf for leaf in _leaves(failure) if isinstance(leaf, kinds)), None)
    if broken is None or not isinstance(failure.value, ResponseFailed):
        return None
    error = ResponseParseError(
        " ".join(str(broken).split()) or "Invalid response",
        code="ERR_HTTP_INVALID_RESPONSE",
        phase="head",
    )
    error.__cause__ = failure.value
    return Failure(error)
