"""Endpoints that reach a server by its name."""

from __future__ import annotations

from typing import Any

from twisted.internet._sslverify import ClientTLSOptions
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.iweb import IPolicyForHTTPS


class _NamedEndpoint(HostnameEndpoint):
    """Reaches any name that a resolver may know, even one with an underscore, which IDNA
    forbids."""

    @staticmethod
    def _hostAsBytesAndText(host: bytes | str) -> tuple[bool, bytes, str]:
        bad, raw, text = HostnameEndpoint._hostAsBytesAndText(host)
        assert isinstance(host, str)
        return (False, host.encode("ascii"), host) if bad else (bad, raw, text)


def named_endpoint(
    reactor: Any, host: str, port: int, policy: IPolicyForHTTPS | None = None
) -> IStreamClientEndpoint:
    """An endpoint for *host*; only the clock of `OutboundPool` bounds the time to connect.

    Twisted's own bound of 30 seconds uses the time of day.

    Args:
        host: An address, or a name in ASCII.
        policy: Which certificates are trusted; None for a connection without TLS.
    """
    plain = _NamedEndpoint(reactor, host, port, timeout=None)  # type: ignore[arg-type]
    return plain if policy is None else wrapClientTLS(_creator(policy, host, port), plain)


def _creator(policy: Any, host: str, port: int) -> Any:
    """Sets up TLS, and checks the certificate against *host*."""
    name = host.encode("ascii")
    try:
        return policy.creatorForNetloc(name, port)
    except UnicodeError:
        # The name is ASCII: Twisted's conversion to IDNA is not needed.
        creator = policy.creatorForNetloc(b"name.invalid", port)
        if not isinstance(creator, ClientTLSOptions):
            raise
        creator._hostname = creator._hostnameASCII = host
        creator._hostnameBytes = name
        return creator
