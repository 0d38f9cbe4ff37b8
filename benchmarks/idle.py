"""What an idle connection costs in memory, after one request, beside stock and the other peers.

    python benchmarks/idle.py [--rounds 8] [--only NAME] [--before CHECKOUT]

So many clients send one GET, read the answer and stay; measured is what the server's process has
grown by for each, over TCP and over TLS.  Each figure is of a server of its own, so that none
finds memory that another has left.  From `limits.py` comes what it costs over
HTTP/2 and with half a head, beside stock.

Linux only: the memory is read from /proc, without what the kernel holds.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import limits
from measure import OURS, Options, Row, Server, main, settled_kib
from servers import KINDS, installed_peers, make_certificate, running, trusting

CONNECTIONS: Final = 400

#: States of `limits.py`, and the protocols.
STATES: Final = {("new", "HTTP/2"), ("idle", "HTTP/2"), ("head half read", "TCP")}

#: Each round is a new server: more would take long, and the memory hardly differs.
MOST_ROUNDS: Final = 2


def ask(port: int, tls: ssl.SSLContext | None) -> socket.socket:
    """A connection on which one request has been answered."""
    client = socket.create_connection(("127.0.0.1", port))
    if tls:
        client = tls.wrap_socket(client)
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    limits.answered(client)
    return client


def kib_each(server: Server, tls: ssl.SSLContext | None) -> float:
    """What each of so many connections costs the *server*, in KiB."""
    clients = [ask(server.port, tls)]  # makes what all have in common
    before = settled_kib(server)
    with ThreadPoolExecutor(limits.AT_ONCE) as pool:
        clients += pool.map(partial(ask, tls=tls), [server.port] * CONNECTIONS)
    grown = settled_kib(server) - before
    for client in clients:
        client.close()
    return grown / CONNECTIONS


def rows(options: Options) -> Iterator[Row]:
    """TCP and TLS beside all, then the states of `limits.py` beside stock."""
    kinds = ["stock", *(installed_peers() if options.peers else []), OURS]
    context = trusting()
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        for name, keys in (("TCP", None), ("TLS", certificate)):
            load = f"idle connection, {name}"
            if not options.wants(load):
                continue
            costs: dict[str, list[float]] = {}
            for _ in range(min(options.rounds, MOST_ROUNDS)):
                for kind in [*kinds, *(["before"] if options.before else [])]:
                    root = options.before if kind == "before" else None
                    serving = OURS if kind == "before" else kind
                    with running(serving, tls=keys, root=root) as server:
                        figure = kib_each(server, context if keys else None)
                    costs.setdefault(kind, []).append(figure)
            yield Row(load, "KiB", costs)
        for case in limits.CASES:
            load = f"{case.state}, {case.protocol}"
            if (case.state, case.protocol) in STATES and options.wants(load):
                figures = {
                    kind: [limits.measure(kind, case, CONNECTIONS, Path(folder))] for kind in KINDS
                }
                yield Row(load, "KiB", figures)


if __name__ == "__main__":
    main(__doc__, rows)
