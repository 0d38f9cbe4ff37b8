"""The frames of an HTTP/2 connection (RFC 9113): h2's settings, and the checks that h2 lacks.

h2 accepts any amount of input, and reports only complete header blocks.  So it gets one frame at a
time, and this module bounds what h2 does not: a peer that sends a byte now and then, one that sends
frames that do nothing, and one that resets its streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import (
    AllowedStreamIDs,
    ConnectionInputs,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.errors import ErrorCodes
from h2.exceptions import (
    DenialOfServiceError,
    FrameTooLargeError,
    ProtocolError,
    StreamClosedError,
)
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState
from hpack import Encoder

from ...events import Field
from ...limits import KIB, MIB, Limits
from .head import CONNECTION_FIELDS, announced_list_bytes, largest_list_bytes

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: length (24 bits), type (8), flags (8), stream (32)
_FRAME_HEADER: Final = 9
_TYPE: Final = 3
_FLAGS: Final = 4
_STREAM: Final = 5
#: The same, with the length in two parts.
_HEADER_OF: Final = Struct(">HBBBL").pack

_DATA: Final = 0x0
_HEADERS: Final = 0x1
_RST_STREAM: Final = 0x3
_SETTINGS: Final = 0x4
_CONTINUATION: Final = 0x9

_ACK: Final = 0x1
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8

#: SETTINGS_MAX_FRAME_SIZE of a peer that announces none, as we do not (section 6.5.2).
_LARGEST_FRAME: Final = 16 * KIB

#: Streams that may be open at once; as in Twisted, and close to other servers.
MOST_STREAMS: Final = 100

#: How many closed streams h2 remembers; by default 65,536, in 7 MB.  HEADERS for a stream that it
#: has forgotten are a connection error.
_MOST_CLOSED: Final = 1024

#: Most settings in one frame, and the bytes of one.  nghttp2 has the same bound; ten exist.
_MOST_SETTINGS: Final = 32
_SETTING: Final = 6

#: Bytes of the table that compresses our headers, even if the client asks for a larger one: each
#: header of each response is searched for in all of it.
_LARGEST_TABLE: Final = 4096

#: Bytes of a response's header up to which its block surely fits into one frame: Huffman's code has
#: up to 30 bits for a byte.
_LARGEST_BLOCK: Final = 2 * KIB

#: How many blocks of response headers are kept for each connection.
_MOST_BLOCKS: Final = 8

#: The fields that h2 keeps out of the table (RFC 7541, section 7.1.3).
_NEVER_INDEXED: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie"})

#: What a client may spend at once, and per second from then on: nghttp2's numbers for useless
#: frames, and Twisted's for resets.
_AT_ONCE: Final = 1000
_PER_SECOND: Final = 33

#: Most bytes of bodies that wait to be read on a connection, and so its window; and on one stream.
#: The bodies of a few streams that nobody takes leave room for those of others.
MOST_UNREAD: Final = MIB
STREAM_WINDOW: Final = 256 * KIB

#: Most frames that a client can earn.
_MOST_EARNED: Final = 4096

#: A CONTINUATION frame with less content than this counts as useless.  With more, a byte of it
#: costs less than a byte of a request; of a DATA frame, a byte does so with any content.
_SMALL: Final = 16


def server_frames(limits: Limits) -> H2Connection:
    """h2's side of a server connection: it takes frames and returns events, and the reverse.

    It does not see the client's preface.  Our own rules judge headers; Twisted's apply to
    responses.
    """
    config = H2Configuration(
        client_side=False,
        header_encoding=None,
        validate_inbound_headers=False,
        validate_outbound_headers=False,
    )
    frames = _Connection(config)
    frames.state_machine = _StateMachine()
    frames.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: announced_list_bytes(limits),
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        },
    )
    frames.remote_settings = _ClientSettings(client=True)
    frames.decoder.max_header_list_size = largest_list_bytes(limits)
    frames.receive_data(PREFACE)
    return frames


class _WholeFrame:
    """A frame that is complete and not padded: what h2 reads of hyperframe's."""

    __slots__ = ("data", "flags", "flow_controlled_length", "stream_id")

    def __init__(self, stream_id: int, flags: tuple[str, ...], data: bytes) -> None:
        self.stream_id = stream_id
        self.flags = flags
        self.data = data
        self.flow_controlled_length = len(data)


class _WholeData(_WholeFrame):
    __slots__ = ()


class _WholeHeaders(_WholeFrame):
    __slots__ = ()


#: The states of a stream in which its client has not ended its request.
_UNENDED: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)

