"""retire(): each connection ends with its next response, which says so."""

from __future__ import annotations

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import GOOD, SLOW, Client, HandClock, Paths, Serve, in_thread, settled, until
from twisted.web.server import Request

from twisted_hangup import HangupSite, Timeouts
from twisted_hangup.testing import MemoryClient, feed

CLOSE = b"\r\nConnection: close\r\n"
POST = b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


def assert_last(client: MemoryClient, before: bytes = b"") -> None:
    """*client* has read one whole response after *before*, which says that it is the last."""
    response = client.received[len(before) :]
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.count(b"HTTP/1.1 ") == 1
    assert CLOSE in response
    assert client.ended == "fin"
    assert client.errors == []


@pytest.mark.parametrize("request_", [GOOD, POST], ids=["lean", "with a body"])
@pytest.mark.parametrize("before", [b"", GOOD], ids=["without a byte", "between requests"])
def test_idle_connection(request_: bytes, before: bytes) -> None:
    """Nothing happens to it; its next request is served."""
    site = HangupSite(Paths())
    client = feed(site, *([before] if before else []))
    received = client.received
    assert CLOSE not in received
    site.retire()
    assert (client.received, client.ended) == (received, None)
    client.feed(request_)
    assert_last(client, received)


@pytest.mark.parametrize("cut", [1, 20, len(POST) - 4, len(POST) - 1])
def test_request_that_is_half_read(cut: int) -> None:
    """It is served."""
    site = HangupSite(Paths())
    client = feed(site, POST[:cut])
    site.retire()
    assert (client.received, client.ended) == (b"", None)
    client.feed(POST[cut:])
    assert_last(client)


def test_request_that_runs() -> None:
    """Its response is the last if that can still be said."""
    site = HangupSite(root := Paths())
    client = feed(site, SLOW)
    site.retire()
    [request] = root.slow.requests
    request.finish()
    client.advance(0)
    assert_last(client)


def test_response_that_has_begun() -> None:
    """It cannot say so any more; the one after it does."""
    site = HangupSite(root := Paths())
    client = feed(site, SLOW)
    [request] = root.slow.requests
    request.write(b"begun")
    site.retire()
    request.finish()
    client.advance(0)
    received = client.received
    assert received.endswith(b"0\r\n\r\n")
    assert CLOSE not in received and client.ended is None
    client.feed(GOOD)
    assert_last(client, received)


def test_next_connection() -> None:
    """Also a connection that is made only now ends with its first response."""
    site = HangupSite(Paths())
    site.retire()
    assert_last(feed(site, GOOD))


def test_keep_alive_time() -> None:
    """A connection that stays idle is closed when its time is over, as always."""
    site = HangupSite(Paths(), timeouts=Timeouts(keep_alive_seconds=20))
    client = feed(site, GOOD)
    site.retire()
    client.advance(19)
    assert client.ended is None
    client.advance(2)
    assert client.ended == "fin"


def test_drain_after_that() -> None:
    """It closes what is still idle."""
    site = HangupSite(Paths())
    clients = [feed(site), feed(site, GOOD)]
    site.retire()
    drained = site.drain()
    for client in clients:
        client.advance(0)
        assert client.ended == "fin"
    assert drained.called


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_connection_without_a_byte(serve: Serve, tls: bool) -> None:
    """Also one in its handshake is served."""
    served = serve(tls=server_context() if tls else None, reactor=HandClock())
    raw = await in_thread(lambda: Client(served.port))
    await until(lambda: served.site.open_connections)
    served.site.retire()
    await settled()

    def run() -> bytes:
        client = raw.start_tls() if tls else raw
        response: bytes = client.send(GOOD).read_all()
        client.close()
        return response

    response = await in_thread(run)
    assert CLOSE in response and response.endswith(b"fast")
    assert served.errors == []
    await served.emptied()


class Own(Request):
    """A request class of the application's, which needs the slower path."""

    def process(self) -> None:
        super().process()


def test_request_class_of_the_application() -> None:
    """Its responses say so, too."""
    site = HangupSite(Paths(), requestFactory=Own)
    client = feed(site, GOOD)
    received = client.received
    site.retire()
    client.feed(GOOD)
    assert_last(client, received)
