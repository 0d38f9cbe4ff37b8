"""What a request costs, beside stock twisted.web, and beside uvicorn and aiohttp where installed.

    python benchmarks/compare.py [--rounds 8] [--seconds 1] [--only NAME] [--before CHECKOUT]

Measured is the CPU time of the server process, in the program and in the kernel, for each
request; requests per second say more about the machine and its neighbours.  All servers run
at once and are asked in turn, round by round; what counts is the median of the rounds'
ratios.  More than 1 means that ours is cheaper.  ``--before`` adds another checkout of this
project as a peer.  Needs Linux, ``wrk``, and ``openssl`` for the loads over TLS.

Exits with 1 where stock does not cost as many times ours as is aimed at.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from flood import flooded
from servers import Server, installed_peers, make_certificate, running

#: What a browser sends: 16 fields, about 730 bytes.
BROWSER_FIELDS = {
    "Host": "www.example.com",
    "Connection": "keep-alive",
    "Cache-Control": "max-age=0",
    "sec-ch-ua": '"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-User": "?1",
    "Sec-Fetch-Dest": "document",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9",
    "Cookie": "session=0123456789abcdef; theme=dark",
}

#: Connections at a time.
CONNECTIONS = 16


class Load(NamedTuple):
    """One kind of load.

    Attributes:
        ask: Asks a port for so many seconds, and says how many requests were answered.
        least: How many times ours stock should cost at least.
    """

    name: str
    least: float
    ask: Callable[[int, float], int]
    tls: bool = False
    peers: bool = True


def wrk(fields: dict[str, str], scheme: str = "http") -> Callable[[int, float], int]:
    """GETs with *fields*."""

    def ask(port: int, seconds: float) -> int:
        headers = [word for pair in fields.items() for word in ("-H", "{}: {}".format(*pair))]
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", *headers]
        address = f"{scheme}://127.0.0.1:{port}/"
        output = subprocess.run([*command, address], capture_output=True, text=True).stdout
        answered = re.search(r"(\d+) requests in", output)
        if answered is None or "Non-2xx" in output:
            sys.exit(f"not every request was answered well:\n{output}")
        return int(answered[1])

    return ask


def refused(port: int, seconds: float) -> int:
    """Malformed requests, each on a connection of its own."""
    return flooded(port, seconds)[1]


LOADS = [
    Load("minimal GET", 2.2, wrk({})),
    Load("browser GET, 16 fields", 3.4, wrk(BROWSER_FIELDS)),
    Load("TLS small GET", 1.7, wrk({}, "https"), tls=True),
    Load("GET with Connection: close", 0.9, wrk({"Connection": "close"})),
    Load("refusal, new connection", 0.75, refused, peers=False),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1, help="per measurement")
    parser.add_argument("--only", default="", help="loads whose name has this in it")
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("benchmarks/compare.py needs wrk (Debian: apt-get install wrk)")
    peers = ["stock", *installed_peers(), *(["before"] if options.before else [])]
    print(f"{'times ours':<28}{'us each':>9}" + "".join(f"{peer:>18}" for peer in peers))
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        for load in LOADS:
            if options.only in load.name:
                asked = (
                    peers if load.peers else [one for one in peers if one in ("stock", "before")]
                )
                costs = measure(load, [*asked, "hangup"], certificate, options)
                show(load, peers, costs)
                if median(ratios(costs, "stock")) < load.least:
                    missed.append(f"{load.name} ({load.least})")
    if missed:
        sys.exit(f"less than is aimed at: {', '.join(missed)}")


def measure(
    load: Load, kinds: list[str], certificate: Path, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Microseconds of CPU for each request, by kind, round by round."""
    costs: dict[str, list[float]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for kind in kinds:
            before = kind == "before"
            server = running(
                "hangup" if before else kind,
                tls=certificate if load.tls else None,
                root=options.before.resolve() if before else None,
            )
            servers[kind] = stack.enter_context(server)
            load.ask(servers[kind].port, 1)  # warm up
        for number in range(options.rounds):
            for kind in kinds if number % 2 else reversed(kinds):
                used = servers[kind].cpu_seconds()
                answered = load.ask(servers[kind].port, options.seconds)
                costs[kind].append((servers[kind].cpu_seconds() - used) / answered * 1e6)
    return costs


def ratios(costs: dict[str, list[float]], peer: str) -> list[float]:
    """How many times ours *peer* costs, round by round."""
    return [theirs / ours for theirs, ours in zip(costs[peer], costs["hangup"], strict=True)]


def show(load: Load, peers: list[str], costs: dict[str, list[float]]) -> None:
    """One line: what ours costs, and how many times that the others do."""
    line = f"{load.name:<28}{median(costs['hangup']):>9.1f}"
    for peer in peers:
        if peer not in costs:
            line += f"{'-':>18}"
            continue
        times = ratios(costs, peer)
        line += f"{median(times):>6.2f} ({min(times):.2f}-{max(times):.2f})"
    print(line, flush=True)


if __name__ == "__main__":
    main()
