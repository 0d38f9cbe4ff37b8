"""``twistd hangup --workers`` as processes, and what its operator reads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from .processes import BIN, connect, free_port
from .wire import PATIENCE, Client, wait_for

#: How a program ends that a signal has stopped: by that signal, in newer versions of Twisted.
STOPPED: Final = (0, -signal.SIGTERM, -signal.SIGINT)

APPLICATION: Final = '''
import os
import subprocess
import sys
import time

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

VERSION = b"1"


class Root(Resource):
    """Tells of its process, and does what an application should not do."""

    isLeaf = True

    def render_GET(self, request):
        return getattr(self, request.path[1:].decode() or "version")(request)

    def version(self, request):
        return b"version " + VERSION

    def pid(self, request):
        return b"%d" % os.getpid()

    def block(self, request):
        time.sleep(600)

    def slow(self, request):
        def look():
            if os.path.exists("go"):
                os.write(2, b"a line on standard error\\n")
                request.write(b"finished.")
                request.finish()
            else:
                reactor.callLater(0.01, look)

        request.write(b"begun.")
        look()
        return NOT_DONE_YET

    def long_line(self, request):
        os.write(2, b"x" * 20_000 + b"\\n")
        return b"written."

    def print(self, request):
        print("printed by the application")
        return b"printed."

    def environment(self, request):
        return repr(sorted(os.environ)).encode()

    def child(self, request):
        """What a process that the application starts has of ours."""
        program = """
import os, signal
print(sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print([signal.getsignal(one).name for one in (signal.SIGHUP, signal.SIGUSR1)])
"""
        command = [sys.executable, "-c", program]
        return subprocess.check_output(command, close_fds=False)
'''

#: Lets what comes after it be imported when there is a file ``go``.
WAITING: Final = """
import os, time
while not os.path.exists("go"):
    time.sleep(0.01)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start ``twistd -n hangup --workers 2`` with these arguments in a directory of its own."""
    with ExitStack() as stack:

        def run(*arguments: str, **options: Any) -> Program:
            program = Program(tmp_path, *arguments, **options)
            stack.callback(program.kill)
            return program

        yield run


class Program:
    """A first process, which logs to the file ``log`` in its directory."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        number: int = 2,
        launcher: Sequence[str] = (),
        command: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.port = free_port()
        self.log = directory / "log"
        app = directory / "app.py"
        if not app.exists():
            app.write_text(APPLICATION)
        ours = [f"{BIN}/twistd", "-n", "--pidfile=", "hangup", f"--workers={number}"]
        if not any(one.startswith("--port") for one in arguments):
            ours += [f"--port=tcp:{self.port}:interface=127.0.0.1"]
        if not any(one.startswith("--resource") for one in arguments):
            ours += ["--resource=app.Root"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*launcher, *(command or ours), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                # A shell lets what it starts with & ignore SIGINT, and that is inherited.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
                **{"cwd": directory, "start_new_session": True, **options},
            )

    def lines(self, words: str = "") -> list[str]:
        """The lines of the log with these *words*; one is not there before it is whole."""
        whole, _, _ = self.log.read_text(errors="replace").rpartition("\n")
        return [line for line in whole.splitlines() if words in line]

    def wait_for(self, words: str, times: int = 1) -> str:
        """Wait until a line with *words* is in the log, so often; returns the last one."""

        def is_there() -> bool:
            lines = self.lines(words)
            assert len(lines) >= times or self.process.poll() is None, self.log.read_text()
            return len(lines) >= times

        try:
            wait_for(is_there)
        except AssertionError as error:
            raise AssertionError(f"no {words!r} in\n{self.log.read_text()}") from error
        return self.lines(words)[-1]

    def started(self) -> Program:
        """Wait until all workers serve."""
        self.wait_for("Serving ")
        return self

    def pids(self) -> dict[int, int]:
        """The pid of the last process of each worker that has served, by the worker's number."""
        found = re.findall(r"Worker (\d+) \(pid (\d+)\) serves", "\n".join(self.lines("serves")))
        return {int(number): int(pid) for number, pid in found}

    def get(self, path: str = "/") -> bytes:
        """The body of the response, on a connection of its own."""
        with closing(connect(self.port)) as client:
            client.send(b"GET %s HTTP/1.0\r\nHost: a\r\n\r\n" % path.encode())
            return client.read_all().partition(b"\r\n\r\n")[2]

    def begin(self, path: str = "/slow", until: bytes = b"begun.") -> Client:
        """A request with a part of its response."""
        client = connect(self.port).send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        assert client.read_until(until).endswith(until)
        return client

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and wait; returns its status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it and its workers in any case."""
        self.process.kill()
        self.process.wait(PATIENCE)
        for pid in re.findall(r"\(pid (\d+)\)", self.log.read_text(errors="replace")):
            if is_worker(int(pid)):
                os.kill(int(pid), signal.SIGKILL)


def prlimit(pid: int, limit: str) -> None:
    """Set a *limit* of the process *pid*."""
    subprocess.run(["prlimit", f"--pid={pid}", limit], check=True, timeout=PATIENCE)


def is_worker(pid: int) -> bool:
    """Whether *pid* is that of a worker that runs."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"twisted_hangup._worker" in command
