"""The access log: one line for every request, whatever became of it."""

from __future__ import annotations

import json
import re
from io import BytesIO
from typing import Any

import pytest
from support.explaining import broken, log_lines
from twisted.internet.address import IPv4Address, UNIXAddress

from twisted_hangup.errors import (
    ClientError,
    ClientHangUp,
    HeaderOverflow,
    ParseError,
    Phase,
    RequestTimeout,
    TLSError,
)
from twisted_hangup.events import RequestHead
from twisted_hangup.journal.access_log import AccessLog, refused_line
from twisted_hangup.journal.files import LogFile
from twisted_hangup.report.masking import UNMASKED

PEER = IPv4Address("TCP", "192.0.2.7", 4711)
WHEN = "[01/Jan/1970:00:00:00 +0000]"


def error(
    kind: type[ClientError], code: str, phase: Phase, head: RequestHead | None = None
) -> ClientError:
    return kind("reason", code=code, phase=phase, request=head, peer=PEER)


def head(target: bytes = b"/", version: bytes = b"1.1", *fields: tuple[bytes, bytes]) -> Any:
    return RequestHead(b"GET", target, version, [*fields])


REFUSED = [
    (error(ParseError, "HPE_INVALID_METHOD", "head"), '"-" 400 - "-" "-"'),
    (
        error(HeaderOverflow, "HPE_HEADER_OVERFLOW", "head", head()),
        '"GET / HTTP/1.1" 431 - "-" "-"',
    ),
    (
        error(ParseError, "HPE_INVALID_VERSION", "head", head(version=b"")),
        '"GET /" 400 - "-" "-"',
    ),
    (error(RequestTimeout, "ERR_HTTP_REQUEST_TIMEOUT", "head"), '"-" 408 - "-" "-"'),
    (
        error(
            ParseError,
            "HPE_INVALID_CHUNK_SIZE",
            "body",
            head(b"/", b"1.1", (b"referer", b'"x"'), (b"USER-AGENT", b"a\\b\x1b\xff")),
        ),
        r'"GET / HTTP/1.1" 400 - "\x22x\x22" "a\\b\x1b\xff"',
    ),
    (error(ClientHangUp, "ECONNRESET", "head"), '"-" 499 - "-" "-"'),
    (error(ClientHangUp, "ECONNRESET", "body", head()), '"GET / HTTP/1.1" 499 - "-" "-"'),
]


@pytest.mark.parametrize("broken, rest", REFUSED, ids=lambda value: str(value))
def test_refused(broken: ClientError, rest: str) -> None:
    """A refused request has a line with the status that was sent, as far as it came."""
    assert refused_line(WHEN, broken, broken.status) == f"192.0.2.7 - - {WHEN} {rest}"


@pytest.mark.parametrize("sent, status", [(418, "418"), (None, "444")])
def test_status_that_was_sent(sent: int | None, status: str) -> None:
    """What a handler answered is what the log says; 444 where it closed without a word."""
    broken = error(ParseError, "HPE_INVALID_METHOD", "head")
    assert refused_line(WHEN, broken, sent) == f'192.0.2.7 - - {WHEN} "-" {status} - "-" "-"'


@pytest.mark.parametrize(
    "other",
    [
        error(ClientHangUp, "ECONNRESET", "idle"),
        error(ClientHangUp, "ECONNRESET", "handshake"),
        error(RequestTimeout, "ERR_HTTP_REQUEST_TIMEOUT", "idle"),
        error(ClientHangUp, "ECONNRESET", "response", head()),
        error(RequestTimeout, "ERR_HTTP_REQUEST_TIMEOUT", "response", head()),
        error(TLSError, "ERR_SSL_HTTP_REQUEST", "handshake"),
    ],
    ids=str,
)
def test_no_request_no_line(other: ClientError) -> None:
    """Without a request there is no line, and a request has only one."""
    assert refused_line(WHEN, other, None) is None


def test_refused_target_is_masked() -> None:
    """Whatever stands in a broken request may be a secret."""
    broken = error(ParseError, "HPE_INVALID_VERSION", "head", head(b"/a?token=1"))
    assert '"GET /a?*******' in str(refused_line(WHEN, broken, 400))
    assert '"GET /a?token=1 ' in str(refused_line(WHEN, broken, 400, UNMASKED))


