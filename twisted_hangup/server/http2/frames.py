"""Where in the frames of an HTTP/2 connection its input stands (RFC 9113, section 4).

The h2 library tells of whole frames and whole field blocks.  A peer that sends one byte of
them now and then is seen here.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: length (24 bits), type (8), flags (8), stream (32)
_FRAME_HEADER: Final = 9
_TYPE: Final = 3
_FLAGS: Final = 4

_HEADERS: Final = 0x1
_CONTINUATION: Final = 0x9
_END_HEADERS: Final = 0x4


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
