"""What lies between a socket and an HTTP protocol, and what it says of the two ends."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from twisted.protocols.policies import ProtocolWrapper

AddressT = TypeVar("AddressT")


def transport_beneath(transport: Any) -> Any:
    """The transport under all the `ProtocolWrapper`s (TLS, PROXY, policies) on top of it."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def protocol_within(protocol: Any) -> Any:
    """The protocol inside of all the `ProtocolWrapper`s around it."""
    while isinstance(protocol, ProtocolWrapper):
        protocol = protocol.wrappedProtocol
    return protocol


@lru_cache(maxsize=64)
def shared_address(address: AddressT) -> AddressT:
    """An address that equals *address*, the same one for connections to the same place.

    A server is reached at few addresses, and a transport makes an object of 200 bytes each
    time that it is asked.
    """
    return address
