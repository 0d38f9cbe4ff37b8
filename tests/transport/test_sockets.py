"""Which transports are made to tell, and that they stay what they were."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import tcp, unix
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport

from twisted_hangup.transport.sockets import TellingSocket, adopted, telling


class ReadsItself(tcp.Server):
    """An application's own way to read."""

    def doRead(self) -> Any:
        return super().doRead()


class Counts(tcp.Server):
    """Has more to do when a connection ends, and reads as Twisted does."""

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)


def unconnected(kind: Any) -> Any:
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", [tcp.Server, tcp.Client, unix.Server, unix.Client, Counts])
def test_sockets_are_adopted(kind: Any) -> None:
    """A socket of Twisted's tells from then on, and is still of its own class."""
    transport = unconnected(kind)
    assert adopted(transport) is transport
    assert isinstance(transport, TellingSocket) and isinstance(transport, kind)
    assert adopted(transport) is transport
    assert type(transport) is telling(kind)


def test_port_makes_sockets_that_tell() -> None:
    """The first connection of a port is changed, and the port makes the others so itself."""
    port: Any = tcp.Port(0, Factory())
    first = unconnected(tcp.Server)
    first.server = port
    adopted(first)
    assert port.transport is telling(tcp.Server)


@pytest.mark.parametrize("transport", [StringTransport(), unconnected(ReadsItself)])
def test_others_are_left_as_they_are(transport: Any) -> None:
    """A transport in memory, and one that its application reads in a way of its own."""
    kind = type(transport)
    assert adopted(transport) is None
    assert type(transport) is kind
