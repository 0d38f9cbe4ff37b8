"""Where the input stands among its frames does not depend on how it was cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, PingFrame
from hypothesis import given
from hypothesis import strategies as st
from support.http2_client import PREFACE

from twisted_hangup.server.http2.frames import FrameWatch


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
WIRE = PREFACE + b"".join(frame.serialize() for frame in WHOLE)


def state(watch: FrameWatch) -> tuple[int, bool, int, int, int]:
    return (watch.preface_left, watch.in_block, watch.block_bytes, watch.blocks, watch.largest)


def fed(*pieces: bytes) -> FrameWatch:
    watch = FrameWatch()
    for piece in pieces:
        watch.feed(piece)
    return watch


@given(st.lists(st.integers(0, len(WIRE)), max_size=8), st.integers(0, len(WIRE)))
def test_cuts_do_not_matter(cuts: list[int], end: int) -> None:
    """Any prefix leaves the same state, cut anyhow or byte by byte."""
    data = WIRE[:end]
    pieces = [data[a:b] for a, b in pairwise([0, *sorted(min(cut, end) for cut in cuts), end])]
    bytewise = [data[at : at + 1] for at in range(end)]
    assert state(fed(*pieces)) == state(fed(data)) == state(fed(*bytewise))


@pytest.mark.parametrize(
    "frames, expected",
    [
        ([], (0, False, 0, 0, 0)),
        (WHOLE[:1], (0, False, 0, 0, 8)),
        (WHOLE[:2], (0, False, 10, 1, 10)),
        (WHOLE[:3], (0, False, 10, 1, 300)),
        (WHOLE[:4], (0, True, 1, 2, 300)),
        (WHOLE[:5], (0, True, 1, 2, 300)),
        (WHOLE[:6], (0, False, 6, 2, 300)),
        (WHOLE, (0, False, 0, 3, 300)),
    ],
)
def test_states(frames: list[Frame], expected: tuple[int, bool, int, int, int]) -> None:
    """A field block lasts from its HEADERS frame to the frame that ends it."""
    assert state(fed(PREFACE, *[frame.serialize() for frame in frames])) == expected


def test_block_begins_with_its_frame_header() -> None:
    """A block whose first frame is unfinished has begun."""
    assert fed(PREFACE, WHOLE[1].serialize()[:9]).in_block
    assert not fed(PREFACE, WHOLE[1].serialize()[:8]).in_block
    assert fed(PREFACE[:-1]).preface_left == 1
