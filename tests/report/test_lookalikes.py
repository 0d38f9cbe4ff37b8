"""What came in place of a request is known by its bytes, and leads to its cure."""

from __future__ import annotations

import io
import json
from typing import Any, Final, cast

import pytest
from support.explaining import broken, log_lines
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent

from twisted_hangup import Lenience, Limits, ResponseParser
from twisted_hangup.__main__ import main
from twisted_hangup.errors import ClientError, ParseError, RecordedError, ResponseParseError
from twisted_hangup.events import NEED_DATA
from twisted_hangup.journal.console import ConsoleLog
from twisted_hangup.parser import RequestParser
from twisted_hangup.parser import refusals as why
from twisted_hangup.report.lookalikes import (
    BODY_ALONE,
    BODY_LONGER,
    BODY_UNANNOUNCED,
    LOOKALIKES,
    advice_of,
    lookalike_of,
)
from twisted_hangup.report.remedies import REASONS, REMEDIES
from twisted_hangup.report.rules import HANG_UP, ROWS, STALLED

#: openssl s_client -connect: the first bytes of its ClientHello.
TLS: Final = bytes.fromhex(
    "1603010131010001 2d0303c1f2a3b4c5 d6e7f8091a2b3c4d 5e6f708192a3b4c5"
    "d6e7f8091a2b3c20 aabbccddeeff0011 2233445566778899 aabbccddeeff0011".replace(" ", "")
)
PROXY_V2: Final = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\xc8\xd2\x1f\x90"
RDP: Final = b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0"
RDP_COOKIE: Final = b"\x03\0\0*%\xe0\0\0\0\0\0Cookie: mstshash=nmap\r\n\x01\0\x08\0\x03\0\0\0"
SMB1: Final = b"\0\0\0\x54\xffSMBr\0\0\0\0\x08\x01\xc8" + bytes(18) + b"\0\x31\0\x02NT LM 0.12\0"
SMB2: Final = b"\0\0\0\x66\xfeSMB\x40\0\0\0" + bytes(56)
SIP: Final = b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm;branch=foo\r\nFrom: <sip:nm@nm>\r\n"
H2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d\0\x04\x02\0\0\0"
GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"

