"""The time of day is set under a running server, for real: libfaketime stands in for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from operator import ge
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import pytest
from support.processes import BIN, connect, ended_in_time, free_port
from support.upstreams import Connection, RawServer
from support.wire import PATIENCE, Client, wait_for

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no libfaketime: apt install faketime")

#: The deadline of everything below.
SECONDS = 2.0


#: Every process of the running test.
STARTED: list[subprocess.Popen[Any]] = []


@pytest.fixture(autouse=True)
def _none_stays() -> Iterator[None]:
    """Where a test fails, its processes end as well."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait(PATIENCE)


class Started:
    """A process whose time of day is in the test's hand."""

    def __init__(
        self, folder: Path, *command: str | Path, offset: str = "+0", **options: Any
    ) -> None:
        self.clock = folder / "clock"
        self.set(offset)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "LD_PRELOAD": str(LIBRARY),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            },
            **options,
        )
        STARTED.append(self.process)

    def set(self, offset: str) -> None:
        """Put the time of day so far from where it is."""
        new = self.clock.with_suffix(".new")
        new.write_text(offset)
        new.replace(self.clock)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


class Served(Started):
    """``twistd hangup`` before a server that is silent."""

    def __init__(self, folder: Path) -> None:
        self.upstream = RawServer(_silent)
        self.port = free_port()
        limits = [f"--{name}-timeout={SECONDS:g}" for name in ("headers", "request", "proxy")]
        super().__init__(
            folder,
            *(BIN / "twistd", "-n", "--pidfile=", "hangup", f"--port=tcp:{self.port}"),
            *(f"--proxy=http://127.0.0.1:{self.upstream.port}", *limits),
            stdout=subprocess.DEVNULL,
        )
        connect(self.port).close()

    def close(self) -> None:
        super().close()
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

    thread = Thread(target=ask, name=name, daemon=True)
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
        thread.join(PATIENCE)
    statuses = {name: status for name, (status, _) in waits.items()}
    assert statuses == {
        f"{name} {when}": b"504" if name == "upstream" else b"408"
        for name in wires
        for when in ("before", "after")
    }
    assert all(seconds >= SECONDS - 0.1 for _, seconds in waits.values()), waits


#: Sends a request for each line that it reads, and says when they are stored.
OUTBOX = """
import sys
from twisted.internet import reactor, stdio
from twisted.protocols.basic import LineOnlyReceiver
from twisted_hangup.outbox import DeliveryPolicy, Outbox

url, base = sys.argv[1:]
outbox = Outbox("outbox.sqlite", policy=DeliveryPolicy(base_seconds=float(base)))
outbox.startService()
reactor.addSystemEventTrigger("before", "shutdown", outbox.stopService)

class Orders(LineOnlyReceiver):
    delimiter = b"\\n"

    def lineReceived(self, line):
        order, body = line.split()
        sending = outbox.send("POST", url, body=body, ordered=order == b"1")
        sending.addCallback(lambda key: print(body.decode(), flush=True))

stdio.StandardIO(Orders())
reactor.run()
"""


class Sending(Started):
    """A process with an outbox."""

    def __init__(
        self, folder: Path, url: str, base_seconds: float = 1.0, offset: str = "+0"
    ) -> None:
        super().__init__(
            folder,
            *(sys.executable, "-c", OUTBOX, url, str(base_seconds)),
            offset=offset,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, *bodies: str, ordered: bool = False) -> None:
        """Send requests, and wait until they are stored."""
        assert self.process.stdin is not None and self.process.stdout is not None
        for body in bodies:
            self.process.stdin.write(f"{ordered:d} {body}\n")
            self.process.stdin.flush()
        with ended_in_time(self.process):
            for _ in bodies:
                assert self.process.stdout.readline().strip() in bodies

    def close(self) -> None:
        super().close()
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


class Receiver:
    """A server that answers as it is told, and takes its time."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self.bodies: list[bytes] = []
        self.server = RawServer(self._receive)

    def _receive(self, connection: Connection) -> None:
        connection.read_head()
        body = connection.read(3)
        sleep(0.1)
        answer = self.answer
        if b" 200 " in answer:
            self.bodies.append(body)  # before the next one can come
        connection.send(answer)


@pytest.mark.parametrize("step", ["-1h", "+1h", "-10m"])
def test_outbox_delivers_on(tmp_path: Path, step: str) -> None:
    """What was queued goes out in its order, and what is sent then; nothing goes out twice."""
    receiver = Receiver()
    sending = Sending(tmp_path, receiver.server.url)
    bodies = [f"a{number:02}" for number in range(20)]
    sending.send(*bodies, ordered=True)
    wait_for(lambda: len(receiver.bodies) > 2)
    sending.set(step)
    sending.send("b00", "b01", ordered=True)
    wait_for(lambda: len(receiver.bodies) >= 22)
    assert receiver.bodies == [body.encode() for body in [*bodies, "b00", "b01"]]
    sending.close()
    receiver.server.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_destination_that_had_failed(tmp_path: Path, restarted: bool) -> None:
    """It is tried again in time, by this process or the next."""
    receiver = Receiver()
    receiver.answer = receiver.answer.replace(b"200 OK", b"503 No")
    url = receiver.server.url
    sending = Sending(tmp_path, url, 0.2)
    sending.send(*(f"a{number:02}" for number in range(6)))
    wait_for(lambda: len(receiver.server.ended) > 8)
    receiver.answer = receiver.answer.replace(b"503 No", b"200 OK")
    if restarted:
        sending.close()
        sending = Sending(tmp_path, url, 0.2, offset="-1h")
    sending.set("-1h")
    sending.send("b00")
    wait_for(lambda: len(receiver.bodies) >= 7)
    sending.close()
    receiver.server.close()


def test_busy_server_goes_on(tmp_path: Path) -> None:
    """Answers that were about to leave when the clock was set back leave soon, and so do others."""
    port = free_port()
    (tmp_path / "index.html").write_text("here")
    command = (BIN / "twistd", "-n", "--pidfile=", "hangup", f"--port=tcp:{port}", "--path", ".")
    busy = Started(tmp_path, *command, stdout=subprocess.DEVNULL)
    connect(port).close()
    answers = [0] * 4
    enough = Event()

    def ask(number: int) -> None:
        client = Client(port)
        while not enough.is_set():
            assert client.send(HEAD + b"\r\n").read_until(b"here").endswith(b"here")
            answers[number] += 1
        client.close()

    threads = [Thread(target=ask, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()

    def each_has_more() -> None:
        more = [before + 10 for before in answers]
        wait_for(lambda: all(map(ge, answers, more)))

    each_has_more()
    for hours in range(1, 5):
        busy.set(f"-{hours}h")
        each_has_more()
    enough.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    busy.close()
