"""The error log is JSON lines for programs: complete, bounded, masked, and on the disk at once."""

from __future__ import annotations

import errno
import io
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cleanliness import LoggedErrors
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from twisted_hangup.errors import ClientError, ClientHangUp, ParseError
from twisted_hangup.events import Break, Part, RequestHead
from twisted_hangup.journal.error_log import RAW_PACKET_BYTES, ErrorLog
from twisted_hangup.report.masking import UNMASKED

FIELDS: Final = [
    "time",
    "code",
    "reason",
    "status",
    "phase",
    "bytes_parsed",
    "offset",
    "raw_packet",
    "raw_packet_offset",
    "peer",
    "method",
    "target",
    "field",
    "looks_like",
]

PACKET: Final = b"GET /?q=s HTTP/1.1\r\nHost: a\r\nX-Trace: ab\x01cd\r\nCookie: e=f\r\n\r\n"


def parse_error(packet: bytes = PACKET, at: int = 41, **facts: Any) -> ParseError:
    line = packet[packet.rfind(b"\n", 0, at) + 1 : at + 1]
    facts.setdefault("field", b"X-Trace")
    return ParseError(
        "Invalid header value char",
        code="HPE_INVALID_HEADER_TOKEN",
        phase="head",
        request=RequestHead(b"GET", b"/?q=s", b"1.1", [(b"Host", b"a")]),
        peer=IPv4Address("TCP", "192.0.2.1", 51332),
        raw_packet=packet,
        bytes_parsed=at,
        offset=at,
        broke_at=Break(Part.FIELD, b"GET /?q=s HTTP/1.1", line, len(line) - 1),
        **facts,
    )


HANG_UP: Final = ClientHangUp("read ECONNRESET", code="ECONNRESET", phase="head")


def lines(file: io.BytesIO | Path) -> list[dict[str, Any]]:
    text = file.read_bytes() if isinstance(file, Path) else file.getvalue()
    assert text.isascii()
    return [json.loads(line) for line in text.splitlines()]


def now() -> float:
    return 1_700_000_000.1234


@implementer(ILogObserver)
class Events(list[LogEvent]):
    """What is logged."""

    __call__ = list[LogEvent].append


@pytest.fixture
def events(expected_errors: LoggedErrors) -> Iterator[list[LogEvent]]:
    """What is logged meanwhile; errors are expected."""
    seen = Events()
    globalLogPublisher.addObserver(seen)
    yield seen
    globalLogPublisher.removeObserver(seen)
    expected_errors.flush()


def test_line_of_a_parse_error() -> None:
    """A line has every name, and the packet with its secrets hidden."""
    file = io.BytesIO()
    ErrorLog(file, Clock(), now=now)(parse_error())
    (line,) = lines(file)
    assert list(line) == FIELDS
    packet = b64decode(line.pop("raw_packet"))
    assert packet == b"GET /?*** HTTP/1.1\r\nHost: a\r\nX-Trace: ab\x01cd\r\nCookie: ***\r\n\r\n"
    assert line == {
        "time": "2023-11-14T22:13:20.123Z",
        "code": "HPE_INVALID_HEADER_TOKEN",
        "reason": "Invalid header value char",
        "status": 400,
        "phase": "head",
        "bytes_parsed": 41,
        "offset": 41,
        "raw_packet_offset": 0,
        "peer": "192.0.2.1:51332",
        "method": "GET",
        "target": "/?***",
        "field": "X-Trace",
        "looks_like": None,
    }


def test_line_of_a_hang_up() -> None:
    """What an error does not have is null, and there all the same."""
    file = io.BytesIO()
    ErrorLog(file, Clock(), now=now)(HANG_UP)
    (line,) = lines(file)
    assert list(line) == FIELDS
    assert {name for name, value in line.items() if value is not None} == {
        "time",
        "code",
        "reason",
        "phase",
    }


def test_what_is_nobodys_fault_has_a_line_where_it_is_asked_for() -> None:
    """Probes and idle resets are no news."""
    error = ClientHangUp("read ECONNRESET", code="ECONNRESET", phase="idle")
    file = io.BytesIO()
    ErrorLog(file, Clock())(error)
    assert lines(file) == []
    ErrorLog(file, Clock(), log_idle=True)(error)
    assert [line["phase"] for line in lines(file)] == ["idle"]


def test_unix_peers_are_named() -> None:
    """A client on a UNIX socket has no host."""
    file = io.BytesIO()
    error = ClientHangUp("left", code="EPIPE", phase="response", peer=UNIXAddress(None))
    ErrorLog(file, Clock())(error)
    assert lines(file)[0]["peer"] == "unix"


def test_unmasked_log_shows_everything() -> None:
    """An operator may turn masking off."""
    file = io.BytesIO()
    ErrorLog(file, Clock(), policy=UNMASKED)(parse_error())
    assert b64decode(lines(file)[0]["raw_packet"]) == PACKET
    assert lines(file)[0]["target"] == "/?q=s"


def test_packet_is_cut_around_the_error() -> None:
    """Of a long packet 4 KiB are kept, and the error is where the offsets say."""
    packet = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4000 + b"X: \x01\r\n" + b"C: d\r\n" * 4000
    at = packet.index(b"\x01")
    file = io.BytesIO()
    ErrorLog(file, Clock())(parse_error(packet, at))
    (line,) = lines(file)
    kept = b64decode(line["raw_packet"])
    assert len(kept) == RAW_PACKET_BYTES
    assert kept[line["bytes_parsed"] - line["raw_packet_offset"]] == 0x01
    assert packet[line["raw_packet_offset"] :].startswith(kept)


