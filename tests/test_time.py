"""Time: what a client has too little of, and what no clock of ours touches."""

from __future__ import annotations

import pytest
import pytest_twisted
from support.wire import GOOD, SLOW, Paths, Serve, statuses, talk

from twisted_hangup import HangupSite, Timeouts
from twisted_hangup.testing import feed

BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"


@pytest.mark.parametrize(
    "wire, phase, seconds", [(b"", "idle", 60), (b"GET / HT", "head", 60), (BODY, "body", 300)]
)
def test_too_slow(wire: bytes, phase: str, seconds: float) -> None:
    """A message that is not complete in time is a RequestTimeout, answered 408."""
    client = feed(HangupSite(Paths()), wire).advance(seconds - 1)
    assert client.errors == []
    client.advance(2)
    assert statuses(client.received) == [408]
    (error,) = client.errors
    assert (error.code, error.phase) == ("ERR_HTTP_REQUEST_TIMEOUT", phase)


@pytest_twisted.ensureDeferred
async def test_too_slow_by_the_reactors_clock(serve: Serve) -> None:
    """Without another clock the time is the reactor's."""
    served = serve(timeouts=Timeouts(head_seconds=0.1))
    assert statuses(await talk(served.port, b"GET / HT")) == [408]
    assert served.codes == ["ERR_HTTP_REQUEST_TIMEOUT"]


def test_idle_connection_is_closed_quietly() -> None:
    """Past the keep-alive time an idle connection is closed, and that is no error."""
    client = feed(HangupSite(Paths(), timeout=10), GOOD).advance(9)
    assert client.ended is None
    assert client.advance(2).ended == "fin"
    assert statuses(client.received) == [200]
    assert client.errors == []


def test_slow_handler_is_never_cut() -> None:
    """No deadline of ours touches a request while it is being answered."""
    root = Paths()
    client = feed(HangupSite(root), SLOW).advance(3600)
    root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200]
    assert client.errors == []
