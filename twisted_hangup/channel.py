"""One HTTP/1.1 connection: events in, requests and client errors out.

The parser judges the bytes; this module drives Twisted's `Request` with what it found,
and makes one `ClientError` of whatever goes wrong, at most one per connection.  There is
no HTTP syntax here.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers

from ._backlog import Backlog
from ._cork import Cork
from ._headers import HeadersCache, response_head
from ._loss import reason_of_loss
from ._message_clock import MessageClock
from .client_socket import ClientSocket
from .errbacks import Settlement
from .errors import ClientError, ClientHangUp, ParseError, Phase, RequestTimeout
from .events import NEED_DATA, BodyData, Event, RequestHead
from .hangups import Hangups
from .parser import RequestParser
from .request import hangup_factory

_log = Logger()


class HangupChannel(HTTPChannel):
    """An `HTTPChannel` whose client errors reach the application.

    Subclass it to change what happens, and give the class to `HangupSite`::

        class MyChannel(HangupChannel):
            def client_error(self, failure, socket):
                if failure.check(HeaderOverflow):
                    return socket.respond(431, b"Too large.")
                return super().client_error(failure, socket)

    Attributes:
        hangups: What it shares with the site's other channels; set by the site.
        transport: The connection; None once another protocol has taken it over.
    """

    hangups: Hangups
    transport: Any
    requests: list[Any]

    _heard = False
    _pumping = False
    _head: RequestHead | None = None
    _error: ClientError | None = None
    _error_waits = False
    _socket: ClientSocket | None = None
    _input_ended = False
    _left = False
    _peer: Any = None

    def client_error(self, failure: Failure, socket: ClientSocket) -> Any:
        """Answer the one client error of this connection; override it to answer first.

        Args:
            failure: Its value is the `ClientError`.
            socket: The connection, to write to and close.

        Returns:
            What a handler may return (see `ClientErrbacks.add`).  The default runs the
            site's handlers and returns their Deferred.
        """
        return self.hangups.errbacks.run(failure, socket)

    def getPeer(self) -> Any:
        """The client's address, made once per connection and not per request."""
        if self._peer is None:
            self._peer = super().getPeer()
        return self._peer

    def getHost(self) -> Any:
        """The address the client connected to, asked of the kernel once."""
        return self._host

    # The life of the connection.

    def connectionMade(self) -> None:
        """Start the clock: the first message counts from here."""
        self.timeOut = None  # our deadlines replace the timer that every byte resets
        super().connectionMade()
        self._host = self.transport.getHost()
        hangups = self.hangups
        hangups.joined(self)
        self.requestFactory: Any = hangup_factory(self.requestFactory)
        self._parser = RequestParser(hangups.limits)
        self._backlog = Backlog(self._parser, hangups.limits.backlog_bytes)
        self._headers = HeadersCache()
        self._cork = Cork(self.transport, hangups.corks)
        self._clock = MessageClock(hangups.deadlines, hangups.timeouts, self._out_of_time)
        self._clock.waiting("idle")

    def dataReceived(self, data: bytes) -> None:
        """Let the parser judge *data*, then act on what it found."""
        if self._error is not None or self._socket is not None:
            # For good: over TLS the transport goes on delivering after we have closed.
            if self._socket is not None:
                self._socket.dropped(len(data))
            return
        self._heard = True
        self._parser.receive(data)
        self._cork.put_in()
        self._pump()
        self._after_pump()

    def readConnectionLost(self) -> None:
        """The client ended its input (FIN) and may still be reading."""
        if self._left:  # the protocol that took over knows no half-close
            self.transport.connectionLost(Failure(CONNECTION_DONE))
            return
        self._input_ended = True
        if self._socket is not None:
            self._socket.peer_left()
        elif self._error is None:
            self._end_of_input()
        else:
            self._client_left(self._error)

    def writeConnectionLost(self) -> None:
        """Our half is closed: everything written is with the kernel."""
        if self._socket is not None:
            self._socket.flushed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Settle what is open: a waiting error, a running request, a lost client."""
        error = self._error
        if error is None and self._socket is None:
            error = reason_of_loss(reason, self.transport, self.phase, self._parser.finish)
            if error is not None:
                self._record(error)
                self._error_waits = True
        if error is not None:
            self._client_socket()
            self._abandon_requests(error)
        self.leave()
        super().connectionLost(reason)
        if self._socket is not None:
            self._socket.connection_lost()
        if error is not None and self._error_waits:
            self._settle(error)

    @property
    def phase(self) -> Phase:
        """Where in a message the connection is now."""
        if self._handlingRequest:
            return "response"
        if not self._heard and ISSLTransport.providedBy(self.transport):
            return "handshake"
        return self._parser.phase

    def close_when_done(self) -> None:
        """Read no further request; close once the running one, if any, is answered."""
        if self._error is not None or self._socket is not None:
            return  # closing already
        if self._handlingRequest:
            self.persistent = False
            self._backlog.clear()
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close so that the client can read all that was written; see `ClientSocket.end`."""
        if not self._left:
            self._parser.close()
            self._client_socket().end()

    def leave(self) -> None:
        """Drop out of everything that the site keeps: another protocol has the connection."""
        self._left = True
        self._backlog.clear()
        self._clock.stop()
        self.hangups.left(self)

    def _client_socket(self) -> ClientSocket:
        if self._socket is None:
            hangups = self.hangups
            self._socket = ClientSocket(
                self.transport,
                self.getPeer(),
                self._host,
                hangups.deadlines,
                hangups.limits,
                hangups.timeouts,
                self._stop_flow_control,
            )
            self._clock.stop()
        return self._socket

    def _stop_flow_control(self) -> None:
        """A transport with a producer does not close before the producer has gone."""
        producer: Any = self._networkProducer
        producer.unregisterProducer()

    # Messages: from events to requests.

    def _pump(self) -> None:
        """Act on events until bytes are missing or a request is being answered.

        While one is, what follows is judged ahead, so that a broken message is known at
        once; it is acted on in its turn.
        """
        if self._pumping:
            return  # a request was finished inside the loop below, which goes on
        self._pumping = True
        try:
            while self._socket is None and not self._left:
                if self._handlingRequest:
                    assert self._head is not None
                    if self._error is not None or not self._backlog.judge(self._head):
                        return
                    continue
                event = (self._backlog or self._parser).next_event()
                if event is NEED_DATA:
                    if self._error is not None:
                        self._settle(self._error)
                    return
                try:
                    self._act(event)
                except Exception:
                    self._eb_request(Failure())
        except ParseError as error:
            self._fail(error)
        finally:
            self._pumping = False

    def _after_pump(self) -> None:
        """Set the deadline, or the back-pressure, that fits where the pump stopped."""
        if self._error is not None or self._socket is not None or self._left:
            return
        if self._handlingRequest:
            self._clock.answering()
            if self._backlog.full:
                self._networkProducer.pauseProducing()
        elif self._input_ended:
            self._end_of_input()
        else:
            self._clock.waiting(self._parser.phase)

    def _act(self, event: Event) -> None:
        if isinstance(event, RequestHead):
            self._begin_request(event)
        elif isinstance(event, BodyData):
            self.requests[-1].handleContentChunk(event.data)
        else:
            self._clock.message_complete()
            transport = self.transport
            self.allContentReceived()
            if self._left or self.transport is None:
                self._hand_over(transport)

    def _begin_request(self, head: RequestHead) -> None:
        self._head = head
        request = self.requestFactory(self, len(self.requests))
        self.requests.append(request)
        request.requestHeaders = self._headers.headers(head.fields)
        self._command = head.method
        self._path = head.target
        self._version = b"HTTP/1.1" if head.version == b"1.1" else b"HTTP/1.0"
        self.length = None if head.chunked else head.content_length or 0
        if head.method == b"CONNECT":
            self._refuse(request, 501)
        elif not self._headers.expectation_known and head.version == b"1.1":
            self._refuse(request, 417)
        else:
            self.allHeadersReceived()

    def _refuse(self, request: Any, status: int) -> None:
        """Answer a well-formed request that no resource may see, and close."""
        request.method, request.uri = self._command, self._path
        request.clientproto = self._version
        self.persistent = False
        self._handlingRequest = True
        request.refuse(status)

    def _hand_over(self, transport: Any) -> None:
        """Another protocol has the connection: it gets what came behind the request."""
        rest = self._parser.unread()
        self.leave()
        for data in rest:
            # Replaced on this instance by Twisted's websockets; autobahn takes the transport.
            (self if self.transport is not None else transport.protocol).dataReceived(data)

    # What Twisted calls while it drives a request.

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Whether the connection may outlive the response (RFC 9112, section 9.3)."""
        assert self._head is not None
        if not self._head.keep_alive:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            return False
        # Twisted's rule: the end of a response may have to be the connection's in 1.0.
        return version == b"HTTP/1.1"

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """Write a response head as one piece: the transport checks each piece it is given."""
        if isinstance(headers, Headers):
            self.transport.write(response_head(version, code, reason, headers))
        else:
            super().writeHeaders(version, code, reason, headers)

    def setLineMode(self, extra: bytes = b"") -> None:
        """requestDone() calls this when a response is finished: on to the next message."""
        if not self._pumping:
            self._pump()
            self._after_pump()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """`Request` calls this when it cannot parse a multipart body."""
        self._fail_own(
            ParseError(
                "Invalid multipart body",
                code="ERR_HTTP_MULTIPART",
                phase="body",
                request=self._head,
                field=b"Content-Type",
            )
        )

    def _protocolUpgradeForWebsockets(self, protocol: Any) -> None:
        super()._protocolUpgradeForWebsockets(protocol)
        self._left = True

    # What goes wrong.

    def _fail(self, error: ClientError) -> None:
        """The one client error of this connection: record it, settle it in its turn."""
        self._record(error)
        self._backlog.close()
        if self._handlingRequest or self._backlog:
            self._error_waits = True
            self._networkProducer.resumeProducing()  # only to see the client leave
        else:
            self._settle(error)

    def _fail_own(self, error: ClientError) -> None:
        """Like `_fail`, where the running request is itself the broken message."""
        self._handlingRequest = False
        self._backlog.clear()
        self._fail(error)

    def _record(self, error: ClientError) -> None:
        # It outlives the connection, which its traceback would keep alive.
        error.__traceback__ = error.__context__ = None
        error.peer = self.getPeer()
        self._error = error
        self.hangups.journal.record(error)

    def _settle(self, error: ClientError) -> None:
        """Start the chain: everything before the broken message has been answered."""
        self._error_waits = False
        socket = self._client_socket()
        socket.headers_sent = bool(self.requests) and bool(self.requests[-1].startedWriting)
        if error.request is not None:
            socket.request_was(error.request.method)
        settlement = Settlement(error, socket, self.hangups.deadlines)
        settlement.start(self.client_error, self.hangups.timeouts.handler_seconds)

    def _end_of_input(self) -> None:
        """The client has sent its last byte, and nothing has gone wrong before."""
        if self._handlingRequest:
            if not self.hangups.limits.allow_half_open:
                error = ClientHangUp(
                    "socket hang up", code="ECONNRESET", phase="response", request=self._head
                )
                self._record(error)
                self._client_left(error)
            return
        try:
            self._parser.finish()
        except ParseError as error:
            self._fail(error)
        else:
            super().loseConnection()

    def _client_left(self, error: ClientError) -> None:
        """Nobody waits for the responses any more: stop the work, close, settle."""
        self.stopProducing()
        self._abandon_requests(error)
        socket = self._client_socket()
        socket.peer_left()
        socket.end()
        self._settle(error)

    def _abandon_requests(self, error: ClientError) -> None:
        """Tell the requests that their client has gone, and the access log too."""
        requests, self.requests = self.requests, []
        for request in requests:
            request.client_left(error)

    def _out_of_time(self) -> None:
        if self._clock.idle:
            super().loseConnection()  # idle between messages: a quiet close
        else:
            self._fail(
                RequestTimeout(
                    "Request timeout",
                    code="ERR_HTTP_REQUEST_TIMEOUT",
                    phase=self.phase,
                    request=self._parser.pending_request,
                )
            )

    def cut_response(self, request: Any) -> None:
        """End the connection in the middle of *request*'s response, visibly so.

        A response with a length or in chunks is seen to be cut short, so what was written
        of it is still delivered; one that ends with the connection needs the reset.
        """
        self._parser.close()
        socket = self._client_socket()
        if request.chunked or request.responseHeaders.hasHeader(b"Content-Length"):
            socket.end()
        else:
            socket.destroy()
        self.requests.remove(request)
        request.connectionLost(Failure(ConnectionAborted("the response was cut short")))

    def _eb_request(self, failure: Failure) -> None:
        """A request raised, so that Twisted would drop the connection without a word."""
        request = self.requests[-1]
        if self._head is not None and self._handlingRequest and not request.process_begun:
            # Only the client's own bytes have been looked at yet: Twisted's multipart
            # parser lets several exceptions of the email package through.
            self._respondToBadRequestAndDisconnect()
            return
        _log.failure("A request failed outside of its resource", failure)
        self._handlingRequest = True  # nothing behind it is acted on
        if request.startedWriting:
            self.cut_response(request)
        else:
            self._client_socket().respond(500, b"The server failed to handle this request.\n")
