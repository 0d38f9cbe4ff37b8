"""A report says what a client did wrong to a person who has never seen the code."""

from __future__ import annotations

from itertools import pairwise
from textwrap import dedent
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from twisted_hangup.errors import (
    ClientError,
    ClientHangUp,
    HTTP2Error,
    ParseError,
    Phase,
    RecordedError,
    RequestTimeout,
    TLSError,
    UnexpectedEOF,
)
from twisted_hangup.events import NEED_DATA, Break, Part, RequestHead
from twisted_hangup.parser import RequestParser
from twisted_hangup.report import WIDTH, field_of, masked_packet, report_error, request_line_of
from twisted_hangup.report.masking import MaskingPolicy
from twisted_hangup.report.text import peer_text, shortened, visible


def broken(*reads: bytes) -> ParseError:
    """The error that *reads*, and then the end of input, raise."""
    with pytest.raises(ParseError) as caught:
        parse(*reads)
    return caught.value


def parse(*reads: bytes) -> None:
    parser = RequestParser()
    for read in reads:
        parser.receive(read)
        while parser.next_event() is not NEED_DATA:
            pass
    parser.finish()


#: What a client sent, and the whole report.
REPORTS: Final = [
    (
        b"GET /search HTTP/1.1\r\nHost: example.org\r\nX-Trace: ab\x01cd\r\n\r\n",
        r"""
        HPE_INVALID_HEADER_TOKEN: Invalid header value char  (default answer 400)
          GET /search HTTP/1.1
          X-Trace: ab\x01
                     ^^^^ byte 52: 0x01
        In the value of header field "X-Trace": a control character other than tab is
        not allowed in a field value. RFC 9110, section 5.5.
        python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN
        """,
    ),
    (
        b"GET /?token=abc HTTP/1.1\r\nHost: a\r\nCookie: session=secret\x00; b=c\r\n\r\n",
        r"""
        HPE_INVALID_HEADER_TOKEN: Invalid header value char  (default answer 400)
          GET /?********* HTTP/1.1
          Cookie: **************\x00
                                ^^^^ byte 57: 0x00 (NUL)
        In the value of header field "Cookie": a control character other than tab is not
        allowed in a field value. RFC 9110, section 5.5.
        python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN
        """,
    ),
    (
        b"GET /my file.txt HTTP/1.1\r\n\r\n",
        """
        HPE_INVALID_CONSTANT: Expected HTTP/, RTSP/ or ICE/  (default answer 400)
          GET /my f
                  ^ byte 8: 0x66 (f)
        In the request line: HTTP/1.1 comes after the method, a space, the target and a
        space; a space inside the target has to be written %20. RFC 9112, section 3.
        python -m twisted_hangup code HPE_INVALID_CONSTANT
        """,
    ),
    (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        r"""
        HPE_INVALID_METHOD: Invalid method encountered  (default answer 400)
          \x16
          ^^^^ byte 0: 0x16
        In the request line: a request starts with a method (GET, POST, ...), which is
        one of a known list and in upper case. RFC 9112, section 3.1. It looks like a
        TLS hello. A TLS handshake starts with 0x16: the client probably speaks HTTPS to
        a port that serves plain HTTP. Use http:// in the client's URL, or https:// with
        a port that serves TLS (--port ssl:...).
        python -m twisted_hangup code tls-hello
        """,
    ),
    (
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        r"""
        ERR_HTTP_INVALID_HOST: Invalid Host  (default answer 400)
          GET / HTTP/1.1
          Host: a\x20
                 ^^^^ 0x20 (space)
        In the value of header field "Host": a Host is a host name or an address (an
        IPv6 address in brackets), with a colon and a port if need be, such as
        example.org:8080; it is not a URL and not a list. RFC 9110, section 7.2.
        python -m twisted_hangup code ERR_HTTP_INVALID_HOST
        """,
    ),
    (
        b"GET / HTTP/1.1\r\n\r\n",
        """
        ERR_HTTP_HOST_REQUIRED: Missing Host  (default answer 400)
          GET / HTTP/1.1
        In the header fields: there is no Host, and an HTTP/1.1 request has to have one,
        even if its target is a whole URL. RFC 9112, section 3.2.
        python -m twisted_hangup code ERR_HTTP_HOST_REQUIRED
        """,
    ),
    (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 300 + b"\x7f",
        r"""
        HPE_INVALID_HEADER_TOKEN: Invalid header value char  (default answer 400)
          GET / HTTP/1.1
          X-Long: xxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\x7f
                                                               byte 333: 0x7f (DEL) ^^^^
        In the value of header field "X-Long": a control character other than tab is not
        allowed in a field value. RFC 9110, section 5.5.
        python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN
        """,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello world",
        r"""
        HPE_STRICT: Expected LF after chunk data  (default answer 400)
          POST / HTTP/1.1
          \x20
          ^^^^ byte 64: 0x20 (space)
        In the body: a chunk is as many bytes as its size said, and then CR LF (0x0d
        0x0a); here something else follows, so its size or its end is wrong. RFC 9112,
        section 7.1.
        python -m twisted_hangup code HPE_STRICT
        """,
    ),
    (
        b"GET / HTTP/1.1\r\nHost: exam",
        """
        HPE_INVALID_EOF_STATE: Invalid EOF state  (default answer 400)
          GET / HTTP/1.1
          Host: exam
                    ^ the input ends here
        In the value of header field "Host": the client ended its input before the
        request was complete; 26 bytes of it had come. RFC 9112, section 8.
        python -m twisted_hangup code HPE_INVALID_EOF_STATE
        """,
    ),
]


