"""A flood of malformed requests, a new connection for each, on one core."""

from __future__ import annotations

import selectors
import socket
import time

MALFORMED = [
    b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1Z\r\n\r\nZ",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
]
CONNECTIONS = 32


def flood(port: int, seconds: float) -> float:
    """Send malformed requests, reading each connection to its end; answers per second."""
    _, answered, took = flooded(port, seconds)
    return answered / took


def flooded(port: int, seconds: float) -> tuple[int, int, float]:
    """The same; how many requests were sent and answered, and the seconds it took.

    Raises:
        SystemExit: More than one in a hundred was not answered 400.
    """
    selector = selectors.DefaultSelector()
    sent = answered = 0

    def connect() -> None:
        nonlocal sent
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(MALFORMED[sent % len(MALFORMED)])
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
        sent += 1

    started = time.perf_counter()
    for _ in range(CONNECTIONS):
        connect()
    while selector.get_map():
        for key, _ in selector.select():
            client = key.fileobj
            assert isinstance(client, socket.socket)
            try:
                data = client.recv(4096)
            except ConnectionResetError:
                data = b""
            if data.startswith(b"HTTP/1.1 400"):
                answered += 1
            if not data:
                selector.unregister(client)
                client.close()
                if time.perf_counter() - started < seconds:
                    connect()
    if answered < sent * 0.99:
        raise SystemExit(f"only {answered} of {sent} malformed requests were answered 400")
    return sent, answered, time.perf_counter() - started
