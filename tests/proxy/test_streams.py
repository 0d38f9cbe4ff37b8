"""Uploads that are passed on while they come, from fronts over TCP, TLS and HTTP/2."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from hyperframe.frame import DataFrame, RstStreamFrame
from support.certificates import server_context
from support.http2_client import H2Client, fields_of
from support.proxying import Proxied
from support.proxying import proxied as proxied
from support.upstreams import OK, Connection, RawServer
from support.wire import (
    PATIENCE,
    Client,
    HandClock,
    Serve,
    filled,
    in_thread,
    settled,
    statuses,
    take_a_little,
    until,
    wait_for,
)
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from twisted_hangup import Limits, OutboundTimeouts, ProxyResource, Timeouts, forward_client_errors
from twisted_hangup.server.bodies import LARGEST_HELD
from twisted_hangup.transport.layers import transport_beneath

#: A piece of a body that is too large to be held, and one with which it still is.
PIECE = b"x" * (LARGEST_HELD + 1)
HELD = b"y" * LARGEST_HELD

#: More than the buffers on the way.
MUCH = 20_000_000


class Upload:
    """A client that sends a body piece by piece.

    Args:
        front: ``"tcp"``, ``"tls"`` or ``"h2"``.
        length: What it announces; None for chunks, or over HTTP/2 for nothing.
        h2: A connection to send it on.
    """

    def __init__(
        self,
        port: int,
        front: str,
        length: int | None,
        path: bytes = b"/up",
        method: bytes = b"PUT",
        h2: H2Client | None = None,
    ) -> None:
        self.front = front
        self._chunked = length is None
        if front == "h2":
            self.h2 = h2 or H2Client(port)
            more = [] if length is None else [(b"content-length", b"%d" % length)]
            head = self.h2.headers(fields_of(path, *more, method=method), end=False)
            self.stream = head.stream_id
            self.h2.send(head)
        else:
            self.client = Client(port, tls=front == "tls")
            framing = (
                b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
            )
            self.client.send(b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (method, path, framing))

    def send(self, data: bytes) -> Upload:
        """Send *data*, over HTTP/2 as long as the stream is not over."""
        if self.front == "h2":
            answer = self.h2.stream(self.stream)
            for start in range(0, len(data), 16_000):
                self.h2.until(lambda: answer.over or self.h2.room(self.stream) >= 16_000)
                if answer.over:
                    break
                self.h2.send(DataFrame(self.stream, data=data[start : start + 16_000]))
        else:
            self.client.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return self

    def end(self) -> Upload:
        if self.front == "h2":
            self.h2.data(self.stream, b"")
        elif self._chunked:
            self.client.send(b"0\r\n\r\n")
        return self

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the response, which has a Content-Length."""
        if self.front == "h2":
            stream = self.h2.answer(self.stream)
            assert stream.status is not None
            return stream.status, stream.body
        return self._answer(self.client.read_until(b"\r\n\r\n"))

    def send_until_answered(self, data: bytes) -> tuple[int, bytes]:
        """Send *data* for as long as no response has come."""
        if self.front == "h2":
            return self.send(data).answer()
        return self._answer(self.client.send_until(b"\r\n\r\n", data))

    def _answer(self, head: bytes) -> tuple[int, bytes]:
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        return int(head.split()[1]), self.client.read(int(length[1]) if length else 0)

    def leave(self) -> None:
        """Hang up, or over HTTP/2 give the stream up."""
        if self.front == "h2":
            self.h2.send(RstStreamFrame(self.stream, error_code=8))
        else:
            self.client.reset()

    def close(self) -> None:
        (self.h2 if self.front == "h2" else self.client).close()


FRONTS = pytest.mark.parametrize("front", ["tcp", "tls", "h2"])
FRAMINGS = pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])


def tls_of(front: str) -> Any:
    return None if front == "tcp" else server_context()


