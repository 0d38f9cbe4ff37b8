"""The logs as programs get them: documented names, JSON, and a bound on what a flood writes."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pytest
from support.processes import BIN, connect, free_port, running
from support.wire import BAD, wait_for
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger

from twisted_hangup.errors import ClientHangUp, ParseError, RecordedError, RequestTimeout
from twisted_hangup.events import Break, Part, RequestHead
from twisted_hangup.journal.console import ConsoleLog
from twisted_hangup.journal.error_log import ErrorLog
from twisted_hangup.report.rules import RULES
from twisted_hangup.transport.tls import handshake_timeout

DOCS: Final = Path(__file__).parents[2] / "docs"
LOGS: Final = (DOCS / "logs.md").read_text()
CODES: Final = [*dict.fromkeys(code for code, _ in RULES)]

#: Whatever comes, a log grows by no more lines in a second.
MOST_LINES: Final = 50


def block(name: str) -> str:
    """The file *name* as docs/logs.md shows it."""
    [shown] = re.findall(rf"`{re.escape(name)}`:\n\n```[a-z]*\n(.*?)^```$", LOGS, re.S | re.M)
    return str(shown)


def table(heading: str) -> list[str]:
    """The names in the first column of the table under *heading*."""
    _, _, section = LOGS.partition(f"## {heading}\n")
    return [
        name
        for row in re.findall(r"^\| (`.*?) \|", section.split("\n## ")[0], re.M)
        for name in re.findall(r"`(\w+)`", row)
    ]


class Logs:
    """Both logs of a site, on one clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1_000_000_000.25
        self.events: list[LogEvent] = []
        self._file = io.BytesIO()
        logger = Logger(namespace="test", observer=cast(ILogObserver, self.events.append))
        self.console = ConsoleLog(self.clock, log_idle=True, logger=logger)
        self.error_log = ErrorLog(
            cast(BinaryIO, self._file),
            self.clock,
            log_idle=True,
            now=lambda: float(self.clock.seconds()),
        )

    def record(self, error: RecordedError) -> None:
        self.console(error)
        self.error_log(error)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.getvalue().splitlines()]


def test_flood_of_twenty_thousand_errors_a_second() -> None:
    """With every code there is, no second adds more than so many lines, and no count is lost."""
    logs = Logs()
    written: Counter[str] = Counter()
    errors: list[RecordedError] = [ParseError("r", code=code, phase="head") for code in CODES]
    errors += [
        ClientHangUp("r", code=code, phase="idle") for code in ("ECONNRESET", "EPIPE", "ETIMEDOUT")
    ]
    errors += [
        ClientHangUp("r", code="ECONNRESET", phase="response"),
        RequestTimeout("r", code="ERR_HTTP_REQUEST_TIMEOUT", phase="idle"),
        handshake_timeout(begun=False),
    ]
    count, known = 0, 0
    for _ in range(3 * 100):
        for _ in range(200):
            logs.record(errors[count % len(errors)])
            count += 1
        logs.clock.advance(0.01)
        second = f"{int(logs.clock.seconds() - 1e-6)} console"
        written[second] += len(logs.events) - known
        known = len(logs.events)
    logs.clock.advance(1)
    written.update(f"{line['time']:.19} error log" for line in logs.lines)
    assert count == 60_000
    assert max(written.values()) <= MOST_LINES
    assert sum(event.get("suppressed", 1) for event in logs.events) == count
    assert sum(line.get("suppressed", 1) for line in logs.lines) == count


def test_fields_of_an_event_are_documented() -> None:
    """docs/logs.md names the fields of Twisted's event, and no others."""
    logs = Logs()
    for _ in range(12):
        logs.console(ParseError("r", code="HPE_STRICT", phase="head"))
    logs.console.close()
    names = {name for name in logs.events[0] if not name.startswith("log_")}
    texts = {"answer", "place", "quoted"}  # parts of the line, made of the other fields
    assert names - texts == {*table("Events")} - {"suppressed"}
    assert {"code", "suppressed"} <= {*logs.events[-1]}