def text(report: str) -> str:
    return dedent(report).strip("\n")


@pytest.mark.parametrize("wire, report", REPORTS, ids=lambda case: str(case).split(":")[0].strip())
def test_report_reads(wire: bytes, report: str) -> None:
    """Code, the line up to the byte, a caret under it, the rule in words and its section."""
    assert broken(wire).report() == text(report)


HEAD: Final = RequestHead(b"GET", b"/big?token=abc", b"1.1", [(b"Host", b"a"), (b"A", b"b")])

SILENT: Final[list[tuple[ClientError, str]]] = [
    (
        RequestTimeout("Request timeout", code="ERR_HTTP_REQUEST_TIMEOUT", phase="idle"),
        """
        ERR_HTTP_REQUEST_TIMEOUT: Request timeout  (not answered)
        The client sent nothing within Timeouts.head_seconds of connecting. RFC 9110,
        section 15.5.9.
        python -m twisted_hangup code ERR_HTTP_REQUEST_TIMEOUT
        """,
    ),
    (
        RequestTimeout(
            "Request timeout",
            code="ERR_HTTP_REQUEST_TIMEOUT",
            phase="head",
            broke_at=Break(Part.REQUEST_LINE, b"GET /big?to", b"GET /big?to", 11),
        ),
        """
        ERR_HTTP_REQUEST_TIMEOUT: Request timeout  (default answer 408)
          GET /big?**
                     ^ nothing more came
        The head was not complete within Timeouts.head_seconds. RFC 9110, section
        15.5.9.
        python -m twisted_hangup code ERR_HTTP_REQUEST_TIMEOUT
        """,
    ),
    (
        RequestTimeout(
            "Request timeout", code="ERR_HTTP_REQUEST_TIMEOUT", phase="body", request=HEAD
        ),
        """
        ERR_HTTP_REQUEST_TIMEOUT: Request timeout  (default answer 408)
          GET /big?********* HTTP/1.1
          and 2 header fields
        The head came in time; the body was not complete within
        Timeouts.request_seconds. RFC 9110, section 15.5.9.
        python -m twisted_hangup code ERR_HTTP_REQUEST_TIMEOUT
        """,
    ),
    (
        ClientHangUp("read ECONNRESET", code="ECONNRESET", phase="response", request=HEAD),
        """
        ECONNRESET: read ECONNRESET  (not answered)
          GET /big?********* HTTP/1.1
          and 2 header fields
        After the request, before its response was complete: the client reset the
        connection.
        python -m twisted_hangup code ECONNRESET
        """,
    ),
    (
        TLSError("http request", code="ERR_SSL_HTTP_REQUEST", phase="handshake"),
        """
        ERR_SSL_HTTP_REQUEST: http request  (not answered)
        During the TLS handshake: the client speaks plain HTTP to a port that serves
        HTTPS; its URL has to start with https://. RFC 9110, section 4.2.2.
        python -m twisted_hangup code ERR_SSL_HTTP_REQUEST
        """,
    ),
    (
        TLSError("no shared cipher", code="ERR_SSL_NO_SHARED_CIPHER", phase="handshake"),
        """
        ERR_SSL_NO_SHARED_CIPHER: no shared cipher  (not answered)
        During the TLS handshake: the TLS handshake failed, or a TLS record was corrupt.
        RFC 8446, section 6.
        python -m twisted_hangup code ERR_SSL_NO_SHARED_CIPHER
        """,
    ),
    (
        HTTP2Error("flow\x1b[31m", code="ERR_HTTP2_FLOW_CONTROL_ERROR", phase="head"),
        r"""
        ERR_HTTP2_FLOW_CONTROL_ERROR: flow\x1b[31m  (not answered)
        While the head of the request was being received: the client broke a rule of
        HTTP/2. RFC 9113, section 5.4.1.
        python -m twisted_hangup code ERR_HTTP2_FLOW_CONTROL_ERROR
        """,
    ),
    (
        ClientHangUp("new\nwords", code="EOTHER", phase="idle"),
        r"""
        EOTHER: new\nwords  (not answered)
        Between requests: new\nwords.
        """,
    ),
    (
        UnexpectedEOF("Invalid EOF state", code="HPE_INVALID_EOF_STATE", phase="body"),
        """
        HPE_INVALID_EOF_STATE: Invalid EOF state  (default answer 400)
        While the body of the request was being received: the client ended its input
        before the request was complete. RFC 9112, section 8.
        python -m twisted_hangup code HPE_INVALID_EOF_STATE
        """,
    ),
]


