"""What holds for all responses: cuts do not matter, a strict writer is read back, and
nothing held grows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import fuzz, responses
from oracle.response_cases import CASES
from oracle.responses import Message, Stream
from support.messages import AFTER_VALUE, BEFORE_VALUE, EXTENSIONS, fields
from support.parsing import own_size

from twisted_hangup.errors import ResponseParseError
from twisted_hangup.events import NEED_DATA, BodyData, Break, ResponseEvent
from twisted_hangup.limits import Limits
from twisted_hangup.parser.response import ResponseParser
from twisted_hangup.report.lookalikes import Lookalike, lookalike_of

#: Small enough that short streams cross them.
TIGHT: Final = Limits(head_bytes=60, head_fields=3, chunk_extension_bytes=6, leading_crlf=2)
METHODS: Final = st.sampled_from([b"GET", b"HEAD", b"CONNECT"])
SOURCES: Final = [case.stream for case in CASES if case.stream]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Responses, mutated a little: most are near the edge of what is valid."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    stream = draw(st.sampled_from(SOURCES))
    for _ in range(draw(st.integers(0, 4))):
        stream = fuzz.mutate(stream, chance, SOURCES)
    return stream


class Outcome:
    """All that came of one response and what comes after it, without what depends on the cut."""

    def __init__(self, reads: Sequence[bytes], method: bytes, upgrade: bool, limits: Limits):
        self.events: list[ResponseEvent | None] = []
        self.error: dict[str, object] | None = None
        self.report = ""
        self.lookalike: Lookalike | None = None
        self.parser = ResponseParser(limits)
        self.parser.expect(method, upgrade=upgrade)
        try:
            for data in reads:
                self.parser.receive(data)
                while (event := self.parser.next_event()) is not NEED_DATA:
                    self._add(event)
            self.events.append(self.parser.finish())
        except ResponseParseError as error:
            self.error = self._facts(error)
            self.report = error.report()
            self.lookalike = lookalike_of(error)

    def _add(self, event: ResponseEvent) -> None:
        last = self.events[-1] if self.events else None
        if isinstance(event, BodyData) and isinstance(last, BodyData):
            self.events[-1] = BodyData(last.data + event.data)
        else:
            self.events.append(event)

    def _facts(self, error: ResponseParseError) -> dict[str, object]:
        facts = {name: getattr(error, name) for name in ("code", "reason", "phase", "offset")}
        facts |= {name: getattr(error, name) for name in ("response", "field")}
        assert isinstance(error.broke_at, Break)
        names = ("part", "request_line", "line", "caret")
        return facts | {name: getattr(error.broke_at, name) for name in names}


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@settings(max_examples=400, deadline=None)
@given(
    streams(),
    METHODS,
    st.booleans(),
    st.lists(st.integers(0, 300), max_size=6),
    st.sampled_from([Limits(), TIGHT]),
)
def test_cuts_do_not_matter(
    stream: bytes, method: bytes, upgrade: bool, places: list[int], limits: Limits
) -> None:
    """Events, error and report are the same: whole, cut, and byte by byte."""
    whole = Outcome([stream], method, upgrade, limits)
    for reads in (cut(stream, places), [stream[at : at + 1] for at in range(len(stream))]):
        outcome = Outcome(reads, method, upgrade, limits)
        assert outcome.events == whole.events
        assert outcome.error == whole.error
        if outcome.lookalike == whole.lookalike:  # which know the more, the more a read brings
            assert outcome.report == whole.report
        if outcome.error is not None:
            assert outcome.parser.next_event() is NEED_DATA


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), METHODS, st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes(stream: bytes, method: bytes, places: list[int]) -> None:
    """Whatever bytes come, nothing but a ResponseParseError comes out."""
    Outcome(cut(stream, places), method, False, TIGHT)
    Outcome(cut(b"HTTP/1.1 200 OK\r\n" + stream, places), method, True, TIGHT)


REASONS: Final = st.text("".join(map(chr, [9, *range(32, 127), *range(128, 256)])), max_size=12)


@st.composite
def written(draw: st.DrawFn) -> tuple[Message, bytes]:
    """A response, and one of the ways to write it that RFC 9112 allows a server."""
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    status = draw(st.integers(200, 599).filter(lambda status: status not in (204, 304)))
    reason = draw(REASONS).encode("latin-1")
    lines = draw(fields())
    if version == b"1.0":
        lines.append((b"Connection", b"keep-alive"))
    body = framed = draw(st.binary(max_size=40))
    trailers = []
    framing = draw(st.sampled_from(["close", "length"] + ["chunked"] * (version == b"1.1")))
    if framing == "length":
        lines.append((b"Content-Length", b"%d" % len(body)))
    elif framing == "chunked":
        chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
        body, trailers, framed = b"".join(chunks), draw(fields()), b""
        for chunk in chunks:
            framed += b"%x" % len(chunk) + draw(EXTENSIONS) + b"\r\n" + chunk + b"\r\n"
        framed += b"0" + draw(EXTENSIONS) + b"\r\n" + _section(draw, trailers)
        lines.append((b"Transfer-Encoding", b"chunked"))
    lines = draw(st.permutations(lines))
    wire = b"HTTP/%b %d %b\r\n" % (version, status, reason) + _section(draw, lines) + framed
    keep_alive = framing != "close"
    message = Message(
        status, reason, version, lines, keep_alive, False, body, trailers, complete=True
    )
    return message, wire


def _section(draw: st.DrawFn, lines: list[tuple[bytes, bytes]]) -> bytes:
    """A field section; around a value may stand white space."""
    wire = b""
    for name, value in lines:
        wire += name + b":" + draw(BEFORE_VALUE) + value + draw(AFTER_VALUE) + b"\r\n"
    return wire + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(written(), st.lists(st.integers(0, 300), max_size=4))
def test_what_a_strict_writer_writes_is_read_back(
    response: tuple[Message, bytes], places: list[int]
) -> None:
    """A response written as RFC 9112 has it comes out as it went in, at any cut."""
    message, wire = response
    verdict = responses.ours(Stream("GET", cut(wire, places)))
    assert (verdict.messages, verdict.error) == ([message], None)


_HEAD: Final = b"HTTP/1.1 200 OK\r\n"

#: Where a server may go on for ever, if nobody stops it.
STARTS: Final = [
    *(b"", b"HTTP/1.1 200", b"HTTP/1.1 200 ", _HEAD, _HEAD + b"X", _HEAD + b"X: "),
    *(_HEAD + b"Content-Length: ", _HEAD + b"Transfer-Encoding: ", _HEAD + b"\r\n"),
    _HEAD + b"Content-Length: 999999\r\n\r\n",
    *(
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + rest
        for rest in (b"", b"1", b"1;a", b"1;a=", b'1;a="', b"ffff\r\n", b"0\r\n", b"0\r\nT: ")
    ),
]
RUNS: Final = [
    *(b"a", b"0", b" ", b"\t", b"\r\n", b"\n", b",", b";a", b";", b"\\", b"a ", b"A:\r\n"),
    *(b"1\r\nx\r\n", b"1;a\r\nx\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"HTTP/1.1 103 C\r\nA: b\r\n\r\n"),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STARTS), st.sampled_from(RUNS), st.integers(1, 600))
def test_what_is_held_is_bounded_by_the_limits(start: bytes, run: bytes, size: int) -> None:
    """Whatever a server goes on sending, a parser holds the head so far and little more."""
    parser = ResponseParser(TIGHT)
    parser.expect(b"GET")
    stream = start + run * (6000 // len(run))
    with suppress(ResponseParseError):
        for at in range(0, len(stream), size):
            parser.receive(stream[at : at + size])
            while parser.next_event() is not NEED_DATA:
                pass
            assert parser.buffered == 0
            assert own_size(parser) < 3000
    assert own_size(parser) < 3000
