"""Where every limit breaks: at the byte that crosses it, however the stream is cut."""

from __future__ import annotations

import pytest
from support.parsing import CHUNKED, HOST, bytewise, events, get_with, head_of, refusal

from twisted_hangup.errors import (
    BodyTooLarge,
    ChunkExtensionsOverflow,
    HeaderOverflow,
)
from twisted_hangup.events import BodyData, EndOfMessage, RequestHead
from twisted_hangup.limits import Limits


def head_of_size(size: int) -> bytes:
    """A head that counts *size* bytes: target 1, Host 5, "X" and its value the rest."""
    value = b"v" * (size - 7)
    return b"GET / HTTP/1.1\r\nHost: a\r\nX: " + value + b"\r\n\r\n"


@pytest.mark.parametrize("limit", [100, 16384])
def test_head_of_the_limit_is_one_too_many(limit: int) -> None:
    """As in Node, ``head_bytes`` is the first size refused; at the byte that reaches it."""
    limits = Limits(head_bytes=limit)
    assert head_of(head_of_size(limit - 1), limits).fields[1][0] == b"X"
    wire = head_of_size(limit)
    for reads in ([wire], bytewise(wire), [wire[:70], wire[70:]]):
        error = refusal(reads, limits)
        assert isinstance(error, HeaderOverflow)
        assert error.status == 431
        assert error.offset == len(wire) - 5
        assert error.field == b"X"


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET /" + b"a" * 200, 414),
        (b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET http://" + b"a" * 200, 414),
        (b"CONNECT " + b"a" * 200, 414),
        (b"GET /" + b"a" * 90 + b" HTTP/1.1\r\nHost: " + b"b" * 90, 431),
        (b"GET / " + b" " * 200, 431),
        (CHUNKED + b"0\r\n" + b"n" * 200, 431),
    ],
)
def test_status_of_what_is_too_long(wire: bytes, status: int) -> None:
    """RFC 9112, section 3: 414 where it is the target; code and reason stay the same."""
    for reads in ([wire], bytewise(wire)):
        error = refusal(reads, Limits(head_bytes=100))
        assert (type(error), error.code) == (HeaderOverflow, "HPE_HEADER_OVERFLOW")
        assert error.status == status


@pytest.mark.parametrize(
    ("wire", "offset"),
    [
        (b"GET /" + b"a" * 200, 4 + 99),
        (b"GET /" + b"a" * 200 + b" HTTP/1.1\r\n", 4 + 99),
        (b"GET " + b" " * 200, 4 + 99),
        (b"GET / " + b" " * 200, 6 + 98),
        (b"GET / HTTP/1.1\r\n" + b"n" * 200, 16 + 98),
        (b"GET / HTTP/1.1\r\nA:" + b" " * 200, 18 + 98),
        (b"GET / HTTP/1.1\r\nA: b" + b" " * 200, 20 + 96),
        (b"GET / HTTP/1.1\r\nContent-Length: " + b"0" * 200, 32 + 84),
        (b"GET / HTTP/1.1\r\nContent-Length: 1" + b" " * 200, 33 + 83),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked" + b" " * 200, 42 + 74),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: x" + b"," * 200, 36 + 80),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: x," + b" " * 200, 37 + 79),
        (CHUNKED + b"0\r\n" + b"n" * 200, len(CHUNKED) + 3 + 99),
    ],
)
def test_nothing_in_a_head_grows_without_limit(wire: bytes, offset: int) -> None:
    """Whatever a client repeats, the break is at the byte that reaches the limit."""
    limits = Limits(head_bytes=100)
    for reads in ([wire], bytewise(wire)):
        error = refusal(reads, limits)
        assert error.code == "HPE_HEADER_OVERFLOW"
        assert error.offset == offset


def test_overflow_is_judged_before_what_follows() -> None:
    """A byte that is wrong after the limit is never seen; one in front of it is."""
    limits = Limits(head_bytes=100)
    assert refusal([b"GET /" + b"a" * 99 + b"\x01"], limits).code == "HPE_HEADER_OVERFLOW"
    assert refusal([b"GET /" + b"a" * 98 + b"\x01"], limits).code == "HPE_INVALID_URL"


