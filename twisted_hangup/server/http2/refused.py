"""What is left of a stream whose request, or the rest of it, is refused: an answer, and its end.

The answer ends the stream for us, and no reset comes with it: curl, and browsers in part, drop
an answer that they read together with a reset.  What still comes of the request is dropped, as
in the lingering close of HTTP/1; a reset with NO_ERROR (RFC 9113, section 8.1) comes only once
the client has had its time to read.
"""

from __future__ import annotations

from typing import Any, Final

from h2.errors import ErrorCodes
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure

from ...errors import ClientError, ParseError
from ...events import Field, RequestHead
from ..answers import ResponseFields, handler_fields
from ..client_socket import ClientSocket
from ..context import SiteContext
from ..ending import Ending, Place
from .head import CONNECTION_FIELDS

#: The status of a request that is malformed, as those over a limit are not.
_MALFORMED: Final = 400


class StreamSocket(ClientSocket):
    """A refused stream, as handlers get it: what they do ends the stream, not its connection.

    A response over HTTP/2 is made of frames, so there are no bytes that a handler could send
    as they are: `write`, and `end` with data, raise TypeError while the stream is writable.
    """

    __slots__ = ()

    def __init__(self, transport: RefusedStream, **arguments: Any) -> None:
        super().__init__(transport, **arguments)
        self.secure = transport.secure

    @property
    def takes_bytes(self) -> bool:
        """Whether bytes would be in vain, as any answer would."""
        return self.headers_sent or not self.writable

    def respond(self, status: int, body: bytes = b"", headers: ResponseFields = ()) -> None:
        """Send a whole response and `end` the stream; see `ClientSocket.respond`."""
        self._send(status, handler_fields(status, body, headers), body)

    def respond_by_default(self, status: int) -> None:
        """Send the answer to an error that no handler answers, and `end` the stream."""
        self._send(status, [(b"content-length", b"0")], b"")

    def _send(self, status: int, fields: list[Field], body: bytes) -> None:
        if self.takes_bytes:
            self.end(b"" if self.bytes_written else b"%d" % status)
            return
        stream: Any = self._transport
        content = b"" if self._bodiless else body
        self.status_sent, self.body_bytes = status, len(content)
        self.bytes_written = len(content) + sum(len(name) + len(value) for name, value in fields)
        stream.respond(status, fields, content)
        if self._transport is not None:
            self._close()