@pytest.mark.parametrize("error, report", SILENT, ids=lambda case: getattr(case, "code", None))
def test_report_without_a_byte_to_blame_says_what_had_come(error: ClientError, report: str) -> None:
    """Timeouts, hang-ups and TLS failures tell the phase, the request and the deadline."""
    assert error.report() == text(report)


@pytest.mark.parametrize("phase", ["handshake", "idle", "head", "body", "response"])
def test_report_knows_every_phase(phase: Phase) -> None:
    """There are words for an error in any phase, also where no rule has the code."""
    assert ClientError("odd", code="ERR_ODD", phase=phase).report().endswith(": odd.")


ALL_SENT: Final = [
    *(wire for wire, _ in REPORTS),
    b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic AAAA\r\nBBBB==\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\x01\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nBad Name: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET http://u:p@h/?q=s HTTP/1.1\r\nCookie: \x01",
    b"\r\n\r\n\r\nGARBAGE",
]


@given(st.sampled_from(ALL_SENT), st.lists(st.integers(0, 140), max_size=6), st.booleans())
def test_report_is_the_same_however_the_bytes_were_cut(
    wire: bytes, cuts: list[int], masked: bool
) -> None:
    """What a report says depends on what was sent, not on how the network cut it."""
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    reads = [wire[a:b] for a, b in pairwise(places)]
    assert broken(*reads).report(masked) == broken(wire).report(masked)


parts = st.sampled_from(list(Part))
short_bytes = st.binary(max_size=200)


@given(parts, short_bytes, short_bytes, st.none() | short_bytes, st.booleans(), st.data())
def test_report_is_printable_and_fits(
    part: Part,
    request_line: bytes,
    line: bytes,
    field: bytes | None,
    masked: bool,
    data: st.DataObject,
) -> None:
    """Whatever a client sends, a report is lines of printable ASCII that fit the screen."""
    caret = data.draw(st.integers(max(0, len(line) - 1), len(line)))
    error = ParseError(
        "Invalid header value char",
        code="HPE_INVALID_HEADER_TOKEN",
        phase="head",
        field=field,
        offset=data.draw(st.integers(0, 1 << 40)),
        request=RequestHead(b"GET", b"/", fields=[(b"Cookie", b"")]),
        broke_at=Break(part, request_line, line, caret),
    )
    report = error.report(masked)
    assert all(0x20 <= ord(letter) <= 0x7E or letter == "\n" for letter in report)
    assert max(map(len, report.splitlines())) <= WIDTH
    assert caret == len(line) or f"0x{line[caret]:02x}" in report


TWO_HOSTS: Final = b"GET / HTTP/1.1\r\nHost: a\r\nHost: a"


def test_long_line_that_is_wrong_as_a_whole_is_underlined_as_a_whole() -> None:
    """Where there is no room for the offset beside the carets it is left out."""
    lines = broken(TWO_HOSTS + b"b" * 100 + b"\r\n\r\n").report().splitlines()
    assert lines[2].startswith("  Host: abbb")
    assert lines[3] == "  " + "^" * (len(lines[2]) - 2)
    assert len(lines[3]) == WIDTH - 1