#: What a client sends, and what it looks like.
REQUESTS: Final = [
    (TLS, "tls-hello"),
    (TLS[:1], "tls-hello"),
    (b"\x80\x2e\x01\x03\x01" + bytes(20), "tls-hello"),
    (b"PROXY TCP4 192.0.2.7 203.0.113.1 51410 443\r\n" + GET, "proxy-v1"),
    (b"PROXY TCP6 2001:db8::1 ::1 51410 443\r\n", "proxy-v1"),
    (b"PROXY UNKNOWN\r\n", "proxy-v1"),
    (PROXY_V2 + GET, "proxy-v2"),
    (H2, "http2-preface"),
    (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "ssh"),
    (b"SSH-1.5-NmapNSE_1.0\n", "ssh"),
    (RDP, "rdp"),
    (RDP_COOKIE, "rdp"),
    (SMB1, "smb"),
    (SMB2, "smb"),
    (b"*1\r\n$4\r\nPING\r\n", "redis"),
    (b"*2\r\n$7\r\nCOMMAND\r\n$4\r\nDOCS\r\n", "redis"),
    (b"PING\r\n", "redis"),
    (b"stats\r\n", "memcached"),
    (b"get key\r\n", "memcached"),
    (b"set key 0 60 5\r\nhello\r\n", "memcached"),
    (SIP, "sip"),
    (b"REGISTER sips:example.org SIP/2.0\r\n", "sip"),
    (b"INVITE sip:a@b SIP/2.0\r\n", "sip"),
    (b"OPTIONS / RTSP/1.0\r\n\r\n", "rtsp"),
    (b"DESCRIBE rtsp://h/stream RTSP/1.0\r\nCSeq: 1\r\n", "rtsp"),
    (b"EHLO example.org\r\n", "smtp"),
    (b"USER anonymous\r\n", "ftp"),
    (b"a001 LOGIN user secret\r\n", "ftp"),
    (b"\x05\x01\0", "socks"),
    (b"\x05\x02\0\x02", "socks"),
    (b"\x04\x01\0\x50\xc0\0\x02\x07\0", "socks"),
    (b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06client", "mqtt"),
    (b"\x10\x14\0\x06MQIsdp\x03\x02\0\x3c\0\x06client", "mqtt"),
    (b"AMQP\0\0\x09\x01", "amqp"),
    (b"0\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", "ldap"),
    (b"\0\0\0\x08\x04\xd2\x16\x2f", "postgresql"),
    (b"\0\0\0\x23\0\x03\0\0user\0me\0", "postgresql"),
    (b"\x3f\0\0\0\x7e\0\0\0\0\0\0\0\xd4\x07\0\0" + b"\0\0\0\0admin.$cmd\0", "mongodb"),
    (b"\0\x1e\0\x06\x01\0\0\x01\0\0\0\0\0\0\x07version\x04bind", "dns"),
    (b"JRMI\0\x02K", "java-rmi"),
    (b"t3 12.1.2\nAS:2048\nHL:19\n\n", "java-rmi"),
    (b"\xff\xfd\x18\xff\xfd\x20", "telnet"),
    (b"\x13BitTorrent protocol" + bytes(8), "bittorrent"),
    (b"netdata.host.cpu 1.46 1613000000\n", "metrics"),
    (b"put sys.cpu 1613000000 42 host=a\r\n", "metrics"),
    (b"carbon.agents;dc=a -3 1613000000\n", "metrics"),
    (b"\xff\xfeG\0E\0T\0", "utf-16"),
    (b"G\0E\0T\0 \0", "utf-16"),
    (b"get / HTTP/1.1\r\n", "method-case"),
    (b"Post /a HTTP/1.1\r\n", "method-case"),
    (b'{"name": "a"}', "json"),
    (b" [1, 2]", "json"),
    (b"<?xml version='1.0'?>", "xml"),
    (b"--------------------------d74496d66958873e\r\n", "multipart"),
    (b"name=a&b=c", "form"),
    (b"1f\r\nhello", "chunk"),
    (POST + b"\r\nhello", "body"),
    (POST + b"Content-Length: 3\r\n\r\nhello", "body"),
    (b"GET / HTTP/1.1\nHost: a\n\n", "lf-only"),
    (b"GET / HTTP/1.1\r\nHost: a\nX: b\n\n", "lf-only"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", "lf-only"),
    (b"GET /\n", None),
    (b"GET /\xe2\x80\x9ca\xe2\x80\x9d HTTP/1.1\r\n", "smart-quotes"),
    (b"GET /a\x93b\x94 HTTP/1.1\r\n", "smart-quotes"),
    (GET + b"\xe2\x80\x98X-Key\xe2\x80\x99: a\r\n\r\n", "smart-quotes"),
    (b"GET / HTTP/1.1\r\nHost: \xe2\x80\x9ca\xe2\x80\x9d\r\n\r\n", "smart-quotes"),
    (b"GET /a\xe2\x80\x93b HTTP/1.1\r\n", "smart-quotes"),
    (b"GET /t\xc3\xa4\xc3\x97 HTTP/1.1\r\n", None),
    (b"GET /\xc3\x97 HTTP/1.1\r\n", None),
    (b"\xef\xbb\xbfGET / HTTP/1.1\r\n", "invisible-character"),
    (b"GET /a\xc2\xa0b HTTP/1.1\r\n", "invisible-character"),
    (GET + b"\xe2\x80\x8bX: a\r\n\r\n", "invisible-character"),
    (b"GET / HTTP/1.1\r\nHost: http://example.org\r\n\r\n", "host-url"),
    (b"GET / HTTP/1.1\r\nHost: example.org/a\r\n\r\n", "host-url"),
    (b"GET / HTTP/1.1\r\nHost: [fe80::1%eth0]\r\n\r\n", "host-zone-id"),
    (b"GET / HTTP/1.1\r\nHost: m\xc3\xbcnchen.example\r\n\r\n", "host-not-ascii"),
    (b"GET / HTTP/1.1\r\nHost: me@example.org\r\n\r\n", "host-userinfo"),
    (b"GET / HTTP/1.1\r\nHost: {{ host }}\r\n\r\n", "host-placeholder"),
    (b"GET / HTTP/1.1\r\nHost: 2001:db8::1\r\n\r\n", "host-bare-ipv6"),
    (b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", "host-port"),
    (b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", "host-port"),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", None),
    (b"GET /" + b"a" * 20_000, "long-target"),
    (GET + b"Cookie: " + b"a" * 20_000, "cookies"),
    (GET + b"X: " + b"a" * 20_000, None),
    (b"MUX / HTTP/1.1\r\n", None),
    (POST + b"Content-Length: 1\r\n\r\naMUX / HTTP/1.1\r\n", None),
    (b"\x01", None),
]

RESPONSES: Final = [
    (b"\x15\x03\x03\0\x02\x02\x46", "tls-alert"),
    (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d", "http2-settings"),
    (b"SSH-2.0-OpenSSH_9.2p1\r\n", "ssh-server"),
    (b"220 mail.example.org ESMTP\r\n", "mail-server"),
    (b"-ERR unknown command 'GET'\r\n", "redis-server"),
    (b"J\0\0\0\x0a8.0.36\0", "mysql-server"),
    (b"HTTP/1.1 200 OK\nA: b\n\n", "lf-only"),
    (b"\x16\x03\x01", None),
]


def response_error(wire: bytes) -> ResponseParseError:
    parser = ResponseParser()
    parser.expect(b"GET")
    parser.receive(wire)
    try:
        while parser.next_event() is not NEED_DATA:
            pass
    except ResponseParseError as error:
        return error
    raise AssertionError("not refused")


def name_of(error: RecordedError) -> str | None:
    lookalike = lookalike_of(error)
    return lookalike and lookalike.name


def console(error: RecordedError) -> str:
    events: list[LogEvent] = []
    ConsoleLog(Clock(), logger=Logger(observer=cast(Any, events.append)))(error)
    return formatEvent(events[0])


@pytest.mark.parametrize("wire, name", REQUESTS, ids=lambda case: repr(case)[:30])
def test_bytes_are_known(wire: bytes, name: str | None) -> None:
    """Report, console and error log name what came, and tell its cause and cure."""
    error = broken(wire)
    assert name_of(error) == name
    report, line = error.report().replace("\n", ""), console(error)
    assert json.loads(log_lines(error))["looks_like"] == name
    if name is None:
        assert "looks like" not in report + line
        return
    words, advice = LOOKALIKES[name].words, advice_of("", "", lookalike_of(error))
    assert advice.remedy is not None
    told = f"It looks like {words}. {' '.join(advice.remedy)} python -m twisted_hangup code {name}"
    assert told.replace(" ", "") in report.replace(" ", "")
    assert line.endswith(f"(looks like {words})")


@pytest.mark.parametrize("wire, name", RESPONSES, ids=lambda case: repr(case)[:30])
def test_a_servers_bytes_are_known(wire: bytes, name: str | None) -> None:
    """What answers in place of an HTTP server is known, too, and no client is blamed."""
    error = response_error(wire)
    assert name_of(error) == name
    assert name is None or "client" not in error.report()


def test_every_lookalike_is_tried() -> None:
    """No row stands here without bytes that it knows, but for what a list of hosts may be."""
    tried = {name for _, name in [*REQUESTS, *RESPONSES]}
    assert {*LOOKALIKES} - tried <= {"host-list"}


@pytest.mark.parametrize("name", [*LOOKALIKES])
def test_words_of_lookalikes(name: str) -> None:
    """They are sentences in printable ASCII."""
    for sentence in LOOKALIKES[name].remedy:
        assert sentence.isascii() and sentence.isprintable()
        assert sentence.endswith(".") and "  " not in sentence


@pytest.mark.parametrize(
    "wire, remedy",
    [
        (b'{"a": 1}', BODY_ALONE),
        (POST + b'\r\n{"a": 1}', BODY_UNANNOUNCED),
        (POST + b"Content-Length: 0\r\n\r\n{}", BODY_LONGER),
        (POST + b"Content-Length: 3\r\n\r\n\xc3\xa4bc", BODY_LONGER),
    ],
)
def test_cause_of_a_stray_body_is_in_the_request_before(wire: bytes, remedy: object) -> None:
    """No length, too small a one, or no request at all: each has a cure of its own."""
    error = broken(wire)
    assert advice_of(error.code, error.reason, lookalike_of(error)).remedy == remedy


def test_lenience_that_is_named_helps() -> None:
    """A client that was told of --lenient bare-lf is served with it."""
    parser = RequestParser(limits=Limits(lenience=Lenience(bare_lf=True)))
    parser.receive(b"GET / HTTP/1.1\nHost: a\n\n")
    assert parser.next_event() is not NEED_DATA


@pytest.mark.parametrize("wire", [TLS, PROXY_V2, RDP_COOKIE, SMB1, SMB2, SIP, H2])
def test_console_shows_32_bytes_of_a_foreign_protocol(wire: bytes) -> None:
    """All of them escaped, and none of a later secret."""
    shown = console(broken(wire + b"\r\nCookie: SECRET")).split('"')[3]
    start = wire[:32]
    known = shown.encode().decode("unicode_escape").encode("latin-1")
    assert len(known) >= len(start)
    assert all(a == b or a == ord("*") for a, b in zip(known, start, strict=False))
    assert "SECRET" not in shown


def test_what_nobody_knows_is_shown_and_masked() -> None:
    """Of other bytes, which may be anything, the console shows no more than the error log."""
    assert console(broken(b"\x01\x02 hello this is a SECRET")).endswith(
        r'"\x01\x02 hello this is ********"'
    )
    assert "SECRET" not in console(broken(POST + b"\r\nThis and that is a SECRET"))


def test_protocol_in_pieces_is_known_by_all_of_them() -> None:
    """Where a line had begun in an earlier read, that counts."""
    parser = RequestParser()
    parser.receive(b"PRO")
    assert parser.next_event() is NEED_DATA
    parser.receive(b"XY TCP4 192.0.2.7 203.0.113.1 51410 443\r\n")
    with pytest.raises(ParseError) as caught:
        parser.next_event()
    assert '"PROXY TCP4 192.0.2.7 203.0.113.1 51410 443' in console(caught.value)


def test_port_that_waits_for_a_proxy_header_keeps_its_cure() -> None:
    """What came in its place is named; what helps is the header."""
    advice = advice_of("ERR_PROXY_PROTOCOL", why.PROXY_MISSING.reason, LOOKALIKES["tls-hello"])
    assert advice.remedy == REMEDIES["ERR_PROXY_PROTOCOL"]
    assert advice.name == "ERR_PROXY_PROTOCOL"


@pytest.mark.parametrize(
    "wire, shown",
    [
        (b"[fe80::1%eth0]", "% ^ 0x25 (%)"),
        (b"m\xc3\xbcnchen.example", r"\xc3 ^^^^ 0xc3"),
        (b"a b", r"\x20 ^^^^ 0x20 (space)"),
        (b"a:80:80", ": ^ 0x3a (:)"),
        (b"http://a", "/ ^ 0x2f (/)"),
    ],
)
def test_caret_of_an_invalid_host_is_under_its_byte(wire: bytes, shown: str) -> None:
    """The first byte that no Host can have there is pointed at."""
    lines = broken(b"GET / HTTP/1.1\r\nHost: " + wire + b"\r\nA: b\r\n\r\n").report().splitlines()
    culprit, caret = shown.split(" ", 1)
    assert lines[2].endswith(culprit)
    assert lines[3].strip() == caret
    assert lines[3].index("^") == len(lines[2]) - len(culprit)


def test_reasons_are_those_of_rows() -> None:
    """A remedy for a reason is for one that there is."""
    assert {*REASONS} <= {(row.code, row.reason) for row in ROWS}


@pytest.mark.parametrize(
    "row, words",
    [
        (STALLED, "--send-timeout"),
        (HANG_UP, "--allow-half-open"),
        (why.TARGET_FRAGMENT, "Cut the target at #"),
        (why.URL_SCHEMA, "with its slash"),
        (why.VALUE_FOLDED, "--lenient obs-fold"),
        (why.VALUE_CHAR, "--lenient control-bytes"),
        (why.VERSION_CRLF, "--lenient bare-lf"),
        (why.VALUE_CR, "--lenient bare-lf"),
        (why.PROXY_ADDRESS, "sends an invalid PROXY header"),
        (why.PROXY_FAMILY, "sends an invalid PROXY header"),
    ],
)
def test_cure_is_that_of_the_reason(row: why.Why, words: str) -> None:
    """One code stands for several faults, and each has its cure."""
    remedy = advice_of(row.code, row.reason, None).remedy
    assert remedy is not None
    assert words in " ".join(remedy)
    assert remedy != REMEDIES[row.code]


@pytest.mark.parametrize(
    "code, words, misleading",
    [
        ("ERR_SSL_UNSUPPORTED_PROTOCOL", "TLS 1.2", "certificate"),
        ("ERR_SSL_TLSV1_ALERT_UNKNOWN_CA", "whole chain", "cipher"),
        ("ERR_HTTP_REQUEST_TIMEOUT", "slow", "in advance"),
        ("HPE_INVALID_METHOD", "a method that this server does not know", "Host"),
    ],
)
def test_cure_is_that_of_the_code(code: str, words: str, misleading: str) -> None:
    """What is not the matter is not spoken of."""
    text = " ".join(advice_of(code, "", None).remedy or ())
    assert words in text
    assert misleading not in text


def test_explain_tells_of_the_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, their JSON, and a line of the log lead to the same cure."""
    wire = b"PROXY UNKNOWN\r\n"
    for data, options in [(wire, []), (wire, ["--json"]), (log_lines(broken(wire)), [])]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["explain", *options]) == 1
        output = " ".join(capsys.readouterr().out.split())
        assert "Begin the port's description with haproxy:" in output
        assert "python -m twisted_hangup code proxy-v1" in output or options == ["--json"]


def test_no_more_is_looked_at_than_a_bound() -> None:
    """What stands further on costs nothing, however it was chosen."""
    host = b"GET / HTTP/1.1\r\nHost: " + b":" * 12_000 + b"@\xff%\r\n\r\n"
    assert name_of(broken(host)) == "host-bare-ipv6"
    assert name_of(broken(b"a" * 300 + b"=b")) is None


def test_errors_without_bytes_look_like_nothing() -> None:
    """A hang-up has none."""
    assert lookalike_of(ClientError("r", code="ECONNRESET", phase="idle")) is None