class Answered:
    """As much of a request as the log looks at."""

    method = b"GET"
    uri = b"/a?b=\x01"
    clientproto = b"HTTP/1.1"
    code = 200
    sentLength = 5

    def __init__(self, **fields: bytes) -> None:
        self.fields = fields

    def getClientAddress(self) -> Any:
        return PEER

    def getHeader(self, name: bytes) -> bytes | None:
        return self.fields.get(name.decode().replace("-", "_"))


def logged(request: Any) -> str:
    output = BytesIO()
    AccessLog(LogFile(output, "access log"), seconds=lambda: 0.0).request(request)
    return output.getvalue().decode("ascii")


@pytest.mark.parametrize("log_idle", [False, True])
def test_what_is_nobodys_fault(log_idle: bool) -> None:
    """It has a line where it is asked for: 499 for who has gone, 444 for who was closed on."""
    output = BytesIO()
    log = AccessLog(LogFile(output, "access log"), log_idle=log_idle, seconds=lambda: 0.0)
    log.refused(error(ClientHangUp, "ECONNRESET", "idle"), None)
    log.refused(error(RequestTimeout, "ERR_HTTP_REQUEST_TIMEOUT", "idle"), None)
    log.refused(error(TLSError, "ERR_SSL_UNKNOWN_CA", "handshake"), None)
    lines = [f'192.0.2.7 - - {WHEN} "-" {status} - "-" "-"' for status in (499, 444)]
    assert output.getvalue().decode().splitlines() == (lines if log_idle else [])


def test_answered() -> None:
    """An answered request has a line in the combined format, its target in full."""
    assert logged(Answered(user_agent=b"me", referer=b"r")) == (
        f'192.0.2.7 - - {WHEN} "GET /a?b=\\x01 HTTP/1.1" 200 5 "r" "me"\n'
    )


def test_client_left() -> None:
    """499 says that nobody waited for the response."""
    request = Answered()
    request.code = 499
    request.sentLength = 0
    assert '" 499 - "-" "-"\n' in logged(request)


def test_peer_without_a_host() -> None:
    """A client on a UNIX socket has no host."""
    request = Answered()
    request.getClientAddress = lambda: UNIXAddress("/x")  # type: ignore[method-assign]
    assert logged(request).startswith("- - - [")


def test_the_clock_is_read_for_each_line() -> None:
    """The time is that of the line, though its text is kept for a second."""
    output, now = BytesIO(), [0.0]
    log = AccessLog(LogFile(output, "access log"), seconds=lambda: now[0])
    for now[0] in (0.0, 0.9, 1.0):
        log.request(Answered())
    assert re.findall(rb":00:(\d\d) ", output.getvalue()) == [b"00", b"00", b"01"]


@pytest.mark.parametrize(
    "wire, method, target",
    [
        (b"GET /search" + b"a" * 20_000, "GET", "/search" + "a" * 502),
        (b"GET /search?q=SECRET" + b"a" * 20_000, "GET", "/search?****"),
        (b"DELETE /a/\xe2b HTTP/1.1\r\n", "DELETE", "/a/"),
        (b'GET /a"b\x01 HTTP/1.1\r\n', "GET", r"/a\x22b"),
        (b"GET http://me:SECRET@a/\x01", "GET", "http://"),
    ],
)
def test_target_that_broke_off_is_logged_as_far_as_it_came(
    wire: bytes, method: str, target: str
) -> None:
    """Who reads the log learns which page was asked for, and no secret, in a line with a bound."""
    error = broken(wire)
    line = refused_line(WHEN, error, 431) or ""
    assert f'"{method} {target}' in line
    record = json.loads(log_lines(error))
    assert record["method"] == method
    assert record["target"].replace('"', r"\x22").startswith(target)
    assert "SECRET" not in line + str(record)
    assert len(line) < 1200


def test_method_without_a_target_is_logged_alone() -> None:
    """There is a dash where nothing has come of the target."""
    error = broken(b"GET \x01")
    assert '"GET -" 400' in str(refused_line(WHEN, error, 400))
    record = json.loads(log_lines(error))
    assert (record["method"], record["target"]) == ("GET", None)


@pytest.mark.parametrize("wire", [b"\x16\x03\x01", b"PROXY TCP4 ", b"SSH-2.0-x\r\n"])
def test_what_has_no_method_is_a_dash(wire: bytes) -> None:
    """Another protocol has neither method nor target."""
    assert '"-" 400' in str(refused_line(WHEN, broken(wire), 400))
