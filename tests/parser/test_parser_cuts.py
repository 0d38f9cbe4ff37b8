"""However the network cuts a stream, the parser says the same; as properties."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import fuzz

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA, BodyData, Break, EndOfMessage, Event, NeedData
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser

#: Small enough that short streams cross them.
TIGHT = Limits(
    head_bytes=60,
    head_fields=3,
    chunk_extension_bytes=6,
    body_bytes=20,
    leading_crlf=2,
    require_host=False,
)
LIMITS = st.sampled_from([Limits(), Limits(require_host=False), TIGHT])

SEEDS = fuzz.seeds()


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Requests, mutated a little: most are near the edge of what is valid."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    stream = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        stream = fuzz.mutate(stream, chance, SEEDS)
    return stream


class Outcome:
    """All that came of a stream, without what depends on the cut."""

    def __init__(self, reads: Sequence[bytes], limits: Limits) -> None:
        self.events: list[Event] = []
        self.error: dict[str, object] | None = None
        self.parser = RequestParser(limits)
        try:
            for data in reads:
                self.parser.receive(data)
                while (event := self.parser.next_event()) is not NEED_DATA:
                    self._add(event)
            self.parser.finish()
        except ParseError as error:
            self.error = self._facts(error)

    def _add(self, event: Event) -> None:
        last = self.events[-1] if self.events else None
        if isinstance(event, BodyData) and isinstance(last, BodyData):
            self.events[-1] = BodyData(last.data + event.data)
        else:
            self.events.append(event)

    def _facts(self, error: ParseError) -> dict[str, object]:
        facts = {name: getattr(error, name) for name in ("code", "reason", "phase", "offset")}
        facts |= {name: getattr(error, name) for name in ("request", "field", "status")}
        assert isinstance(error.broke_at, Break)
        names = ("part", "request_line", "line", "caret")
        return facts | {name: getattr(error.broke_at, name) for name in names}


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@settings(max_examples=400, deadline=None)
@given(streams(), st.lists(st.integers(0, 2000), max_size=6), LIMITS)
def test_cuts_do_not_matter(stream: bytes, places: list[int], limits: Limits) -> None:
    """Events, error and the line that broke are the same, whole, cut, and byte by byte."""
    whole = Outcome([stream], limits)
    for reads in (cut(stream, places), [stream[at : at + 1] for at in range(len(stream))]):
        outcome = Outcome(reads, limits)
        assert outcome.events == whole.events
        assert outcome.error == whole.error


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4), LIMITS)
def test_any_bytes(stream: bytes, places: list[int], limits: Limits) -> None:
    """Whatever bytes come, nothing but a ParseError comes out, and nothing after it."""
    outcome = Outcome(cut(stream, places), limits)
    if outcome.error is not None:
        assert outcome.parser.closed
        assert outcome.parser.next_event() is NEED_DATA


@settings(max_examples=200, deadline=None)
@given(streams(), st.binary(max_size=50), st.integers(0, 2000))
def test_bytes_after_a_message_are_not_touched(stream: bytes, rest: bytes, place: int) -> None:
    """Once a message has ended, what follows waits unjudged, byte for byte."""
    parser = RequestParser(Limits(require_host=False))
    for data in cut(stream + rest, [place]):
        parser.receive(data)
    with suppress(ParseError):
        while not isinstance(parser.next_event(), EndOfMessage | NeedData):
            pass
    left = parser.buffered
    waiting = b"".join(parser.unread())
    assert len(waiting) == left
    assert (stream + rest).endswith(waiting)


@settings(max_examples=200, deadline=None)
@given(streams(), st.lists(st.integers(0, 2000), max_size=4))
def test_bytes_parsed_points_into_the_packet(stream: bytes, places: list[int]) -> None:
    """Packet, place in it, and place in the message fit together."""
    reads = cut(stream, places)
    parser = RequestParser(replace(TIGHT, head_bytes=200))
    before = started = 0
    error: ParseError | None = None
    for data in reads:
        parser.receive(data)
        try:
            while not isinstance(event := parser.next_event(), NeedData):
                if isinstance(event, EndOfMessage):
                    started = before + len(data) - parser.buffered
        except ParseError as caught:
            error = caught
            break
        before += len(data)
    if error is not None:
        assert error.raw_packet == data
        assert error.bytes_parsed is not None
        assert 0 <= error.bytes_parsed <= len(data)
        assert error.offset == before + error.bytes_parsed - started
        assert error.broke_at is not None
        assert error.broke_at.message_at == max(0, started - before)
