"""What the journal and the metrics cost, beside the requests that they are about.

    python benchmarks/journal.py

Requests run through a whole channel in memory, without a kernel, so that the journal's part
looks as large as it can.  Exits with 1 if that is more than a tenth of a refused request, or
if a million peers take more memory than ten thousand.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request

from twisted_hangup import HangupSite, ParseError
from twisted_hangup.journal import Journal
from twisted_hangup.metrics import Metrics

GOOD = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n"

ROUNDS = 7
COUNT = 3000
MOST_SHARE = 0.1
MOST_GROWTH = 1.1

PEERS = [IPv4Address("TCP", f"10.{n >> 8}.{n & 255}.1", 1) for n in range(5000)]


class Hello(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setHeader(b"Content-Length", b"6")
        return b"hello\n"


class Transport(StringTransport):
    """A TCP connection to nowhere."""

    def loseWriteConnection(self) -> None:
        """Whatever was written is with the client at once."""


def make_site() -> Any:
    site: Any = HangupSite(Hello(), reactor=Clock())
    site.log = lambda request: None  # a Site without logPath logs to twisted's log
    return site


def make_counted_site() -> Any:
    site = make_site()
    Metrics(site)
    return site


def connect(site: Any, peer: IPv4Address = PEERS[0]) -> tuple[Any, Any]:
    protocol: Any = site.buildProtocol(peer)
    transport: Any = Transport(peerAddress=peer)
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return protocol, transport


def good(site: Any) -> None:
    """So many requests on one connection."""
    protocol, transport = connect(site)
    for _ in range(COUNT):
        protocol.dataReceived(GOOD)
        site.reactor.advance(0)
        assert transport.value().endswith(b"hello\n")
        transport.clear()
    protocol.connectionLost(Failure(CONNECTION_DONE))


def refused(site: Any) -> None:
    """So many connections with one broken request each."""
    for number in range(COUNT):
        protocol, transport = connect(site, PEERS[number % len(PEERS)])
        protocol.dataReceived(BAD)
        site.reactor.advance(0)
        assert transport.value().startswith(b"HTTP/1.1 400")
        protocol.connectionLost(Failure(CONNECTION_DONE))


def connected(site: Any) -> None:
    """What `refused` costs without a request."""
    for number in range(COUNT):
        protocol, _ = connect(site, PEERS[number % len(PEERS)])
        protocol.connectionLost(Failure(CONNECTION_DONE))


def journaled(journal: Journal, errors: list[ParseError]) -> None:
    """What the journal does for so many errors."""
    for error in errors:
        journal.record(error)
        journal.settle(error, 400)


def make_error(peer: Any) -> ParseError:
    return ParseError("broken", code="HPE_STRICT", phase="head", raw_packet=BAD, peer=peer)


def microseconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The time that each piece of work takes, the best of some rounds, by turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: seconds / COUNT * 1e6 for name, seconds in best.items()}


def times() -> bool:
    few = [make_error(PEERS[number % 100]) for number in range(COUNT)]
    many = [make_error(PEERS[number]) for number in range(COUNT)]
    full = Journal()
    journaled(full, [make_error(peer) for peer in PEERS])
    works: dict[str, Callable[[], object]] = {
        "good request": partial(good, make_site()),
        "good request, with metrics": partial(good, make_counted_site()),
        "refused request and its connection": partial(refused, make_site()),
        "the same, with metrics": partial(refused, make_counted_site()),
        "its connection alone": partial(connected, make_site()),
        "journal, one of 100 peers": partial(journaled, Journal(), few),
        "journal, always another peer": partial(journaled, full, many),
    }
    took = microseconds(works)
    for name, one in took.items():
        print(f"{name:36}{one:8.2f} us")
    handling = took["refused request and its connection"] - took["its connection alone"]
    share = took["journal, always another peer"] / handling
    print(f"{'share of a refused request':36}{share:8.1%}")
    return share <= MOST_SHARE


def memory() -> bool:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    journal = Journal()
    sizes = []
    number = 0
    for peers in (10_000, 1_000_000):
        while number < peers:
            host = f"2001:db8::{number >> 16:x}:{number & 0xFFFF:x}"
            journal.record(make_error(IPv4Address("TCP", host, 1)))
            number += 1
        sizes.append(tracemalloc.get_traced_memory()[0] - before)
        print(f"{peers:9,} peers{sizes[-1] / 1024:20,.0f} KiB")
    tracemalloc.stop()
    started = time.perf_counter()
    journal.snapshot()
    print(f"{'a snapshot':36}{(time.perf_counter() - started) * 1e3:8.2f} ms")
    return sizes[1] <= sizes[0] * MOST_GROWTH


if __name__ == "__main__":
    passed = [times(), memory()]
    raise SystemExit(not all(passed))
