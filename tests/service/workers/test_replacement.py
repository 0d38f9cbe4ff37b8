"""SIGHUP: a successor for each worker, and what the operator and systemd read."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from support.processes import connect
from support.wire import PATIENCE, Client, wait_for
from support.workers import APPLICATION, STOPPED, WAITING, Program, is_worker, prlimit
from support.workers import start as start

Start = Callable[..., Program]


class Load:
    """Clients that connect anew for each request, all the time."""

    def __init__(self, program: Program) -> None:
        self.answers: list[bytes] = []
        self._program = program
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.answers.append(self._program.get())

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def test_replacement(start: Start, tmp_path: Path) -> None:
    """New connections are served all the time, by new code in the end; a slow request ends."""
    program = start("--grace=600").started()
    before = program.pids()
    slow = program.begin()
    load = Load(program)
    wait_for(lambda: b"version 1" in load.answers)
    (tmp_path / "app.py").write_text(APPLICATION.replace('VERSION = b"1"', 'VERSION = b"two"'))
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("serves", times=4)
    after = program.pids()
    assert not {*before.values()} & {*after.values()}
    (tmp_path / "go").touch()
    assert slow.read_until(b"finished.").endswith(b"finished.")
    slow.close()
    wait_for(lambda: not any(map(is_worker, before.values())))
    assert program.get() == b"version two"
    wait_for(lambda: b"version two" in load.answers)
    load.stop()
    assert {*load.answers} == {b"version 1", b"version two"}
    assert program.end() in STOPPED


def test_new_code_that_does_not_start(start: Start, tmp_path: Path) -> None:
    """The old workers serve on, and one line says why; the next replacement is a new attempt."""
    program = start().started()
    before = program.pids()
    app = tmp_path / "app.py"
    app.write_text("raise ValueError('new code')\n")
    program.process.send_signal(signal.SIGHUP)
    line = program.wait_for("The replacement has ended early: the new worker 1 has ended in its")
    assert "exit status 1: hangup: --resource: app.Root: ValueError: new code" in line
    assert line.endswith("; those not yet replaced stay")
    assert program.get() == b"version 1"
    assert program.pids() == before
    app.write_text(APPLICATION.replace('VERSION = b"1"', 'VERSION = b"two"'))
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("serves", times=4)
    wait_for(lambda: program.get() == b"version two")
    assert program.end() in STOPPED


def test_many_signals(start: Start, tmp_path: Path) -> None:
    """However many come while workers are replaced, one more replacement follows."""
    program = start().started()
    (tmp_path / "app.py").write_text(f"{WAITING}{APPLICATION}")
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("The logs are reopened")
    for number in range(2, 6):
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("The logs are reopened", times=number)
    (tmp_path / "go").touch()
    program.wait_for("serves", times=6)
    program.wait_for(") has ended", times=4)
    assert program.end() in STOPPED
    assert len(program.lines("serves")) == 6


def test_two_generations_finish(start: Start, tmp_path: Path) -> None:
    """A third replacement waits for the workers of the first."""
    program = start("--grace=600", number=1).started()
    clients = []
    for number in (2, 3):
        clients.append(program.begin())
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("serves", times=number)
        program.wait_for("Stopping: 1 open connection to finish", times=number - 1)
    clients.append(program.begin())
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("The replacement waits: workers of two earlier ones still finish")
    assert len(program.lines("serves")) == 3
    clients[0].close()
    program.wait_for("serves", times=4)
    (tmp_path / "go").touch()
    for client in clients[1:]:
        assert client.read_until(b"finished.").endswith(b"finished.")
        client.close()
    assert program.end() in STOPPED


def test_end_during_a_replacement(start: Start, tmp_path: Path) -> None:
    """The new worker that still starts is ended, too."""
    program = start("--grace=1").started()
    (tmp_path / "app.py").write_text("import time\nopen('imports', 'w').close()\ntime.sleep(600)\n")
    program.process.send_signal(signal.SIGHUP)
    wait_for((tmp_path / "imports").exists)
    assert program.end() in STOPPED
    assert not program.lines("Traceback")


def test_end_after_a_replacement(start: Start) -> None:
    """A worker that waits for an idle client because it was replaced waits no longer."""
    program = start("--grace=600", number=1).started()
    client = connect(program.port).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_until(b"version 1").endswith(b"version 1")
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("Stopping: 1 open connection to finish")
    assert program.end() in STOPPED
    assert client.read_all() == b""
    client.close()


def test_link_to_the_current_release(start: Start, tmp_path: Path) -> None:
    """The directory that the shell calls ``current`` is looked up anew for each worker."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = APPLICATION.replace('VERSION = b"1"', f'VERSION = b"{name}"')
        (tmp_path / name / "app.py").write_text(f"import wave\n{text}")
        (tmp_path / name / "wave.py").write_text("raise ValueError('not the one of Python')\n")
    current = tmp_path / "current"
    current.symlink_to("one")
    environment = {**os.environ, "PWD": str(current)}
    program = start(number=1, cwd=current, env=environment).started()
    assert program.get() == b"version one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(current)
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("serves", times=2)
    wait_for(lambda: program.get() == b"version two")
    assert program.end() in STOPPED


