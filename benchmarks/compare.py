"""What a small request costs, beside stock twisted.web and every peer that is installed.

    python benchmarks/compare.py [--rounds 8] [--seconds 1] [--only NAME] [--before CHECKOUT]

Measured is the CPU time of the server process, in the program and in the kernel, for each
request; requests per second say more about the machine and its neighbours.  All servers run
at once and are asked in turn, round by round; what counts is the median of the rounds'
ratios.  More than 1 means that ours is cheaper.  ``--before`` adds another checkout of this
project as a peer.  Needs Linux, ``wrk``, and ``openssl`` for the loads over TLS.

Exits with 1 where stock does not cost as many times ours as is aimed at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

from flood import flooded
from measure import OURS, Options, Row, Server, compare, main, need, wrk
from servers import PEERS, installed_peers, make_certificate, running

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
    """One kind of load.

    Attributes:
        ask: Asks a port for so many seconds, and says how many requests were answered.
        peers: Whether others than Twisted's answer it as is asked.
    """

    name: str
    ask: Callable[[int, int], int]
    tls: bool = False
    peers: bool = True

    def for_seconds(self, seconds: int) -> Callable[[int], int]:
        """Asks a port for so long."""
        return lambda port: self.ask(port, seconds)


def gets(
    fields: dict[str, str], scheme: str = "http", script: Path | None = None
) -> Callable[[int, int], int]:
    """GETs with *fields*, or what wrk's *script* in Lua asks."""

    def ask(port: int, seconds: int) -> int:
        address = f"{scheme}://127.0.0.1:{port}/"
        return wrk(address, seconds, fields=fields, script=script).requests

    return ask


def refused(port: int, seconds: int) -> int:
    """Malformed requests, each on a connection of its own."""
    return flooded(port, seconds)[1]


LOADS = [
    Load("minimal GET", gets({})),
    Load("browser GET, 16 fields", gets(BROWSER_FIELDS)),
    Load("TLS small GET", gets({}, "https"), tls=True),
    Load("GET with Connection: close", gets({"Connection": "close"})),
    Load("refusal, new connection", refused, peers=False),
]


def rows(options: Options, loads: Sequence[Load] = LOADS) -> Iterator[Row]:
    """Measure each of *loads*."""
    need("wrk")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        certificate = make_certificate(Path(folder))
        servers: dict[bool, dict[str, Server]] = {}
        for load in filter(lambda load: options.wants(load.name), loads):
            if load.tls not in servers:
                tls = certificate if load.tls else None
                servers[load.tls] = {
                    kind: stack.enter_context(server) for kind, server in starting(options, tls)
                }
            asked = {
                kind: server
                for kind, server in servers[load.tls].items()
                if load.peers or kind not in PEERS
            }
            yield compare(load.name, asked, load.for_seconds(options.seconds), options.rounds)


def starting(
    options: Options, tls: Path | None
) -> Iterator[tuple[str, AbstractContextManager[Server]]]:
    """Each kind of server that is asked, to be started; stock is the first."""
    for kind in ("stock", *(installed_peers() if options.peers else []), OURS):
        yield kind, running(kind, tls=tls)
    if options.before:
        yield "before", running(OURS, tls=tls, root=options.before)


if __name__ == "__main__":
    main(__doc__, rows)
