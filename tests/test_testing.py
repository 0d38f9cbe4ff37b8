"""`twisted_hangup.testing`: what runs in memory says what a socket would say."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import Any, Final

import pytest
import pytest_twisted
from support.documents import run, written_codes
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    PATIENCE,
    SLOW,
    Client,
    HandClock,
    Paths,
    Serve,
    Served,
    in_thread,
    statuses,
    talk,
    until,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from twisted_hangup import (
    ClientError,
    ClientHangUp,
    ClientSocket,
    HangupChannel,
    HangupSite,
    HeaderOverflow,
    HTTP2Error,
    ParseError,
    RequestTimeout,
    Timeouts,
    TLSError,
    UnexpectedEOF,
    forward_client_errors,
)
from twisted_hangup.events import RequestHead
from twisted_hangup.report import DEFAULT_POLICY
from twisted_hangup.testing import MemoryClient, RecordingSocket, client_error, feed
from twisted_hangup.transport.layers import transport_beneath
from twisted_hangup.transport.sockets import held_by_kernel

# The tests in docs/testing.md.
globals().update(
    {name: it for name, it in run("testing").items() if name.startswith("test_") or "Tests" in name}
)


def paths(**arguments: Any) -> HangupSite:
    return HangupSite(Paths(), **arguments)


# A site in memory.

CHUNKED: Final = b"POST /fast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("fin", [False, True])
@pytest.mark.parametrize(
    "pieces",
    [
        [BAD],
        [GOOD, GOOD + BAD[:30], BAD[30:], GOOD],
        [bytes([byte]) for byte in GOOD + BAD],
        [GOOD.replace(b"Host", b"Connection: close\r\nHost") + GOOD],
        [b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"],
        [CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", b"\x16\x03\x01"],
        [GOOD[:-2] + b"X: " + b"a" * 70_000],
        [CHUNKED + b"3\r\nabc"],
        [GOOD],
        [b""],
    ],
    ids=lambda pieces: repr(pieces[0][:20]),
)
@pytest_twisted.ensureDeferred
async def test_the_same_as_on_a_socket(serve: Serve, pieces: list[bytes], fin: bool) -> None:
    """A client in memory reads what a real one reads, and the errors are the same."""
    times = Timeouts(head_seconds=0.2, request_seconds=0.2, keep_alive_seconds=0.2)
    served = serve(timeouts=times, reactor=(clock := HandClock()))
    real = await over_a_socket(served, clock, pieces, fin)
    client = feed(paths(timeouts=times), *pieces, fin=fin).advance(10)
    assert without_date(client.received) == without_date(real)
    assert client.ended == "fin"
    assert [str(error) for error in client.errors] == [str(error) for error in served.errors]
    assert [error.offset for error in client.errors] == [error.offset for error in served.errors]
    assert client.clock.getDelayedCalls() == []


async def over_a_socket(served: Served, clock: HandClock, pieces: list[bytes], fin: bool) -> bytes:
    """What a real client reads, whose time is over once the server has read all that it sent."""
    client = await in_thread(lambda: Client(served.port).send(*pieces))
    if fin:
        client.end()
    received = in_thread(client.read_all)
    if not fin:
        await until(lambda: received.called or served.site.open_connections)
        await until(lambda: received.called or not unread(served, client))
        await clock.wait_until(lambda: received.called)
    data: bytes = await received
    client.close()
    return data


def unread(served: Served, client: Any) -> int:
    """How many bytes two kernels have from *client* for the server."""
    held = held_by_kernel(client.socket)
    for channel in served.site.context.open():
        server = transport_beneath(channel.transport).socket
        held += int.from_bytes(fcntl.ioctl(server, termios.FIONREAD, bytes(4)), sys.byteorder)
    return held


def without_date(received: bytes) -> list[bytes]:
    return [line for line in received.split(b"\r\n") if not line.startswith(b"Date: ")]


def sync(failure: Failure, socket: ClientSocket) -> bytes:
    return b"mine\n"


def deferred(failure: Failure, socket: ClientSocket) -> Deferred[bytes]:
    return succeed(b"mine\n")


async def coroutine(failure: Failure, socket: ClientSocket) -> bytes:
    await succeed(None)
    return b"mine\n"


@pytest.mark.parametrize("handler", [sync, deferred, coroutine])
def test_kinds_of_handlers_and_sites(handler: Any) -> None:
    """Every kind of handler runs, and on every kind of site."""

    class Own(HangupChannel):
        def client_error(self, failure: Failure, socket: ClientSocket) -> Any:
            return handler(failure, socket)

    ours, plain, channels = paths(), Site(Paths()), paths(channel=Own)
    ours.on_client_error(handler)
    forward_client_errors(plain).add(handler)
    for site in (ours, plain, channels):
        client = feed(site, GOOD + BAD)
        assert statuses(client.received) == [200] and client.received.endswith(b"mine\n")
        assert [error.code for error in client.errors] == ["HPE_INVALID_HEADER_TOKEN"]


def test_handler_that_waits() -> None:
    """Time is the site's clock, which code under test may have, too."""
    clock = Clock()
    site = paths(reactor=clock)
    answer: Deferred[bytes] = Deferred()
    clock.callLater(5, answer.callback, b"late\n")
    site.on_client_error(lambda failure, socket: answer)
    client = feed(site, BAD)
    assert client.clock is clock
    assert (client.advance(4).received, client.ended) == (b"", None)
    assert (client.advance(1).received, client.ended) == (b"late\n", "fin")


