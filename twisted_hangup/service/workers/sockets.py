"""Listening sockets that the first process opens and its workers share.

An endpoint is asked to listen twice, with a stand-in for the reactor.  In the first process
`Binder` opens the socket, which accepts nothing there.  In a worker `Adopter` gives the same call
that socket.  So whatever an endpoint puts around a socket (TLS, the PROXY protocol) is in the
worker, and any endpoint can be used that gets its sockets from the reactor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure


class SharedUnixPort(unix.Port):
    """A UNIX socket of another process, which alone may change or remove its path.

    Twisted's would set its mode to 0666 and its backlog to 50, and remove it in the end.
    """

    _shouldShutdown = False

    def startListening(self) -> None:
        port: Any = self
        port.socket, port._preexistingSocket = port._preexistingSocket, None
        port.fileno = port.socket.fileno
        port.factory.doStart()
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


def adopted_port(reactor: Any, descriptor: int, factory: IProtocolFactory) -> Any:
    """A port on a copy of the listening socket *descriptor*."""
    listening = socket.socket(fileno=descriptor)
    family = listening.family
    listening.detach()
    if family != socket.AF_UNIX:
        return reactor.adoptStreamPort(descriptor, family, factory)
    port = SharedUnixPort._fromListeningDescriptor(reactor, descriptor, factory)
    port.startListening()
    return port


class Binder:
    """Stands in for *reactor* in the first process: its ports are open, and accept nothing.

    Attributes:
        ports: The ports so far, in the order of the calls.
    """

    def __init__(self, reactor: Any) -> None:
        self.ports: list[Any] = []
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> Any:
        return self._kept(self._reactor.listenTCP(port, factory, backlog, interface))

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: object,
        backlog: int = 50,
        interface: str = "",
    ) -> Any:
        return self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> Any:
        return self._kept(self._reactor.listenUNIX(address, factory, backlog, mode, wantPID))

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> Any:
        return self._kept(adopted_port(self._reactor, fileDescriptor, factory))

    def _kept(self, port: Any) -> Any:
        port.stopReading()
        # Workers listen on the same socket, and accept until they stop.
        port._shouldShutdown = False
        self.ports.append(port)
        return port


class Adopter:
    """Stands in for *reactor* in a worker: ports listen on sockets that are open already."""

    def __init__(self, reactor: Any, descriptors: Iterable[int]) -> None:
        """*descriptors* are those of the `Binder`'s ports, in the same order."""
        self._reactor = reactor
        self._descriptors = [*descriptors]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> Any:
        return self._next(factory)

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> Any:
        listening = self._next(TLSMemoryBIOFactory(contextFactory, False, factory))
        listening._type = "TLS"
        return listening

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> Any:
        return self._next(factory)

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> Any:
        return self._next(factory)

    def _next(self, factory: IProtocolFactory) -> Any:
        if not self._descriptors:
            raise OSError("the first process has opened no such socket")
        descriptor = self._descriptors.pop(0)
        try:
            return adopted_port(self._reactor, descriptor, factory)
        finally:
            os.close(descriptor)
