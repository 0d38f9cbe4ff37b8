"""Through the wrappers between a socket and an HTTP protocol, in either direction."""

from __future__ import annotations

from typing import Any

from twisted.protocols.policies import ProtocolWrapper


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
