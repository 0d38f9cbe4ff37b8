"""The frames of an HTTP/2 connection (RFC 9113): h2's side of it, and what h2 does not see.

The h2 library tells of whole frames and whole field blocks.  A peer that sends one byte of
them now and then is seen here, and one that does nothing but reset its streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection, H2ConnectionStateMachine
from h2.settings import SettingCodes, Settings

from ...limits import Limits
from .head import announced_list_bytes, largest_list_bytes

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: length (24 bits), type (8), flags (8), stream (32)
_FRAME_HEADER: Final = 9
_TYPE: Final = 3
_FLAGS: Final = 4

_HEADERS: Final = 0x1
_CONTINUATION: Final = 0x9
_END_HEADERS: Final = 0x4


#: As Twisted has it, and other servers nearly so.
_MOST_STREAMS: Final = 100

#: Streams that a client may reset at once, and per second from then on: the defence against
#: Rapid Reset (CVE-2023-44487), with the numbers of Twisted 26.10.
_RESETS_AT_ONCE: Final = 1000
_RESETS_PER_SECOND: Final = 33


def server_frames(limits: Limits) -> H2Connection:
    """The h2 library's side of a server's connection: frames in, events out, and back.

    Fields are judged by our own rules, and responses have Twisted's.
    """
    config = H2Configuration(
        client_side=False,
        header_encoding=None,
        validate_inbound_headers=False,
        validate_outbound_headers=False,
    )
    frames = H2Connection(config)
    frames.state_machine = _StateMachine()
    frames.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: announced_list_bytes(limits),
        },
    )
    frames.decoder.max_header_list_size = largest_list_bytes(limits)
    return frames


class _StateMachine(H2ConnectionStateMachine):
    """Goes on after a GOAWAY, whoever sent it, as the open streams do (RFC 9113, 6.8)."""

    def process_input(self, input_: ConnectionInputs) -> list[Any]:
        before = self.state
        events: list[Any] = super().process_input(input_)
        if input_ in (ConnectionInputs.RECV_GOAWAY, ConnectionInputs.SEND_GOAWAY):
            self.state = before
        return events


class ResetBudget:
    """The stream resets that a client has left.

    Args:
        seconds: The time.
    """

    __slots__ = ("_left", "_seconds", "_spent_at")

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._left = float(_RESETS_AT_ONCE)
        self._spent_at = 0.0

    def spend(self) -> bool:
        """Take one; False where none was left."""
        now = self._seconds()
        # A clock that is set back must not take what a well-behaved client has left.
        refilled = self._left + max(0.0, now - self._spent_at) * _RESETS_PER_SECOND
        self._left = min(float(_RESETS_AT_ONCE), refilled) - 1
        self._spent_at = now
        return self._left >= 0


class FrameWatch:
    """Follows one connection's input, whatever its frames say.

    Attributes:
        preface_left: Bytes of the client's preface that are still to come.
        in_block: Whether a field block has begun and has not ended: its first frame may be
            unfinished, or CONTINUATION frames are to follow.
        block_bytes: Bytes of that block so far, compressed as they are.
        blocks: Field blocks that have begun so far.
        largest: Length of the longest frame that has begun so far.  h2 would take in all of
            a frame, up to 16 MiB, before it finds it too long.
    """

    __slots__ = (
        *("_header", "_last_of_block", "_left"),
        *("block_bytes", "blocks", "in_block", "largest", "preface_left"),
    )

    def __init__(self) -> None:
        self.preface_left = len(PREFACE)
        self.in_block = False
        self.block_bytes = 0
        self.blocks = 0
        self.largest = 0
        self._header = b""
        self._left = 0
        self._last_of_block = False

    def feed(self, data: bytes) -> None:
        """Follow *data*, any length."""
        at = min(self.preface_left, len(data))
        self.preface_left -= at
        while at < len(data):
            if not self._left:
                taken = data[at : at + _FRAME_HEADER - len(self._header)]
                self._header += taken
                at += len(taken)
                if len(self._header) < _FRAME_HEADER:
                    return
                self._begin(self._header)
                self._header = b""
            step = min(self._left, len(data) - at)
            at += step
            self._left -= step
            if self.in_block:
                self.block_bytes += step
                if self._last_of_block and not self._left:
                    self.in_block = False

    def _begin(self, header: bytes) -> None:
        self._left = int.from_bytes(header[:_TYPE], "big")
        self.largest = max(self.largest, self._left)
        kind = header[_TYPE]
        if kind == _HEADERS:
            self.in_block = True
            self.block_bytes = 0
            self.blocks += 1
        self._last_of_block = kind in (_HEADERS, _CONTINUATION) and bool(
            header[_FLAGS] & _END_HEADERS
        )
