"""The time of day is set under a running server, for real: libfaketime stands in for it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest
from support.processes import BIN, connect, free_port
from support.upstreams import Connection, RawServer
from support.wire import PATIENCE, Client

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no libfaketime: apt install faketime")

#: The deadline of everything below, and how long after it the answer may be here.
SECONDS = 2.0
LATE = 5.0


class Served:
    """``twistd hangup`` before a server that is silent."""

    def __init__(self, folder: Path) -> None:
        self.clock = folder / "clock"
        self.set("+0")
        self.upstream = RawServer(_silent)
        self.port = free_port()
        limits = [f"--{name}-timeout={SECONDS:g}" for name in ("headers", "request", "proxy")]
        self.process = subprocess.Popen(
            [
                *(BIN / "twistd", "-n", "--pidfile=", "hangup", f"--port=tcp:{self.port}"),
                *(f"--proxy=http://127.0.0.1:{self.upstream.port}", *limits),
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "LD_PRELOAD": str(LIBRARY),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            },
        )
        connect(self.port).close()

    def set(self, offset: str) -> None:
        """Put the time of day so far from where it is."""
        new = self.clock.with_suffix(".new")
        new.write_text(offset)
        new.replace(self.clock)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.upstream.close()


def _silent(connection: Connection) -> None:
    while connection.socket.recv(65536):
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.close()


def answered(port: int, wire: bytes, waits: dict[str, tuple[bytes, float]], name: str) -> Thread:
    """Send *wire*; note what comes back to it, and after how many seconds."""

    def ask() -> None:
        began = monotonic()
        client = Client(port).send(wire)
        answer = client.read_all()
        waits[name] = answer[9:12], monotonic() - began
        client.close()

    thread = Thread(target=ask, name=name)
    thread.start()
    return thread


HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"
WHOLE = HEAD + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize("step", ["-1h", "+1h", "-3s"])
def test_every_wait_ends_in_time(served: Served, step: str) -> None:
    """What waits when the clock is set, and what comes then, to a server that is silent else."""
    waits: dict[str, tuple[bytes, float]] = {}
    wires = {"head": HEAD, "body": BODY, "upstream": WHOLE}
    threads = [answered(served.port, wire, waits, f"{name} before") for name, wire in wires.items()]
    sleep(0.5)
    served.set(step)
    threads += [answered(served.port, wire, waits, f"{name} after") for name, wire in wires.items()]
    for thread in threads:
        thread.join(SECONDS + LATE)
    statuses = {name: status for name, (status, _) in waits.items()}
    assert statuses == {
        f"{name} {when}": b"504" if name == "upstream" else b"408"
        for name in wires
        for when in ("before", "after")
    }
    assert all(SECONDS - 0.1 <= seconds < SECONDS + LATE for _, seconds in waits.values()), waits
