"""A response as Twisted's `IResponse`, and the errors of its body, also of another agent's."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IClientRequest, IResponse
from zope.interface import implementer

from ..errors import ServerHangUp
from ..events import Field, ResponseHead
from .failures import anothers_body_ended
from .pool import Exchange


@implementer(IClientRequest)
class ClientRequest:
    """The request of a response.

    Attributes:
        method: As it was sent.
        absoluteURI: The URL that was asked for.
        headers: As they were given.
    """

    def __init__(self, method: bytes, uri: bytes, headers: Headers) -> None:
        self.method = method
        self.absoluteURI = uri
        self.headers = headers


@implementer(IResponse)
class ClientResponse:
    """The response to a request of `HangupAgent`.

    If you drop it before you ask for its body, its connection closes.

    Attributes:
        version: ``(b"HTTP", 1, 1)`` or ``(b"HTTP", 1, 0)``.
        code: The status code.
        phrase: The reason phrase.
        headers: The headers of its head.
        length: Bytes of its body; 0 if there is none; ``UNKNOWN_LENGTH`` if it has no
            Content-Length.
        request: The `ClientRequest`.
        previousResponse: The response that redirected to this one, or None.
    """

    def __init__(self, head: ResponseHead, request: ClientRequest, body: ResponseBody) -> None:
        self.version = (b"HTTP", 1, int(head.version[-1:]))
        self.code = head.status
        self.phrase = head.reason
        self.headers = Headers()
        for name, value in head.fields:
            self.headers.addRawHeader(name, value)
        if not head.has_body:
            self.length: Any = 0
        else:
            self.length = UNKNOWN_LENGTH if head.content_length is None else head.content_length
        self.request = request
        self.previousResponse: Any = None
        self._transport = body  # Scrapy reads the address and the certificate from it
        self._unread = weakref.finalize(self, body.abort)
        self._unread.atexit = False
        body.response = weakref.ref(self)

    def deliverBody(self, protocol: Any) -> None:
        """Give the body to *protocol*, whose ``connectionLost`` gets the reason of its end.

        The reason holds `ResponseDone`, `PotentialDataLoss` (only the end of the connection ended
        the body), a `ServerHangUp`, or a `ResponseParseError`.

        Raises:
            RuntimeError: The body was delivered before.
        """
        self._unread.detach()
        self._transport.deliver_to(protocol)

    def cut_short(self, error: Exception) -> None:
        """The body has failed with *error*, which gets the response."""
        self._unread.detach()  # it would keep the error, and so the response, alive for ever
        if isinstance(error, ServerHangUp):
            error.response = self

    def setPreviousResponse(self, response: Any) -> None:
        """Remember the response that redirected to this one."""
        self.previousResponse = response


@implementer(IPushProducer)
class ResponseBody:
    """A body on its way from a connection to a protocol; it is the protocol's transport."""

    disconnecting = False

    #: A weak reference to the response: a strong one would keep what nobody reads.
    response: Callable[[], ClientResponse | None]

    def __init__(self, exchange: Exchange, until_close: bool) -> None:
        self._exchange: Exchange | None = exchange
        self._beneath = exchange.connection and exchange.connection.transport
        self._protocol: Any = None
        self._early: list[bytes] = []
        self._end: Failure | None = None
        self._done: Any = PotentialDataLoss() if until_close else ResponseDone()

    # Called by the connection.

    def data(self, data: bytes) -> None:
        if self._protocol is None:
            self._early.append(data)
        elif not self.disconnecting:
            try:
                self._protocol.dataReceived(data)
            except Exception:  # the protocol's own fault
                failure = Failure()
                self.abort()
                self._ended(failure)

    def all_read(self) -> None:
        """Pause: nobody reads yet."""
        if self._protocol is None:
            self.pauseProducing()

    def end(self, trailers: list[Field]) -> None:
        self._ended(Failure(self._done))

    def failed(self, error: Exception) -> None:
        response = self.response()
        if response is not None:
            response.cut_short(error)
        self._ended(Failure(error))

    def _ended(self, reason: Failure) -> None:
        self._exchange = None
        if self._protocol is None:
            self._end = reason
        else:
            protocol, self._protocol = self._protocol, _NOBODY
            protocol.connectionLost(reason)

    # Called by the response.

    def deliver_to(self, protocol: Any) -> None:
        if self._protocol is not None:
            raise RuntimeError("the body of this response has been delivered already")
        self._protocol = protocol
        try:
            protocol.makeConnection(self)
        except Exception:
            self.abort()
            raise
        close_when_cancelled(protocol, self.abortConnection)
        early, self._early = self._early, []
        for data in early:
            self.data(data)
        if self._end is not None:
            self._ended(self._end)
        else:
            self.resumeProducing()

    def abort(self) -> None:
        """Nobody wants the body: close the connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()

    # Called by the protocol, as its transport.

    def pauseProducing(self) -> None:
        if self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.pause()

    def resumeProducing(self) -> None:
        if self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.resume()

    def stopProducing(self) -> None:
        """Close the connection; the protocol gets the end when the connection has gone."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self.disconnecting = True
            exchange.abort(lambda: self._ended(Failure(CancelledError())))

    def loseConnection(self) -> None:
        self.stopProducing()

    def abortConnection(self) -> None:
        """Close the connection; the protocol gets the end at once."""
        if self._exchange is not None:
            self.disconnecting = True
            self.abort()
            self._ended(Failure(CancelledError()))

    @property
    def _producer(self) -> _Beneath:
        """An attribute that Twisted's transport has: Scrapy reads it."""
        return _Beneath(self, self._beneath)


