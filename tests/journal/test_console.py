"""In the server's log each client error is one line, and a flood is a few."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from zope.interface import implementer

from twisted_hangup.errors import ClientError, ClientHangUp, ParseError, Phase, RequestTimeout
from twisted_hangup.events import Break, Part, RequestHead
from twisted_hangup.journal.console import ConsoleLog
from twisted_hangup.transport.tls import handshake_timeout

PEER = IPv4Address("TCP", "127.0.0.1", 51332)


@implementer(ILogObserver)
class Console:
    """A console log with a clock, and what it has said."""

    def __init__(self, **options: Any) -> None:
        self.events: list[LogEvent] = []
        self.clock = Clock()
        logger = Logger(namespace="test", observer=self)
        self.log = ConsoleLog(self.clock, logger=logger, **options)

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(event["log_level"].name, formatEvent(event)) for event in self.events]


def parse_error(line: bytes = b"\x16", **facts: Any) -> ParseError:
    return ParseError(
        "Invalid method encountered",
        code="HPE_INVALID_METHOD",
        phase="head",
        offset=len(line) - 1,
        broke_at=Break(Part.REQUEST_LINE, line, line, len(line) - 1),
        **{"peer": PEER, **facts},
    )


def hang_up(phase: Phase) -> ClientHangUp:
    head = None if phase == "idle" else RequestHead(b"GET", b"/a?q=s", b"1.1")
    return ClientHangUp("read ECONNRESET", code="ECONNRESET", phase=phase, request=head, peer=PEER)


def logged(error: ClientError) -> list[tuple[str, str]]:
    console = Console()
    console.log(error)
    return console.lines


def test_parse_error_is_told_with_the_byte() -> None:
    """Status, code, reason, place, byte, peer, and the request line as far as it came."""
    assert logged(parse_error()) == [
        (
            "warn",
            '400 HPE_INVALID_METHOD "Invalid method encountered" at byte 0 (0x16)'
            ' from 127.0.0.1:51332 "\\x16" (looks like a TLS hello)',
        )
    ]


def test_error_without_a_byte_is_told_with_its_phase() -> None:
    """A hang-up has no status and no byte."""
    assert logged(hang_up("body")) == [
        (
            "warn",
            '- ECONNRESET "read ECONNRESET" (body) from 127.0.0.1:51332 "GET /a?*** HTTP/1.1"',
        )
    ]


def test_error_before_any_request_is_told_without_one() -> None:
    """Where nothing has come nothing is quoted, and a peer may be unknown."""
    error = RequestTimeout("Request timeout", code="ERR_HTTP_REQUEST_TIMEOUT", phase="head")
    assert logged(error) == [
        ("warn", '408 ERR_HTTP_REQUEST_TIMEOUT "Request timeout" (head) from unknown')
    ]


def test_end_of_input_has_a_place_and_no_byte() -> None:
    """No byte is named where none is to blame."""
    error = ParseError(
        "Invalid EOF state",
        code="HPE_INVALID_EOF_STATE",
        phase="head",
        offset=3,
        peer=PEER,
        broke_at=Break(Part.REQUEST_LINE, b"GET", b"GET", 3),
    )
    assert logged(error)[0][1] == (
        '400 HPE_INVALID_EOF_STATE "Invalid EOF state" at byte 3 from 127.0.0.1:51332 "GET"'
    )


def test_secrets_of_the_request_line_are_hidden() -> None:
    """A log is no place for a token."""
    assert logged(parse_error(b"GET /?token=abc\x01"))[0][1].endswith('"GET /?*********\\x01"')


def test_long_request_lines_are_cut() -> None:
    """One client cannot fill a screen."""
    assert len(logged(parse_error(b"GET /" + b"a" * 10_000))[0][1]) < 200


QUIET = [
    hang_up("idle"),
    hang_up("handshake"),
    RequestTimeout("Request timeout", code="ERR_HTTP_REQUEST_TIMEOUT", phase="idle"),
    handshake_timeout(begun=False),
]


@pytest.mark.parametrize("error", QUIET, ids=str)
def test_what_is_nobodys_fault_has_no_line_at_any_level(error: ClientError) -> None:
    """Load balancers probe all day, and twistd shows all levels; who wants to know asks."""
    assert logged(error) == []
    console = Console(log_idle=True)
    console.log(error)
    assert [level for level, _ in console.lines] == ["info"]
    assert console.lines[0][1].startswith(f"- {error.code} ")


def test_client_that_leaves_during_a_response_is_no_warning() -> None:
    """It is nobody's fault but its own; in the middle of its request something may be wrong."""
    assert [level for level, _ in logged(hang_up("response"))] == ["info"]
    assert [level for level, _ in logged(hang_up("body"))] == ["warn"]
    assert [level for level, _ in logged(handshake_timeout())] == ["warn"]


def test_event_has_fields_to_search_for() -> None:
    """A structured log has each fact under its own name, and no bytes."""
    console = Console()
    console.log(parse_error())
    (event,) = console.events
    facts = {
        name: event[name]
        for name in (
            *("code", "reason", "status", "phase", "offset", "peer", "request", "looks_like"),
        )
    }
    assert facts == {
        "code": "HPE_INVALID_METHOD",
        "reason": "Invalid method encountered",
        "status": 400,
        "phase": "head",
        "offset": 0,
        "peer": "127.0.0.1:51332",
        "request": r"\x16",
        "looks_like": "tls-hello",
    }
    assert not any(isinstance(value, bytes) for value in event.values())


def test_flood_is_told_in_one_line_per_code() -> None:
    """Ten lines in a second and the first of each code; the rest are told when it is over."""
    console = Console()
    for _ in range(1244):
        console.log(parse_error())
    for _ in range(2):
        console.log(hang_up("body"))
    assert [" ECONNRESET " in line for _, line in console.lines] == [False] * 10 + [True]
    console.clock.advance(1)
    assert console.lines[11:] == [
        ("warn", "... and 1,234 more HPE_INVALID_METHOD in the last second"),
        ("warn", "... and 1 more ECONNRESET in the last second"),
    ]
    assert console.clock.getDelayedCalls() == []


def test_idle_resets_do_not_use_up_the_lines_of_others() -> None:
    """A flood of harmless resets hides no error, and is counted at its own level."""
    console = Console(per_second=1, log_idle=True)
    for _ in range(3):
        console.log(hang_up("idle"))
    for _ in range(2):
        console.log(hang_up("response"))
    console.log(parse_error())
    console.log.close()
    assert [level for level, _ in console.lines] == ["info", "warn", "info"]
    assert console.lines[2][1] == "... and 4 more ECONNRESET in the last second"
    assert console.clock.getDelayedCalls() == []


@given(st.binary(min_size=1, max_size=100), st.text(max_size=20), st.text(max_size=20))
def test_line_is_printable_whatever_a_client_sends(line: bytes, code: str, reason: str) -> None:
    """No byte of a client's is part of a format, moves the cursor or starts a line."""
    error = parse_error(line)
    error.code, error.reason = code, reason
    console = Console()
    console.log(error)
    (event,) = console.events
    assert event["log_level"] is LogLevel.warn
    assert "{" not in event["log_format"].replace("{", "", 7)
    text = formatEvent(event)
    assert all(0x20 <= ord(letter) <= 0x7E for letter in text)
    assert text.startswith("400 ")
