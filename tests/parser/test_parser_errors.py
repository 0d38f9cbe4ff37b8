"""What a ParseError tells: packet, places, request, field, and the line that broke."""

from __future__ import annotations

from typing import Final

import pytest
from support.parsing import CHUNKED, bytewise, refusal

from twisted_hangup.errors import (
    UnexpectedEOF,
)
from twisted_hangup.events import NEED_DATA, Break, Part, RequestHead
from twisted_hangup.parser import RequestParser


def test_error_tells_all_it_knows() -> None:
    """A refusal has packet, place, request so far, field, and the line with its caret."""
    first = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    reads = [first + b"\r\nPUT /x HTTP/1.1\r\nA: b\r\nCoo", b"kie: a\x01b\r\n\r\n"]
    error = refusal(reads)
    assert error.raw_packet == reads[1]
    assert error.bytes_parsed == 6
    assert error.offset == len(reads[0]) - len(first) + 6
    assert error.phase == "head"
    assert error.field == b"Cookie"
    assert error.request == RequestHead(b"PUT", b"/x", b"1.1", [(b"A", b"b")])
    assert error.broke_at == Break(
        Part.FIELD, b"PUT /x HTTP/1.1", b"Cookie: a\x01", 9, b"Coo", Part.FIELD, 0
    )


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"\r\n\x16\x03", Break(Part.REQUEST_LINE, b"\x16", b"\x16", 0)),
        (b"\n" * 40, Break(Part.EMPTY_LINE, b"", b"\n", 0)),
        (b"GET / HTTP/1.x", Break(Part.REQUEST_LINE, b"GET / HTTP/1.x", b"GET / HTTP/1.x", 13)),
        (b"GET /  HTTP/1.1", Break(Part.REQUEST_LINE, b"GET /  HTTP/1.1", b"GET /  HTTP/1.1", 15)),
        (b"GET / HTTP/1.1\r\n A: b", Break(Part.FIELD, b"GET / HTTP/1.1", b" ", 0)),
        (b"GET / HTTP/1.1\r\nA: b\r\n c", Break(Part.FIELD, b"GET / HTTP/1.1", b"A: b\r\n ", 6)),
        (
            b"GET / HTTP/1.1\r\nContent-Length: \r\nA",
            Break(Part.FIELD, b"GET / HTTP/1.1", b"Content-Length: ", 16),
        ),
        (b"GET / HTTP/1.1\r\n\r\n", Break(Part.FIELD, b"GET / HTTP/1.1", b"", 0)),
        (
            b"GET / HTTP/1.1\r\nHost:  a b\r\nX: y\r\n\r\n",
            Break(Part.FIELD, b"GET / HTTP/1.1", b"Host:  a b", 10),
        ),
        (CHUNKED + b"5;a\x01", Break(Part.CHUNK_SIZE, b"POST / HTTP/1.1", b"5;a\x01", 3)),
        (CHUNKED + b"1\r\nx\ry", Break(Part.BODY, b"POST / HTTP/1.1", b"\ry", 1)),
        (CHUNKED + b"0\r\nT\x01", Break(Part.TRAILER, b"POST / HTTP/1.1", b"T\x01", 1)),
    ],
)
def test_line_that_broke(wire: bytes, expected: Break) -> None:
    """The line that broke is told up to the byte to blame, the same at any cut."""
    for reads in ([wire], bytewise(wire), *([wire[:at], wire[at:]] for at in range(len(wire)))):
        broke = refusal(reads).broke_at
        assert broke is not None
        assert (broke.part, broke.request_line, broke.line, broke.caret) == (
            expected.part,
            expected.request_line,
            expected.line,
            expected.caret,
        )


PACKETS: Final = [
    ("fresh", [b"GET /\x01"], (b"", Part.REQUEST_LINE, 0)),
    ("empty line first", [b"\r\nGET /\x01"], (b"", Part.EMPTY_LINE, 0)),
    ("after empty lines", [b"\r\n", b"GET /\x01"], (b"", Part.REQUEST_LINE, 0)),
    ("in the target", [b"GET /se", b"cret\x01"], (b"GET /se", Part.REQUEST_LINE, 0)),
    ("in a value", [b"GET / HTTP/1.1\r\nA: b", b"c\r\nD\x01"], (b"A: b", Part.FIELD, 0)),
    ("after a line", [b"GET / HTTP/1.1\r\nA: b\r\n", b"D\x01"], (b"A: b\r\n", Part.FIELD, 0)),
    ("after the request line", [b"GET / HTTP/1.1\r\n", b"D\x01"], (b"", Part.FIELD, 0)),
    ("in a body", [CHUNKED + b"9\r\nab", b"cdefghi\r\nx"], (b"", Part.BODY, 0)),
    ("at a chunk size", [CHUNKED, b"x"], (b"", Part.CHUNK_SIZE, 0)),
    ("in a chunk size", [CHUNKED + b"1;a", b"b\x01"], (b"1;a", Part.CHUNK_SIZE, 0)),
    ("in trailers", [CHUNKED + b"0\r\nT", b"u\x01"], (b"T", Part.TRAILER, 0)),
    (
        "in a second message",
        [b"GET / HTTP/1.1\r\nHo", b"st: a\r\n\r\nGET /\x01"],
        (b"", Part.EMPTY_LINE, 9),
    ),
]


@pytest.mark.parametrize(
    ("reads", "expected"), [case[1:] for case in PACKETS], ids=[case[0] for case in PACKETS]
)
def test_where_the_packet_began(reads: list[bytes], expected: tuple[bytes, Part, int]) -> None:
    """What the packet's first byte belongs to is told, so that secrets in it can be hidden."""
    broke = refusal(reads).broke_at
    assert broke is not None
    assert (broke.packet_prefix, broke.packet_part, broke.message_at) == expected


@pytest.mark.parametrize(
    ("wire", "phase", "field", "line"),
    [
        (b"GE", "head", None, b"GE"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nCook", "head", None, b"Cook"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nCookie: b", "head", b"Cookie", b"Cookie: b"),
        (CHUNKED + b"5\r\nab", "body", None, b""),
        (CHUNKED + b"0\r\nT:", "body", b"T", b"T:"),
    ],
)
def test_end_of_input(wire: bytes, phase: str, field: bytes | None, line: bytes) -> None:
    """An end inside a message says how much there was of it, and where it ended."""
    for reads in ([wire], bytewise(wire)):
        parser = RequestParser()
        parser.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for data in reads:
            parser.receive(data)
            while parser.next_event() is not NEED_DATA:
                pass
        with pytest.raises(UnexpectedEOF) as caught:
            parser.finish()
        error = caught.value
        assert (error.code, error.reason) == ("HPE_INVALID_EOF_STATE", "Invalid EOF state")
        assert (error.raw_packet, error.bytes_parsed, error.offset) == (None, 0, len(wire))
        assert (error.phase, error.field, error.status) == (phase, field, 400)
        assert error.broke_at is not None
        assert (error.broke_at.line, error.broke_at.caret) == (line, len(line))
        assert parser.closed
        parser.finish()


@pytest.mark.parametrize("wire", [b"", b"\r\n\r", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n"])
def test_end_between_messages(wire: bytes) -> None:
    """An end between messages is none of ours, also after empty lines."""
    parser = RequestParser()
    parser.receive(wire)
    while parser.next_event() is not NEED_DATA:
        pass
    parser.finish()
