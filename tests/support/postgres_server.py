"""A PostgreSQL server of our own, in a temporary folder, for tests and benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

_FOLDERS: Final = "/usr/lib/postgresql/*/bin"  # Debian keeps them out of PATH

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
        for _ in range(600):
            try:
                connect(self.dsn).close()
                return
            except Exception as problem:
                reason = problem
                time.sleep(0.05)
        self.stop()
        raise NoPostgres(f"the server does not answer: {reason}")

    def freeze(self) -> None:
        """Let it answer nobody: connections stay, and the kernel takes what is sent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        server = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for process in (server, *map(int, children)):
            with suppress(ProcessLookupError):  # it may just have ended
                os.kill(process, number)

    def stop(self) -> None:
        """Stop it at once; every connection is lost."""
        self._server.communicate(b"stop\n")

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