def test_unmasked_report_shows_everything() -> None:
    """An operator may ask for the whole line."""
    error = broken(b"GET /?q=s HTTP/1.1\r\nHost: a\r\nCookie: a=b\x01")
    shown = error.report(masked=False)
    assert "  GET /?q=s HTTP/1.1\n  Cookie: a=b\\x01\n" in shown


def test_operators_secret_fields_are_masked_too() -> None:
    """A field that an operator names is as secret as a cookie."""
    error = broken(b"GET / HTTP/1.1\r\nHost: a\r\nX-Key: abc\x01")
    assert "X-Key: abc" in report_error(error)
    assert "X-Key: ***" in report_error(error, policy=MaskingPolicy(frozenset({b"x-key"})))


def test_wrapped_credential_is_not_told_as_a_field_name() -> None:
    """The second line of a broken credential seems to be a field name, and is kept quiet."""
    error = broken(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic AAAA\r\nBBBB==\r\n")
    assert error.field == b"BBBB"
    assert field_of(error) is None
    assert "BBBB" not in error.report()
    assert field_of(broken(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a\x01")) == b"Cookie"


def test_request_line_is_told_as_far_as_it_came() -> None:
    """The request line is there before it is complete, with its secrets hidden."""
    assert request_line_of(broken(b"GET /?q=s\x01")) == b"GET /?***\x01"
    assert request_line_of(broken(b"GET /?q=s HTTP/1.1\r\nX\x01")) == b"GET /?*** HTTP/1.1"
    assert request_line_of(ClientHangUp("", code="", phase="head", request=HEAD)) == (
        b"GET /big?********* HTTP/1.1"
    )
    assert request_line_of(ClientHangUp("", code="", phase="head")) == b""


def test_excerpt_keeps_the_error_inside() -> None:
    """A packet is cut around the error; the index of the first byte kept is told."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300
    error = broken(start + b"X: \x01\r\n" + b"Y: z\r\n" * 300)
    for most in (1, 10, 4096):
        excerpt = masked_packet(error, most)
        assert excerpt is not None
        assert error.raw_packet is not None
        assert len(excerpt.data) == min(most, len(error.raw_packet))
        assert excerpt.data[len(start) + 3 - excerpt.offset] == 0x01
        assert error.raw_packet[excerpt.offset :].startswith(excerpt.data)


def test_no_packet_no_excerpt() -> None:
    """Where there is no packet there is nothing to show."""
    assert masked_packet(broken(b"GET"), 100) is None


@pytest.mark.parametrize(
    "data, columns, tail, shown",
    [
        (b"abcdef", 6, 0, "abcdef"),
        (b"abcdefg", 6, 0, "abc..."),
        (b"abcdefg", 6, 2, "a...fg"),
        (b"a\x01b", 6, 2, r"a\x01b"),
        (b"a\x01bc", 6, 2, "a...bc"),
        (b"\x01\x01\x01", 10, 5, r"...\x01"),
        (b"a" * 100_000, 6, 2, "a...aa"),
        (b"", 6, 2, ""),
    ],
)
def test_long_bytes_are_cut_between_escapes(
    data: bytes, columns: int, tail: int, shown: str
) -> None:
    """What is too long loses its middle, and no escape is cut in two."""
    assert shortened(data, columns, tail=tail) == shown


def test_visible_text_can_be_read_back() -> None:
    """Every byte is shown in a way of its own."""
    assert visible(b"\r\n\t\\ \x00\x7f\xff~") == r"\r\n\t\\ \x00\x7f\xff~"
    assert visible("\u20ac\udcff") == r"\xe2\x82\xac\xff"


@pytest.mark.parametrize(
    "peer, shown",
    [
        (None, "unknown"),
        (IPv4Address("TCP", "192.0.2.1", 80), "192.0.2.1:80"),
        (IPv6Address("TCP", "2001:db8::1", 80), "[2001:db8::1]:80"),
        (UNIXAddress(b"/run/x"), "unix"),
        (UNIXAddress(None), "unix"),
    ],
)
def test_peer_is_told_as_host_and_port(peer: object, shown: str) -> None:
    """An address is text that can be searched for."""
    assert peer_text(peer) == shown


def test_without_a_writer_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody can describe says what to import, and is no less an error."""
    monkeypatch.setattr(RecordedError, "report_writer", None)
    error = ClientError("Client left", code="ECONNRESET", phase="idle")
    with pytest.raises(RuntimeError, match=r"import twisted_hangup\.report"):
        error.report()
    assert str(error) == "ECONNRESET: Client left (idle)"