def test_fields_of_the_error_log_are_documented() -> None:
    """docs/logs.md names what stands in a line of --error-log, and nothing else."""
    logs = Logs()
    logs.error_log(ParseError("r", code="HPE_STRICT", phase="head"))
    assert {*logs.lines[0]} == {*table("The error log")} - {"suppressed", "upstream", "worker"}


#: Of target and field name at most a part is logged, each backslash twice.
LONGEST: Final = b"GET /%b HTTP/1.1\r\nHost: a\r\n%b: \x01\r\n" % (b"\\" * 3000, b"x" * 6000)


def test_line_of_the_error_log_is_bounded() -> None:
    """A shipper can be told how long a line may be: docs/logs.md does."""
    assert "A line is at most 16 KiB long" in LOGS
    logs = Logs()
    long = b"\\" * 5000
    line = b"X" + long
    error = ParseError(
        "Invalid header token",
        code="HPE_INVALID_HEADER_TOKEN",
        phase="head",
        request=RequestHead(long, long, b"1.1"),
        field=long,
        raw_packet=line,
        bytes_parsed=3000,
        offset=3000,
        broke_at=Break(Part.FIELD, b"", line, 3000),
    )
    logs.error_log(error)
    [record] = logs.lines
    assert 10 * 1024 < len(json.dumps(record)) <= 16 * 1024


def served(tmp_path: Path, *command: str, wire: bytes = BAD) -> None:
    """Run a server in *tmp_path* while a client sends it a bad request."""
    with running(tmp_path, *command):
        port = int(next(word for word in command if word.startswith("--port=")).split("=")[1])
        client = connect(port).send(wire)
        client.read_all()
        client.close()


def test_json_of_twist(tmp_path: Path) -> None:
    """``twist --log-format=json`` writes each error as an object with the documented fields."""
    served(
        tmp_path,
        *(str(BIN / "twist"), "--log-format=json", "--log-file=log.json"),
        *("hangup", f"--port={free_port()}"),
    )
    # RFC 7464: a record separator before each object.
    records = (tmp_path / "log.json").read_text().split("\x1e")
    events = [json.loads(record) for record in records if record.strip()]
    [event] = [event for event in events if event.get("code") and "phase" in event]
    assert event["log_namespace"] == "twisted_hangup.console"
    assert event["log_level"]["name"] == "warn"
    assert (event["code"], event["status"], event["offset"]) == (
        "HPE_INVALID_HEADER_TOKEN",
        400,
        32,
    )
    assert {*table("Events")} - {"suppressed"} <= {*event}


@pytest.mark.skipif(not shutil.which("rsyslogd"), reason="no rsyslog")
def test_rsyslog_ships_the_error_log(tmp_path: Path) -> None:
    """With the page's configuration rsyslog reads each line as JSON, and hands it on."""
    shipped, log = tmp_path / "shipped", tmp_path / "errors.log"
    config = block("hangup.conf").replace("/var/log/hangup/errors.log", str(log))
    config = re.sub(
        r'action\(type="omfwd".*?\)',
        f'action(type="omfile" file="{shipped}" template="hangup")',
        config,
        flags=re.S,
    )
    assert "omfile" in config
    (tmp_path / "rsyslog.conf").write_text(
        f'global(workDirectory="{tmp_path}")\nmain_queue(queue.type="Direct")\n{config}'
    )
    served(
        tmp_path,
        *(str(BIN / "twistd"), "-n", "--pidfile=", "hangup"),
        *(f"--port={free_port()}", f"--error-log={log}"),
        wire=LONGEST,
    )
    command = ["rsyslogd", "-n", "-f", "rsyslog.conf", "-i", str(tmp_path / "pid")]
    with running(tmp_path, *command):
        wait_for(lambda: shipped.exists() and shipped.read_text().endswith("\n"))
    [line] = log.read_text().splitlines()
    [sent] = map(json.loads, shipped.read_text().splitlines())
    assert sent == json.loads(line)
    assert len(line) > 8 * 1024  # more than rsyslog takes if it is not told
