"""Compare with stock twisted.web, side by side in one run.

    python benchmarks/compare.py [--rounds 5] [--seconds 3]

Each round measures both servers on each load, one after the other, in alternating order;
what counts is the median of the rounds' ratios.  A ratio above 1 means more per second
than stock.  Needs ``wrk``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from flood import flood
from servers import KINDS, running

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


class Load(NamedTuple):
    """One kind of load, and the ratio to stock that we promise."""

    name: str
    per_second: Callable[[int, float], float]
    access_log: bool
    promised: float


def wrk(fields: dict[str, str]) -> Callable[[int, float], float]:
    """Keep-alive GETs with *fields* over eight connections; requests per second."""

    def measure(port: int, seconds: float) -> float:
        headers = [
            argument for name, value in fields.items() for argument in ("-H", f"{name}: {value}")
        ]
        command = ["wrk", "-t1", "-c8", f"-d{seconds}s", *headers, f"http://127.0.0.1:{port}/"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in output or "Socket errors" in output:
            sys.exit(f"not every request was answered well:\n{output}")
        found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
        assert found, output
        return float(found[1])

    return measure


LOADS = [
    Load("browser-like GET, keep-alive", wrk(BROWSER_FIELDS), False, 1.4),
    Load("minimal GET, keep-alive", wrk({}), False, 1.15),
    Load("browser-like GET, access log on", wrk(BROWSER_FIELDS), True, 0.0),
    Load("minimal GET, access log on", wrk({}), True, 0.0),
    Load("malformed, new connection each", flood, False, 1.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="per measurement")
    parser.add_argument("--only", default="", help="loads whose name has this in it")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("benchmarks/compare.py needs wrk (Debian: apt-get install wrk)")
    print(f"{'load':<34}{'stock/s':>10}{'hangup/s':>10}{'ratio':>8}  of the rounds")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for load in LOADS:
            if options.only not in load.name:
                continue
            rates = _measure(load, options.rounds, options.seconds, Path(folder))
            ratios = [ours / stock for stock, ours in zip(*rates, strict=True)]
            missed |= median(ratios) < load.promised
            promise = f"  (promised: {load.promised})" if load.promised else ""
            print(
                f"{load.name:<34}{median(rates[0]):>10.0f}{median(rates[1]):>10.0f}"
                f"{median(ratios):>8.2f}  {min(ratios):.2f} to {max(ratios):.2f}{promise}",
                flush=True,
            )
    sys.exit(1 if missed else 0)


def _measure(load: Load, rounds: int, seconds: float, folder: Path) -> list[list[float]]:
    rates: list[list[float]] = [[], []]
    for number in range(rounds):
        order = list(enumerate(KINDS))
        for index, kind in order if number % 2 else reversed(order):
            log = os.fspath(folder / f"{kind}.log") if load.access_log else None
            with running(kind, log) as port:
                load.per_second(port, 1)  # warm up
                rates[index].append(load.per_second(port, seconds))
    return rates


if __name__ == "__main__":
    main()