class Upstream:
    """The script of a server that reads an upload and says how far it has come."""

    def __init__(self, answer: bytes = OK) -> None:
        self.head = b""
        self.body = b""
        self.ended = False
        self._answer = answer

    def __call__(self, connection: Connection) -> None:
        self.take(connection, connection.read_head())

    def take(self, connection: Connection, head: bytes) -> None:
        """Read the body after *head*, and answer."""
        self.head = head
        with suppress(OSError):
            self.ended = self._read_body(connection)
            if self.ended:
                connection.send(self._answer)
                while connection.read_head():
                    connection.send(OK)

    def _read_body(self, connection: Connection) -> bool:
        """Whether all of it has come."""
        if length := re.search(rb"\r\nContent-Length: (\d+)\r\n", self.head):
            while len(self.body) < int(length[1]):
                more = connection.socket.recv(65536)
                if not more:
                    return False
                self.body += more
            return True
        while size := int(connection.read_until(b"\r\n") or b"0", 16):
            self.body += connection.read(size)
            connection.read(2)
        return connection.read_until(b"\r\n") == b"\r\n"


# What goes on while it comes, and what is held.


@FRONTS
@FRAMINGS
@pytest_twisted.ensureDeferred
async def test_body_is_passed_on_while_it_comes(
    proxied: Callable[..., Proxied], front: str, chunked: bool
) -> None:
    """The server has the first piece before the client sends the second, and then all."""
    server = Upstream()
    there = proxied(server, tls=tls_of(front))
    size = 2 * len(PIECE)

    def run() -> Any:
        upload = Upload(there.port, front, None if chunked else size)
        upload.send(PIECE)
        wait_for(lambda: server.body == PIECE)
        answer = upload.send(PIECE).end().answer()
        upload.close()
        return answer

    assert await in_thread(run) == (200, b"ok")
    assert server.body == PIECE + PIECE
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    assert b"\r\n%b\r\n" % framing in server.head
    assert server.head.lower().count(b"\r\ncontent-length") == (not chunked)
    assert there.upstream_errors == [] and there.served.errors == []


