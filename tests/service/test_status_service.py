"""``twistd hangup --status``: where it listens, whom it tells the token, and how it ends."""

from __future__ import annotations

import socket
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.status_pages import Serve, ask
from support.wire import BAD, Client, in_thread, talk
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError
from twisted.web.resource import Resource

from twisted_hangup import HangupSite
from twisted_hangup.report.masking import MaskingPolicy
from twisted_hangup.service import Options, makeService
from twisted_hangup.service.serving import CannotListen, HangupService
from twisted_hangup.status import StatusSite

TOKEN = "a-token-of-the-operators"


def make(*arguments: str) -> HangupService:
    options = Options()
    options.parseOptions(["--port", "tcp:0:interface=127.0.0.1", *arguments])
    service = makeService(options)
    assert isinstance(service, HangupService)
    return service


def port_of(service: HangupService) -> int:
    [port] = service.ports
    address: Any = port.getHost()
    number: int = address.port
    return number


class Running:
    """A service with a status page, and both ports."""

    def __init__(self, *arguments: str) -> None:
        self.service = make(*arguments)
        self.service.startService()
        [self.status_service] = self.service._companions
        self.port, self.status = map(port_of, (self.service, self.status_service))


LOCAL = ("--status", "tcp:0:interface=127.0.0.1")


@pytest_twisted.ensureDeferred
async def test_service(tmp_path: Path) -> None:
    """--status shows the errors of --port, and an operator who looks is not logged."""
    access = tmp_path / "access"
    with capturedLogs() as events:
        running = Running(*LOCAL, "--access-log", str(access), "--mask-field", "x-key")
        bad = BAD.replace(b"bad header", b"X-Key: SECRET\r\nbad header")
        await talk(running.port, bad)
        snapshot = (await ask(running.status, "snapshot")).json
        assert (await ask(running.status)).status == 200
        await running.service.stopService()
    assert snapshot["by_code"] == {"HPE_INVALID_HEADER_TOKEN": 1}
    assert b"SECRET" not in b64decode(snapshot["entries"][0]["raw_packet"])
    assert len(access.read_text().splitlines()) == 1
    lines = [formatEvent(event) for event in events]
    assert f"The status page is on 127.0.0.1:{running.status}" in lines
    assert not any("the token" in str(line) or "snapshot" in str(line) for line in lines)


@pytest_twisted.ensureDeferred
async def test_service_has_metrics() -> None:
    """Where prometheus-client is installed they stand beside the page."""
    pytest.importorskip("prometheus_client")
    running = Running(*LOCAL)
    await talk(running.port, BAD)
    metrics = (await ask(running.status, "metrics")).body
    await running.service.stopService()
    assert b'hangup_client_errors_total{code="HPE_INVALID_HEADER_TOKEN",phase="head"} 1' in metrics


def test_service_without_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the page is there all the same."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "twisted_hangup.metrics", raising=False)
    assert make(*LOCAL)._companions


@pytest_twisted.ensureDeferred
async def test_service_prints_the_token_once() -> None:
    """On a network the log has the token, where it starts and nowhere else."""
    with capturedLogs() as events:
        running = Running("--status", "tcp:0")
        token = running.status_service.site.token  # type: ignore[attr-defined]
        await ask(running.status, "sign-in", method="POST", body=f"token={token}")
        await ask(running.status, "snapshot", f"Authorization: Bearer {token}")
        await running.service.stopService()
    assert len([event for event in events if token in str(formatEvent(event))]) == 1


@pytest_twisted.ensureDeferred
async def test_service_with_a_token_of_the_operators(tmp_path: Path) -> None:
    """Then it is needed on loopback, too, and never logged."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with capturedLogs() as events:
        running = Running(*LOCAL, "--status-token-file", str(file))
        assert (await ask(running.status, "snapshot")).status == 401
        field = f"Authorization: Bearer {TOKEN}"
        assert (await ask(running.status, "snapshot", field)).status == 200
        await running.service.stopService()
    assert not [event for event in events if TOKEN in str(event)]


@pytest_twisted.ensureDeferred
async def test_service_ends_event_streams() -> None:
    """A browser that follows holds nothing up, even one that does not read."""
    running = Running(*LOCAL, "--grace", "60")
    head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client = await in_thread(lambda: Client(running.status).send(head))
    await in_thread(lambda: client.read_until(b"}\n\n\r\n"))
    stopped = running.service.stopService()
    rest = await in_thread(client.read_all)
    assert rest.endswith(b"0\r\n\r\n")
    await stopped
    client.close()
    with pytest.raises(ConnectionRefusedError):
        await in_thread(lambda: socket.create_connection(("127.0.0.1", running.status)))


@pytest_twisted.ensureDeferred
async def test_service_logs_errors_of_the_status_page() -> None:
    """Whoever breaks it stands in the log."""
    running = Running(*LOCAL)
    with capturedLogs() as events:
        await talk(running.status, BAD)
    await running.service.stopService()
    assert [event["code"] for event in events if "code" in event] == ["HPE_INVALID_HEADER_TOKEN"]


@pytest_twisted.ensureDeferred
async def test_status_port_in_use() -> None:
    """A port that somebody has is told by its name."""
    running = Running(*LOCAL)
    taken = f"tcp:{running.status}:interface=127.0.0.1"
    second = make("--status", taken)
    with pytest.raises(CannotListen, match=f"cannot listen on {taken}: Address already in use"):
        second.startService()
    await second.stopService()
    await running.service.stopService()


def options_of(*arguments: str) -> Options:
    options = Options()
    options.parseOptions([*arguments])
    return options


def test_status_is_off() -> None:
    """Nobody listens unless the operator says so."""
    assert options_of().status is None
    assert not make()._companions


def test_a_number_is_loopback() -> None:
    """A mere port number is for this machine only, unlike that of --port."""
    assert options_of("--status", "9000").status == (
        "port 9000",
        "tcp:9000:interface=127.0.0.1",
    )


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--status", "99999"], "--status: 99999 is not a port number"),
        (["--status", "here"], "--status: 'here' is neither a port number nor an endpoint"),
        (["--status", "nonsense:1"], "--status: 'nonsense:1': 'nonsense' is not a kind of"),
        (["--status", "haproxy:tcp:9000"], "--status: cannot be used with the PROXY protocol"),
        (["--status-token-file", "x"], "--status-token-file needs --status"),
        ([*LOCAL, "--status-token-file", "/nowhere"], "cannot read '/nowhere': No such file"),
        ([*LOCAL, "--status-token-file", __file__], "has to hold one token of 16 to 512"),
        ([*LOCAL, "--status-token-file", "/dev/null"], "has to hold one token of 16 to 512"),
    ],
)
def test_mistakes(arguments: list[str], complaint: str) -> None:
    """A mistake is told in one line that names the option."""
    with pytest.raises(UsageError) as caught:
        make(*arguments)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_site_of_ones_own(serve: Serve) -> None:
    """In a program it is a site like any other."""
    from twisted.internet import reactor

    site = HangupSite(Resource(), masking=MaskingPolicy(extra_fields=frozenset({b"x-key"})))
    status = StatusSite(site, reactor)
    assert status.masking is site.masking and status.token_was_made_up and len(status.token) >= 32
