"""A peer that half-closes, over TCP, a UNIX socket or TLS, on a blocking socket in a thread."""

from __future__ import annotations

import socket
import struct
from typing import Any, Literal

from OpenSSL import SSL
from twisted.internet.ssl import PrivateCertificate

from .certificates import pem
from .wire import PATIENCE, close_with_reset

Side = Literal["client", "server"]


class Peer:
    """One end of a connection; Python's own TLS does not read on after its close_notify."""

    def __init__(self, connection: socket.socket, *, tls: Side | None = None) -> None:
        connection.setblocking(True)
        patience = struct.pack("ll", int(PATIENCE), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        self.socket = connection
        self._tls: Any = None
        if tls is not None:
            self._tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD), connection)
            if tls == "server":
                self._tls.set_context(PrivateCertificate.loadPEM(pem()).options().getContext())
                self._tls.set_accept_state()
            else:
                self._tls.set_connect_state()
            self._tls.do_handshake()

    def send(self, data: bytes) -> Peer:
        (self._tls or self.socket).sendall(data)
        return self

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            data += (self._tls or self.socket).recv(1)
        return data

    def read_all(self) -> bytes:
        """Read to the end of the other's output; ConnectionResetError for any other end."""
        data = bytearray()
        try:
            while more := (self._tls or self.socket).recv(1 << 16):
                data += more
        except SSL.ZeroReturnError:
            pass
        except SSL.SysCallError as error:
            raise ConnectionResetError(str(error)) from None
        return bytes(data)

    def finish(self) -> Peer:
        """End the output, with close_notify over TLS, and go on reading."""
        if self._tls is not None:
            self._tls.shutdown()
        else:
            self.socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        close_with_reset(self.socket)

    def close(self) -> None:
        self.socket.close()
