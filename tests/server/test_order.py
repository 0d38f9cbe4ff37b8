"""Good requests and a broken one on one connection: who is answered, in which order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.certificates import server_context
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    SLOW,
    Client,
    Paths,
    Serve,
    Served,
    codes,
    in_thread,
    settled,
    statuses,
    talk,
    until,
)
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from twisted_hangup import ClientError, ClientSocket, HangupSite, UnexpectedEOF
from twisted_hangup.parser.inbox import MOST_MESSAGES
from twisted_hangup.testing import feed

TRANSPORTS: Final = ("tcp", "unix", "tls")


def later(request: Request, seconds: float, what: Callable[[], object]) -> None:
    """Call *what* so many seconds later, on the site's clock."""
    site: Any = request.site
    site.reactor.callLater(seconds, what)


@implementer(IPushProducer)
class Pieces:
    """Writes so many pieces, a turn of the reactor apart, and as fast as they are taken."""

    def __init__(self, request: Request, piece: bytes, count: int) -> None:
        self.request, self.piece, self.left = request, piece, count
        self.paused = self.stopped = self.waiting = False
        request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        if not self.waiting:
            self.waiting = True
            later(self.request, 0, self.write)

    def write(self) -> None:
        self.waiting = False
        if self.stopped or self.paused:
            return
        if self.left:
            self.left -= 1
            self.request.write(self.piece)
            if not self.paused:
                self.resumeProducing()
        else:
            self.request.unregisterProducer()
            self.request.finish()

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.stopped = True


class Streams(Resource):
    """Answers in pieces, with a length or in chunks."""

    isLeaf = True

    def __init__(self, piece: bytes, count: int, length: bool = False) -> None:
        super().__init__()
        self.piece, self.count, self.length = piece, count, length

    def render(self, request: Request) -> int:
        if self.length:
            request.setHeader(b"Content-Length", b"%d" % (len(self.piece) * self.count))
        Pieces(request, self.piece, self.count)
        return NOT_DONE_YET


class Later(Resource):
    """Answers a while later."""

    isLeaf = True

    def render(self, request: Request) -> int:
        def answer() -> None:
            request.write(b"later")
            request.finish()

        later(request, 0.1, answer)
        return NOT_DONE_YET


def paths() -> Paths:
    return Paths(
        chunks=Streams(b"0123456789", 20),
        length=Streams(b"0123456789", 20, length=True),
        much=Streams(bytes(64 * 1024), 64),
        later=Later(),
    )


def get(name: str) -> bytes:
    return f"GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


