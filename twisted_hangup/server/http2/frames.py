"""The frames of an HTTP/2 connection (RFC 9113): h2's settings, and the checks that h2 lacks.

h2 accepts any amount of input, and reports only complete header blocks.  So it gets one frame at a
time, and this module bounds what h2 does not: a peer that sends a byte now and then, one that sends
frames that do nothing, and one that resets its streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import (
    AllowedStreamIDs,
    ConnectionInputs,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.exceptions import DenialOfServiceError, FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream

from ...events import Field
from ...limits import KIB, MIB, Limits
from .head import announced_list_bytes, largest_list_bytes

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: length (24 bits), type (8), flags (8), stream (32)
_FRAME_HEADER: Final = 9
_TYPE: Final = 3
_FLAGS: Final = 4
_STREAM: Final = 5

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

#: What a client may spend at once, and per second from then on: nghttp2's numbers for useless
#: frames, and Twisted's for resets.
_AT_ONCE: Final = 1000
_PER_SECOND: Final = 33

#: Most bytes of bodies that wait to be read on a connection, and so its window.  The window of each
#: stream is RFC 9113's 65,535 bytes.
MOST_UNREAD: Final = MIB

#: Most frames that a client can earn.
_MOST_EARNED: Final = 4096

#: A DATA or CONTINUATION frame with less content than this counts as useless.  With more, a byte
#: of it costs less than a byte of a request.
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
        },
    )
    frames.remote_settings = _ClientSettings(client=True)
    frames.decoder.max_header_list_size = largest_list_bytes(limits)
    frames.receive_data(PREFACE)
    return frames


class _Connection(H2Connection):
    """Accepts more streams than announced, for which h2 would end the connection.

    The caller refuses those streams one by one (RFC 9113, section 5.1.2), and also those whose
    bodies are not as long as announced (section 8.1.1).
    """

    MAX_CLOSED_STREAMS = _MOST_CLOSED

    @property
    def open_inbound_streams(self) -> int:
        """Always below the limit that h2 checks."""
        return min(super().open_inbound_streams, MOST_STREAMS - 1)

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        # Not by a subclass, which would cost each request 2 microseconds.
        stream._initialize_content_length = _read_no_length  # type: ignore[method-assign]
        return stream


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


def does_nothing(frame: bytes, events: list[Any]) -> bool:
    """Whether a client could send frames like *frame* for ever without effect.

    Args:
        frame: A whole frame.
        events: What h2 has made of it.

    Returns:
        False if it opens, ends or resets a stream, or brings content.  Else True, even for a
        WINDOW_UPDATE or PING that was due: a client earns those in its `Budget`.
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
    return content < _SMALL and not flags & _END_STREAM


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
        self._whole: deque[bytes] = deque()
        #: The frame that is incomplete, and how many bytes come after its header.
        self._frame = bytearray()
        self._left = 0
        self._last_of_block = False
        self._refused: ProtocolError | None = None

    def __bool__(self) -> bool:
        """Whether anything waits for `next_frame`."""
        return bool(self._whole) or self._refused is not None

    def next_frame(self) -> bytes:
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
        frame = self._frame
        while at < len(data) and self._refused is None:
            if len(frame) < _FRAME_HEADER:
                step = min(_FRAME_HEADER - len(frame), len(data) - at)
                frame += data[at : at + step]
                at += step
                if len(frame) < _FRAME_HEADER:
                    return
                self._begin()
                if self._refused is not None:
                    return
            step = min(self._left, len(data) - at)
            frame += data[at : at + step]
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
        if kind == _HEADERS:
            self.in_block = True
            self.block_bytes = 0
            self.blocks += 1
        self._last_of_block = kind in (_HEADERS, _CONTINUATION) and bool(
            frame[_FLAGS] & _END_HEADERS
        )

    def _end(self) -> None:
        frame = bytes(self._frame)
        self._frame.clear()
        if self._last_of_block:
            self.in_block = False
        if frame[_TYPE] == _RST_STREAM:
            self.resets.add(_stream_of(frame))
        self._whole.append(frame)


def _stream_of(frame: bytes) -> int:
    return int.from_bytes(frame[_STREAM:_FRAME_HEADER], "big") & 0x7FFFFFFF
