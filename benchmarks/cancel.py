"""How soon work ends after its client has left, and what is left of it then.

    python benchmarks/cancel.py [--hangups 5000] [--per-round 500] [--gap-ms 2]

Clients on real sockets wait for a cancellable coroutine each, in rounds; then they leave one
after the other, so that the server's loop is idle in between, by FIN in one half of the rounds
and by RST in the other.  The times are of one clock: CLOCK_MONOTONIC is the whole machine's.

Exits with 1 if work was not cancelled, took longer than 50 ms to be, or leaves anything.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import time
from typing import Any

MOST_MS = 50.0

#: Objects that caches of Python and Twisted may come to hold meanwhile.
MOST_OBJECTS = 100


def serve() -> None:
    from twisted.internet import reactor, stdio
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.internet.protocol import Protocol
    from twisted.web.resource import Resource
    from twisted.web.server import Request

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

    class State(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return json.dumps({"running": len(running), "cancelled": len(cancelled_at)}).encode()

    class Times(Resource):
        """When each was cancelled, once; and what is there behind it."""

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

    class UntilEndOfInput(Protocol):
        def connectionLost(self, reason: object = None) -> None:
            if reactor.running:
                reactor.stop()

    root = Resource()
    for name, resource in (("work", Work()), ("state", State()), ("times", Times())):
        root.putChild(name.encode(), resource)
    site: Any = HangupSite(root)
    site.log = lambda request: None
    port: Any = reactor.listenTCP(0, site, interface="127.0.0.1", backlog=1024)
    print(port.getHost().port, flush=True)
    stdio.StandardIO(UntilEndOfInput())
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hangups", type=int, default=5000)
    parser.add_argument("--per-round", type=int, default=500)
    parser.add_argument("--gap-ms", type=float, default=2.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        server = Server(int(process.stdout.readline()))
        took: dict[bool, list[float]] = {False: [], True: []}
        missing = 0
        gap = options.gap_ms / 1000
        for reset in took:  # fills the caches
            hang_up(server, options.per_round, reset, gap)
        before = server.get("/times")[1]
        for number in range(max(2, options.hangups // options.per_round)):  # both ways to leave
            reset = bool(number % 2)
            times, lacking = hang_up(server, options.per_round, reset, gap)
            took[reset] += times
            missing += lacking
        time.sleep(1)
        after = server.get("/times")[1]
        process.stdin.close()
        process.wait(10)
    for reset, times in took.items():
        times.sort()
        shown = ", ".join(
            f"{label} {times[int(part * (len(times) - 1))]:.2f}"
            for label, part in (("median", 0.5), ("99 %", 0.99), ("99.9 %", 0.999), ("most", 1))
        )
        print(f"{'RST' if reset else 'FIN'}: {len(times)} cancelled; ms: {shown}")
    grown = {name[2:].lower(): after[name] - before[name] for name in before}
    print(f"not cancelled: {missing}; left behind: {grown}")
    late = [ms for times in took.values() for ms in times if ms > MOST_MS]
    objects = grown.pop("objects")
    sys.exit(1 if missing or late or objects > MOST_OBJECTS or any(grown.values()) else 0)


if __name__ == "__main__":
    main()
