"""What a report says of a response: where it broke, and never a word about requests."""

from __future__ import annotations

import pytest
from oracle.response_cases import CASES, Case

from twisted_hangup import ResponseParseError, ResponseParser
from twisted_hangup.events import NEED_DATA
from twisted_hangup.parser.refusals import (
    CHUNK_EXT_OVERFLOW,
    HEADER_OVERFLOW,
    NOT_REQUESTED,
    ResponseWhy,
)
from twisted_hangup.report import masked_packet
from twisted_hangup.report.rules import ROWS

REFUSED = [case for case in CASES if "HPE_" in case.outcome or "ERR_" in case.outcome]
#: What is said of responses in words of their own.
ROWS_OF_RESPONSES = [row for row in ROWS if isinstance(row, ResponseWhy) or row.of_response]

#: What only makes sense of a request.
WRONG_WORDS = [
    *("client", "this server accepts", "request line", "a request starts", "a request has"),
    *("a request may", "answered", "not a valid HTTP/1.1 request"),
]


def broken(wire: bytes, method: bytes = b"GET") -> ResponseParseError:
    parser = ResponseParser()
    parser.expect(method.rstrip(b"+"), upgrade=method.endswith(b"+"))
    parser.receive(wire)
    try:
        while parser.next_event() is not NEED_DATA:
            pass
        parser.finish()
    except ResponseParseError as error:
        return error
    raise AssertionError("not refused")


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.why)
def test_it_is_about_a_response(case: Case) -> None:
    """A server's fault is told as one, in plain words and with a source."""
    report = broken(case.stream, case.method.encode()).report()
    assert not [words for words in WRONG_WORDS if words in report.replace("\n", " ")]
    assert "RFC 9" in report.replace("\n", " ")
    assert all(len(line) <= 80 for line in report.splitlines()[1:])


def test_every_refusal_has_a_case() -> None:
    """Each of them comes out of some bytes; those of the limits elsewhere, of many."""
    outcomes = "\n".join(case.outcome for case in CASES)
    unseen = [str(row) for row in ROWS_OF_RESPONSES if str(row) not in outcomes]
    limits = [str(HEADER_OVERFLOW), str(CHUNK_EXT_OVERFLOW)]
    assert sorted(unseen) == sorted([str(NOT_REQUESTED), *limits])


def test_a_status_line() -> None:
    """The line is shown up to the byte that broke it, with a caret under that one."""
    assert broken(b"HTTP/1.1 2x0 Secret\r\n").report().splitlines()[:3] == [
        "HPE_INVALID_STATUS: Invalid status code",
        "  HTTP/1.1 2x",
        "            ^ byte 10: 0x78 (x)",
    ]


def test_a_question_in_the_reason() -> None:
    """A reason phrase is no request target: nothing in it is a query, to be hidden."""
    broke = broken(b"HTTP/1.1 404 /a?b=c \x01\r\n").report().splitlines()
    assert broke[1] == r"  HTTP/1.1 404 /a?b=c \x01"
    after = broken(b"HTTP/1.1 404 /a?b=c\r\nA\x01\r\n").report().splitlines()
    assert after[1] == "  HTTP/1.1 404 /a?b=c"


def test_a_field() -> None:
    """The status line stands above it; a cookie that is set is nobody's business."""
    report = broken(b"HTTP/1.1 200 OK\r\nSet-Cookie: secret\x01\r\n").report()
    assert report.splitlines()[1:3] == ["  HTTP/1.1 200 OK", r"  Set-Cookie: ******\x01"]
    assert 'In the value of header field "Set-Cookie"' in report


def test_tls_where_http_was_expected() -> None:
    """A TLS alert says that the request should have been made over TLS."""
    assert "probably speaks HTTPS" in broken(b"\x15\x03\x03\x00\x02\x02\x46").report()
    assert "HTTPS" not in broken(b"SSH-2.0-x\r\n").report()


def test_bytes_that_nobody_asked_for() -> None:
    """They are told of as what they are."""
    parser = ResponseParser()
    parser.receive(b"HTTP/1.1 408 Request Timeout\r\n")
    with pytest.raises(ResponseParseError) as caught:
        parser.next_event()
    report = caught.value.report()
    assert "no request waited" in report
    assert report.splitlines()[1:3] == ["  H", "  ^ byte 0: 0x48 (H)"]


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nA: b\r\nSet-Cookie: secret\r\nAge: 1\r\nC\x01",
        b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nSet-Cookie: secret\r\nAge: 1\r\nC\x01",
    ],
)
def test_a_packet(wire: bytes) -> None:
    """Of the read that broke, the fields stay and the secrets go."""
    excerpt = masked_packet(broken(wire), 4096)
    assert excerpt is not None
    assert b"secret" not in excerpt.data
    assert excerpt.data.endswith(
        b"HTTP/1.1 200 OK\r\nA: b\r\nSet-Cookie: ******\r\nAge: 1\r\nC\x01"
    )