def test_each_timer_has_its_own_time() -> None:
    """However much time passes at once, what is due happens in its order, at its time."""
    client = feed(paths(), b"GET / HT")
    seen: list[float] = []
    for seconds in (70, 1, 30.5):
        client.clock.callLater(seconds, lambda: seen.append(client.clock.seconds()))
    client.advance(1000)
    assert seen == [1, 30.5, 70]
    assert client.clock.seconds() == 1000
    assert statuses(client.received) == [408]


def test_clients_of_one_site() -> None:
    """They share the site's clock, and each has its own errors."""
    site = paths()
    first, second = feed(site, b"GET / HT"), feed(site, SLOW)
    assert site.open_connections == 2
    first.advance(61)
    second.fin()
    assert [type(error) for error in first.errors] == [RequestTimeout]
    assert [type(error) for error in second.errors] == [ClientHangUp]
    assert first.peer != second.peer


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.ETIMEDOUT])
def test_reset(number: int) -> None:
    """The error has the errno, and whoever waits for the end of the response is told."""
    root = Paths()
    (error,) = feed(HangupSite(root), SLOW).reset(number).errors
    assert (error.code, error.errno) == (errno.errorcode[number], number)
    assert [gone.value.__cause__ for gone in root.slow.gone] == [error]


def test_broken_pipe() -> None:
    """The server meets it when it writes."""
    root = Paths()
    client = feed(HangupSite(root), SLOW).reset(errno.EPIPE)
    assert client.errors == []
    root.slow.requests[0].finish()
    (error,) = client.advance(0).errors
    assert error.reason == "write EPIPE"


def test_client_that_does_not_read() -> None:
    """The server waits for room, and not for ever."""
    client = feed(paths(timeouts=Timeouts(send_seconds=20)))
    client.reading = False
    client.feed(GOOD).advance(19)
    client.reading = True
    assert statuses(client.received) == [200]
    client.reading = False
    client.feed(GOOD * 2000).advance(10)
    assert client.errors == []
    client.advance(11)
    assert [error.code for error in client.errors] == ["ETIMEDOUT"]
    assert client.ended == "reset"


