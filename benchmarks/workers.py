"""What several workers cost and how they share connections, beside one process.

    python benchmarks/workers.py [--rounds 8] [--seconds 1] [--only NAME] [--before CHECKOUT]

Costs: the CPU time of all processes of ``twistd hangup --workers 2`` for each small request, on
connections that are kept and on a new one for each request, beside one process without
``--workers``, and beside two of these that know nothing of each other.  Each process has a wrk of
its own with 16 connections.  Two busy processes take more time for each request than one: they
share caches, and the less of a core is left for wrk, the fewer requests come at a time.  That is
the machine's; what workers add is the difference to the two processes.

Sharing: 64 connections that are held, opened at once or one in 2 ms; of ten times the worst, what
the busiest of 2 and of 4 workers holds, as a multiple of the mean.  Memory: what each worker has
for itself, with its part of what several share (PSS).  Needs Linux and ``wrk``.

Exits with 1 where one of these is more than is promised.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from compare import gets
from measure import (
    OURS,
    ROOT,
    Options,
    Row,
    Server,
    compare,
    free_port,
    need,
    options_of,
    show,
    spread,
    wait_for,
)

APPLICATION = """
import os

from twisted.web.resource import Resource


class Root(Resource):
    isLeaf = True
    pid = b"%07d" % os.getpid()

    def render_GET(self, request):
        return self.pid
"""

#: Connections that are held, and how long to wait between two of them.
HELD = 64
GAPS = {"at once": 0.0, "one in 2 ms": 0.002}
TIMES = 10

#: The most that the busiest worker may hold, as a multiple of the mean.
MOST_OF_MEAN = 1.3

#: How many times the CPU time of two processes on their own two workers may take.
MOST_COSTS = {"kept connections": 1.05, "a new connection each": 1.3}

#: The fields that wrk sends.
LOADS: dict[str, dict[str, str]] = {
    "kept connections": {},
    "a new connection each": {"Connection": "close"},
}


class Group(Server):
    """A server of one or several processes; *process* is the first one."""

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process}/task/{self.process}/children").read_text()
        return [int(pid) for pid in children.split()]

    def cpu_seconds(self) -> float:
        processes = [self.process, *self.workers]
        return sum(Server(self.port, process).cpu_seconds() for process in processes)


class Pair(Server):
    """Two servers that are asked at once."""

    other: Server

    def cpu_seconds(self) -> float:
        return super().cpu_seconds() + self.other.cpu_seconds()


class Sharing(NamedTuple):
    """How evenly workers share connections.

    Attributes:
        load: How the connections come.
        multiples: What the busiest holds, as a multiple of the mean, each time.
    """

    load: str
    multiples: Sequence[float]


@contextmanager
def running(workers: int, root: Path = ROOT) -> Iterator[Group]:
    """Run ``twist hangup`` with so many workers; 0 is one process."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(APPLICATION)
        port = free_port()
        command = [sys.executable, "-m", "twisted", "--log-level=critical", "hangup"]
        command += [f"--port=tcp:{port}:interface=127.0.0.1", "--resource=app.Root"]
        command += ["--max-connections-per-address=0"]
        command += [f"--workers={workers}"] if workers else []
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{root}:{folder}"}
        with subprocess.Popen(command, cwd=folder, env=environment) as process:
            try:
                wait_for(port, 30)
                group = Group(port, process.pid)
                seen: Counter[bytes] = Counter()
                deadline = time.monotonic() + 30
                while len(seen) < workers and time.monotonic() < deadline:
                    seen = held(group, 16, 0)
                yield group
            finally:
                process.terminate()
                process.wait(40)


def held(group: Group, number: int, gap: float) -> Counter[bytes]:
    """Hold so many connections; returns how many each worker has."""
    with ExitStack() as stack:
        clients = []
        for _ in range(number):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", group.port))))
            if gap:
                time.sleep(gap)
        seen: Counter[bytes] = Counter()
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in clients:
            answer = b""
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < 7:
                answer += client.recv(4096)
            seen[answer[-7:]] += 1
    time.sleep(0.05)  # until the workers have noticed
    return seen


def sharings(options: Options) -> Iterator[Sharing]:
    for workers in (2, 4):
        names = {f"{workers} workers, {HELD} held, {gap}": GAPS[gap] for gap in GAPS}
        if not any(options.wants(name) for name in names):
            continue
        with running(workers, options.before or ROOT) as group:
            for name, gap in names.items():
                if options.wants(name):
                    times = [held(group, HELD, gap) for _ in range(TIMES)]
                    yield Sharing(name, [max(one.values()) * workers / HELD for one in times])


def memory(workers: int = 4) -> list[float]:
    """The memory of each of so many workers for itself, in MiB (PSS)."""
    with running(workers) as group:
        held(group, HELD, 0)
        return [pss_mib(pid) for pid in group.workers]


def pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def rows(options: Options) -> Iterator[Row]:
    """What a request costs two workers, beside one process."""
    need("wrk")
    with ExitStack() as stack:
        one, first, second = (stack.enter_context(running(0)) for _ in range(3))
        pair = Pair(first.port, first.process)
        pair.other = second
        servers: dict[str, Server] = {
            "two workers": stack.enter_context(running(2)),
            "two processes": pair,
            OURS: one,
        }
        if options.before:
            servers["before"] = stack.enter_context(running(2, options.before))
        ports = {server.port: [server.port] * 2 for server in servers.values()}
        ports |= {one.port: [one.port], first.port: [first.port, second.port]}
        for load, fields in LOADS.items():
            if options.wants(load):
                ask = asking(fields, ports, options.seconds)
                yield compare(load, servers, ask, options.rounds)


def asking(
    fields: dict[str, str], ports: Mapping[int, Sequence[int]], seconds: int
) -> Callable[[int], int]:
    """Ask with *fields*, instead of a port, all of its *ports* at once."""
    ask = gets(fields)

    def together(port: int) -> int:
        with ThreadPoolExecutor() as threads:
            return sum(threads.map(lambda one: ask(one, seconds), ports[port]))

    return together


def run(options: Options) -> None:
    """Measure and print all; exits with 1 where something is more than is promised."""
    missed = []
    for sharing in sharings(options):
        print(f"{sharing.load:<40} busiest {spread(sharing.multiples)} times the mean", flush=True)
        if max(sharing.multiples) > MOST_OF_MEAN:
            missed.append(f"{sharing.load} ({MOST_OF_MEAN})")
    for row in rows(options):
        show(row)
        pairs = zip(row.costs["two workers"], row.costs["two processes"], strict=True)
        times = [ours / theirs for ours, theirs in pairs]
        print(f"  two workers / two processes  {spread(times)}", flush=True)
        if median(times) > MOST_COSTS[row.load]:
            missed.append(f"{row.load} ({MOST_COSTS[row.load]})")
    if options.wants("memory"):
        print(f"memory of each of 4 workers, MiB          {spread(memory(), '.1f')}")
    if missed:
        sys.exit(f"more than is promised: {', '.join(missed)}")


if __name__ == "__main__":
    run(options_of(__doc__))