def test_one_field_too_many() -> None:
    """The field over ``head_fields`` breaks at the first byte of its name."""
    limits = Limits(head_fields=2, require_host=False)
    wire = b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n"
    assert len(head_of(wire + b"\r\n", limits).fields) == 2
    error = refusal([wire + b"E: f\r\n\r\n"], limits)
    assert isinstance(error, HeaderOverflow)
    assert error.offset == len(wire)
    assert refusal([wire + b": f\r\n\r\n"], limits).reason == "Invalid header token"


def test_no_limit_on_fields() -> None:
    """``head_fields=0`` counts none."""
    limits = Limits(head_fields=0, head_bytes=1_000_000)
    wire = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A:\r\n" * 5000 + b"\r\n"
    assert len(head_of(wire, limits).fields) == 5001
    assert events([wire], limits) == events([wire[:100], wire[100:]], limits)


def test_trailers_are_counted_afresh() -> None:
    """Trailers have the head's limits, not what the head has left of them."""
    limits = Limits(head_bytes=100, head_fields=2)
    wire = CHUNKED + b"0\r\nT: " + b"t" * 90 + b"\r\nU:\r\n"
    end = events([wire + b"\r\n"], limits)[-1]
    assert isinstance(end, EndOfMessage)
    assert len(end.trailers) == 2
    error = refusal([wire + b"V:\r\n"], limits)
    assert (error.code, error.phase, error.offset) == ("HPE_HEADER_OVERFLOW", "body", len(wire))


def test_chunk_extensions() -> None:
    """A chunk's extensions break at the first byte over the limit; the next chunk's count anew."""
    limits = Limits(chunk_extension_bytes=10)
    fitting = CHUNKED + b'1;abc=d;e="\\f"\r\nx\r\n'
    assert len(events([fitting + b"1;0123456789\r\nx\r\n"], limits)) == 3
    wire = CHUNKED + b"1;abcde=01234"
    for reads in ([wire + b"5"], bytewise(wire + b"5\x01")):
        error = refusal(reads, limits)
        assert isinstance(error, ChunkExtensionsOverflow)
        assert error.status == 413
        assert error.offset == len(wire)


def test_extensions_without_a_name_count() -> None:
    """An empty name, which llhttp takes, is not a way around the limit."""
    error = refusal([CHUNKED + b"1" + b";" * 200], Limits(chunk_extension_bytes=10))
    assert error.code == "HPE_CHUNK_EXTENSIONS_OVERFLOW"
    assert error.offset == len(CHUNKED) + 12


def test_announced_body_too_large() -> None:
    """A body over ``body_bytes`` is refused after the head that announces it."""
    limits = Limits(body_bytes=10)
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    assert head_of(wire % 10, limits).content_length == 10
    error = refusal([wire % 11 + b"x" * 11], limits)
    assert isinstance(error, BodyTooLarge)
    assert (error.status, error.field) == (413, b"Content-Length")
    assert error.offset == len(wire % 11)


def test_chunked_body_too_large() -> None:
    """A chunk that takes the body over ``body_bytes`` is refused before its data."""
    limits = Limits(body_bytes=10)
    wire = CHUNKED + b"6\r\n012345\r\n4\r\n6789\r\n"
    assert BodyData(b"0123456789") in events([wire + b"0\r\n\r\n"], limits)
    error = refusal([wire + b"1\r\nx"], limits)
    assert isinstance(error, BodyTooLarge)
    assert (error.status, error.phase, error.offset) == (413, "body", len(wire) + 3)


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
def test_empty_lines(end: bytes) -> None:
    """Up to ``leading_crlf`` empty lines are skipped; two bytes make one."""
    limits = Limits(leading_crlf=4)
    most = end * (8 // len(end))
    wire = get_with(HOST[:-2])
    assert isinstance(events([most + wire], limits)[0], RequestHead)
    for reads in ([most + end + wire], bytewise(most + end)):
        error = refusal(reads, limits)
        assert error.code == "ERR_HTTP_TOO_MANY_EMPTY_LINES"
        assert error.offset == 8
    later = refusal([most + wire + most + end], limits)
    assert later.offset == 8
    assert later.bytes_parsed == len(most + wire) + 8