#: The frames that h2 gets without hyperframe, by their type and flags.
_WHOLE: Final[dict[tuple[int, int], tuple[type[_WholeFrame], tuple[str, ...]]]] = {
    (_DATA, 0): (_WholeData, ()),
    (_DATA, _END_STREAM): (_WholeData, ("END_STREAM",)),
    (_HEADERS, _END_HEADERS): (_WholeHeaders, ()),
    (_HEADERS, _END_HEADERS | _END_STREAM): (_WholeHeaders, ("END_STREAM",)),
}


class DataUnderWay:
    """The event of DATA that was under way when we reset its stream: there is nothing to do."""


class _Connection(H2Connection):
    """h2's connection, which gets one whole frame at a time, with its slow parts made shorter.

    It accepts more streams than announced, for which h2 would end the connection.  The caller
    refuses those streams one by one (RFC 9113, section 5.1.2), and also those whose bodies are not
    as long as announced (section 8.1.1).

    Half of h2's time goes into objects for frames, into writing them out for a log that nobody
    reads, and into generators for header fields.  In the common cases h2's state machines and
    windows are asked as h2 asks them, and the rest is left out.
    """

    MAX_CLOSED_STREAMS = _MOST_CLOSED

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        acts: dict[Any, Any] = self._frame_dispatch_table
        acts[_WholeData] = self._receive_data_frame
        acts[_WholeHeaders] = self._receive_headers_frame
        self.encoder = _Encoder()
        #: Most bytes of bodies that the client may have sent before it saw our resets.
        self._under_way = 0

    @property
    def waiting(self) -> int:
        """How many bytes `data_to_send` would return."""
        return len(self._data_to_send)

    @property
    def open_inbound_streams(self) -> int:
        """Always below the limit that h2 checks.

        h2 looks through all streams, and forgets those that have ended; `forget` does that sooner.
        """
        if len(self.streams) > MOST_STREAMS:
            super().open_inbound_streams  # noqa: B018
        return 0

    def forget(self, stream_id: int) -> None:
        """Keep nothing but the number of a stream, if it has ended."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by

    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None:
        """As h2's; the client may have filled the stream's window before it sees the reset."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state_machine.state in _UNENDED:
            most = self._under_way + stream.inbound_flow_control_window
            self._under_way = min(most, MOST_UNREAD)
        super().reset_stream(stream_id, error_code)

    def _handle_data_on_closed_stream(
        self, events: list[Any], exc: StreamClosedError, frame: Any
    ) -> tuple[list[Any], list[Any]]:
        """As h2's, but what was under way when we reset its stream is ignored (section 5.1)."""
        frames, events = super()._handle_data_on_closed_stream(events, exc, frame)
        by = self._stream_closed_by(exc.stream_id)
        if by is StreamClosedBy.SEND_RST_STREAM and frame.flow_controlled_length <= self._under_way:
            self._under_way -= frame.flow_controlled_length
            return frames[:-1], [*events, DataUnderWay()]  # without another reset
        return frames, events

    def receive_data(self, data: Any) -> list[Any]:
        """Take one whole frame, and return its events.

        Raises:
            ProtocolError: The connection has to end.
        """
        whole = _WHOLE.get((data[_TYPE], data[_FLAGS]))
        stream_id = _stream_of(data)
        # h2 holds the frames of a header block that is not complete: CONTINUATION has to come next.
        if whole is None or not stream_id or self.incoming_buffer._headers_buffer:
            return super().receive_data(data)
        kind, flags = whole
        frame: Any = kind(stream_id, flags, bytes(memoryview(data)[_FRAME_HEADER:]))
        try:
            return self._receive_frame(frame)
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise

    def send_response(self, stream_id: int, fields: tuple[Field, ...]) -> None:
        """Send the head of a response.

        Args:
            fields: ``:status`` and the header, with names in any case.
        """
        encoder: Any = self.encoder
        block: bytes | None = encoder.known(fields)
        plain = None if block is not None else _plain(fields)
        stream = self.streams.get(stream_id)
        if stream is None or stream.state_machine.headers_sent or (block is None and plain is None):
            self.send_headers(stream_id, fields)
            return
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        if block is None:
            block = encoder.learn(fields, plain)
        self._add_frame(_HEADERS, _END_HEADERS, stream_id, block)

    def send_data(
        self,
        stream_id: int,
        data: bytes | memoryview,
        end_stream: bool = False,
        pad_length: int | None = None,
    ) -> None:
        """As h2's, without its objects for a frame that may be sent."""
        stream = self.streams.get(stream_id)
        size = len(data)
        if (
            stream is None
            or pad_length is not None
            or size > stream.outbound_flow_control_window
            or size > self.outbound_flow_control_window
            or size > self.max_outbound_frame_size
        ):
            super().send_data(stream_id, data, end_stream, pad_length)
            return
        self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        stream.state_machine.process_input(StreamInputs.SEND_DATA)
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self._add_frame(_DATA, _END_STREAM if end_stream else 0, stream_id, data)

    def _add_frame(
        self, kind: int, flags: int, stream_id: int, content: bytes | memoryview
    ) -> None:
        size = len(content)
        self._data_to_send += _HEADER_OF(size >> 8, size & 0xFF, kind, flags, stream_id)
        self._data_to_send += content

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        # Not by a subclass, which would cost each request 2 microseconds.
        stream._initialize_content_length = _read_no_length  # type: ignore[method-assign]
        return stream


