"""The byte patterns against other ways of saying the same rule."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_hangup.parser import grammar

ALL = [bytes([byte]) for byte in range(256)]


def members(pattern: re.Pattern[bytes]) -> bytes:
    """Every byte that *pattern* takes a run of."""
    return b"".join(byte for byte in ALL if pattern.fullmatch(byte))


VISIBLE = bytes(range(0x21, 0x7F))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (grammar.TOKEN, bytes(byte for byte in VISIBLE if byte not in b'"(),/:;<=>?@[\\]{}')),
        (grammar.FIELD_VALUE, b"\t " + VISIBLE + bytes(range(0x80, 0x100))),
        (
            grammar.LIST_ELEMENT,
            b"\t " + VISIBLE.replace(b",", b"") + bytes(range(0x80, 0x100)),
        ),
        (
            grammar.QUOTED_TEXT,
            b"\t " + VISIBLE.replace(b'"', b"").replace(b"\\", b"") + bytes(range(0x80, 0x100)),
        ),
        (grammar.PATH, VISIBLE.replace(b"?", b"").replace(b"#", b"")),
        (grammar.QUERY, VISIBLE.replace(b"#", b"")),
        (grammar.FRAGMENT, VISIBLE),
        (grammar.WHITE_SPACE, b"\t "),
    ],
)
def test_runs(pattern: re.Pattern[bytes], expected: bytes) -> None:
    """Each run takes the bytes its rule lists, and no other."""
    assert members(pattern) == expected


GROUPS = st.lists(
    st.sampled_from(["", "0", "1", "ffff", "12345", "g", "1.2.3.4", "1.2.3", "256.1.1.1", "::"]),
    max_size=9,
)


@given(GROUPS)
def test_ipv6(groups: list[str]) -> None:
    """An IPv6 literal is one exactly where the standard library takes the address."""
    address = ":".join(groups)
    try:
        IPv6Address(address)
        valid = True
    except ValueError:
        valid = False
    assert bool(grammar.HOST.fullmatch(b"[%b]" % address.encode())) == valid


@given(st.integers(0, 2**128 - 1), st.integers(0, 65535))
def test_every_ipv6_address(number: int, port: int) -> None:
    """Every address is a host, as it is written short and long."""
    address = IPv6Address(number)
    for written in (address.compressed, address.exploded):
        assert grammar.HOST.fullmatch(f"[{written}]:{port}".encode())


@pytest.mark.parametrize("host", [b"", b"a", b"a:", b":80", b"%41", b"a.b-c_d~", b"[v1F.:]"])
def test_hosts(host: bytes) -> None:
    """RFC 3986 allows more than people think: also nothing, and a port of no digits."""
    assert grammar.HOST.fullmatch(host)


@pytest.mark.parametrize("host", [b"a\n", b"a b", b"%4", b"[]", b"[v1.]", b"[v.a]", b"[::1", b"a]"])
def test_not_hosts(host: bytes) -> None:
    """What is no host does not pass for one by its start or end."""
    assert not grammar.HOST.fullmatch(host)
