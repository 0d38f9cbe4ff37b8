"""Addresses of the internet and networks of them, read from text in one place."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def ip_of(host: str | None) -> IPAddress | None:
    """The address that *host* is, without its zone; None where it is none.

    An IPv4 address in IPv6 clothes is the IPv4 address.
    """
    try:
        ip = ip_address((host or "").partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def network_of(text: str) -> Network:
    """The network that *text* names, or that of its one address.

    Raises:
        ValueError: It names none.
    """
    return ip_network(text)


def is_within(ip: IPAddress | None, networks: Iterable[Network]) -> bool:
    """Whether *ip* is an address of one of *networks*."""
    return ip is not None and any(ip in network for network in networks)