class _Beneath:
    """The connection under a body, with the methods that users of Twisted's use there."""

    def __init__(self, body: ResponseBody, transport: Any) -> None:
        self.abortConnection = self.loseConnection = self.stopProducing = body.stopProducing
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        if name not in _ASKED_OF_TRANSPORTS:
            raise AttributeError(name)
        return getattr(self._transport, name)


_ASKED_OF_TRANSPORTS: Final = frozenset({"getHandle", "getHost", "getPeer", "getPeerCertificate"})

#: Stands for a protocol whose body has ended.
_NOBODY = Protocol()


def close_when_cancelled(protocol: Any, close: Callable[[], None]) -> None:
    """Close the connection if the Deferred that waits for *protocol* is cancelled.

    treq collects a body for a Deferred that cannot be cancelled: the connection would stay, and
    the server would go on sending.  The collector is inside the protocols that decode or buffer
    for it.
    """
    while protocol is not None:
        finished = getattr(protocol, "finished", None)
        if isinstance(finished, Deferred) and finished._canceller is None:
            finished._canceller = lambda _: close()
        protocol = getattr(protocol, "original", None)


@implementer(IResponse)
class AnothersResponse:
    """Another agent's response, whose body fails with our errors.

    Everything else is the response's own.
    """

    def __init__(self, response: Any) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def deliverBody(self, protocol: Any) -> None:
        body = _AnothersBody(protocol, self)
        self._response.deliverBody(body)
        body.is_read = True


class _AnothersBody(Protocol):
    """Comes before the protocol that gets the body of another agent's response.

    Attributes:
        is_read: Whether data is read from the connection now, and did not arrive before.
    """

    def __init__(self, protocol: Any, response: AnothersResponse) -> None:
        self._protocol = protocol
        self._response = response
        self._received = 0
        self._over = False
        self.is_read = False

    def connectionMade(self) -> None:
        self._protocol.makeConnection(_Abortable(self.transport, self.abort))
        close_when_cancelled(self._protocol, self.abort)

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        self._received += len(data)
        try:
            self._protocol.dataReceived(data)
        except Exception:  # the protocol's own fault
            self.abort(Failure())
            if self.is_read:
                raise  # or the connection would be kept although it is being closed

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(anothers_body_ended(reason, self._received, self._response))

    def abort(self, reason: Failure | None = None) -> None:
        """Close the connection; the protocol gets the end at once."""
        if not self._over:
            self._end(reason or Failure(CancelledError()))
            transport: Any = self.transport
            transport.stopProducing()

    def _end(self, reason: Failure) -> None:
        if not self._over:
            self._over = True
            self._protocol.connectionLost(reason)


class _Abortable:
    """The transport of a body of Twisted's, with the method that its own `readBody` misses."""

    def __init__(self, transport: Any, abort: Callable[[], None]) -> None:
        self._transport = transport
        self.abortConnection = abort

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
