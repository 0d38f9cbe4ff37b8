"""Which fields cross a reverse proxy, and what it adds (RFC 9110, section 7.6).

What frames a message or belongs to one connection is never passed on: each side of the
proxy frames its own messages.  That is what makes request smuggling impossible through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ..events import Field
from ..limits import CONTENT_METHODS

#: Fields of one connection (RFC 9110, section 7.6.1), or meant for a proxy itself; and
#: ``Proxy``, which CGI programs take for a setting (httpoxy, CVE-2016-5387).
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

#: Fields of a request that are made anew for the upstream server.
_MADE_ANEW: Final = frozenset({b"content-length", b"expect", b"host"})

#: Fields by which a proxy tells of its client; from elsewhere they may be lies.
_FORWARDED: Final = frozenset(
    {
        b"forwarded",
        b"x-forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-protocol",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-forwarded-ssl",
        b"x-real-ip",
    }
)

#: What no client may write in disguise: CGI and WSGI give ``X_Forwarded_For`` and
#: ``X-Forwarded-For`` to the application under the same name.
_NEVER_WITH_UNDERSCORES: Final = HOP_BY_HOP | _MADE_ANEW | _FORWARDED

#: Protocols that carry requests past a proxy's rules when it makes a tunnel for them.
_NEVER_TUNNELLED: Final = frozenset({b"h2", b"h2c", b"http", b"tls"})

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
    """What the upstream server is told of the client.

    Attributes:
        host: ``"pass"``: the Host that the client sent, so that the application sees the
            name its users typed; ``"rewrite"``: the upstream server's own.
        forwarded: What becomes of Forwarded, X-Forwarded-* and X-Real-IP:
            ``"replace"`` (no client can claim to be another; the default), ``"append"``
            (behind a proxy that is trusted) or ``"off"`` (dropped, nothing added).
        via: The name in Via.
    """

    host: HostChoice = "pass"
    forwarded: ForwardedChoice = "replace"
    via: bytes = b"twisted_hangup"


@dataclass(frozen=True, slots=True)
class Client:
    """What is known of a client.

    Attributes:
        address: Its address without the port; ``b""`` where it has none (UNIX sockets).
        secure: Whether it came over TLS.
        host: The Host that it asked for.
        version: Of its HTTP: ``b"1.1"``, ``b"1.0"`` or ``b"2"``.
    """

    address: bytes
    secure: bool
    host: bytes
    version: bytes


def listed(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """The members of all list fields called *name* (lower case), themselves in lower case."""
    return [
        member
        for own, value in fields
        if own.lower() == name
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
    upgrade: bool = False,
) -> list[Field]:
    """The fields of the request to the upstream server.

    Args:
        fields: Those that came from the client.
        method: Of the request.
        client: Who sent it.
        authority: Host and port of the upstream server.
        forwarding: The operator's choices.
        content_length: Bytes of the body, which is there as a whole; None for no body.
        upgrade: Whether the client may change the protocol.

    Returns:
        Host first; then what may pass, in its order and each line by itself; then ours.
    """
    fields = list(fields)
    dropped = HOP_BY_HOP.union(_MADE_ANEW, listed(fields, b"connection"))
    if forwarding.forwarded != "append":
        dropped |= _FORWARDED
    lines = [(b"Host", client.host if forwarding.host == "pass" and client.host else authority)]
    lines += [field for field in fields if not _stays(field[0].lower(), dropped)]
    if content_length or method in CONTENT_METHODS:
        lines.append((b"Content-Length", b"%d" % (content_length or 0)))
    if upgrade:
        lines += [field for field in fields if field[0].lower() == b"upgrade"]
        lines.append((b"Connection", b"Upgrade"))
    elif b"trailers" in listed(fields, b"te"):
        lines += [(b"TE", b"trailers"), (b"Connection", b"TE")]
    lines.append((b"Via", b"%b %b" % (client.version, forwarding.via)))
    if forwarding.forwarded != "off":
        lines += _client_fields(client)
    return lines


def _stays(name: bytes, dropped: frozenset[bytes]) -> bool:
    return name in dropped or (b"_" in name and name.replace(b"_", b"-") in _NEVER_WITH_UNDERSCORES)


def asks_for_tunnel(fields: Iterable[Field]) -> bool:
    """Whether the client wants another protocol, and one that is not HTTP under a cover."""
    fields = list(fields)
    wanted = {name.partition(b"/")[0] for name in listed(fields, b"upgrade")}
    return (
        bool(wanted)
        and not wanted & _NEVER_TUNNELLED
        and b"upgrade" in listed(fields, b"connection")
    )


def _client_fields(client: Client) -> list[Field]:
    """Forwarded (RFC 7239), and the fields that were there before it."""
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
    """The fields of the response to the client, without its framing.

    Content-Length passes, but not where no body can be (RFC 9110, section 8.6): where one
    follows it is checked against it by the parser.
    """
    fields = list(fields)
    dropped = HOP_BY_HOP.union(listed(fields, b"connection")) - {b"content-length"}
    if status < 200 or status == _NO_CONTENT:
        dropped |= {b"content-length"}
    lines = [field for field in fields if field[0].lower() not in dropped]
    lines.append((b"Via", b"%b %b" % (version, forwarding.via)))
    return lines


def trailer_fields(fields: Iterable[Field]) -> list[Field]:
    """The trailers that may pass."""
    return [field for field in fields if field[0].lower() not in _NOT_IN_TRAILERS]
