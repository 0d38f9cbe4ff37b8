"""Who sent a request, if a trusted proxy in front of us says it in a header.

A client can send that header too.  So only the part that trusted proxies have added counts: the
list is read from its end, which the nearest proxy has written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any, ClassVar, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from .._arguments import described, must_be
from ..errors import ClientError, HTTP2Error
from ..parser.grammar import TCHAR, TOKEN
from ..parser.refusals import OF_A_WHOLE_HEAD
from .addresses import Network, ip_of, is_within, network_of

#: Stands for all clients on UNIX sockets, among the addresses of proxies.
UNIX: Final = "unix"

#: The header in which most proxies name the client.
FORWARDED_FIELD: Final = "X-Forwarded-For"

#: Most members of the list that are read, empty ones included.
MOST_HOPS: Final = 64

#: Most bytes of a member that names somebody: ``"[IPv6]:_port"``.
LARGEST_NODE: Final = 64
#: How many members are cached with what they name, and how many hosts with whether they are
#: trusted: most requests come through proxies that sent one before.
MOST_REMEMBERED: Final = 1024

# RFC 7239, section 4
#   forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
#   forwarded-pair    = token "=" ( token / quoted-string )
# Laxer: white space around the semicolon, which many proxies write.  The pattern matches in one
# way only, so that no member takes long.
_PAIR: Final = rb'[%b]+=(?:[%b]+|"(?:[^"\\]|\\.)*")' % (TCHAR, TCHAR)
_ELEMENT: Final = re.compile(rb"(?:%b)?(?:[ \t]*;(?:[ \t]*%b)?)*" % (_PAIR, _PAIR), re.S)
_EACH_PAIR: Final = re.compile(_PAIR, re.S)
_ESCAPED: Final = re.compile(rb"\\(.)", re.S)

#: The members of X-Forwarded-For and the like; no RFC has them.
_MEMBER: Final = re.compile(rb'[^",]*')

# RFC 7239, section 6
#   node = nodename [ ":" node-port ]
# without the names that hide an address.
_NODE: Final = re.compile(
    rb"(?:(?P<ipv4>[0-9.]+)|\[(?P<ipv6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+)\])"
    rb"(?::(?:(?P<port>[0-9]{1,5})|_[A-Za-z0-9._-]+))?"
)
#: IPv6 without brackets, as in X-Forwarded-For; it then has no port.
_BARE_IPV6: Final = re.compile(rb"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")


class ForwardedClients:
    """Which proxies may say who sent a request, and in which header.

    Give it to `HangupSite` as ``forwarded=`` if a proxy stands before the server:

        HangupSite(resource, forwarded=ForwardedClients(["10.0.0.0/8"]))

    Without it, `ClientError.peer` and the logs have the proxy's address.

    Args:
        trusted: Addresses and networks (``10.0.0.0/8``) of proxies that write *field* themselves.
            ``unix`` stands for all clients on UNIX sockets.
        field: The one header that is read: ``Forwarded`` as in RFC 7239, any other as a list of
            addresses.  Choose the one that your proxy writes: it passes on what the client sends in
            the other.

    Raises:
        TypeError: *trusted* is a single address, or holds something other than str.
        ValueError: One of *trusted* is neither an address nor a network, or *field* is not a header
            name.

    Attributes:
        field: The name of the header.
    """

    def __init__(self, trusted: Iterable[str], field: str = FORWARDED_FIELD) -> None:
        if isinstance(trusted, (str, bytes)) or not isinstance(trusted, Iterable):
            cure = f": [{trusted!r}]" if isinstance(trusted, str) else ""
            came = described(trusted)
            raise TypeError(f"trusted must be a list of addresses and networks, not {came}{cure}")
        trusted = list(trusted)
        for one in trusted:
            must_be("each of trusted", one, str)
        must_be("field", field, str)
        self._unix = UNIX in trusted
        networks = [network_of(one) for one in trusted if one != UNIX]
        self.field = field.encode("utf-8", "surrogateescape")
        if not TOKEN.fullmatch(self.field):
            raise ValueError(f"{field!r} is no name of a field")
        self._is_proxy = lru_cache(MOST_REMEMBERED)(partial(_is_within, networks))
        self._has_elements = self.field.lower() == b"forwarded"

    def client(self, peer: Any, lines: Sequence[bytes]) -> Any:
        """The address of the client: the last one in the list that is not trusted.

        Args:
            peer: The Twisted address of the other end of the connection.
            lines: The values of all lines of `field`, in order.

        Returns:
            A Twisted address; its port is 0 if the list has none.  If all are trusted, the first
            one.  If *peer* itself is not trusted, or names nobody, *peer*.  A member that cannot be
            read, or that hides its address, ends the search at the last good one.
        """
        client = peer
        members = _last_first(lines, _ELEMENT if self._has_elements else _MEMBER)
        for member in islice(members, MOST_HOPS):
            if not self._trusts(client):
                break
            if member:  # RFC 9110, section 5.6.1: ignore empty ones
                node = _node_of_element(member) if self._has_elements else _node_of_hop(member)
                address = _address_of(node)
                if address is None:
                    break
                client = address
        return client

    def client_of(self, error: ClientError, peer: Any) -> Any:
        """The same for *error*, if the whole head of its request is known.

        A part of the head may lack the line that the proxy has added.  Over HTTP/2 a head is judged
        as a whole; an error of the connection belongs to none of the clients that share it.
        """
        request = error.request
        if (
            request is None
            or isinstance(error, HTTP2Error)
            or (
                error.phase == "head"
                and request.version != b"2"
                and (error.code, error.reason) not in OF_A_WHOLE_HEAD
            )
        ):
            return peer
        name = self.field.lower()
        return self.client(peer, [value for own, value in request.fields if own.lower() == name])

    def _trusts(self, address: Any) -> bool:
        if isinstance(address, UNIXAddress):
            return self._unix
        return self._is_proxy(getattr(address, "host", None))


class NamedClient:
    """Comes before a request class: ``client`` is the address that a trusted proxy names.

    So are the results of ``getClientAddress()`` and ``getClientIP()``.
    """

    requestHeaders: Any
    _hangup_clients: ClassVar[ForwardedClients]
    #: The address at the other end of the connection.
    _hangup_peer: Any = None

    @property
    def client(self) -> Any:
        clients = self._hangup_clients
        lines = self.requestHeaders.getRawHeaders(clients.field, ())
        return clients.client(self._hangup_peer, lines)

    @client.setter
    def client(self, peer: Any) -> None:
        self._hangup_peer = peer


def _last_first(lines: Sequence[bytes], grammar: re.Pattern[bytes]) -> Iterator[bytes]:
    """The members of the list in *lines*, from the last one on.

    A comma inside a member is noticed by what it would leave on both sides.  A quote that a client
    has opened and not closed hides nothing that comes after it.
    """
    for line in reversed(lines):
        member = b""
        for piece in reversed(line.rsplit(b",", MOST_HOPS)):
            member = (piece + member).strip(b" \t")
            if b'"' in member and not grammar.fullmatch(member):
                member = b"," + member
            else:
                yield member
                member = b""
        if member:
            yield member


def _node_of_hop(hop: bytes) -> bytes:
    """A member of X-Forwarded-For, as a node of RFC 7239."""
    return b"[%b]" % hop if _BARE_IPV6.fullmatch(hop) else hop


def _node_of_element(element: bytes) -> bytes:
    """The node that an element of Forwarded names; nothing if it names none, or not clearly."""
    if not _ELEMENT.fullmatch(element):
        return b""
    nodes = [
        value
        for pair in _EACH_PAIR.findall(element)
        for name, _, value in [pair.partition(b"=")]
        if name.lower() == b"for"
    ]
    if len(nodes) != 1:
        return b""
    [node] = nodes
    return _ESCAPED.sub(rb"\1", node[1:-1]) if node.startswith(b'"') else node


def _is_within(networks: Sequence[Network], host: str | None) -> bool:
    return is_within(ip_of(host), networks)


def _address_of(node: bytes) -> IPv4Address | IPv6Address | None:
    """The Twisted address of *node*, or None."""
    return _known_address_of(node) if len(node) <= LARGEST_NODE else None


@lru_cache(MOST_REMEMBERED)
def _known_address_of(node: bytes) -> IPv4Address | IPv6Address | None:
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    ip, port = ip_of((match["ipv4"] or match["ipv6"]).decode("ascii")), int(match["port"] or 0)
    if ip is None or port > 0xFFFF:
        return None
    return (IPv4Address if ip.version == 4 else IPv6Address)("TCP", str(ip), port)
