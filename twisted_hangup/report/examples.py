"""An example for each code: the bytes that cause it, or a command that does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Final

from ..errors import ParseError
from ..events import NEED_DATA
from ..limits import MIB, Limits
from ..parser import RequestParser, ResponseParser
from ..parser.refusals import BODY_TOO_LARGE
from .masking import culprit_index
from .report import byte_name
from .text import shortened, visible

_HEAD: Final = b"GET / HTTP/1.1\r\nHost: example.org\r\n"
_CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n"

#: The limits with which `REQUESTS` are refused.
LIMITS: Final = Limits(body_bytes=MIB)

#: Code -> what a client sends.
REQUESTS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "HPE_INVALID_METHOD": b"get / HTTP/1.1\r\n",
        "HPE_INVALID_URL": b"GET /\x80 HTTP/1.1\r\n",
        "HPE_INVALID_CONSTANT": b"GET / HTML/1.1\r\n",
        "HPE_INVALID_VERSION": b"GET / HTTP/3.0\r\n",
        "HPE_PAUSED_H2_UPGRADE": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HPE_UNEXPECTED_SPACE": b"GET / HTTP/1.1\r\n Host: example.org\r\n",
        "HPE_INVALID_HEADER_TOKEN": _HEAD + b"Bad Name: 1\r\n",
        "HPE_CR_EXPECTED": _HEAD + b"X: 1\n",
        "HPE_LF_EXPECTED": _HEAD + b"X: 1\rY",
        "HPE_STRICT": _CHUNKED + b"1\rx",
        "HPE_HEADER_OVERFLOW": _HEAD + b"Cookie: " + b"a" * LIMITS.head_bytes,
        "HPE_INVALID_CONTENT_LENGTH": _HEAD + b"Content-Length: x\r\n",
        "HPE_UNEXPECTED_CONTENT_LENGTH": _HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n",
        "HPE_INVALID_TRANSFER_ENCODING": _HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        "HPE_INVALID_CHUNK_SIZE": _CHUNKED + b"zz\r\n",
        "HPE_CHUNK_EXTENSIONS_OVERFLOW": _CHUNKED
        + b"1;"
        + b"a" * (LIMITS.chunk_extension_bytes + 1),
        "ERR_HTTP_HOST_REQUIRED": b"GET / HTTP/1.1\r\n\r\n",
        "ERR_HTTP_INVALID_HOST": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "ERR_HTTP_BODY_TOO_LARGE": _HEAD + b"Content-Length: 2000000\r\n\r\n",
        "ERR_HTTP_TOO_MANY_EMPTY_LINES": b"\r\n" * (LIMITS.leading_crlf + 1),
        "ERR_HTTP_MULTIPART": b"POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 1\r\n"
        b"Content-Type: multipart/form-data\r\n\r\nx",
    }
)

#: Code -> what a server sends after a GET, or after no request.
_RESPONSES: Final = {
    "HPE_INVALID_STATUS": b"HTTP/1.1 2x0 OK\r\n",
    "ERR_HTTP_INVALID_UPGRADE": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: upgrade\r\n\r\n",
    "ERR_HTTP_UNREQUESTED_RESPONSE": b"HTTP/1.1 408 Request Timeout\r\n\r\n",
}

#: Code -> a command that causes it, or text where bytes alone do not show it.
_TEXTS: Final = {
    "HPE_CLOSED_CONNECTION": r"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\nx",
    "HPE_INVALID_EOF_STATE": r"printf 'GET / HTTP/1.1\r\nHost: a\r\n' | nc -N 127.0.0.1 8000",
    "ERR_HTTP_REQUEST_TIMEOUT": "printf 'GET / ' | nc 127.0.0.1 8000   # and wait for a minute",
    "ECONNRESET": "curl --max-time 1 http://127.0.0.1:8000/slow",
    "ERR_PROXY_PROTOCOL": "curl http://127.0.0.1:8000/   # with --port haproxy:tcp:8000",
    "ERR_SSL_HTTP_REQUEST": "curl http://127.0.0.1:8443/   # with --port ssl:8443:...",
    "ERR_SSL_WRONG_VERSION_NUMBER": "echo SSH-2.0-client | nc 127.0.0.1 8443",
    "ERR_SSL_NO_APPLICATION_PROTOCOL": "openssl s_client -alpn h3 -connect 127.0.0.1:8443",
    "ERR_TLS_HANDSHAKE_TIMEOUT": r"printf '\026\003\001' | nc 127.0.0.1 8443   # and wait",
    "ERR_SSL_UNSUPPORTED_PROTOCOL": "openssl s_client -tls1_1 -cipher ALL:@SECLEVEL=0"
    " -connect 127.0.0.1:8443",
    "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA": "curl https://127.0.0.1:8443/   # its CA is unknown to curl",
    "ERR_HTTP2_INVALID_PSEUDOHEADER": ":method: GET, :scheme: https, :path: /, :path: /",
    "ERR_HTTP2_INVALID_CONNECTION_HEADERS": ":method: GET, :scheme: https, :authority:"
    " example.org, :path: /, connection: close",
    "ERR_HTTP_TOO_MANY_INTERIM_RESPONSES": r"HTTP/1.1 102 Processing\r\n\r\n   (again and again)",
    "ERR_UPSTREAM_REFUSED": "twistd -n hangup --proxy http://127.0.0.1:9   # nothing listens there",
    "ERR_UPSTREAM_RESET": "nc -Nl 127.0.0.1 9000 </dev/null   # with --proxy http://127.0.0.1:9000",
    "ERR_UPSTREAM_TIMEOUT": "nc -l 127.0.0.1 9000   # with --proxy http://127.0.0.1:9000",
    "ERR_UPSTREAM_RESPONSE": "twistd -n hangup --proxy http://127.0.0.1:22   # an SSH server",
}

#: Columns of a line, and of its end if it is cut.
_COLUMNS: Final = 64
_TAIL: Final = 12


def example_of(code: str) -> list[str]:
    """Lines of printable ASCII with an example of *code*; none if there is no good one.

    Bytes are shown line by line, with a caret under the byte that is refused.
    """
    if code in REQUESTS:
        note = ["# with --max-body-size 1m"] if code == BODY_TOO_LARGE.code else []
        return [*_drawn(REQUESTS[code], RequestParser(limits=LIMITS)), *note]
    if code in _RESPONSES:
        parser = ResponseParser()
        if code != "ERR_HTTP_UNREQUESTED_RESPONSE":
            parser.expect(b"GET")
        return [*_drawn(_RESPONSES[code], parser)]
    return [_TEXTS[code]] if code in _TEXTS else []


def _drawn(data: bytes, parser: RequestParser | ResponseParser) -> Iterator[str]:
    culprit = _culprit(data, parser)
    end = 0
    for line, same in groupby(re.findall(rb"[^\n]*\n|[^\n]+", data)):
        count = len([*same])
        start, end = end, end + len(line) * count
        shown = shortened(line, _COLUMNS, tail=_TAIL)
        if count > 1:
            shown += f"   ({count} times)"
        elif shown != visible(line):
            shown += f"   ({len(line):,} bytes)"
        yield shown
        if count == 1 and culprit is not None and start <= culprit < end:
            carets = "^" * len(visible(data[culprit : culprit + 1]))
            before = " " * len(visible(data[start:culprit]))
            if shown == visible(line):
                yield f"{before}{carets} byte {culprit}: {byte_name(data[culprit])}"


def _culprit(data: bytes, parser: RequestParser | ResponseParser) -> int | None:
    """Index of the byte that *parser* blames; None if it blames a whole line, or nothing."""
    parser.receive(data)
    try:
        while parser.next_event() is not NEED_DATA:
            pass
    except ParseError as error:
        where = error.broke_at
        if where is not None and where.caret < len(where.line):
            return culprit_index(data, error.bytes_parsed or 0, where)
    return None
