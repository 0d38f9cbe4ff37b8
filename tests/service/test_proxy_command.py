"""``twistd hangup --proxy`` as an operator types it, and what the logs say of it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import BIN, connect, free_port, read_until
from support.upstreams import OK, Connection, RawServer
from support.wire import PATIENCE, wait_for
from twisted.application.service import IService
from twisted.python.usage import UsageError

from twisted_hangup.service import Options, accept, service

#: twistd ends by the signal that it was sent.
STOPPED = (0, -signal.SIGTERM)

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("--proxy 9000", "--proxy: '9000' is not the URL of a server"),
        ("--proxy http://a/?q", "--proxy: 'http://a/?q' has more than a scheme"),
        ("--proxy http://a:b/", "--proxy: 'http://a:b/': Port"),
        ("--proxy http://a --path .", "--path and --proxy cannot be used together"),
        ("--proxy http://a --resource b.c", "--resource and --proxy cannot be used together"),
        ("--proxy http://a --proxy-host me", "--proxy-host: 'me' is not one of pass, rewrite"),
        ("--proxy http://a --proxy-forwarded on", "--proxy-forwarded: 'on' is not one of replace"),
        ("--proxy http://a --proxy-timeout soon", "--proxy-timeout: 'soon' is not a number"),
        ("--proxy http://a --proxy-via no", "--proxy-via: 'no' is not one of on, off"),
        ("--proxy-via off", "--proxy-via needs --proxy"),
        ("--proxy-timeout 5", "--proxy-timeout needs --proxy"),
        ("--proxy-host rewrite --path .", "--proxy-host needs --proxy"),
    ],
)
def test_mistake(arguments: str, line: str) -> None:
    """A mistake is one line; what becomes of it `test_command` tells, by processes."""
    with pytest.raises(UsageError) as caught:
        service_for(*arguments.split())
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def service_for(*arguments: str) -> IService:
    options = Options()
    options.parseOptions(arguments)
    return service.makeService(options)


class Running:
    """A proxy in a process of its own."""

    def __init__(self, folder: Path, script: Callable[[Connection], object], *more: str) -> None:
        self.server = RawServer(script)
        self.port = free_port()
        self.folder = folder
        command = [str(BIN / "twistd"), "-n", "hangup", f"--port={self.port}"]
        logs = ["--access-log=access", "--error-log=errors"]
        self.process = subprocess.Popen(
            [*command, f"--proxy={self.server.url}", *logs, *more],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def get(self, path: bytes) -> bytes:
        client = connect(self.port).send(GET % path)
        try:
            return client.read_all()
        finally:
            client.close()

    def stop(self) -> list[str]:
        """Tell it to stop; the lines of its log."""
        self.process.send_signal(signal.SIGTERM)
        output: str = self.process.communicate(timeout=PATIENCE)[0]
        return output.splitlines()

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "errors").read_text().splitlines()]

    @property
    def accesses(self) -> list[str]:
        return (self.folder / "access").read_text().splitlines()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    programs: list[Running] = []

    def make(script: Callable[[Connection], object], *more: str) -> Running:
        programs.append(Running(tmp_path, script, *more))
        return programs[-1]

    yield make
    for one in programs:
        one.process.kill()
        one.process.communicate(timeout=PATIENCE)
        one.server.close()


def by_path(connection: Connection) -> None:
    """A server that fails as it is told."""
    head = connection.read_head()
    if b"/reset" in head:
        connection.reset()
    elif b"/cut" in head:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    elif b"/smtp" in head:
        connection.send(b"220 mail\r\n")
    elif b"/slow" in head:
        connection.read_all()
    else:
        connection.send(OK)


def test_failures_in_the_logs(running: Callable[..., Running]) -> None:
    """Console, JSON and access log say what failed, which server, and who had asked."""
    there = running(by_path)
    for name in (b"ok", b"reset", b"cut", b"smtp"):
        there.get(name)
    there.server.close()
    there.get(b"gone?token=secret")
    lines = there.stop()
    hasty = running(by_path, "--proxy-timeout=3")  # which counts for every request
    hasty.get(b"slow")
    console = [line for line in lines + hasty.stop() if "console" in line]
    expected = [
        ("ERR_UPSTREAM_RESET", 502, "read ECONNRESET, waiting", "/reset"),
        ("ERR_UPSTREAM_RESET", None, "aborted, body", "/cut"),
        ("ERR_UPSTREAM_RESPONSE", 502, "HPE_INVALID_CONSTANT: ", "/smtp"),
        ("ERR_UPSTREAM_REFUSED", 502, "connect ECONNREFUSED, connecting", "/gone"),
        ("ERR_UPSTREAM_TIMEOUT", 504, "no answer in time, waiting", "/slow"),
    ]
    assert len(console) == len(there.errors) == len(expected)
    for line, error, (code, status, reason, path) in zip(
        console, there.errors, expected, strict=True
    ):
        url = (hasty if path == "/slow" else there).server.url
        assert code in line and reason in line and url in line and path in line
        assert (error["code"], error["status"]) == (code, status)
        assert reason in error["reason"] and error["upstream"] == url
        assert error["target"].startswith(path) and error["peer"].startswith("127.0.0.1:")
        assert "secret" not in line and "secret" not in error["target"]
    statuses = [line.split('"')[2].split()[0] for line in there.accesses]
    assert statuses == ["200", "502", "200", "502", "502", "504"]


def test_client_that_leaves_in_the_logs(running: Callable[..., Running]) -> None:
    """The access log has nginx's 499, and no upstream error."""
    there = running(by_path)
    client = connect(there.port).send(GET % b"slow")
    wait_for(lambda: there.server.connections)
    client.close()
    wait_for(lambda: there.accesses)
    there.stop()
    (access,) = there.accesses
    assert '" 499 ' in access
    assert [error["code"] for error in there.errors] == ["ECONNRESET"]


def test_stop_lets_requests_finish(running: Callable[..., Running]) -> None:
    """A response that has begun is complete before the proxy stops; nothing is logged as wrong."""
    stopping = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        stopping.wait(PATIENCE)
        connection.send(b"lf")

    there = running(script)
    client = connect(there.port).send(GET % b"")
    client.read_until(b"\r\n\r\nha")
    there.process.send_signal(signal.SIGTERM)
    lines = read_until("Stopping: 1 open connection", there.process)
    stopping.set()
    assert client.read_all() == b"lf"
    client.close()
    lines += there.process.communicate(timeout=PATIENCE)[0].splitlines()
    assert there.process.returncode in STOPPED
    assert not [line for line in lines if "rror" in line or "#warn" in line]


def test_stop_aborts_what_outlives_the_grace(running: Callable[..., Running]) -> None:
    """A server that never ends its response does not keep the proxy."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        connection.read_all()

    there = running(script, "--grace=0.3")
    client = connect(there.port).send(GET % b"")
    client.read_until(b"\r\n\r\nha")
    there.stop()
    assert there.process.returncode in STOPPED
    client.close()
    wait_for(lambda: there.server.ended)
    assert len(there.server.ended) == len(there.server.connections)


def most_connections(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(accept, "raise_file_limit", lambda: 10_000)
    options = Options()
    options.parseOptions(arguments)
    most = service._connections_by_files(options)
    assert most is not None
    return most


def test_files_of_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files may be open for each client, and two where nothing is passed on."""
    alone = most_connections(monkeypatch)
    assert most_connections(monkeypatch, "--proxy", "http://a") in range(
        alone * 2 // 3 - 5, alone * 2 // 3 + 5
    )
