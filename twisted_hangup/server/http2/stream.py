"""One request over HTTP/2 and its response; for the request it acts as the channel."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Final

from h2.errors import ErrorCodes
from twisted.internet.error import ConnectionAborted
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._http2 import H2Stream
from twisted.web.http_headers import Headers

from ...errors import CLIENT_LEFT, ClientError
from ...events import Field, RequestHead
from ...limits import KIB
from ...parser.framing import unserved_status
from ...parser.refusals import BODY_TOO_LARGE, Why
from ...report.rules import HANG_UP, STALLED
from ...transport.deadlines import Deadline
from ..bodies import BodiesInMemory
from ..context import SiteContext
from ..ending import Place, attributed, hang_up, request_timeout
from ..headers import FieldsOfStreams, headers_of
from ..lean import LeanRequest
from .head import judge_length, judge_trailers, refusal
from .refused import RefusedStream

_FIELDS: Final = FieldsOfStreams()

#: Bytes of a body that waits up to which more are added to the same piece: an object for each would
#: be larger than the window.
_SMALL_PIECE: Final = KIB

_log = Logger()


class HangupStream(H2Stream):
    """A stream whose request is a `HangupRequest`.

    After it has gone, calls of the application do nothing.

    Attributes:
        head: The head of the request.
        complete: Whether the whole request has arrived.
        deadline: By when the request has to be complete.
        queued: Bytes of the response that wait to be sent.
        waiting_since: When the client last took some of them, or the first were queued.
        output_end: Where its last frame so far ends in the connection's output.
        arrived_at: When we first saw that the client has it; inf until then, if the kernel held it.
    """

    _conn: Any
    _request: Any

    def __init__(
        self,
        stream_id: int,
        connection: Any,
        head: RequestHead,
        bodiless: bool,
        request_factory: Callable[..., Any],
    ) -> None:
        self.head = head
        self.complete = False
        self.queued = 0
        self.waiting_since = 0.0
        self.output_end = 0
        self.arrived_at = -inf
        #: A request that is over, until it is logged or waits for its last bytes to be sent.
        self._over: Any = None
        self._bodiless = bodiless
        self._received = 0
        self._has_place = True
        #: Of the time that the client has for its request, while that stands.
        self._time_left = inf
        self.deadline = Deadline(self._out_of_time)
        factory = connection.factory
        super().__init__(stream_id, connection, head, request_factory, connection.site, factory)

    def _convertHeaders(self, head: RequestHead) -> None:
        """Set the attributes of the request that HTTP/1.1 sets."""
        request = self._request
        self.command, self.path = head.method, head.target
        if isinstance(request, LeanRequest):
            LeanRequest.set_fields(request, head.fields, _FIELDS)
        else:
            request.requestHeaders = headers_of(head.fields)
        request.parseCookies()  # first, as over HTTP/1.1, or the header would be read for them
        request.gotLength(0 if self._bodiless else head.content_length)

    def begin(self) -> None:
        """Ask for the body, or refuse a request that no resource may see."""
        status = unserved_status(self.head)
        if status is not None:
            self.refuse_request(self._request, status)
        elif not self._bodiless and any(name == b"expect" for name, _ in self.head.fields):
            self._send100Continue()

    @property
    def answered(self) -> bool:
        """Whether the response is complete, though perhaps not sent yet."""
        return bool(self._request.finished)

    @property
    def delivered(self) -> bool:
        """Whether the client has all of the response except the frame that ends it."""
        return not self.answered and bool(self._request._hangup_delivered)

    @property
    def unread_bytes(self) -> int:
        """Bytes of the body that were not read, as the connection's window counts them."""
        return sum(length or 0 for _, length in self._inboundDataBuffer)

    @property
    def place(self) -> Place:
        """The phase and head of the request."""
        return "response" if self.complete else "body", self.head

    def leave_request(self) -> None:
        """Stop reading the request."""
        self.context.deadlines.forget(self.deadline)
        self._leave_place()
        self.log_over()

    def _leave_place(self) -> None:
        """Release the place of `MoreStreams`; harmless the second time."""
        if self._has_place:
            self._has_place = False
            self._conn.place_left()

    def lost(self, reason: Failure) -> None:
        """The connection has gone, and the client is not to blame."""
        self._stop_producer()
        if not self.answered:
            self._request.connectionLost(reason)

    @property
    def _is_open(self) -> bool:
        return self._conn.streams.get(self.streamID) is self

    # What goes wrong.

    def refuse(self, error: ClientError) -> None:
        """Let the errback chain answer the request; no resource sees it."""
        if not self.answered:  # else 417 or 501 is on its way already
            self._fail(error, begun=bool(self._request.startedWriting))

    def stalled(self) -> None:
        """The client has kept this response's window closed for ``send_seconds``."""
        self._fail(hang_up(STALLED, *self.place), begun=True, client_left=True)

    def was_reset(self, words: str) -> None:
        """The client has reset the stream; *words* say why."""
        error = hang_up(HANG_UP._replace(reason=f"Stream reset: {words}"), *self.place)
        self.end(attributed(error, self._conn.getPeer(), self._conn.context))

    def _fail(self, error: ClientError, begun: bool, client_left: bool = False) -> None:
        """Report *error*, after the stream was forgotten; see `end`."""
        refused = self._refused(begun)
        if self._conn.take_refused(refused, error):
            if client_left:
                refused.ending.open_socket().peer_left()
            self._stop_producer()
            if not self.answered:
                self._request.client_left(error, error.refuses)
            refused.answer()

    def _refused(self, begun: bool) -> RefusedStream:
        return RefusedStream(
            self._conn, self.streamID, self.head, complete=self.complete, begun=begun
        )

    def end(self, error: ClientError, told: bool = False) -> None:
        """Nobody waits for the response any more: stop its producer, and tell the request.

        A finished request is not told, even if its response was not sent yet.

        Args:
            told: Whether the access log has a line for *error* in place of the request.
        """
        if not self._is_open:
            return
        if self._over is not None:
            self._over.code = CLIENT_LEFT
        # First forget it, then tell the request, whose calls then do nothing.
        self._conn._requestDone(self.streamID)
        self._stop_producer()
        if not self.answered:
            self._request.client_left(error, told)

    def _abort(self, reason: Exception) -> None:
        """Break off the response; the bytes that wait are not sent."""
        if self._is_open:
            request = self._request
            self._conn.reset_stream(self.streamID, ErrorCodes.INTERNAL_ERROR)
            self._conn._requestDone(self.streamID)
            self._stop_producer()
            request.connectionLost(Failure(reason))

    def _stop_producer(self) -> None:
        producer = self.producer
        if producer is not None:
            self.unregisterProducer()
            try:
                producer.stopProducing()
            except Exception:
                _log.failure("Could not stop what produces a response")

    # What a request asks of its carrier: see `twisted_hangup.server.request.Carrier`.

    #: False: a producer is paused at the first write that finds no window.
    backed_up = False
    writes_whole_responses = False

    @property
    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the request."""
        return self.head.method, self.head.target, b"HTTP/2"

    @property
    def bodies(self) -> BodiesInMemory:
        """Counts the bodies that all streams of the connection hold in memory."""
        bodies: BodiesInMemory = self._conn.bodies
        return bodies

    @property
    def context(self) -> SiteContext:
        """What all connections of the site share."""
        context: SiteContext = self._conn.context
        return context

    def unsent(self, request: Any) -> int:
        """How many bytes of the response are not sent yet; one stands for a head that waits."""
        conn: Any = self._conn
        unsent: int = self.queued + conn.unsent_before(self.output_end)
        return unsent + int(conn.head_waits(self.streamID))

    def deliver(self, request: Any) -> None:
        """Log *request*, which is over, once its response has been sent."""
        self._over = request
        if not self._is_open:
            self.log_over()

    def log_over(self) -> None:
        """The stream has ended: if its request is over, log it once its frames are sent."""
        request, self._over = self._over, None
        if request is not None:
            request.sentLength = max(0, request.sentLength - self.queued)
            self._conn.log_when_sent(request, self)

    def refuse_form(self, why: Why) -> None:
        """The request's form cannot be read: report a client error."""
        self.refuse(refusal(why, self.head, b"content-type", "body"))

    def refuse_request(self, request: Any, status: int) -> None:
        """Answer a well-formed request that no resource may see."""
        request.refuse(status)

    def rendered(self, transport: Any) -> None:
        """A resource was rendered; a stream cannot be upgraded."""

    def streaming(self, request: Any) -> None:
        """The resource of *request* is about to be asked, though its body is still coming."""

    def pause_body(self) -> None:
        """Give the client no window for more of the body until `resume_body`; its time stands."""
        self.pauseProducing()
        self._time_left = self.deadline.due - self.context.deadlines.seconds()
        self.deadline.due = inf

    def resume_body(self) -> None:
        """Read on."""
        deadlines = self.context.deadlines
        if self._is_open and not self.complete:
            deadlines.set(self.deadline, deadlines.seconds() + self._time_left)
        self.resumeProducing()

    def cut_response(self, request: Any) -> None:
        """Break off the response with a reset, so that the client sees it."""
        self._abort(ConnectionAborted("the response was cut short"))

    # Called by the connection.

    def receiveDataChunk(self, data: bytes, flowControlledLength: int) -> None:
        """Some of the body."""
        self._received += len(data)
        if self.answered:
            self._conn.openStreamWindow(self.streamID, flowControlledLength)
        elif (error := self._refused_body()) is not None:
            self._conn.openStreamWindow(self.streamID, flowControlledLength)
            self.refuse(error)
        elif not self.producing:
            self._keep(data, flowControlledLength)
        else:
            try:
                super().receiveDataChunk(data, flowControlledLength)
            except Exception:
                self.request_failed(Failure())
                self._conn.openStreamWindow(self.streamID, flowControlledLength)

    def _keep(self, data: bytes, length: int) -> None:
        """Keep some of the body until it is taken, of small pieces no more than their bytes."""
        waiting = self._inboundDataBuffer
        if waiting and len(waiting[-1][0]) < _SMALL_PIECE:
            before, length_before = waiting.pop()
            data, length = before + data, length_before + length
        waiting.append((data, length))

    def _refused_body(self) -> ClientError | None:
        """Why the body so far is refused, or None."""
        most = self.context.limits.body_bytes
        if most and self._received > most:
            return refusal(BODY_TOO_LARGE, self.head, None, "body")
        return judge_length(self.head, self._received, ended=self.complete)

    def trailers_received(self, fields: list[Field]) -> None:
        """The trailer section."""
        error = judge_trailers(fields, self.head, self.context.limits)
        if error is not None:
            self.refuse(error)

    def requestComplete(self) -> None:
        """The request is complete: run it, unless its consumer wants to wait."""
        self.complete = True
        self.context.deadlines.forget(self.deadline)
        if self.answered:
            return  # without its body
        error = None if self._bodiless else self._refused_body()
        if error is not None:
            self.refuse(error)
            return
        try:
            super().requestComplete()
        except Exception:
            self.request_failed(Failure())

    def request_failed(self, failure: Failure) -> None:
        """The request raised outside of its resource."""
        _log.failure("A request failed outside of its resource", failure)
        if self._request.startedWriting:
            self.cut_response(self._request)
        else:
            self.refuse_request(self._request, 500)

    def _out_of_time(self) -> None:
        """The client took too long to send this request."""
        self.refuse(request_timeout("body", self.head))

    # Called for its producer.

    def windowUpdated(self) -> None:
        """There is room.  If the producer raises, only its own response is broken off."""
        try:
            super().windowUpdated()
        except Exception:
            _log.failure("Could not go on with a response")
            self.abortConnection()

    # Called by the application.

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Send the head of the response."""
        connection = self._conn
        if self._is_open and connection.can_send(self.streamID):
            fields = [(b":status", code)]
            for name, values in headers.getAllRawHeaders():
                fields += [(name, value) for value in values]
            connection.write_head(self, tuple(fields))

    def requestDone(self, request: Any) -> None:
        """The response is complete, though perhaps not sent yet."""
        self._leave_place()
        super().requestDone(request)

    def response_sent(self) -> None:
        """The end of the response is with the transport."""
        if self.complete:
            self._conn._requestDone(self.streamID)
        else:
            rest = self._refused(begun=True)
            self._conn.replace(rest)
            rest.linger()
        if not self.answered:
            self._stop_producer()
            self._request._hangup_let_go()

    def loseConnection(self) -> None:
        """End the response where all that was announced is written, else break it off.

        Over HTTP/1 the end of the connection shows that something is missing.
        """
        if self._request._hangup_whole:
            super().loseConnection()
        else:
            self.abortConnection()

    def abortConnection(self) -> None:
        """Reset the stream."""
        self._abort(ConnectionAborted("the stream was reset"))

    def resumeProducing(self) -> None:
        """The application takes more of the body."""
        if self._is_open:
            super().resumeProducing()
