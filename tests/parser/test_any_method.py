"""Every method there may be, where `Limits.methods` is `ANY`."""

from __future__ import annotations

import pytest
from support.parsing import HOST, bytewise, head_of, refusal
from support.wire import Paths

from twisted_hangup import HangupSite
from twisted_hangup.limits import ANY, LONGEST_METHOD, NODE_METHODS, Limits
from twisted_hangup.testing import feed

LIMITS = Limits(methods=ANY)


@pytest.mark.parametrize(
    "method",
    [
        *(b"G", b"GETS", b"BREW", b"get", b"!#$%&'*+-.^_`|~09", b"PRIZE", b"DESCRIBE", b"HTTP"),
        b"M" * LONGEST_METHOD,
        *sorted(NODE_METHODS - {b"CONNECT"}),
    ],
)
def test_any_token(method: bytes) -> None:
    """A token is a method, and a target in any form may follow."""
    for target, host in ((b"/a?b", HOST), (b"http://h/", HOST), (b"/", b"Host: b \r\n")):
        wire = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, host)
        head = head_of(wire, LIMITS)
        assert (head.method, head.target) == (method, target)


@pytest.mark.parametrize(
    "start, reason, offset",
    [
        (b"/ HTTP/1.1", "Invalid method encountered", 0),
        (b"\x16\x03\x01", "Invalid method encountered", 0),
        (b"BR\x00W / HTTP/1.1", "Expected space after method", 2),
        (b"BREW\r\n", "Expected space after method", 4),
        (b"M" * (LONGEST_METHOD + 1) + b" / HTTP/1.1\r\n", "Invalid method encountered", 65),
        (b"M" * 100_000, "Invalid method encountered", 65),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "Pause on PRI/Upgrade", 24),
        (b"BREW * HTTP/1.1\r\n", "Request target in none of the four forms", 15),
    ],
)
def test_what_is_none(start: bytes, reason: str, offset: int) -> None:
    """The rest of the grammar holds, and no method is longer than the longest."""
    for reads in ([start], bytewise(start)):
        error = refusal(reads, LIMITS)
        assert (error.reason, error.offset) == (reason, offset)


def test_resource_is_asked() -> None:
    """The method is the resource's to answer; by default it is refused at its third byte."""
    response = feed(HangupSite(Paths(), limits=LIMITS), b"BREW /fast HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.received.startswith(b"HTTP/1.1 200 ")
    assert feed(HangupSite(Paths()), b"BREW /fast ").received.startswith(b"HTTP/1.1 400 ")
