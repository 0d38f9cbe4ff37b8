"""Responses, each with the reason why it is here; `tests/cases/responses.json` has Node's word.

``python -m tests.oracle.responses --record`` asks Node again.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Case(NamedTuple):
    """One response, or what passes for one.

    Attributes:
        why: What it shows; the name of the case.
        stream: All that comes back, up to the end of input.
        outcome: What has to come of it: the status of each message and its body, ``close``
            after it if the connection does not outlive it, ``upgrade`` if it is not HTTP's
            any more; or code, reason and offset of the error.
        method: The request's method; ``+`` after it stands for an Upgrade.
        deviation: Where Node decides otherwise, its name in docs/deviations.md.
    """

    why: str
    stream: bytes
    outcome: str
    method: str = "GET"
    deviation: str = ""


def head(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"HTTP/" + version + b" " + status, *lines, b"", b""])


_CHUNKED: Final = head(b"Transfer-Encoding: chunked")
_OK: Final = head(b"Content-Length: 2") + b"ok"
_SWITCH: Final = (b"Upgrade: x", b"Connection: upgrade")
_EOF: Final = "HPE_INVALID_EOF_STATE: Invalid EOF state"
_START: Final = "HPE_INVALID_CONSTANT: Expected HTTP/, RTSP/ or ICE/"
_VERSION: Final = "HPE_INVALID_VERSION: Invalid HTTP version"
_STATUS: Final = "HPE_INVALID_STATUS: Invalid status code"
_AFTER_STATUS: Final = "HPE_INVALID_STATUS: Invalid response status"
_TOKEN: Final = "HPE_INVALID_HEADER_TOKEN: Invalid header token"
_TE: Final = "HPE_INVALID_TRANSFER_ENCODING"
_ONLY: Final = f"{_TE}: Transfer-Encoding other than a single `chunked`"
_EMPTY: Final = "ERR_HTTP_TOO_MANY_EMPTY_LINES: Too many empty lines before the status line"

CASES: Final = [
    # Where a body ends (RFC 9112, section 6.3).
    Case("a length", _OK, "200 ok"),
    Case("a length of zero", head(b"Content-Length: 0"), "200 -"),
    Case("a length that is cut short", _OK[:-1], f"200 o | {_EOF} at end"),
    Case("no length", head() + b"until the end", "200 until the end, close"),
    Case("no length and nothing", head(), "200 -, close"),
    Case("chunks", _CHUNKED + b"2;a=b\r\nok\r\n1\r\n!\r\n0\r\n\r\n", "200 ok!"),
    Case("chunks that are cut short", _CHUNKED + b"2\r\nok\r\n", f"200 ok | {_EOF} at end"),
    Case("chunks without the last line", _CHUNKED + b"0\r\n", f"200 - | {_EOF} at end"),
    Case("trailers", _CHUNKED + b"0\r\nT: u\r\n\r\n", "200 - (T: u)"),
    Case("HEAD with a length", head(b"Content-Length: 9"), "200 -", "HEAD"),
    Case("HEAD with chunks", _CHUNKED, "200 -", "HEAD"),
    Case("HEAD without a length", head(), "200 -", "HEAD", "head-keeps-alive"),
    Case("HEAD that closes", head(b"Connection: close"), "200 -, close", "HEAD"),
    Case("204", head(status=b"204 No Content"), "204 -"),
    Case("204 with a length of zero", head(b"Content-Length: 0", status=b"204 No"), "204 -"),
    Case("304 with a length", head(b"Content-Length: 9", status=b"304 Not Modified"), "304 -"),
    Case("304 with chunks", head(b"Transfer-Encoding: chunked", status=b"304 N"), "304 -"),
    Case("205 with a body", head(b"Content-Length: 1", status=b"205 Reset") + b"x", "205 x"),
    # Interim responses, and other protocols (RFC 9110, sections 7.8, 9.3.6 and 15.2).
    Case("100, then the response", head(status=b"100 Continue") + _OK, "100 - | 200 ok"),
    Case(
        "many interim ones",
        head(status=b"102 P") + head(b"Link: a", status=b"103 E") + head(status=b"199 x") + _OK,
        "102 - | 103 - | 199 - | 200 ok",
    ),
    Case(
        "100 to HEAD", head(status=b"100 C") + head(b"Content-Length: 9"), "100 - | 200 -", "HEAD"
    ),
    Case(
        "100 and no more", head(status=b"100 C"), f"100 - | {_EOF} at end", deviation="no-response"
    ),
    Case(
        "100 that closes",
        head(b"Connection: close", status=b"100 C") + _OK,
        "100 -, close | 200 ok",
        deviation="interim-close",
    ),
    Case("101", head(*_SWITCH, status=b"101 S") + b"rest", "101 -, upgrade", "GET+"),
    Case(
        "101 after 100",
        head(status=b"100 C") + head(*_SWITCH, status=b"101 S"),
        "100 - | 101 -, upgrade",
        "GET+",
    ),
    Case(
        "101 that nobody asked for",
        head(*_SWITCH, status=b"101 S") + b"rest",
        "ERR_HTTP_INVALID_UPGRADE: 101 to a request without Upgrade at 51",
        deviation="upgrade-agreed",
    ),
    Case(
        "101 that names no protocol",
        head(b"Connection: upgrade", status=b"101 S"),
        "ERR_HTTP_INVALID_UPGRADE: 101 without Upgrade at 39",
        "GET+",
        "upgrade-agreed",
    ),
    Case("an offer of another protocol", head(*_SWITCH, b"Content-Length: 0"), "200 -", "GET+"),
    Case("a tunnel", head(status=b"200 Established") + b"rest", "200 -, upgrade", "CONNECT"),
    Case(
        "a tunnel with a length", head(b"Content-Length: 4") + b"rest", "200 -, upgrade", "CONNECT"
    ),
    Case(
        "no tunnel",
        head(b"Content-Length: 2", status=b"407 Auth") + b"no",
        "407 no",
        "CONNECT",
        "connect-2xx-only",
    ),
    # The connection (RFC 9112, section 9.3).
    Case("close", head(b"Connection: close", b"Content-Length: 1") + b"x", "200 x, close"),
    Case("1.0", head(b"Content-Length: 1", version=b"1.0") + b"x", "200 x, close"),
    Case(
        "1.0 that is kept alive",
        head(b"Connection: Keep-Alive", b"Content-Length: 1", version=b"1.0") + b"x",
        "200 x",
    ),
    Case(
        "1.0 kept alive, no length", head(b"Connection: keep-alive", version=b"1.0"), "200 -, close"
    ),
    # The status line (RFC 9112, section 4).
    Case("no reason", b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "200 -"),
    Case("no reason, no space", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200 -"),
    Case("obs-text in the reason", head(b"Content-Length: 0", status=b"200 \xe4\t b "), "200 -"),
    Case("status 999", head(b"Content-Length: 0", status=b"999 Denied"), "999 -"),
    Case("empty lines first", b"\r\n\n\r\n" + _OK, "200 ok"),
    Case("nothing", b"", f"{_EOF} at end", deviation="no-response"),
    Case("empty lines only", b"\r\n\r\n", f"{_EOF} at end", deviation="no-response"),
    Case(
        "too many empty lines",
        b"\r\n" * 16 + b"\n" + _OK,
        f"{_EMPTY} at 32",
        deviation="leading-empty-lines",
    ),
    Case("cut short in the version", b"HTTP/1", f"{_EOF} at end"),
    Case("cut short in the reason", b"HTTP/1.1 200 O", f"{_EOF} at end"),
    Case("cut short in a field", head(b"A: b")[:-4], f"{_EOF} at end"),
    Case("0.9: a page and no head", b"<html>", f"{_START} at 0"),
    Case("lower case", b"http/1.1 200 OK\r\n\r\n", f"{_START} at 0"),
    Case("a word cut wrong", b"HTP/1.1 200 OK\r\n\r\n", f"{_START} at 2"),
    Case("TLS", b"\x15\x03\x01\x00\x02\x02F", f"{_START} at 0"),
    Case(
        "another protocol",
        b"RTSP/1.0 200 OK\r\n\r\n",
        "HPE_INVALID_CONSTANT: Expected HTTP/ at 8",
        deviation="rtsp-ice",
    ),
    Case("HTTP/2.0", head(version=b"2.0"), f"{_VERSION} at 8", deviation="http-version"),
    Case("HTTP/0.9", head(version=b"0.9"), f"{_VERSION} at 8", deviation="http-version"),
    Case("HTTP/1.2", head(version=b"1.2"), f"{_VERSION} at 8"),
    Case("major version", b"HTTP/x.1", "HPE_INVALID_VERSION: Invalid major version at 5"),
    Case("no dot", b"HTTP/11", "HPE_INVALID_VERSION: Expected dot at 6"),
    Case("minor version", b"HTTP/1.x", "HPE_INVALID_VERSION: Invalid minor version at 7"),
    Case(
        "no status", b"HTTP/1.1\r\n\r\n", "HPE_INVALID_VERSION: Expected space after version at 8"
    ),
    Case("two spaces", b"HTTP/1.1  200 OK\r\n\r\n", f"{_STATUS} at 9"),
    Case("two digits", head(status=b"20 OK"), f"{_STATUS} at 11"),
    Case("four digits", head(status=b"2000 OK"), f"{_AFTER_STATUS} at 12"),
    Case("no number", head(status=b"OK"), f"{_STATUS} at 9"),
    Case(
        "status 099",
        head(status=b"099 x"),
        "HPE_INVALID_STATUS: Status code below 100 at 12",
        deviation="status-below-100",
    ),
    Case("a tab after the status", head(status=b"200\tOK"), f"{_AFTER_STATUS} at 12"),
    Case("LF after the status", b"HTTP/1.1 200\n\n", f"{_AFTER_STATUS} at 13"),
    Case(
        "LF after the reason",
        b"HTTP/1.1 200 OK\n\n",
        "HPE_CR_EXPECTED: Missing expected CR after response line at 16",
    ),
    Case(
        "a bare CR in the line", b"HTTP/1.1 200 OK\rA: b", "HPE_STRICT: Expected LF after CR at 16"
    ),
    Case(
        "NUL in the reason",
        head(status=b"200 O\0"),
        "HPE_INVALID_STATUS: Invalid character in reason phrase at 14",
        deviation="reason-characters",
    ),
    # Fields (RFC 9112, section 5).
    Case(
        "a space before the fields",
        b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
        "HPE_UNEXPECTED_SPACE: Unexpected space after start line at 18",
    ),
    Case("a space before the colon", head(b"A : b"), f"{_TOKEN} at 18"),
    Case("no colon", head(b"A"), f"{_TOKEN} at 18"),
    Case("no name", head(b": b"), f"{_TOKEN} at 17"),
    Case(
        "a fold",
        head(b"A: b", b" c"),
        "HPE_INVALID_HEADER_TOKEN: Unexpected whitespace after header value at 23",
    ),
    Case(
        "NUL in a value",
        head(b"A: \0"),
        "HPE_INVALID_HEADER_TOKEN: Invalid header value char at 20",
    ),
    Case("obs-text in a value", head(b"A: \x80\xff", b"Content-Length: 0"), "200 -"),
    Case(
        "LF after a value",
        head(b"A: b\nC: d"),
        "HPE_CR_EXPECTED: Missing expected CR after header value at 21",
    ),
    Case(
        "CR in a value",
        head(b"A: b\rC: d"),
        "HPE_LF_EXPECTED: Missing expected LF after header value at 22",
    ),
    Case("CR in front of a value", head(b"A:\rC: d"), "HPE_STRICT: Expected LF after CR at 20"),
    Case(
        "LF ends the head",
        b"HTTP/1.1 200 OK\r\n\n",
        "HPE_INVALID_HEADER_TOKEN: Invalid header field char at 18",
    ),
    Case(
        "CR ends the head", b"HTTP/1.1 200 OK\r\n\rx", "HPE_STRICT: Expected LF after headers at 18"
    ),
    # Framing (RFC 9112, section 6.1).
    Case(
        "length, then coding",
        head(b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        f"{_TE}: Transfer-Encoding can't be present with Content-Length at 54",
    ),
    Case(
        "coding, then length",
        head(b"Transfer-Encoding: chunked", b"Content-Length: 1"),
        "HPE_INVALID_CONTENT_LENGTH: Content-Length can't be present with Transfer-Encoding at 60",
    ),
    Case(
        "two lengths",
        head(b"Content-Length: 1", b"Content-Length: 2"),
        "HPE_UNEXPECTED_CONTENT_LENGTH: Duplicate Content-Length at 52",
    ),
    Case(
        "two lengths that differ late",
        head(b"Content-Length: 12", b"Content-Length: 13"),
        "HPE_UNEXPECTED_CONTENT_LENGTH: Duplicate Content-Length at 54",
        deviation="equal-lengths",
    ),
    Case(
        "a length and the start of it",
        head(b"Content-Length: 12", b"Content-Length: 1"),
        "HPE_UNEXPECTED_CONTENT_LENGTH: Duplicate Content-Length at 54",
        deviation="equal-lengths",
    ),
    Case(
        "a length and more of it",
        head(b"Content-Length: 1", b"Content-Length: 12"),
        "HPE_UNEXPECTED_CONTENT_LENGTH: Duplicate Content-Length at 53",
        deviation="equal-lengths",
    ),
    Case(
        "the same length three times",
        head(b"Content-Length: 12", b"A: b", b"content-length:12", b"Content-Length: 12 ")
        + b"x" * 12,
        "200 xxxxxxxxxxxx",
        deviation="equal-lengths",
    ),
    Case(
        "a list of lengths",
        head(b"Content-Length: 1 ,\t1", b"Content-Length: 1,1,1") + b"x",
        "200 x",
        deviation="equal-lengths",
    ),
    Case(
        "a list of lengths that differ",
        head(b"Content-Length: 1, 2"),
        "HPE_UNEXPECTED_CONTENT_LENGTH: Duplicate Content-Length at 36",
        deviation="equal-lengths",
    ),
    Case(
        "a list of lengths with none in it",
        head(b"Content-Length: 1,,1"),
        "HPE_UNEXPECTED_CONTENT_LENGTH: Duplicate Content-Length at 35",
        deviation="equal-lengths",
    ),
    Case(
        "a signed length",
        head(b"Content-Length: +1"),
        "HPE_INVALID_CONTENT_LENGTH: Invalid character in Content-Length at 33",
    ),
    Case(
        "an empty length",
        head(b"Content-Length:"),
        "HPE_INVALID_CONTENT_LENGTH: Empty Content-Length at 34",
    ),
    Case(
        "a length of 64 bits",
        head(b"Content-Length: 18446744073709551616"),
        "HPE_INVALID_CONTENT_LENGTH: Content-Length overflow at 53",
    ),
    Case(
        "a length of 63 bits",
        head(b"Content-Length: 9223372036854775808"),
        "HPE_INVALID_CONTENT_LENGTH: Content-Length overflow at 56",
        deviation="content-length-63-bits",
    ),
    Case(
        "a length in a 204",
        head(b"Content-Length: 1", status=b"204 N") + b"x",
        "HPE_UNEXPECTED_CONTENT_LENGTH: Content-Length in a 1xx or 204 response at 37",
        deviation="length-without-body",
    ),
    Case(
        "a length in a 100",
        head(b"Content-Length: 1", status=b"100 C") + _OK,
        "HPE_UNEXPECTED_CONTENT_LENGTH: Content-Length in a 1xx or 204 response at 37",
        deviation="length-without-body",
    ),
    Case(
        "chunks in a 103",
        head(b"Transfer-Encoding: chunked", status=b"103 E") + _OK,
        f"{_TE}: Transfer-Encoding in a 1xx or 204 response at 46",
        deviation="length-without-body",
    ),
    Case("chunks in a 204", head(b"Transfer-Encoding: chunked", status=b"204 N"), "204 -"),
    Case(
        "a 204 with an empty chunked body",
        head(b"Transfer-Encoding: chunked", status=b"204 N") + b"0\r\n\r\n",
        "204 -",
    ),
    Case("an empty coding", head(b"Transfer-Encoding:"), f"{_TE}: Empty Transfer-Encoding at 37"),
    Case(
        "another coding",
        head(b"Transfer-Encoding: gzip") + b"x",
        f"{_ONLY} at 44",
        deviation="te-single-chunked",
    ),
    Case(
        "a coding and chunks",
        head(b"Transfer-Encoding: gzip, chunked"),
        f"{_ONLY} at 53",
        deviation="te-single-chunked",
    ),
    Case(
        "identity",
        head(b"Transfer-Encoding: identity") + b"x",
        f"{_ONLY} at 48",
        deviation="te-single-chunked",
    ),
    Case(
        "chunks and a coding",
        head(b"Transfer-Encoding: chunked, gzip") + b"x",
        f"{_TE}: Invalid `Transfer-Encoding` header value at 44",
        deviation="te-single-chunked",
    ),
    Case(
        "chunked twice",
        head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        f"{_TE}: Invalid `Transfer-Encoding` header value at 65",
        deviation="te-single-chunked",
    ),
    Case(
        "chunks in 1.0",
        head(b"Transfer-Encoding: chunked", version=b"1.0") + b"0\r\n\r\n",
        f"{_TE}: Transfer-Encoding in an HTTP/1.0 response at 47",
        deviation="te-http-1.0",
    ),
    # Chunks (RFC 9112, section 7.1).
    Case(
        "no chunk size",
        _CHUNKED + b"x\r\n",
        "200 - | HPE_INVALID_CHUNK_SIZE: Invalid character in chunk size at 47",
    ),
    Case(
        "a space after the size",
        _CHUNKED + b"1 \r\nx\r\n",
        "200 - | HPE_INVALID_CHUNK_SIZE: Invalid character in chunk size at 49",
    ),
    Case(
        "seventeen digits",
        _CHUNKED + b"0" * 16 + b"1\r\nx\r\n0\r\n\r\n",
        "200 - | HPE_INVALID_CHUNK_SIZE: Chunk size overflow at 64",
        deviation="chunk-size-digits",
    ),
    Case(
        "a chunk that is too long",
        _CHUNKED + b"1\r\nxy\r\n",
        "200 x | HPE_STRICT: Expected LF after chunk data at 51",
    ),
    Case(
        "LF after a chunk",
        _CHUNKED + b"1\r\nx\n0\r\n\r\n",
        "200 x | HPE_CR_EXPECTED: Missing expected CR after chunk data at 52",
    ),
    Case("a broken trailer", _CHUNKED + b"0\r\nT\x01", f"200 - | {_TOKEN} at 51"),
]
