"""The layers between a socket and an HTTP protocol, and the two ends' addresses."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from twisted.internet.tcp import Server
from twisted.protocols.policies import ProtocolWrapper

AddressT = TypeVar("AddressT")


def transport_beneath(transport: Any) -> Any:
    """The transport under all the `ProtocolWrapper`s (TLS, PROXY, policies) on top of it."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def tls_layer(transport: Any) -> Any:
    """What reads and writes TLS on *transport*, on top of it or, as ``startTLS`` has it, beside."""
    return transport.protocol if getattr(transport, "TLS", False) else transport


def protocol_within(protocol: Any) -> Any:
    """The protocol inside of all the `ProtocolWrapper`s around it."""
    while isinstance(protocol, ProtocolWrapper):
        protocol = protocol.wrappedProtocol
    return protocol


def host_of(transport: Any) -> Any:
    """The local address of *transport*, as one object for all connections to that address.

    A server has few addresses.  A transport makes an object of 200 bytes each time it is asked,
    which is 5 % of the price of a short connection.
    """
    while (ask := getattr(transport.getHost, "__func__", None)) is ProtocolWrapper.getHost:
        transport = transport.transport
    if ask is Server.getHost:
        return _tcp_address(transport._addressType, *transport.socket.getsockname()[:2])
    return _same_address(transport.getHost())


@lru_cache(maxsize=64)
def _tcp_address(kind: type[Any], host: str, port: int) -> Any:
    return kind("TCP", host, port)


@lru_cache(maxsize=64)
def _same_address(address: AddressT) -> AddressT:
    return address
