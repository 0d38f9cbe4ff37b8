"""A stream whose request, or the rest of it, is refused: it sends an answer, and ends.

The answer ends the stream for us, without a reset: curl, and some browsers, drop an answer that
they read together with a reset.  The rest of the request is read and dropped, as in the lingering
close of HTTP/1.1.  A reset with NO_ERROR (RFC 9113, section 8.1) comes only once the client has had
its time to read.
"""

from __future__ import annotations

from math import inf
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

#: The status of a malformed request; one over a limit has the status of its code.
_MALFORMED: Final = 400


class StreamSocket(ClientSocket):
    """The `ClientSocket` of a refused HTTP/2 stream: it ends the stream, not the connection.

    A handler cannot send bytes as they are, because HTTP/2 sends frames: `write`, and `end` with
    data, raise TypeError while the stream is writable.  Use `respond`.
    """

    __slots__ = ()

    def __init__(self, transport: RefusedStream, **arguments: Any) -> None:
        super().__init__(transport, **arguments)
        self.secure = transport.secure

    @property
    def takes_bytes(self) -> bool:
        """True once no answer can be sent any more: bytes are then dropped, as any answer is."""
        return self.headers_sent or not self.writable

    def respond(self, status: int, body: bytes = b"", headers: ResponseFields = ()) -> None:
        """Send a complete response and `end` the stream; see `ClientSocket.respond`."""
        self._send(status, handler_fields(status, body, headers), body)

    def respond_by_default(self, status: int) -> None:
        """Send the default answer to the error, and `end` the stream."""
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
    """A stream whose request is not read any more: the carrier of an `Ending`, and its transport.

    It replaces a `HangupStream` among the streams of its connection.

    Args:
        complete: Whether the whole request has arrived.
        begun: Whether its response has begun; it is then broken off.

    Attributes:
        ending: Its end, with its one error, or with none if its resource has answered.
        queued: Bytes of the answer that wait to be sent.
        waiting_since: When the client last took some of them, or the first were queued.
        output_end: Where its last frame so far ends in the connection's output.
        arrived_at: When we first saw that the client has it; inf until then, if the kernel held it.
        sent: Whether the connection's transport has a complete response.
    """

    socket_class: type[ClientSocket] = StreamSocket
    counts_lingering = False
    #: None: HTTP/2 has no request line.
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
        self.arrived_at = -inf
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
        """Whether the connection uses TLS."""
        return bool(ISSLTransport.providedBy(self._conn.transport))

    def found(self, error: ClientError) -> None:
        """Record the one error of this stream; `answer` starts its chain later."""
        if isinstance(error, ParseError) and error.status == _MALFORMED:
            self._code = ErrorCodes.PROTOCOL_ERROR  # RFC 9113, section 8.1.1
        self.ending.found(error)

    def answer(self) -> None:
        """Start the errback chain of that error."""
        chain = self.ending.answer()
        if chain is not None:
            # Neither the stream nor its connection: the chain would keep them alive.
            at_work, stream_id = self._conn.at_work, self.streamID
            at_work.add(stream_id)
            chain.addBoth(lambda _: at_work.discard(stream_id))

    def linger(self) -> None:
        """The response was sent before the request was complete: drop the rest of the request."""
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
        """Nothing to do: the request was not read any more since it was refused."""

    def answering_with(self, socket: ClientSocket, error: ClientError) -> None:
        """The errback chain is about to get *socket*."""
        socket.headers_sent = self._begun

    def release_transport(self) -> None:
        """Nothing to do: a stream closes even with a producer."""

    def watch_sending(self) -> None:
        """Nothing to do: the connection watches the windows of all its streams."""

    # What `ClientSocket` asks of a transport.

    def respond(self, status: int, fields: list[Field], body: bytes) -> None:
        """Send a complete response, without the headers that HTTP/2 forbids."""
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
        """Raise TypeError: the bytes would end up between frames."""
        raise TypeError("bytes cannot be sent as they are over HTTP/2: answer with respond()")

    def resumeProducing(self) -> None:
        """Nothing to do: the stream is always read, and its input dropped."""

    def loseWriteConnection(self) -> None:
        """Send no more.  Without an answer, the client has nothing to read: close."""
        if not self._answered:
            self.abortConnection()

    def loseConnection(self) -> None:
        """Close once the answer has been sent."""
        if self.sent or not self._answered:
            self.abortConnection()

    def abortConnection(self) -> None:
        """Close now, with a reset if the client has not ended its request."""
        self._conn.reset_stream(self.streamID, ErrorCodes.NO_ERROR if self.sent else self._code)
        self._gone()

    def connectionLost(self, reason: Failure) -> None:
        """Both sides have ended: close."""
        self.abortConnection()

    # Called by the connection.

    def response_sent(self) -> None:
        """The connection's transport has the end of the answer."""
        self.sent = True
        self._conn.drop_queue(self.streamID)
        if self.complete:
            self.abortConnection()
        else:
            self.ending.flushed()

    def receiveDataChunk(self, data: bytes, flowControlledLength: int) -> None:
        """Drop some bytes of the body; they count as in a lingering close."""
        self._conn.openStreamWindow(self.streamID, flowControlledLength)
        self._dropped += flowControlledLength
        socket = self.ending.open_socket()
        if not socket.ended and self._dropped > self.context.limits.linger_bytes:
            socket.destroy()
        else:
            self.ending.dropped(flowControlledLength)

    def trailers_received(self, fields: list[Field]) -> None:
        """Drop the trailers."""

    def requestComplete(self) -> None:
        """The client has ended its request."""
        self.complete = True
        if self.sent:
            self._conn.nudge()
        self.ending.input_ended()

    def windowUpdated(self) -> None:
        """Nothing to do: the connection sends more of the answer by itself."""

    def flowControlBlocked(self) -> None:
        """Nothing to do: the connection keeps the rest of the answer."""

    def leave_request(self) -> None:
        """Nothing to do: no request holds anything."""

    def was_reset(self, words: str) -> None:
        """The client does not want the answer: it has reset the stream."""
        self._gone()

    def stalled(self) -> None:
        """The client has kept the answer's window closed for ``send_seconds``."""
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
