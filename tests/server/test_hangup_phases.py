"""How a client leaves, in which phase, over which transport: what becomes of it.

One table for all: what the application is told, what the client still reads, and what the
request that was running is told.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

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
    Producer,
    Serve,
    Served,
    in_thread,
    pause,
    settled,
    statuses,
    talk,
    until,
)
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from twisted_hangup import ClientHangUp, ClientSocket, Limits, UnexpectedEOF

#: What a platform may tell of a reset beside its name; a bare port tells none.
ERRNOS: Final = {"ECONNRESET": 104, "EPIPE": 32}


class Begins(Resource):
    """Writes a part of its response, and waits."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.gone: list[Failure] = []

    def render(self, request: Request) -> int:
        request.notifyFinish().addErrback(self.gone.append)
        request.write(b"begun")
        self.go_on(request)
        return NOT_DONE_YET

    def go_on(self, request: Request) -> None: ...


class Streams(Begins):
    """Goes on with a producer; ``finish`` ends the response when the producer is stopped."""

    def __init__(self, data: bytes, streaming: bool, finish: bool = False) -> None:
        super().__init__()
        self.data, self.streaming, self.finish = data, streaming, finish
        self.producers: list[Producer] = []

    def go_on(self, request: Request) -> None:
        self.producers.append(Producer(request, self.data, self.finish))
        request.registerProducer(self.producers[-1], self.streaming)
        if self.streaming:
            request.write(self.data)


def get(name: bytes) -> bytes:
    return b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % name


#: More than any two socket buffers hold.
MUCH: Final = bytes(16 * 1024 * 1024)

POST = b"POST /fast HTTP/1.1\r\nHost: a\r\n"

#: What the client has sent when it leaves, and what it has read of the answer by then.
SENT: Final[dict[str, tuple[bytes, bytes]]] = {
    "before the first byte": (b"", b""),
    "after an empty line": (b"\r\n", b""),
    "idle": (GOOD, b"fast"),
    "request line": (b"GET /fast HT", b""),
    "head": (b"GET /fast HTTP/1.1\r\nHost: a\r\nX", b""),
    "second head": (GOOD + b"GET /fast HTTP/1.1\r\nHost: a\r\nX", b"fast"),
    "body": (POST + b"Content-Length: 9\r\n\r\nabc", b""),
    "chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\nabc", b""),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX", b""),
    "working": (SLOW, b""),
    "begun": (get(b"begun"), b"begun\r\n"),
    "push producer": (get(b"push"), b"begun\r\n"),
    "push producer, not read": (get(b"pushmuch"), b""),
    "pull producer, not read": (get(b"pullmuch"), b""),
    "producer that finishes": (get(b"finishing"), b"begun\r\n"),
    "producer that finishes, not read": (get(b"finishingmuch"), b""),
    "finished, not read": (get(b"much"), b""),
    "finished, not read, another after it": (get(b"much") + GOOD, b""),
    "finished and closed, not read": (get(b"much")[:-2] + b"Connection: close\r\n\r\n", b""),
    "an error's handler waits": (BAD, b""),
}


def paths() -> Paths:
    """A site's resources for all of these."""
    much = Begins()

    def all_at_once(request: Request) -> bytes:
        request.notifyFinish().addErrback(much.gone.append)
        return MUCH

    much.render = all_at_once  # type: ignore[method-assign, assignment]
    return Paths(
        begun=Begins(),
        push=Streams(b"more", True),
        pushmuch=Streams(MUCH, True),
        pullmuch=Streams(MUCH, False),
        finishing=Streams(b"more", True, finish=True),
        finishingmuch=Streams(MUCH, True, finish=True),
        much=much,
    )


class Transport(NamedTuple):
    """What a client and a server talk over."""

    name: str
    serve: Callable[[Serve, Path], Served]
    connect: Callable[[Served], Client]


TRANSPORTS: Final = {
    "tcp": Transport("tcp", lambda s, _: s(paths()), lambda served: Client(served.port)),
    "unix": Transport(
        "unix",
        lambda s, directory: s(paths(), unix=str(directory / "socket")),
        lambda served: Client(served.port),
    ),
    "tls": Transport(
        "tls",
        lambda s, _: s(paths(), tls=server_context()),
        lambda served: Client(served.port, tls=True),
    ),
}


def fin(client: Client) -> bytes:
    """End the input, and read what still comes."""
    if isinstance(client.socket, ssl.SSLSocket):
        # Python's unwrap() waits for the server's close_notify, and fails where data comes.
        with suppress(OSError, ValueError):
            client.socket.unwrap()
        return b""
    return client.end().read_all()


def rst(client: Client) -> bytes:
    """Reset the connection.  A UNIX socket is reset by a peer that leaves bytes unread."""
    client.reset()
    return b""


KINDS: Final = {"fin": fin, "rst": rst}