@given(st.binary(max_size=3000), st.binary(max_size=100))
def test_line_is_ascii_and_bounded(target: bytes, field: bytes) -> None:
    """Whatever a client sends, a line is one line of printable ASCII of limited length."""
    error = parse_error(field=field)
    assert error.request is not None
    error.request.target = target
    file = io.BytesIO()
    ErrorLog(file, Clock())(error)
    line = file.getvalue()
    assert line.count(b"\n") == 1
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])
    assert len(line) < 8192


def test_flood_is_counted_by_code() -> None:
    """Above the rate the first of a code is told, and of the rest a number per code."""
    file, clock = io.BytesIO(), Clock()
    log = ErrorLog(file, clock, per_second=2, now=now)
    for error in [HANG_UP, HANG_UP, HANG_UP, parse_error(), HANG_UP, parse_error()]:
        log(error)
    codes = [line["code"] for line in lines(file)]
    assert codes == ["ECONNRESET", "ECONNRESET", "HPE_INVALID_HEADER_TOKEN"]
    clock.advance(1)
    assert lines(file)[3:] == [
        {"time": "2023-11-14T22:13:20.123Z", "code": "ECONNRESET", "suppressed": 2},
        {"time": "2023-11-14T22:13:20.123Z", "code": "HPE_INVALID_HEADER_TOKEN", "suppressed": 1},
    ]


def test_closing_tells_the_flood_and_leaves_a_given_file_open() -> None:
    """Nothing is lost at the end; a file that was handed in is its owner's to close."""
    file, clock = io.BytesIO(), Clock()
    log = ErrorLog(file, clock, per_second=1)
    log(HANG_UP)
    log(HANG_UP)
    log.close()
    log.close()
    assert [line.get("suppressed") for line in lines(file)] == [None, 1]
    assert clock.getDelayedCalls() == []
    log(HANG_UP)
    assert len(lines(file)) == 2


def test_path_is_appended_to_and_flushed(tmp_path: Path) -> None:
    """A line is in the file before the call returns, after what was there."""
    path = tmp_path / "errors.log"
    path.write_text('{"old": 1}\n')
    log = ErrorLog(path, Clock())
    log(HANG_UP)
    assert [line.get("code") for line in lines(path)] == [None, "ECONNRESET"]
    log.close()


def test_path_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    """A wrong path is an error at start, where someone is looking."""
    with pytest.raises(FileNotFoundError):
        ErrorLog(tmp_path / "missing" / "errors.log", Clock())


class Disk(io.RawIOBase):
    """A disk with so much room, that takes so many bytes at a time."""

    def __init__(self, room: int, at_a_time: int = 1 << 20) -> None:
        self.room = room
        self.at_a_time = at_a_time
        self.data = b""

    def write(self, data: Any) -> int:
        taken = bytes(data)[: min(self.room, self.at_a_time)]
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data += taken
        self.room -= len(taken)
        return len(taken)


def error_log(disk: Disk) -> ErrorLog:
    return ErrorLog(cast(BinaryIO, disk), Clock(), per_second=0)


def test_short_writes_are_gone_on_with() -> None:
    """A file may take less than it is given."""
    disk = Disk(10_000, at_a_time=7)
    error_log(disk)(HANG_UP)
    assert json.loads(disk.data)["code"] == "ECONNRESET"


def test_full_disk_is_logged_once_and_counted(events: list[LogEvent]) -> None:
    """A failing disk raises nothing, is told once, and once more when it works again."""
    disk = Disk(100)
    log = error_log(disk)
    for _ in range(3):
        log(HANG_UP)
    assert log.lost_lines == 3
    assert [event["log_level"].name for event in events] == ["error"]
    disk.room = 10_000
    log(HANG_UP)
    log(HANG_UP)
    assert [event["log_level"].name for event in events] == ["error", "warn"]
    # What was torn is a line of its own, and spoils none after it.
    torn, *whole = disk.data.splitlines()
    assert len(torn) == 100
    assert [json.loads(line)["code"] for line in whole] == ["ECONNRESET"] * 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda error: setattr(error, "reason", None),
        lambda error: setattr(error, "request", object()),
        lambda error: setattr(error, "offset", object()),
    ],
)
def test_nothing_is_raised_into_the_caller(
    spoil: Callable[[ClientError], None], events: list[LogEvent]
) -> None:
    """A bug in here costs a line and is logged; the connection is not harmed."""
    error = parse_error()
    spoil(error)
    log = ErrorLog(io.BytesIO(), Clock())
    log(error)
    assert log.lost_lines == 1
    (event,) = events
    assert "log_failure" in event


def test_lines_of_another_process() -> None:
    """They have the same bound as our own, and none after the close."""
    clock, file = Clock(), io.BytesIO()
    log = ErrorLog(file, clock, per_second=1, now=now)
    log.pass_on("HPE_STRICT", b'{"code": "HPE_STRICT", "worker": 2}\n')
    log.pass_on("HPE_STRICT", b'{"code": "HPE_STRICT", "worker": 1}\n')
    log.count("HPE_STRICT", 5)
    assert lines(file) == [{"code": "HPE_STRICT", "worker": 2}]
    clock.advance(1)
    (summary,) = lines(file)[1:]
    assert (summary["code"], summary["suppressed"]) == ("HPE_STRICT", 6)
    log.pass_on("HPE_STRICT", b'{"code": "HPE_STRICT", "worker": 1}\n')
    log.close()
    log.pass_on("HPE_STRICT", b'{"code": "HPE_STRICT", "worker": 1}\n')
    assert len(lines(file)) == 3
