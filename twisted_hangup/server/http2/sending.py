"""Responses of an HTTP/2 connection, frame by frame and each in its turn.

Twisted's own loop sends one frame in each turn of the reactor, spins while a client has
closed its window, and holds a whole file in memory where the window is large.  This one
sends as much as the client has room for, then waits, and tells producers to wait, too.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import Any, Final

import priority  # type: ignore[import-untyped]
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2ConnectionStateMachine
from h2.connection import H2Connection as Frames
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from twisted.web._http2 import _END_STREAM_SENTINEL, H2Connection

from ...limits import KIB
from ...transport.deadlines import Deadline
from ...transport.sockets import SendWatch
from ..context import Hangups
from .head import announced_list_bytes, largest_list_bytes

#: Frames sent in one turn of the reactor, so that nobody else waits for long.
_FRAMES_A_TURN: Final = 8

#: Bytes of a response that wait to be sent before its producer is told to wait, too.
MOST_QUEUED: Final = 64 * KIB

#: As Twisted has it, and other servers nearly so.
_MOST_STREAMS: Final = 100


class _StateMachine(H2ConnectionStateMachine):
    """Goes on after a GOAWAY, whoever sent it, as the open streams do (RFC 9113, 6.8)."""

    def process_input(self, input_: ConnectionInputs) -> list[Any]:
        before = self.state
        events: list[Any] = super().process_input(input_)
        if input_ in (ConnectionInputs.RECV_GOAWAY, ConnectionInputs.SEND_GOAWAY):
            self.state = before
        return events


class SendingConnection(H2Connection):
    """Twisted's `H2Connection` with another way to send."""

    conn: Any
    streams: dict[int, Any]
    transport: Any
    _outboundStreamQueues: dict[int, Any]

    _send_watch: SendWatch | None = None
    _sending = False

    def __init__(self, hangups: Hangups, reactor: Any) -> None:
        super().__init__(reactor)
        self.hangups = hangups
        # Fields are judged by our own rules, and responses have Twisted's.
        config = H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            validate_outbound_headers=False,
        )
        self.conn = Frames(config)
        self.conn.state_machine = _StateMachine()
        limits = hangups.limits
        self.conn.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: announced_list_bytes(limits),
            },
        )
        self.conn.decoder.max_header_list_size = largest_list_bytes(limits)
        self._window_clock = Deadline(self._look_for_stalled)

    # What the other half does.

    def _stalled(self) -> None:
        raise NotImplementedError

    def _stream_stalled(self, stream: Any) -> None:
        raise NotImplementedError

    def _too_much_waits(self) -> None:
        raise NotImplementedError

    def _stream_sent(self, stream_id: int) -> None:
        raise NotImplementedError

    # What a stream gives us.

    def writeDataToStream(self, streamID: int, data: bytes) -> None:
        """Queue *data* for the stream; nothing once it has gone."""
        stream = self.streams.get(streamID)
        if stream is None or not data or not self.can_send(streamID):
            return
        queue = self._outboundStreamQueues[streamID]
        if not queue:
            stream.waiting_since = self.hangups.deadlines.seconds()
            self._watch_windows()
        queue.append(memoryview(data))
        stream.queued += len(data)
        if self.conn.local_flow_control_window(streamID) > 0:
            self.priority.unblock(streamID)
            self._wake()
        if self.remainingOutboundWindow(streamID) <= 0:
            stream.flowControlBlocked()

    def endRequest(self, streamID: int) -> None:
        """Queue the end of the stream; nothing once it has gone."""
        if streamID in self.streams:
            self._outboundStreamQueues[streamID].append(_END_STREAM_SENTINEL)
            self.priority.unblock(streamID)
            self._wake()

    def remainingOutboundWindow(self, streamID: int) -> int:
        """How many bytes the stream may be given now."""
        window: int = self.conn.local_flow_control_window(streamID)
        queued: int = self.streams[streamID].queued
        return min(window, MOST_QUEUED) - queued

    # The loop.

    def _wake(self) -> None:
        """There is something to send: in the next turn, so that an end comes with its data."""
        if not self._sending and self._stillProducing:
            self._sending = True
            self._reactor.callLater(0, self._sendPrioritisedData)

    def resumeProducing(self) -> None:
        """The client has taken what was written."""
        if self._send_watch is not None:
            self._send_watch.stop()  # first: what waited may leave no room again at once
        super().resumeProducing()
        self._wake()

    def pauseProducing(self) -> None:
        """The client takes less than is written to it."""
        super().pauseProducing()
        self._watch_sending()

    def _sendPrioritisedData(self, *args: object) -> None:
        """Send some frames of each stream in turn, for as long as there is room."""
        self._sending = False
        with suppress(priority.DeadlockError):  # nothing to send, or no window to send it in
            for _ in range(_FRAMES_A_TURN):
                if not self._stillProducing or self._consumerBlocked is not None:
                    return
                self._send_frame(next(self.priority))
            self._wake()

    def _send_frame(self, stream_id: int) -> None:
        stream, queue = self.streams[stream_id], self._outboundStreamQueues[stream_id]
        data = queue.popleft()
        if data is _END_STREAM_SENTINEL:
            self.conn.end_stream(stream_id)
            self._tryToWriteControlData()
            self._stream_sent(stream_id)
            return
        window = self.conn.local_flow_control_window(stream_id)
        size = min(len(data), window, self.conn.max_outbound_frame_size)
        if size < len(data):
            queue.appendleft(data[size:] if size > 0 else data)
        if size <= 0:
            self.priority.block(stream_id)
            return
        last = bool(queue) and queue[0] is _END_STREAM_SENTINEL
        self.conn.send_data(stream_id, bytes(data[:size]), end_stream=last)
        self._tryToWriteControlData()
        stream.queued -= size
        stream.waiting_since = self.hangups.deadlines.seconds()
        if last:
            self._stream_sent(stream_id)
            return
        if not queue:
            self.priority.block(stream_id)
        stream.windowUpdated()

    def _tryToWriteControlData(self) -> bool:
        """Hand what h2 has made to the transport, behind what waits for it already.

        Returns:
            True: unlike in Twisted, the connection is still there afterwards, as a request
            may be in the middle of writing its head.
        """
        data = self.conn.data_to_send()
        if not data:
            return True
        if self._consumerBlocked is None and not self._bufferedControlFrames:
            self.transport.write(data)
            return True
        self._bufferedControlFrames.append(data)
        before = self._bufferedControlFrameBytes
        self._bufferedControlFrameBytes += len(data)
        if before < self._maxBufferedControlFrameBytes <= self._bufferedControlFrameBytes:
            self._reactor.callLater(0, self._too_much_waits)
        return True

    # Windows.

    def _handleWindowUpdate(self, event: Any) -> None:
        """The client has opened a window: of one stream, or with id 0 of the connection."""
        self._windows_opened([event.stream_id] if event.stream_id else list(self.streams))

    def _windows_opened(self, stream_ids: list[int]) -> None:
        for stream_id in stream_ids:
            if self._outboundStreamQueues.get(stream_id):
                self.priority.unblock(stream_id)
            if stream_id in self.streams:
                self.streams[stream_id].windowUpdated()
        self._wake()

    def _handlePriorityUpdate(self, event: Any) -> None:
        """Streams take turns, whatever the client prefers (deprecated, RFC 9113, 5.3.2)."""

    # A client that takes nothing.

    def _watch_sending(self) -> None:
        """More is waiting to be sent than the client has room for."""
        if self._send_watch is None:
            hangups = self.hangups
            self._send_watch = SendWatch(
                self.transport, hangups.deadlines, hangups.timeouts.send_seconds, self._stalled
            )
        self._send_watch.start()

    def _watch_windows(self) -> None:
        if self._window_clock.due == inf and self.hangups.timeouts.send_seconds:
            self._set_window_clock(self.hangups.deadlines.seconds())

    def _set_window_clock(self, since: float) -> None:
        due = since + self.hangups.timeouts.send_seconds
        self.hangups.deadlines.set(self._window_clock, due)

    def _look_for_stalled(self) -> None:
        """Give up streams whose client gave them no window; all have stalled: give it up."""
        waiting = [stream for stream in self.streams.values() if stream.queued]
        if not waiting:
            return
        due = self.hangups.deadlines.seconds() - self.hangups.timeouts.send_seconds
        stalled = [stream for stream in waiting if stream.waiting_since <= due]
        if self._consumerBlocked is not None:
            stalled = []  # it is the transport that waits, which has a watch of its own
        if stalled and len(stalled) == len(self.streams):
            self._stalled()
            return
        for stream in stalled:
            if self.streams.get(stream.streamID) is stream:  # another's end may have ended it
                self._stream_stalled(stream)
        left = [stream.waiting_since for stream in self.streams.values() if stream.queued]
        if left:
            self._set_window_clock(max(min(left), due + 1.0))

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Tell the client that nothing more comes on the stream, or is read from it."""
        if self.can_send(stream_id):
            self.conn.reset_stream(stream_id, code)

    def can_send(self, stream_id: int) -> bool:
        """Whether h2 knows the stream as one that is still open.

        It has heard of every reset in a read before the first of those requests is told.
        """
        stream = self.conn.streams.get(stream_id)
        return stream is not None and not stream.closed