async def leave(
    serve: Serve, directory: Path, sent: str, transport: Transport, kind: str
) -> tuple[Served, bytes]:
    """Let a client leave so; gives the server and what the client still read."""
    served = transport.serve(serve, directory)
    wire, read_before = SENT[sent]

    def begin() -> Client:
        client = transport.connect(served).send(wire)
        client.read_until(read_before) if read_before else None
        return client

    client = await in_thread(begin)
    await served.has_read(client)
    if kind == "fin" and transport.name != "tls":
        client.end()
        await until(lambda: all(one._ending.input_over for one in served.site.context.open()))
        read: bytes = await in_thread(client.read_all)
    else:
        read = await in_thread(lambda: KINDS[kind](client))
    await until(lambda: served.site.open_connections == 0)
    await in_thread(client.close)
    return served, read


# A reset.

#: (phase of the ClientHangUp, whether a request was running that is told)
RESET: Final[dict[str, tuple[str, str | None]]] = {
    "before the first byte": ("idle", None),
    "after an empty line": ("idle", None),
    "idle": ("idle", None),
    "request line": ("head", None),
    "head": ("head", None),
    "second head": ("head", None),
    "body": ("body", None),
    "chunk": ("body", None),
    "trailers": ("body", None),
    "working": ("response", "slow"),
    "begun": ("response", "begun"),
    "push producer": ("response", "push"),
    "push producer, not read": ("response", "pushmuch"),
    "pull producer, not read": ("response", "pullmuch"),
    "producer that finishes": ("response", None),
    "producer that finishes, not read": ("response", None),
    "finished, not read": ("response", None),
    "finished, not read, another after it": ("response", None),
    "finished and closed, not read": ("response", None),
}


#: A bare TLS port does not tell a reset from an end of input, which is no error here.
RESETS: Final = [
    (transport, sent)
    for transport in ("tcp", "tls")
    for sent in RESET
    if transport == "tcp" or (RESET[sent][0] != "idle" and "closed" not in sent)
]


@pytest.mark.parametrize("transport, sent", RESETS)
@pytest_twisted.ensureDeferred
async def test_reset(serve: Serve, tmp_path: Path, sent: str, transport: str) -> None:
    """A reset is one ClientHangUp, with the phase that it came in and the request it hit."""
    phase, running = RESET[sent]
    served, _ = await leave(serve, tmp_path, sent, TRANSPORTS[transport], "rst")
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code in ERRNOS, error.phase, error.status) == (True, phase, None)
    assert error.errno in (None, ERRNOS[error.code])
    assert (error.request is None) == (phase == "idle")
    if running is not None:
        assert_told(served, running, error)


def assert_told(served: Served, name: str, error: Any) -> None:
    """The resource *name* was told once, by a Failure that is trapped as it always was."""
    (gone,) = served.root.children[name.encode()].gone
    assert gone.check(ConnectionLost) and gone.check(ConnectionDone)
    assert gone.value.__cause__ is error


@pytest.mark.parametrize("sent", [name for name in RESET if SENT[name][1] or "not read" in name])
@pytest_twisted.ensureDeferred
async def test_close_with_unread_answer(serve: Serve, tmp_path: Path, sent: str) -> None:
    """Over a UNIX socket, closing with bytes unread is what a reset is over TCP."""
    phase, running = RESET[sent]
    served = TRANSPORTS["unix"].serve(serve, tmp_path)
    wire = SENT[sent][0]
    client = await in_thread(lambda: Client(served.port).send(wire))
    await served.has_read(client)
    await in_thread(lambda: client.socket.recv(1, socket.MSG_PEEK))
    await in_thread(client.close)
    await until(lambda: served.site.open_connections == 0)
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code in ERRNOS, error.phase) == (True, phase)
    if running is not None:
        assert_told(served, running, error)


# A FIN.


class Ended(NamedTuple):
    """What comes of a FIN: class and phase of the error, what is read, who is told."""

    error: type[Exception] | None
    phase: str | None
    reads: Callable[[bytes], bool]
    told: str | None = None


def nothing(read: bytes) -> bool:
    return read == b""


def default(read: bytes) -> bool:
    return read == DEFAULT


def cut_short(read: bytes) -> bool:
    return not read.endswith(b"0\r\n\r\n") and b"HTTP/1.1 4" not in read


def whole(read: bytes) -> bool:
    return read.endswith(MUCH)