@lru_cache(maxsize=256)
def _lower(name: bytes) -> bytes:
    return name.lower().strip()


class _Encoder(Encoder):
    """Compresses headers; the same header again costs a look-up.

    A block depends on the table before it (RFC 7541, section 2.3.2).  If it does not change the
    table, the same header has the same block until another one changes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[tuple[Field, ...], bytes] = {}
        self._changed = False

    def known(self, fields: tuple[Field, ...]) -> bytes | None:
        """The block for *fields*, if it is the same as the last time."""
        return None if self.header_table.resized else self._blocks.get(fields)

    def learn(self, fields: tuple[Field, ...], plain: Any) -> bytes:
        """The block for *plain*, kept for the next *fields* that are the same if it may be."""
        block = self.encode(plain)
        if not self._changed:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[fields] = block
        return block

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        table = self.header_table
        entries = table.dynamic_entries
        newest, resized = (entries[0] if entries else None), table.resized
        block: bytes = super().encode(headers, huffman)
        self._changed = resized or newest is not (entries[0] if entries else None)
        if self._changed:
            self._blocks.clear()
        return block


def _plain(fields: Iterable[Field]) -> list[Field] | None:
    """The *fields* of a response as h2 would send them; None if it has to look at them."""
    plain, size = [], 0
    for name, value in fields:
        size += len(name) + len(value)
        if size > _LARGEST_BLOCK:
            return None  # before `_lower` keeps a name of any length
        lower = _lower(name)
        if lower in _NEVER_INDEXED or (lower == b":status" and value[:1] == b"1"):
            return None
        if lower not in CONNECTION_FIELDS:
            plain.append((lower, value.strip()))
    return plain


def _read_no_length(headers: Iterable[Field]) -> None:
    """Let `judge_head` and `judge_length` check the length: h2 would end the connection."""


class _StateMachine(H2ConnectionStateMachine):
    """Goes on after a GOAWAY from either side, as the open streams do (RFC 9113, section 6.8)."""

    def process_input(self, input_: ConnectionInputs) -> list[Any]:
        before = self.state
        events: list[Any] = super().process_input(input_)
        if input_ in (ConnectionInputs.RECV_GOAWAY, ConnectionInputs.SEND_GOAWAY):
            self.state = before
        return events


class _ClientSettings(Settings):
    """Keeps only the client's settings that matter to us, and keeps the table small."""

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        if key == SettingCodes.HEADER_TABLE_SIZE:
            value = min(value, _LARGEST_TABLE)
        if self.get(key, value) != value:
            super().__setitem__(key, value)


class Budget:
    """How many useless frames, or resets, a client may still send.

    Args:
        seconds: Returns the time.
        at_once: How many are allowed at once.
        per_second: How many more are allowed each second.
    """

    __slots__ = ("_at_once", "_earned", "_left", "_per_second", "_seconds", "_spent_at")

    def __init__(
        self,
        seconds: Callable[[], float],
        at_once: float = _AT_ONCE,
        per_second: float = _PER_SECOND,
    ) -> None:
        self._seconds = seconds
        self._at_once, self._per_second = at_once, per_second
        self._earned = 0
        self._left = at_once
        self._spent_at = 0.0

    def earn(self, count: int) -> None:
        """Allow *count* more, whenever they come."""
        self._earned = min(self._earned + count, _MOST_EARNED)

    def spend(self) -> bool:
        """Take one; False if none is left."""
        if self._earned:
            self._earned -= 1
            return True
        now = self._seconds()
        # If the clock is set back, a well-behaved client keeps what it has left.
        refilled = self._left + max(0.0, now - self._spent_at) * self._per_second
        self._left = min(self._at_once, refilled) - 1
        self._spent_at = now
        return self._left >= 0


