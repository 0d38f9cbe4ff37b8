"""Two values of Host that mean the same server, or not (RFC 9110, section 4.2.3)."""

from __future__ import annotations

import pytest

from twisted_hangup.parser.target import same_host

SAME = [
    (b"a.example", b"a.example", b"https"),
    (b"A.Example", b"a.eXAMPLE", b"https"),
    (b"a:443", b"a", b"https"),
    (b"a", b"A:80", b"HTTP"),
    (b"a:", b"a", b"https"),
    (b"a:", b"a:443", b"https"),
    (b"[::1]", b"[::1]:443", b"https"),
    (b"[FE80::1]", b"[fe80::1]:", b"https"),
    (b"a:8443", b"A:8443", b"https"),
    (b"", b"", b"https"),
]
DIFFERENT = [
    (b"a", b"b", b"https"),
    (b"a", b"a:80", b"https"),
    (b"a:443", b"a", b"http"),
    (b"a:80", b"a:443", b"https"),
    (b"a", b"a.", b"https"),
    (b"a", b"a:443", b"ftp"),
    (b"[::1]", b"[::1:443]", b"https"),
    (b"[::443]", b"[:]", b"https"),
    (b"::443", b":", b"https"),
    (b"a:443:443", b"a", b"https"),
    (b"", b"a", b"https"),
]


@pytest.mark.parametrize("one, other, scheme", SAME)
def test_same(one: bytes, other: bytes, scheme: bytes) -> None:
    """Names have no case, and the scheme's own port need not be named."""
    assert same_host(one, other, scheme)
    assert same_host(other, one, scheme)


@pytest.mark.parametrize("one, other, scheme", DIFFERENT)
def test_different(one: bytes, other: bytes, scheme: bytes) -> None:
    """Another name, or a port that is another one for this scheme."""
    assert not same_host(one, other, scheme)
    assert not same_host(other, one, scheme)
