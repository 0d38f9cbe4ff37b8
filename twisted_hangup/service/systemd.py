"""Notifies systemd, if it asks for that: sd_notify(3) with the standard library."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"


def notify(*words: str) -> None:
    """Send these lines to systemd, if it listens.  This raises nothing, and takes no time."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            address = "\0" + name[1:] if name.startswith("@") else name
            sender.sendto("\n".join(words).encode("utf-8", "replace"), address)


def notify_reloading() -> None:
    """Report that a reload begins; `READY` reports its end (``Type=notify-reload``)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds() -> float | None:
    """How long systemd waits for `ALIVE` before it ends this process; None if it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
    return int(microseconds) / 1e6 if mine and microseconds.isdecimal() else None