def test_log_that_is_renamed(start: Start, tmp_path: Path) -> None:
    """SIGUSR1 lets all workers go on in a new file."""
    program = start("--access-log=access.log").started()
    program.get()
    wait_for((tmp_path / "access.log").exists)
    (tmp_path / "access.log").rename(tmp_path / "old.log")
    program.process.send_signal(signal.SIGUSR1)
    program.wait_for("The logs are reopened")
    requests = 1

    def is_gone_on_with() -> bool:  # workers hear of it a moment after the first process
        nonlocal requests
        program.get()
        requests += 1
        return len((tmp_path / "access.log").read_text().splitlines()) >= 20

    wait_for(is_gone_on_with)
    assert program.end() in STOPPED
    before, after = ((tmp_path / name).read_text() for name in ("old.log", "access.log"))
    assert len(before.splitlines()) + len(after.splitlines()) == requests


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that NOTIFY_SOCKET names."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(PATIENCE)
        yield listening


def heard(systemd: socket.socket, words: str) -> list[str]:
    """What it hears next, up to these *words*."""
    messages = [""]
    while words not in messages[-1]:
        messages.append(systemd.recv(4096).decode())
    return messages[1:]


def test_what_systemd_hears(start: Start, systemd: socket.socket, tmp_path: Path) -> None:
    """It is ready when all are; a replacement has a begin and an end, and may have a problem."""
    program = start("--worker-timeout=9")
    first = heard(systemd, "READY=1")
    assert first == ["STATUS=1 of 2 workers serve", "STATUS=2 of 2 workers serve", "READY=1"]
    asked = time.monotonic_ns() // 1000  # systemd ignores what was said before that
    program.process.send_signal(signal.SIGHUP)
    reload = heard(systemd, "READY=1")
    words = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reload[0])
    assert words and asked <= int(words[1]) <= time.monotonic_ns() // 1000
    assert reload[-1] == "READY=1"
    (tmp_path / "app.py").write_text("raise ValueError('new code')\n")
    program.process.send_signal(signal.SIGHUP)
    _, status = heard(systemd, "READY=1")[-1].splitlines()
    assert status.startswith("STATUS=the new worker 1 has ended in its start, after ")
    program.process.terminate()
    assert heard(systemd, "STOPPING=1")
    assert program.process.wait(PATIENCE) in STOPPED


def test_watchdog_of_systemd(
    start: Start, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It hears that the service is alive as long as one worker serves."""
    # Twice a second: the kernel keeps ten that are not heard yet, and drops what comes then.
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    program = start(number=1)
    heard(systemd, "READY=1")
    assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    (tmp_path / "app.py").write_text("import time\ntime.sleep(600)\n")
    os.kill(program.pids()[1], signal.SIGKILL)
    heard(systemd, "STATUS=0 of 1 workers serve")
    systemd.settimeout(1.0)
    with pytest.raises(TimeoutError):
        systemd.recv(100)


@pytest.mark.skipif(shutil.which("ss") is None, reason="no ss (Debian: iproute2)")
def test_mode_of_a_unix_socket(start: Start, tmp_path: Path) -> None:
    """A replacement changes neither mode nor backlog nor path, and the end removes it."""
    path = tmp_path / "web.sock"
    program = start(f"--port=unix:{path}:mode=600:backlog=7", number=1).started()

    def state() -> tuple[int, int, str]:
        inode = path.stat().st_ino
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        return path.stat().st_mode, inode, backlog(path)

    before = state()
    assert oct(before[0]) == "0o140600"
    program.process.send_signal(signal.SIGHUP)
    program.wait_for(") has ended")
    assert state() == before
    client = Client(str(path)).send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert client.read_all().endswith(b"version 1")
    client.close()
    assert program.end() in STOPPED
    assert not path.exists()


def backlog(path: Path) -> str:
    """The backlog of the UNIX socket at *path*, as ss(8) reads it."""
    command = ["ss", "-xlH", "src", str(path)]
    output = subprocess.check_output(command, text=True, timeout=PATIENCE)
    return output.split()[3]


def test_replacement_that_the_system_refuses(start: Start) -> None:
    """Out of files, the old worker stays; the next SIGHUP is a new attempt."""
    program = start(number=1).started()
    pid = program.process.pid
    limit = f"--nofile={len(os.listdir(f'/proc/{pid}/fd')) - 2}:"
    prlimit(pid, limit)
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("The replacement has ended early: the new worker 1 cannot be started")
    assert program.get() == b"version 1"
    prlimit(pid, "--nofile=1000:")
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("serves", times=2)
    assert program.end() in STOPPED
