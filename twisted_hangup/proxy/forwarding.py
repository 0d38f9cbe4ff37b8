"""Which headers a reverse proxy passes on, and which it adds (RFC 9110, section 7.6).

Headers that frame a message, or belong to one connection, are never passed on: each side of the
proxy frames its own messages.  So requests cannot be smuggled through it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from .._arguments import must_be, must_be_one_of, names_in
from ..events import Field
from ..limits import CONTENT_METHODS
from ..parser.grammar import TCHAR

#: Headers of one connection (RFC 9110, section 7.6.1), or for a proxy itself; and ``Proxy``, which
#: CGI programs take for a setting (httpoxy, CVE-2016-5387).
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Request headers that never pass; the last three we write ourselves for the upstream server.
_STAYING: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host"}

#: The longest name for which the answer of `_drops` is kept.
_KEPT_NAME: Final = 64

#: Headers in which a proxy names its client.  From elsewhere they may be false, and applications
#: log people in by them.
IDENTITY: Final = frozenset(
    {
        *(b"forwarded", b"x-forwarded", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip"),
        *(b"x-client-ip", b"x-cluster-client-ip", b"fastly-client-ip", b"x-originating-ip"),
        *(b"x-remote-ip", b"x-remote-addr", b"x-envoy-external-address", b"x-envoy-internal"),
        *(b"client-cert", b"client-cert-chain", b"x-client-cert", b"x-client-certificate"),
        *(b"x-arr-clientcert", b"x-tls-client-cert", b"x-goog-iap-jwt-assertion"),
        *(b"remote-user", b"remote-groups", b"remote-name", b"remote-email", b"x-remote-user"),
        *(b"x-authenticated-user", b"x-authenticated-userid", b"x-vouch-user"),
        *(b"x-original-url", b"x-rewrite-url", b"x-original-host", b"x-http-host-override"),
    }
)

#: The same, as the start of a name.
IDENTITY_PREFIXES: Final = (
    *(b"x-forwarded-", b"x-ssl-client-", b"ssl-client-", b"x-client-cert-", b"x-auth-request-"),
    *(b"x-webauth-", b"x-authentik-", b"x-pomerium-", b"x-amzn-oidc-", b"x-ms-client-principal"),
    *(b"x-goog-authenticated-user-", b"cf-access-", b"tailscale-user-", b"x-consumer-"),
)

# RFC 9110, section 7.8
#   Upgrade  = #protocol
#   protocol = protocol-name [ "/" protocol-version ]; both are tokens
_PROTOCOL: Final = re.compile(rb"(?P<name>[%b]+)(?:/[%b]+)?" % (TCHAR, TCHAR))

#: Protocols that would carry requests past a proxy's rules through a tunnel.
_NEVER_TUNNELLED: Final = re.compile(rb"(?:h[0-9]|http|tls|spdy|quic).*")

#: Never in trailers (RFC 9110, section 6.5.1): framing, routing, authentication, caching.
_NOT_IN_TRAILERS: Final = HOP_BY_HOP | {
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"host",
    b"location",
    b"set-cookie",
    b"www-authenticate",
}

_NO_CONTENT: Final = 204

HostChoice: TypeAlias = Literal["pass", "rewrite"]
ForwardedChoice: TypeAlias = Literal["replace", "append", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarding:
    """What the upstream server is told about the client.

    Attributes:
        host: ``"pass"``: the Host that the client sent, so that the application sees the name that
            its users typed.  ``"rewrite"``: the upstream server's own.
        forwarded: What happens to Forwarded, X-Forwarded-* and X-Real-IP, and to other headers that
            name the client (docs/proxy.md lists them).  ``"replace"``: the proxy writes them anew,
            so that no client can claim to be another.  ``"append"``: it adds to them; use this
            behind a proxy that you trust.  ``"off"``: it drops them and adds none.
        drop_fields: Names of more request headers that are dropped; in upper or lower case.
        via: The name in the Via header; ``b""`` for no Via.  RFC 9110, section 7.6.3, asks for one.
            But nginx, for example, does not compress for proxies (``gzip_proxied``).
    """

    host: HostChoice = "pass"
    forwarded: ForwardedChoice = "replace"
    drop_fields: frozenset[bytes] = frozenset()
    via: bytes = b"twisted_hangup"

    def __post_init__(self) -> None:
        must_be_one_of("host", self.host, get_args(HostChoice))
        must_be_one_of("forwarded", self.forwarded, get_args(ForwardedChoice))
        object.__setattr__(self, "drop_fields", names_in("drop_fields", self.drop_fields))
        must_be("via", self.via, bytes)


class Client(NamedTuple):
    """What is known about a client.

    Attributes:
        address: Its address without the port; ``b""`` on a UNIX socket.
        secure: Whether it came over TLS.
        host: The Host that it asked for.
        version: Its version of HTTP: ``b"1.1"``, ``b"1.0"`` or ``b"2"``.
    """

    address: bytes
    secure: bool
    host: bytes
    version: bytes


def listed(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """The members of all lists in the fields called *name* (lower case), in lower case."""
    return [
        member
        for own, value in fields
        if len(own) == len(name) and own.lower() == name  # the length first: few have it
        for part in value.lower().split(b",")
        if (member := part.strip(b" \t"))
    ]


def request_fields(
    fields: Iterable[Field],
    *,
    method: bytes,
    client: Client,
    authority: bytes,
    forwarding: Forwarding,
    content_length: int | None,
    chunked: bool = False,
    upgrade: bool = False,
) -> list[Field]:
    """The header of the request to the upstream server.

    Args:
        fields: The header from the client.
        method: The request's method.
        client: Who sent it.
        authority: Host and port of the upstream server.
        forwarding: The operator's choices.
        content_length: Bytes of the body; None without a body, or for one in chunks.
        chunked: Whether the body is sent in chunks, because its length is not known.
        upgrade: Whether the client may change the protocol.

    Returns:
        Host first; then the fields that pass, in their order, each line on its own; then ours.
    """
    dropped, trusted = _dropped_with(forwarding.drop_fields), forwarding.forwarded == "append"
    passing: list[Field] = []
    staying: list[Field] = []
    for field in fields:
        name = field[0]
        drops = _drops_kept if len(name) <= _KEPT_NAME else _drops
        (staying if drops(name, dropped, trusted) else passing).append(field)
    if also := frozenset(listed(staying, b"connection")):
        passing = [field for field in passing if not _drops(field[0], also, trusted)]
    host = client.host if forwarding.host == "pass" and client.host else authority
    lines = [(b"Host", host), *passing]
    if chunked:
        lines.append((b"Transfer-Encoding", b"chunked"))
    elif content_length or method in CONTENT_METHODS:
        lines.append((b"Content-Length", b"%d" % (content_length or 0)))
    if upgrade:
        lines += [field for field in staying if field[0].lower() == b"upgrade"]
        lines.append((b"Connection", b"Upgrade"))
    elif b"trailers" in listed(staying, b"te"):
        lines += [(b"TE", b"trailers"), (b"Connection", b"TE")]
    lines += _via(client.version, forwarding)
    if forwarding.forwarded != "off":
        lines += _client_fields(client)
    return lines


def _plain(name: bytes) -> bytes:
    """*name* as CGI and WSGI see it, which do not distinguish ``_`` from ``-``."""
    return name.lower().replace(b"_", b"-")


def _drops(name: bytes, dropped: frozenset[bytes], trusted: bool) -> bool:
    """Whether to drop a field called *name*, also if its name is in disguise.

    Args:
        dropped: Names that are dropped, in lower case.
        trusted: Whether the client is a proxy that may name its own client.
    """
    name = name.lower()
    if name in dropped:
        return True
    if b"_" not in name:
        return not trusted and (name in IDENTITY or name.startswith(IDENTITY_PREFIXES))
    return _drops(_plain(name), dropped, False)  # a trusted proxy writes no disguises


#: The same for names that come again and again.
_drops_kept: Final = lru_cache(maxsize=1024)(_drops)


@lru_cache(maxsize=16)
def _dropped_with(drop_fields: frozenset[bytes]) -> frozenset[bytes]:
    """The names that never pass if the operator drops *drop_fields* as well."""
    return _STAYING.union(map(_plain, drop_fields))


def asks_for_tunnel(fields: Iterable[Field]) -> bool:
    """Whether the client wants another protocol, and not HTTP under another name."""
    fields = list(fields)
    wanted = [_PROTOCOL.fullmatch(protocol) for protocol in listed(fields, b"upgrade")]
    return (
        bool(wanted)
        and all(one and not _NEVER_TUNNELLED.fullmatch(one["name"]) for one in wanted)
        and b"upgrade" in listed(fields, b"connection")
    )


def _via(version: bytes, forwarding: Forwarding) -> list[Field]:
    """The Via line for a message of that *version*."""
    return [(b"Via", b"%b %b" % (version, forwarding.via))] if forwarding.via else []


def _client_fields(client: Client) -> list[Field]:
    """Forwarded (RFC 7239), and the older headers with the same content."""
    proto = b"https" if client.secure else b"http"
    node = client.address or b"unknown"
    if b":" in node:
        node = b'"[%b]"' % node
    host = b';host="%b"' % client.host if client.host else b""
    lines = [
        (b"Forwarded", b"for=%b;proto=%b%b" % (node, proto, host)),
        (b"X-Forwarded-For", client.address),
        (b"X-Forwarded-Proto", proto),
        (b"X-Forwarded-Host", client.host),
    ]
    return [(name, value) for name, value in lines if value]


def response_fields(
    fields: Iterable[Field], forwarding: Forwarding, *, status: int = 200, version: bytes = b"1.1"
) -> list[Field]:
    """The header of the response to the client, without its framing.

    Content-Length passes unless there can be no body (RFC 9110, section 8.6).  The parser checks a
    body against it.
    """
    lines: list[Field] = []
    staying: list[Field] = []
    for field in fields:
        (staying if field[0].lower() in HOP_BY_HOP else lines).append(field)
    dropped = {*listed(staying, b"connection")} - {b"content-length"}
    if status < 200 or status == _NO_CONTENT:
        dropped.add(b"content-length")
    if dropped:
        lines = [field for field in lines if field[0].lower() not in dropped]
    return lines + _via(version, forwarding)


def trailer_fields(fields: Iterable[Field]) -> list[Field]:
    """The trailers that pass."""
    return [field for field in fields if field[0].lower() not in _NOT_IN_TRAILERS]