def test_destroyed_connection() -> None:
    """destroy() is seen as a reset."""
    site = paths()
    site.on_client_error(lambda failure, socket: socket.destroy())
    client = feed(site, BAD)
    assert (client.received, client.ended) == (b"", "reset")


WRONG: Final[list[tuple[Callable[[], object], type[Exception], str]]] = [
    (lambda: feed(Resource()), TypeError, r"site is <.*Resource.* HangupSite\(resource\)"),  # type: ignore[arg-type]
    (lambda: feed(Site(Resource())), ValueError, r"site is .* call forward_client_errors\(site\)"),
    (lambda: feed(paths(), "GET /"), TypeError, "a piece is 'GET /' and not bytes; encode it"),  # type: ignore[arg-type]
    (lambda: feed(paths(), BAD).advance(-1), ValueError, "seconds is -1; time only goes on"),
    (lambda: feed(paths(), fin=True).feed(b"a"), ValueError, "has ended its input and sends no"),
    (lambda: feed(paths(), SLOW).reset().fin(), ValueError, "has ended its input and sends no"),
    (lambda: client_error("HPE_INVALID_METOD"), ValueError, "did you mean HPE_INVALID_METHOD?"),
    (lambda: client_error("E"), ValueError, "'E' is no code of a client error; python -m"),
    (lambda: client_error("EPIPE", status=400), TypeError, "status cannot be set; what can is "),
    (lambda: client_error("EPIPE", phase="tail"), ValueError, "phase is 'tail', which is none of"),
]


