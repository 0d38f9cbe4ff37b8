"""What the comparisons have in common: servers and their CPU time, who asks, rounds and rows.

A benchmark starts what it compares (`started`, `nginx`, or `servers.running`), lets `compare`
ask all of them in turn, and gives a row for each load: its ``rows(options)`` is for
``python -m benchmarks``, and for `main` when it runs alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

#: The checkout that is measured unless another is named.
ROOT = Path(__file__).parents[1]

#: The peer that is ours, in every row.
OURS = "hangup"

#: How many times ours stock should cost at least, by load; the outbox stands beside the bare
#: database.  ``python -m benchmarks --check`` asks for a share of these.
FLOORS = {
    "minimal GET": 2.2,
    "browser GET, 16 fields": 3.4,
    "TLS small GET": 1.7,
    "GET with Connection: close": 0.9,
    "refusal, new connection": 0.65,
    "pipelined, 16 deep": 2.0,
    "TLS 1.3 handshake, full": 1.0,
    "TLS 1.3 handshake, resumed": 1.0,
    "TLS 1.2 handshake, full": 1.0,
    "TLS 1.2 handshake, resumed": 1.0,
    "HTTP/2 small GET": 1.5,
    "HTTP/2 1 MB response": 2.0,
    "HTTP/2 64 MiB upload": 1.0,
    "proxy, small": 3.5,
    "outbox, SQLite, batches of 100": 0.5,
    "file of 8 MB": 3.0,
    "range of 4 MB": 3.0,
    **{
        f"{transport} body {way}": 1.5
        for transport in ("TCP", "TLS")
        for way in (
            *("up, Content-Length", "up, chunked"),
            *("down, push, Content-Length", "down, push, chunked"),
            *("down, pull, Content-Length", "down, pull, chunked"),
        )
    },
}

#: Where Debian has a program, if the package has another name.
PACKAGES = {"h2load": "nghttp2-client", "nginx": "nginx-light"}

#: What wrk says it has read, and its units.
_READ = re.compile(r"(\d+) requests in [^,]+, ([\d.]+)([KMG]?)B read")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}

#: How long memory has to stay the same, in seconds; and how long anything is waited for, on a
#: machine that may stop for seconds.
STILL, PATIENCE = 0.5, 60.0

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; sendfile on; client_max_body_size 0;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  {outside}
  server {{ listen 127.0.0.1:{port} {listen}; {server} }}
}}
"""


