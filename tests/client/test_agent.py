"""However a server goes away: one error, and Node's words for it."""

from __future__ import annotations

import errno
import gc
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from http.cookiejar import CookieJar
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
import treq
import treq.client
from oracle import node
from support.certificates import server_context
from support.upstreams import OK, Connection, RawServer, always
from support.wire import pause, settled, until
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.internet.error import ConnectionRefusedError as TwistedConnectionRefused
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import blockingCallFromThread
from twisted.internet.utils import getProcessOutput
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    CookieAgent,
    FileBodyProducer,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
    readBody,
)
from twisted.web.http import _DataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from twisted_hangup import Limits, ParseError, ServerHangUp
from twisted_hangup.client import Attempt, HangupAgent, RetryAgent, RetryPolicy
from twisted_hangup.client.agent import AnotherAgent
from twisted_hangup.limits import OutboundTimeouts

CLIENT: Final = Path(__file__).parents[1] / "oracle" / "client.js"

#: No deadlines: what a test sees is no work of theirs.
PATIENT: Final = OutboundTimeouts(
    connect_seconds=0, head_seconds=0, silence_seconds=0, idle_seconds=3600
)

Script = Callable[[Connection], object]
Make = Callable[..., tuple[Any, RawServer]]


@pytest.fixture(params=["own", "around Agent"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """An agent, on connections of its own or around Twisted's, and a server for it."""
    yield from _make(request.param)


@pytest.fixture
def own() -> Iterator[Make]:
    """An agent on connections of its own, and a server for it."""
    yield from _make("own")


def _make(kind: str) -> Iterator[Make]:
    from twisted.internet import reactor

    servers: list[RawServer] = []
    closers: list[Callable[[], Deferred[Any]]] = []

    def make(script: Script, **arguments: Any) -> tuple[HangupAgent, RawServer]:
        server = RawServer(script)
        servers.append(server)
        if kind == "own":
            arguments.setdefault("timeouts", PATIENT)
            agent = HangupAgent.from_reactor(reactor, **arguments)
            closers.append(agent.close)
        else:
            pool = HTTPConnectionPool(reactor)
            pool.retryAutomatically = False
            closers.append(pool.closeCachedConnections)
            agent = HangupAgent(Agent(reactor, pool=pool))
        return agent, server

    yield make
    for close in closers:
        pytest_twisted.blockon(close())
    for server in servers:
        server.close()


def get(agent: Any, server: RawServer, path: str = "/") -> Deferred[Any]:
    return agent.request(b"GET", (server.url + path).encode())  # type: ignore[no-any-return]


async def error_of(waiting: Deferred[Any]) -> Any:
    try:
        await waiting
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def read_by_the_client() -> None:
    """Wait in the server's thread until the client, in the reactor's, has read what is there."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    turns: Any = settled  # which it makes a Deferred of
    blockingCallFromThread(reactor, turns)


def after_head(*then: bytes, reset: bool = False) -> Script:
    def run(connection: Connection) -> None:
        connection.read_head()
        connection.send(*then)
        if reset:  # which takes away what has not been read
            read_by_the_client()
            connection.reset()

    return run


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"

#: BEHAVIOUR of Node 26.10 as a client: what the server does, and Node's error.
ROWS = {
    "closes": (after_head(), "socket hang up", "ECONNRESET", "waiting"),
    "closes in the status line": (after_head(b"HTTP/1."), "socket hang up", "ECONNRESET", "head"),
    "closes in the fields": (after_head(HEAD[:30]), "socket hang up", "ECONNRESET", "head"),
    "closes after a 100": (
        after_head(b"HTTP/1.1 100 Continue\r\n\r\n"),
        "socket hang up",
        "ECONNRESET",
        "head",
    ),
    "resets": (after_head(reset=True), "read ECONNRESET", "ECONNRESET", "waiting"),
}


@pytest.mark.parametrize("row", ROWS)
@pytest_twisted.ensureDeferred
async def test_no_response(make: Make, row: str) -> None:
    """A server that goes away before its head is complete: Node's reason and code."""
    script, reason, code, phase = ROWS[row]
    agent, server = make(script)
    error = await error_of(get(agent, server))
    assert isinstance(error, ServerHangUp)
    assert (error.reason, error.code) == (reason, code)
    assert error.acted_on
    if isinstance(agent._sender, AnotherAgent):
        assert error.reused is None and error.bytes_received is None
        assert error.__cause__ is not None
        if phase == "head":
            phase = error.phase  # Twisted does not tell the two apart
    else:
        assert error.reused is False and error.bytes_received is not None
        assert isinstance(error.__cause__, (ConnectionDone, ConnectionLost))
    assert error.phase == phase


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "framing", [HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n"]
)
@pytest_twisted.ensureDeferred
async def test_half_a_response(make: Make, framing: bytes, reset: bool) -> None:
    """A body that is cut short is "aborted", for whoever reads it."""
    agent, server = make(after_head(framing + b"half", reset=reset))
    for read in (readBody, treq.content):
        response = await get(agent, server)
        assert response.code == 200
        error = await error_of(read(response))
        assert isinstance(error, ServerHangUp)
        assert (error.reason, error.code, error.phase) == ("aborted", "ECONNRESET", "body")
        assert error.bytes_received


@pytest_twisted.ensureDeferred
async def test_end_of_the_connection_ends_a_body(make: Make) -> None:
    """Without a length that is the ordinary end, as for Node."""
    agent, server = make(after_head(b"HTTP/1.1 200 OK\r\n\r\n", b"all"))
    response = await get(agent, server)
    assert response.length is UNKNOWN_LENGTH
    assert await treq.content(response) == b"all"


@pytest_twisted.ensureDeferred
async def test_no_connection(make: Make) -> None:
    """A refused connection is told as such, and nothing has been acted on."""
    agent, server = make(always(OK))
    server.close()
    error = await error_of(get(agent, server))
    assert isinstance(error, ServerHangUp)
    assert (error.code, error.phase) == ("ECONNREFUSED", "connecting")
    assert error.reason == "connect ECONNREFUSED" and not error.acted_on


#: What code that was written for Twisted's agent traps, by our phase.
TRAPPED: Final[dict[str, tuple[type[Exception], ...]]] = {
    "connecting": (ConnectError,),
    "request": (RequestTransmissionFailed,),
    "waiting": (ResponseNeverReceived, ResponseFailed),
    "head": (ResponseFailed,),
    "body": (ResponseFailed,),
}


def check_is_twisteds(error: Any) -> None:
    """*error* is trapped as Twisted's own would be, has its reasons, and can be pickled."""
    failure = Failure(error)
    assert failure.check(ServerHangUp) and failure.check(*TRAPPED[error.phase])
    assert all(Failure(error).check(kind) for kind in TRAPPED[error.phase])
    assert error.reasons and all(isinstance(reason, Failure) for reason in error.reasons)
    assert str(error) == f"{error.code}: {error.reason} ({error.phase})"
    assert repr(error) == f"{type(error).__name__}({error.reason!r})"
    for again in (pickle.loads(pickle.dumps(error)), copy(error)):
        assert type(again) is type(error) and str(again) == str(error)
        for name in ("reason", "code", "phase", "reused", "bytes_received", "acted_on"):
            assert getattr(again, name) == getattr(error, name)
        assert again.reasons == [] and again.response is None


@pytest.mark.parametrize("row", ROWS)
@pytest_twisted.ensureDeferred
async def test_no_response_is_twisteds_too(make: Make, row: str) -> None:
    """Code that traps what Twisted raises where no response comes goes on working."""
    agent, server = make(ROWS[row][0])
    error = await error_of(get(agent, server))
    check_is_twisteds(error)
    assert error.reasons[0].check(ConnectionDone, ConnectionLost, ResponseFailed)
    assert error.response is None


@pytest.mark.parametrize(
    "framing", [HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n"]
)
@pytest_twisted.ensureDeferred
async def test_half_a_body_is_twisteds_too(make: Make, framing: bytes) -> None:
    """As Scrapy asks: what is cut short is a ResponseFailed for _DataLoss, with its response."""
    agent, server = make(after_head(framing + b"half"))
    response = await get(agent, server)
    error = await error_of(readBody(response))
    check_is_twisteds(error)
    assert [reason.type for reason in error.reasons] == [ConnectionDone, _DataLoss]
    assert error.response is response


@pytest_twisted.ensureDeferred
async def test_no_connection_is_twisteds_too(make: Make) -> None:
    """Each has the class that Twisted has for it too."""
    agent, server = make(always(OK))
    server.close()
    error = await error_of(get(agent, server))
    check_is_twisteds(error)
    assert isinstance(error, TwistedConnectionRefused) and error.osError == errno.ECONNREFUSED
    error = await error_of(agent.request(b"GET", b"http://nowhere.invalid/"))
    check_is_twisteds(error)
    assert error.code == "ENOTFOUND" and isinstance(error, DNSLookupError)


@pytest_twisted.ensureDeferred
async def test_timeouts_are_twisteds_too(own: Make) -> None:
    """No answer in time, before and in the body."""
    agent, server = own(half, timeouts=OutboundTimeouts(silence_seconds=0.1))
    error = await error_of(readBody(await get(agent, server)))
    check_is_twisteds(error)
    hasty = OutboundTimeouts(head_seconds=0.1)
    agent, server = own(lambda connection: connection.read_all(), timeouts=hasty)
    check_is_twisteds(await error_of(get(agent, server)))


@pytest_twisted.ensureDeferred
async def test_errors_of_ours_pass_through_another(own: Make) -> None:
    """An agent around one of ours says what that has said, though it is Twisted's as well."""
    inner, server = own(after_head(HEAD + b"half"))
    agent = HangupAgent(CookieAgent(inner, CookieJar()))
    error = await error_of(readBody(await get(agent, server)))
    assert (error.phase, error.reused) == ("body", False)
    server.close()
    error = await error_of(get(agent, server))
    assert (error.phase, error.reused) == ("connecting", False)


@pytest_twisted.ensureDeferred
async def test_what_scrapy_asks_of_a_response(own: Make) -> None:
    """Where the server is, and that the connection is closed without hearing of it at once."""
    agent, server = own(half)
    response = await get(agent, server)
    body = Kept()
    response.deliverBody(body)
    beneath: Any = body.transport
    assert beneath._producer.getPeer().port == server.port
    assert response._transport._producer.getHost().host == "127.0.0.1"
    with pytest.raises(AttributeError):
        beneath._producer.getPeerCertificate()
    await until(lambda: body.data)
    response._transport._producer.abortConnection()
    beneath.stopProducing()
    assert body.reason is None
    await gone(server)
    await until(lambda: body.reason)
    assert body.reason is not None and body.reason.check(CancelledError)


class Kept(Protocol):
    """A body, and how it ended."""

    data = b""
    reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


@pytest.mark.parametrize(
    "answer", [b"220 smtp ready\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"]
)
@pytest_twisted.ensureDeferred
async def test_not_http(own: Make, answer: bytes) -> None:
    """A response that is not HTTP is a `ParseError` with its place."""
    agent, server = own(after_head(answer))
    error = await error_of(get(agent, server))
    assert isinstance(error, ParseError)
    assert error.code.startswith("HPE_") and error.offset is not None


@pytest.mark.parametrize(
    "lines, value",
    [
        ((b"a", b"    b"), "a b"),
        ((b"a,", b"\tb,", b" c"), "a, b, c"),
        ((b"", b" a"), "a"),
        ((b"a", b" "), "a"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_folded_fields(own: Make, lines: tuple[bytes, ...], value: str) -> None:
    """Each fold is a space (RFC 9112, section 5.2), whatever the limits say of lenience."""
    folded = b"\r\n".join(lines)
    head = b"HTTP/1.1 200 OK\r\nX: " + folded + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"2\r\nhi\r\n0\r\nY: " + folded + b"\r\n\r\n"
    agent, server = own(after_head(answer), limits=Limits(head_fields=50))
    response = await get(agent, server)
    assert response.headers.getRawHeaders("X") == [value]
    assert await readBody(response) == b"hi"


CHUNKED: Final = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("rest", ["", "at once", "later"])
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest_twisted.ensureDeferred
async def test_chunks_without_a_body(own: Make, status: bytes, rest: str) -> None:
    """aiohttp's 204 and its like are read; the empty body is nobody's answer."""
    end = b"0\r\n\r\n"

    def script(connection: Connection) -> None:
        if not connection.read_head().startswith(b"GET /next"):
            connection.send(b"HTTP/1.1 " + status + b"\r\n" + CHUNKED + end * (rest == "at once"))
            if rest == "later":
                connection.send(end)
        else:
            connection.send(OK)
        connection.read_all()

    agent, server = own(script)
    response = await get(agent, server)
    assert (response.code, response.length) == (int(status[:3]), 0)
    assert await readBody(response) == b""
    assert await readBody(await get(agent, server, "/next")) == b"ok"
    assert len(server.connections) == 2


@pytest_twisted.ensureDeferred
async def test_head_of_a_chunked_response(own: Make) -> None:
    """It has the fields of the response to GET, and its connection is kept."""
    agent, server = own(always(b"HTTP/1.1 200 OK\r\n" + CHUNKED))
    for _ in range(2):
        response = await agent.request(b"HEAD", server.url.encode())
        assert await readBody(response) == b""
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    "lines", [b"Content-Length: 2\r\nX: y\r\nContent-Length: 2", b"Content-Length: 2, 2"]
)
@pytest_twisted.ensureDeferred
async def test_equal_lengths(own: Make, lines: bytes) -> None:
    """They are one length, and the connection is kept."""
    agent, server = own(always(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\nok"))
    for _ in range(2):
        response = await get(agent, server)
        assert response.headers.getRawHeaders("Content-Length") == ["2"]
        assert response.length == 2 and await readBody(response) == b"ok"
    assert len(server.connections) == 1


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding", b"Connection"])
@pytest_twisted.ensureDeferred
async def test_framing_is_not_folded(own: Make, name: bytes) -> None:
    """Readers disagree on what such a field says."""
    head = b"HTTP/1.1 200 OK\r\n" + name + b": 2\r\n 3\r\n\r\n"
    agent, server = own(after_head(head))
    assert isinstance(await error_of(get(agent, server)), ParseError)


@pytest_twisted.ensureDeferred
async def test_silence(own: Make) -> None:
    """A server that does not answer in time, and one that stops in the middle."""
    hasty = OutboundTimeouts(head_seconds=0.1)
    agent, server = own(lambda connection: connection.read_all(), timeouts=hasty)
    error = await error_of(get(agent, server))
    assert (error.code, error.phase) == ("ETIMEDOUT", "waiting")

    def stops(connection: Connection) -> None:
        connection.read_head()
        connection.send(HEAD + b"half")
        connection.read_all()

    agent, server = own(stops, timeouts=OutboundTimeouts(silence_seconds=0.1))
    error = await error_of(readBody(await get(agent, server)))
    assert (error.code, error.phase) == ("ETIMEDOUT", "body")


@pytest_twisted.ensureDeferred
async def test_connections_are_reused(make: Make) -> None:
    """One after another over one connection; a stale one is not hidden by a second try."""

    def twice(connection: Connection) -> None:
        for _ in range(2):
            connection.read_head()
            connection.send(OK)
        connection.read_head()

    agent, server = make(twice)
    for _ in range(2):
        assert await readBody(await get(agent, server)) == b"ok"
    assert len(server.connections) == 1
    error = await error_of(get(agent, server))
    assert (error.code, error.reason) == ("ECONNRESET", "socket hang up")
    assert error.reused in (True, None)
    assert len(server.connections) == 1


# Requests.


@pytest_twisted.ensureDeferred
async def test_what_is_sent(own: Make) -> None:
    """Host first, the fields as given, the body framed by its length."""
    bodies: list[bytes] = []

    def script(connection: Connection) -> None:
        while head := connection.read_head():
            bodies.append(connection.read(2) if b"Length: 2" in head else b"")
            connection.send(OK)

    agent, server = own(script)
    headers = Headers({"X": ["1", "2"], "Content-Length": ["99"], "Connection": ["close"]})
    headers.addRawHeader("Upgrade", "websocket")
    body = FileBodyProducer(BytesIO(b"hi"))
    response = await agent.request(b"POST", server.url.encode() + b"/a?b", headers, body)
    assert await readBody(response) == b"ok"
    assert server.connections[0].received == (
        b"POST /a?b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX: 1\r\nX: 2\r\nContent-Length: 2\r\n\r\nhi"
        % server.port
    )
    assert response.request.absoluteURI == server.url.encode() + b"/a?b"
    assert response.version == (b"HTTP", 1, 1) and response.length == 2
    response = await agent.request(b"POST", server.url.encode())
    assert await readBody(response) == b"ok"
    assert b"Content-Length: 0\r\n" in server.connections[0].received


class Pieces:
    """A body of unknown length, or of an announced one that it may not keep to."""

    def __init__(self, *pieces: bytes, length: Any = UNKNOWN_LENGTH) -> None:
        self.length = length
        self.pieces = pieces
        self.stopped = False

    def startProducing(self, consumer: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._produce(consumer))

    async def _produce(self, consumer: Any) -> None:
        for piece in self.pieces:
            await pause(0)
            consumer.write(piece)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None:
        self.stopped = True


def _provide(pieces: Pieces) -> Any:
    from twisted.web.iweb import IBodyProducer
    from zope.interface import directlyProvides

    directlyProvides(pieces, IBodyProducer)
    return pieces


@pytest_twisted.ensureDeferred
async def test_body_of_unknown_length(own: Make) -> None:
    """It goes out in chunks."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.read_until(b"0\r\n\r\n")
        connection.send(OK)

    agent, server = own(script)
    body = _provide(Pieces(b"one", b"", b"two"))
    response = await agent.request(b"PUT", server.url.encode(), None, body)
    assert await readBody(response) == b"ok"
    assert server.connections[0].received.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


@pytest.mark.parametrize("pieces, words", [((b"abc", b"d"), "longer"), ((b"a",), "shorter")])
@pytest_twisted.ensureDeferred
async def test_body_that_breaks_its_promise(
    own: Make, pieces: tuple[bytes, ...], words: str
) -> None:
    """A wrong length is the producer's fault, and the half request is cut off."""
    agent, server = own(lambda connection: connection.read_all())
    body = _provide(Pieces(*pieces, length=3))
    error = await error_of(agent.request(b"PUT", server.url.encode(), None, body))
    assert isinstance(error, ValueError) and words in str(error)
    await until(lambda: len(server.ended) == 1)


@pytest_twisted.ensureDeferred
async def test_server_leaves_during_an_upload(own: Make) -> None:
    """The phase says that the request was still being sent."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.reset()

    agent, server = own(script)
    body = FileBodyProducer(BytesIO(b"x" * 30_000_000))
    error = await error_of(agent.request(b"POST", server.url.encode(), None, body))
    assert isinstance(error, ServerHangUp)
    assert error.phase == "request" and error.code in ("ECONNRESET", "EPIPE")
    check_is_twisteds(error)


@pytest.mark.parametrize(
    "method, uri",
    [
        *((b"GE T", b"http://a/"), (b"GET", b"http://a/\r\nX: 1"), (b"", b"http://a/")),
        (b"CONNECT", b"http://a/"),
    ],
)
def test_request_that_would_break(method: bytes, uri: bytes) -> None:
    """What would smuggle something into the request is refused at once."""
    from twisted.internet import reactor

    with pytest.raises(ValueError, match="is not a"):
        HangupAgent.from_reactor(reactor).request(method, uri)


@pytest_twisted.ensureDeferred
async def test_unknown_scheme(own: Make) -> None:
    """Only http and https are spoken."""
    agent, _ = own(always(OK))
    error = await error_of(agent.request(b"GET", b"ftp://a/"))
    assert "ftp" in str(error)


# Giving up.


def half(connection: Connection) -> None:
    """A server that begins a body, and waits until its client has gone."""
    connection.read_head()
    connection.send(HEAD + b"half")
    connection.read_all()


async def gone(server: RawServer) -> None:
    """Wait until the client of *server* has gone: no deadline of its own would send it."""
    await until(lambda: server.ended)


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest_twisted.ensureDeferred
async def test_cancelling_treq_content(make: Make, unbuffered: bool) -> None:
    """The server hears at once that nobody reads on; from stock it never does."""
    agent, server = make(half)
    client = treq.client.HTTPClient(agent)
    response = await client.get(server.url, unbuffered=unbuffered)
    reading = treq.content(response)
    await settled()
    reading.cancel()
    with suppress(CancelledError):
        await reading
    await gone(server)


@pytest_twisted.ensureDeferred
async def test_cancelling_read_body(make: Make) -> None:
    """The same with Twisted's own."""
    agent, server = make(half)
    reading = readBody(await get(agent, server))
    await settled()
    reading.cancel()
    assert isinstance(await error_of(reading), CancelledError)
    await gone(server)


@pytest_twisted.ensureDeferred
async def test_cancelling_a_request(make: Make) -> None:
    """Before the head has come: the connection goes, the Deferred says what it was."""
    agent, server = make(lambda connection: (connection.read_head(), connection.read_all()))
    waiting = get(agent, server)
    await until(lambda: server.connections and server.connections[0].received)
    waiting.cancel()
    error = await error_of(waiting)
    assert not isinstance(error, ServerHangUp)
    await gone(server)


@pytest_twisted.ensureDeferred
async def test_response_that_nobody_reads(own: Make) -> None:
    """When a response is dropped unread, its connection goes with it."""
    agent, server = own(half)
    response = await get(agent, server)
    del response
    gc.collect()
    await gone(server)


@pytest_twisted.ensureDeferred
async def test_body_is_read_once(own: Make) -> None:
    """Twice is a mistake, and told."""
    agent, server = own(always(OK))
    response = await get(agent, server)
    assert await readBody(response) == b"ok"
    with pytest.raises(RuntimeError, match="delivered already"):
        readBody(response)


# Closing.


async def closed_twice(agent: HangupAgent) -> None:
    """Both of two calls fire."""
    first, second = agent.close(), agent.close()
    await first
    await second
    await agent.close()


@pytest_twisted.ensureDeferred
async def test_close(own: Make) -> None:
    """What waits, what is read and what is idle is closed, and nothing is sent from then on."""

    def script(connection: Connection) -> None:
        if connection.read_head().startswith(b"GET /half"):
            connection.send(HEAD + b"half")
        connection.read_all()

    agent, server = own(script)
    waiting = get(agent, server)
    reading = readBody(await get(agent, server, "/half"))
    await until(lambda: [one.received for one in server.connections if one.received][1:])
    await closed_twice(agent)
    for request in (waiting, reading):
        assert isinstance(await error_of(request), CancelledError)
    assert isinstance(await error_of(get(agent, server)), RuntimeError)
    await until(lambda: len(server.ended) == 2)


def no_such_name(connecting: Deferred[Any]) -> None:
    """What Twisted's endpoint says when it is given up while it looks a name up."""
    connecting.errback(DNSLookupError())


@pytest.mark.parametrize("canceller", [None, no_such_name])
@pytest.mark.parametrize("retry", [False, True])
@pytest_twisted.ensureDeferred
async def test_close_while_connecting(retry: bool, canceller: Any) -> None:
    """No connection comes after it, whatever becomes of the one that is being made."""
    connecting: list[Deferred[Any]] = []
    factories: list[Any] = []

    class Endpoint:
        def connect(self, factory: Any) -> Deferred[Any]:
            factories.append(factory)
            connecting.append(Deferred(canceller))
            return connecting[-1]

    from twisted.internet import reactor

    agent = HangupAgent.from_reactor(reactor, endpoint=lambda uri: Endpoint())  # type: ignore[arg-type, return-value]
    sender: Any = RetryAgent(agent) if retry else agent
    waiting = sender.request(b"GET", b"http://a/")
    await closed_twice(agent)
    assert isinstance(await error_of(waiting), CancelledError)
    assert len(connecting) == 1
    transport = StringTransport()
    protocol = factories[0].buildProtocol(None)
    protocol.makeConnection(transport)
    if canceller is None:
        connecting[0].callback(protocol)
    assert transport.disconnecting and not transport.value()
    protocol.connectionLost(Failure(ConnectionDone()))


@pytest_twisted.ensureDeferred
async def test_close_while_tls_is_set_up(own: Make) -> None:
    """The same there."""
    agent, server = own(lambda connection: connection.read_all())
    waiting = agent.request(b"GET", server.url.replace("http", "https").encode())
    await until(lambda: server.connections)
    await closed_twice(agent)
    assert isinstance(await error_of(waiting), CancelledError)
    await until(lambda: server.ended)


@pytest_twisted.ensureDeferred
async def test_close_between_attempts(own: Make) -> None:
    """A `RetryAgent` sends nothing again after it."""
    agent, server = own(always(OK.replace(b"200", b"503")))
    clock, attempts = Clock(), list[Attempt]()
    again = RetryAgent(agent, clock=clock, on_attempt=attempts.append)
    waiting = again.request(b"GET", server.url.encode())
    await until(lambda: attempts)
    await closed_twice(agent)
    assert not waiting.called
    clock.advance(RetryPolicy().first_delay_seconds)
    assert isinstance(await error_of(waiting), RuntimeError)
    (connection,) = server.connections
    assert connection.received.count(b"GET ") == 1


class Mistaken(Kept):
    """A protocol that cannot begin."""

    def connectionMade(self) -> None:
        raise KeyError("mine")


@pytest_twisted.ensureDeferred
async def test_protocol_that_cannot_begin(own: Make) -> None:
    """Who gives it hears that, and the connection is closed."""
    agent, server = own(half)
    response = await get(agent, server)
    with pytest.raises(KeyError, match="mine"):
        response.deliverBody(Mistaken())
    await gone(server)


# With others.


@pytest.mark.parametrize("again", [False, True])
@pytest_twisted.ensureDeferred
async def test_treq(make: Make, again: bool) -> None:
    """treq with redirects, cookies and JSON works on it, and on a `RetryAgent` around it."""

    def script(connection: Connection) -> None:
        while head := connection.read_head():
            if head.startswith(b"GET /old"):
                connection.send(
                    b"HTTP/1.1 302 There\r\nLocation: /new\r\nSet-Cookie: a=1\r\n"
                    b"Content-Length: 0\r\n\r\n"
                )
            else:
                assert b"a=1" in head
                connection.send(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b'Content-Length: 8\r\n\r\n{"a": 1}'
                )

    agent, server = make(script)
    client = RetryAgent(agent).treq_client() if again else agent.treq_client()
    response = await client.get(server.url + "/old")
    assert await response.json() == {"a": 1}
    assert [old.code for old in response.history()] == [302]


@pytest_twisted.ensureDeferred
async def test_over_tls(own: Make, serve: Callable[..., Any]) -> None:
    """An https server whose certificate is not trusted is a failure to connect."""
    agent, _ = own(always(OK))
    served = serve(tls=server_context())
    error = await error_of(agent.request(b"GET", b"https://localhost:%d/" % served.port))
    assert isinstance(error, ServerHangUp)
    assert error.code == "ERR_SSL_CERTIFICATE_VERIFY_FAILED"
    assert error.phase == "connecting" and not error.acted_on
    check_is_twisteds(error)
    assert isinstance(error, ResponseNeverReceived)  # where Twisted finds it


@pytest_twisted.ensureDeferred
async def test_endpoint_of_ones_own(own: Make) -> None:
    """Where a URI leads may be said by the program."""
    from twisted.internet import reactor

    server = RawServer(always(OK))
    agent, _ = own(
        always(OK), endpoint=lambda uri: TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
    )
    response = await agent.request(b"GET", b"http://nowhere.invalid/")
    assert await readBody(response) == b"ok"
    server.close()
    assert b"Host: nowhere.invalid\r\n" in server.connections[0].received


@pytest_twisted.ensureDeferred
async def test_other_failures_pass() -> None:
    """What is not the network's doing stays what it was."""

    class Broken:
        def request(self, *arguments: Any) -> Deferred[Any]:
            return fail(Failure(KeyError("mine")))

    error = await error_of(HangupAgent(Broken()).request(b"GET", b"http://a/"))
    assert isinstance(error, KeyError)


# Node itself.


@pytest.mark.parametrize("row", ROWS)
@pytest_twisted.ensureDeferred
async def test_node_says_the_same(own: Make, row: str) -> None:
    """Node's client, before the same server, gives the same code and the same words."""
    path = node.find_node()
    if path is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    script, reason, code, _ = ROWS[row]
    _, server = own(script)
    output = await getProcessOutput(path, [str(CLIENT), server.url + "/"])
    assert json.loads(output)["request"] == {"code": code, "message": reason}


@pytest.mark.parametrize("reset", [False, True])
@pytest_twisted.ensureDeferred
async def test_node_says_the_same_of_a_body(own: Make, reset: bool) -> None:
    """The body that a client reads is "aborted"."""
    path = node.find_node()
    if path is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    _, server = own(after_head(HEAD + b"half", reset=reset))
    output = await getProcessOutput(path, [str(CLIENT), server.url + "/"])
    assert json.loads(output)["body"] == {"code": "ECONNRESET", "message": "aborted"}


@pytest_twisted.ensureDeferred
async def test_time_to_connect_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twisted's own bound of 30 seconds goes by the time of day, and cuts a longer one of ours."""
    from twisted.internet import reactor

    timeouts: list[object] = []
    connect: Any = reactor.connectTCP

    def connect_tcp(*arguments: Any, **options: Any) -> Any:
        timeouts.append(options["timeout"])
        return connect(*arguments, **options)

    monkeypatch.setattr(reactor, "connectTCP", connect_tcp)
    server = RawServer(always(OK))
    agent = HangupAgent.from_reactor(reactor)
    await readBody(await agent.request(b"GET", server.url.encode()))
    assert timeouts == [None]
    await agent.close()
    server.close()