@FRONTS
@pytest.mark.parametrize(
    "why", ["small", "buffer_requests", "getChild", "getResourceFor", "process", "form"]
)
@pytest_twisted.ensureDeferred
async def test_body_is_held(serve: Serve, front: str, why: str) -> None:
    """The server sees nothing before the request is complete, and then its length."""
    server = Upstream()
    raw = RawServer(server)
    proxy: Any = ProxyResource(raw.url, buffer_requests=why == "buffer_requests")
    root: Any = proxy
    if why == "getChild":

        class Dynamic(Resource):
            def getChild(self, path: bytes, request: Any) -> Any:
                return proxy

        root = Dynamic()

    class Signed(Request):
        def process(self) -> None:
            assert self.content is not None and len(self.content.read()) == 2 * len(PIECE)
            super().process()

    served = serve(
        root,
        tls=tls_of(front),
        parsePOSTFormSubmission=why == "form",
        requestFactory=Signed if why == "process" else None,
    )
    if why == "getResourceFor":
        served.site.getResourceFor = lambda request: proxy  # type: ignore[method-assign]
    piece = b"y" * (LARGEST_HELD // 2) if why == "small" else PIECE

    def run() -> Any:
        upload = Upload(served.port, front, None, method=b"POST")
        upload.send(piece)
        if front == "h2":
            upload.h2.ping()
        wait_for(lambda: served.site.open_connections)
        assert raw.connections == []
        answer = upload.send(piece).end().answer()
        upload.close()
        return answer

    try:
        assert await in_thread(run) == (200, b"ok")
        assert server.body == piece + piece
        assert b"\r\nContent-Length: %d\r\n" % len(server.body) in server.head
    finally:
        await served.site.drain()
        await proxy.pool.close()
        raw.close()


@pytest.mark.parametrize("site_class", ["ours", "Twisted's"])
@pytest_twisted.ensureDeferred
async def test_proxy_below_other_resources(serve: Serve, site_class: str) -> None:
    """It is found where putChild has put it, whatever is in the path after that."""
    server = Upstream()
    raw = RawServer(server)
    root, api = Resource(), Resource()
    root.putChild(b"a b", api)
    proxy = ProxyResource(raw.url)
    api.putChild(b"v1", proxy)
    site: Any = root
    if site_class == "Twisted's":
        site = Site(root, parsePOSTFormSubmission=False)
        forward_client_errors(site)
    served = serve(site)

    def run() -> Any:
        upload = Upload(served.port, "tcp", 2 * len(PIECE), b"/a%20b/v1/x/y?z")
        upload.send(PIECE)
        wait_for(lambda: server.body == PIECE)
        answer = upload.send(PIECE).answer()
        upload.close()
        return answer

    try:
        assert await in_thread(run) == (200, b"ok")
    finally:
        await proxy.pool.close()
        raw.close()


@FRAMINGS
@pytest_twisted.ensureDeferred
async def test_next_request_on_the_connection(
    proxied: Callable[..., Proxied], chunked: bool
) -> None:
    """An upload that was answered after its end leaves the connection to the next."""
    server = Upstream()
    there = proxied(server)

    def run() -> Any:
        upload = Upload(there.port, "tcp", None if chunked else 2 * len(PIECE))
        first = upload.send(PIECE).send(PIECE).end().answer()
        upload.client.send(b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        rest = upload.client.read_all()
        upload.close()
        return first, statuses(rest)

    assert await in_thread(run) == ((200, b"ok"), [200])


# Ends.


@FRONTS
@FRAMINGS
@pytest_twisted.ensureDeferred
async def test_client_leaves_in_the_middle(
    proxied: Callable[..., Proxied], front: str, chunked: bool
) -> None:
    """The server sees its connection go, and never an end of the body."""
    server = Upstream()
    there = proxied(server, tls=tls_of(front))

    def run() -> None:
        upload = Upload(there.port, front, None if chunked else 10 * len(PIECE))
        upload.send(PIECE)
        wait_for(lambda: server.body == PIECE)
        upload.leave()
        wait_for(lambda: there.server.ended)
        upload.close()

    await in_thread(run)
    assert not server.ended
    assert there.upstream_errors == []
    if front != "h2":
        await until(lambda: there.served.errors)
        (error,) = there.served.errors
        assert (error.code, error.phase) == ("ECONNRESET", "body")


@pytest.mark.parametrize("front", ["tcp", "tls"])
@pytest.mark.parametrize("answers", [False, True])
@pytest_twisted.ensureDeferred
async def test_broken_chunk_in_the_middle(
    proxied: Callable[..., Proxied], front: str, answers: bool
) -> None:
    """The client is told, by a handler too, and the server's connection is aborted."""
    server = Upstream()
    there = proxied(server, tls=tls_of(front))
    if answers:

        @there.site.on_client_error
        def answer(failure: Any, socket: Any) -> None:
            socket.respond(418, b"no")

    def run() -> bytes:
        upload = Upload(there.port, front, None)
        upload.send(PIECE)
        wait_for(lambda: server.body == PIECE)
        upload.client.send(b"zz\r\n")
        received = upload.client.read_all()
        upload.close()
        wait_for(lambda: there.server.ended)
        return received

    assert statuses(await in_thread(run)) == [418 if answers else 400]
    assert there.served.codes == ["HPE_INVALID_CHUNK_SIZE"]
    assert not server.ended and there.upstream_errors == []


@FRONTS
@pytest_twisted.ensureDeferred
async def test_body_grows_too_large(serve: Serve, front: str) -> None:
    """It is a 413 when the limit is passed, and the server's connection is aborted."""
    server = Upstream()
    raw = RawServer(server)
    proxy = ProxyResource(raw.url)
    served = serve(proxy, tls=tls_of(front), limits=Limits(body_bytes=len(PIECE) + 10))

    def run() -> Any:
        upload = Upload(served.port, front, None)
        upload.send(PIECE)
        wait_for(lambda: server.body == PIECE)
        upload.send(b"x" * 11)
        if front == "h2":
            answer: Any = upload.answer()[0]
        else:
            (answer,) = statuses(upload.client.read_all())
        upload.close()
        wait_for(lambda: raw.ended)
        return answer

    assert await in_thread(run) == 413
    assert not server.ended
    await served.site.drain()
    await proxy.pool.close()
    raw.close()


@FRONTS
@pytest.mark.parametrize("closes", [False, True])
@pytest_twisted.ensureDeferred
async def test_early_answer(proxied: Callable[..., Proxied], front: str, closes: bool) -> None:
    """It reaches the client before its upload ends, whatever the server then does."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.read(len(PIECE))
        connection.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        if not closes:
            connection.read_all()

    there = proxied(script, tls=tls_of(front))

    def run() -> Any:
        upload = Upload(there.port, front, MUCH)
        upload.send(PIECE)
        answer = upload.answer()
        upload.close()
        wait_for(lambda: there.server.ended)
        return answer

    assert await in_thread(run) == (413, b"no")
    assert there.upstream_errors == []


@FRONTS
@pytest_twisted.ensureDeferred
async def test_server_fails_in_the_middle(proxied: Callable[..., Proxied], front: str) -> None:
    """The client reads a 502 though it was still sending."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.read(len(PIECE))
        connection.reset()

    there = proxied(script, tls=tls_of(front))

    def run() -> Any:
        upload = Upload(there.port, front, MUCH)
        status, _ = upload.send(PIECE).answer()
        upload.close()
        return status

    assert await in_thread(run) == 502
    assert [error.code for error in there.upstream_errors] == ["ERR_UPSTREAM_RESET"]


@FRONTS
@pytest_twisted.ensureDeferred
async def test_response_while_the_body_comes(proxied: Callable[..., Proxied], front: str) -> None:
    """What the server sends goes out at once, and the body goes on."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(PIECE)))
        for _ in range(2):
            connection.send(connection.read(len(PIECE)))
        connection.read_head()

    there = proxied(script, tls=tls_of(front))

    def run() -> Any:
        upload = Upload(there.port, front, 2 * len(PIECE))
        upload.send(PIECE)
        if front == "h2":
            upload.h2.until(lambda: upload.h2.stream(upload.stream).body == PIECE)
            answer: Any = upload.send(PIECE).answer()
        else:
            assert b"103 Early Hints" in upload.client.read_until(b"\r\n\r\n")
            assert b"200 OK" in upload.client.read_until(b"\r\n\r\n")
            first = upload.client.read(len(PIECE))
            upload.send(PIECE)
            answer = 200, first + upload.client.read_all()  # it is the last on its connection
        upload.close()
        return answer

    assert await in_thread(run) == (200, 2 * PIECE)


@pytest.mark.parametrize("front", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_client_that_reads_when_it_has_sent(
    proxied: Callable[..., Proxied], front: str
) -> None:
    """A response that fills all buffers does not keep the body from coming."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MUCH)
        sender = threading.Thread(target=send_much, args=(connection,), daemon=True)
        sender.start()
        connection.read(MUCH)
        sender.join(PATIENCE)

    def send_much(connection: Connection) -> None:
        with suppress(OSError):
            connection.send(bytes(MUCH))

    there = proxied(script, tls=tls_of(front))

    def run() -> int:
        upload = Upload(there.port, front, MUCH)
        upload.send(bytes(MUCH))
        received = upload.client.read_all()
        upload.close()
        return len(received.partition(b"\r\n\r\n")[2])

    assert await in_thread(run) == MUCH


# Time.


@FRONTS
@pytest_twisted.ensureDeferred
async def test_server_that_takes_nothing(proxied: Callable[..., Proxied], front: str) -> None:
    """The client waits, without a deadline of its own; the server's ends it with a 504."""
    answered = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        answered.wait(PATIENCE)

    there = proxied(script, tls=tls_of(front))

    def run() -> int:
        upload = Upload(there.port, front, MUCH)
        status = upload.send_until_answered(bytes(MUCH))[0]
        answered.set()
        upload.close()
        return status

    answer = in_thread(run)
    await until(lambda: there.server.connections and there.server.connections[0].received)
    await there.clock.wait_until(lambda: there.upstream_errors)
    assert await answer == 504
    assert [error.code for error in there.upstream_errors] == ["ERR_UPSTREAM_TIMEOUT"]


@pytest_twisted.ensureDeferred
async def test_server_that_takes_little(proxied: Callable[..., Proxied]) -> None:
    """What it takes of the kernel's counts, although the kernel takes no more for long."""
    over = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        over.wait(PATIENCE)

    there = proxied(script)
    there.server.hold_little()
    upload = Upload(there.port, "tcp", MUCH)

    def run() -> None:
        with suppress(OSError):
            upload.send(bytes(MUCH))

    sending = in_thread(run)
    await until(lambda: there.server.connections and there.server.connections[0].received)
    (connection,) = there.proxy.pool._all
    sender = transport_beneath(connection.transport)
    await filled(sender)
    for _ in range(4):
        there.clock.wait(OutboundTimeouts().silence_seconds - 1)
        await take_a_little(lambda: there.server.connections[0].socket.recv(4096), sender)
    assert not there.upstream_errors
    over.set()
    await sending
    upload.close()


@pytest_twisted.ensureDeferred
async def test_stuck_upload_among_others(proxied: Callable[..., Proxied]) -> None:
    """A server that takes nothing of one stream's body does not hold up another's."""
    answered = threading.Event()
    server = Upstream()

    def script(connection: Connection) -> None:
        if b"PUT /stuck" in connection.read_head():
            answered.wait(PATIENCE)
        else:
            server.take(connection, connection.received)

    there = proxied(script, tls=server_context())

    def run() -> Any:
        stuck = Upload(there.port, "h2", MUCH, b"/stuck")
        h2 = stuck.h2
        h2.until(lambda: h2.settings)
        while h2.ping().room(stuck.stream) >= 16_000:
            h2.send(DataFrame(stuck.stream, data=bytes(16_000)))
        other = Upload(there.port, "h2", 10 * len(PIECE), h2=h2)
        answer = other.send(10 * PIECE).end().answer()
        answered.set()
        h2.close()
        return answer

    assert await in_thread(run) == (200, b"ok")
    assert server.body == 10 * PIECE


@FRONTS
@pytest_twisted.ensureDeferred
async def test_client_that_sends_too_slowly(serve: Serve, front: str) -> None:
    """The time of a request is one of its client; past it that is a 408."""
    server = Upstream()
    raw, clock = RawServer(server), HandClock()
    proxy = ProxyResource(raw.url)
    served = serve(proxy, tls=tls_of(front), reactor=clock, timeouts=Timeouts(request_seconds=100))

    def begin() -> Upload:
        upload = Upload(served.port, front, None).send(PIECE)
        wait_for(lambda: server.body == PIECE)
        return upload

    def read() -> int:
        if front == "h2":
            return int(upload.answer()[0])
        (status,) = statuses(upload.client.read_all())
        return status

    upload = await in_thread(begin)
    clock.wait(101)
    assert await in_thread(read) == 408
    await until(lambda: raw.ended)
    assert not server.ended
    upload.close()
    await served.site.drain()
    await proxy.pool.close()
    raw.close()


@pytest.mark.parametrize("front", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_hang_up_while_the_server_takes_nothing(
    proxied: Callable[..., Proxied], front: str
) -> None:
    """It is noticed though nothing is read from the client."""
    let_go = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        let_go.wait(PATIENCE)
        connection.read_all()

    there = proxied(script, tls=tls_of(front))

    upload = await in_thread(lambda: Upload(there.port, front, MUCH))
    upload.client.socket.setblocking(False)

    def stuck() -> bool:
        """Send what there is room for; whether there is none, and nothing is read."""
        try:
            upload.client.socket.send(bytes(1 << 16))
        except (BlockingIOError, ssl.SSLWantWriteError):
            (channel,) = there.site.context.connections
            return bool(transport_beneath(channel.transport).reading_paused)
        return False

    await until(stuck)
    await until(lambda: there.server.connections and there.server.connections[0].received)
    (connection,) = there.proxy.pool._all
    await filled(transport_beneath(connection.transport))
    await until(stuck)
    upload.leave()
    await until(lambda: there.served.errors)
    let_go.set()
    await until(lambda: there.server.ended)
    assert there.served.codes == ["ECONNRESET"]


@pytest_twisted.ensureDeferred
async def test_site_that_closes(proxied: Callable[..., Proxied]) -> None:
    """An upload that has begun is still taken and answered."""
    server = Upstream()
    there = proxied(server)

    def begin() -> Upload:
        upload = Upload(there.port, "tcp", 2 * len(PIECE)).send(PIECE)
        wait_for(lambda: server.body == PIECE)
        return upload

    upload = await in_thread(begin)
    drained = there.site.drain()
    await settled()
    assert await in_thread(lambda: upload.send(PIECE).answer()) == (200, b"ok")
    upload.close()
    await drained
