"""The requests of an HTTP/2 connection, each of which goes wrong by itself.

A request that is refused, late or reset is settled on its stream; what befalls the whole
connection is `twisted_hangup.server.http2.connection`'s.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any, Final

from h2.errors import ErrorCodes
from h2.events import DataReceived
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ...errors import ClientError, ClientHangUp, Phase, RequestTimeout
from ...events import RequestHead
from ...parser.refusals import END_OF_INPUT
from ...transport.deadlines import Deadline
from ..channel import HangupChannel
from .head import judge_head, judge_trailers, refusal
from .sending import SendingConnection
from .stream import HangupStream

#: Streams that a client may reset at once, and per second from then on: the defence against
#: Rapid Reset (CVE-2023-44487), with the numbers of Twisted 26.10.
_RESETS_AT_ONCE: Final = 1000
_RESETS_PER_SECOND: Final = 33

_log = Logger()


class RequestsConnection(SendingConnection):
    """A `SendingConnection` that judges each request and answers for it."""

    requestFactory: Any
    site: Any
    factory: Any

    #: Whether nothing is acted on any more.
    _over = False
    #: Whether no further request is taken.
    _last = False
    _last_stream_id = 0

    def __init__(self, channel: HangupChannel, reactor: Any) -> None:
        super().__init__(channel.hangups, reactor)
        self._peer, self._host = channel.getPeer(), channel.getHost()
        self._resets_left = float(_RESETS_AT_ONCE)
        self._reset_at = 0.0

    # What the other half does.

    def _break(self, code: ErrorCodes, words: str, in_head: bool = False) -> None:
        raise NotImplementedError

    def _busy(self) -> None:
        raise NotImplementedError

    def _all_done(self) -> None:
        raise NotImplementedError

    # What is asked of a channel.

    def getPeer(self) -> Any:
        """The client's address, made once per connection and not per request."""
        return self._peer

    def getHost(self) -> Any:
        """The address the client connected to."""
        return self._host

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
        try:
            stream = HangupStream(stream_id, self, head, bodiless)
        except Exception:  # no file for its body, or what the application makes of requests
            _log.failure("A request could not be made")
            self._reset(stream_id, ErrorCodes.INTERNAL_ERROR)
            return
        self.streams[stream_id] = stream
        self._streamCleanupCallbacks[stream_id] = Deferred()
        self._outboundStreamQueues[stream_id] = deque()
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        self._busy()
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
        else:
            self._drop(event)

    def _drop(self, event: Any) -> None:
        """Ignore what came on a stream that has gone."""
        if isinstance(event, DataReceived):  # it still takes of the connection's window
            self.openStreamWindow(event.stream_id, event.flow_controlled_length)

    def _requestEnded(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestEnded(event)

    def _requestAborted(self, event: Any) -> None:
        """The client does not want this response any more; that alone is no client error."""
        self.hangups.journal.stream_resets += 1
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            error = self._gone(f"Stream reset: {name_of(event.error_code)}", stream)
            self._end_stream(event.stream_id, self._known(error))
        now = self.hangups.deadlines.seconds()
        # A clock that is set back must not take what a well-behaved client has left.
        refilled = self._resets_left + max(0.0, now - self._reset_at) * _RESETS_PER_SECOND
        self._resets_left = min(float(_RESETS_AT_ONCE), refilled) - 1
        self._reset_at = now
        if self._resets_left < 0:
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Too many stream resets")

    def _windows_changed(self, event: Any) -> None:
        self._windows_opened(list(self.streams))

    # Streams.

    def refuse_stream(self, stream_id: int, error: ClientError) -> None:
        """Answer one request with the status of *error*, and let no resource see it."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.answered:
            return  # 417 or 501 is on its way already
        journal = self.hangups.journal
        journal.record(self._known(error))
        status = None
        if stream is not None and stream.headers_sent:
            self._reset(stream_id, ErrorCodes.CANCEL)
        else:
            status = error.status or 400
            fields = [(b":status", b"%d" % status), (b"content-length", b"0")]
            self.conn.send_headers(stream_id, fields, end_stream=True)
            # What more comes of the request is not wanted (RFC 9113, section 8.1).
            self._reset(stream_id, ErrorCodes.NO_ERROR)
        self._tryToWriteControlData()
        journal.settle(error, status)
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
        """Forget a stream, then tell its request: what that still calls does nothing."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._requestDone(stream_id)
            stream.client_left(error)

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
            self._all_done()

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

    def _known(self, error: ClientError) -> ClientError:
        # It outlives the connection, which its traceback would keep alive.
        error.__traceback__ = error.__context__ = None
        error.peer = self._peer
        error.masking = self.hangups.masking
        return error

    def _set(self, deadline: Deadline, seconds: float) -> None:
        if seconds:
            deadlines = self.hangups.deadlines
            deadlines.set(deadline, deadlines.seconds() + seconds)
        else:
            deadline.due = inf

    def _too_late(self, phase: Phase, head: RequestHead | None) -> RequestTimeout:
        return RequestTimeout(
            "Request timeout", code="ERR_HTTP_REQUEST_TIMEOUT", phase=phase, request=head
        )


def name_of(code: int) -> str:
    """The name of an error code of RFC 9113, section 7; its number where it has none."""
    return code.name if isinstance(code, ErrorCodes) else str(code)
