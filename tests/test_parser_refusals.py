"""What the parser refuses of its own accord, and where every limit breaks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import pytest

from twisted_hangup.errors import (
    BodyTooLarge,
    ChunkExtensionsOverflow,
    HeaderOverflow,
    ParseError,
    UnexpectedEOF,
)
from twisted_hangup.events import NEED_DATA, Break, EndOfMessage, Event, Part, RequestHead
from twisted_hangup.limits import NODE_METHODS, Limits
from twisted_hangup.parser import RequestParser

HOST: Final = b"Host: a\r\n"
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def events(reads: Iterable[bytes], limits: Limits | None = None) -> list[Event]:
    """All that comes out of *reads*."""
    parser = RequestParser(limits or Limits())
    out: list[Event] = []
    for data in reads:
        parser.receive(data)
        while (event := parser.next_event()) is not NEED_DATA:
            out.append(event)
    return out


def head_of(data: bytes, limits: Limits | None = None) -> RequestHead:
    """The head that comes out of *data* first."""
    head = events([data], limits)[0]
    assert isinstance(head, RequestHead)
    return head


def refusal(reads: Iterable[bytes], limits: Limits | None = None) -> ParseError:
    """The error that *reads* end in."""
    with pytest.raises(ParseError) as caught:
        events(reads, limits)
    return caught.value


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


class Refused(NamedTuple):
    """One thing that llhttp lets through; the error stands behind *wire*."""

    what: str
    wire: bytes
    code: str
    reason: str
    field: bytes | None = None


URL: Final = "HPE_INVALID_URL"
VERSION: Final = "HPE_INVALID_VERSION"
CODING: Final = "HPE_INVALID_TRANSFER_ENCODING"
FORM: Final = "Request target in none of the four forms"
FRAGMENT: Final = "Fragment in the request target"
SPACES: Final = "More than one space in the request line"
ONLY_CHUNKED: Final = "Transfer-Encoding other than a single `chunked`"


def behind_head(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"GET / HTTP/" + version + b"\r\n" + b"".join(line + b"\r\n" for line in (*lines, b""))


REFUSED: Final = [
    Refused("0.9 with CRLF", b"GET /x\r\n", VERSION, "HTTP/0.9 is not supported"),
    Refused("0.9 with LF", b"GET /x\n", VERSION, "HTTP/0.9 is not supported"),
    Refused("0.9 by name", b"GET / HTTP/0.9", VERSION, "Invalid HTTP version"),
    Refused("2.0", b"GET / HTTP/2.0", VERSION, "Invalid HTTP version"),
    Refused("version before protocol", b"GET / RTSP/2.0", VERSION, "Invalid HTTP version"),
    Refused("RTSP", b"SETUP / RTSP/1.0", "HPE_INVALID_CONSTANT", "Expected HTTP/"),
    Refused("ICE", b"SOURCE / ICE/1.0", "HPE_INVALID_CONSTANT", "Expected HTTP/"),
    Refused("protocol before spaces", b"GET  / RTSP/1.0", "HPE_INVALID_CONSTANT", "Expected HTTP/"),
    Refused("two spaces before target", b"GET  / HTTP/1.1", URL, SPACES),
    Refused("two spaces before version", b"GET /  HTTP/1.1", URL, SPACES),
    Refused("spaces before target form", b"GET  *x HTTP/1.1", URL, SPACES),
    Refused("fragment", b"GET /#a HTTP/1.1", URL, FRAGMENT),
    Refused(
        "fragment of a URL", b"GET http://a/#a HTTP/1.1", URL, "Fragment in the request target"
    ),
    Refused("star and more", b"OPTIONS *a HTTP/1.1", URL, FORM),
    Refused("no authority", b"GET http:///a HTTP/1.1", URL, FORM),
    Refused("authority of a port", b"GET http://:80/ HTTP/1.1", URL, FORM),
    Refused("authority of userinfo", b"GET http://u@/ HTTP/1.1", URL, FORM),
    Refused("query behind no authority", b"GET http://?a HTTP/1.1", URL, FORM),
    Refused("not an IP literal", b"GET http://[x]/ HTTP/1.1", URL, FORM),
    Refused("port of letters", b"GET http://a:b/ HTTP/1.1", URL, FORM),
    Refused("half an escape", b"GET http://a%2/ HTTP/1.1", URL, FORM),
    Refused(
        "coding in 1.0",
        behind_head(b"Transfer-Encoding: chunked", version=b"1.0"),
        CODING,
        "Transfer-Encoding in an HTTP/1.0 request",
        b"Transfer-Encoding",
    ),
    Refused(
        "two codings",
        behind_head(HOST[:-2], b"transfer-encoding: gzip, chunked"),
        CODING,
        ONLY_CHUNKED,
        b"transfer-encoding",
    ),
    Refused(
        "codings in two fields",
        behind_head(b"Transfer-Encoding: gzip", b"TRANSFER-ENCODING: chunked"),
        CODING,
        ONLY_CHUNKED,
        b"TRANSFER-ENCODING",
    ),
    Refused(
        "coding in an upgrade",
        behind_head(b"Transfer-Encoding: gzip", b"Upgrade: x", b"Connection: upgrade"),
        CODING,
        ONLY_CHUNKED,
        b"Transfer-Encoding",
    ),
    Refused(
        "length of 2**63",
        behind_head(b"Content-Length: 9223372036854775808"),
        "HPE_INVALID_CONTENT_LENGTH",
        "Content-Length overflow",
        b"Content-Length",
    ),
    Refused("no Host", behind_head(b"A: b"), "ERR_HTTP_HOST_REQUIRED", "Missing Host"),
    Refused(
        "two Hosts",
        behind_head(b"Host: a", b"HOST: a"),
        "ERR_HTTP_INVALID_HOST",
        "More than one Host",
        b"HOST",
    ),
    *(
        Refused(
            f"Host {value!r}",
            behind_head(b"Host: " + value),
            "ERR_HTTP_INVALID_HOST",
            "Invalid Host",
            b"Host",
        )
        for value in (
            *(b"a b", b"a,b:c", b"a/b", b"u@a", b"a:b", b"a:1:2", b"\xff", b"%zz", b"a%2"),
            *(b"::1", b"[::1", b"[::1]x", b"[1:2]", b"[::1%25eth0]", b"[v1]", b'"a"'),
        )
    ),
    Refused(
        "framing before Host",
        behind_head(b"Transfer-Encoding: gzip, chunked"),
        CODING,
        ONLY_CHUNKED,
        b"Transfer-Encoding",
    ),
    Refused(
        "17 digits of chunk size",
        CHUNKED + b"00000000000000001",
        "HPE_INVALID_CHUNK_SIZE",
        "Chunk size overflow",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.what)
def test_refused(case: Refused) -> None:
    """What RFC 9112 forbids is refused where its element ends, however it is cut."""
    for reads in ([case.wire + b"X"], bytewise(case.wire)):
        error = refusal(reads)
        assert (error.code, error.reason) == (case.code, case.reason)
        assert error.offset == len(case.wire)
        assert error.field == case.field
        assert error.status == 400


ACCEPTED: Final = [
    b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \t a:80 \t\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a%20b.c_d~!$&'()*+,;=:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 1.2.3.4:0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [1:2:3:4:5:6:1.2.3.4]\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [v1.a:b]\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a b\r\nHost: c\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://u:p%20@a.b:80/c?d HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://[::1]?d HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9223372036854775807\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\t CHUNKED \r\n\r\n",
    CHUNKED + b"0000000000000000\r\n\r\n",
    CHUNKED + b"ffffffffffffffff\r\n",
]


@pytest.mark.parametrize("wire", ACCEPTED)
def test_accepted(wire: bytes) -> None:
    """What RFC 9112 allows is not refused for resembling what it forbids."""
    whole, cut = events([wire]), events(bytewise(wire))
    assert isinstance(whole[0], RequestHead)
    assert whole == cut


def test_host_is_not_required_where_it_is_turned_off() -> None:
    """Without ``require_host`` neither a missing nor an odd Host is refused."""
    lax = Limits(require_host=False)
    for lines in ([], [b"Host: a", b"Host: b"], [b"Host: a b"]):
        assert head_of(behind_head(*lines), lax).version == b"1.1"


def test_http2_preface_keeps_nodes_words() -> None:
    """PRI is exempt from the rules for versions and targets: Node has words of its own."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    error = refusal([preface])
    assert (error.code, error.offset) == ("HPE_PAUSED_H2_UPGRADE", 24)
    error = refusal([b"PRI * HTTP/2.0\r\nHost: a"])
    assert error.reason == "Expected HTTP/2 Connection Preface"
    assert error.offset == 16


