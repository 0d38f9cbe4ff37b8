"""The URL of a request, as it is sent and as we connect to it (RFC 9110, section 4.2).

It is checked when it is given: a URL that names no possible server is the program's mistake, not a
hang-up, and a second attempt would not help.
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
        port: The scheme's default if the URL has none.
        authority: Host and port, for the Host header.
        target: Path and query as given, in origin form.
    """

    scheme: bytes
    host: bytes
    port: int
    authority: bytes
    target: bytes


def request_url(url: bytes, by_name: bool = True) -> RequestURL:
    """Parse *url*.

    Args:
        by_name: Whether we connect to its host, so that the host has to be a valid name.

    Raises:
        ValueError: It is not a URL with a host and a port that can exist, or it has userinfo.  The
            message shows no URL with an "@": what comes before it may be a password.
    """
    match = _URL.fullmatch(url)
    shown = shown_url(url)
    if match is None:
        raise ValueError(f"{shown} is not an absolute http or https URL, percent-encoded")
    scheme, authority, path, query = match.groups(b"")
    if b"@" in authority:
        raise ValueError("the URL has userinfo: send it in an Authorization header instead")
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
    """*url* for a message; it is not shown with an "@", which may follow a password."""
    return "the URL, not shown for its @" if "@" in repr(url) else repr(url)


def host_and_port(authority: bytes, by_name: bool = True) -> tuple[bytes, int | None]:
    """Host (an IPv6 address without brackets) and port of *authority*, which has no userinfo.

    Raises:
        ValueError: Such a host or port cannot exist; the message shows nothing of it.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("not a host and a port")
    host, digits = match.groups(b"")
    port = int(digits) if 0 < len(digits) <= len(str(LAST_PORT)) else None
    if digits and not (port and port <= LAST_PORT):
        raise ValueError("not a valid port")
    if host.startswith(b"["):
        host = host[1:-1]
        valid = _is_ipv6(host)
    else:
        valid = bool(host) and (DNS_NAME if by_name else HOST).fullmatch(host) is not None
    if not valid:
        raise ValueError("not a valid host")
    return host, port


def _is_ipv6(host: bytes) -> bool:
    try:
        IPv6Address(host.decode("ascii"))
    except ValueError:
        return False
    return True