def does_nothing(frame: bytes | bytearray, events: list[Any]) -> bool:
    """Whether a client could send frames like *frame* for ever without effect.

    Args:
        frame: A whole frame.
        events: What h2 has made of it.

    Returns:
        False if it opens, ends or resets a stream, or brings content, also for a stream that we
        have reset while it was under way.  Else True, even for a WINDOW_UPDATE or PING that was
        due: a client earns those in its `Budget`.
    """
    kind, flags = frame[_TYPE], frame[_FLAGS]
    if kind in (_HEADERS, _CONTINUATION) and not flags & _END_HEADERS:
        return kind == _CONTINUATION and len(frame) - _FRAME_HEADER < _SMALL
    if kind in (_HEADERS, _CONTINUATION, _RST_STREAM):
        return not events  # for a stream that is not open
    if kind != _DATA or not events:
        return True
    content = len(frame) - _FRAME_HEADER
    if flags & _PADDED:
        content -= 1 + frame[_FRAME_HEADER]
    return not content and not flags & _END_STREAM


class FrameInbox:
    """The input of one connection, cut into frames.

    Attributes:
        preface_left: Bytes of the client's preface that are still to come.
        in_block: Whether a header block is unfinished: its first frame is incomplete, or
            CONTINUATION frames follow.
        block_bytes: Compressed bytes of that block so far.
        blocks: Header blocks that have begun so far.
        of_block: Whether the last frame taken belongs to a header block.
        resets: The streams that a waiting frame resets.
    """

    __slots__ = (
        *("_frame", "_last_of_block", "_left", "_refused", "_whole"),
        *("block_bytes", "blocks", "in_block", "of_block", "preface_left", "resets"),
    )

    def __init__(self) -> None:
        self.preface_left = len(PREFACE)
        self.in_block = False
        self.block_bytes = 0
        self.blocks = 0
        self.of_block = False
        self.resets: set[int] = set()
        self._whole: deque[bytearray] = deque()
        #: The frame that is incomplete, and how many bytes come after its header.
        self._frame = bytearray()
        self._left = 0
        self._last_of_block = False
        self._refused: ProtocolError | None = None

    def __bool__(self) -> bool:
        """Whether anything waits for `next_frame`."""
        return bool(self._whole) or self._refused is not None

    def next_frame(self) -> bytearray:
        """The frame that has waited longest; only call it if one waits.

        Raises:
            ProtocolError: The next bytes are not a frame, or a frame that is not accepted.
        """
        if not self._whole and self._refused is not None:
            self.of_block = False
            raise self._refused
        frame = self._whole.popleft()
        self.of_block = frame[_TYPE] in (_HEADERS, _CONTINUATION)
        if frame[_TYPE] == _RST_STREAM:
            self.resets.discard(_stream_of(frame))
        return frame

    def receive(self, data: bytes) -> None:
        """Take in *data*, any length."""
        at = min(self.preface_left, len(data))
        if at:
            if not PREFACE[-self.preface_left :].startswith(data[:at]):
                self._refused = ProtocolError("Invalid HTTP/2 preamble.")
            self.preface_left -= at
        content = memoryview(data)
        while at < len(data) and self._refused is None:
            frame = self._frame
            if len(frame) < _FRAME_HEADER:
                step = min(_FRAME_HEADER - len(frame), len(data) - at)
                frame += content[at : at + step]
                at += step
                if len(frame) < _FRAME_HEADER:
                    return
                self._begin()
                if self._refused is not None:
                    return
            step = min(self._left, len(data) - at)
            frame += content[at : at + step]
            at += step
            self._left -= step
            if self.in_block:
                self.block_bytes += step
            if not self._left:
                self._end()

    def _begin(self) -> None:
        frame = self._frame
        kind, length = frame[_TYPE], int.from_bytes(frame[:_TYPE], "big")
        self._left = length
        if length > _LARGEST_FRAME:
            self._refused = FrameTooLargeError(
                f"A frame of {length} bytes, where {_LARGEST_FRAME} are most"
            )
        elif kind == _SETTINGS and length and frame[_FLAGS] & _ACK:  # RFC 9113, section 6.5
            self._refused = FrameTooLargeError("An acknowledgement of SETTINGS that has content")
        elif kind == _SETTINGS and length > _SETTING * _MOST_SETTINGS:
            self._refused = DenialOfServiceError("Too many settings in one frame")
        elif kind == _CONTINUATION and not self.in_block:  # section 6.10, whatever its stream is
            self._refused = ProtocolError("A CONTINUATION frame that continues nothing")
        if kind == _HEADERS:
            self.in_block = True
            self.block_bytes = 0
            self.blocks += 1
        self._last_of_block = kind in (_HEADERS, _CONTINUATION) and bool(
            frame[_FLAGS] & _END_HEADERS
        )

    def _end(self) -> None:
        frame, self._frame = self._frame, bytearray()
        if self._last_of_block:
            self.in_block = False
        if frame[_TYPE] == _RST_STREAM:
            self.resets.add(_stream_of(frame))
        self._whole.append(frame)


def _stream_of(frame: bytes | bytearray) -> int:
    return int.from_bytes(frame[_STREAM:_FRAME_HEADER], "big") & 0x7FFFFFFF
