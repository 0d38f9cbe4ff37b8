"""What a TLS connection costs that is made for one request, beside stock and installed peers.

    python benchmarks/handshakes.py [--rounds 8] [--seconds 1] [--only NAME] [--before CHECKOUT]

Each client connects, shakes hands, sends a GET with ``Connection: close`` and reads to the end.  A
full handshake proves the certificate (P-256).  A resumed one presents the session ticket of an
earlier connection; Twisted's contexts give none of their own accord, and are told to.
Measured is the CPU time of the server process for each connection, as in ``compare.py``.

Linux only.  Exits with 1 where stock does not cost as many times ours as is aimed at, or a
handshake was not of the kind that was asked for.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from compare import Load
from compare import rows as compared
from measure import Options, Row, main
from servers import trusting

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: Connections at a time.
CONNECTIONS = 8

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@cache
def context_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = trusting()
    context.minimum_version = context.maximum_version = version
    return context


def ask(
    port: int, version: ssl.TLSVersion, session: ssl.SSLSession | None
) -> ssl.SSLSession | None:
    """Make one connection for one request; returns a session that a later one can resume."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context_of(version).wrap_socket(client, session=session) as tls:
            tls.sendall(REQUEST)
            answer = b"".join(iter(lambda: tls.recv(4096), b""))
            if not answer.startswith(b"HTTP/1.1 200"):
                sys.exit(f"the request was not answered well:\n{answer!r}")
            if tls.session_reused is not (session is not None):
                sys.exit(f"a handshake was {'full' if session else 'resumed'}")
            return tls.session


def connections(version: ssl.TLSVersion, resumed: bool) -> Callable[[int, int], int]:
    """Connections one after the other, `CONNECTIONS` at a time."""

    def load(port: int, seconds: int) -> int:
        session = ask(port, version, None) if resumed else None
        ends = time.monotonic() + seconds

        def repeat(_: int) -> int:
            count = 0
            while time.monotonic() < ends:
                ask(port, version, session)
                count += 1
            return count

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return sum(pool.map(repeat, range(CONNECTIONS)))

    return load


LOADS = [
    Load("TLS 1.3 handshake, full", connections(TLS13, False), tls=True),
    Load("TLS 1.3 handshake, resumed", connections(TLS13, True), tls=True),
    Load("TLS 1.2 handshake, full", connections(TLS12, False), tls=True),
    Load("TLS 1.2 handshake, resumed", connections(TLS12, True), tls=True),
]


def rows(options: Options) -> Iterator[Row]:
    """Measure each of `LOADS`."""
    return compared(options, LOADS)


if __name__ == "__main__":
    main(__doc__, rows)
