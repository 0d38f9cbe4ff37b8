"""Servers and commands as processes of their own, as an operator starts them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .wire import PATIENCE, Client

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / program, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def wait_for(true: Callable[[], object]) -> None:
    """Sleep until *true* says so; an error after ten seconds."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "what a test waits for does not come"
        time.sleep(0.01)


def connect(port: int) -> Client:
    """Connect to a server that has just been started."""

    def listens() -> bool:
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        return False

    wait_for(listens)
    return Client(port)