class Server(NamedTuple):
    """A server in a process of its own."""

    port: int
    process: int

    def cpu_seconds(self) -> float:
        """What its process has used so far, in the program and in the kernel; Linux only."""
        used = 0
        for thread in Path(f"/proc/{self.process}/task").iterdir():
            with suppress(FileNotFoundError):  # that thread has just ended
                used += int((thread / "schedstat").read_text().split()[0])
        return used / 1e9

    def resident_kib(self) -> float:
        """The memory of its process, without what the kernel holds for it."""
        pages = Path(f"/proc/{self.process}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1024


class Options(NamedTuple):
    """What is to be measured, and how long.

    Attributes:
        rounds: How often each server is asked.
        seconds: How long, where that is not a matter of how much; wrk knows whole ones.
        only: Loads are measured whose name has one of these in it.
        peers: Whether others than stock stand beside ours.
        before: Another checkout of this project, which is measured as a peer.
    """

    rounds: int = 8
    seconds: int = 1
    only: Sequence[str] = ("",)
    peers: bool = True
    before: Path | None = None

    def wants(self, load: str) -> bool:
        """Whether the load of that name is to be measured."""
        return any(part in load for part in self.only)


class Row(NamedTuple):
    """What one load costs each of the servers that were asked in turn.

    Attributes:
        load: As a reader calls it: ``"minimal GET"``.
        unit: What a figure is, and of what: ``"us"``, ``"ms/MB"``, ``"KiB"``.
        costs: By peer (`OURS` is ours), one figure for each round.  Less is better.  The first
            peer is the one that the floor is for: stock, or what there is instead.
        rates: How many a second, likewise; empty where that says nothing.
    """

    load: str
    unit: str
    costs: Mapping[str, Sequence[float]]
    rates: Mapping[str, Sequence[float]] = {}

    @property
    def least(self) -> float | None:
        """How many times ours the first peer should cost; None where nothing is aimed at."""
        return FLOORS.get(self.load)

    def ratios(self, peer: str) -> list[float]:
        """How many times ours *peer* costs, round by round."""
        pairs = zip(self.costs[peer], self.costs[OURS], strict=True)
        return [theirs / ours for theirs, ours in pairs]

    def missed(self, share: float = 1.0) -> bool:
        """Whether the first peer costs less than that *share* of what is aimed at."""
        least = self.least
        return least is not None and median(self.ratios(next(iter(self.costs)))) < least * share


@contextmanager
def started(command: Sequence[str], root: Path = ROOT) -> Iterator[Server]:
    """Run a server that prints its port, and ends when its standard input does.

    Args:
        root: The checkout of this project that it imports.
    """
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin and process.stdout
        try:
            port = process.stdout.readline()
            if not port:
                sys.exit(f"ended at once: {' '.join(command)}")
            yield Server(int(port), process.pid)
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


@contextmanager
def nginx(server: str, outside: str = "", listen: str = "") -> Iterator[Server]:
    """Run an nginx of one process.

    Args:
        server: What stands in its ``server`` block.
        outside: What stands beside that, such as an ``upstream``.
        listen: What follows the port, such as ``"ssl"``.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "nginx.conf")
        values = {"folder": folder, "port": port, "outside": outside, "listen": listen}
        settings.write_text(NGINX.format(server=server, **values))
        with subprocess.Popen(["nginx", "-e", "stderr", "-c", str(settings)]) as process:
            try:
                wait_for(port)
                yield Server(port, process.pid)
            finally:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                finally:
                    process.kill()


def free_port() -> int:
    """A port that nobody had a moment ago, for a server that cannot choose one and say which."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, seconds: float = PATIENCE) -> None:
    """Wait until somebody listens on *port*."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"nobody listens on port {port}")
            time.sleep(0.05)


def need(*programs: str) -> None:
    """Exit and say which, if one of *programs* is not here."""
    lacking = [program for program in programs if shutil.which(program) is None]
    if lacking:
        packages = " ".join(PACKAGES.get(program, program) for program in lacking)
        sys.exit(f"no {', '.join(lacking)} here (Debian: apt-get install {packages})")


class Answered(NamedTuple):
    """What a server has answered: how many requests, with how many MB."""

    requests: int
    megabytes: float


def wrk(
    address: str,
    seconds: int,
    connections: int = 16,
    fields: Mapping[str, str] = {},
    script: Path | None = None,
    strict: bool = False,
) -> Answered:
    """GETs with *fields*, or what wrk's *script* in Lua asks; exits if one was answered badly.

    Args:
        strict: Whether to exit as well if a connection has failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={PATIENCE:g}s"]
    command += [word for pair in fields.items() for word in ("-H", "{}: {}".format(*pair))]
    command += ["-s", str(script)] if script else []
    output = subprocess.run([*command, address], capture_output=True, text=True).stdout
    read = _READ.search(output)
    if read is None or "Non-2xx" in output or (strict and "Socket errors" in output):
        sys.exit(f"not every request was answered well:\n{output}")
    return Answered(int(read[1]), float(read[2]) * _UNITS[read[3]] / 1e6)


def h2load(address: str, *arguments: str) -> int:
    """What h2load asks with *arguments*; how many requests, or exits if one was answered badly."""
    command = ["h2load", *arguments, address]
    output = subprocess.run(command, capture_output=True, text=True).stdout
    counts = re.search(r"requests: (\d+) total.* (\d+) succeeded", output)
    if counts is None or counts[1] != counts[2]:
        sys.exit(f"not every request was answered well:\n{output}")
    return int(counts[1])


def settled_kib(server: Server) -> float:
    """The memory of the *server*, once it does not change any more."""
    ends = time.monotonic() + PATIENCE
    last, since = server.resident_kib(), time.monotonic()
    while time.monotonic() < min(since + STILL, ends):
        time.sleep(0.05)
        if (now := server.resident_kib()) != last:
            last, since = now, time.monotonic()
    return last


def node() -> str | None:
    """The path of Node: ``$NODE``, or the one in ``$PATH``."""
    return os.environ.get("NODE") or shutil.which("node")


def answered(ask: Callable[[int], float], port: int) -> float:
    """What comes of *ask*; once more where nothing did, as the machine has stopped meanwhile."""
    for _ in range(5):
        if done := ask(port):
            return done
    sys.exit(f"nothing is answered on port {port}")


def compare(
    load: str,
    servers: Mapping[str, Server],
    ask: Callable[[int], float],
    rounds: int,
    unit: str = "us",
    scale: float = 1e6,
) -> Row:
    """Ask all *servers* in turn, round by round, after one round that warms them up.

    Args:
        ask: Asks a port, and returns how many requests (or MB) that were.
        unit: What a figure is, with *scale* of it in one second of CPU.

    Returns:
        CPU of each server's process for each request (or MB).
    """
    costs: dict[str, list[float]] = {peer: [] for peer in servers}
    rates: dict[str, list[float]] = {peer: [] for peer in servers}
    for server in servers.values():
        ask(server.port)
    for number in range(rounds):
        for peer in list(servers) if number % 2 else reversed(list(servers)):
            used, began = servers[peer].cpu_seconds(), time.monotonic()
            done = answered(ask, servers[peer].port)
            rates[peer].append(done / (time.monotonic() - began))
            costs[peer].append((servers[peer].cpu_seconds() - used) / done * scale)
    return Row(load, unit, costs, rates)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the least and the most: ``1.94 (1.86-2.09)``."""
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def show(row: Row) -> None:
    """Print one line: what ours costs, and how many times that the others do."""
    line = f"{row.load:<30}{median(row.costs[OURS]):>9.1f} {row.unit:<6}"
    for peer in row.costs:
        if peer != OURS:
            line += f"  {peer} {spread(row.ratios(peer))}"
    print(line, flush=True)


def options_of(doc: str | None) -> Options:
    """The options on the command line of a benchmark that *doc* describes."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=1, help="per measurement")
    parser.add_argument("--only", default="", help="loads whose name has this in it")
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    given = parser.parse_args()
    before = given.before and given.before.resolve()
    return Options(given.rounds, given.seconds, [given.only], before=before)


def main(doc: str | None, rows: Callable[[Options], Iterable[Row]]) -> None:
    """Run one benchmark alone; exits with 1 where stock costs less than is aimed at."""
    missed = []
    for row in rows(options_of(doc)):
        show(row)
        if row.missed():
            missed.append(f"{row.load} ({row.least})")
    if missed:
        sys.exit(f"less than is aimed at: {', '.join(missed)}")
