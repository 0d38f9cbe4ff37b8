"""Servers and commands as processes of their own, as an operator starts them."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any

from .wire import PATIENCE, Client, wait_for

BIN = Path(sys.executable).parent

#: The number of this worker of xdist.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

#: The last ports that `free_port` has given away.
_given: deque[int] = deque(maxlen=100)


def free_port() -> int:
    """A port that nobody has now, and that no kernel gives away as one of its own choice.

    Nor has anybody had it a moment ago (TIME_WAIT), which a server may not be ready for.  And
    nobody else gets it here, neither in this process nor in another worker of xdist, though no
    server may listen there yet.
    """
    while True:
        port = 10_000 + 16 * secrets.randbelow(1250) + _WORKER % 16
        if port in _given:
            continue
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))  # without SO_REUSEADDR
            _given.append(port)
            return port


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / program, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@contextmanager
def running(folder: Path, *command: str | Path, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A program that works in *folder*, and is ended in the end."""
    with subprocess.Popen(command, cwd=folder, **options) as program:
        try:
            yield program
        finally:
            end(program)


def end(program: subprocess.Popen[Any]) -> Any:
    """Ask *program* to end, by SIGTERM, and wait.

    What a shell starts in the background ignores SIGINT.

    Returns:
        The rest of its output, if that is a pipe.

    Raises:
        subprocess.TimeoutExpired: It did not end, and was killed.
    """
    program.terminate()
    try:
        output, _ = program.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
        raise
    return output


@contextmanager
def ended_in_time(program: subprocess.Popen[Any]) -> Iterator[None]:
    """Kill *program* if this takes longer than `PATIENCE`: nobody waits for its output for ever."""
    end_of_patience = Timer(PATIENCE, program.kill)
    end_of_patience.start()
    try:
        yield
    finally:
        end_of_patience.cancel()


def read_until(words: str, process: subprocess.Popen[str]) -> list[str]:
    """The lines that *process* prints up to the one with these *words*."""
    assert process.stdout is not None
    lines = [""]
    with ended_in_time(process):
        while words not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
    return lines[1:]


def read_lines(fifo: int, number: int) -> list[str]:
    """The next lines of an open *fifo*, so many."""
    os.set_blocking(fifo, False)
    data = b""

    def has_come() -> bool:
        nonlocal data
        with suppress(BlockingIOError):
            data += os.read(fifo, 65536)
        return data.count(b"\n") >= number

    wait_for(has_come)
    return data.decode().splitlines(keepends=True)[:number]


def listens(port: int) -> bool:
    """Whether somebody accepts on that port of this machine."""
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        return client.connect_ex(("127.0.0.1", port)) == 0


def connect(port: int) -> Client:
    """Connect to a server that has just been started."""
    wait_for(lambda: listens(port))
    return Client(port)