#: Ways to be broken, and what that is answered.
BROKEN: Final = {
    "head": BAD,
    "request line": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "chunk": b"POST /fast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}

GOODS: Final[dict[str, list[str]]] = {
    "at once": ["fast"] * 3,
    "in chunks": ["chunks", "chunks"],
    "with a length": ["length", "chunks", "fast"],
    "much": ["much", "fast"],
    "later": ["later", "fast", "later"],
    "of all kinds": ["fast", "chunks", "later", "length", "much", "fast"],
}


def served_over(serve: Serve, directory: Path, transport: str) -> Served:
    return serve(
        paths(),
        tls=server_context() if transport == "tls" else None,
        unix=str(directory / "socket") if transport == "unix" else None,
    )


def cut(wire: bytes, how: str) -> list[bytes]:
    """*wire* in one segment, one for each message, or one for each byte."""
    if how == "one":
        return [wire]
    if how == "bytes":
        return [wire[at : at + 1] for at in range(len(wire))]
    return [b"GET " + piece for piece in wire.split(b"GET ")[1:]]


@pytest.mark.parametrize("segments", ["one", "messages", "bytes"])
@pytest.mark.parametrize("goods", GOODS)
def test_good_answers_then_the_error(goods: str, segments: str) -> None:
    """The good answers come first, whole and in order, then the error's, then the close."""
    wire = b"".join(get(name) for name in GOODS[goods]) + BAD
    client = feed(HangupSite(paths()), *cut(wire, segments)).advance(1)
    assert_answered(client.received, GOODS[goods])
    assert client.ended == "fin"
    assert [error.code for error in client.errors] == ["HPE_INVALID_HEADER_TOKEN"]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("segments", ["one", "bytes"])
@pytest_twisted.ensureDeferred
async def test_good_answers_then_the_error_over_a_socket(
    serve: Serve, tmp_path: Path, segments: str, transport: str
) -> None:
    """The same for answers of all kinds, over every transport."""
    served = served_over(serve, tmp_path, transport)
    goods = GOODS["of all kinds"]
    wire = b"".join(get(name) for name in goods) + BAD
    received = await talk(served.port, *cut(wire, segments), tls=transport == "tls")
    assert_answered(received, goods)
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN"]


def assert_answered(received: bytes, goods: list[str]) -> None:
    """All of *goods* is answered, then the error, and nothing after it."""
    assert statuses(received) == [200] * len(goods) + [400]
    assert received.endswith(DEFAULT)
    assert bodies(received) == goods


def bodies(received: bytes) -> list[str]:
    """Which resources the good responses are of, told by their bodies."""
    names = []
    for response in received.split(b"HTTP/1.1 ")[1:-1]:
        head, _, body = response.partition(b"\r\n\r\n")
        chunked = b"chunked" in head
        if chunked:
            body = dechunked(body)
        if body in (b"fast", b"later"):
            names.append(body.decode())
        elif body == b"0123456789" * 20:
            names.append("chunks" if chunked else "length")
        else:
            assert body == bytes(4 * 1024 * 1024)
            names.append("much")
    return names


def dechunked(data: bytes) -> bytes:
    """The body that is in whole chunks; bytes too few or too many are an error."""
    body = b""
    size = -1
    while size:
        digits, _, data = data.partition(b"\r\n")
        size = int(digits, 16)
        body += data[:size]
        assert data[size : size + 2] == b"\r\n"
        data = data[size + 2 :]
    assert data == b""
    return body


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("segments", ["one", "bytes"])
def test_each_way_to_break(broken: str, segments: str) -> None:
    """Wherever the last message breaks, those before it are answered."""
    wire = get("chunks") + get("later") + BROKEN[broken]
    client = feed(HangupSite(paths()), *cut(wire, segments)).advance(1)
    assert statuses(client.received) == [200, 200, 400]
    assert client.received.endswith(b"later\r\n0\r\n\r\n" + DEFAULT)
    assert len(client.errors) == 1


def test_end_of_input_after_good_requests() -> None:
    """A head that the end of input cuts is answered after the good ones."""
    client = feed(HangupSite(paths()), GOOD * 2 + b"GET /fast HT", fin=True)
    assert statuses(client.received) == [200, 200, 400]
    assert isinstance(client.errors[0], UnexpectedEOF)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_slow_reader_of_a_stream_before_an_error(
    serve: Serve, tmp_path: Path, transport: str
) -> None:
    """A client that reads slowly has all of the stream, and the error's answer after it."""
    served = served_over(serve, tmp_path, transport)
    client = await in_thread(
        lambda: Client(served.port, tls=transport == "tls", receive_buffer=32 * 1024).send(
            get("much") + BAD
        )
    )
    received = b""
    while more := await in_thread(lambda: client.socket.recv(65536)):
        received += more
        await settled()
    await in_thread(client.close)
    assert_answered(received, ["much"])


# The client leaves while the error waits.


class Chain:
    """What the handlers of a site saw: the error, and whether they could still answer."""

    def __init__(self, served: Served) -> None:
        self.seen: list[tuple[ClientError, bool, bool]] = []
        served.site.on_client_error(self.note)

    def note(self, failure: Failure, socket: ClientSocket) -> Failure:
        assert isinstance(failure.value, ClientError)
        self.seen.append((failure.value, socket.writable, socket.headers_sent))
        return failure


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("leave", ["close", "reset", "end"])
@pytest_twisted.ensureDeferred
async def test_leaves_while_the_error_waits(
    serve: Serve, tmp_path: Path, leave: str, transport: str
) -> None:
    """Break in a later message: the chain runs when the client leaves, and nobody reads."""
    if (leave, transport) == ("reset", "unix"):
        leave = "close"  # a UNIX socket knows no reset
    served = served_over(serve, tmp_path, transport)
    chain = Chain(served)
    started = served.root.slow.started
    client = await in_thread(
        lambda: Client(served.port, tls=transport == "tls").send(SLOW + GOOD + BAD)
    )
    request = await started
    await served.has_read(client)
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN"]
    assert chain.seen == []
    await in_thread(getattr(client, leave))
    await until(lambda: served.site.open_connections == 0)
    assert chain.seen == [(served.errors[0], False, False)]
    (gone,) = served.root.slow.gone
    assert gone.value.__cause__ is served.errors[0]
    assert request.code == 499
    assert served.root.fast.ran == []
    assert len(served.errors) == 1
    await in_thread(client.close)


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest_twisted.ensureDeferred
async def test_leaves_while_a_stream_is_before_the_error(serve: Serve, leave: str) -> None:
    """The same where the good answer is on its way and its client does not take it."""
    served = serve(Paths(endless=Streams(bytes(64 * 1024), 10**6)))
    chain = Chain(served)
    client = await in_thread(lambda: Client(served.port).send(get("endless") + BAD))
    await until(lambda: served.errors)
    await settled()
    assert (served.codes, chain.seen) == (["HPE_INVALID_HEADER_TOKEN"], [])
    await in_thread(getattr(client, leave))
    await until(lambda: served.site.open_connections == 0)
    assert chain.seen == [(served.errors[0], False, False)]


class BeginsEarly(Request):
    """Begins its response before its body has come, and goes on with it."""

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        if length != 0:
            self.method, self.uri, self.clientproto = b"POST", b"/", b"HTTP/1.1"
            self.write(b"begun")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("good", [b"", GOOD])
@pytest_twisted.ensureDeferred
async def test_break_in_the_body_of_a_begun_response(
    serve: Serve, tmp_path: Path, transport: str, good: bytes
) -> None:
    """The broken message's own response has begun: nothing is written after it."""
    served = serve(
        paths(),
        requestFactory=BeginsEarly,
        tls=server_context() if transport == "tls" else None,
        unix=str(tmp_path / "socket") if transport == "unix" else None,
    )
    chain = Chain(served)
    served.site.on_client_error(lambda failure, socket: b"never")
    head = BROKEN["chunk"][:-4]

    def run() -> bytes:
        client = Client(served.port, tls=transport == "tls").send(good + head)
        received = client.read_until(b"begun\r\n")
        try:
            return received + client.send(b"zz\r\n").read_all()
        except ConnectionResetError:
            return received
        finally:
            client.close()

    received = await in_thread(run)
    assert received.endswith(b"5\r\nbegun\r\n")
    assert statuses(received) == [200] * (2 if good else 1)
    assert chain.seen == [(served.errors[0], True, True)]
    assert served.codes == ["HPE_INVALID_CHUNK_SIZE"]


def test_error_after_the_last_request_is_not_told() -> None:
    """What follows Connection: close is dropped unread, and the answer is not cut."""
    last = get("much")[:-2] + b"Connection: close\r\n\r\n"
    client = feed(HangupSite(paths()), last + BAD * 100)
    assert statuses(client.received) == [200]
    assert client.received.endswith(b"0\r\n\r\n")
    assert (client.errors, client.ended) == ([], "fin")


def test_error_after_more_uploads_than_are_judged_ahead() -> None:
    """All of them are run and answered before the error that was found while they waited."""
    upload = b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
    client = feed(HangupSite(root := Paths()), SLOW + upload * (MOST_MESSAGES + 10) + BAD)
    assert client.errors == []
    root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200] * (MOST_MESSAGES + 11) + [400]
    assert codes(client) == ["HPE_INVALID_HEADER_TOKEN"]
