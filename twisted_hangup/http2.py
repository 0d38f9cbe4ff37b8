"""The promises of `HangupChannel`, for a connection that speaks HTTP/2 (RFC 9113).

What breaks the connection, stalls it or loses it becomes the one `ClientError` of that
connection, and runs down the same errback chain.  What breaks one request is answered on its
stream and recorded, and the other streams do not notice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import FrameTooLargeError, ProtocolError
from hpack import HPACKError, OversizedHeaderListError
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ._h2_frames import FrameWatch
from ._h2_rules import judge_head, judge_trailers, largest_list_bytes, refusal
from ._h2_sending import SendingConnection
from ._h2_stream import HangupStream
from ._loss import reason_of_loss
from ._refusals import END_OF_INPUT
from .channel import HangupChannel
from .client_socket import ClientSocket
from .deadlines import Deadline
from .errbacks import Settlement
from .errors import ClientError, ClientHangUp, HTTP2Error, Phase, RequestTimeout
from .events import RequestHead
from .request import hangup_factory

#: Streams that a client may reset at once, and per second from then on: the defence against
#: Rapid Reset (CVE-2023-44487), with the numbers of Twisted 26.10.
_RESETS_AT_ONCE: Final = 1000
_RESETS_PER_SECOND: Final = 33

#: Most characters of h2's words in an error.
_MOST_WORDS: Final = 200


class HangupHTTP2(SendingConnection):
    """A connection that has negotiated HTTP/2.

    Args:
        channel: The channel that the connection began with.  Its ``client_error`` is called
            for the one client error of the connection, with a socket that is not writable:
            what a handler writes would end up between frames.
        reactor: For the next turn, not for timers.
    """

    requestFactory: Any
    site: Any
    factory: Any

    _error: ClientError | None = None
    _socket: ClientSocket | None = None
    _settled = False
    #: Whether nothing is acted on any more.
    _over = False
    #: Whether no further request is taken.
    _last = False
    _last_stream_id = 0
    _timed_block = 0

    def __init__(self, channel: HangupChannel, reactor: Any) -> None:
        super().__init__(channel.hangups, reactor)
        self._hook = channel.client_error
        self._peer, self._host = channel.getPeer(), channel.getHost()
        self._frames = FrameWatch()
        self._idle_clock = Deadline(self._idle_for_long)
        self._block_clock = Deadline(self._block_dribbles)
        self._resets_left = float(_RESETS_AT_ONCE)
        self._reset_at = 0.0

    # What the transport tells.

    def connectionMade(self) -> None:
        """Tell the client our settings; it has to send its preface now."""
        self.timeOut = None  # our deadlines replace the timer that every frame resets
        self.requestFactory = hangup_factory(self.requestFactory)
        self.hangups.joined(self)
        super().connectionMade()
        self._set(self._idle_clock, self.hangups.timeouts.head_seconds)

    def dataReceived(self, data: bytes) -> None:
        """Act on the frames in *data*, unless the connection is being closed."""
        if self._over:
            if self._socket is not None:
                self._socket.dropped(len(data))
            return
        frames = self._frames
        in_preface, blocks, had_block = frames.preface_left, frames.blocks, frames.in_block
        frames.feed(data)
        try:
            received = self.conn.receive_data(data)
            most = self.conn.max_inbound_frame_size
            if frames.largest > most:
                raise FrameTooLargeError(
                    f"A frame of {frames.largest} bytes, where {most} are most"
                )
        except ProtocolError as error:
            # What came before it in this same read has not been begun, and is not.
            had_block = had_block or frames.blocks > blocks
            self._break(_code_of(error), _words_of(error), had_block)
            return
        for event in received:
            act = self._ACTS.get(type(event))
            if act is not None:
                act(self, event)
            if self._over:
                return
        self._tryToWriteControlData()
        self._watch_input(bool(in_preface))

    def stopProducing(self) -> None:
        """The transport has gone; `connectionLost` will tell why."""
        self._stillProducing = False

    def connectionLost(self, reason: Failure = connectionDone, _cancel: bool = True) -> None:
        """Settle what is open: running requests, a lost client."""
        self._stillProducing = False
        lost = self._error is None and self._socket is None
        error = self._error_of(reason) if lost else None
        if error is not None:
            self._record(error)
            self._abandon(error)
        for stream in list(self.streams.values()):
            stream.lost(reason)
            self._requestDone(stream.streamID)
        self._stop_clocks()
        if self._send_watch is not None:
            self._send_watch.forget()
        if error is not None:
            self._client_socket()
        self.hangups.left(self)
        if self._socket is not None:
            self._socket.connection_lost()
            self._tell_settled()
        if error is not None:
            self._settle(error)

    def getPeer(self) -> Any:
        """The client's address, made once per connection and not per request."""
        return self._peer

    def getHost(self) -> Any:
        """The address the client connected to."""
        return self._host

    @property
    def phase(self) -> Phase:
        """How far the request is that has come furthest."""
        if any(stream.complete for stream in self.streams.values()):
            return "response"
        if self.streams:
            return "body"
        return "head" if self._frames.in_block else "idle"

    # Frames.

    def _requestReceived(self, event: Any) -> None:
        stream_id = event.stream_id
        if self._last:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._last_stream_id = stream_id
        head, error = judge_head(event.headers, self.hangups.limits)
        bodiless = event.stream_ended is not None
        if error is None and bodiless and head.content_length:
            error = refusal(END_OF_INPUT, head, b"content-length", "body")
        if error is not None:
            self.refuse_stream(stream_id, error)
            return
        stream = HangupStream(stream_id, self, head, bodiless)
        self.streams[stream_id] = stream
        self._streamCleanupCallbacks[stream_id] = Deferred()
        self._outboundStreamQueues[stream_id] = deque()
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        self._idle_clock.due = inf
        if not bodiless:
            self._set(stream.deadline, self.hangups.timeouts.request_seconds)
        stream.begin()

    def _trailers_received(self, event: Any) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            error = judge_trailers(event.headers, stream.head, self.hangups.limits)
            if error is not None:
                self.refuse_stream(event.stream_id, error)

    def _requestDataReceived(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestDataReceived(event)
        else:  # it still takes of the connection's window
            self.openStreamWindow(event.stream_id, event.flow_controlled_length)

    def _requestEnded(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestEnded(event)

    def _requestAborted(self, event: Any) -> None:
        """The client does not want this response any more; that alone is no client error."""
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            self.hangups.journal.stream_resets += 1
            error = self._gone(f"Stream reset: {_name_of(event.error_code)}", stream)
            stream.client_left(self._known(error))
            self._requestDone(event.stream_id)
        now = self.hangups.deadlines.seconds()
        # A clock that is set back must not take what a well-behaved client has left.
        refilled = self._resets_left + max(0.0, now - self._reset_at) * _RESETS_PER_SECOND
        self._resets_left = min(float(_RESETS_AT_ONCE), refilled) - 1
        self._reset_at = now
        if self._resets_left < 0:
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Too many stream resets")

    def _windows_changed(self, event: Any) -> None:
        self._windows_opened(list(self.streams))

    def _client_going_away(self, event: Any) -> None:
        """The client's GOAWAY: it opens no stream any more (RFC 9113, section 6.8)."""
        if event.error_code == ErrorCodes.NO_ERROR or not self.streams:
            self.close_when_done()
            return
        stream = self._furthest()
        self._fail(self._gone(f"GOAWAY: {_name_of(event.error_code)}", stream))

    _ACTS: Final[dict[type[Any], Callable[[HangupHTTP2, Any], None]]] = {
        events.RequestReceived: _requestReceived,
        events.TrailersReceived: _trailers_received,
        events.DataReceived: _requestDataReceived,
        events.StreamEnded: _requestEnded,
        events.StreamReset: _requestAborted,
        events.WindowUpdated: SendingConnection._handleWindowUpdate,
        events.RemoteSettingsChanged: _windows_changed,
        events.ConnectionTerminated: _client_going_away,
    }

    # Streams.

    def refuse_stream(self, stream_id: int, error: ClientError) -> None:
        """Answer one request with the status of *error*, and let no resource see it."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.answered:
            return  # 417 or 501 is on its way already
        journal = self.hangups.journal
        journal.record(self._known(error))
        fields = [(b":status", b"%d" % (error.status or 400)), (b"content-length", b"0")]
        self.conn.send_headers(stream_id, fields, end_stream=True)
        # What more comes of the request is not wanted (RFC 9113, section 8.1).
        self._reset(stream_id, ErrorCodes.NO_ERROR)
        self._tryToWriteControlData()
        journal.settle(error, error.status)
        self._end_stream(stream_id, error)

    def stream_out_of_time(self, stream: HangupStream) -> None:
        """The client took too long to send this one request."""
        self.refuse_stream(stream.streamID, self._too_late("body", stream.head))

    def abort_stream(self, stream: HangupStream) -> None:
        """Break one response off; what waits of it is not sent."""
        self._reset(stream.streamID, ErrorCodes.INTERNAL_ERROR)
        self._tryToWriteControlData()
        self._requestDone(stream.streamID)

    def _stream_stalled(self, stream: Any) -> None:
        """Its client has given this one response no window for ``send_seconds``."""
        error = self._known(self._gone("write ETIMEDOUT", stream, "ETIMEDOUT"))
        self.hangups.journal.record(error)
        self.hangups.journal.settle(error, None)
        self._reset(stream.streamID, ErrorCodes.CANCEL)
        self._tryToWriteControlData()
        self._end_stream(stream.streamID, error)

    def _stream_sent(self, stream_id: int) -> None:
        """The end of a response is with the transport."""
        if not self.streams[stream_id].complete:
            self._reset(stream_id, ErrorCodes.NO_ERROR)
            self._tryToWriteControlData()
        self._requestDone(stream_id)

    def _end_stream(self, stream_id: int, error: ClientError) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.client_left(error)
            self._requestDone(stream_id)

    def _requestDone(self, streamID: int) -> None:
        """Forget a stream, and be idle after the last one."""
        stream = self.streams[streamID]
        self.hangups.deadlines.forget(stream.deadline)
        unread = stream.unread_bytes
        super()._requestDone(streamID)
        if self._over or not self._stillProducing:
            return
        if unread:
            self.openStreamWindow(streamID, unread)
        if not self.streams:
            if self._last:
                self._client_socket().end()
            else:
                self._set(self._idle_clock, self.hangups.timeouts.keep_alive_seconds)

    # Closing.

    def close_when_done(self) -> None:
        """Take no further request; close once those that have begun are answered."""
        if self._over or self._last:
            return
        self._last = True
        self.conn.close_connection(ErrorCodes.NO_ERROR, last_stream_id=self._last_stream_id)
        self._tryToWriteControlData()
        if not self.streams:
            self._client_socket().end()

    def _client_socket(self) -> ClientSocket:
        """The connection as a handler gets it; from now on nothing is parsed or run."""
        if self._socket is None:
            self._over = True
            self._stillProducing = False
            self._stop_clocks()
            for data in self._bufferedControlFrames:
                self.transport.write(data)
            hangups = self.hangups
            self._socket = ClientSocket(
                self.transport,
                self._peer,
                self._host,
                hangups.deadlines,
                hangups.limits,
                hangups.timeouts,
                self._closing,
                self._watch_sending,
            )
            self._socket.peer_left()  # not writable: there are frames on this connection
        return self._socket

    def _closing(self) -> None:
        # A transport with a producer does not close before the producer has gone.
        self.transport.unregisterProducer()
        self._tell_settled()

    def _tell_settled(self) -> None:
        if self._error is not None and not self._settled:
            self._settled = True
            self.hangups.journal.settle(self._error, None)

    # What goes wrong.

    def _break(self, code: ErrorCodes, words: str, in_head: bool = False) -> None:
        """A connection error (RFC 9113, section 5.4.1)."""
        stream = self._furthest()
        phase: Phase = "head" if in_head and not self.streams else self.phase
        error = HTTP2Error(
            words, code=f"ERR_HTTP2_{code.name}", phase=phase, request=stream and stream.head
        )
        self._go_away(code, error)

    def _go_away(self, code: ErrorCodes, error: ClientError) -> None:
        self.conn.clear_outbound_data_buffer()  # h2's own GOAWAY: not always the right one
        self.conn.close_connection(code, last_stream_id=self._last_stream_id)
        self._bufferedControlFrames.append(self.conn.data_to_send())
        self._fail(error)

    def _fail(self, error: ClientError) -> None:
        """The one client error of this connection: stop the work, settle it, close."""
        self._record(error)
        self._client_socket()
        self._abandon(error)
        self._settle(error)

    def _record(self, error: ClientError) -> None:
        self._error = self._known(error)
        self.hangups.journal.record(error)

    def _known(self, error: ClientError) -> ClientError:
        # It outlives the connection, which its traceback would keep alive.
        error.__traceback__ = error.__context__ = None
        error.peer = self._peer
        error.masking = self.hangups.masking
        return error

    def _settle(self, error: ClientError) -> None:
        settlement = Settlement(error, self._client_socket(), self.hangups.deadlines)
        settlement.start(self._hook, self.hangups.timeouts.handler_seconds)

    def _abandon(self, error: ClientError) -> None:
        for stream_id in list(self.streams):
            self._end_stream(stream_id, error)

    def _furthest(self) -> Any:
        """The oldest stream of those that the phase is told of; None without streams."""
        streams = list(self.streams.values())
        complete = [stream for stream in streams if stream.complete]
        return next(iter(complete or streams), None)

    def _gone(self, words: str, stream: Any, code: str = "ECONNRESET") -> ClientHangUp:
        phase: Phase = "response" if stream.complete else "body"
        return ClientHangUp(words, code=code, phase=phase, request=stream.head)

    def _error_of(self, reason: Failure) -> ClientError | None:
        """What the loss of the connection says about the client."""
        if self.transport.disconnecting:
            return None  # aborted by us, or closed by the application
        phase, stream = self.phase, self._furthest()
        # Whatever is unfinished, there is nothing that could still be answered: as in a
        # response, the client has hung up.
        as_if: Phase = "idle" if phase == "idle" else "response"
        error = reason_of_loss(reason, self.transport, as_if, lambda: None)
        if error is not None:
            error.phase = phase
            error.request = stream and stream.head
        return error

    def _stalled(self) -> None:
        """The client has taken nothing for ``send_seconds``."""
        if not self._over:
            stream = self._furthest()
            request = stream and stream.head
            self._fail(
                ClientHangUp("write ETIMEDOUT", code="ETIMEDOUT", phase=self.phase, request=request)
            )
        self.transport.abortConnection()

    def _too_much_waits(self) -> None:
        if not self._over:
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Too many control frames wait to be read")

    # Deadlines.

    def _set(self, deadline: Deadline, seconds: float) -> None:
        if seconds:
            deadlines = self.hangups.deadlines
            deadlines.set(deadline, deadlines.seconds() + seconds)
        else:
            deadline.due = inf

    def _watch_input(self, in_preface: bool) -> None:
        """Set the deadlines that fit where the input stands."""
        frames = self._frames
        if in_preface and not frames.preface_left and not self.streams:
            self._set(self._idle_clock, self.hangups.timeouts.keep_alive_seconds)
        if not frames.in_block:
            self._block_clock.due = inf
        elif frames.block_bytes > largest_list_bytes(self.hangups.limits):
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Header block too large")
        elif frames.blocks != self._timed_block:
            self._timed_block = frames.blocks
            self._set(self._block_clock, self.hangups.timeouts.head_seconds)

    def _stop_clocks(self) -> None:
        for clock in (self._idle_clock, self._block_clock, self._window_clock):
            self.hangups.deadlines.forget(clock)

    def _idle_for_long(self) -> None:
        if self._frames.preface_left:
            self._go_away(ErrorCodes.NO_ERROR, self._too_late("idle", None))
        elif self._frames.in_block:
            self._idle_clock.due = inf  # the deadline of the block is the one that counts
        else:
            self.close_when_done()

    def _block_dribbles(self) -> None:
        self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Header block not complete in time")

    def _too_late(self, phase: Phase, head: RequestHead | None) -> RequestTimeout:
        return RequestTimeout(
            "Request timeout", code="ERR_HTTP_REQUEST_TIMEOUT", phase=phase, request=head
        )


def _code_of(error: ProtocolError) -> ErrorCodes:
    cause = error.__cause__
    if isinstance(cause, HPACKError) and not isinstance(cause, OversizedHeaderListError):
        return ErrorCodes.COMPRESSION_ERROR  # RFC 9113, section 4.3; h2 has it otherwise
    return ErrorCodes(error.error_code)


def _words_of(error: ProtocolError) -> str:
    words = str(error)[:_MOST_WORDS]
    return words if " " in words else f"{type(error).__name__} {words}".strip()


def _name_of(code: int) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)
