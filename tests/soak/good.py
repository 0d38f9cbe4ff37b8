"""The good clients, in a process of their own.

    python -m soak.good PORT TLS_PORT

They make requests until standard input ends, and print one line of JSON: how long
each answer took, and what was wrong.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

#: The address they come from, which no bad client shares.
ADDRESS: Final = "127.0.0.2"
#: Between two requests of a client, in seconds.
PAUSE: Final = 0.02
#: How long an answer may take, in seconds, before it is none.
PATIENCE: Final = 30.0
_MOST_BODY: Final = 150_000  # beyond what is kept in memory
_REQUESTS_EACH: Final = 40  # on one connection

Ask = Callable[[bytes, bytes], "tuple[int, bytes]"]


class Good:
    """What came of the requests so far: the time of each answer, and what was wrong."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.wrong: list[str] = []

    def request(self, name: str, ask: Ask, chance: random.Random) -> None:
        """Ask for something whose answer is known, and compare."""
        path = b"/echo/%s/%d" % (name.encode(), chance.randrange(10**6))
        body = chance.randbytes(chance.choice([0, 0, 1, 1000, _MOST_BODY]))
        began = time.monotonic()
        status, content = ask(path, body)
        self.seconds.append(time.monotonic() - began)
        if (status, content) != (200, path + b"\n" + body):
            self.wrong.append(f"{name}: {status}, {len(content)} bytes, {content[:40]!r}")


class _HTTP1:
    """A connection with or without TLS."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        source = (ADDRESS, 0)
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, PATIENCE, source_address=source
        )
        if context is not None:
            self._connection.connect()
            self._connection.sock = context.wrap_socket(self._connection.sock)

    def ask(self, path: bytes, body: bytes) -> tuple[int, bytes]:
        self._connection.request("POST" if body else "GET", path.decode(), body or None)
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()


class _HTTP2:
    """A connection that keeps to the windows of the server."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE, (ADDRESS, 0))
        self._socket = context.wrap_socket(plain)
        self._connection = H2Connection()
        self._connection.initiate_connection()

    def ask(self, path: bytes, body: bytes) -> tuple[int, bytes]:
        connection = self._connection
        stream = connection.get_next_available_stream_id()
        head = {":method": "POST" if body else "GET", ":scheme": "https", ":authority": "a"}
        fields = [*head.items(), (":path", path.decode())]
        connection.send_headers(stream, fields, end_stream=not body)
        status, content, unsent = 0, b"", body
        while True:
            while unsent and (room := connection.local_flow_control_window(stream)):
                size = min(room, connection.max_outbound_frame_size)
                piece, unsent = unsent[:size], unsent[size:]
                connection.send_data(stream, piece, end_stream=not unsent)
            self._socket.sendall(connection.data_to_send())
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionError("the server has closed")
            for event in connection.receive_data(received):
                if isinstance(event, ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                elif isinstance(event, DataReceived):
                    content += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, StreamEnded):
                    self._socket.sendall(connection.data_to_send())
                    return status, content
                elif isinstance(event, (StreamReset, ConnectionTerminated)):
                    raise ConnectionError(repr(event))

    def close(self) -> None:
        self._socket.close()


def _context(protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


def main(port: int, tls_port: int) -> None:
    connects: dict[str, Callable[[], _HTTP1 | _HTTP2]] = {
        "h1": lambda: _HTTP1(port, None),
        "tls": lambda: _HTTP1(tls_port, _context("http/1.1")),
        "h2": lambda: _HTTP2(tls_port, _context("h2")),
    }
    good, end = Good(), threading.Event()

    def run(name: str) -> None:
        chance = random.Random(name)
        while not end.is_set():
            try:
                with closing(connects[name]()) as client:
                    for _ in range(_REQUESTS_EACH):
                        good.request(name, client.ask, chance)
                        if end.wait(PAUSE):
                            break
            except Exception as error:  # whatever it is, a good request has failed
                good.wrong.append(f"{name}: {error!r}")
                end.wait(PAUSE)

    threads = [threading.Thread(target=run, args=[name]) for name in connects]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    end.set()
    for thread in threads:
        thread.join()
    json.dump({"seconds": good.seconds, "wrong": good.wrong}, sys.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
