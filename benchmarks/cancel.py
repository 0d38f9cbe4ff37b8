"""How soon work ends after its client has left, beside stock and Node; and what is left of it.

    python benchmarks/cancel.py [--rounds 8] [--per-round 250] [--gap-ms 2]

Clients on real sockets wait for an answer each, in rounds; then they leave one after the other, so
that the server's loop is idle in between, by FIN in one half of the rounds and by RST in the other.
Measured is the time from there until the server's program knows: in ours a cancellable coroutine
is cancelled, in stock ``notifyFinish`` fails, in Node (if it is installed) the response has its
``close``.  The times are of one clock: CLOCK_MONOTONIC is the whole machine's.

Exits with 1 if work of ours was not cancelled, took longer than 50 ms to be, or leaves anything.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any, Final

from measure import OURS, Options, Row, node, spread, started
from servers import KINDS, stop_at_end_of_input

MOST_MS: Final = 50.0

#: Objects that caches of Python and Twisted may come to hold meanwhile.
MOST_OBJECTS: Final = 100

#: The two ways to leave, and whether the client resets the connection.
WAYS: Final = {"FIN": False, "RST": True}

NODE: Final = """
const running = new Set();
let cancelled = {};
const server = require("http").createServer((request, response) => {
  if (request.url === "/state") {
    const counts = {running: running.size, cancelled: Object.keys(cancelled).length};
    response.end(JSON.stringify(counts));
  } else if (request.url === "/times") {
    response.end(JSON.stringify(cancelled));
    cancelled = {};
  } else {
    const name = request.url.split("/").pop();
    running.add(name);
    response.on("close", () => {
      cancelled[name] = Number(process.hrtime.bigint()) / 1e9;
      running.delete(name);
    });
  }
});
server.keepAliveTimeout = 0; // the connection that asks for times waits longer
server.listen(0, "127.0.0.1", 1024, () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
"""


def serve(kind: str) -> None:
    from twisted.internet import reactor
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET, Request, Site

    from twisted_hangup import AsyncResource, ClientHangUp, HangupSite, cancellable

    cancelled_at: dict[str, float] = {}
    running: set[str] = set()

    class Work(AsyncResource):
        isLeaf = True

        @cancellable
        async def render_GET(self, request: Request) -> bytes:
            name = request.path.rpartition(b"/")[2].decode()
            running.add(name)
            try:
                await Deferred()
            except CancelledError as error:
                if isinstance(error.__cause__, ClientHangUp):
                    cancelled_at[name] = time.monotonic()
                raise
            finally:
                running.discard(name)
            return b""

    class StockWork(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            name = request.path.rpartition(b"/")[2].decode()
            running.add(name)

            def gone(reason: object) -> None:
                cancelled_at[name] = time.monotonic()
                running.discard(name)

            request.notifyFinish().addErrback(gone)
            return NOT_DONE_YET

    class State(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return json.dumps({"running": len(running), "cancelled": len(cancelled_at)}).encode()

    class Times(Resource):
        """When each was cancelled, once; and what is there after it."""

        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            times = cancelled_at.copy()
            cancelled_at.clear()
            answer = json.dumps(times).encode()
            del times
            gc.collect()
            request.setHeader(b"X-Objects", b"%d" % len(gc.get_objects()))
            request.setHeader(b"X-Fds", b"%d" % len(os.listdir("/proc/self/fd")))
            request.setHeader(b"X-Calls", b"%d" % len(reactor.getDelayedCalls()))
            return answer

    ours = kind == OURS
    root = Resource()
    root.putChild(b"work", Work() if ours else StockWork())
    root.putChild(b"state", State())
    root.putChild(b"times", Times())
    site: Any = HangupSite(root) if ours else Site(root)
    site.log = lambda request: None
    port: Any = reactor.listenTCP(0, site, interface="127.0.0.1", backlog=1024)
    print(port.getHost().port, flush=True)
    stop_at_end_of_input()
    reactor.run()


class Server:
    """The server in its process, as the clients ask it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def get(self, path: str) -> tuple[dict[str, float], dict[str, int]]:
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        counts = {
            name: int(value) for name, value in response.getheaders() if name.startswith("X-")
        }
        answer: dict[str, float] = json.loads(response.read())
        return answer, counts

    def wait_for(self, what: str, number: int) -> bool:
        """Wait until that many are in that state; whether they came to be."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.get("/state")[0][what] == number:
                return True
            time.sleep(0.01)
        return False


def hang_up(server: Server, clients: int, reset: bool, gap: float) -> tuple[list[float], int]:
    """One round: the milliseconds from each FIN or RST to the cancellation, and how many lack."""
    sockets = []
    for number in range(clients):
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET /work/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        sockets.append(client)
    if not server.wait_for("running", clients):
        raise SystemExit("not all requests have begun")
    left_at = []
    for client in sockets:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left_at.append(time.monotonic())
        client.close()
        time.sleep(gap)
    server.wait_for("cancelled", clients)
    cancelled_at, _ = server.get("/times")
    took = [
        (cancelled_at[str(number)] - left) * 1000
        for number, left in enumerate(left_at)
        if str(number) in cancelled_at
    ]
    return took, clients - len(took)


class Outcome:
    """What came of all rounds of one server.

    Attributes:
        took: The milliseconds of each round, in order, by the way that the clients left.
        missing: How much work was not cancelled.
        grown: Of how many objects, descriptors and timers there are more than before.
    """

    def __init__(self) -> None:
        self.took: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        self.missing = 0
        self.grown: dict[str, int] = {}


def measure(rounds: int, clients: int, gap: float, peers: bool = True) -> dict[str, Outcome]:
    """Ask all servers in turn, round by round; what came of it, by peer."""
    commands = {kind: [sys.executable, __file__, "--serve", kind] for kind in KINDS}
    if peers and (program := node()):
        commands["node"] = [program, "-e", NODE]
    outcomes = {kind: Outcome() for kind in commands}
    with ExitStack() as stack:
        servers = {
            kind: Server(stack.enter_context(started(command)).port)
            for kind, command in commands.items()
        }
        before = {}
        for kind, server in servers.items():
            for reset in WAYS.values():  # fills the caches
                hang_up(server, clients, reset, gap)
            before[kind] = server.get("/times")[1]
        for number in range(rounds):
            for kind in list(servers) if number % 2 else reversed(list(servers)):
                for way, reset in WAYS.items():
                    took, missing = hang_up(servers[kind], clients, reset, gap)
                    outcomes[kind].took[way].append(sorted(took))
                    outcomes[kind].missing += missing
        time.sleep(1)
        for kind, server in servers.items():
            after = server.get("/times")[1]
            outcomes[kind].grown = {
                name[2:].lower(): after[name] - count for name, count in before[kind].items()
            }
    return outcomes


def part_of(times: list[float], part: float) -> float:
    """That quantile of what is sorted."""
    return times[int(part * (len(times) - 1))]


def rows(options: Options, clients: int = 250, gap: float = 0.002) -> Iterator[Row]:
    """Median and 99 % of each round, for each way to leave."""
    outcomes = measure(options.rounds, clients, gap, options.peers)
    for way in WAYS:
        for label, part in (("median", 0.5), ("99 %", 0.99)):
            costs = {
                kind: [part_of(times, part) for times in outcome.took[way]]
                for kind, outcome in outcomes.items()
            }
            yield Row(f"{way} to cancellation, {label}", "ms", costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--per-round", type=int, default=250, help="clients that leave each way")
    parser.add_argument("--gap-ms", type=float, default=2.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    outcomes = measure(options.rounds, options.per_round, options.gap_ms / 1000)
    for kind, outcome in outcomes.items():
        for way in WAYS:
            took = outcome.took[way]
            middle, late = ([part_of(times, part) for times in took] for part in (0.5, 0.99))
            print(
                f"{kind:<7}{way}: {sum(map(len, took))}; ms: median {spread(middle)},"
                f" 99 % {spread(late)}, most {max(chain(*took)):.2f}"
            )
    ours = outcomes[OURS]
    print(f"ours not cancelled: {ours.missing}; left behind: {ours.grown}")
    late = [ms for way in WAYS for ms in chain(*ours.took[way]) if ms > MOST_MS]
    objects = ours.grown.pop("objects")
    failed = ours.missing or late or objects > MOST_OBJECTS or any(ours.grown.values())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
