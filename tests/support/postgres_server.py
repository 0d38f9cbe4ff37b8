"""A PostgreSQL server of our own, in a temporary folder, for tests and benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

_FOLDERS: Final = "/usr/lib/postgresql/*/bin"  # Debian keeps them out of PATH

#: The longest wait for the server, or for a program of its: it may be busy with something else.
_PATIENCE_SECONDS: Final = 60.0

#: Who runs the server where we are root, which it refuses to be.
_USERS: Final = ("postgres", "nobody")


#: Its input ends when we do, however that happens: then nothing is left behind, either.
_UNTIL_END_OF_INPUT: Final = """
"$@" & server=$!
read -r word || abandoned=yes
kill -QUIT $server
wait $server
if [ "$abandoned" ]; then rm -rf "$0"; fi
"""


class NoPostgres(Exception):
    """There is no server to be had; the message says why."""


class PostgresServer:
    """A server that listens on a UNIX socket in its own folder.

    Attributes:
        dsn: How to connect to it.
    """

    def __init__(self, *settings: str) -> None:
        """Create and start one, with *settings* like ``"fsync=off"``.

        Raises:
            NoPostgres: It is not installed, or there is nobody to run it as.
        """
        if find_spec("psycopg") is None:
            raise NoPostgres("psycopg is not installed")
        self._bin = _binaries()
        self._run_as = _unprivileged_user()
        # Not pytest's folder: a socket's path has 107 bytes at most, and root's is closed.
        self._folder = Path(tempfile.mkdtemp(prefix="hangup-pg-"))
        if self._run_as is not None:
            shutil.chown(self._folder, self._run_as)
        self.dsn = f"postgresql:///postgres?host={self._folder}&user=outbox"
        settings = (*settings, "listen_addresses=", f"unix_socket_directories={self._folder}")
        self._settings = [word for setting in settings for word in ("-c", setting)]
        try:
            self._call("initdb", "--auth=trust", "--username=outbox", "--encoding=UTF8", "-N")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = [str(self._bin / "postgres"), "-D", str(self._folder / "data"), *self._settings]
        self._server = subprocess.Popen(
            ["sh", "-c", _UNTIL_END_OF_INPUT, str(self._folder), *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as_user(),
        )
        connect = import_module("psycopg").connect
        ends = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < ends:
            try:
                connect(self.dsn, connect_timeout=int(_PATIENCE_SECONDS)).close()
                return
            except Exception as problem:
                reason = problem
                time.sleep(0.05)
        self.stop()
        raise NoPostgres(f"the server does not answer: {reason}")

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop it, and start it again in the end, whatever happens meanwhile."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def freeze(self) -> None:
        """Let it answer nobody: connections stay, and the kernel takes what is sent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        server = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        # First the one that makes the others: a process that it makes meanwhile would be missed.
        _send(server, number)
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for process in map(int, children):
            with suppress(ProcessLookupError):  # it may just have ended
                _send(process, number)

    def stop(self) -> None:
        """Stop it at once; every connection is lost."""
        try:
            self._server.communicate(b"stop\n", timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            raise

    def close(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self._folder)

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), f"--pgdata={self._folder / 'data'}", *arguments]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
            **self._as_user(),
        )
        if done.returncode:
            raise NoPostgres(f"{program} failed with status {done.returncode}")

    def _as_user(self) -> dict[str, Any]:
        """How to call a program of the server's."""
        shared = {"cwd": self._folder, "env": {**os.environ, "LC_ALL": "C.UTF-8"}}
        if self._run_as is None:
            return shared
        group = pwd.getpwnam(self._run_as).pw_gid
        return {**shared, "user": self._run_as, "group": group, "extra_groups": []}


def _send(process: int, number: signal.Signals) -> None:
    """Send a signal; one that stops has done so when this returns."""
    os.kill(process, number)
    ends = time.monotonic() + _PATIENCE_SECONDS
    while number == signal.SIGSTOP and _state(process) not in "TZ":
        assert time.monotonic() < ends, "the server does not stop"
        time.sleep(0.001)


def _state(process: int) -> str:
    """One letter (see proc(5)); that of a process that has ended if there is none."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
    return status.rpartition(")")[2].split()[0]


def _binaries() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/").glob(_FOLDERS[1:]), key=lambda folder: folder.parent.name)
    if not folders:
        raise NoPostgres("PostgreSQL's server is not installed (no initdb)")
    return folders[-1]


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NoPostgres("root may not run PostgreSQL, and there is no user nobody")
