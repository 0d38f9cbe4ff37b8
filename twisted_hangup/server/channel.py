"""One HTTP/1 connection: it runs Twisted's requests one at a time, in order, and knows how it ends.

This module knows no HTTP syntax: the parser judges the bytes.  A refused request, a stalled client
or a hang-up becomes the one `ClientError` of the connection; `ending` answers it in its turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import SWITCHING, HTTPChannel, Request
from twisted.web.http_headers import Headers

from ..errors import PARSE_ERRORS, ClientError, ClientHangUp, ParseError, Phase
from ..events import NEED_DATA, BodyData, Break, EndOfMessage, Event, RequestHead
from ..parser.framing import unserved_status
from ..parser.inbox import RequestInbox
from ..parser.message import END
from ..parser.refusals import Why
from ..report.rules import HANG_UP, STALLED
from ..transport.layers import host_of, protocol_within, transport_beneath
from ..transport.lean_tls import adopt_tls, meter_of
from ..transport.preamble import preamble_begun
from ..transport.sockets import (
    LARGE_READ,
    ConnectionBroken,
    Meter,
    SendWatch,
    TellingSocket,
    adopted,
)
from ..transport.tls import handshake_timeout, in_handshake
from .answers import response_head
from .bodies import GatheredBody
from .client_socket import ClientSocket, has_unsent
from .context import SiteContext
from .ending import Ending, Place, connection_broken, hang_up, request_timeout
from .errbacks import ClientFailure
from .headers import HeadersCache, headers_of
from .lean import LeanRequest, is_plain, is_stock, left_out
from .message_clock import MessageClock
from .request import Undelivered, hangup_class, hangup_factory, log
from .room import Spare

_log = Logger()


class Stage(IntEnum):
    """The life of a connection; it never goes back.

    ========= ====================================================================
    `NEW`     no byte has come yet
    `OPEN`    messages are read and answered
    `LAST`    the message being read or answered is the last one
    `CLOSING` nothing is acted on any more: it is being closed, or about to be
    `LEFT`    the connection has gone, or another protocol has it
    ========= ====================================================================
    """

    NEW = 0
    OPEN = 1
    LAST = 2
    CLOSING = 3
    LEFT = 4


#: The first byte of a target that is a path, as nearly all are.
_SLASH: Final = ord("/")

#: So many responses of one connection leave together: see `HangupChannel.dataReceived`.
_SENT_TOGETHER: Final = 64

#: Attributes of Twisted's channel that have no effect here, and what replaces them.
_REPLACED: Final = {
    "maxHeaders": "limits=Limits(head_fields=...)",
    "totalHeadersSize": "limits=Limits(head_bytes=...)",
    "abortTimeout": "timeouts=Timeouts(send_seconds=..., linger_seconds=...)",
}

# Names of the module: a look-up in the enum takes four times as long, eight times a request.
NEW, OPEN, LAST, CLOSING, LEFT = Stage


class HangupChannel(HTTPChannel):
    """An `HTTPChannel` whose client errors reach the application.

    Most applications do not need it: they add a handler with `HangupSite.on_client_error`.
    Subclass it to answer before the site's handlers do, and give the class to `HangupSite`:

        class MyChannel(HangupChannel):
            def client_error(self, failure, socket):
                if failure.check(HeaderOverflow):
                    return socket.respond(431, b"Too large.")
                return super().client_error(failure, socket)

        site = HangupSite(resource, channel=MyChannel)

    Requests go through HTTPChannel's own ``allHeadersReceived``, ``allContentReceived`` and
    ``requestDone``: cookies, ``100 Continue``, producers and upgrades are Twisted's.

    Attributes:
        context: What all channels of the site share; the site sets it.
        transport: The connection; None once another protocol has taken it over.
        host: The address that the client connected to.
        heir: The end of a tunnel that `upgrade` has given the connection to, or None.
    """

    heir: Any = None
    context: SiteContext
    site: Any
    transport: Any
    requests: list[Any]

    # Ten thousand slow clients cost what is kept here, so attributes are filled when needed.
    # Slots, because Python gives an instance with many or late attributes a dictionary of
    # 800 bytes.
    __slots__ = (
        *("_after_upgrade", "_clock", "_ending", "_head", "_headers", "host"),
        *("_inbox", "_meter", "_paused", "_peer", "_pumping", "_send_watch", "_stage", "_wire"),
        *("_gathered", "_streamed", "_undelivered", "context"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._dataBuffer = ()  # type: ignore[assignment]  # of Twisted's parser; ours has its own
        self._stage = NEW
        self._ending = Ending(self)
        #: Whether `_go_on` or `_serve` is acting on messages now.
        self._pumping = False
        self._paused: int | None = None
        self._send_watch: SendWatch | None = None
        self._headers: HeadersCache | None = None
        #: The socket under the transport, if it is one of Twisted's.
        self._wire: TellingSocket | None = None
        #: Counts the bytes written to it.
        self._meter: Meter | None = None
        self._undelivered: Undelivered | None = None
        self._head: RequestHead | None = None
        #: The request that is being answered while its body comes.
        self._streamed: Any = None
        #: What takes the body of a request as it was read.
        self._gathered: GatheredBody | None = None
        self._peer: Any = None
        #: Bytes after an upgrade request, until the new protocol is ready for them.
        self._after_upgrade: Sequence[bytes] = ()
        # Twisted sets these during a request; here they are set early, for the reason above.
        self._command = self._path = self._version = b""
        self.length: int | None = 0
        self.persistent = True
        self._requestProducer = self._requestProducerStreaming = None
        self._waitingForTransport = False

    def client_error(self, failure: ClientFailure, socket: ClientSocket) -> Any:
        """Answer the one client error of this connection; override it to answer first.

        Over HTTP/2 it is called for each refused request as well.

        Args:
            failure: Its ``value`` is the `ClientError`.
            socket: The connection, to write to and to close.

        Returns:
            What a handler may return (see `ClientErrbacks.add`).  The default runs the site's
            handlers and returns their Deferred.
        """
        return self.context.errbacks.run(failure, socket)

    default_client_error = staticmethod(client_error)

    # The state of the connection.

    def getPeer(self) -> Any:
        """The client's address, asked once per connection and not per request."""
        if self._peer is None:
            self._peer = super().getPeer()
        return self._peer

    def getHost(self) -> Any:
        """The address that the client connected to, asked once per connection."""
        return self.host

    @property
    def place(self) -> Place:
        """The phase that the connection is in, and the request so far, if there is one."""
        if self._owes or self._ending.unsent:
            return "response", self._head
        return self._input_place

    @property
    def _owes(self) -> bool:
        """Whether the client has still to receive something of a response."""
        if self._waitingForTransport or (self._undelivered and self._undelivered.undelivered):
            return True
        return self._is_awaited

    @property
    def _is_awaited(self) -> bool:
        """Whether the client lacks a part of the response that is being made."""
        return bool(self._handlingRequest) and not all(
            request._hangup_delivered for request in self.requests
        )

    @property
    def _input_place(self) -> Place:
        """The phase and request of the message that is being read, whatever is being answered."""
        if self._stage is NEW:
            if not ISSLTransport.providedBy(self.transport):
                if preamble_begun(self.transport):
                    return "head", None
            elif in_handshake(self.transport):
                return "handshake", None
        return self._inbox.phase, self._inbox.pending_request

    @property
    def request_line_so_far(self) -> Break | None:
        """The request line so far, if the message that is being read stops inside it."""
        return self._inbox.request_line_so_far

    @property
    def phase(self) -> Phase:
        """The phase that the connection is in, for counts of connections.

        ``"response"`` lasts until the application has finished, even if the client has all of it.
        """
        return "response" if self._answering else self.place[0]

    @property
    def over(self) -> bool:
        """Whether all further input is ignored."""
        return self._stage >= CLOSING

    @property
    def closing(self) -> bool:
        """Whether our half is closed, or is about to be, while the client may still read."""
        return self._ending.closing

    @property
    def spare(self) -> Spare | None:
        """Since when it waits for a request; None while one is being read or answered."""
        if self._answering or self._stage >= CLOSING or not self._ending.open:
            return None
        since = self._clock.since
        if since is None or self._inbox.phase == "body" or has_unsent(self.transport):
            return None
        return Spare("idle" if self._clock.idle else "head", since)

    @property
    def _answering(self) -> bool:
        """Whether a request is being answered, or its client has still to read the answer."""
        return bool(self._handlingRequest or self._waitingForTransport)

    def _rise(self, stage: Stage) -> None:
        if stage > self._stage:
            self._stage = stage

    # Called by the transport.

    def connectionMade(self) -> None:
        """Start the clock: the first message counts from here."""
        self.timeOut = None  # our deadlines replace the timer that every byte resets
        super().connectionMade()
        context = self.context
        context.joined(self)
        self._wire = adopted(transport_beneath(self.transport))
        if self._wire is not None:
            self._wire.join(context.joint_writes)
            adopt_tls(self.transport, self._wire, context.joint_writes)
            self._meter = meter_of(self.transport, self._wire)
        self.host = host_of(self.transport)
        self.requestFactory: Any = self._own_request_factory()
        self._inbox = RequestInbox(context.limits, context.section and context.section.copy())
        self._clock = MessageClock(context.deadlines, context.timeouts, self._out_of_time)
        self._clock.waiting("handshake" if ISSLTransport.providedBy(self.transport) else "idle")

    def _own_request_factory(self) -> Callable[..., Any]:
        """The channel's own ``requestFactory``, wrapped; many channels share one wrapper."""
        factory, lean, whole = self.requestFactory, is_stock(), self.takes_whole_requests
        asked = factory, lean, whole, left_out(factory)
        if asked != self.context.request_factories[0]:
            whole = whole and is_plain(factory)
            made = hangup_factory(factory, lean, whole, self.context.forwarded)
            self.context.request_factories = asked, made
        return self.context.request_factories[1]  # type: ignore[no-any-return]

    def dataReceived(self, data: bytes) -> None:
        """Let the parser judge *data*, then act on its events."""
        if self._stage >= CLOSING:
            # Not parsed: over TLS the transport goes on delivering after we have closed.
            self._ending.dropped(len(data))
            return
        if self._stage is NEW:
            self._stage = OPEN
            if isinstance(self.transport, ProtocolWrapper):
                self.host = host_of(self.transport)  # as a PROXY line may name another
        head = None
        if not (
            self._pumping
            or self._handlingRequest
            or self._waitingForTransport
            or getattr(self.transport, "disconnecting", False)
        ):
            head = self._inbox.whole(data)
        if head is None:
            self._inbox.receive(data)
            self._go_on()
        else:
            self._serve(head)
        undelivered, meter = self._undelivered, self._meter
        if undelivered is not None and meter is not None and len(undelivered.undelivered) > 1:
            # Hundreds of requests that wait for the end of the turn are slow: they leave the
            # processor's cache, and Python's garbage collector looks at them again and again.
            meter.send_early()

    def readConnectionLost(self) -> None:
        """The client ended its input (FIN) and may still be reading."""
        if self.heir is not None:
            self.heir.readConnectionLost()
            return
        if self._stage is LEFT:  # the protocol that took over knows no half-close
            transport_beneath(self.transport).connectionLost(Failure(CONNECTION_DONE))
            return
        self._ending.input_ended()
        self._end_of_input()

    def writeConnectionLost(self) -> None:
        """Our half is closed: the kernel has all that was written."""
        if self.heir is not None:
            self.heir.writeConnectionLost()
            return
        if self._send_watch is not None:
            self._send_watch.stop()
        self._ending.flushed()

    def stopProducing(self) -> None:
        """The transport has gone; `connectionLost` comes next and says why.

        A producer may finish its request now.  That must not make the connection look idle.
        """
        self._ending.note_place()
        self._stop_producers()

    def _stop_producers(self) -> None:
        """Stop the producers: nobody reads.  If they finish a request now, nothing new starts."""
        self._rise(CLOSING)
        producer, self._requestProducer = self._requestProducer, None
        if producer is not None:
            try:
                producer.stopProducing()
            except Exception:  # the transport would never be closed
                _log.failure("Could not stop what produces a response")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close what is open: an error that waits for its turn, a running request."""
        ending = self._ending
        error = ending.judge_loss(reason, self._inbox.finish)
        self._stop_producers()  # a transport that we have left does not report its end
        if error is not None:
            ending.open_socket()
            self._abandon_requests(error)
        elif self._head is None:
            self.context.journal.unused += 1
        self._stand_down()
        super().connectionLost(reason)
        undelivered, wire = self._undelivered, self._wire
        if undelivered is not None and wire is not None:
            wire.deliveries = None  # or a reference cycle would remain
            if undelivered.undelivered:
                undelivered.lost(isinstance(error, ClientHangUp))
        ending.lost()
        self.context.left(self)  # last: the process may end once no connection is open

    def leave(self) -> None:
        """Leave the site's records: another protocol has the connection."""
        if self._undelivered is not None:
            self._undelivered.log_all()
        self._stand_down()
        if self.heir is None:
            self.context.left(self)
        else:
            self.context.tunnelled(self)

    def _stand_down(self) -> None:
        """Stop watching the connection."""
        self._rise(LEFT)
        self._read_again()
        if self._send_watch is not None:
            self._send_watch.forget()
        self._inbox.close()
        self._clock.stop()

    # Messages.

    def _go_on(self) -> None:
        """Act on events until bytes are missing, or a request or its client takes time.

        While a request runs, the parser judges the bytes after it: a broken message is known at
        once, and answered in its turn.
        """
        if self._pumping:
            return  # a request was finished inside the loop below, which goes on
        self._pumping = True
        try:
            while self._stage < CLOSING:
                if self._handlingRequest:
                    assert self._head is not None
                    ahead = self._inbox.judge_ahead(self._head)
                    if ahead is NEED_DATA:
                        break
                    if isinstance(ahead, EndOfMessage):
                        self._note_message_read()
                    continue
                if getattr(self.transport, "disconnecting", False):
                    self.loseConnection()  # the application has closed the transport
                    break
                if self._waitingForTransport and self._streamed is None:
                    break  # responses wait: no more of them than the client has room for
                if self._gathered is not None:
                    pieces, weight = self._inbox.take_body()
                    if pieces:
                        self._gathered.take(pieces, weight)
                        continue
                event = self._inbox.next_event()
                if event is NEED_DATA:
                    break
                if isinstance(event, RequestHead):
                    if not event.has_body:
                        self.context.met(self._inbox.section)
                        self._inbox.next_event()  # the end of the message, which needs no bytes
                        self._note_message_read()
                        self._take(event)
                        continue
                    if not self._inbox.events_wait:
                        # If a body breaks in the same read, no request is made: that
                        # would cost a file for nothing.
                        self._inbox.judge_ahead(event)
                try:
                    self._act(event)
                except Exception:
                    if not self._takes_blame(event):
                        raise
        except ParseError as error:
            self._fail(error)
        finally:
            self._pumping = False
        self._wait()

    def _serve(self, head: RequestHead) -> None:
        """Answer *head*, a request without a body, and those like it that came in one read."""
        inbox = self._inbox
        self._clock.message_complete()
        self._pumping = True
        try:
            self._take(head)
            while (more := inbox.buffered) and not (
                self._handlingRequest
                or self._waitingForTransport
                or self._stage >= CLOSING
                or getattr(self.transport, "disconnecting", False)
            ):
                following = inbox.whole()
                if following is None:
                    break
                self._take(following)
        finally:
            self._pumping = False
        if more or getattr(self.transport, "disconnecting", False):
            self._go_on()  # something else came, or the application has closed the transport
        else:
            self._wait()

    def _take(self, head: RequestHead) -> None:
        """Make a request of *head*, which has no body, and let it be answered."""
        event: Event = head
        try:
            headers = self._look_at(head)
            factory = self.requestFactory
            if getattr(factory, "_hangup_plain", False) and self._begins_plainly(head, headers):
                event = END
                self.persistent = self._persists(head)
                self._handlingRequest = True
                transport = self.transport
                LeanRequest.run(factory, self, head, headers, self.persistent)
                if self._after_upgrade or self.transport is None:
                    self.rendered(transport)
                return
            self._head_received(self._new_request(), head)
            if self.over:
                return
            event = END
            self._run()
        except Exception:
            if not self._takes_blame(event):
                raise

    def _begins_plainly(self, head: RequestHead, headers: HeadersCache) -> bool:
        """Whether *head* has nothing that Twisted's methods, or overrides of them, must see."""
        return (
            head.version == b"1.1"
            and head.target[0] == _SLASH
            and not headers.expects
            and head.method != b"CONNECT"  # with the Expect, all that `unserved_status` looks at
            and not self.timeOut
            and not hasattr(self.site, "getContentFile")
        )

    def _takes_blame(self, event: Event) -> bool:
        """Answer for the exception that *event* caused; False if we have left the connection."""
        if self._stage is LEFT:
            return False
        self._eb_request(Failure(), event)
        return True

    def _wait(self) -> None:
        """Set the deadline, or the back-pressure, for the place where the events have stopped."""
        if self._stage >= CLOSING:
            return
        if self._streamed is not None and self._body_paused:
            return
        if not (self._handlingRequest or self._waitingForTransport):
            phase = self._inbox.phase
            self._clock.waiting(phase)
            if self._gathered is not None and self._wire is not None and phase == "body":
                # Over TLS there are copies to make, and of larger blocks malloc may return the
                # memory after each.
                plain = self._wire is self.transport
                self._wire.expect(self._inbox.body_left if plain else 0)
            if self._ending.due:
                self._ending.answer()
                self._end_of_input()
            return
        inbox = self._inbox
        if inbox.full:
            self._clock.stand()
            self._networkProducer.pauseProducing()
            self._paused = self.context.paused.add(self.transport, self._client_gone)
        elif inbox.phase == "idle" or inbox.buffered:
            self._clock.answering()  # input waits for us, not for the client
        else:
            self._clock.waiting(inbox.phase)

    def _read_again(self) -> None:
        """Reading is resumed, or there is nothing left to read from."""
        if self._clock.stood_at is not None:
            self.context.paused.remove(self._paused)
            self._paused = None
            self._clock.go_on()

    def _act(self, event: Event) -> None:
        if isinstance(event, RequestHead):
            self._look_at(event)
            self._head_received(self._new_request(), event)
        elif isinstance(event, BodyData):
            request = self.requests[-1]
            request.handleContentChunk(event.data)
            self._gathered = request._hangup_gathered
        else:
            self._note_message_read()
            self._gathered = None
            if self._wire is not None:
                self._wire.expected = None
            if self._streamed is not None:
                self._body_complete()
            self._run()

    def _note_message_read(self) -> None:
        """A message is complete: the next one gets its own time, unless it has begun."""
        if self._inbox.phase == "idle":
            self._clock.message_complete()

    def _look_at(self, head: RequestHead) -> HeadersCache:
        """The message of *head* is the one to be answered; look at its header."""
        self._head = head
        if (undelivered := self._undelivered) is not None and undelivered.undelivered:
            undelivered.mark()
            if len(undelivered.undelivered) % _SENT_TOGETHER == 0 and self._meter is not None:
                self._meter.send_early()
        headers = self._headers
        if headers is None:
            headers = self._headers = HeadersCache()
        if head.fields is not headers.looked_at:
            headers.look_at(head.fields)
        return headers

    def _new_request(self) -> Any:
        request = self.requestFactory(self, len(self.requests))
        self.requests.append(request)
        return request

    def _head_received(self, request: Any, head: RequestHead) -> None:
        headers = self._headers
        assert headers is not None
        if isinstance(request, LeanRequest):
            LeanRequest.set_fields(request, head.fields, headers)
        else:
            headers.give(request, head.fields)
        self._command = head.method
        self._path = head.target
        self._version = b"HTTP/1.1" if head.version == b"1.1" else b"HTTP/1.0"
        self.length = None if head.chunked else head.content_length or 0
        status = unserved_status(head, headers.expectation_known)
        if status is None:
            self.allHeadersReceived()
        else:
            self.refuse_request(request, status)

    def _run(self) -> None:
        """Tell the request that it is complete."""
        self._handlingRequest = True
        transport = self.transport
        self.allContentReceived()
        if self._after_upgrade or self.transport is None:
            self.rendered(transport)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, instead in _REPLACED.items():
            if getattr(cls, name) != getattr(HTTPChannel, name):
                warnings.warn(
                    f"{cls.__name__}.{name} has no effect here: give the site {instead}",
                    stacklevel=2,
                )
        cls.writes_whole_responses = (
            cls.writeHeaders is HangupChannel.writeHeaders
            and cls.write is HTTPChannel.write
            and cls.writeSequence is HTTPChannel.writeSequence
        )
        cls.takes_whole_requests = (
            cls.allHeadersReceived is HangupChannel.allHeadersReceived
            and cls.checkPersistence is HangupChannel.checkPersistence
            and cls.allContentReceived is HangupChannel.allContentReceived
        )

    # What a request asks of its carrier: see `twisted_hangup.server.request.Carrier`.

    #: None: there is one body at a time, which has its own bound.
    bodies = None
    writes_whole_responses = True

    #: Whether nothing needs to be called between a head and its resource.
    takes_whole_requests = True

    @property
    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the last request."""
        head = self._head
        assert head is not None
        return head.method, head.target, b"HTTP/" + head.version

    def unsent(self, request: Any) -> int:
        """How many bytes of the response of *request*, the running one, are not sent yet."""
        meter = self._meter
        return meter.unsent if meter is not None else int(has_unsent(self.transport))

    def deliver(self, request: Any) -> None:
        """Log *request*, which is over, once all that was written has been sent."""
        meter, undelivered = self._meter, self._undelivered
        if meter is None or not (meter.sending or meter.unsent):
            if undelivered is not None and undelivered.undelivered:
                undelivered.log_all()  # those before it: a file has been sent in the same step
            log(request, self)
            return
        if undelivered is None:
            assert self._wire is not None
            undelivered = self._wire.deliveries = self._undelivered = Undelivered(meter)
        undelivered.undelivered.append((request, self))

    @property
    def backed_up(self) -> bool:
        """Whether the client reads more slowly than we write."""
        return bool(self._waitingForTransport)

    def rendered(self, transport: Any) -> None:
        """A resource was rendered, and may have given the connection to another protocol.

        That protocol then gets the bytes after the request, once the resource's output is sent.

        Args:
            transport: Our transport before the resource was rendered.
        """
        heir: Any = self  # Twisted's websockets replace dataReceived on this instance
        if self.transport is None:
            # autobahn takes the transport away and puts its protocol on top of it.
            heir = transport if isinstance(transport, ProtocolWrapper) else transport.protocol
            heir = protocol_within(heir)
            self._upgraded()
        rest, self._after_upgrade = self._after_upgrade, ()
        for data in rest:
            heir.dataReceived(data)
        if self.heir is not None and self._ending.input_over:
            self.readConnectionLost()

    def refuse_request(self, request: Any, status: int) -> None:
        """Answer a well-formed request that no resource may see, and close."""
        self.persistent = False
        self._handlingRequest = True
        request.refuse(status)

    def refuse_form(self, why: Why) -> None:
        """The running request's form cannot be read: report a client error."""
        # The running request is itself the broken message.
        self._handlingRequest = False
        self._inbox.close()
        error_class = PARSE_ERRORS.get(why.code, ParseError)
        self._fail(
            error_class(
                why.reason,
                code=why.code,
                phase="body",
                request=self._head,
                field=b"Content-Type",
            )
        )

    def request_failed(self, failure: Failure) -> None:
        """The running request raised outside of its resource."""
        self._eb_request(failure, END)

    def upgrade(self, protocol: Any) -> None:
        """Give the connection to *protocol*, an `IHalfCloseableProtocol`, as a tunnel.

        `rendered` then gives it the bytes after the request.
        """
        self.heir = protocol
        self._protocolUpgradeForWebsockets(protocol)

    def tunnel_lost(self) -> None:
        """The tunnel has ended, and with it the request that had asked for it."""
        requests, self.requests = self.requests, []
        for request in requests:
            request._hangup_let_go()
        self.context.tunnel_lost(self)

    def streaming(self, request: Any) -> None:
        """The resource of *request* is about to be asked, though its body is still coming.

        A response that is complete before that is the last one: the rest of the body, which
        nobody reads any more, is in the way of the next request.
        """
        self._streamed = request
        if self._wire is not None:
            self._wire.bufferSize = LARGE_READ
        self.persistent = False
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])

    def pause_body(self) -> None:
        """Read no more of the body until `resume_body`; the client's time stands."""
        self._clock.stand()
        self._networkProducer.pauseProducing()
        self._paused = self.context.paused.add(self.transport, self._client_gone)

    def resume_body(self) -> None:
        """Read on."""
        if self._streamed is not None:
            self._read_again()
            self._networkProducer.resumeProducing()
            self._go_on()

    @property
    def _body_paused(self) -> bool:
        """Whether whoever takes the body of the running request has enough of it for now."""
        return self._streamed is not None and bool(self._streamed._hangup_streamed.paused)

    def _body_complete(self) -> None:
        """The request that is being answered is complete: others may follow it."""
        request, self._streamed = self._streamed, None
        if self._wire is not None:
            del self._wire.bufferSize
        if not request.startedWriting:
            request.responseHeaders.removeHeader(b"Connection")
            self.persistent = self.checkPersistence(request, self._version)

    def cut_response(self, request: Any) -> None:
        """Break off *request*'s response so that the client sees that it is incomplete.

        If the response has a length or is chunked, the client sees it, and what was written is
        still sent.  A response that ends with the connection needs a reset.
        """
        self._inbox.close()
        socket = self._ending.open_socket()
        if request.chunked or request.responseHeaders.hasHeader(b"Content-Length"):
            socket.end()
        else:
            socket.destroy()
        self.requests.remove(request)
        request.connectionLost(Failure(ConnectionAborted("the response was cut short")))
        self._stop_producers()  # after that: what finishes now would look complete

    def _upgraded(self) -> None:
        """Another protocol has the connection."""
        if self._stage is LEFT:
            return
        for request in self.requests:
            request.log_access(SWITCHING)
        self._after_upgrade = self._inbox.unread()
        self.leave()
        # As its producer we would pause reading for the new protocol, keep it from having
        # a producer of its own, and keep TLS from closing.
        producer: Any = self._networkProducer
        producer.resumeProducing()
        producer.unregisterProducer()

    # Called by Twisted while it drives a request.

    def allHeadersReceived(self) -> None:
        """The head of a request is complete; Twisted's method is for requests with Expect."""
        assert self._headers is not None
        if self._headers.expects:
            super().allHeadersReceived()
            return
        request = self.requests[-1]
        request.parseCookies()
        self.persistent = self.checkPersistence(request, self._version)
        request.gotLength(self.length)

    def allContentReceived(self) -> None:
        """A request is complete; as Twisted's, which then resets its own parser."""
        self.length = 0
        if self.timeOut:
            self._savedTimeOut = self.setTimeout(None)
        self._handlingRequest = True
        self.requests[-1].requestReceived(self._command, self._path, self._version)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Whether the connection may outlive the response (RFC 9112, section 9.3)."""
        assert self._head is not None
        if not self._persists(self._head):
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            return False
        # As in Twisted: an HTTP/1.0 response may have to end with the connection.
        return version == b"HTTP/1.1"

    def _persists(self, head: RequestHead) -> bool:
        return self._stage <= OPEN and head.keep_alive and not self.context.retired

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """Write a response head in one piece: the transport checks each piece it is given."""
        if isinstance(headers, Headers):
            self.transport.write(response_head(version, code, reason, headers))
        else:
            super().writeHeaders(version, code, reason, headers)

    def requestDone(self, request: Any) -> None:
        """A response is finished: go on to the next message."""
        wire, transport = self._wire, self.transport
        if (
            wire is not None
            and transport is not None
            and not (wire.reading_paused or transport.disconnecting or self._waitingForTransport)
            and not self._savedTimeOut
            and self.requests[0] is request
        ):
            del self.requests[0]
            if not self.persistent:
                self.loseConnection()
                return
            self._handlingRequest = False
            if not self._pumping:  # else the loop goes on
                self.setLineMode(b"")
        else:
            super().requestDone(request)

    def setLineMode(self, extra: bytes = b"") -> None:
        """requestDone() calls this when a response is finished: go on to the next message."""
        self._read_again()
        self._go_on()

    def pauseProducing(self) -> None:
        """The client reads more slowly than we write."""
        if self._streamed is None:
            super().pauseProducing()
        else:  # a client may read its response only after it has sent its body
            self._waitingForTransport = True
            if self._requestProducer is not None:
                self._requestProducer.pauseProducing()
        self.watch_sending()

    def resumeProducing(self) -> None:
        """The client has read what was written: go on with its next request."""
        if self._send_watch is not None:
            self._send_watch.stop()  # first: a producer may fill the buffer again at once
        if self._body_paused:
            self._waitingForTransport = False
            if self._requestProducer is not None:
                self._requestProducer.resumeProducing()
            return
        self._read_again()
        super().resumeProducing()
        self._go_on()

    def _protocolUpgradeForWebsockets(self, protocol: Any) -> None:
        super()._protocolUpgradeForWebsockets(protocol)
        self._upgraded()

    # Closing.

    def retire(self) -> None:
        """Let the next response be the last one, as `checkPersistence` does from now on."""
        if self.requests and not self.requests[-1].startedWriting:
            self.persistent = False
            self.requests[-1].responseHeaders.setRawHeaders(b"Connection", [b"close"])

    def close_when_done(self) -> None:
        """Read no further request; close once the running one is answered."""
        if self._stage >= CLOSING or not self._ending.open:
            return  # closing already
        self._rise(LAST)
        self.persistent = False
        if self._handlingRequest:
            self._inbox.close()
        elif self._inbox.phase == "idle":
            self._ending.open_socket().part()

    def make_room(self) -> None:
        """Hang up at once: all places are taken, and this connection waits for its client."""
        idle = self._clock.idle
        self._inbox.close()
        socket = self._ending.open_socket()
        socket.part() if idle else socket.destroy()

    def loseConnection(self) -> None:
        """Close so that the client can read all that was written; see `ClientSocket.end`."""
        if self._stage is not LEFT:
            self._inbox.close()
            self._ending.open_socket().end()

    def preamble_failed(self, error: ClientError, transport: Any) -> None:
        """Answer a failed PROXY header or TLS handshake; see `IPreambleListener`."""
        self._ending.preempt(error, transport)

    # What `Ending` asks of its carrier.

    socket_class = ClientSocket
    counts_lingering = True

    def closing_with(self, socket: ClientSocket) -> None:
        """Ignore further input and stop requests: only *socket* uses the connection from now on."""
        new = self._stage is NEW
        self._rise(CLOSING)
        self._streamed = self._gathered = None
        if self._wire is not None:
            self._wire.expected = None
        self._read_again()
        self._clock.stop()
        for request in self.requests:
            if not request.process_begun:
                request.drop_body()
        if new and getattr(self.transport, "negotiatedProtocol", None) == b"h2":
            socket.peer_left()  # this client cannot read an answer in HTTP/1.1

    def answering_with(self, socket: ClientSocket, error: ClientError) -> None:
        """The errback chain is about to get *socket*."""
        if self._undelivered is not None:
            self._undelivered.mark()
        if socket.secure and error.phase == "handshake":
            socket.peer_left()  # the client could not read an answer yet
        if self.requests:
            socket.headers_sent = bool(self.requests[-1].startedWriting)

    def release_transport(self) -> None:
        """Unregister as producer: until then a transport does not close."""
        producer: Any = self._networkProducer
        producer.unregisterProducer()

    def watch_sending(self) -> None:
        """More waits to be sent than the client reads."""
        if self._send_watch is None:
            self._send_watch = self.context.send_watch(self.transport, self._stalled)
        self._send_watch.start()

    # What goes wrong.

    def _fail(self, error: ClientError) -> None:
        """Record the one client error of this connection, and answer it in its turn."""
        self._ending.found(error)
        self._inbox.drop_incomplete()  # events wait here only while a request is answered
        if self._streamed is not None:
            self._end_streamed(error)
        elif self._answering:
            self._clock.answering()
            self._networkProducer.resumeProducing()  # only to notice when the client leaves
            return
        self._ending.answer()

    def _end_of_input(self) -> None:
        """If the client's input has ended, act on what that means here."""
        if not self._ending.input_over or self._stage >= CLOSING:
            return
        if self._answering:
            # The client has still to read its answers, and requests may wait after them.
            if self.context.limits.allow_half_open:
                return
            if (
                self._is_awaited
                or not self._ending.open
                or self._inbox.events_wait
                or self._inbox.buffered
            ):
                self._hung_up(hang_up(HANG_UP, "response", self._head))
            else:
                self._stop_producers()
                self._inbox.close()
                requests, self.requests = self.requests, []
                for request in requests:
                    request.connectionLost(Failure(CONNECTION_DONE))
                self.watch_sending()  # Twisted waits until the kernel has room, to close
                super().loseConnection()
            return
        try:
            self._inbox.finish()
        except ParseError as error:
            self._fail(error)
        else:
            super().loseConnection()

    def _end_streamed(self, error: ClientError) -> None:
        """The request that is being answered while its body comes is never going to be complete."""
        begun = bool(self._streamed.startedWriting)
        self._ending.open_socket().headers_sent = begun
        self._stop_producers()
        self._abandon_requests(error)

    def _client_gone(self, errno: int) -> None:
        """The client hung up while we had paused reading; *errno* is 0 for a FIN."""
        if not errno and self.context.limits.allow_half_open:
            return  # the end of its input comes after the bytes that are not read yet
        error = hang_up(HANG_UP, self.phase, self._head)
        if errno:
            error = connection_broken(ConnectionBroken(errno, "read"), self.phase, self._head)
        self._hung_up(error)

    def _stalled(self) -> None:
        """The client has read no byte of its response for ``send_seconds``."""
        self._hung_up(hang_up(STALLED, "response", self._head))
        self.transport.abortConnection()

    def _hung_up(self, error: ClientHangUp) -> None:
        """The client has gone, and nobody waits for responses: stop the work and close.

        Args:
            error: The client error, unless there was one before.
        """
        first = self._ending.found(error)
        socket = self._ending.open_socket()
        self._stop_producers()
        self._abandon_requests(first)
        socket.peer_left()
        socket.end()
        self._ending.answer()

    def _abandon_requests(self, error: ClientError) -> None:
        """Tell the requests and the access log that the client has gone."""
        requests, self.requests = self.requests, []
        for request in requests:
            request.client_left(error, told=error.refuses and error.request is self._head)

    def _out_of_time(self) -> None:
        phase, request = self._input_place
        if phase == "handshake":
            begun = preamble_begun(self.transport) is not False
            self._fail(handshake_timeout(begun=begun))
        elif self._clock.in_handshake:
            self._clock.waiting("idle")  # the handshake is over: the request is due
        elif self._clock.idle:
            self.loseConnection()  # idle between messages: a quiet close
        else:
            self._fail(request_timeout(phase, request))

    def _eb_request(self, failure: Failure, event: Event) -> None:
        """A request raised at *event*.  Twisted would drop the connection without a word."""
        request = self.requests[-1] if self.requests else None
        _log.failure("A request failed outside of its resource", failure)
        self._handlingRequest = True  # nothing after it is acted on
        if request is not None and request.startedWriting:
            self.cut_response(request)
        elif request is None and isinstance(event, EndOfMessage):
            self.loseConnection()  # it is answered
        else:
            assert self._head is not None
            bodiless = self._head.method == b"HEAD"
            body = b"" if bodiless else b"The server failed to handle this request.\n"
            self._ending.open_socket().respond(500, body)
            if request is None:  # it could not be made
                request = hangup_class(Request, forwarded=self.context.forwarded)(self, False)
                request.requestHeaders = headers_of(self._head.fields)
            request.log_access(500)
