"""Error log, status page and ``explain`` say the same of an error, under the same names."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from support.explaining import broken, log_lines
from support.wire import BAD
from twisted.web.resource import Resource

from twisted_hangup import HangupSite
from twisted_hangup.__main__ import main
from twisted_hangup.errors import ClientHangUp, RecordedError, UpstreamError
from twisted_hangup.journal import Journal
from twisted_hangup.journal.access_log import refused_line
from twisted_hangup.report.masking import DEFAULT_POLICY
from twisted_hangup.status.snapshots import Snapshots
from twisted_hangup.testing import feed

LONG = b"\\" * 5000

ERRORS = [
    broken(BAD),
    broken(b"GET /?key=SECRET HTTP/1.1\r\nHost: a\r\nCookie: SECRET\x01\r\n\r\n"),
    broken(b"GET /" + LONG + b" HTTP/1.1\r\nHost: a\r\n" + b"x" * 3000 + b": \x01\r\n\r\n"),
    ClientHangUp("read ECONNRESET", code="ECONNRESET", phase="head"),
    UpstreamError("refused\x1b", code="ERR_UPSTREAM_REFUSED", phase="response"),
]


@pytest.mark.parametrize(
    "sent, method, target",
    [
        (b"GE", None, None),
        (b"GET ", "GET", None),
        (b"GET /search?q=SECRET", "GET", "/search?********"),
        (b"\r\nPOST http://user:SECRET", "POST", "http://***********"),
        (b"GET /a HTTP/1.", "GET", "/a"),
    ],
)
@pytest.mark.parametrize("end", ["late", "reset", "fin"])
def test_request_line_that_stops(
    end: str, sent: bytes, method: str | None, target: str | None
) -> None:
    """However it stops, method and target are known as far as they came."""
    client = feed(HangupSite(Resource()), sent[:6], sent[6:])
    {"late": lambda: client.advance(61), "reset": client.reset, "fin": client.fin}[end]()
    (error,) = client.errors
    record = logged(error)
    assert (error.phase, record["method"], record["target"]) == ("head", method, target)
    request = " ".join(filter(None, [method, target or (method and "-")])) or "-"
    status = {"late": 408, "reset": 499, "fin": 400}[end]
    line = str(refused_line("[]", error, error.status))
    assert line.startswith(f'{client.peer.host} - - [] "{request}')
    assert f'" {status} - ' in line


def logged(error: Any) -> dict[str, Any]:
    """What the error log has of *error*."""
    record: dict[str, Any] = json.loads(log_lines(error))
    return record


def shown(error: RecordedError) -> dict[str, Any]:
    """What the status page has of it."""
    journal = Journal()
    if isinstance(error, UpstreamError):
        journal.record_upstream(error)
    else:
        journal.record(error)  # type: ignore[arg-type]
    snapshots = Snapshots(DEFAULT_POLICY, lambda: 0.0, lambda: 0)
    [entry] = json.loads(snapshots.json(journal.snapshot()))["entries"]
    assert isinstance(entry, dict)
    return entry


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.code}-{error.offset}")
def test_log_and_page_agree(error: Any) -> None:
    """Each name of the log is one of the page's, with the same value; packets may be shorter."""
    line, entry = logged(error), shown(error)
    apart = {"time", "raw_packet", "raw_packet_offset"}
    assert {name: entry[name] for name in line.keys() - apart} == {
        name: line[name] for name in line.keys() - apart
    }
    assert "SECRET" not in f"{line}{entry}"


@pytest.mark.parametrize("wire", [BAD, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: SECRET\x01\r\n\r\n"])
def test_log_and_explain_agree(
    wire: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``explain --json`` judges bytes with the names and values that the log has."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(wire)))
    assert main(["explain", "--json"]) == 1
    explained = json.loads(capsys.readouterr().out.splitlines()[-1])
    line = logged(broken(wire))
    del line["time"], line["peer"]
    assert {name: explained[name] for name in line} == line
