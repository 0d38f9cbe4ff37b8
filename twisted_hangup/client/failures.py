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
from collections.abc import Iterator
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
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure
from twisted.web._newclient import BadHeaders, BadResponseVersion, RequestNotSent
from twisted.web._newclient import ParseError as TwistedParseError
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived

from ..errors import HangupError, ResponseParseError, ServerHangUp, ServerPhase
from ..report.rules import HANG_UP, RESET
from ..transport.sockets import ConnectionBroken
from ..transport.tls import tls_error

#: Reason and code where a server takes longer than it may.
NO_ANSWER: Final = ("no answer in time", "ETIMEDOUT")

_NOT_HTTP = (TwistedParseError, BadResponseVersion, BadHeaders)


def request_hang_up(failure: Failure) -> Failure:
    """The failure of a request that has no response: a `ServerHangUp` where it is one.

    What is not the network's doing, cancelling above all, is given back as it is.
    """
    reasons = list(_reasons(failure))
    if any(isinstance(reason, (CancelledError, ConnectingCancelledError)) for reason in reasons):
        return failure
    error: HangupError | None = None
    if (broken := _first(reasons, _NOT_HTTP)) is not None:
        error = _not_http(broken)
    elif failure.check(ConnectError, DNSLookupError, DeferredTimeout):
        code, words = why_not_connected(failure.value)
        error = ServerHangUp(words, code=code, phase="connecting")
    elif failure.check(RequestNotSent):
        error = ServerHangUp(HANG_UP.reason, code=HANG_UP.code, phase="connecting")
    elif failure.check(RequestTransmissionFailed):
        error = _lost(reasons, "request")
    elif failure.check(ResponseNeverReceived):
        error = _lost(reasons, "waiting")
    elif failure.check(ResponseFailed):
        error = _lost(reasons, "head")
    elif failure.check(ConnectionDone, ConnectionLost, SSL.Error):
        error = _lost(reasons, "waiting")
    if error is None:
        return failure
    error.__cause__ = failure.value
    return Failure(error)


def body_hang_up(failure: Failure, received: int) -> Failure:
    """The end of a body: a `ServerHangUp` where it is cut short."""
    reasons = list(_reasons(failure))
    if not failure.check(ResponseFailed, ConnectionDone, ConnectionLost):
        return failure  # done, or cancelled
    if any(isinstance(reason, CancelledError) for reason in reasons):
        return failure
    error: HangupError
    if (broken := _first(reasons, (*_NOT_HTTP, ValueError))) is not None:
        error = _not_http(broken)
    else:
        error = ServerHangUp(
            "aborted", code=_lost(reasons, "body").code, phase="body", bytes_received=received
        )
    error.__cause__ = failure.value
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


def _lost(reasons: list[BaseException], phase: ServerPhase) -> ServerHangUp:
    for reason in reasons:
        if isinstance(reason, ConnectionBroken):
            return ServerHangUp(str(reason), code=reason.code, phase=phase)
        if isinstance(reason, SSL.Error):
            error = tls_error(reason, "handshake")
            return ServerHangUp(error.reason, code=error.code, phase="connecting")
    reset = any(isinstance(reason, ConnectionLost) for reason in reasons) and phase == "waiting"
    row = RESET if reset else HANG_UP
    return ServerHangUp(row.reason, code=row.code, phase=phase)


def _not_http(broken: BaseException) -> ResponseParseError:
    return ResponseParseError(
        " ".join(str(broken).split()) or "Invalid response",
        code="ERR_HTTP_INVALID_RESPONSE",
        phase="head",
    )