FIN: Final[dict[str, Ended]] = {
    "before the first byte": Ended(None, None, nothing),
    "after an empty line": Ended(None, None, nothing),
    "idle": Ended(None, None, nothing),
    "request line": Ended(UnexpectedEOF, "head", default),
    "head": Ended(UnexpectedEOF, "head", default),
    "second head": Ended(UnexpectedEOF, "head", default),
    "body": Ended(UnexpectedEOF, "body", default),
    "chunk": Ended(UnexpectedEOF, "body", default),
    "trailers": Ended(UnexpectedEOF, "body", default),
    "working": Ended(ClientHangUp, "response", nothing, "slow"),
    "begun": Ended(ClientHangUp, "response", nothing, "begun"),
    "push producer": Ended(ClientHangUp, "response", cut_short, "push"),
    "push producer, not read": Ended(ClientHangUp, "response", cut_short, "pushmuch"),
    "pull producer, not read": Ended(ClientHangUp, "response", cut_short, "pullmuch"),
    "producer that finishes": Ended(ClientHangUp, "response", lambda read: True),
    "producer that finishes, not read": Ended(ClientHangUp, "response", lambda read: True),
    "finished, not read": Ended(None, None, whole),
    "finished, not read, another after it": Ended(ClientHangUp, "response", whole),
    "finished and closed, not read": Ended(None, None, whole),
}


#: A TLS client that has closed takes nothing more, so it leaves by a reset.
FINS: Final = [
    (transport, sent)
    for transport in TRANSPORTS
    for sent in FIN
    if transport != "tls" or "not read" not in sent
]


@pytest.mark.parametrize("transport, sent", FINS)
@pytest_twisted.ensureDeferred
async def test_end_of_input(serve: Serve, tmp_path: Path, sent: str, transport: str) -> None:
    """A FIN is an error inside a message and before the end of a response, and no other.

    Over TLS the close_notify is the end; whoever has sent it reads no answer any more.
    """
    expected = FIN[sent]
    served, read = await leave(serve, tmp_path, sent, TRANSPORTS[transport], "fin")
    if expected.error is None:
        assert served.errors == []
    else:
        (error,) = served.errors
        assert type(error) is expected.error
        assert error.phase == expected.phase
        assert error.errno is None
        if expected.told:
            assert_told(served, expected.told, error)
    if transport != "tls":
        assert expected.reads(read)


# A handler of the error is still at it.


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_leaves_while_a_handler_waits(
    serve: Serve, tmp_path: Path, kind: str, transport: str
) -> None:
    """It stays the one error; a client that only ended its input reads the late answer."""
    served = TRANSPORTS[transport].serve(serve, tmp_path)
    answer: Deferred[bytes] = Deferred()
    sockets: list[ClientSocket] = []

    @served.site.on_client_error
    def handler(failure: Failure, client_socket: ClientSocket) -> Deferred[bytes]:
        sockets.append(client_socket)
        return answer

    client = await in_thread(lambda: TRANSPORTS[transport].connect(served).send(BAD))
    await until(lambda: sockets)
    left = in_thread(lambda: KINDS[kind](client))
    await until(lambda: sockets[0]._input_ended or sockets[0].closed)
    half_closed = kind == "fin" and transport != "tls"
    resets = transport != "unix"  # without unread bytes, a UNIX socket cannot
    assert sockets[0].writable == (half_closed or (kind == "rst" and not resets))
    answer.callback(b"late\n")
    assert await left == (b"late\n" if half_closed else b"")
    await in_thread(client.close)
    await until(lambda: served.site.open_connections == 0)
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN"]


# Whoever allows half-open clients.


@implementer(IPushProducer)
class Ticks:
    """Writes a number every so often, and finishes after the last."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.numbers = iter(range(5))
        self.again()

    def again(self) -> None:
        number = next(self.numbers, None)
        if number is None:
            self.request.unregisterProducer()
            self.request.finish()
        else:
            self.request.write(b"%d" % number)
            pause(0).addCallback(lambda _: self.again())

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def stopProducing(self) -> None: ...


class Ticking(Begins):
    def go_on(self, request: Request) -> None:
        request.registerProducer(Ticks(request), True)


@pytest.mark.parametrize("unix", [False, True])
@pytest_twisted.ensureDeferred
async def test_half_open(serve: Serve, tmp_path: Path, unix: bool) -> None:
    """With allow_half_open what has begun is finished for a client that ended its input."""
    served = serve(
        Paths(ticking=Ticking()),
        limits=Limits(allow_half_open=True),
        unix=str(tmp_path / "socket") if unix else None,
    )
    received = await talk(served.port, get(b"ticking") + GOOD, fin=True)
    assert statuses(received) == [200, 200]
    assert b"".join(b"1\r\n%d\r\n" % number for number in range(5)) + b"0\r\n\r\n" in received
    assert served.errors == []
    assert served.root.children[b"ticking"].gone == []


@pytest_twisted.ensureDeferred
async def test_half_open_client_that_is_reset_later(serve: Serve) -> None:
    """A half-open client that then goes away is a ClientHangUp like any other."""
    served = serve(limits=Limits(allow_half_open=True))
    started = served.root.slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW).end())
    request = await started
    await settled()
    client.reset()
    request.write(MUCH)  # a reactor that has read the FIN learns of a reset by writing
    await until(lambda: served.errors)
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert error.phase == "response"
    assert_told(served, "slow", error)
