"""How to reach a server by its name."""

from __future__ import annotations

from typing import Any

from twisted.internet._sslverify import ClientTLSOptions
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.iweb import IPolicyForHTTPS


class _NamedEndpoint(HostnameEndpoint):
    """To any name that a resolver may know, with an underscore in it or what else IDNA forbids."""

    @staticmethod
    def _hostAsBytesAndText(host: bytes | str) -> tuple[bool, bytes, str]:
        bad, raw, text = HostnameEndpoint._hostAsBytesAndText(host)
        assert isinstance(host, str)
        return (False, host.encode("ascii"), host) if bad else (bad, raw, text)


def named_endpoint(
    reactor: Any, host: str, port: int, policy: IPolicyForHTTPS | None = None
) -> IStreamClientEndpoint:
    """How to reach *host*; a connection has the time of `OutboundPool`'s clock alone.

    Twisted's own bound goes by the time of day, and 30 seconds are not for it to choose.

    Args:
        host: An address, or a name in ASCII.
        policy: What certificates are trusted; None for a connection without TLS.
    """
    plain = _NamedEndpoint(reactor, host, port, timeout=None)  # type: ignore[arg-type]
    return plain if policy is None else wrapClientTLS(_creator(policy, host, port), plain)


def _creator(policy: Any, host: str, port: int) -> Any:
    """What sets TLS up, and holds the certificate against *host*."""
    name = host.encode("ascii")
    try:
        return policy.creatorForNetloc(name, port)
    except UnicodeError:
        # Twisted makes IDNA of it for nothing, since it is ASCII.
        creator = policy.creatorForNetloc(b"name.invalid", port)
        if not isinstance(creator, ClientTLSOptions):
            raise
        creator._hostname = creator._hostnameASCII = host
        creator._hostnameBytes = name
        return creator
