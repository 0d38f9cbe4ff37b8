"""A client that takes no byte of its response is given up; one that reads slowly is not."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import (
    BAD,
    Client,
    HandClock,
    Paths,
    Serve,
    in_thread,
    settled,
    take_a_little,
    take_some,
    taken_by_peer,
    until,
)
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import Data

from twisted_hangup import Timeouts
from twisted_hangup.transport.layers import transport_beneath
from twisted_hangup.transport.sockets import until_next_look

PAGE = bytes(range(256)) * 65536
SEND_SECONDS = Timeouts().send_seconds
MIB = 1024 * 1024
GET = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="its kernel says what it holds")
LAST = b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Stalled:
    """A site on a clock, whose client takes nothing of what it is sent, or no more."""

    def __init__(
        self, serve: Serve, root: Paths, tls: bool = False, unix: str | None = None
    ) -> None:
        self.clock = HandClock()
        context = server_context() if tls else None
        self.served = serve(root, reactor=self.clock, tls=context, unix=unix)

    async def stuck(self) -> None:
        """Wait until there is no room for anything more."""
        await until(lambda: self.served.site.context.connections)
        await until(self._unsent)
        before = None
        while before != self._unsent():
            before = self._unsent()
            await settled()

    @property
    def socket(self) -> Any:
        """The socket of the connection."""
        (channel,) = self.served.site.context.connections
        return transport_beneath(channel.transport)

    def _unsent(self) -> int:
        return int(self.socket.unsent)

    async def given_up(self) -> None:
        """Wait until the connection has gone, which takes more than `SEND_SECONDS`."""
        self.clock.wait(SEND_SECONDS - 1)
        assert self.served.site.open_connections == 1

        def gone() -> bool:
            self.clock.wait(SEND_SECONDS)  # again where the kernel had room once more
            return self.served.site.open_connections == 0

        await until(gone)


@pytest.mark.parametrize("wire", [GET, LAST])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_client_that_takes_nothing(serve: Serve, wire: bytes, tls: bool) -> None:
    """Past send_seconds without a byte taken the connection is aborted, and told about."""
    stalled = Stalled(serve, Paths(page=Data(PAGE, "application/octet-stream")), tls)
    served = stalled.served
    client = await in_thread(
        lambda: Client(served.port, tls=tls, receive_buffer=16 * 1024).send(wire)
    )
    await stalled.stuck()
    await stalled.given_up()
    if wire is GET:
        assert served.codes == ["ETIMEDOUT"]
    client.close()


@pytest.mark.parametrize("at_a_time", [2 * MIB, pytest.param(64 * 1024, marks=LINUX)])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_client_that_reads_slowly(serve: Serve, tls: bool, at_a_time: int) -> None:
    """A client that takes a little now and then gets all of it, however long that takes.

    The kernel holds megabytes for it, and has no room for more until it has taken a third of them.
    """
    stalled = Stalled(serve, Paths(page=Data(PAGE, "application/octet-stream")), tls)
    client = await in_thread(
        lambda: Client(stalled.served.port, tls=tls, receive_buffer=16 * 1024).send(LAST)
    )
    await until(lambda: stalled.served.site.open_connections)
    (channel,) = stalled.served.site.context.connections
    connection = transport_beneath(channel.transport).socket
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MIB)
    await stalled.stuck()
    received = bytearray()

    def read() -> bytes:
        piece: bytes = client.socket.recv(64 * 1024)
        received.extend(piece)
        return piece

    def read_some() -> None:
        aim = len(received) + at_a_time
        while len(received) < aim and read():
            ...

    for _ in range(6):
        stalled.clock.wait(SEND_SECONDS - 1)
        await take_some(read_some, stalled.socket)
        await stalled.stuck()
    await in_thread(lambda: [*iter(read, b"")])
    assert received.endswith(PAGE)
    assert stalled.served.errors == []
    client.close()


@pytest.mark.parametrize("wire", ["TCP", "TLS", "UNIX"])
@pytest_twisted.ensureDeferred
async def test_client_that_reads_little(serve: Serve, tmp_path: Path, wire: str) -> None:
    """What it reads counts, although the kernel had all of it and takes no more for long.

    Once it reads nothing, it has `SEND_SECONDS` from then on: a look is late, and a deadline too.
    """
    path = str(tmp_path / "socket") if wire == "UNIX" else None
    stalled = Stalled(serve, Paths(page=AtOnce()), wire == "TLS", path)
    port: Any = path or stalled.served.port
    client = await in_thread(
        lambda: Client(port, tls=wire == "TLS", receive_buffer=16 * 1024).send(GET)
    )
    await stalled.stuck()
    for _ in range(4):
        stalled.clock.wait(SEND_SECONDS - 1)
        await take_a_little(lambda: client.socket.recv(4096), stalled.socket)
    sender = stalled.socket
    seen = taken_by_peer(sender)
    stalled.clock.wait(SEND_SECONDS - 1)
    await settled()
    assert stalled.served.site.open_connections == 1
    stalled.clock.wait(1 + until_next_look(SEND_SECONDS) + 1)
    await settled()
    while stalled.served.site.open_connections:
        assert seen < (seen := taken_by_peer(sender))  # only more of it starts the time anew
        stalled.clock.wait(SEND_SECONDS + until_next_look(SEND_SECONDS) + 1)
        await settled()
    assert stalled.served.codes == ["ETIMEDOUT"]
    client.close()


class AtOnce(Resource):
    """Writes for as long as there is room, whenever it is told that there is some."""

    isLeaf = True

    def render(self, request: Request) -> int:
        self.request = request
        request.registerProducer(self, True)
        self.resumeProducing()
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        self.room = True
        while self.room:
            self.request.write(bytes(64 * 1024))

    def pauseProducing(self) -> None:
        self.room = False

    stopProducing = pauseProducing


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_producer_that_leaves_no_room(serve: Serve, tls: bool) -> None:
    """A client that stops to read is given up, too, where a producer writes at once."""
    stalled = Stalled(serve, Paths(page=AtOnce()), tls)

    def read_some() -> Client:
        client = Client(stalled.served.port, tls=tls, receive_buffer=16 * 1024).send(GET)
        for _ in range(400):
            client.socket.recv(16 * 1024)
        return client

    client = await in_thread(read_some)
    await stalled.stuck()
    await stalled.given_up()
    assert stalled.served.codes == ["ETIMEDOUT"]
    client.close()


@pytest_twisted.ensureDeferred
async def test_error_page_that_nobody_reads(serve: Serve) -> None:
    """A client that reads nothing of a large error page does not keep its connection."""
    stalled = Stalled(serve, Paths())
    served = stalled.served
    served.site.on_client_error(lambda failure, socket: PAGE)
    client = await in_thread(lambda: Client(served.port, receive_buffer=16 * 1024).send(BAD))
    await stalled.stuck()
    await stalled.given_up()
    client.close()
