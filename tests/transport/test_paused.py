"""A client that hangs up while reading from it is paused is noticed within a second."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from support.wire import (
    GOOD,
    SLOW,
    Client,
    HandClock,
    Paths,
    Serve,
    has_left,
    in_thread,
    settled,
    until,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.static import Data

from twisted_hangup import Limits
from twisted_hangup.limits import MIB
from twisted_hangup.transport.layers import transport_beneath
from twisted_hangup.transport.paused import PausedSockets


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("requests", [1, 100, 400, 1200])
@pytest_twisted.ensureDeferred
async def test_backlog_of_a_client_that_left(serve: Serve, leave: str, requests: int) -> None:
    """The hang-up is noticed, the slow request told, and nothing of the backlog run."""
    served = serve(reactor=(clock := HandClock()))
    started = served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW + GOOD * requests))
    await started
    (channel,) = served.site.context.connections
    transport = transport_beneath(channel.transport)
    await settled()
    await in_thread(getattr(client, leave))
    await until(lambda: has_left(transport))
    await settled()
    clock.wait(1)
    await served.emptied()
    assert served.codes == ["ECONNRESET"]
    assert served.errors[0].phase == "response"
    assert len(served.root.slow.gone) == 1
    assert served.root.fast.ran == []


@pytest_twisted.ensureDeferred
async def test_backlog_over_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """The same over a UNIX socket."""
    served = serve(unix=str(tmp_path / "socket"), reactor=(clock := HandClock()))
    started = served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW + GOOD * 1000))
    await started
    await until(lambda: served.site.context.paused._gone)
    await in_thread(client.close)
    clock.wait(1)
    await served.emptied()
    assert served.codes == ["ECONNRESET"]
    assert served.root.fast.ran == []


@pytest_twisted.ensureDeferred
async def test_half_open_backlog_is_kept(serve: Serve) -> None:
    """With allow_half_open a FIN drops no backlog."""
    served = serve(limits=Limits(allow_half_open=True), reactor=(clock := HandClock()))
    started = served.root.slow.started

    def run() -> bytes:
        client = Client(served.port).send(SLOW + GOOD * 1000).end()
        received = client.read_all()
        client.close()
        return received

    received = in_thread(run)
    request = await started
    await settled()
    clock.wait(1)
    request.finish()
    assert (await received).count(b"HTTP/1.1 200 ") == 1001
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_reading_goes_on(serve: Serve) -> None:
    """A client that stays is watched no longer than it is paused."""
    served = serve()
    started = served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW + GOOD * 1000))
    request = await started
    await until(lambda: served.site.context.paused._gone)
    request.finish()
    expected = b"HTTP/1.1 200 "
    received = b""
    while received.count(expected) < 1001:
        piece = await in_thread(lambda: client.socket.recv(65536))
        assert piece
        received += piece
    assert served.site.context.paused._gone == {}
    client.close()


@pytest_twisted.ensureDeferred
async def test_reading_goes_on_when_the_client_reads(serve: Serve) -> None:
    """The same where reading was paused because the client did not read."""
    served = serve(Paths(page=Data(b"x" * 16 * MIB, "text/plain")))
    page = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"
    upload = b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000
    client = await in_thread(lambda: Client(served.port).send(page, upload))
    await until(lambda: served.site.context.paused._gone)

    def read() -> None:
        left = 16 * MIB
        while left > 0:
            piece = client.socket.recv(MIB)
            assert piece
            left -= len(piece)

    await in_thread(read)
    (channel,) = served.site.context.connections
    await until(lambda: channel.phase == "body")
    assert served.site.context.paused._gone == {}
    client.close()
    await until(lambda: served.errors)


def test_what_is_no_descriptor_is_not_watched() -> None:
    """A transport without a file descriptor is left alone, and so is the clock."""
    clock = Clock()
    paused = PausedSockets(clock)
    assert paused.add(StringTransport(), print) is None
    assert clock.getDelayedCalls() == []