@pytest.mark.parametrize("call, kind, words", WRONG)
def test_wrong_arguments(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    """They are named, with what to do."""
    with pytest.raises(kind, match=words):
        call()


@pytest_twisted.ensureDeferred
async def test_site_that_serves_real_clients(serve: Serve) -> None:
    """Its connections would never be told the time again."""
    served = serve()
    started = served.root.slow.started
    received = talk(served.port, SLOW)
    request = await started
    with pytest.raises(ValueError, match="which serves real clients; feed another one"):
        feed(served.site, GOOD)
    request.setHeader(b"Connection", b"close")
    request.finish()
    served.site.drain()
    assert statuses(await received) == [200]


def test_no_reactor_is_installed() -> None:
    """Whoever tests may still choose one."""
    program = (
        "import sys; from twisted.internet.task import Clock; from twisted.web.resource import *\n"
        "from twisted_hangup import HangupSite; from twisted_hangup.testing import *\n"
        "client = feed(HangupSite(Resource(), reactor=Clock()), b'GET / HT').advance(61)\n"
        "sys.exit('twisted.internet.reactor' in sys.modules or len(client.errors) != 1)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE).returncode == 0


# Errors.

#: Codes that only servers cause, and one that we never raise.
NOT_OF_CLIENTS: Final = {
    *("HPE_INVALID_STATUS", "ERR_HTTP_INVALID_UPGRADE", "ERR_HTTP_UNREQUESTED_RESPONSE"),
    *("ERR_TLS_CERT_ALTNAME_INVALID", "ERR_HTTP_TOO_MANY_INTERIM_RESPONSES"),
    *("ERR_HTTP_INVALID_RESPONSE", "HPE_CLOSED_CONNECTION"),
}
CODES: Final = sorted(
    {code for code in written_codes() if not code.startswith("ERR_UPSTREAM_")} - NOT_OF_CLIENTS
    | {"ECONNRESET", "EPIPE", "ETIMEDOUT", "ERR_SSL_UNKNOWN_CA", "ERR_HTTP2_PROTOCOL_ERROR"}
)


@pytest.mark.parametrize("code", CODES)
def test_every_code_can_be_made(code: str) -> None:
    """It is as complete as a handler gets it, and tells about itself."""
    error = client_error(code)
    assert error.code == code
    assert error.reason and error.peer is not None and error.masking is DEFAULT_POLICY
    assert error.report().startswith(f"{code}: {error.reason}")
    assert error.__traceback__ is None


@pytest.mark.parametrize(
    "code, kind, phase, status",
    [
        ("HPE_INVALID_METHOD", ParseError, "head", 400),
        ("HPE_HEADER_OVERFLOW", HeaderOverflow, "head", 431),
        ("HPE_INVALID_EOF_STATE", UnexpectedEOF, "head", 400),
        ("ERR_HTTP_REQUEST_TIMEOUT", RequestTimeout, "head", 408),
        ("ECONNRESET", ClientHangUp, "response", None),
        ("ERR_SSL_HTTP_REQUEST", TLSError, "handshake", 400),
        ("ERR_SSL_UNKNOWN_CA", TLSError, "handshake", None),
        ("ERR_HTTP2_PROTOCOL_ERROR", HTTP2Error, "idle", None),
    ],
)
def test_classes(code: str, kind: type[ClientError], phase: str, status: int | None) -> None:
    """Class, phase and status are those of the code."""
    error = client_error(code)
    assert (type(error), error.phase, error.status) == (kind, phase, status)


def test_attributes_of_an_error() -> None:
    """They can be had otherwise."""
    error = client_error("ECONNRESET", phase="idle", reason="read ECONNRESET", errno=104)
    assert str(error) == "ECONNRESET: read ECONNRESET (idle)"
    assert (error.errno, error.peer is None) == (104, False)


# A socket without a client.


def writes_and_ends(socket: ClientSocket) -> None:
    socket.write(b"HTTP/1.0 200 OK\r\n")
    socket.end(b"\r\n")


def answers_twice(socket: ClientSocket) -> None:
    socket.respond(418, b"tea\n", {"X-Pot": "1"})
    socket.respond(200)
    socket.write(b"more")


def writes_and_destroys(socket: ClientSocket) -> None:
    socket.write(b"lost")
    socket.destroy()


def answers_head(socket: ClientSocket) -> None:
    socket.error = client_error("HPE_INVALID_HEADER_TOKEN", request=RequestHead(b"HEAD", b"/"))
    socket.respond(400, b"none of this")


@pytest.mark.parametrize("use", [writes_and_ends, answers_twice, answers_head])
def test_recording_socket_is_like_a_real_one(use: Callable[[ClientSocket], None]) -> None:
    """The same calls say the same to the client."""
    site, alone = paths(), RecordingSocket()
    real: list[ClientSocket] = []
    site.on_client_error(lambda failure, socket: real.append(socket) or use(socket))  # type: ignore[func-returns-value]
    client = feed(site, BAD)
    use(alone)
    assert alone.received == client.received
    assert alone.status_sent == real[0].status_sent
    assert alone.ended and not alone.destroyed and not alone.writable


def test_recording_socket_that_is_destroyed() -> None:
    """It can be told from one that was ended."""
    socket = RecordingSocket()
    writes_and_destroys(socket)
    assert socket.ended and socket.destroyed


@pytest.mark.parametrize("headers", [{"Content-Length": "1"}, {"X": "a\r\nb"}, {"a b": "1"}])
def test_recording_socket_refuses(headers: dict[str, str]) -> None:
    """What would break a response is the handler's mistake here, too."""
    socket = RecordingSocket()
    with pytest.raises(ValueError, match="'"):
        socket.respond(200, headers=headers)
    assert socket.received == b"" and socket.writable


def test_connection_of_a_recording_socket() -> None:
    """The client may leave, and then the connection goes."""
    socket = RecordingSocket()
    closed = socket.when_closed()
    socket.peer_left()
    assert not socket.writable
    socket.respond(400)
    assert socket.received == b""
    socket.connection_lost()
    assert socket.closed and closed.called
    assert socket.clock.getDelayedCalls() == []


def test_default_answer() -> None:
    """Without a handler the default comes."""
    client: MemoryClient = feed(paths(), BAD)
    assert (client.received, client.ended) == (DEFAULT, "fin")
