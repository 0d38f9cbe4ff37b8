"""What holds for all requests: a strict writer is read back, and nothing held grows.

That cuts do not matter, and what comes of any bytes, is in ``test_parser_cuts``.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ours
from oracle.node import Message
from support.messages import (
    AFTER_VALUE,
    BEFORE_VALUE,
    EXTENSIONS,
    ascii_text,
    fields,
)
from support.parsing import own_size

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA
from twisted_hangup.limits import NODE_METHODS, Limits
from twisted_hangup.parser import RequestParser

TARGETS: Final = st.one_of(
    ascii_text("".join(map(chr, range(0x21, 0x7F))).replace("#", "")).map(lambda t: b"/" + t),
    st.sampled_from([b"http://a.example:80/b?c", b"https://[::1]", b"http://u@h/"]),
)
HOSTS: Final = st.sampled_from([b"", b"a", b"a.example:8080", b"[2001:db8::1]", b"192.0.2.1:"])
METHODS: Final = st.sampled_from(sorted(NODE_METHODS - {b"CONNECT"}))


@st.composite
def requests(draw: st.DrawFn) -> tuple[Message, bytes]:
    """A request, and one of the ways to write it that RFC 9112 allows a client."""
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    lines = [(b"Host", draw(HOSTS)), *draw(fields())]
    if version == b"1.0":
        lines.append((b"Connection", b"keep-alive"))
    body, trailers, framed = b"", [], b""
    framing = draw(st.sampled_from(["none", "length"] + ["chunked"] * (version == b"1.1")))
    if framing == "length":
        body = framed = draw(st.binary(max_size=40))
        lines.append((b"Content-Length", b"%d" % len(body)))
    elif framing == "chunked":
        chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
        body, trailers = b"".join(chunks), draw(fields())
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"]))
        for chunk in chunks:
            framed += size % len(chunk) + draw(EXTENSIONS) + b"\r\n" + chunk + b"\r\n"
        framed += b"0" + draw(EXTENSIONS) + b"\r\n" + _section(draw, trailers)
        lines.append((b"Transfer-Encoding", b"chunked"))
    lines = draw(st.permutations(lines))
    asked = st.tuples(METHODS, TARGETS) | st.just((b"OPTIONS", b"*"))
    method, target = draw(asked)
    wire = b"%b %b HTTP/%b\r\n" % (method, target, version) + _section(draw, lines) + framed
    message = Message(method, target, version, lines, True, False, body, trailers, complete=True)
    return message, wire


def _section(draw: st.DrawFn, lines: list[tuple[bytes, bytes]]) -> bytes:
    """A field section; around a value may stand white space."""
    wire = b""
    for name, value in lines:
        wire += name + b":" + draw(BEFORE_VALUE) + value + draw(AFTER_VALUE) + b"\r\n"
    return wire + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), max_size=3), st.lists(st.integers(0, 1000), max_size=4))
def test_what_a_strict_writer_writes_is_read_back(
    written: list[tuple[Message, bytes]], places: list[int]
) -> None:
    """Requests written as RFC 9112 has it come out as they went in, at any cut."""
    stream = b"".join(wire for _, wire in written)
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    reads = [stream[start:end] for start, end in pairwise(edges)]
    verdict = ours.judge(reads, Limits())
    assert verdict.error is None
    assert verdict.messages == [message for message, _ in written]


TIGHT: Final = Limits(
    head_bytes=100, head_fields=4, chunk_extension_bytes=20, leading_crlf=4, require_host=False
)

#: Where a client may go on for ever, if nobody stops it.
STARTS: Final = [
    *(b"", b"GET ", b"GET /", b"GET http://", b"GET / ", b"GET / HTTP/1.1\r\n"),
    *(b"GET / HTTP/1.1\r\nX", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nContent-Length: "),
    *(b"GET / HTTP/1.1\r\nTransfer-Encoding: ", b"GET / HTTP/1.1\r\nConnection: "),
    b"POST / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n",
    *(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + rest
        for rest in (b"", b"1", b"1;a", b"1;a=", b'1;a="', b"ffff\r\n", b"0\r\n", b"0\r\nT: ")
    ),
]
RUNS: Final = [
    *(b"a", b"0", b" ", b"\t", b"\r\n", b"\n", b",", b";a", b";", b"\\", b"a ", b"A:\r\n"),
    *(b"1\r\nx\r\n", b"1;a\r\nx\r\n", b"GET / HTTP/1.1\r\n\r\n"),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STARTS), st.sampled_from(RUNS), st.integers(1, 600))
def test_what_is_held_is_bounded_by_the_limits(start: bytes, run: bytes, size: int) -> None:
    """Whatever a client goes on sending, a parser holds the head so far and little more."""
    parser = RequestParser(TIGHT)
    stream = start + run * (6000 // len(run))
    with suppress(ParseError):
        for at in range(0, len(stream), size):
            parser.receive(stream[at : at + size])
            while parser.next_event() is not NEED_DATA:
                pass
            assert parser.buffered == 0
            assert own_size(parser) < 3000
    assert own_size(parser) < 3000
