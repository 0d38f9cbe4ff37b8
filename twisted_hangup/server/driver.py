"""From the parser's events to Twisted's requests, one at a time and in order.

This half of the channel knows how a good conversation goes.  What goes wrong in one is
handed to the other half, `twisted_hangup.server.channel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers

from ..errors import ClientError, ParseError, Phase
from ..events import NEED_DATA, BodyData, Event, RequestHead
from ..parser.backlog import Backlog
from ..parser.request import RequestParser
from ..transport.addresses import shared_address
from ..transport.layers import protocol_within
from ..transport.sockets import SendWatch, TellingSocket, adopted
from ..transport.tls import in_handshake
from .context import Hangups
from .headers import HeadersCache, response_head
from .message_clock import MessageClock
from .request import hangup_factory


class RequestDriver(HTTPChannel):
    """An `HTTPChannel` that leaves the judging of bytes to `RequestParser`.

    Requests go through HTTPChannel's own ``allHeadersReceived``, ``allContentReceived`` and
    ``requestDone``, so that cookies, ``100 Continue``, producers and upgrades are Twisted's.

    Attributes:
        hangups: What it shares with the site's other channels; set by the site.
        transport: The connection; None once another protocol has taken it over.
    """

    hangups: Hangups
    transport: Any
    requests: list[Any]

    # Ten thousand slow clients cost what is kept here, so nothing is made before it is
    # needed.  With slots because Python gives an instance with many attributes, or with
    # some that are set late, a dictionary of its own of 800 bytes.
    __slots__ = (
        *("_backlog", "_behind", "_clock", "_wire", "_error", "_head", "_headers", "_heard"),
        *("_host", "_last", "_left", "_over", "_parser", "_paused", "_peer", "_pumping"),
        *("_send_watch", "hangups"),
    )

    def __init__(self) -> None:
        super().__init__()
        #: Whether the first byte has come, and whether events are being acted on now.
        self._heard = False
        self._pumping = False
        #: Whether the message being read is the last one that will be.
        self._last = False
        #: Whether the connection has gone, or has another protocol.
        self._left = False
        #: Whether it is being closed, or has left; nothing is acted on any more.
        self._over = False
        self._paused: int | None = None
        self._send_watch: SendWatch | None = None
        self._headers: HeadersCache | None = None
        #: The transport, where writes to it can be joined.
        self._wire: TellingSocket | None = None
        self._head: RequestHead | None = None
        self._error: ClientError | None = None
        self._peer: Any = None
        #: What came behind a request for an upgrade, until the new protocol is ready for it.
        self._behind: Sequence[bytes] = ()
        # What Twisted sets in the course of a request: early, for the reason above.
        self._command = self._path = self._version = b""
        self.length: int | None = 0
        self.persistent = True
        self._requestProducer = self._requestProducerStreaming = None
        self._waitingForTransport = False

    # What the other half does.

    def _fail(self, error: ClientError) -> None:
        raise NotImplementedError

    def _settle(self, error: ClientError) -> None:
        raise NotImplementedError

    def _eb_request(self, failure: Failure) -> None:
        raise NotImplementedError

    def _out_of_time(self) -> None:
        raise NotImplementedError

    def _stalled(self) -> None:
        raise NotImplementedError

    def _client_gone(self, errno: int) -> None:
        raise NotImplementedError

    def _end_of_input(self) -> None:
        raise NotImplementedError

    # The life of the connection.

    def connectionMade(self) -> None:
        """Start the clock: the first message counts from here."""
        self.timeOut = None  # our deadlines replace the timer that every byte resets
        super().connectionMade()
        hangups = self.hangups
        hangups.joined(self)
        self._wire = adopted(self.transport)
        self._host = shared_address(self.transport.getHost())
        self.requestFactory: Any = hangup_factory(self.requestFactory)
        self._parser = RequestParser(hangups.limits)
        self._backlog = Backlog(self._parser, hangups.limits.backlog_bytes)
        self._clock = MessageClock(hangups.deadlines, hangups.timeouts, self._out_of_time)
        self._clock.waiting("handshake" if ISSLTransport.providedBy(self.transport) else "idle")

    def _take_in(self, data: bytes) -> None:
        """Let the parser judge *data*, then act on what it found."""
        if not self._heard:
            self._heard = True
            if isinstance(self.transport, ProtocolWrapper):
                self._host = shared_address(self.transport.getHost())  # what a PROXY line has said
        self._parser.receive(data)
        self._pump()
        self._after_pump()

    def _join_writes(self) -> None:
        """Hold what is written from now on until this turn of the reactor is over."""
        if self._wire is not None:
            self.hangups.joint_writes.join(self._wire)

    def getPeer(self) -> Any:
        """The client's address, made once per connection and not per request."""
        if self._peer is None:
            self._peer = super().getPeer()
        return self._peer

    def getHost(self) -> Any:
        """The address the client connected to, asked of the kernel once."""
        return self._host

    @property
    def over(self) -> bool:
        """Whether nothing that still comes is acted on."""
        return self._over

    @property
    def phase(self) -> Phase:
        """Where in a message the connection is now."""
        if self._handlingRequest or self._waitingForTransport:
            return "response"
        if (
            not self._heard
            and ISSLTransport.providedBy(self.transport)
            and in_handshake(self.transport)
        ):
            return "handshake"
        return self._parser.phase

    @property
    def _request_so_far(self) -> RequestHead | None:
        """The request that is being answered, or else what has come of the next one."""
        answering = self._handlingRequest or self._waitingForTransport
        return self._head if answering else self._parser.pending_request

    def leave(self) -> None:
        """Drop out of everything that the site keeps: another protocol has the connection."""
        self._left = self._over = True
        self._read_again()
        if self._send_watch is not None:
            self._send_watch.forget()
        self._backlog.clear()
        self._clock.stop()
        self.hangups.left(self)

    # Messages.

    def _pump(self) -> None:
        """Act on events until bytes are missing, or a request or its client takes time.

        Meanwhile what follows is judged ahead, so that a broken message is known at once;
        it is acted on in its turn.
        """
        if self._pumping:
            return  # a request was finished inside the loop below, which goes on
        self._pumping = True
        try:
            while not self._over:
                if self._handlingRequest:
                    assert self._head is not None
                    if self._error is not None or not self._backlog.judge(self._head):
                        return
                    continue
                if self._waitingForTransport:
                    return  # its responses are as many as the client has room for
                event = (self._backlog or self._parser).next_event()
                if event is NEED_DATA:
                    if self._error is not None:
                        self._settle(self._error)
                    return
                if isinstance(event, RequestHead) and event.has_body:
                    # A body that breaks in the same read never makes a request: that would
                    # cost a file for nothing.
                    self._backlog.judge(event)
                try:
                    self._act(event)
                except Exception:
                    if self._left:
                        raise  # another protocol's, and the reactor's to handle
                    self._eb_request(Failure())
        except ParseError as error:
            self._fail(error)
        finally:
            self._pumping = False

    def _after_pump(self) -> None:
        """Set the deadline, or the back-pressure, that fits where the pump stopped."""
        if self._over:
            return
        if self._handlingRequest or self._waitingForTransport:
            self._clock.answering()
            if self._error is None and self._backlog.full:
                self._networkProducer.pauseProducing()
                if self._paused is None:
                    self._paused = self.hangups.paused.add(self.transport, self._client_gone)
        elif self._error is None:
            self._clock.waiting(self._parser.phase)
            self._end_of_input()

    def _act(self, event: Event) -> None:
        if isinstance(event, RequestHead):
            self._begin_request(event)
        elif isinstance(event, BodyData):
            self.requests[-1].handleContentChunk(event.data)
        else:
            self._clock.message_complete()
            self._join_writes()
            transport = self.transport
            self.allContentReceived()
            self.rendered(transport)

    def _read_again(self) -> None:
        """Reading is not paused any more, or there is nothing left to read from."""
        if self._paused is not None:
            self.hangups.paused.remove(self._paused)
            self._paused = None

    def _begin_request(self, head: RequestHead) -> None:
        self._head = head
        headers = self._headers
        if headers is None:
            headers = self._headers = HeadersCache()
        request = self.requestFactory(self, len(self.requests))
        self.requests.append(request)
        request.requestHeaders = headers.headers(head.fields)
        self._command = head.method
        self._path = head.target
        self._version = b"HTTP/1.1" if head.version == b"1.1" else b"HTTP/1.0"
        self.length = None if head.chunked else head.content_length or 0
        if head.method == b"CONNECT":
            self._refuse(request, 501)
        elif not headers.expectation_known and head.version == b"1.1":
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

    def rendered(self, transport: Any) -> None:
        """A resource was asked, and may have put another protocol in our place.

        That gets what came behind the request, after all that the resource has written.

        Args:
            transport: What our transport was before.
        """
        heir: Any = self  # Twisted's websockets replace dataReceived on this instance
        if self.transport is None:
            # autobahn takes the transport away and puts its protocol on top of it.
            heir = transport if isinstance(transport, ProtocolWrapper) else transport.protocol
            heir = protocol_within(heir)
            self._upgraded()
        behind, self._behind = self._behind, []
        for data in behind:
            heir.dataReceived(data)

    def _upgraded(self) -> None:
        """Another protocol has the connection."""
        if self._left:
            return
        self._behind = self._parser.unread()
        self.leave()
        # As its producer we would pause reading for the new protocol, keep it from having
        # a producer of its own, and keep TLS from closing.
        producer: Any = self._networkProducer
        producer.resumeProducing()
        producer.unregisterProducer()

    # What Twisted calls while it drives a request.

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Whether the connection may outlive the response (RFC 9112, section 9.3)."""
        assert self._head is not None
        if self._last or not self._head.keep_alive:
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
        if self._paused is not None:
            self._read_again()
        if getattr(self.transport, "disconnecting", False):
            self.loseConnection()  # the application has closed the transport
        elif not self._pumping:
            self._pump()
            self._after_pump()

    def pauseProducing(self) -> None:
        """The client takes less than is written to it."""
        super().pauseProducing()
        self._watch_sending()

    def _watch_sending(self) -> None:
        """More is waiting to be sent than the client has room for."""
        if self._send_watch is None:
            hangups = self.hangups
            self._send_watch = SendWatch(
                self.transport, hangups.deadlines, hangups.timeouts.send_seconds, self._stalled
            )
        self._send_watch.start()

    def resumeProducing(self) -> None:
        """The client has taken what was written: on with its next request."""
        if self._send_watch is not None:
            self._send_watch.stop()  # first: a producer may leave no room again at once
        super().resumeProducing()
        if not self._handlingRequest and not self._pumping:
            self._pump()
            self._after_pump()

    def stopProducing(self) -> None:
        """The transport has gone: what the producer still finishes starts nothing new."""
        self._over = True
        super().stopProducing()

    def _protocolUpgradeForWebsockets(self, protocol: Any) -> None:
        super()._protocolUpgradeForWebsockets(protocol)
        self._upgraded()
