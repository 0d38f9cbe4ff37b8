"""What ten thousand clients cost that never finish their request, side by side with stock.

    python benchmarks/slow_heads.py [--connections 10000] [--head-seconds 15]

Each client sends the start of a head and then a byte every five seconds.  Meanwhile a good
client, in a process of its own, makes 25 requests a second, each on a new connection.  For
each server is printed what one slow connection costs in memory, how many were answered and
how long after the deadline at most, and the 99th percentile of the good client's times:
before, while the slow ones are held, and while they are being answered.  Stock Twisted
answers none of them; it is given up a few seconds after the deadline.

Linux only: the memory is read from /proc.  Client and server each need a file for every
connection (``ulimit -n``), and a machine that does something else shows in the times.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("stock", "hangup")
START_OF_HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nX-a: "
GOOD = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
BYTE_EVERY = 5.0
CONNECTS_PER_SECOND = 2000
GOOD_PER_SECOND = 25
#: Seconds of good requests before the slow clients come, and of waiting for a late answer.
BEFORE, LATE = 4.0, 5.0


class Slow(NamedTuple):
    """What became of the slow clients."""

    bytes_each: float
    connected: float
    deadline: float
    statuses: Counter[str]
    latest: float


class GoodClient:
    """Requests in a process of its own, which inherits none of our sockets."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._found: Any = context.Queue()
        self._process = context.Process(
            target=ask_until, args=(port, self._stop, self._found), daemon=True
        )
        self._process.start()

    def stop(self) -> list[tuple[float, float]]:
        """When each request began, on the monotonic clock, and seconds; inf if it failed."""
        self._stop.set()
        found: list[tuple[float, float]] = self._found.get(timeout=30)
        self._process.join()
        return found


def ask_until(port: int, stop: Any, found: Any) -> None:
    times = []
    while not stop.is_set():
        began = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(GOOD)
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            good = answer.startswith(b"HTTP/1.1 200 ")
        except OSError:
            good = False
        took = time.monotonic() - began
        times.append((began, took if good else float("inf")))
        time.sleep(max(0, 1 / GOOD_PER_SECOND - took))
    found.put(times)


def attack(port: int, pid: int, connections: int, head_seconds: float) -> Slow:
    """Connect the slow clients, let them drip, and see what they are answered."""
    before = memory(pid)
    poller = select.epoll()
    began: dict[int, float] = {}
    clients: dict[int, socket.socket] = {}
    start = time.monotonic()
    for number in range(connections):
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        client.send(START_OF_HEAD)
        clients[client.fileno()] = client
        began[client.fileno()] = time.monotonic()
        poller.register(client, select.EPOLLIN)
        time.sleep(max(0, start + number / CONNECTS_PER_SECOND - time.monotonic()))
    connected = time.monotonic()
    time.sleep(1)
    each = (memory(pid) - before) / connections
    statuses: Counter[str] = Counter()
    latest = 0.0
    turn = list(clients)
    dripped, dripping_since = 0, time.monotonic()
    while clients and time.monotonic() < connected + head_seconds + LATE:
        due = int((time.monotonic() - dripping_since) / BYTE_EVERY * connections)
        for number in range(dripped, due):
            dripper = clients.get(turn[number % connections])
            if dripper is not None:
                with suppress(OSError):  # then it is seen below
                    dripper.send(b"b")
        dripped = due
        for descriptor, _ in poller.poll(0.01, 256):
            try:
                answer = clients[descriptor].recv(4096)
            except ConnectionResetError:
                answer = b""
            poller.unregister(descriptor)
            clients.pop(descriptor).close()
            statuses[answer[9:12].decode() or "closed"] += 1
            latest = max(latest, time.monotonic() - began[descriptor])
    if clients:
        statuses["still open"] = len(clients)
    for client in clients.values():
        client.close()
    return Slow(each, connected, start + head_seconds, statuses, latest)


def memory(pid: int) -> int:
    """Resident bytes of the process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def p99(times: list[float]) -> str:
    """The 99th percentile, in milliseconds."""
    if not times:
        return "-"
    return f"{sorted(times)[int(len(times) * 0.99)] * 1000:.1f}"


@contextmanager
def running(kind: str, head_seconds: float) -> Iterator[tuple[int, int]]:
    """Run the server *kind* in a process of its own; gives its port and process id."""
    command = [sys.executable, __file__, "--serve", kind, "--head-seconds", str(head_seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin and server.stdout
        try:
            yield int(server.stdout.readline()), server.pid
        finally:
            server.kill()


def serve(kind: str, head_seconds: float) -> None:
    from twisted.internet import reactor
    from twisted.web.server import Site
    from twisted.web.static import Data

    from twisted_hangup import HangupSite, Timeouts

    resource = Data(b"hello\n", "text/plain")
    resource.isLeaf = True
    if kind == "hangup":
        site: Any = HangupSite(resource, timeouts=Timeouts(head_seconds=head_seconds))
    else:
        site = Site(resource, timeout=head_seconds)
    site.log = lambda request: None
    port: Any = reactor.listenTCP(0, site, interface="127.0.0.1", backlog=1024)
    print(port.getHost().port, flush=True)
    reactor.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--head-seconds", type=float, default=15.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.head_seconds)
        return
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < options.connections + 200:
        sys.exit(f"at most {most} files may be open here: fewer --connections, or ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.connections / CONNECTS_PER_SECOND + 3 > options.head_seconds:
        sys.exit("the first are answered before the last have come: more --head-seconds")
    print(f"{os.cpu_count()} CPUs; the deadline is {options.head_seconds:g} s")
    for kind in KINDS:
        with running(kind, options.head_seconds) as (port, pid):
            client = GoodClient(port)
            time.sleep(BEFORE)
            attacked = time.monotonic()
            slow = attack(port, pid, options.connections, options.head_seconds)
            times = client.stop()
        phases = {
            "before": (0.0, attacked),
            "connecting": (attacked, slow.connected),
            "held": (slow.connected, slow.deadline),
            "answered": (slow.deadline, time.monotonic()),
        }
        good = "; ".join(
            f"{name} {p99([took for began, took in times if since <= began < until])}"
            for name, (since, until) in phases.items()
        )
        became = ", ".join(f"{count} {what}" for what, count in slow.statuses.items())
        failed = sum(took == float("inf") for _, took in times)
        late = f"{slow.latest - options.head_seconds:.1f} s" if slow.latest else "never"
        print(
            f"{kind:<7} {slow.bytes_each:.0f} bytes each; {became}; late at most: {late}\n"
            f"        good p99 in ms: {good}; failed: {failed} of {len(times)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
