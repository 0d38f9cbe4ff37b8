"""Server transports that tell why the network lost a connection.

Twisted's own transports report every failed read or write as one and the same
`ConnectionLost`, and the socket is gone by the time a protocol hears of it.
"""

from __future__ import annotations

import errno
import socket
from functools import lru_cache
from typing import Any, Literal

from twisted.internet import tcp
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

SystemCall = Literal["read", "write"]


class ConnectionBroken(ConnectionLost):
    """A `ConnectionLost` that knows more.

    Attributes:
        errno: The operating system's error number.
        syscall: What failed, ``"read"`` or ``"write"``.
    """

    def __init__(self, number: int, syscall: SystemCall) -> None:
        super().__init__()
        self.errno = number
        self.syscall = syscall

    def __str__(self) -> str:
        return f"{self.syscall} {self.code}"

    @property
    def code(self) -> str:
        """The name of the error number, such as ``ECONNRESET``."""
        return errno.errorcode.get(self.errno, str(self.errno))


def socket_error(transport: Any) -> int:
    """The error number that waits on the socket of *transport*, which is taken off it; or 0."""
    return int(transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


class TellsErrno(tcp.Connection):
    """Mixed in before the class of a transport: a port's, or a client's.

    Over a UNIX socket no file descriptors are passed: HTTP has no use for them.
    """

    socket: socket.socket

    def doRead(self) -> Any:
        """Read what there is; the same as Twisted's, but for what a failure is."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError as error:
            return ConnectionBroken(error.errno or errno.ECONNRESET, "read")
        return self._dataReceived(data)

    def writeSomeData(self, data: Any) -> Any:
        """Write what there is room for; the same as Twisted's, but for what a failure is."""
        try:
            return self.socket.send(memoryview(data)[: self.SEND_LIMIT])
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return 0
            return ConnectionBroken(error.errno or errno.EPIPE, "write")

    def connectionLost(self, reason: Failure) -> None:
        """Ask the kernel where the reactor only saw that the socket has failed."""
        if hasattr(self, "socket"):  # gone in a second call, which does nothing
            if reason.type is ConnectionLost and (number := socket_error(self)):
                reason = Failure(ConnectionBroken(number, "read"))
            super().connectionLost(reason)


@lru_cache(maxsize=16)
def telling_errno(transport: Any) -> Any:
    """The class of *transport*, a subclass of `tcp.Connection`, with `TellsErrno` in front."""
    if issubclass(transport, TellsErrno):
        return transport
    return type(transport.__name__, (TellsErrno, transport), {"__module__": transport.__module__})


def tell_errno(transport: Any) -> None:
    """Let *transport*, which a client endpoint has made, tell its errno from now on.

    Endpoints for clients have no port whose class of transports could be replaced.
    """
    if isinstance(transport, tcp.Connection):
        kind: Any = type(transport)
        transport.__class__ = telling_errno(kind)
