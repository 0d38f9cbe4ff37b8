"""Time: what a client has too little of, and what no clock of ours touches."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from support.wire import GOOD, SLOW, Paths, Serve, statuses, talk
from twisted.internet.task import Clock
from twisted.web.server import Site

from twisted_hangup import HangupSite, Timeouts, forward_client_errors
from twisted_hangup.testing import feed

BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"


@pytest.mark.parametrize("wire, phase, seconds", [(b"GET / HT", "head", 60), (BODY, "body", 300)])
def test_too_slow(wire: bytes, phase: str, seconds: float) -> None:
    """A message that is not complete in time is a RequestTimeout, answered 408."""
    client = feed(HangupSite(Paths()), wire).advance(seconds - 1)
    assert client.errors == []
    client.advance(2)
    assert statuses(client.received) == [408]
    (error,) = client.errors
    assert (error.code, error.phase) == ("ERR_HTTP_REQUEST_TIMEOUT", phase)


@pytest.mark.parametrize(
    "before", [(), (b"\r\n",), (b"\r",), (b"\r\n", b"\n\r\n")], ids=["", "CRLF", "CR", "LF"]
)
def test_first_request_on_a_connection_opened_ahead(before: tuple[bytes, ...]) -> None:
    """It has its whole time from its first byte, which empty lines are not."""
    client = feed(HangupSite(Paths()), *before).advance(59).feed(GOOD[:5])
    client.advance(59).feed(GOOD[5:])
    assert (statuses(client.received), client.errors) == ([200], [])


@pytest.mark.parametrize("wire", [b"GET / HT", BODY])
def test_drip_on_a_connection_opened_ahead(wire: bytes) -> None:
    """The first byte starts the time of the first request once, and no other byte does."""
    client = feed(HangupSite(Paths())).advance(50)
    seconds = 300 if wire is BODY else 60
    for second in range(seconds - 1):
        client.feed(wire[second : second + 1]).advance(1)
    assert client.errors == []
    assert statuses(client.advance(2).received) == [408]


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r"])
def test_connection_on_which_nothing_was_ever_sent(sent: bytes) -> None:
    """It is an error as in Node, and closed without an answer; empty lines are nothing."""
    client = feed(HangupSite(Paths()))
    for _ in range(7):
        client.advance(8).feed(sent)
    assert (client.ended, client.errors) == (None, [])
    assert client.advance(5).ended == "fin"
    (error,) = client.errors
    assert (error.code, error.phase) == ("ERR_HTTP_REQUEST_TIMEOUT", "idle")
    assert (error.status, error.quiet, client.received) == (None, True, b"")


def test_connection_opened_ahead_can_be_spared() -> None:
    """Where places are scarce, it waits for a head, before its first byte and after it."""
    site = HangupSite(Paths())
    client = feed(site)
    (channel,) = site.context.open()
    assert channel.spare == ("head", 0)
    client.advance(50).feed(GOOD[:5])
    assert channel.spare == ("head", 50)


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


def own_site(timeouts: Timeouts | None) -> Site:
    site = Site(Paths())
    forward_client_errors(site, timeouts=timeouts)
    return site


@pytest.mark.parametrize("timeouts", [None, Timeouts(keep_alive_seconds=5)])
@pytest.mark.parametrize(
    "make", [own_site, lambda timeouts: HangupSite(Paths(), timeouts=timeouts)]
)
def test_keep_alive_time_that_is_set_later(make: Any, timeouts: Timeouts | None) -> None:
    """``timeOut`` of a site counts for the connections that are made after it is set."""
    site = make(timeouts)
    before = feed(site, GOOD)
    for seconds in (60, 1):
        site.timeOut = seconds
        client = feed(site, GOOD).advance(seconds - 0.5)
        assert client.ended is None
        assert client.advance(1).ended == "fin"
    site.timeOut = None
    assert feed(site, GOOD).advance(100_000).ended is None
    assert before.ended == "fin"


def test_slow_handler_is_never_cut() -> None:
    """No deadline of ours touches a request while it is being answered."""
    root = Paths()
    client = feed(HangupSite(root), SLOW).advance(3600)
    root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200]
    assert client.errors == []


def test_request_in_progress_keeps_no_timer() -> None:
    """Nobody's time runs out while we answer, whatever the client has pipelined meanwhile."""
    site = HangupSite(Paths(), reactor=Clock())
    client = feed(site, SLOW, SLOW)
    assert client.clock.getDelayedCalls() == []
