"""A proxy that is trusted names the client; nobody else does, and no client can join in."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from twisted_hangup import ForwardedClients
from twisted_hangup.transport.forwarded import LARGEST_NODE, MOST_HOPS

PROXY = IPv4Address("TCP", "10.0.0.1", 4711)
TRUSTED = ["10.0.0.0/8", "192.0.2.1", "2001:db8:1::/48", "unix"]


def named(field: str, *lines: str, peer: Any = PROXY) -> Any:
    """Host, and port where there is one, of the client; None where it is *peer* itself."""
    encoded = [line.encode("latin-1") for line in lines]
    client = ForwardedClients(TRUSTED, field).client(peer, encoded)
    if client is peer:
        return None
    return (client.host, client.port) if client.port else client.host


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        ([" 203.0.113.7\t"], "203.0.113.7"),
        (["6.6.6.6, 203.0.113.7"], "203.0.113.7"),  # what a client has sent comes before
        (["6.6.6.6", "203.0.113.7"], "203.0.113.7"),  # lines are one list in order
        (["203.0.113.7, 10.1.2.3, 192.0.2.1"], "203.0.113.7"),
        (["203.0.113.7", "10.1.2.3", "192.0.2.1"], "203.0.113.7"),
        (["192.0.2.2,192.0.2.1"], "192.0.2.2"),
        (["10.1.2.3, 10.1.2.4"], "10.1.2.3"),  # nothing but proxies: the first of them
        (["203.0.113.7:5000"], ("203.0.113.7", 5000)),  # Azure writes so
        (["2001:db8::7"], "2001:db8::7"),
        (["2001:DB8:0::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:443"], ("2001:db8::7", 443)),
        (["6.6.6.6, ::ffff:203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, ::ffff:10.1.2.3"], "203.0.113.7"),
        (["203.0.113.7, 2001:db8:1::9"], "203.0.113.7"),
        ([",, 203.0.113.7 , ,10.1.2.3,"], "203.0.113.7"),
        (["6.6.6.6, 203.0.113.7", "", ","], "203.0.113.7"),
        # What cannot be read ends the search.
        (["6.6.6.6, unknown"], None),
        (["6.6.6.6, unknown, 10.1.2.3"], "10.1.2.3"),
        (["6.6.6.6, _hidden, 10.1.2.3"], "10.1.2.3"),
        (["6.6.6.6, 1.2.3, 10.1.2.3"], "10.1.2.3"),
        (["6.6.6.6, 256.1.1.1"], None),
        (["6.6.6.6, 01.2.3.4"], None),
        (["6.6.6.6, 1.2.3.4:"], None),
        (["6.6.6.6, 1.2.3.4:65536"], None),
        (["6.6.6.6, [1.2.3.4]"], None),
        (["6.6.6.6, fe80::1%eth0"], None),
        (["6.6.6.6, [::1"], None),
        (["6.6.6.6, ::1]"], None),
        (["6.6.6.6, :::"], None),
        (["6.6.6.6, lb.example"], None),
        (["6.6.6.6, for=1.2.3.4"], None),
        (['6.6.6.6, "1.2.3.4"'], None),
        (['"6.6.6.6, 203.0.113.7'], "203.0.113.7"),
        (["6.6.6.6 203.0.113.7"], None),
        (["6.6.6.6, \xb9.2.3.4"], None),
        ([""], None),
        ([], None),
    ],
)
def test_list_of_addresses(lines: list[str], client: object) -> None:
    """The last address that is no proxy's is the client's."""
    assert named("X-Forwarded-For", *lines) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["for=203.0.113.7"], "203.0.113.7"),
        (["For=203.0.113.7;Proto=https ; by=_x"], "203.0.113.7"),
        (["by=10.0.0.1;FOR=203.0.113.7;host=a"], "203.0.113.7"),
        (['for="203.0.113.7:5000"'], ("203.0.113.7", 5000)),
        (['for="203.0.113.7:_port"'], "203.0.113.7"),
        (['for="[2001:db8::7]"'], "2001:db8::7"),
        (['for="[2001:db8::7]:443";proto=https'], ("2001:db8::7", 443)),
        ([r'for="\203.0.113.\7"'], "203.0.113.7"),
        (["for=6.6.6.6, for=203.0.113.7, for=10.1.2.3"], "203.0.113.7"),
        (["for=6.6.6.6", 'for=203.0.113.7, for="[2001:db8:1::9]"'], "203.0.113.7"),
        (['for=203.0.113.7;host="a, for=6.6.6.6"'], "203.0.113.7"),
        (['for=203.0.113.7;host="a, for=6.6.6.6;x=";proto="https"'], "203.0.113.7"),
        ([" ,for=203.0.113.7,;for=10.1.2.3;, "], "203.0.113.7"),
        (["for=203.0.113.7,for=10.1.2.3;;  ;proto=http"], "203.0.113.7"),
        # A quote that the client opens swallows nothing.
        (['x=", for=203.0.113.7'], "203.0.113.7"),
        (['for="6.6.6.6, for="[2001:db8::7]"'], "2001:db8::7"),
        (['for="6.6.6.6', 'for="[2001:db8::7]"'], "2001:db8::7"),
        ([r'x="\, for="203.0.113.7:80"'], ("203.0.113.7", 80)),
        (['x=", for=203.0.113.7;host=";for=6.6.6.6;y=";proto=https'], "203.0.113.7"),
        # What hides an address, or cannot be read, ends the search.
        (["for=6.6.6.6, for=unknown"], None),
        (['for=6.6.6.6, for="_gazonk", for=10.1.2.3'], "10.1.2.3"),
        (["for=6.6.6.6, for=_hidden"], None),
        (["for=6.6.6.6, proto=https"], None),
        (["for=6.6.6.6, for=1.2.3.4;for=5.6.7.8"], None),
        (["for=6.6.6.6, for=1.2.3.4:80"], None),
        (["for=6.6.6.6, for=2001:db8::7"], None),
        (['for=6.6.6.6, for="2001:db8::7"'], None),
        (['for=6.6.6.6, for=" 1.2.3.4"'], None),
        (["for=6.6.6.6, for = 1.2.3.4"], None),
        (["for=6.6.6.6, for=1.2.3.4 proto=https"], None),
        (["for=6.6.6.6, 1.2.3.4"], None),
        (["for=6.6.6.6, for="], None),
        (['for=6.6.6.6, for="'], None),
        (["for=6.6.6.6, ;"], None),
    ],
)
def test_forwarded(lines: list[str], client: object) -> None:
    """RFC 7239 is read when it is named, in the same way."""
    assert named("forwarded", *lines) == client


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (IPv4Address("TCP", "192.0.2.1", 1), "203.0.113.7"),
        (IPv6Address("TCP", "2001:db8:1::5", 1), "203.0.113.7"),
        (IPv6Address("TCP", "::ffff:10.0.0.5", 1), "203.0.113.7"),
        (UNIXAddress(""), "203.0.113.7"),
        (IPv4Address("TCP", "192.0.2.3", 1), None),
        (IPv6Address("TCP", "fe80::1%eth0", 1), None),
        (None, None),
    ],
)
def test_who_is_believed(peer: Any, client: object) -> None:
    """Only whom the operator trusts has a say."""
    assert named("X-Forwarded-For", "203.0.113.7", peer=peer) == client


@pytest.mark.parametrize("trusted", ["::ffff:10.0.0.5", "::ffff:10.0.0.0/104"])
def test_ipv4_in_ipv6_clothes_may_be_named(trusted: str) -> None:
    """As the address of a proxy, or of a network, it is where connections come from."""
    clients = ForwardedClients([trusted])
    peer = IPv6Address("TCP", "::ffff:10.0.0.5", 1)
    assert clients.client(peer, [b"203.0.113.7"]).host == "203.0.113.7"
    other = IPv6Address("TCP", "::ffff:11.0.0.5", 1)
    assert clients.client(other, [b"203.0.113.7"]) is other


def test_nobody_at_unix_sockets_unless_named() -> None:
    peer = UNIXAddress("")
    assert ForwardedClients(["10.0.0.0/8"]).client(peer, [b"203.0.113.7"]) is peer


@pytest.mark.parametrize("trusted", ["lb.example", "10.0.0.1/8", "", "unix:/run/a"])
def test_what_is_no_address(trusted: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear|host bits"):
        ForwardedClients([trusted])
    with pytest.raises(ValueError, match="no name of a field"):
        ForwardedClients([], "X Forwarded")


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded"])
def test_search_has_an_end(field: str) -> None:
    """A list of proxies without end, or without sense, is not read to its start."""
    hop = "for=10.1.2.3" if field == "Forwarded" else "10.1.2.3"
    mine = hop.replace("10.1.2.3", "203.0.113.7")
    most = [hop] * (MOST_HOPS - 1)
    assert named(field, ", ".join([mine, *most])) == "203.0.113.7"
    assert named(field, *[mine, *most]) == "203.0.113.7"
    assert named(field, ", ".join([mine, hop, *most])) == "10.1.2.3"
    assert named(field, *[mine, hop, *most]) == "10.1.2.3"
    assert named(field, mine, "," * MOST_HOPS) is None


def test_what_is_remembered_is_short() -> None:
    """A name that is longer than an address may be is none."""
    most = "203.0.113.7:_" + "p" * (LARGEST_NODE - len("203.0.113.7:_"))
    assert named("Forwarded", f'for="{most}"') == "203.0.113.7"
    assert named("Forwarded", f'for="{most}p"') is None


def test_hostile_lists_take_no_time() -> None:
    """As long as a head may be, and built for a pattern that tries every way to match."""
    begun = process_time()
    for field in "X-Forwarded-For", "Forwarded":
        clients = ForwardedClients(TRUSTED, field)
        for unit in (*':1.,"; =a\t', ";  ", 'a="";', 'a=",";', 'a="\\', '",', ",a=", 'a="",'):
            for end in ("", "x", '"', ' "', "\x01"):
                line = unit * (16000 // len(unit)) + end
                assert clients.client(PROXY, [line.encode()]) is PROXY
    assert process_time() - begun < 2  # it is 0.1; what is quadratic takes half of that for each
