"""Many servers at a time, as docs/scale.md and docs/balancer.md have it, with the real programs."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
from support.documents import PAGES
from support.processes import BIN, connect, free_port, read_until, running
from support.wire import BAD, DEFAULT_PAGE, PATIENCE, Client, statuses, wait_for

PROCESSES: Final = 3
CLOSING: Final = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def block(page: str, name: str) -> str:
    """The file *name* as the page shows it."""
    shown = re.findall(
        rf"^`{re.escape(name)}`:\n\n```[a-z]*\n(.*?)^```$", PAGES[page].read_text(), re.S | re.M
    )
    assert len(shown) == 1
    return str(shown[0])


def twistd(number: int, port: str) -> list[str | Path]:
    log, errors = f"--logfile={number}.log", f"--error-log=errors-{number}.log"
    return [BIN / "twistd", "-n", "--pidfile=", log, "hangup", f"--port={port}", errors]


#: Becomes the program in its arguments, with a socket as systemd hands it over: sd_listen_fds(3).
HAND_OVER: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.argv[2], sys.argv[2:])
"""


def listening_in(folder: Path) -> int:
    """How many servers have said that they listen."""
    return sum("Listening on" in log.read_text() for log in folder.glob("?.log"))


def errors_told(folder: Path) -> list[int]:
    """How many errors stand in each process's log, counts of a flood included."""
    logs = sorted(folder.glob("errors-*.log"))
    return [
        sum(json.loads(line).get("suppressed", 1) for line in log.read_text().splitlines())
        for log in logs
    ]


def refused(port: int) -> None:
    client = Client(port).send(BAD)
    assert client.read_all() == DEFAULT_PAGE
    client.close()


def listening(port: int = 0, *, reuse: bool) -> socket.socket:
    made = socket.socket()
    if reuse:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(511)
    return made


@pytest.mark.parametrize("reuse", [False, True], ids=["one socket", "SO_REUSEPORT"])
def test_processes_share_a_port(tmp_path: Path, reuse: bool) -> None:
    """All of them serve; when one stops the others go on; no error is lost in the logs."""
    first = listening(reuse=reuse)
    port = first.getsockname()[1]
    sockets = [first, *(listening(port, reuse=True) for _ in range(PROCESSES - 1) if reuse)]
    with ExitStack() as stack:
        servers = []
        for number in range(PROCESSES):
            handed = sockets[number % len(sockets)]
            command = twistd(number, "systemd:domain=INET:name=web")
            handing = [sys.executable, "-c", HAND_OVER, str(handed.fileno()), *command]
            program = running(tmp_path, *handing, pass_fds=[handed.fileno()])
            servers.append(stack.enter_context(program))
        for shared in sockets:
            shared.close()
        wait_for(lambda: listening_in(tmp_path) == PROCESSES)
        sent = itertools.count(1)

        def all_have_served() -> bool:
            refused(port)
            return next(sent) >= 50 and all(errors_told(tmp_path))

        wait_for(all_have_served)
        servers[0].terminate()
        servers[0].wait(PATIENCE)
        for _ in range(50):
            refused(port)
    assert len(errors_told(tmp_path)) == PROCESSES
    assert sum(errors_told(tmp_path)) == next(sent) - 1 + 50


def test_program_that_reuses_a_port(tmp_path: Path) -> None:
    """Two processes of the page's own program listen on one port, and both serve."""
    programs = re.findall(r"^```python\n(.*?)^```$", PAGES["scale"].read_text(), re.S | re.M)
    [program] = [one for one in programs if "reused_port" in one]
    port = free_port()
    program = program.replace("8000", str(port)).replace("0.0.0.0", "127.0.0.1")
    program = program.replace('b"hello\\n"', 'str(__import__("os").getpid()).encode()')
    (tmp_path / "program.py").write_text(program)
    python = BIN / "python"
    with (
        running(tmp_path, python, "program.py") as one,
        running(tmp_path, python, "program.py") as two,
    ):
        seen = set[int]()

        def both_have_served() -> bool:
            client = connect(port).send(CLOSING)
            seen.add(int(client.read_all().rpartition(b"\r\n\r\n")[2]))
            client.close()
            return len(seen) == 2

        wait_for(both_have_served)
        assert seen == {one.pid, two.pid}


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="no systemd")
@pytest.mark.parametrize("haproxy", [False, True])
def test_systemd_hands_over_a_port(tmp_path: Path, haproxy: bool) -> None:
    """systemd's own program opens the port, and the server has it; behind a PROXY header, too."""
    port = free_port()
    kind = "haproxy:systemd" if haproxy else "systemd"
    command = twistd(0, f"{kind}:domain=INET:name=web")
    activate = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "--fdname=web"]
    header = b"PROXY TCP4 192.0.2.7 203.0.113.1 51410 443\r\n" if haproxy else b""
    with running(tmp_path, *activate, *command):
        client = connect(port).send(header + BAD)
        assert client.read_all() == DEFAULT_PAGE
        client.close()
    [line] = (tmp_path / "errors-0.log").read_text().splitlines()
    assert json.loads(line)["peer"].startswith("192.0.2.7:51410" if haproxy else "127.0.0.1:")


