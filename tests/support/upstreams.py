"""Servers behind a proxy that do what they are told, on blocking sockets in threads."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

from .processes import free_port
from .wire import PATIENCE, close_with_reset

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Connection:
    """One connection to a `RawServer`."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""

    def read_head(self) -> bytes:
        """Read one request head; ``b""`` where the peer has closed."""
        head = self.read_until(b"\r\n\r\n")
        return head if head.endswith(b"\r\n\r\n") else b""

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            more = self.socket.recv(1)
            if not more:
                break
            data += more
        self.received += data
        return data

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self.socket.recv(count - len(data))):
            data += more
        self.received += data
        return data

    def read_all(self) -> bytes:
        """Read until the peer closes, or resets."""
        data = b""
        with suppress(ConnectionResetError):
            while more := self.socket.recv(65536):
                data += more
        self.received += data
        return data

    def send(self, *segments: bytes) -> None:
        for segment in segments:
            self.socket.sendall(segment)

    def reset(self) -> None:
        close_with_reset(self.socket)


class RawServer:
    """A server on a free port of the loopback interface that runs *script* per connection.

    Args:
        unix: The path of a UNIX socket to listen on instead.
        tls: What its connections are secured with.

    Attributes:
        connections: Every connection so far.
        ended: For each one that its script is done with, the connection.
    """

    def __init__(
        self,
        script: Callable[[Connection], object],
        *,
        unix: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._script = script
        self._tls = tls
        self.port = 0
        if unix is None:
            # Once it is closed, no kernel gives its port away to another test.
            self.port = free_port()
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(unix)
            self._listener.listen(100)
        self.url = f"http://127.0.0.1:{self.port}" if unix is None else "http://localhost"
        self.connections: list[Connection] = []
        self.ended: list[Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_little(self) -> None:
        """Let the kernel keep no more than it has to for connections from now on."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                accepted.settimeout(PATIENCE)
                if accepted.family != socket.AF_UNIX:
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(accepted)
                self.connections.append(connection)
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: Connection) -> None:
        with suppress(OSError):
            if self._tls is not None:
                connection.socket = self._tls.wrap_socket(connection.socket, server_side=True)
            self._script(connection)
            connection.socket.close()
        self.ended.append(connection)


def always(answer: bytes) -> Callable[[Connection], None]:
    """A script that gives the same answer to every request without a body."""

    def run(connection: Connection) -> None:
        while connection.read_head():
            connection.send(answer)

    return run
