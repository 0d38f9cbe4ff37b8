"""Reads IP addresses and networks from text."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: The upper bits of an IPv4 address that is written as IPv6 (RFC 4291, section 2.5.5.2).
_MAPPED_BITS: Final = 96


def ip_of(host: str | None) -> IPAddress | None:
    """The IP address in *host*, without its zone; None if *host* is not an IP address.

    An IPv4-mapped IPv6 address becomes the IPv4 address.
    """
    try:
        ip = ip_address((host or "").partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def network_of(text: str) -> Network:
    """The network in *text*; of a single address, the network of that address alone.

    Raises:
        ValueError: *text* is neither a network nor an address.
    """
    network = ip_network(text)
    ipv4 = getattr(network.network_address, "ipv4_mapped", None)
    if ipv4 is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ip_network((ipv4, network.prefixlen - _MAPPED_BITS))


def is_within(ip: IPAddress | None, networks: Iterable[Network]) -> bool:
    """Whether *ip* is an address of one of *networks*."""
    return ip is not None and any(ip in network for network in networks)
