"""Who sent a request, where a proxy in front of us says it in a field.

Every client may send that field as well.  So only what proxies have added counts that the
operator trusts: the list is read from its end, which the nearest of them has written.
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

#: Stands for all clients at UNIX sockets, among the addresses of proxies.
UNIX: Final = "unix"

#: Where most proxies name the client.
FORWARDED_FIELD: Final = "X-Forwarded-For"

#: Members of the list that are looked at, those included that are empty.
MOST_HOPS: Final = 64

#: Bytes of one that may name somebody: ``"[IPv6]:_port"``.
LARGEST_NODE: Final = 64
#: Of so many it is known what they name, and of so many hosts whether they are trusted: most
#: requests come from whom one has come from before.
MOST_REMEMBERED: Final = 1024

# RFC 7239, section 4
#   forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
#   forwarded-pair    = token "=" ( token / quoted-string )
# Wider by white space around the semicolon, which many proxies write.  There is one way only
# to match it, so that no member takes long.
_PAIR: Final = rb'[%b]+=(?:[%b]+|"(?:[^"\\]|\\.)*")' % (TCHAR, TCHAR)
_ELEMENT: Final = re.compile(rb"(?:%b)?(?:[ \t]*;(?:[ \t]*%b)?)*" % (_PAIR, _PAIR), re.S)
_EACH_PAIR: Final = re.compile(_PAIR, re.S)
_ESCAPED: Final = re.compile(rb"\\(.)", re.S)

#: What X-Forwarded-For and its kin are lists of; no RFC says it.
_MEMBER: Final = re.compile(rb'[^",]*')

# RFC 7239, section 6
#   node = nodename [ ":" node-port ]
# without the names that hide an address.
_NODE: Final = re.compile(
    rb"(?:(?P<ipv4>[0-9.]+)|\[(?P<ipv6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+)\])"
    rb"(?::(?:(?P<port>[0-9]{1,5})|_[A-Za-z0-9._-]+))?"
)
#: IPv6 without brackets, as X-Forwarded-For has it: it has no port then.
_BARE_IPV6: Final = re.compile(rb"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")


class ForwardedClients:
    """Whom to believe who sent a request.

    Args:
        trusted: Addresses and networks (``10.0.0.0/8``) of proxies that write *field*
            themselves; ``unix`` stands for all clients at UNIX sockets.
        field: The one field that is read: ``Forwarded`` as RFC 7239 has it, any other as a
            list of addresses.  A proxy that sets one lets the client's other through.

    Raises:
        ValueError: One of *trusted* is no address and no network, or *field* no field name.

    Attributes:
        field: Its name.
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
        """The address of the client: the last in the list that is not trusted.

        Args:
            peer: The Twisted address of the other end of the connection.
            lines: The values of all lines of `field`, in order.

        Returns:
            A Twisted address, with port 0 where none is named; the first where all are
            trusted; *peer* where it is not trusted itself, or names nobody.  What cannot be
            read, or hides an address, ends the search at the last good one.
        """
        client = peer
        members = _last_first(lines, _ELEMENT if self._has_elements else _MEMBER)
        for member in islice(members, MOST_HOPS):
            if not self._trusts(client):
                break
            if member:  # RFC 9110, section 5.6.1: an empty one is none
                node = _node_of_element(member) if self._has_elements else _node_of_hop(member)
                address = _address_of(node)
                if address is None:
                    break
                client = address
        return client

    def client_of(self, error: ClientError, peer: Any) -> Any:
        """The same for *error*, where the whole head of its request is known.

        In a part of it the line may be missing that the proxy has added.  Over HTTP/2 a head
        is judged as a whole; an error of the connection is nobody's of those who share it.
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
    """Mixed in behind a request class: its ``client`` is whom a trusted proxy names.

    What Twisted derives from it is so too: ``getClientAddress()`` and ``getClientIP()``.
    """

    requestHeaders: Any
    _hangup_clients: ClassVar[ForwardedClients]
    #: The address of the connection.
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
    """The members of the list that is in *lines*, from the last on.

    Where a comma is part of a member, that is seen by what the comma would leave.  A quote
    that was opened by a client ends nowhere, and hides nothing that comes after it.
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
    """What a member of X-Forwarded-For is in the words of RFC 7239."""
    return b"[%b]" % hop if _BARE_IPV6.fullmatch(hop) else hop


def _node_of_element(element: bytes) -> bytes:
    """Whom an element of Forwarded names; nothing where it does not, or not clearly."""
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
    """The Twisted address of *node*; None where it has none."""
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
