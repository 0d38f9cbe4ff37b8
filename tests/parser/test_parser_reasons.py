"""Every place in llhttp that refuses a request, with a stream that gets there.

The pages of ``cases`` say what the rules are for; here is each of their edges.  The table
was recorded from Node 26.10 and is checked against a node where there is one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest
from oracle import node, ours
from oracle.node import Error

from twisted_hangup.limits import Limits

POST: Final = b"POST / HTTP/1.1\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAX: Final = Limits(require_host=False)


class Reason(NamedTuple):
    """A stream, and where in it llhttp stops; what comes after *offset* is never judged."""

    wire: bytes
    offset: int
    code: str
    reason: str


METHOD: Final = "HPE_INVALID_METHOD"
URL: Final = "HPE_INVALID_URL"
CONSTANT: Final = "HPE_INVALID_CONSTANT"
VERSION: Final = "HPE_INVALID_VERSION"
TOKEN: Final = "HPE_INVALID_HEADER_TOKEN"
LENGTH: Final = "HPE_INVALID_CONTENT_LENGTH"
CODING: Final = "HPE_INVALID_TRANSFER_ENCODING"
SIZE: Final = "HPE_INVALID_CHUNK_SIZE"
STRICT: Final = "HPE_STRICT"
CR: Final = "HPE_CR_EXPECTED"

NO_METHOD: Final = "Invalid method encountered"
BAD_URL: Final = "Invalid characters in url"
SCHEMA: Final = "Unexpected char in url schema"
PROTOCOL: Final = "Expected HTTP/, RTSP/ or ICE/"
REASONS: Final = [
    Reason(b"get", 0, METHOD, NO_METHOD),
    Reason(b"FOO", 1, METHOD, NO_METHOD),
    Reason(b"GET_X", 4, METHOD, NO_METHOD),
    Reason(b"\x16\x03", 0, METHOD, NO_METHOD),
    Reason(b"\r\n\r\nX", 4, METHOD, NO_METHOD),
    Reason(b"GETX", 3, METHOD, "Expected space after method"),
    Reason(b"GET\t/", 3, METHOD, "Expected space after method"),
    Reason(b"GET_PARAMETER\r", 13, METHOD, "Expected space after method"),
    Reason(b"GET ?a", 4, URL, "Unexpected start char in url"),
    Reason(b"GET \r\n", 5, URL, BAD_URL),
    Reason(b"GET \t", 5, URL, BAD_URL),
    Reason(b"GET a /", 6, URL, BAD_URL),
    Reason(b"GET http:\n", 10, URL, BAD_URL),
    Reason(b"GET /a\tb", 7, URL, BAD_URL),
    Reason(b"GET /a?\x0c", 8, URL, BAD_URL),
    Reason(b"GET / \tHTTP", 7, URL, BAD_URL),
    Reason(b"CONNECT \t", 9, URL, BAD_URL),
    Reason(b"GET a1:", 5, URL, SCHEMA),
    Reason(b"GET HTTP/1.1", 8, URL, SCHEMA),
    Reason(b"GET http:/a", 10, URL, SCHEMA),
    Reason(b"GET http:/ ", 10, URL, SCHEMA),
    Reason(b"GET http:/\t", 10, URL, SCHEMA),
    Reason(b"GET http://a\x01", 12, URL, "Unexpected char in url server"),
    Reason(b'GET http://a"', 12, URL, "Unexpected char in url server"),
    Reason(b"CONNECT a#", 9, URL, "Unexpected char in url server"),
    Reason(b"GET http://a@@", 14, URL, "Double @ in url"),
    Reason(b"GET http://a@\x01", 13, URL, "Unexpected char in url server"),
    Reason(b"GET /\x01", 5, URL, "Invalid char in url path"),
    Reason(b"GET /\x80", 5, URL, "Invalid char in url path"),
    Reason(b"GET /?\x7f", 6, URL, "Invalid char in url query"),
    Reason(b"GET /#\x01", 6, URL, "Invalid char in url fragment start"),
    Reason(b"GET /\rx", 6, URL, "Expected CRLF"),
    Reason(b"GET http://a\rx", 13, URL, "Expected CRLF"),
    Reason(b"GET / b", 6, CONSTANT, PROTOCOL),
    Reason(b"GET /  \t", 7, CONSTANT, PROTOCOL),
    Reason(b"GET / HTTX", 9, CONSTANT, PROTOCOL),
    Reason(b"GET / http/1.1", 6, CONSTANT, PROTOCOL),
    Reason(b"GET / HTTPS", 10, CONSTANT, PROTOCOL),
    Reason(b"GET / RTSP:", 10, CONSTANT, PROTOCOL),
    Reason(b"GET / IHTTP", 7, CONSTANT, PROTOCOL),
    Reason(b"DESCRIBE / HTTP/", 15, CONSTANT, "Invalid method for HTTP/x.x request"),
    Reason(b"DELETE / RTSP/", 13, CONSTANT, "Invalid method for RTSP/x.x request"),
    Reason(b"GET / ICE/", 9, CONSTANT, "Expected SOURCE method for ICE/x.x request"),
    Reason(b"GET / HTTP/x", 11, VERSION, "Invalid major version"),
    Reason(b"GET / HTTP/11", 12, VERSION, "Expected dot"),
    Reason(b"GET / HTTP/1.x", 13, VERSION, "Invalid minor version"),
    Reason(b"GET / HTTP/1.2", 14, VERSION, "Invalid HTTP version"),
    Reason(b"GET / HTTP/3.0", 14, VERSION, "Invalid HTTP version"),
    Reason(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, "HPE_PAUSED_H2_UPGRADE", "Pause on PRI/Upgrade"
    ),
    Reason(b"PRI * HTTP/2.0\r\nA", 16, VERSION, "Expected HTTP/2 Connection Preface"),
    Reason(b"PRI * HTTP/1.1\n", 14, VERSION, "Expected HTTP/2 Connection Preface"),
    Reason(b"GET / HTTP/1.1 ", 14, VERSION, "Expected CRLF after version"),
    Reason(b"GET / HTTP/1.1\n", 15, VERSION, "Expected CRLF after version"),
    Reason(b"GET / HTTP/1.10", 14, VERSION, "Expected CRLF after version"),
    Reason(b"GET / HTTP/1.1\rx", 15, STRICT, "Expected CRLF after version"),
    Reason(POST + b" A: b", 18, "HPE_UNEXPECTED_SPACE", "Unexpected space after start line"),
    Reason(POST + b"\tA: b", 17, TOKEN, "Invalid header token"),
    Reason(POST + b"\n", 18, TOKEN, "Invalid header field char"),
    Reason(POST + b"Upgrade :", 25, TOKEN, "Invalid header field char"),
    Reason(POST + b"proxy-connection :", 34, TOKEN, "Invalid header field char"),
    Reason(POST + b"Host :", 21, TOKEN, "Invalid header token"),
    Reason(POST + b": a", 17, TOKEN, "Invalid header token"),
    Reason(POST + b"A\x01", 18, TOKEN, "Invalid header token"),
    Reason(POST + b"A\r\n", 18, TOKEN, "Invalid header token"),
    Reason(POST + b"\x80", 17, TOKEN, "Invalid header token"),
    Reason(POST + b"A:\n", 20, TOKEN, "Invalid header value char"),
    Reason(POST + b"A:\r\n b", 22, TOKEN, "Invalid header value char"),
    Reason(POST + b"A: b\x00", 21, TOKEN, "Invalid header value char"),
    Reason(POST + b"A: \x7f", 20, TOKEN, "Invalid header value char"),
    Reason(POST + b"Connection: a\x01", 30, TOKEN, "Invalid header value char"),
    Reason(POST + b"Content-Length:\r\n\tx", 35, TOKEN, "Invalid header value char"),
    Reason(POST + b"A: b\r\n c", 23, TOKEN, "Unexpected whitespace after header value"),
    Reason(POST + b"A: b\n", 21, CR, "Missing expected CR after header value"),
    Reason(POST + b"Connection: close\n", 34, CR, "Missing expected CR after header value"),
    Reason(POST + b"Content-Length: 1\n", 34, CR, "Missing expected CR after header value"),
    Reason(
        POST + b"Transfer-Encoding: chunked\n", 43, CR, "Missing expected CR after header value"
    ),
    Reason(POST + b"A: b\rc", 22, "HPE_LF_EXPECTED", "Missing expected LF after header value"),
    Reason(POST + b"A:\rb", 20, STRICT, "Expected LF after CR"),
    Reason(POST + b"\rx", 18, STRICT, "Expected LF after headers"),
    Reason(
        POST + b"Transfer-Encoding: x\r\nContent-Length:",
        54,
        LENGTH,
        "Content-Length can't be present with Transfer-Encoding",
    ),
    Reason(POST + b"Content-Length: \r\nA", 35, LENGTH, "Empty Content-Length"),
    Reason(POST + b"content-length:\r\n\r", 34, LENGTH, "Empty Content-Length"),
    Reason(POST + b"Content-Length: 1a", 34, LENGTH, "Invalid character in Content-Length"),
    Reason(POST + b"Content-Length: -1", 33, LENGTH, "Invalid character in Content-Length"),
    Reason(POST + b"Content-Length: 1 1", 35, LENGTH, "Invalid character in Content-Length"),
    Reason(POST + b"Content-Length: 1,1", 34, LENGTH, "Invalid character in Content-Length"),
    Reason(POST + b"Content-Length: \x01", 33, LENGTH, "Invalid character in Content-Length"),
    Reason(POST + b"Content-Length: 0018446744073709551616", 55, LENGTH, "Content-Length overflow"),
    Reason(
        POST + b"Content-Length: 1\r\nContent-Length: 1",
        52,
        "HPE_UNEXPECTED_CONTENT_LENGTH",
        "Duplicate Content-Length",
    ),
    Reason(
        POST + b"Content-Length: 0\r\nTransfer-Encoding:",
        54,
        CODING,
        "Transfer-Encoding can't be present with Content-Length",
    ),
    Reason(POST + b"Transfer-Encoding: \r\n\r\n", 38, CODING, "Empty Transfer-Encoding"),
    Reason(
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        65,
        CODING,
        "Invalid `Transfer-Encoding` header value",
    ),
    Reason(
        POST + b"Transfer-Encoding: chunked, x",
        44,
        CODING,
        "Invalid `Transfer-Encoding` header value",
    ),
    Reason(
        POST + b"Transfer-Encoding: x,\tCHUNKED  ,",
        49,
        CODING,
        "Invalid `Transfer-Encoding` header value",
    ),
    Reason(
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        65,
        CODING,
        "Invalid `Transfer-Encoding` header value",
    ),
    Reason(
        CHUNKED + b"0\r\nTransfer-Encoding: x",
        70,
        CODING,
        "Invalid `Transfer-Encoding` header value",
    ),
    Reason(CHUNKED + b"0\r\nTransfer-Encoding:\r\n\r", 70, CODING, "Empty Transfer-Encoding"),
    Reason(
        CHUNKED + b"0\r\nContent-Length:",
        65,
        LENGTH,
        "Content-Length can't be present with Transfer-Encoding",
    ),
    Reason(
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        44,
        CODING,
        "Request has invalid `Transfer-Encoding`",
    ),
    Reason(
        POST + b"Transfer-Encoding: chunked\t\r\n\r\n",
        48,
        CODING,
        "Request has invalid `Transfer-Encoding`",
    ),
    Reason(
        POST + b"Transfer-Encoding: chunkedchunked\r\n\r\n",
        54,
        CODING,
        "Request has invalid `Transfer-Encoding`",
    ),
    Reason(
        POST + b"Transfer-Encoding: xTransfer-Encoding: chunked\r\n\r\n",
        67,
        CODING,
        "Request has invalid `Transfer-Encoding`",
    ),
    Reason(
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encodin: x\r\nTransfer-Encoding:\r\n\r\n",
        86,
        CODING,
        "Empty Transfer-Encoding",
    ),
    Reason(CHUNKED + b"\r\n", 47, SIZE, "Invalid character in chunk size"),
    Reason(CHUNKED + b"g", 47, SIZE, "Invalid character in chunk size"),
    Reason(CHUNKED + b"-1", 47, SIZE, "Invalid character in chunk size"),
    Reason(CHUNKED + b"1x", 48, SIZE, "Invalid character in chunk size"),
    Reason(CHUNKED + b"1 ", 49, SIZE, "Invalid character in chunk size"),
    Reason(CHUNKED + b"1\t", 49, SIZE, "Invalid character in chunk size"),
    Reason(CHUNKED + b"10000000000000000", 64, SIZE, "Chunk size overflow"),
    Reason(CHUNKED + b"1\n", 49, CR, "Missing expected CR after chunk size"),
    Reason(CHUNKED + b"1\rx", 49, STRICT, "Expected LF after chunk size"),
    Reason(CHUNKED + b"1; ", 50, STRICT, "Invalid character in chunk extensions"),
    Reason(CHUNKED + b"1;\r", 50, STRICT, "Invalid character in chunk extensions"),
    Reason(CHUNKED + b"1;a;\r", 52, STRICT, "Invalid character in chunk extensions"),
    Reason(CHUNKED + b"1;a ", 51, STRICT, "Invalid character in chunk extensions name"),
    Reason(CHUNKED + b"1;a\n", 50, CR, "Missing expected CR after chunk extension name"),
    Reason(CHUNKED + b"1;\n", 49, CR, "Missing expected CR after chunk extension name"),
    Reason(CHUNKED + b"1;a=\x01", 52, STRICT, "Invalid character in chunk extensions value"),
    Reason(CHUNKED + b"1;a= ", 52, STRICT, "Invalid character in chunk extensions value"),
    Reason(CHUNKED + b"1;a=b\n", 52, CR, "Missing expected CR after chunk extension value"),
    Reason(
        CHUNKED + b'1;a="\x01', 53, STRICT, "Invalid character in chunk extensions quoted value"
    ),
    Reason(CHUNKED + b'1;a="\r', 53, STRICT, "Invalid character in chunk extensions quoted value"),
    Reason(
        CHUNKED + b'1;a="\\\x01', 54, STRICT, "Invalid quoted-pair in chunk extensions quoted value"
    ),
    Reason(CHUNKED + b'1;a="b"\n', 54, CR, "Missing expected CR after chunk extension value"),
    Reason(CHUNKED + b'1;a="b"c', 54, STRICT, "Invalid character in chunk extensions quote value"),
    Reason(CHUNKED + b'1;a="b" ', 54, STRICT, "Invalid character in chunk extensions quote value"),
    Reason(CHUNKED + b"1\r\nx\n", 52, CR, "Missing expected CR after chunk data"),
    Reason(CHUNKED + b"1\r\nxy", 51, STRICT, "Expected LF after chunk data"),
    Reason(CHUNKED + b"1\r\nx\ry", 52, STRICT, "Expected LF after chunk data"),
    Reason(CHUNKED + b"0\r\nA b", 51, TOKEN, "Invalid header token"),
    Reason(CHUNKED + b"0\r\n A", 50, TOKEN, "Invalid header token"),
    Reason(CHUNKED + b"0\r\n\n", 51, TOKEN, "Invalid header field char"),
    Reason(CHUNKED + b"0\r\n\rx", 51, STRICT, "Expected LF after headers"),
    Reason(CHUNKED + b"0\r\nA: b\r\n c", 56, TOKEN, "Unexpected whitespace after header value"),
]


def label(case: Reason) -> str:
    return repr(case.wire.removeprefix(CHUNKED).removeprefix(POST))


@pytest.mark.parametrize("case", REASONS, ids=label)
def test_reason(case: Reason) -> None:
    """Code, reason and offset are llhttp's, however the stream is cut, and whatever follows.

    What breaks a head that is complete otherwise must be seen by whoever reads it whole.
    """
    wire = case.wire
    whole = [[wire + rest] for rest in (b"", b"X", b"\r\n\r\n", b"\r\nA: b\r\n\r\n")]
    bytewise = [wire[at : at + 1] for at in range(len(wire))]
    for reads in (*whole, bytewise, *([wire[:at], wire[at:]] for at in (1, -1))):
        verdict = ours.judge(reads, LAX)
        assert verdict.error == Error(case.code, case.reason, case.offset)


def test_node_says_so() -> None:
    """A real node agrees with every row."""
    command = node.find_node()
    if command is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    verdicts = node.judge(command, [[case.wire] for case in REASONS])
    assert [verdict.error for verdict in verdicts] == [
        Error(case.code, case.reason, case.offset) for case in REASONS
    ]
