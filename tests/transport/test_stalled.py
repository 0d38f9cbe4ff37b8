"""A client that takes no byte of its response is given up; one that reads slowly is not."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import BAD, Client, Paths, Serve, in_thread, pause
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import Data

from twisted_hangup import Timeouts

PAGE = bytes(range(256)) * 65536
QUICK = Timeouts(send_seconds=0.5, linger_silence_seconds=0.5, keep_alive_seconds=0.5)
GET = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("wire", [GET, LAST])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_client_that_takes_nothing(serve: Serve, wire: bytes, tls: bool) -> None:
    """Past send_seconds without a byte taken the connection is aborted, and told about."""
    context = server_context() if tls else None
    served = serve(Paths(page=Data(PAGE, "application/octet-stream")), timeouts=QUICK, tls=context)
    client = await in_thread(
        lambda: Client(served.port, tls=tls, receive_buffer=16 * 1024).send(wire)
    )
    for _ in range(40):
        await pause(0.1)
        if served.site.open_connections == 0:
            break
    assert served.site.open_connections == 0
    if wire is GET:
        assert served.codes == ["ETIMEDOUT"]
    client.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_client_that_reads_slowly(serve: Serve, tls: bool) -> None:
    """A client that takes a little now and then gets all of it, however long that takes."""
    page = PAGE[: 4 * 1024 * 1024]
    context = server_context() if tls else None
    served = serve(Paths(page=Data(page, "application/octet-stream")), timeouts=QUICK, tls=context)

    def run() -> bytes:
        client = Client(served.port, tls=tls, receive_buffer=16 * 1024).send(LAST)
        received = bytearray()
        while more := client.socket.recv(64 * 1024):
            received += more
            time.sleep(0.01)
        client.close()
        return bytes(received)

    assert (await in_thread(run)).endswith(page)
    assert served.errors == []


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
    context = server_context() if tls else None
    served = serve(Paths(page=AtOnce()), timeouts=QUICK, tls=context)

    def read_some() -> Client:
        client = Client(served.port, tls=tls, receive_buffer=16 * 1024).send(GET)
        for _ in range(400):
            client.socket.recv(16 * 1024)
        return client

    client = await in_thread(read_some)
    for _ in range(40):
        await pause(0.1)
        if served.site.open_connections == 0:
            break
    assert served.codes == ["ETIMEDOUT"]
    client.close()


@pytest_twisted.ensureDeferred
async def test_error_page_that_nobody_reads(serve: Serve) -> None:
    """A client that reads nothing of a large error page does not keep its connection."""
    served = serve(timeouts=QUICK)
    served.site.on_client_error(lambda failure, socket: PAGE)
    client = await in_thread(lambda: Client(served.port, receive_buffer=16 * 1024).send(BAD))
    for _ in range(40):
        await pause(0.1)
        if served.site.open_connections == 0:
            break
    assert served.site.open_connections == 0
    client.close()