def test_workers_of_an_application(tmp_path: Path) -> None:
    """The page's own service has two workers, which SIGHUP replaces."""
    port = free_port()
    for name in ("shop.py", "shop.tac"):
        (tmp_path / name).write_text(block("scale", name).replace("8000", str(port)))
    command: list[str | Path] = [BIN / "twistd", "-n", "--pidfile=", "--logfile=log"]
    log = tmp_path / "log"

    def served(times: int) -> bool:
        return (
            log.exists()
            and len(re.findall(r"Worker \d \(pid \d+\) serves", log.read_text())) == times
        )

    with running(tmp_path, *command, "-y", "shop.tac") as program:
        wait_for(lambda: served(2))
        program.send_signal(signal.SIGHUP)
        wait_for(lambda: served(4))
        client = connect(port).send(CLOSING)
        assert re.search(rb"worker [12]\n$", client.read_all())
        client.close()
    assert "Traceback" not in log.read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd")
def test_units_are_systemds(tmp_path: Path) -> None:
    """systemd has nothing to say against the units of the page."""
    program = tmp_path / "twist"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in ("hangup.socket", "hangup@.service", "hangup.service"):
        shown = block("scale", unit).replace("/srv/hangup/.venv/bin/twist", str(program))
        (tmp_path / unit).write_text(shown)
    units = [tmp_path / one for one in ("hangup.socket", "hangup@1.service", "hangup.service")]
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert not [line for line in checked.stderr.splitlines() if "hangup" in line]
    (tmp_path / "hangup.service.d").mkdir()
    (tmp_path / "hangup.service.d" / "reload.conf").write_text(block("scale", "reload.conf"))
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    asked = subprocess.check_output(["systemd-analyze", "--version"], text=True, timeout=PATIENCE)
    version = asked.split()[1]
    # Before version 253 it knows no notify-reload, which is ignored.
    unknown = ["Failed to parse service type"] if int(version) < 253 else []
    lines = [line for line in checked.stderr.splitlines() if "reload.conf" in line]
    assert [line for line in lines if not any(words in line for words in unknown)] == []
    assert len(lines) == len(unknown)


@pytest.mark.skipif(not shutil.which("haproxy"), reason="no haproxy")
def test_haproxy_before_two_servers(tmp_path: Path) -> None:
    """With the page's configuration each error has its client's address, its health checks are
    no errors, and when a server stops the other one has all connections."""
    ports = [free_port(), free_port()]
    front = free_port()
    config = block("balancer", "haproxy.cfg").replace("bind :80", f"bind 127.0.0.1:{front}")
    for shown, port in zip(("8001", "8002"), ports, strict=True):
        config = config.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{port}")
    (tmp_path / "haproxy.cfg").write_text(config.replace("inter 2s", "inter 200ms"))

    def ask(wire: bytes) -> bytes:
        with socket.socket() as client:
            client.settimeout(PATIENCE)
            client.bind(("127.0.0.9", 0))
            client.connect(("127.0.0.1", front))
            client.sendall(wire)
            said = b""
            while more := client.recv(65536):
                said += more
        return said

    def answers() -> bool:
        with suppress(ConnectionError):
            return statuses(ask(CLOSING)) == [200]
        return False

    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                running(tmp_path, *twistd(number, f"haproxy:tcp:{port}:interface=127.0.0.1"))
            )
            for number, port in enumerate(ports)
        ]
        wait_for(lambda: listening_in(tmp_path) == 2)
        heard = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = ("haproxy", "-db", "-f", "haproxy.cfg")
        haproxy = stack.enter_context(running(tmp_path, *command, **heard))
        wait_for(answers)
        assert [ask(BAD) for _ in range(10)] == [DEFAULT_PAGE] * 10
        servers[0].terminate()
        servers[0].wait(PATIENCE)
        read_until("Server hangup/one is DOWN", haproxy)  # after three health checks
        assert [statuses(ask(CLOSING)) for _ in range(5)] == [[200]] * 5
    logged = [
        json.loads(line)
        for log in tmp_path.glob("errors-*.log")
        for line in log.read_text().splitlines()
    ]
    assert [line["code"] for line in logged] == ["HPE_INVALID_HEADER_TOKEN"] * 10
    assert all(line["peer"].startswith("127.0.0.9:") for line in logged)
