"""What Twisted's client says of a lost connection, in Node's words.

======================================================  =========================  ==========
what Twisted raises                                      reason                     phase
======================================================  =========================  ==========
any `ConnectError`, `DNSLookupError`                     connect ECONNREFUSED, ...  connecting
`RequestTransmissionFailed`                              socket hang up             request
`ResponseNeverReceived` of `ConnectionDone`              socket hang up             waiting
`ResponseNeverReceived` of `ConnectionLost`              read ECONNRESET            waiting
`ResponseFailed`, before the head was complete           socket hang up             head
`ResponseFailed`, in the body                            aborted                    body
======================================================  =========================  ==========
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
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
from twisted.web.http import _DataLoss

from ..errors import HangupError, ResponseParseError, ServerHangUp, ServerPhase
from ..report.rules import HANG_UP, RESET
from ..transport.sockets import ConnectionBroken
from ..transport.tls import tls_error

#: Reason and code where a server takes longer than it may.
NO_ANSWER: Final = ("no answer in time", "ETIMEDOUT")

_NOT_HTTP: Final = (TwistedParseError, BadResponseVersion, BadHeaders)
_CANCELLED: Final = (CancelledError, ConnectingCancelledError)


class NotConnected(ServerHangUp, ConnectError):
    """There is no connection.

    Attributes:
        osError: The operating system's error number, or None.
    """

    def __init__(self, reason: str, *, code: str, **attributes: Any) -> None:
        super().__init__(reason, code=code, **attributes)
        self.osError = getattr(errno, code, None)


class ConnectionRefused(NotConnected, ConnectRefusal):
    """The server is not there."""


class ConnectTimedOut(NotConnected, ConnectTimeout):
    """It took too long to connect."""


class HostNotFound(NotConnected, DNSLookupError):
    """There is no such name."""


class HandshakeFailed(NotConnected, ResponseNeverReceived):
    """TLS was not to be had, which Twisted finds when it waits for the response."""


class RequestCut(ServerHangUp, RequestTransmissionFailed):
    """The request could not be sent whole."""


class NoResponse(ServerHangUp, ResponseNeverReceived):
    """No byte of a response came."""


class ResponseCut(ServerHangUp, ResponseFailed):
    """The response was not whole."""


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
    """Make the `ServerHangUp` for *phase*, which is also what Twisted has for it.

    Args:
        failure: What it comes from: the cause, and the reasons or those that it has.
        attributes: Others of the error.
    """
    kind = _KINDS[phase]
    if phase == "connecting":
        tls = code.startswith(("ERR_SSL_", "ERR_TLS_"))
        kind = HandshakeFailed if tls else _NOT_CONNECTED.get(code, kind)
    error = kind(reason, code=code, phase=phase, **attributes)
    error.reasons = [*getattr(failure.value, "reasons", [failure])]
    if phase == "body" and not any(inner.check(_DataLoss) for inner in error.reasons):
        error.reasons.append(Failure(_DataLoss()))  # Twisted's word for half a body
    error.__cause__ = failure.value
    return error


def request_hang_up(failure: Failure) -> Failure:
    """The failure of a request that has no response: a `ServerHangUp` where it is one.

    What is not the network's doing, cancelling above all, is given back as it is.
    """
    reasons = list(_reasons(failure))
    if isinstance(failure.value, HangupError) or _first(reasons, _CANCELLED):
        return failure
    error: HangupError | None = None
    if (broken := _first(reasons, _NOT_HTTP)) is not None:
        error = _not_http(broken, failure)
    elif failure.check(ConnectError, DNSLookupError, DeferredTimeout):
        code, words = why_not_connected(failure.value)
        error = hang_up(words, code, "connecting", failure)
    elif failure.check(RequestNotSent):
        error = hang_up(HANG_UP.reason, HANG_UP.code, "connecting", failure)
    elif failure.check(RequestTransmissionFailed):
        error = hang_up(*_lost(reasons, "request"), failure)
    elif failure.check(ResponseNeverReceived, ConnectionDone, ConnectionLost, SSL.Error):
        error = hang_up(*_lost(reasons, "waiting"), failure)
    elif failure.check(ResponseFailed):
        error = hang_up(*_lost(reasons, "head"), failure)
    return failure if error is None else Failure(error)


def body_hang_up(failure: Failure, received: int, response: Any) -> Failure:
    """The end of the body of *response*: a `ServerHangUp` where it is cut short."""
    reasons = list(_reasons(failure))
    if isinstance(failure.value, HangupError) or _first(reasons, _CANCELLED):
        return failure
    if not failure.check(ResponseFailed, ConnectionDone, ConnectionLost):
        return failure  # done
    if (broken := _first(reasons, (*_NOT_HTTP, ValueError))) is not None:
        return Failure(_not_http(broken, failure))
    _, code, _ = _lost(reasons, "body")
    error = hang_up("aborted", code, "body", failure, bytes_received=received)
    error.response = response
    return Failure(error)


def why_not_connected(reason: BaseException | None) -> tuple[str, str]:
    """Code and words for the lack of a connection, as Node has them."""
    if isinstance(reason, (ConnectTimeout, DeferredTimeout)):
        return "ETIMEDOUT", "connect ETIMEDOUT"
    if isinstance(reason, DNSLookupError):
        return "ENOTFOUND", "getaddrinfo ENOTFOUND"
    if isinstance(reason, SSL.Error):
        error = tls_error(reason, "handshake")
        return error.code, error.reason
    name = errno.errorcode.get(getattr(reason, "osError", None) or 0)
    if name is not None:
        return name, f"connect {name}"
    return "ECONNRESET", " ".join(str(reason).split())


def _reasons(failure: Failure) -> Iterator[BaseException]:
    """The exception of *failure*, and of all failures inside of it."""
    value: Any = failure.value
    yield value
    for inner in getattr(value, "reasons", ()):
        if isinstance(inner, Failure):
            yield from _reasons(inner)


def _first(reasons: list[BaseException], kinds: tuple[type[Any], ...]) -> BaseException | None:
    return next((reason for reason in reasons if isinstance(reason, kinds)), None)


def _lost(reasons: list[BaseException], phase: ServerPhase) -> tuple[str, str, ServerPhase]:
    """Words, code and phase of a connection that was lost in *phase*, for *reasons*."""
    for reason in reasons:
        if isinstance(reason, ConnectionBroken):
            return str(reason), reason.code, phase
        if isinstance(reason, SSL.Error):
            error = tls_error(reason, "handshake")
            return error.reason, error.code, "connecting"
    reset = any(isinstance(reason, ConnectionLost) for reason in reasons) and phase == "waiting"
    row = RESET if reset else HANG_UP
    return row.reason, row.code, phase


def _not_http(broken: BaseException, failure: Failure) -> ResponseParseError:
    error = ResponseParseError(
        " ".join(str(broken).split()) or "Invalid response",
        code="ERR_HTTP_INVALID_RESPONSE",
        phase="head",
    )
    error.__cause__ = failure.value
    return error
