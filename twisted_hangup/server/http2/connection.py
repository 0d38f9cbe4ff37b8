"""A connection that speaks HTTP/2 (RFC 9113), with the promises of `HangupChannel`.

An error or loss of the connection becomes its one `ClientError` and runs down the site's errback
chain.  A request that is refused alone runs down the chain on its own, and is answered on its
stream; the other streams do not notice.

Twisted's own loop sends one frame in each turn of the reactor, spins while a client has closed its
window, and holds a whole file in memory if the window is large.  This one sends as much as the
client has room for, then waits, and pauses the producers.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from math import inf
from operator import attrgetter
from typing import Any, Final

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hpack import HPACKError, OversizedHeaderListError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._http2 import _END_STREAM_SENTINEL, H2Connection
from twisted.web.http import Request

from ...errors import ClientError, ClientHangUp, HTTP2Error, Phase
from ...events import Field
from ...limits import KIB
from ...parser.refusals import Why
from ...report.rules import HANG_UP, STALLED
from ...transport.deadlines import Deadline
from ...transport.layers import transport_beneath
from ...transport.lean_tls import meter_of
from ...transport.sockets import Meter, SendWatch, adopted, held_by_kernel, until_next_look
from ..bodies import BodiesInMemory
from ..channel import CLOSING, LAST, LEFT, NEW, HangupChannel
from ..client_socket import ClientSocket, has_unsent
from ..ending import Ending, Place, hang_up, reason_of_loss, request_timeout
from ..lean import is_stock
from ..request import Undelivered, hangup_class, hangup_factory, log
from ..room import Spare
from .frames import MOST_STREAMS, MOST_UNREAD, Budget, FrameInbox, does_nothing, server_frames
from .head import judge_head, judge_length, largest_list_bytes
from .refused import RefusedStream
from .stream import HangupStream

#: Most characters of h2's words in an error.  We cut out addresses in the memory of this process.
_MOST_WORDS: Final = 200
_MEMORY: Final = re.compile(r"( from|:) <memory at \w+>")

#: Frames, and bytes of responses, sent in one turn of the reactor, so that other clients do not
#: wait for long.
_FRAMES_A_TURN: Final = MOST_STREAMS
_BYTES_A_TURN: Final = 128 * KIB

#: A window for fewer bytes than this, and than half of a stream's first one, is given time to grow
#: if more are to be sent, so many seconds at most.
_LEAST_FRAME: Final = 4 * KIB
_GROW_SECONDS: Final = 0.25

#: A frame of so many bytes is none too small: it earns a client the two that open its windows
#: again, and is not waited for in vain for long.  The three cost us less than a request.
_FAIR_FRAME: Final = 64

#: Bytes of a response that may wait to be sent; then its producer is paused.
MOST_QUEUED: Final = 64 * KIB

#: How many requests of one connection may be refused at once with an error of their own, and how
#: many more each second: a proxy's connection may carry requests for weeks.
MOST_REFUSED: Final = 100
REFUSED_PER_SECOND: Final = 1

#: The content of the PING that `HangupHTTP2.nudge` sends.
_NUDGE: Final = b"answered"

#: The content of the PING that `HangupHTTP2.retire` sends, and how many seconds its way back may
#: take.
_RETIRING: Final = b"retiring"
_RETURN_SECONDS: Final = 5.0

#: The last stream that a client can open: a GOAWAY with it refuses none (RFC 9113, section 6.8).
_ANY_STREAM: Final = 2**31 - 1

#: Seconds of work on one client's frames; then the other clients have their turn.
SLICE: Final = 0.01

#: Input within this many seconds of the last work belongs to the same slice: over TLS one read of
#: the socket arrives in pieces.
_SAME_READ: Final = 0.0005

_log = Logger()


class HangupHTTP2(H2Connection):
    """A connection that has negotiated HTTP/2.

    Args:
        channel: The channel that the connection began with.  Its ``client_error`` is called for the
            one client error of the connection, with a socket that is not writable (a handler's
            bytes would end up between frames), and for each refused request, with the socket of its
            stream.
        reactor: For the next turn, not for timers.

    Attributes:
        context: What all connections of the site share.
        bodies: Counts the bodies that its streams hold in memory.
        at_work: The refused streams that handlers are still answering, even if they have gone.
    """

    # Without slots, Python makes a dictionary of 1,500 bytes for so many attributes.
    __slots__ = (
        *("_block_clock", "_came", "_came_at", "_ending", "_grow_clock", "_idle_clock"),
        *("_idle_frames", "_idle_since", "_inbox", "_last_stream_id", "_least", "_meter"),
        *("_peer", "_ready", "_refusals", "_resets", "_retire_clock", "_send_watch", "_sending"),
        *("_sent_at", "_slice_began", "_stage", "_timed_block", "_turn", "_unanswered"),
        *("_undelivered", "_window_clock", "_woken", "_worked_at", "_working"),
        *("at_work", "bodies", "client_error", "context", "default_client_error", "host"),
    )

    conn: Any
    streams: dict[int, HangupStream | RefusedStream]
    transport: Any
    requestFactory: Any
    site: Any
    factory: Any
    _outboundStreamQueues: dict[int, Any]

    def __init__(self, channel: HangupChannel, reactor: Any) -> None:
        super().__init__(reactor)
        self.context = channel.context
        self.bodies = BodiesInMemory()
        self.client_error = channel.client_error
        self.default_client_error = channel.default_client_error
        self.conn = server_frames(self.context.limits)
        #: The streams that have something to send and a window for it, in turn.
        self._ready: dict[int, None] = {}
        self.priority = None
        self._peer, self.host = channel.getPeer(), channel.getHost()
        self._stage = NEW
        self._ending = Ending(self)
        self._inbox = FrameInbox()
        #: Frames that do nothing, and resets: the defence against Rapid Reset (CVE-2023-44487).
        self._idle_frames = Budget(self.context.deadlines.seconds)
        self._idle_frames.earn(2)  # the client's first SETTINGS, and its acknowledgement of ours
        self._resets = Budget(self.context.deadlines.seconds)
        #: When the current slice began, and when the last work stopped.
        self._slice_began = self._worked_at = -inf
        #: The call in the next turn, if frames wait for it.
        self._turn: IDelayedCall | None = None
        self._last_stream_id = 0
        #: Streams that are not answered yet.  All but one have a place of `MoreStreams`.
        self._unanswered = 0
        self._refusals = Budget(self.context.deadlines.seconds, MOST_REFUSED, REFUSED_PER_SECOND)
        self.at_work: set[int] = set()
        self._timed_block = 0
        #: Whether frames are being acted on, and whether there is something to send after that.
        self._working = self._woken = False
        #: Whether there is something to send in the next turn.
        self._sending = False
        self._send_watch: SendWatch | None = None
        #: Counts the bytes written.
        self._meter: Meter | None = None
        self._undelivered: Undelivered | None = None
        self._idle_clock = Deadline(self._idle_for_long)
        self._idle_since = -inf
        self._block_clock = Deadline(self._block_dribbles)
        self._window_clock = Deadline(self._look_for_stalled)
        #: How many bytes the client had at the last look, and when it had got more of them.
        self._came = 0.0
        self._came_at = -inf
        #: When a frame of a response was last sent.
        self._sent_at = -inf
        self._retire_clock: Deadline | None = None
        self._grow_clock: Deadline | None = None
        #: A window for so many bytes is not given time to grow.  It becomes less for clients that
        #: keep their windows small.
        self._least = _LEAST_FRAME

    # The state of the connection.

    def getPeer(self) -> Any:
        """The client's address, asked once per connection and not per request."""
        return self._peer

    def getHost(self) -> Any:
        """The address the client connected to."""
        return self.host

    @property
    def place(self) -> Place:
        """The phase and head of the request that has come furthest; the oldest of several.

        Only requests whose response is not complete at the client count.
        """
        streams = [stream for stream in self._awaited if not stream.delivered]
        for stream in streams:
            if stream.complete:
                return "response", stream.head
        if self._undelivered is not None and self._undelivered.undelivered:
            return "response", self._undelivered.undelivered[0][1].head
        if streams:
            return "body", streams[0].head
        return "head" if self._inbox.in_block or self._inbox.preface_left else "idle", None

    #: None: HTTP/2 has no request line.
    request_line_so_far = None

    @property
    def _awaited(self) -> list[HangupStream]:
        """The streams whose clients still wait for a resource's response."""
        return [stream for stream in self.streams.values() if isinstance(stream, HangupStream)]

    @property
    def phase(self) -> Phase:
        """The phase of the request that has come furthest."""
        if any(stream.complete for stream in self._awaited):
            return "response"
        return self.place[0]

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
        if self.streams or self.over or not self._ending.open or has_unsent(self.transport):
            return None
        unfinished = self._inbox.in_block or self._inbox.preface_left
        return Spare("head" if unfinished else "idle", self._idle_since)

    # Called by the transport.

    def connectionMade(self) -> None:
        """Send our settings; the client has to send its preface now."""
        self.timeOut = None  # our deadlines replace the timer that every frame resets
        self.requestFactory = hangup_factory(
            self.requestFactory, lean=is_stock(), forwarded=self.context.forwarded
        )
        self.context.joined(self)
        wire = adopted(transport_beneath(self.transport))
        self._meter = meter_of(self.transport, wire)
        if wire is not None and self._meter is not None:
            wire.deliveries = self._undelivered = Undelivered(self._meter)
        super().connectionMade()
        # A body of one stream that nobody takes must not hold up those of the others.
        window = self.conn.inbound_flow_control_window
        self.conn.increment_flow_control_window(MOST_UNREAD - window)
        self._tryToWriteControlData()
        self._begin_idle(self.context.timeouts.head_seconds)

    def dataReceived(self, data: bytes) -> None:
        """Act on the frames in *data*, unless the connection is being closed."""
        if self.over:
            self._ending.dropped(len(data))
            return
        in_preface = self._inbox.preface_left
        self._inbox.receive(data)
        if self._turn is None:
            self._work(bool(in_preface))

    def _next_turn(self) -> None:
        """Go on with the frames that had to wait, in a new slice."""
        self._turn = None
        self._worked_at = -inf
        self.transport.resumeProducing()
        self._work()

    def _work(self, in_preface: bool = False) -> None:
        """Act on the frames that have come, for one slice at most."""
        inbox, seconds = self._inbox, self.context.deadlines.seconds
        now = seconds()
        if now - self._worked_at >= _SAME_READ:
            self._slice_began = now
        self._working = True
        try:
            while inbox and not self.over:
                if seconds() - self._slice_began >= SLICE:
                    # Reading is paused meanwhile, so that a client cannot fill the memory.
                    self.transport.pauseProducing()
                    self._turn = self._reactor.callLater(0, self._next_turn)
                    break
                self._take(inbox.next_frame())
        except ProtocolError as error:
            self._break(_code_of(error), _words_of(error), inbox.of_block)
        finally:
            self._working = False
        if not self.over:
            self._tryToWriteControlData()
            if self._woken:
                self._woken = False
                if not self._sending:
                    self._send()
            self._watch_input(in_preface)
        self._worked_at = seconds()

    def _wait_no_more(self) -> None:
        """Resume reading; a transport that is closing does not begin to read."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
            self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """The client reads more slowly than we write."""
        super().pauseProducing()
        self.watch_sending()

    def resumeProducing(self) -> None:
        """The client has read what was written."""
        if self._send_watch is not None:
            self._send_watch.stop()  # first: what waits may fill the buffer again at once
        super().resumeProducing()
        self._wake()

    def stopProducing(self) -> None:
        """The transport has gone; `connectionLost` comes next and says why."""
        self._stillProducing = False

    def connectionLost(self, reason: Failure = connectionDone, _cancel: bool = True) -> None:
        """Close what is open: running requests, an error that waits for its turn."""
        self._stillProducing = False
        ending = self._ending
        error = self._error_of(reason) if ending.open else None
        if error is not None:
            ending.found(error)
            self._abandon(error)
        for stream in list(self.streams.values()):
            if self.streams.get(stream.streamID) is stream:  # another stream's end may end it
                self._requestDone(stream.streamID)
                stream.lost(reason)
        if self._undelivered is not None:
            self._undelivered.lost(isinstance(ending.error, ClientHangUp))
            transport_beneath(self.transport).deliveries = None  # or a reference cycle remains
        self._stop_clocks()
        self._wait_no_more()
        if self._send_watch is not None:
            self._send_watch.forget()
        if error is not None:
            ending.open_socket()
        elif ending.error is None and not self._last_stream_id:
            self.context.journal.unused += 1
        self._stage = LEFT  # frames that wait, or come after this one, are ignored
        ending.lost()
        self.context.left(self)  # last: the process may end once no connection is open

    def _error_of(self, reason: Failure) -> ClientError | None:
        """What the loss of the connection says about the client, or None."""
        if self.transport.disconnecting:
            return None  # aborted by us, or closed by the application
        phase, request = self.place
        # Nothing that is unfinished could still be answered.  So the client has hung up, as
        # it would in a response.
        as_if: Phase = "idle" if phase == "idle" else "response"
        error = reason_of_loss(reason, self.transport, as_if, lambda: None)
        if error is not None:
            error.phase, error.request = phase, request
        return error

    # Frames from the client.

    def _take(self, frame: bytearray) -> None:
        """Act on one frame, unless it is one too many."""
        received = self.conn.receive_data(frame)
        if does_nothing(frame, received) and not self._spend_frame():
            return
        # If another frame that has come resets a request, that request is not begun.
        reset = self._inbox.resets
        for event in received:
            if reset and getattr(event, "stream_id", None) in reset:
                self._drop(event)
            elif (act := self._ACTS.get(type(event))) is not None:
                act(self, event)
            if self.over:
                return

    def _spend_frame(self) -> bool:
        """Whether the client may send another frame that does nothing."""
        allowed = self._idle_frames.spend()
        if not allowed:
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Too many frames that do nothing")
        return allowed

    def _requestReceived(self, event: Any) -> None:
        stream_id = event.stream_id
        places = self.at_work.union(self.streams) if self.at_work else self.streams
        if self._stage is LAST or len(places) >= MOST_STREAMS:
            self._refuse_stream(stream_id)
            return
        self._last_stream_id = stream_id
        if self.context.retired:
            self.retire()
        head, error = judge_head(event.headers, self.context.limits)
        bodiless = event.stream_ended is not None
        if error is None and bodiless and head.content_length:
            error = judge_length(head, 0, ended=True)
        if error is not None:
            refused = RefusedStream(self, stream_id, head, complete=bodiless)
            if self.take_refused(refused, error):
                refused.answer()
            return
        if self._unanswered and not self.context.more_streams.take():
            self._refuse_stream(stream_id)
            return
        self._unanswered += 1
        try:
            stream = HangupStream(stream_id, self, head, bodiless, self.requestFactory)
        except Exception:  # no file for its body, or the application's request class raised
            _log.failure("A request could not be made")
            self.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
            stand_in_class = hangup_class(Request, forwarded=self.context.forwarded)
            stand_in = HangupStream(stream_id, self, head, True, stand_in_class)
            stand_in.lost(Failure())  # so that the access log has a line for it
            self.place_left()
            return
        self._add(stream)
        self._idle_frames.earn(2)  # a window for its response, and a priority
        if not bodiless:
            self._set(stream.deadline, self.context.timeouts.request_seconds)
        stream.begin()

    def _add(self, stream: HangupStream | RefusedStream) -> None:
        stream_id = stream.streamID
        self.streams[stream_id] = stream
        self._outboundStreamQueues[stream_id] = deque()
        self._idle_clock.due = inf

    def _refuse_stream(self, stream_id: int) -> None:
        """Refuse the stream: there is no place.  The client may repeat it (RFC 9113, 8.7)."""
        self.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
        self._spend_frame()

    def _trailers_received(self, event: Any) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.trailers_received(event.headers)

    def _requestDataReceived(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestDataReceived(event)
        else:
            self._drop(event)

    def _drop(self, event: Any) -> None:
        """Ignore a frame for a stream that has gone."""
        if isinstance(event, events.DataReceived):  # it still uses the connection's window
            self.openStreamWindow(event.stream_id, event.flow_controlled_length)

    def _requestEnded(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestEnded(event)

    def _requestAborted(self, event: Any) -> None:
        """The client has reset a stream; that alone is no client error."""
        self.context.journal.stream_resets += 1
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.was_reset(_name_of(event.error_code))
        self.conn.forget(event.stream_id)
        if not self._resets.spend():
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Too many stream resets")

    def _handleWindowUpdate(self, event: Any) -> None:
        """The client has opened a window: of one stream, or with id 0 of the connection."""
        if event.stream_id:
            self._windows_opened([event.stream_id])
        elif self.conn.outbound_flow_control_window - event.delta < _LEAST_FRAME:
            self._windows_opened(self._in_turn())  # some may have waited for it

    def _settings_changed(self, event: Any) -> None:
        window = event.changed_settings.get(SettingCodes.INITIAL_WINDOW_SIZE)
        if window is not None and window.new_value > window.original_value:
            self._windows_opened(self._in_turn())

    def _in_turn(self) -> list[int]:
        """All streams, those first that have waited longest: a window may not do for each."""
        waiting = sorted(self.streams.values(), key=attrgetter("waiting_since"))
        return [stream.streamID for stream in waiting]

    def _windows_opened(self, stream_ids: list[int]) -> None:
        for stream_id in stream_ids:
            if self._outboundStreamQueues.get(stream_id):
                self._ready[stream_id] = None
            if stream_id in self.streams:
                self.streams[stream_id].windowUpdated()
        self._wake()

    def _client_going_away(self, event: Any) -> None:
        """The client's GOAWAY: it will open no more streams (RFC 9113, section 6.8)."""
        waiting = any(not stream.delivered for stream in self._awaited)
        if event.error_code == ErrorCodes.NO_ERROR or not waiting:
            self.close_when_done()
        else:
            self._hung_up(HANG_UP._replace(reason=f"GOAWAY: {_name_of(event.error_code)}"))

    def _ping_returned(self, event: Any) -> None:
        if event.ping_data == _RETIRING and self._retire_clock is not None:
            self.close_when_done(linger=True)

    # Streams take turns.  The client's priorities are deprecated (RFC 9113, section 5.3.2).
    _ACTS: Final[dict[type[Any], Callable[[HangupHTTP2, Any], None]]] = {
        events.RequestReceived: _requestReceived,
        events.TrailersReceived: _trailers_received,
        events.DataReceived: _requestDataReceived,
        events.StreamEnded: _requestEnded,
        events.StreamReset: _requestAborted,
        events.WindowUpdated: _handleWindowUpdate,
        events.RemoteSettingsChanged: _settings_changed,
        events.ConnectionTerminated: _client_going_away,
        events.PingAckReceived: _ping_returned,
    }

    # Streams.

    def take_refused(self, refused: RefusedStream, error: ClientError) -> bool:
        """Put *refused* in place of its stream, for *error*, which is recorded.

        Returns:
            Whether to call `RefusedStream.answer`.  False if this is one error too many, and the
            connection was ended for it.
        """
        if not self._refusals.spend():
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Too many refused requests")
            return False
        self.replace(refused)
        refused.found(error)
        return True

    def replace(self, refused: RefusedStream) -> None:
        """Forget the request of a stream, and the bytes of its response that wait."""
        stream = self.streams.get(refused.streamID)
        if stream is None:
            self._add(refused)
            return
        self.streams[refused.streamID] = refused
        self.drop_queue(refused.streamID)
        unread = stream.unread_bytes
        stream.leave_request()
        if unread:
            self.openStreamWindow(refused.streamID, unread)

    def reset_stream(self, stream_id: int, code: ErrorCodes) -> None:
        """Tell the client that the stream ends here, in both directions."""
        if self.can_send(stream_id):
            self.conn.reset_stream(stream_id, code)
            if stream_id not in self.streams:
                self.conn.forget(stream_id)
        self._tryToWriteControlData()

    def nudge(self) -> None:
        """Send a PING: a client may have missed that a stream is over.

        curl 7.88 stops an upload that was answered early and ends its request.  That closes the
        stream, but curl sees it only when it next reads something, and waits until then.
        """
        self._idle_frames.earn(1)  # its acknowledgement
        self.conn.ping(_NUDGE)
        self._tryToWriteControlData()

    def can_send(self, stream_id: int) -> bool:
        """Whether the stream is still open for h2.

        h2 knows of every reset in a read before the first of its events is acted on.
        """
        stream = self.conn.streams.get(stream_id)
        return stream is not None and not stream.closed

    def drop_queue(self, stream_id: int) -> None:
        """Send no more of the bytes that wait on a stream that stays."""
        self._outboundStreamQueues[stream_id].clear()
        self._ready.pop(stream_id, None)

    def _requestDone(self, streamID: int) -> None:
        """Forget a stream, and be idle after the last one."""
        stream = self.streams[streamID]
        unread = stream.unread_bytes
        # As Twisted does, without a Deferred that nobody waits for.
        del self.streams[streamID], self._outboundStreamQueues[streamID]
        self._ready.pop(streamID, None)
        self.conn.forget(streamID)
        stream.leave_request()
        if self.over or not self._stillProducing:
            return
        if unread:
            self.openStreamWindow(streamID, unread)
        if self.streams:
            return
        if self._stage is LAST:
            self._ending.open_socket().end()
        else:
            self._begin_idle(self.context.timeouts.keep_alive_seconds)

    def place_left(self) -> None:
        """A request has been answered, or has gone: it holds no file any more."""
        self._unanswered -= 1
        if self._unanswered:
            self.context.more_streams.give_back()

    def _abandon(self, error: ClientError) -> None:
        for stream in list(self.streams.values()):
            stream.end(error, told=error.refuses and error.request is stream.place[1])

    # Called by streams, to send.

    @property
    def output_bytes(self) -> int:
        """How many bytes the transport has got so far, with those that it gets next."""
        meter = self._meter
        return 0 if meter is None else meter.taken + meter.unsent + self.conn.waiting

    def unsent_before(self, end: int) -> int:
        """How many of the first *end* bytes of the output are not sent yet."""
        return 0 if self._meter is None else max(0, end - self._meter.taken)

    def log_when_sent(self, request: Any, stream: HangupStream) -> None:
        """Log *request*, which is over, when the kernel has what its *stream* has sent."""
        if self._undelivered is not None and self.unsent_before(stream.output_end):
            self._undelivered.add(request, stream, stream.output_end)
        else:
            log(request, stream)

    def write_head(self, stream: HangupStream, fields: tuple[Field, ...]) -> None:
        """Send the head of a response, or queue it while the transport takes no more.

        Among the control frames, whose bytes are bounded, the heads of a page's parts would be too
        many.  In its queue a head goes with its stream.
        """
        if self._consumerBlocked is None or fields[0][1] < b"200":  # an interim one is small
            self.conn.send_response(stream.streamID, fields)
            self._tryToWriteControlData()
            stream.output_end = self.output_bytes
        else:
            self._outboundStreamQueues[stream.streamID].append(fields)
            self._ready[stream.streamID] = None

    def head_waits(self, stream_id: int) -> bool:
        """Whether the head of the stream's response is still in its queue."""
        queue = self._outboundStreamQueues.get(stream_id, ())
        return bool(queue) and isinstance(queue[0], tuple)

    def writeDataToStream(self, streamID: int, data: bytes) -> None:
        """Queue *data* for the stream; do nothing if the stream has gone."""
        stream = self.streams.get(streamID)
        if stream is None or not data or not self.can_send(streamID):
            return
        queue = self._outboundStreamQueues[streamID]
        if not stream.queued:
            stream.waiting_since = self.context.deadlines.seconds()
            self._watch_windows()
        queue.append(memoryview(data))
        stream.queued += len(data)
        if self.conn.local_flow_control_window(streamID) > 0:
            self._ready[streamID] = None
            self._wake()
        if self.remainingOutboundWindow(streamID) <= 0:
            stream.flowControlBlocked()

    def endRequest(self, streamID: int) -> None:
        """Queue the end of the stream; do nothing if the stream has gone."""
        if streamID in self.streams:
            self._outboundStreamQueues[streamID].append(_END_STREAM_SENTINEL)
            self._ready[streamID] = None
            self._wake()

    def remainingOutboundWindow(self, streamID: int) -> int:
        """How many bytes the stream has room for now: one at least if none waits.

        Then a producer is paused only while bytes of its stream wait, and a stream with bytes that
        wait is watched.
        """
        window: int = self.conn.local_flow_control_window(streamID)
        queued = self.streams[streamID].queued
        return min(window, MOST_QUEUED) - queued if queued else max(1, window)

    def _wake(self) -> None:
        """There is something to send.  Send it once all that has come was acted on.

        Then an end joins its data, and the responses to one read leave together.
        """
        if self._working:
            self._woken = True
        elif not self._sending and self._stillProducing:
            self._sending = True
            self._reactor.callLater(0, self._send)

    def _sendPrioritisedData(self, *args: object) -> None:
        """Nothing to do: Twisted's constructor asks for it before there is anything to send."""

    def _send(self) -> None:
        """Send some frames of each stream in turn, as long as there is room."""
        self._sending = False
        ready, conn = self._ready, self.conn
        left = _BYTES_A_TURN
        for _ in range(_FRAMES_A_TURN):
            if not ready or left <= 0 or not self._stillProducing or self._consumerBlocked:
                break
            stream_id = next(iter(ready))
            del ready[stream_id]
            before = conn.waiting
            self._send_frame(stream_id)
            left -= max(0, conn.waiting - before)
            if conn.waiting >= MOST_QUEUED:
                self._tryToWriteControlData()
        self._tryToWriteControlData()
        if ready and self._consumerBlocked is None:
            self._wake()

    def _send_frame(self, stream_id: int) -> None:
        """Send the next frame of a stream; it comes last again if it has more."""
        stream, queue = self.streams[stream_id], self._outboundStreamQueues[stream_id]
        if isinstance(queue[0], tuple):
            self.conn.send_response(stream_id, queue.popleft())
            stream.output_end = self.output_bytes
            if not queue:
                return
        if queue[0] is _END_STREAM_SENTINEL:
            queue.popleft()
            self.conn.end_stream(stream_id)
            stream.output_end = self.output_bytes
            stream.response_sent()
            return
        window = self.conn.local_flow_control_window(stream_id)
        size = min(stream.queued, window, self.conn.max_outbound_frame_size, MOST_QUEUED)
        if size <= 0 or (size < min(stream.queued, self._least) and self._may_grow(stream, size)):
            return
        if size < window < min(size + _LEAST_FRAME, stream.queued):
            size = window // 2  # two fair frames rather than a small one, for which we may wait
        data = _take(queue, size)
        stream.queued -= size
        last = bool(queue) and queue[0] is _END_STREAM_SENTINEL
        self.conn.send_data(stream_id, data, end_stream=last)
        stream.output_end = self.output_bytes
        if not stream.queued or size >= _FAIR_FRAME:
            self._idle_frames.earn(2 + size // KIB)
        stream.waiting_since = self._sent_at = self.context.deadlines.seconds()
        if last:
            stream.response_sent()
            return
        if queue:
            self._ready[stream_id] = None
        stream.windowUpdated()

    def _may_grow(self, stream: HangupStream | RefusedStream, size: int) -> bool:
        """Whether to wait for a window of more than *size* bytes before more of *stream* is sent.

        A client may give back the bytes of each frame when it comes.  A small frame would then open
        a small window for the next one, and what is left of other frames makes more of them: the
        "silly window syndrome" of TCP (RFC 1122, section 4.2.3.4).  But a client may also keep its
        windows small: after a wait in vain, half as much will do.
        """
        due = stream.waiting_since + _GROW_SECONDS
        first: int = self.conn.remote_settings.initial_window_size
        if size >= first // 2:
            return False
        if due <= self.context.deadlines.seconds():
            self._least = max(_FAIR_FRAME, self._least // 2)
            return False
        if self._grow_clock is None:
            self._grow_clock = Deadline(self._send_small_frames)
        if due < self._grow_clock.due:
            self.context.deadlines.set(self._grow_clock, due)
        return True

    def _send_small_frames(self) -> None:
        """Windows had the time to grow: send what fits."""
        self._windows_opened(self._in_turn())

    def _tryToWriteControlData(self) -> bool:
        """Give the transport what h2 has made, after the frames that wait for it already.

        Returns:
            True.  Unlike in Twisted the connection is still there afterwards, because a request may
            be in the middle of writing its head.
        """
        if not self.conn.waiting:
            return True
        data = self.conn.data_to_send()
        if self._consumerBlocked is None and not self._bufferedControlFrames:
            self.transport.write(data)
            return True
        self._bufferedControlFrames.append(data)
        before = self._bufferedControlFrameBytes
        self._bufferedControlFrameBytes += len(data)
        if before < self._maxBufferedControlFrameBytes <= self._bufferedControlFrameBytes:
            self._reactor.callLater(0, self._too_much_waits)
        return True

    # Closing.

    def make_room(self) -> None:
        """Hang up at once: all places are taken, and this connection waits for its client."""
        self._ending.open_socket().part()

    def retire(self) -> None:
        """Ask the client to open no more streams; close after those that it has opened by then.

        A first GOAWAY refuses none of the streams that are on their way, so that no request is
        lost; when a PING has come back, a second one has the last stream (RFC 9113, section 6.8).
        A connection without a request goes on to its first one.
        """
        if self._stage >= LAST or self._retire_clock is not None or not self._last_stream_id:
            return
        self.conn.close_connection(ErrorCodes.NO_ERROR, last_stream_id=_ANY_STREAM)
        self._idle_frames.earn(1)  # the acknowledgement of the PING
        self.conn.ping(_RETIRING)
        self._tryToWriteControlData()
        self._retire_clock = Deadline(self._ping_is_late)
        self._set(self._retire_clock, _RETURN_SECONDS)

    def close_when_done(self, *, linger: bool = False) -> None:
        """Accept no more requests; close once those that have begun are answered.

        Args:
            linger: Give a client without any request time to read GOAWAY: it may be sending one.
        """
        if self._stage >= LAST:
            return
        self._stage = LAST
        self.conn.close_connection(ErrorCodes.NO_ERROR, last_stream_id=self._last_stream_id)
        self._tryToWriteControlData()
        if not self.streams:
            socket = self._ending.open_socket()
            socket.end() if linger else socket.part()

    # What `Ending` asks of its carrier.

    socket_class = ClientSocket
    counts_lingering = True

    def closing_with(self, socket: ClientSocket) -> None:
        """Ignore further frames, and send only those that wait."""
        self._tryToWriteControlData()
        self._stage = CLOSING
        self._stillProducing = False
        self._inbox = FrameInbox()  # drops what waits, which the client's lingering would keep
        self._wait_no_more()
        self._stop_clocks()
        while self._bufferedControlFrames:  # or they would be sent again when there is room
            self.transport.write(self._bufferedControlFrames.popleft())
        socket.peer_left()  # not writable: this connection carries frames

    def answering_with(self, socket: ClientSocket, error: ClientError) -> None:
        """The errback chain is about to get *socket*."""

    def release_transport(self) -> None:
        """Unregister as producer: until then a transport does not close."""
        self.transport.unregisterProducer()

    def watch_sending(self) -> None:
        """More waits to be sent than the client reads."""
        if self._send_watch is None:
            self._send_watch = self.context.send_watch(self.transport, self._stalled)
        self._send_watch.start()

    # What goes wrong.

    def _break(self, code: ErrorCodes, words: str, in_head: bool = False) -> None:
        """End the connection with an error (RFC 9113, section 5.4.1)."""
        phase, request = self.place
        if in_head and not self.streams:
            phase = "head"
        self._go_away(
            code, HTTP2Error(words, code=f"ERR_HTTP2_{code.name}", phase=phase, request=request)
        )

    def _go_away(self, code: ErrorCodes, error: ClientError) -> None:
        self.conn.clear_outbound_data_buffer()  # h2's own GOAWAY, which may have the wrong code
        self.conn.close_connection(code, last_stream_id=self._last_stream_id)
        self._bufferedControlFrames.append(self.conn.data_to_send())
        self._fail(error)

    def _fail(self, error: ClientError) -> None:
        """Record the one client error of this connection, stop the work, and close."""
        self._ending.found(error)
        self._ending.open_socket()
        self._abandon(error)
        self._ending.answer()

    def _hung_up(self, why: Why) -> None:
        self._fail(hang_up(why, *self.place))

    def _stalled(self) -> None:
        """The client has read nothing for ``send_seconds``."""
        if not self.over:
            self._hung_up(STALLED)
        self.transport.abortConnection()

    def _too_much_waits(self) -> None:
        if not self.over:
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Too many control frames wait to be read")

    # Deadlines.

    def _set(self, deadline: Deadline, seconds: float) -> None:
        if seconds:
            deadlines = self.context.deadlines
            deadlines.set(deadline, deadlines.seconds() + seconds)
        else:
            deadline.due = inf

    def _begin_idle(self, seconds: float) -> None:
        """There are no streams; close if none begins within *seconds*."""
        self._idle_since = self.context.deadlines.seconds()
        self._set(self._idle_clock, seconds)

    def _stop_clocks(self) -> None:
        clocks = (
            *(self._idle_clock, self._block_clock, self._window_clock),
            *(self._retire_clock, self._grow_clock),
        )
        for clock in filter(None, clocks):
            self.context.deadlines.forget(clock)

    def _watch_input(self, in_preface: bool) -> None:
        """Set the deadlines for the place where the input stands."""
        inbox = self._inbox
        begun = in_preface and not inbox.preface_left
        if not self.streams and (begun or self._idle_clock.due == inf):
            self._begin_idle(self.context.timeouts.keep_alive_seconds)
        if not inbox.in_block:
            self._block_clock.due = inf
        elif inbox.block_bytes > largest_list_bytes(self.context.limits):
            self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Header block too large")
        elif inbox.blocks != self._timed_block:
            self._timed_block = inbox.blocks
            self._set(self._block_clock, self.context.timeouts.head_seconds)

    def _idle_for_long(self) -> None:
        if self._inbox.preface_left:
            error = request_timeout("head")
            error.default_status = None  # there is no stream yet to answer on
            self._go_away(ErrorCodes.NO_ERROR, error)
        elif self._inbox.in_block:
            self._idle_clock.due = inf  # the header block has a deadline of its own
        else:
            self.close_when_done(linger=True)

    def _ping_is_late(self) -> None:
        self.close_when_done(linger=True)

    def _block_dribbles(self) -> None:
        self._break(ErrorCodes.ENHANCE_YOUR_CALM, "Header block not complete in time")

    def _watch_windows(self) -> None:
        seconds = self.context.timeouts.send_seconds
        if self._window_clock.due == inf and seconds:
            self._set(self._window_clock, until_next_look(seconds))

    def _look_for_stalled(self) -> None:
        """End the streams whose windows stay closed; end the connection if all of them do."""
        waiting = [stream for stream in self.streams.values() if stream.queued]
        if not waiting:
            return
        now = self.context.deadlines.seconds()
        due = now - self.context.timeouts.send_seconds
        came = self._bytes_at_client
        if came > self._came:
            self._came, self._came_at = came, now
        stalled = [
            stream
            for stream in waiting
            if self._closed_since(stream) <= due
            and stream.streamID not in self._ready  # else it waits for its turn
        ]
        if self._consumerBlocked is not None:
            stalled = []  # the transport waits, which has a watch of its own
        if stalled and len(stalled) == len(self.streams):
            self._stalled()
            return
        for stream in stalled:
            if self.streams.get(stream.streamID) is stream:  # another stream's end may end it
                stream.stalled()
        self._watch_windows()

    def _closed_since(self, stream: HangupStream | RefusedStream) -> float:
        """Since when the client could have made room for more of *stream*, and has not.

        A client that reads slowly opens a window only once it has some of what the kernel holds.
        Room on the connection may have gone to other streams.
        """
        since = stream.waiting_since
        if self.conn.streams[stream.streamID].outbound_flow_control_window > 0:
            since = max(since, self._sent_at)
        if stream.output_end > self._came:
            stream.arrived_at = inf
            return max(since, self._came_at)
        if stream.arrived_at == inf:
            stream.arrived_at = self.context.deadlines.seconds()
        return max(since, stream.arrived_at)

    @property
    def _bytes_at_client(self) -> float:
        """How many bytes of the output the client has, at least; inf if we cannot know."""
        if self._meter is None:
            return inf
        return self._meter.taken - held_by_kernel(transport_beneath(self.transport))


def _take(queue: deque[Any], size: int) -> Any:
    """Take the next *size* bytes out of *queue*, of as many pieces as it takes."""
    pieces, left = [], size
    while left:
        data = queue.popleft()
        if len(data) > left:
            queue.appendleft(data[left:])
            data = data[:left]
        pieces.append(data)
        left -= len(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _code_of(error: ProtocolError) -> ErrorCodes:
    cause = error.__cause__
    if isinstance(cause, HPACKError) and not isinstance(cause, OversizedHeaderListError):
        return ErrorCodes.COMPRESSION_ERROR  # RFC 9113, section 4.3; h2 has another code
    return ErrorCodes(error.error_code)


def _words_of(error: ProtocolError) -> str:
    words = _MEMORY.sub("", str(error))[:_MOST_WORDS]
    return words if " " in words else f"{type(error).__name__} {words}".strip()


def _name_of(code: int) -> str:
    """The name of an error code (RFC 9113, section 7), or its number if it has no name."""
    return code.name if isinstance(code, ErrorCodes) else str(code)
