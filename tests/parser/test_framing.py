"""What the fields of a valid head say to a server."""

from __future__ import annotations

import pytest

from twisted_hangup.events import RequestHead
from twisted_hangup.parser.framing import unserved_status


@pytest.mark.parametrize(
    "method, version, expected, status",
    [
        (b"GET", b"1.1", [], None),
        (b"POST", b"1.1", [b"100-Continue"], None),
        (b"POST", b"1.1", [b"luck"], 417),
        (b"POST", b"1.1", [b""], 417),
        (b"POST", b"1.1", [b"100-continue", b"luck"], 417),
        (b"POST", b"1.1", [b"100-continue, luck"], 417),
        (b"POST", b"1.0", [b"luck"], None),
        (b"POST", b"2", [b"luck"], 417),
        (b"CONNECT", b"1.1", [], 501),
        (b"CONNECT", b"1.0", [], 501),
        (b"CONNECT", b"2", [b"luck"], 501),
    ],
)
def test_requests_that_no_resource_sees(
    method: bytes, version: bytes, expected: list[bytes], status: int | None
) -> None:
    """Tunnels, and expectations that are not known (RFC 9110, sections 9.3.6 and 10.1.1)."""
    fields = [(b"Host", b"a"), *((b"EXPECT", value) for value in expected)]
    assert unserved_status(RequestHead(method, b"/", version, fields)) == status


@pytest.mark.parametrize("known, status", [(True, None), (False, 417)])
def test_an_expectation_that_was_judged_before(known: bool, status: int | None) -> None:
    """Who has kept what the same fields expect need not ask again."""
    head = RequestHead(b"GET", b"/", b"1.1", [])
    assert unserved_status(head, known) == status
