"""What the signals of an operator do, besides the end: logs are reopened, and nobody is cut off."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import pytest
from support.processes import BIN, connect, free_port, listens
from support.wire import BAD, PATIENCE, Client, wait_for

GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LOGROTATE: Final = shutil.which("logrotate") or "/usr/sbin/logrotate"

SLOW: Final = '''
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Slow(Resource):
    """Answers in two pieces, the second when the file "go" is there."""

    isLeaf = True

    def render_GET(self, request):
        def look():
            try:
                open("go").close()
            except OSError:
                reactor.callLater(0.01, look)
            else:
                request.write(b"finished")
                request.finish()

        request.write(b"begun")
        look()
        return NOT_DONE_YET
'''

Start = Callable[..., "Program"]


class Program:
    """A server in a process of its own."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.port = free_port()
        arguments = [f"--port={self.port}", "--access-log=access.log", "--error-log=error.log"]
        self.process = subprocess.Popen([*command, *arguments], **options)

    def get(self, wire: bytes = GET, until: bytes = b"</html>") -> Client:
        client = connect(self.port).send(wire)
        assert client.read_until(until).endswith(until)
        return client

    def serves(self) -> bool:
        """Whether it answers, and has begun to listen to signals: it does both at once."""
        self.get().close()
        return self.process.poll() is None

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a program, its logs in the working directory; it listens, and is killed in the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    with ExitStack() as stack:

        def run(program: str, **options: Any) -> Program:
            path = os.pathsep.join([str(BIN), os.environ["PATH"]])
            started = Program(program.split(), env={**os.environ, "PATH": path}, **options)
            stack.enter_context(started.process)
            stack.callback(started.process.kill)
            connect(started.port).close()
            return started

        yield run


def has_lines(log: str) -> bool:
    return Path(log).exists() and Path(log).stat().st_size > 0


def lines_of(pattern: str) -> list[str]:
    """The lines of all files of that pattern."""
    return [line for path in Path().glob(pattern) for line in path.read_text().splitlines()]


class Load:
    """A client that asks all the time, and counts the answers."""

    def __init__(self, port: int) -> None:
        self.answers = 0
        self._stopped = Event()
        self._client = connect(port)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            assert self._client.send(GET).read_until(b"</html>").endswith(b"</html>")
            self.answers += 1

    def more(self) -> None:
        """Wait for some more of them."""
        enough = self.answers + 50
        wait_for(lambda: self.answers > enough)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._client.close()


PROGRAMS: Final = [
    "twistd -n --logfile=program.log hangup",
    "twist --log-file=program.log --log-format=text hangup",
]


@pytest.mark.parametrize("how", ["create", "nocreate"])
@pytest.mark.parametrize("name", ["USR1", "HUP"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_logrotate(start: Start, program: str, name: str, how: str) -> None:
    """A log that logrotate renames is gone on with in a new file, and no line is lost."""
    if not os.path.exists(LOGROTATE):
        pytest.skip("there is no logrotate: Debian has it in the package of that name")
    server = start(program)
    Path("logrotate.conf").write_text(
        f"{Path.cwd()}/*.log {{\n rotate 9\n {how}\n"
        f" postrotate\n  kill -{name} {server.process.pid}\n endscript\n}}\n"
    )
    Path("logrotate.conf").chmod(0o644)
    command = [LOGROTATE, "--force", "--state", "state", "logrotate.conf"]
    load = Load(server.port)
    for _ in range(3):
        server.get(BAD, b"\r\n\r\n").close()
        load.more()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
        for log in ("access.log", "program.log"):
            wait_for(partial(has_lines, log))
        load.more()
    load.stop()
    server.end()
    assert sum('"GET / HTTP/1.1" 200' in line for line in lines_of("access.log*")) == load.answers
    assert len(lines_of("error.log*")) == 3
    assert sum("400 HPE_" in line for line in lines_of("program.log*")) == 3
    assert len([*Path().glob("program.log*")]) == 4


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP"])
def test_nothing_is_renamed(start: Start, name: str) -> None:
    """A signal that comes without a rotation changes no file, and ends nothing."""
    server = start("twistd -n hangup", stdout=subprocess.DEVNULL)
    server.process.send_signal(getattr(signal, name))
    assert server.serves()
    server.end()
    assert len(lines_of("access.log")) == 1
    assert not Path("access.log.1").exists()


def test_daemon(start: Start) -> None:
    """A daemon has no terminal to lose: SIGHUP reopens; Twisted rotates nothing."""
    server = start("twistd hangup")
    server.process.wait(PATIENCE)
    process = int(Path("twistd.pid").read_text())
    try:
        Path("access.log").rename("old")
        os.kill(process, signal.SIGHUP)
        wait_for(Path("access.log").exists)
        server.get().close()
        wait_for(lambda: len(lines_of("access.log")) == 1)
        os.kill(process, signal.SIGUSR1)
        wait_for(lambda: sum("logs are reopened" in line for line in lines_of("twistd.log")) == 2)
        assert not Path("twistd.log.1").exists()
    finally:
        os.kill(process, signal.SIGTERM)
        wait_for(lambda: not Path("twistd.pid").exists())


def test_nohup(start: Start) -> None:
    """Who starts it with nohup wants SIGHUP to do nothing."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = start(f"nohup {BIN}/twistd -n hangup", **quiet)
    Path("access.log").rename("old")
    server.process.send_signal(signal.SIGHUP)
    assert server.serves()
    assert not Path("access.log").exists()
    server.process.send_signal(signal.SIGUSR1)
    wait_for(Path("access.log").exists)


def test_terminal_that_goes(start: Start) -> None:
    """Where the terminal has gone, SIGHUP is a graceful stop, however often it comes."""
    terminal, theirs = pty.openpty()
    with open(theirs, "rb", buffering=0) as file:
        streams = {"stdin": file, "stdout": file, "stderr": file}
        server = start("setsid --ctty twistd -n hangup --resource=slow.Slow", **streams)
    client = server.get(until=b"begun")
    server.process.send_signal(signal.SIGHUP)  # it is there as yet
    written = b""
    while b"logs are reopened" not in written:
        assert select.select([terminal], [], [], PATIENCE)[0], written
        written += os.read(terminal, 1000)
    os.close(terminal)

    wait_for(lambda: not listens(server.port))
    server.process.send_signal(signal.SIGHUP)
    Path("go").touch()
    assert b"finished" in client.read_all()
    client.close()
    server.process.wait(PATIENCE)
    assert not Path("twistd.pid").exists()
