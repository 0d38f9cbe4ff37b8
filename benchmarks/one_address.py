"""That one client cannot take all: slow heads from one address, or from many, and a good client.

    python benchmarks/one_address.py [--connections 10000] [--places 4000] [--seconds 20]

A ``twistd hangup`` with that many places is kept under that many connections that send the start
of a head and no more; what it closes is opened again.  Meanwhile a good client at 127.0.0.2
asks 20 times a second, each time on a new connection.  First all of the slow ones come from
127.0.0.1, then from 1,000 addresses.  For each is printed how long the good client waited, at the
median and at worst.  Exit status 1 where it ever waited a second.

Linux only.  Client and server each need a file for every connection (``ulimit -n``).
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

START_OF_HEAD: Final = b"GET / HTTP/1.1\r\nHost: a\r\nX-a: "
GOOD: Final = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GOOD_PER_SECOND: Final = 20
MOST_WAIT_SECONDS: Final = 1.0
CONNECTS_PER_SECOND: Final = 1000


def ask_until(port: int, stop: Any, times: Any) -> None:
    """Ask from 127.0.0.2, and put down how long each answer took; PATIENCE where none came."""
    waits = []
    while not stop.is_set():
        began = time.monotonic()
        answer = b""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.2", 0)) as client,
        ):
            client.sendall(GOOD)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        waits.append(time.monotonic() - began if answer.startswith(b"HTTP/1.1 200 ") else 99.0)
        time.sleep(max(0.0, 1 / GOOD_PER_SECOND - waits[-1]))
    times.put(waits)


class Slow:
    """Clients that do not finish their heads, and come again where they are hung up on."""

    def __init__(self, port: int, addresses: Sequence[str]) -> None:
        self.opened = 0
        self._port = port
        self._addresses = addresses
        self._open: dict[int, socket.socket] = {}
        self._poll = select.epoll()

    def keep(self, count: int, seconds: float) -> None:
        """Hold *count* connections open for *seconds*."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed * CONNECTS_PER_SECOND) - self.opened
            for _ in range(min(due, count - len(self._open))):
                self._connect()
            for number, _ in self._poll.poll(0.001):
                self._sent_or_closed(number)

    def _connect(self) -> None:
        client = socket.socket()
        client.setblocking(False)
        with suppress(OSError):
            client.bind((self._addresses[self.opened % len(self._addresses)], 0))
        client.connect_ex(("127.0.0.1", self._port))
        self.opened += 1
        self._open[client.fileno()] = client
        self._poll.register(client, select.EPOLLOUT)

    def _sent_or_closed(self, number: int) -> None:
        client = self._open[number]
        try:
            if client.send(START_OF_HEAD):
                self._poll.modify(number, select.EPOLLRDHUP)
                with suppress(BlockingIOError):
                    if client.recv(1):
                        return
                    raise ConnectionResetError
                return
        except OSError:
            self._poll.unregister(number)
            self._open.pop(number).close()

    def close(self) -> None:
        for client in self._open.values():
            client.close()
        self._poll.close()


def measure(port: int, addresses: Sequence[str], connections: int, seconds: float) -> list[float]:
    context = multiprocessing.get_context("spawn")
    stop, times = context.Event(), context.Queue()
    good = context.Process(target=ask_until, args=(port, stop, times), daemon=True)
    good.start()
    slow = Slow(port, addresses)
    slow.keep(connections, seconds)
    stop.set()
    waits: list[float] = times.get(timeout=120)
    good.join()
    slow.close()
    print(
        f"slow heads from {len(addresses):,} addresses, {slow.opened:,} connections in all:"
        f" a good client waits {sorted(waits)[len(waits) // 2] * 1000:.0f} ms,"
        f" at most {max(waits) * 1000:.0f} ms ({len(waits)} requests)",
        flush=True,
    )
    return waits


def main() -> int:
    """Run the command; return its exit status."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--connections", type=int, default=10_000)
    options.add_argument("--places", type=int, default=4000)
    options.add_argument("--seconds", type=float, default=20.0)
    asked = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "hangup"]
    command += ["--port=tcp:0:interface=127.0.0.1", f"--max-connections={asked.places}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = (re.search(r"Listening on \S*:(\d+)", line) for line in server.stdout)
            port = int(next(line[1] for line in lines if line))
            many = [f"127.1.{number >> 8}.{number & 255}" for number in range(1000)]
            waits = [
                wait
                for addresses in (["127.0.0.1"], many)
                for wait in measure(port, addresses, asked.connections, asked.seconds)
            ]
        finally:
            server.terminate()
    return 1 if max(waits) >= MOST_WAIT_SECONDS else 0


if __name__ == "__main__":
    sys.exit(main())
