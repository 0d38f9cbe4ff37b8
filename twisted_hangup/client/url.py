"""The URL of a request, as it is sent and as it is connected to (RFC 9110, section 4.2).

It is judged when it is given: what no server can be reached by is the program's mistake, and
neither a hang-up nor worth a second try.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from ..parser.grammar import DNS_NAME, HOST
from ..parser.target import DEFAULT_PORTS

#   http-URI = "http" "://" authority path-abempty [ "?" query ]; a fragment is not sent.
_URL: Final = re.compile(rb"(?=[!-~]+\Z)(?i:(https?)://)([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?")
_AUTHORITY: Final = re.compile(rb"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")

LAST_PORT: Final = 65535


class RequestURL(NamedTuple):
    """Where a request goes.

    Attributes:
        scheme: ``b"http"`` or ``b"https"``.
        host: A name or an address, an IPv6 address without brackets.
        port: The default one of the scheme where none is said.
        authority: Host and port as they stand in Host.
        target: Path and query as given, in origin form.
    """

    scheme: bytes
    host: bytes
    port: int
    authority: bytes
    target: bytes


def request_url(url: bytes, by_name: bool = True) -> RequestURL:
    """Take *url* apart.

    Args:
        by_name: Whether its host is what is connected to, so that it has to be the name of one.

    Raises:
        ValueError: It is no URL of a host and a port that can be connected to, or has userinfo.
            Nothing of a URL with an "@" is shown: what stands before that may be a password.
    """
    match = _URL.fullmatch(url)
    shown = shown_url(url)
    if match is None:
        raise ValueError(f"{shown} is not an absolute http or https URL, percent-encoded")
    scheme, authority, path, query = match.groups(b"")
    if b"@" in authority:
        raise ValueError("the URL has userinfo, which belongs into an Authorization field")
    try:
        host, port = host_and_port(authority, by_name)
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from None
    scheme = scheme.lower()
    if port is None or port == DEFAULT_PORTS[scheme]:
        port = DEFAULT_PORTS[scheme]
        authority = b"[%b]" % host if b":" in host else host
    return RequestURL(scheme, host, port, authority, (path or b"/") + query)


def shown_url(url: str | bytes) -> str:
    """*url* as an error may show it: not with an "@", before which a password may stand."""
    return "the URL, not shown for its @" if "@" in repr(url) else repr(url)


def host_and_port(authority: bytes, by_name: bool = True) -> tuple[bytes, int | None]:
    """Host, an IPv6 address without brackets, and port of *authority*, which has no userinfo.

    Raises:
        ValueError: There can be no such host, or no such port; nothing of it is shown.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("not a host and a port")
    host, digits = match.groups(b"")
    port = int(digits) if 0 < len(digits) <= len(str(LAST_PORT)) else None
    if digits and not (port and port <= LAST_PORT):
        raise ValueError("there can be no such port")
    if host.startswith(b"["):
        host = host[1:-1]
        valid = _is_ipv6(host)
    else:
        valid = bool(host) and (DNS_NAME if by_name else HOST).fullmatch(host) is not None
    if not valid:
        raise ValueError("there can be no such host")
    return host, port


def _is_ipv6(host: bytes) -> bool:
    try:
        IPv6Address(host.decode("ascii"))
    except ValueError:
        return False
    return True