# --- limits -----------------------------------------------------------------------------


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
    ("wire", "offset"),
    [
        (b"GET /" + b"a" * 200, 4 + 99),
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
    """A byte that is wrong behind the limit is never seen; one in front of it is."""
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
    """A body over ``body_bytes`` is refused behind the head that announces it."""
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
    assert len(events([wire + b"0\r\n\r\n"], limits)) == 4
    error = refusal([wire + b"1\r\nx"], limits)
    assert isinstance(error, BodyTooLarge)
    assert (error.status, error.phase, error.offset) == (413, "body", len(wire) + 3)


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
def test_empty_lines(end: bytes) -> None:
    """Up to ``leading_crlf`` empty lines are skipped; two bytes make one."""
    limits = Limits(leading_crlf=4)
    most = end * (8 // len(end))
    wire = behind_head(HOST[:-2])
    assert isinstance(events([most + wire], limits)[0], RequestHead)
    for reads in ([most + end + wire], bytewise(most + end)):
        error = refusal(reads, limits)
        assert error.code == "ERR_HTTP_TOO_MANY_EMPTY_LINES"
        assert error.offset == 8
    later = refusal([most + wire + most + end], limits)
    assert later.offset == 8
    assert later.bytes_parsed == len(most + wire) + 8


# --- methods ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(NODE_METHODS))
def test_methods_of_node(method: bytes) -> None:
    """Every method in Node's list is accepted."""
    target = b"a:80" if method == b"CONNECT" else b"/"
    assert head_of(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n").method == method


def test_methods_of_the_operator() -> None:
    """An operator's method is accepted, also one that starts as another does."""
    limits = Limits(methods=frozenset({b"GET", b"GETALL", b"x-y"}))
    for method in (b"GET", b"GETALL", b"x-y"):
        wire = method + b" / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert head_of(wire, limits).method == method
        assert events(bytewise(wire), limits) == events([wire], limits)
    assert refusal([b"POST"], limits).offset == 1  # PLAY goes on
    assert refusal([b"DELETE"], limits).offset == 2  # DESCRIBE goes on
    assert refusal([b"PLAY / HTTP/1.1"], limits).reason == "Invalid method for HTTP/x.x request"
    assert refusal([b"GETA "], limits).reason == "Invalid method encountered"


# --- the error --------------------------------------------------------------------------


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
    ("behind empty lines", [b"\r\n", b"GET /\x01"], (b"", Part.REQUEST_LINE, 0)),
    ("in the target", [b"GET /se", b"cret\x01"], (b"GET /se", Part.REQUEST_LINE, 0)),
    ("in a value", [b"GET / HTTP/1.1\r\nA: b", b"c\r\nD\x01"], (b"A: b", Part.FIELD, 0)),
    ("behind a line", [b"GET / HTTP/1.1\r\nA: b\r\n", b"D\x01"], (b"A: b\r\n", Part.FIELD, 0)),
    ("behind the request line", [b"GET / HTTP/1.1\r\n", b"D\x01"], (b"", Part.FIELD, 0)),
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
    """An end between messages is none of ours, also behind empty lines."""
    parser = RequestParser()
    parser.receive(wire)
    while parser.next_event() is not NEED_DATA:
        pass
    parser.finish()
