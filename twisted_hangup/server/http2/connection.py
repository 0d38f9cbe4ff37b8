"""The promises of `HangupChannel`, for a connection that speaks HTTP/2 (RFC 9113).

What breaks the connection, stalls it or loses it becomes the one `ClientError` of that
connection, and runs down the same errback chain.  What breaks one request is answered on its
stream and recorded, and the other streams do not notice.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Final

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import FrameTooLargeError, ProtocolError
from hpack import HPACKError, OversizedHeaderListError
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ...errors import ClientError, ClientHangUp, HTTP2Error, Phase
from ...transport.deadlines import Deadline
from ..channel import HangupChannel
from ..client_socket import ClientSocket
from ..ending import reason_of_loss
from ..errbacks import Settlement
from ..request import hangup_factory
from .frames import FrameWatch
from .head import largest_list_bytes
from .requests import RequestsConnection, name_of

#: Most characters of h2's words in an error.
_MOST_WORDS: Final = 200


class HangupHTTP2(RequestsConnection):
    """A connection that has negotiated HTTP/2.

    Args:
        channel: The channel that the connection began with.  Its ``client_error`` is called
            for the one client error of the connection, with a socket that is not writable:
            what a handler writes would end up between frames.
        reactor: For the next turn, not for timers.
    """

    _error: ClientError | None = None
    _socket: ClientSocket | None = None
    _settled = False
    _timed_block = 0

    def __init__(self, channel: HangupChannel, reactor: Any) -> None:
        super().__init__(channel, reactor)
        self._hook = channel.client_error
        self._frames = FrameWatch()
        self._idle_clock = Deadline(self._idle_for_long)
        self._block_clock = Deadline(self._block_dribbles)

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
        self._act_on(received)
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
            self._requestDone(stream.streamID)
            stream.lost(reason)
        self._stop_clocks()
        if self._send_watch is not None:
            self._send_watch.forget()
        if error is not None:
            self._client_socket()
        self.hangups.left(self)
        if self._socket is not None:
            self._socket.connection_lost()
            self.hangups.lingered[self._socket.linger_end] += 1
            self._tell_settled()
        if error is not None:
            self._settle(error)

    @property
    def phase(self) -> Phase:
        """How far the request is that has come furthest."""
        if any(stream.complete for stream in self.streams.values()):
            return "response"
        if self.streams:
            return "body"
        return "head" if self._frames.in_block else "idle"

    # Frames.

    def _act_on(self, received: list[Any]) -> None:
        """Act on the events of one read, until the connection is being closed."""
        # Resets first: h2 has forgotten these streams already, and none of them is begun.
        reset = {event.stream_id for event in received if isinstance(event, events.StreamReset)}
        for event in sorted(received, key=_is_reset, reverse=True) if reset else received:
            if reset and getattr(event, "stream_id", None) in reset and not _is_reset(event):
                self._drop(event)
            elif (act := self._ACTS.get(type(event))) is not None:
                act(self, event)
            if self._over:
                return

    def _client_going_away(self, event: Any) -> None:
        """The client's GOAWAY: it opens no stream any more (RFC 9113, section 6.8)."""
        if event.error_code == ErrorCodes.NO_ERROR or not self.streams:
            self.close_when_done()
            return
        stream = self._furthest()
        self._fail(self._gone(f"GOAWAY: {name_of(event.error_code)}", stream))

    _ACTS: Final[dict[type[Any], Callable[[HangupHTTP2, Any], None]]] = {
        events.RequestReceived: RequestsConnection._requestReceived,
        events.TrailersReceived: RequestsConnection._trailers_received,
        events.DataReceived: RequestsConnection._requestDataReceived,
        events.StreamEnded: RequestsConnection._requestEnded,
        events.StreamReset: RequestsConnection._requestAborted,
        events.WindowUpdated: RequestsConnection._handleWindowUpdate,
        events.RemoteSettingsChanged: RequestsConnection._windows_changed,
        events.ConnectionTerminated: _client_going_away,
    }

    # Closing.

    @property
    def closing(self) -> bool:
        """Whether our half is closed or about to be, and the client has still time to read."""
        return self._socket is not None and self._socket.ended

    def _busy(self) -> None:
        self._idle_clock.due = inf

    def _all_done(self) -> None:
        if self._last:
            self._client_socket().end()
        else:
            self._set(self._idle_clock, self.hangups.timeouts.keep_alive_seconds)

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
            while self._bufferedControlFrames:  # not to be sent again when there is room
                self.transport.write(self._bufferedControlFrames.popleft())
            hangups = self.hangups
            self._socket = ClientSocket(
                self.transport,
                peer=self._peer,
                host=self._host,
                deadlines=hangups.deadlines,
                limits=hangups.limits,
                timeouts=hangups.timeouts,
                release=self._closing,
                watch_sending=self._watch_sending,
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

    def _settle(self, error: ClientError) -> None:
        settlement = Settlement(error, self._client_socket(), self.hangups.deadlines)
        settlement.start(self._hook, self.hangups.timeouts.handler_seconds)

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

    def _watch_input(self, in_preface: bool) -> None:
        """Set the deadlines that fit where the input stands."""
        frames = self._frames
        begun = in_preface and not frames.preface_left
        if not self.streams and (begun or self._idle_clock.due == inf):
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


def _is_reset(event: Any) -> bool:
    return isinstance(event, events.StreamReset)


def _code_of(error: ProtocolError) -> ErrorCodes:
    cause = error.__cause__
    if isinstance(cause, HPACKError) and not isinstance(cause, OversizedHeaderListError):
        return ErrorCodes.COMPRESSION_ERROR  # RFC 9113, section 4.3; h2 has it otherwise
    return ErrorCodes(error.error_code)


def _words_of(error: ProtocolError) -> str:
    words = str(error)[:_MOST_WORDS]
    return words if " " in words else f"{type(error).__name__} {words}".strip()
