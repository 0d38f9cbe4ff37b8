"""A peer that half-closes, over TCP, a UNIX socket or TLS, for a thread."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from OpenSSL import SSL
from twisted.internet.ssl import PrivateCertificate

from .certificates import pem
from .wire import PATIENCE, close_with_reset

Side = Literal["client", "server"]


class Peer:
    """One end of a connection; Python's own TLS does not read on after its close_notify."""

    def __init__(self, connection: socket.socket, *, tls: Side | None = None) -> None:
        connection.settimeout(PATIENCE)
        self.socket = connection
        self._tls: Any = None
        if tls is not None:
            self._tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD), connection)
            if tls == "server":
                self._tls.set_context(PrivateCertificate.loadPEM(pem()).options().getContext())
                self._tls.set_accept_state()
            else:
                self._tls.set_connect_state()
            self._wait_for(self._tls.do_handshake)

    def send(self, data: bytes) -> Peer:
        if self._tls is None:
            self.socket.sendall(data)
            return self
        rest = memoryview(data)
        while rest:
            rest = rest[self._wait_for(partial(self._tls.send, rest[:65536])) :]
        return self

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            more = self._recv(1)
            assert more, data
            data += more
        return data

    def read_all(self) -> bytes:
        """Read to the end of the other's output; ConnectionResetError for any other end."""
        data = bytearray()
        try:
            while more := self._recv(1 << 16):
                data += more
        except SSL.ZeroReturnError:
            pass
        except SSL.SysCallError as error:
            raise ConnectionResetError(str(error)) from None
        return bytes(data)

    def _recv(self, most: int) -> bytes:
        if self._tls is None:
            return self.socket.recv(most)
        data: bytes = self._wait_for(partial(self._tls.recv, most))
        return data

    def _wait_for(self, act: Callable[[], Any]) -> Any:
        """*act* on the TLS connection, whose socket does not block, when the socket is ready."""
        while True:
            try:
                return act()
            except SSL.WantReadError:
                readers, writers = [self.socket], []
            except SSL.WantWriteError:
                readers, writers = [], [self.socket]
            ready = select.select(readers, writers, [], PATIENCE)
            assert any(ready), "what a peer waits for does not come"

    def finish(self) -> Peer:
        """End the output, with close_notify over TLS, and go on reading."""
        if self._tls is not None:
            self._wait_for(self._tls.shutdown)
        else:
            self.socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        close_with_reset(self.socket)

    def close(self) -> None:
        self.socket.close()
