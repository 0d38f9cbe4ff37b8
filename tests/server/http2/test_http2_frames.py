"""Where the input stands among its frames does not depend on how it was cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from h2.exceptions import ProtocolError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
)
from hypothesis import given
from hypothesis import strategies as st
from support.http2_client import PREFACE

from twisted_hangup.server.http2.frames import FrameInbox


def _block(frame: Frame) -> Frame:
    frame.flags.add("END_HEADERS")
    return frame


WHOLE = [
    PingFrame(0),
    _block(HeadersFrame(1, b"a" * 10)),
    DataFrame(1, b"b" * 300),
    HeadersFrame(3, b"c"),
    ContinuationFrame(3),
    _block(ContinuationFrame(3, b"d" * 5)),
    _block(HeadersFrame(5)),
]
PING = PingFrame(0).serialize()
WIRE = PREFACE + b"".join(frame.serialize() for frame in WHOLE)


def state(inbox: FrameInbox) -> tuple[int, bool, int, int]:
    return (inbox.preface_left, inbox.in_block, inbox.block_bytes, inbox.blocks)


def taken(inbox: FrameInbox) -> list[bytes | str]:
    """All that it gives out, and the words of its refusal."""
    frames: list[bytes | str] = []
    try:
        while inbox:
            frames.append(bytes(inbox.next_frame()))
    except ProtocolError as error:
        frames.append(str(error))
    return frames


def fed(*pieces: bytes) -> FrameInbox:
    inbox = FrameInbox()
    for piece in pieces:
        inbox.receive(piece)
    return inbox


@given(st.lists(st.integers(0, len(WIRE)), max_size=8), st.integers(0, len(WIRE)))
def test_cuts_do_not_matter(cuts: list[int], end: int) -> None:
    """Any prefix leaves the same state, cut anyhow or byte by byte."""
    data = WIRE[:end]
    pieces = [data[a:b] for a, b in pairwise([0, *sorted(min(cut, end) for cut in cuts), end])]
    bytewise = [data[at : at + 1] for at in range(end)]
    once, cut, dribbled = fed(data), fed(*pieces), fed(*bytewise)
    assert state(cut) == state(once) == state(dribbled)
    assert taken(cut) == taken(dribbled) == taken(once)


@pytest.mark.parametrize(
    "frames, expected",
    [
        ([], (0, False, 0, 0)),
        (WHOLE[:1], (0, False, 0, 0)),
        (WHOLE[:2], (0, False, 10, 1)),
        (WHOLE[:3], (0, False, 10, 1)),
        (WHOLE[:4], (0, True, 1, 2)),
        (WHOLE[:5], (0, True, 1, 2)),
        (WHOLE[:6], (0, False, 6, 2)),
        (WHOLE, (0, False, 0, 3)),
    ],
)
def test_states(frames: list[Frame], expected: tuple[int, bool, int, int]) -> None:
    """A field block lasts from its HEADERS frame to the frame that ends it."""
    wire = [frame.serialize() for frame in frames]
    inbox = fed(PREFACE, *wire)
    assert state(inbox) == expected
    assert taken(inbox) == wire


def test_block_begins_with_its_frame_header() -> None:
    """A block whose first frame is unfinished has begun."""
    assert fed(PREFACE, WHOLE[1].serialize()[:9]).in_block
    assert not fed(PREFACE, WHOLE[1].serialize()[:8]).in_block
    assert fed(PREFACE[:-1]).preface_left == 1


@pytest.mark.parametrize(
    "wire, words",
    [
        (b"PRI * HTTP/2.1", "Invalid HTTP/2 preamble."),
        (
            PREFACE + PING + b"\0\x40\x01\6\0\0\0\0\0",
            "A frame of 16385 bytes, where 16384 are most",
        ),
        (PREFACE + PING + b"\0\0\xc6\4\0\0\0\0\0", "Too many settings in one frame"),
        (
            PREFACE + PING + b"\0\0\6\4\1\0\0\0\0",
            "An acknowledgement of SETTINGS that has content",
        ),
        (
            PREFACE + PING + b"\0\0\0\x09\4\0\0\0\1",
            "A CONTINUATION frame that continues nothing",
        ),
    ],
)
def test_refused(wire: bytes, words: str) -> None:
    """What no server takes in is refused as soon as that shows, whatever comes with it."""
    for inbox in fed(wire), fed(wire + bytes(20_000)):
        *frames, last = taken(inbox)
        assert (frames, last) == ([PING] * wire.count(PING), words)


def test_resets_that_wait() -> None:
    """It is known of a frame that comes which streams a later one resets."""
    inbox = fed(PREFACE, *[RstStreamFrame(stream).serialize() for stream in (1, 3)])
    assert inbox.resets == {1, 3}
    inbox.next_frame()
    assert inbox.resets == {3}