class RefusedStream:
    """A stream of which no request is read any more: `Ending`'s carrier, and its transport.

    It takes the place of a `HangupStream` among the streams of its connection.

    Args:
        complete: Whether the request has arrived as a whole.
        begun: Whether its response has begun, which is then broken off.

    Attributes:
        ending: Its end, with its one error, or without any where its resource has answered.
        queued: Bytes of the answer that wait to be sent.
        waiting_since: When the client last took some of them, or the first were queued.
        output_end: Where in the connection's output its last frame so far ends.
        sent: Whether a whole response is with the connection's transport.
    """

    socket_class: type[ClientSocket] = StreamSocket
    counts_lingering = False
    #: There are no lines in HTTP/2.
    request_line_so_far = None
    unread_bytes = 0

    def __init__(
        self,
        connection: Any,
        stream_id: int,
        head: RequestHead,
        *,
        complete: bool,
        begun: bool = False,
    ) -> None:
        self.streamID = stream_id
        self.place: Place = "response" if complete else "body", head
        self.queued = 0
        self.waiting_since = 0.0
        self.output_end = 0
        self.complete = complete
        self.sent = False
        self.context: SiteContext = connection.context
        self.host = connection.host
        self.client_error = connection.client_error
        self.default_client_error = connection.default_client_error
        self._conn = connection
        self._begun = begun
        self._answered = False
        self._dropped = 0
        self._code = ErrorCodes.CANCEL
        self.ending = Ending(self)
        self.ending.input_over = complete

    @property
    def secure(self) -> bool:
        """Whether TLS protects the connection."""
        return bool(ISSLTransport.providedBy(self._conn.transport))

    def found(self, error: ClientError) -> None:
        """Record the one error of this stream; `answer` is its turn."""
        if isinstance(error, ParseError) and error.status == _MALFORMED:
            self._code = ErrorCodes.PROTOCOL_ERROR  # RFC 9113, section 8.1.1
        self.ending.found(error)

    def answer(self) -> None:
        """Start the errback chain of that error."""
        chain = self.ending.answer()
        if chain is not None:
            # Not this stream nor its connection, which the chain would keep when they have gone.
            at_work, stream_id = self._conn.at_work, self.streamID
            at_work.add(stream_id)
            chain.addBoth(lambda _: at_work.discard(stream_id))

    def linger(self) -> None:
        """The response has been sent before the request was complete: drop the rest of that."""
        self._answered = self.sent = True
        self.ending.open_socket().end()

    # What `Ending` asks of its carrier.

    @property
    def transport(self) -> RefusedStream:
        """The stream itself."""
        return self

    def getPeer(self) -> Any:
        """The client's address."""
        return self._conn.getPeer()

    def closing_with(self, socket: ClientSocket) -> None:
        """Nothing has been read of this request since it was refused."""

    def answering_with(self, socket: ClientSocket, error: ClientError) -> None:
        """The errback chain is about to have *socket*."""
        socket.headers_sent = self._begun

    def release_transport(self) -> None:
        """A stream closes whoever produces on it."""

    def watch_sending(self) -> None:
        """The connection watches the windows of all its streams."""

    # What `ClientSocket` asks of a transport.

    def respond(self, status: int, fields: list[Field], body: bytes) -> None:
        """Send a whole response, without what means nothing in HTTP/2."""
        self._answered = True
        lower = [(name.lower(), value) for name, value in fields]
        kept = [field for field in lower if field[0] not in CONNECTION_FIELDS]
        head = [(b":status", b"%d" % status), *kept]
        self._conn.conn.send_headers(self.streamID, head, end_stream=not body)
        self._conn._tryToWriteControlData()
        if body:
            self._conn.writeDataToStream(self.streamID, body)
            self._conn.endRequest(self.streamID)
        else:
            self.sent = True

    def write(self, data: bytes) -> None:
        """Raise TypeError: what a handler writes in HTTP/1 would end up between frames."""
        raise TypeError("bytes cannot be sent as they are over HTTP/2: answer with respond()")

    def resumeProducing(self) -> None:
        """The stream is read, and dropped, from the beginning."""

    def loseWriteConnection(self) -> None:
        """Nothing more is said: without an answer there is nothing to read for the client."""
        if not self._answered:
            self.abortConnection()

    def loseConnection(self) -> None:
        """Close as soon as the answer has been sent."""
        if self.sent or not self._answered:
            self.abortConnection()

    def abortConnection(self) -> None:
        """Close now; a client that has not ended its request is told."""
        self._conn.reset_stream(self.streamID, ErrorCodes.NO_ERROR if self.sent else self._code)
        self._gone()

    def connectionLost(self, reason: Failure) -> None:
        """Both sides have ended: close."""
        self.abortConnection()

    # What the connection tells its streams.

    def response_sent(self) -> None:
        """The end of the answer is with the connection's transport."""
        self.sent = True
        self._conn.drop_queue(self.streamID)
        if self.complete:
            self.abortConnection()
        else:
            self.ending.flushed()

    def receiveDataChunk(self, data: bytes, flowControlledLength: int) -> None:
        """Some of the body, which nobody reads; it counts as in a lingering close."""
        self._conn.openStreamWindow(self.streamID, flowControlledLength)
        self._dropped += flowControlledLength
        socket = self.ending.open_socket()
        if not socket.ended and self._dropped > self.context.limits.linger_bytes:
            socket.destroy()
        else:
            self.ending.dropped(flowControlledLength)

    def trailers_received(self, fields: list[Field]) -> None:
        """They are not read either."""

    def requestComplete(self) -> None:
        """The client has ended its request."""
        self.complete = True
        if self.sent:
            self._conn.nudge()
        self.ending.input_ended()

    def windowUpdated(self) -> None:
        """There is room for more of the answer, which the connection sends by itself."""

    def flowControlBlocked(self) -> None:
        """There is no room for all of the answer, which the connection keeps."""

    def leave_request(self) -> None:
        """There is no request any more that holds anything."""

    def was_reset(self, words: str) -> None:
        """The client does not want the answer."""
        self._gone()

    def stalled(self) -> None:
        """The client has given the answer no window for ``send_seconds``."""
        self.abortConnection()

    def end(self, error: ClientError, told: bool = False) -> None:
        """The connection ends for an *error* of its own."""
        self._gone()

    def lost(self, reason: Failure) -> None:
        """The connection has gone."""
        self.ending.open_socket()
        self.ending.lost()

    def _gone(self) -> None:
        if self._conn.streams.get(self.streamID) is self:
            self._conn._requestDone(self.streamID)
            self.lost(Failure(ConnectionDone()))
