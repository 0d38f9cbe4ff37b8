"""What systemd hears: a fake one, which listens as the real one does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import BIN, connect, free_port, running
from support.wire import PATIENCE

from twisted_hangup.service.systemd import notify, watchdog_seconds


@pytest.fixture(params=["a path", "an abstract name"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A socket that NOTIFY_SOCKET names."""
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "notify")
    name = path if request.param == "a path" else f"@{path}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0"))
        listening.settimeout(PATIENCE)
        yield listening


def hear(systemd: socket.socket) -> str:
    """What it hears next, besides that the service is alive."""
    while (words := systemd.recv(4096).decode()) == "WATCHDOG=1":
        pass
    return words


@pytest.mark.parametrize("program", ["twistd -n", "twist"])
def test_life_of_a_service(systemd: socket.socket, program: str) -> None:
    """It is ready when it listens, says when a reload begins and is over, and when it stops."""
    port = free_port()
    name, *words = program.split()
    command = [f"{BIN}/{name}", *words, "hangup", f"--port={port}"]
    with running(Path.cwd(), *command, stdout=subprocess.DEVNULL) as process:
        assert hear(systemd) == "READY=1"
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        before = time.monotonic_ns() // 1000
        process.send_signal(signal.SIGHUP)
        reloading = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", hear(systemd))
        assert reloading and before <= int(reloading[1]) <= time.monotonic_ns() // 1000
        assert hear(systemd) == "READY=1"
        process.terminate()
        assert hear(systemd) == "STOPPING=1"


def test_watchdog(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears twice in its time that the reactor runs, also while requests have their grace."""
    # Twice a second: the kernel keeps ten that are not heard yet, and drops what comes then.
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    port = free_port()
    command = [f"{BIN}/twistd", "-n", "hangup", f"--port={port}", "--grace=600"]
    with running(Path.cwd(), *command, stdout=subprocess.DEVNULL) as process:
        assert systemd.recv(100) == b"READY=1"
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        # A request, and a part of the next one, which is read with it.
        client = connect(port).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n")
        client.read_until(b"</html>")
        process.terminate()
        assert hear(systemd) == "STOPPING=1"
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        client.close()
        process.wait(PATIENCE)


@pytest.mark.parametrize(
    "environment, seconds",
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "mine"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, 0),
    ],
)
def test_whom_the_watchdog_waits_for(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], seconds: float | None
) -> None:
    """A child of the service has its environment, and is not asked."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("mine", str(os.getpid())))
    assert watchdog_seconds() == seconds


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "@", "nonsense"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where systemd does not ask, or has gone, nothing happens."""
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")


def test_systemd_that_does_not_read(systemd: socket.socket) -> None:
    """It costs no time."""
    for _ in range(10_000):
        notify("WATCHDOG=1")
    assert systemd.recv(100) == b"WATCHDOG=1"
