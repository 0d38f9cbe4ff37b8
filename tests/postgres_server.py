"""A PostgreSQL server of our own, in a temporary folder, for tests and benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_FOLDERS: Final = "/usr/lib/postgresql/*/bin"  # Debian keeps them out of PATH

#: Who runs the server where we are root, which it refuses to be.
_USERS: Final = ("postgres", "nobody")


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
        options = ["listen_addresses=", f"unix_socket_directories={self._folder}", *settings]
        self._options = " ".join(f"-c {option}" for option in options)
        try:
            self._call("initdb", "--auth=trust", "--username=outbox", "--encoding=UTF8", "-N")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._folder / "log"
        self._call("pg_ctl", "start", "--wait", "--silent", f"--options={self._options}", log=log)

    def stop(self) -> None:
        """Stop it at once; every connection is lost."""
        self._call("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")

    def close(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self._folder)

    def _call(self, program: str, *arguments: str, log: Path | None = None) -> None:
        extra = [] if log is None else [f"--log={log}"]
        command = [str(self._bin / program), f"--pgdata={self._folder / 'data'}", *arguments]
        done = subprocess.run(
            [*command, *extra],
            user=self._run_as,
            group=None if self._run_as is None else pwd.getpwnam(self._run_as).pw_gid,
            extra_groups=None if self._run_as is None else [],
            cwd=self._folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            # A pipe would be held open by the server that outlives pg_ctl.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done.returncode:
            raise NoPostgres(f"{program} failed with status {done.returncode}")


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
