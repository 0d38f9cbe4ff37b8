"""The table of docs/retry.md, row by row: how a server goes, over every transport."""

from __future__ import annotations

import errno
import gzip
import os
import re
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
import treq
import treq.client
from support.certificates import pem
from support.upstreams import OK, Connection, RawServer, always
from support.wire import PATIENCE, HandClock, settled, talk, until, wait_for
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import (
    SSL4ClientEndpoint,
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import Clock
from twisted.internet.threads import blockingCallFromThread
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    ContentDecoderAgent,
    FileBodyProducer,
    GzipDecoder,
    HTTPConnectionPool,
    RedirectAgent,
    ResponseFailed,
    readBody,
)
from twisted.web.error import InfiniteRedirection, PageRedirect, RedirectWithNoLocation
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from twisted_hangup import ProxyResource, ServerHangUp
from twisted_hangup.client import HangupAgent, RetryAgent, RetryPolicy
from twisted_hangup.limits import OutboundTimeouts

PAGE: Final = (Path(__file__).parents[2] / "docs" / "retry.md").read_text()

#: Long enough for what must not pass on a busy machine, and short where it must.
LONG: Final = 60.0
SHORT: Final = 0.3

#: What a server waits for that does nothing for as long as the test lasts.
OVER: Final = threading.Event()

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
LARGE: Final = 30_000_000


@dataclass
class Way:
    """How a server goes.

    Attributes:
        script: What it does with a connection; None where nothing listens.
        timeouts: Those that pass.
        secured: Whether a TLS server sets TLS up.
        trusted: Whether its certificate is.
        host: What it is called.
        body: How long a body the request has.
        full: Whether it lets nobody connect.
        begins: Whether no time passes before its answer has begun.
    """

    script: Callable[[Connection], object] | None
    timeouts: dict[str, float] = field(default_factory=dict)
    secured: bool = True
    trusted: bool = True
    host: str = "localhost"
    body: int = 0
    full: bool = False
    begins: bool = False


def all_read() -> None:
    """Wait until the client, in the reactor's thread, has read what is there."""
    turns: Any = settled
    blockingCallFromThread(reactor, turns)  # type: ignore[arg-type]


def sends(data: bytes = b"", *, end: str) -> Callable[[Connection], None]:
    """Read the request, send *data*, and close (over TLS with a FIN alone), reset or stop."""

    def run(connection: Connection) -> None:
        if end == "reset" and connection.socket.family == socket.AF_UNIX:
            connection.read(10)  # it is reset where something stays unread
        else:
            connection.read_head()
        if data:
            connection.send(data)
            if end != "stop":
                all_read()
        if end == "reset":
            connection.reset()
        elif end == "stop":
            connection.read_all()
        elif isinstance(connection.socket, ssl.SSLSocket) and end != "FIN":
            with suppress(OSError):
                connection.socket.unwrap()

    return run


def hello(end: str) -> Callable[[Connection], None]:
    """Read some of the TLS ClientHello, and close, reset or stop."""

    def run(connection: Connection) -> None:
        connection.read(5 if end == "reset" else 50)
        if end == "reset":
            connection.reset()
        elif end == "plain":
            connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif end == "stop":
            connection.read_all()
        else:
            connection.socket.setblocking(False)
            with suppress(BlockingIOError):  # a reset follows where something stays unread
                connection.read(100_000)

    return run


def reset_in_request(connection: Connection) -> None:
    connection.read_head()
    connection.read(100_000)
    connection.reset()


def takes_nothing(connection: Connection) -> None:
    connection.read_head()
    OVER.wait(PATIENCE)


STOPS: Final = {"head_seconds": SHORT}

WAYS: Final = {
    "is not there": Way(None),
    "has no socket there": Way(None),
    "has no such name": Way(None, host="nowhere.invalid"),
    "does not let us connect in time": Way(None, {"connect_seconds": SHORT}, full=True),
    "is silent while TLS is set up": Way(hello("stop"), {"connect_seconds": SHORT}, secured=False),
    "closes while TLS is set up": Way(hello("close"), secured=False),
    "resets while TLS is set up": Way(hello("reset"), secured=False),
    "does not speak TLS": Way(hello("plain"), secured=False),
    "has a certificate that is not trusted": Way(sends(end="stop"), trusted=False),
    "has a certificate for another name": Way(sends(end="stop"), host="127.0.0.1"),
    "goes while the request is being sent": Way(reset_in_request, body=LARGE),
    "closes before the first byte of its answer": Way(sends(end="close")),
    "resets before the first byte": Way(sends(end="reset")),
    "closes in the middle of the head": Way(sends(HEAD[:-5], end="close")),
    "resets in the middle of the head": Way(sends(HEAD[:-5], end="reset")),
    "closes in the middle of the body": Way(sends(HEAD + b"half", end="close")),
    "resets in the middle of the body": Way(sends(HEAD + b"half", end="reset")),
    "takes the request too slowly": Way(takes_nothing, {"silence_seconds": SHORT}, body=LARGE),
    "does not answer in time": Way(sends(end="stop"), STOPS),
    "stops in the middle of the head": Way(
        sends(HEAD[:-5], end="stop"), {**STOPS, "connect_seconds": 0}, begins=True
    ),
    "stops in the middle of the body": Way(
        sends(HEAD + b"half", end="stop"), {"silence_seconds": SHORT}
    ),
}


def table() -> Iterator[list[str]]:
    """The rows of the page."""
    rows = re.search(r"^\| the server \.\.\. \|.*\n\|[-|]*\|\n((?:\|.*\n)*)", PAGE, re.M)
    assert rows is not None
    for line in rows[1].splitlines():
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def words(cell: str) -> list[str]:
    return re.findall(r"`(.*?)`", cell)


ROWS: Final = [
    pytest.param(transport, agent, row, id=f"{row[0]}, {transport}, {agent}")
    for row in table()
    for transport in (["TCP", "TLS", "UNIX"] if row[1] == "all" else row[1].split(", "))
    for agent in ["own", *(["Twisted's"] if row[5] != "no end" else [])]
]


def test_every_way_is_in_the_page() -> None:
    assert [row[0] for row in table()] == [*WAYS]


@implementer(IAgentEndpointFactory)
class OverUnix:
    """To one path, whatever the URI."""

    def __init__(self, path: str) -> None:
        self._path = path

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return UNIXClientEndpoint(reactor, self._path)


def full_port(cleanup: ExitStack) -> int:
    """A port whose queue is full: what comes for it is dropped."""
    full = cleanup.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(3):
        waiting = cleanup.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
    wait_for(lambda: _is_full(full))
    return int(full.getsockname()[1])


def _is_full(listener: socket.socket) -> bool:
    """Whether more wait in the queue of *listener* than it has room for."""
    information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    waiting, room = struct.unpack_from("II", information, 24)  # tcpi_unacked, tcpi_sacked
    return bool(waiting > room)


class HandReactor(HandClock):
    """Connects as the reactor does, and has a time that a test alone moves."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class Ends:
    """One request that fails, and what it failed with."""

    def __init__(self, way: Way, transport: str, kind: str, path: Path) -> None:
        self._way = way
        self._cleanup = ExitStack()
        tls = way.secured and transport == "TLS"
        self.unix = str(path / "socket") if transport == "UNIX" else None
        server = RawServer(
            way.script or (lambda connection: None),
            unix=self.unix if way.script else None,
            tls=_server_context(path) if tls else None,
        )
        self._cleanup.callback(server.close)
        if way.script is None and not way.full:
            server.close()
        port = full_port(self._cleanup) if way.full else server.port
        scheme = "https" if transport == "TLS" else "http"
        self.url = f"{scheme}://{way.host}:{port or 80}/".encode()
        trust = BrowserLikePolicyForHTTPS(Certificate.loadPEM(pem()) if way.trusted else None)
        self._close: Callable[[], Deferred[Any]]
        self._clock = HandReactor() if way.begins else None
        if kind == "own":
            seconds = {"connect_seconds": LONG, "head_seconds": LONG, "silence_seconds": LONG}
            agent = HangupAgent.from_reactor(
                self._clock or reactor,
                policy=trust,
                timeouts=OutboundTimeouts(**{**seconds, **way.timeouts}),
                endpoint=self.unix and OverUnix(self.unix).endpointForURI,  # type: ignore[arg-type]
            )
            self._close = agent.close
        else:
            pool = HTTPConnectionPool(reactor)
            pool.retryAutomatically = False
            self._close = pool.closeCachedConnections
            inner: Any = Agent(reactor, trust, way.timeouts.get("connect_seconds"), None, pool)
            if self.unix:
                inner = Agent.usingEndpointFactory(reactor, OverUnix(self.unix), pool)
            agent = HangupAgent(inner)
        self._agent = agent

    async def error(self) -> Any:
        asking = Deferred.fromCoroutine(self._error())
        if self._clock is not None:
            await until(partial(self._has_begun, self._clock))
            await self._clock.wait_until(lambda: asking.called)
        return await asking

    def _has_begun(self, clock: HandClock) -> bool:
        """Whether the agent has some of the answer."""
        pools = self._agent._sender._pools.values()  # type: ignore[union-attr]
        connections = [connection for pool in pools for connection in pool._all]
        if not connections:
            clock.wait(0.25)  # before it tries another address of the host
        return any(connection.bytes_received for connection in connections)

    async def _error(self) -> Any:
        body: Any = FileBodyProducer(BytesIO(b"x" * self._way.body)) if self._way.body else None
        try:
            method = b"POST" if body else b"GET"
            await readBody(await self._agent.request(method, self.url, None, body))
        except Exception as error:
            return error
        raise AssertionError("it did not fail")

    async def close(self) -> None:
        await self._close()
        self._cleanup.close()


def _server_context(path: Path) -> ssl.SSLContext:
    file = path / "server.pem"
    file.write_bytes(pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.mark.parametrize("transport, agent, row", ROWS)
@pytest_twisted.ensureDeferred
async def test_how_a_server_goes(
    transport: str, agent: str, row: list[str], tmp_path: Path
) -> None:
    """Reason, code and phase are those of the page; over the network only what is there."""
    way, _, reasons, codes, phases, around = row
    OVER.clear()
    ends = Ends(WAYS[way], transport, agent, tmp_path)
    try:
        error = await ends.error()
    finally:
        OVER.set()
        await ends.close()
    assert isinstance(error, ServerHangUp), repr(error)
    assert error.code in words(codes)
    if agent == "own":
        assert error.reason in words(reasons)
        assert error.phase in words(phases)
        assert error.reused is False and error.bytes_received is not None
    else:
        assert error.phase in (words(around) or words(phases))
        assert error.reused is None
    assert error.acted_on is (error.phase != "connecting")


@pytest.mark.parametrize(
    "data, reason", [(b"", "socket hang up"), (HEAD[:-5], "socket hang up"), (HEAD, "aborted")]
)
@pytest_twisted.ensureDeferred
async def test_tls_that_is_not_ended(data: bytes, reason: str, tmp_path: Path) -> None:
    """A FIN without close_notify before it is a FIN, which TLS does not tell from a reset."""
    ends = Ends(Way(sends(data, end="FIN")), "TLS", "own", tmp_path)
    error = await ends.error()
    await ends.close()
    assert error.reason == reason


class Deaf(Protocol):
    """Between a protocol and its transport, whose handshake it does not pass on."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def connectionMade(self) -> None:
        self.inner.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.inner.connectionLost(reason)


@implementer(IStreamClientEndpoint)
class DeafEndpoint:
    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Any:
        factory = Factory.forProtocol(lambda: Deaf(protocolFactory.buildProtocol(None)))
        return self._endpoint.connect(factory).addCallback(lambda deaf: deaf.inner)


TRUST: Final = optionsForClientTLS("localhost", Certificate.loadPEM(pem()))

#: Ways to reach a port over TLS, and whether it is heard when that stands.
ENDPOINTS: Final[dict[str, tuple[Callable[[int], Any], bool]]] = {
    "connectSSL": (lambda port: SSL4ClientEndpoint(reactor, "127.0.0.1", port, TRUST), True),
    "wrapped": (lambda port: wrapClientTLS(TRUST, to_loopback(port)), True),
    "deaf": (lambda port: DeafEndpoint(wrapClientTLS(TRUST, to_loopback(port))), False),
}


def to_loopback(port: int) -> Any:
    return TCP4ClientEndpoint(reactor, "127.0.0.1", port)


@pytest.mark.parametrize("kind", ENDPOINTS)
@pytest_twisted.ensureDeferred
async def test_tls_of_ones_own(kind: str, tmp_path: Path) -> None:
    """An endpoint that a program gives may set TLS up as it likes."""
    endpoint, heard = ENDPOINTS[kind]
    whole = RawServer(always(OK), tls=_server_context(tmp_path))
    silent = RawServer(lambda connection: connection.read_all())
    long = {"connect_seconds": LONG, "head_seconds": LONG}
    short = {"connect_seconds" if heard else "head_seconds": SHORT}
    for server, seconds in ((whole, long), (silent, {**long, **short})):
        agent = HangupAgent.from_reactor(
            reactor,
            endpoint=lambda uri: endpoint(uri.port),
            timeouts=OutboundTimeouts(**seconds),
        )
        asking = agent.request(b"GET", b"https://localhost:%d/" % server.port)
        if server is whole:
            assert await readBody(await asking) == b"ok"
        else:
            with pytest.raises(ServerHangUp) as raised:
                await asking
            assert raised.value.phase == ("connecting" if heard else "waiting")
        await agent.close()
        server.close()


# What is not a server's going away.


def redirects(*lines: bytes) -> Callable[[Connection], None]:
    return always(b"\r\n".join([b"HTTP/1.1 302 Go", *lines, b"Content-Length: 0\r\n\r\n"]))


GZIP: Final = gzip.compress(b"x" * 1000)
CORRUPT: Final = GZIP[:12] + b"\xff" * 8 + GZIP[20:]


@pytest.fixture(params=["own", "Twisted's"])
def inner(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An agent that is to be wrapped."""
    pool = HTTPConnectionPool(reactor)
    pool.retryAutomatically = False
    own = HangupAgent.from_reactor(reactor)
    yield own if request.param == "own" else Agent(reactor, pool=pool)
    pytest_twisted.blockon(own.close())
    pytest_twisted.blockon(pool.closeCachedConnections())


@pytest.fixture(params=["HangupAgent", "RetryAgent", "neither"])
def wrapped(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """What is around it; a `RetryAgent` has to send nothing again."""
    kinds: dict[str, Callable[[Any], Any]] = {
        "HangupAgent": HangupAgent,
        "RetryAgent": RetryAgent,
        "neither": lambda agent: agent,
    }
    return kinds[request.param]


async def failure_of(
    server: RawServer, agent: Any, method: bytes = b"GET", body: Any = None
) -> Any:
    try:
        response = await agent.request(method, server.url.encode(), None, body)
        await readBody(response)
    except Exception as error:
        return error
    finally:
        server.close()
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    "method, script, kind, requests",
    [
        (b"GET", redirects(b"Location: /"), InfiniteRedirection, 4),
        (b"GET", redirects(), RedirectWithNoLocation, 1),
        (b"POST", redirects(b"Location: /"), PageRedirect, 1),
    ],
)
@pytest_twisted.ensureDeferred
async def test_redirects(
    inner: Any,
    wrapped: Callable[[Any], Any],
    method: bytes,
    script: Callable[[Connection], None],
    kind: type[Exception],
    requests: int,
) -> None:
    """What an agent refuses to follow is no hang-up, and is asked for once."""
    server = RawServer(script)
    error = await failure_of(server, wrapped(RedirectAgent(inner, 3)), method)
    assert not isinstance(error, ServerHangUp)
    assert isinstance(error, ResponseFailed) and error.reasons[0].check(kind)
    received = b"".join(connection.received for connection in server.connections)
    assert received.count(b"HTTP/1.1\r\n") == requests


@pytest.mark.parametrize("data", [CORRUPT, b"no gzip"], ids=["corrupt", "none"])
@pytest.mark.parametrize("around", [True, False])
@pytest_twisted.ensureDeferred
async def test_corrupt_gzip(inner: Any, around: bool, data: bytes) -> None:
    """It is a decoding error, in time, and nothing in the log.

    Of an agent of Twisted's only where the decoder is around ours, as in treq.
    """
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data)
    if around or not isinstance(inner, HangupAgent):
        agent: Any = ContentDecoderAgent(HangupAgent(inner), [(b"gzip", GzipDecoder)])
    else:
        agent = RetryAgent(ContentDecoderAgent(inner, [(b"gzip", GzipDecoder)]))
    error = await failure_of(RawServer(always(head + data)), agent)
    assert not isinstance(error, ServerHangUp)
    reasons = [error]
    while inside := getattr(reasons[-1], "reasons", None):
        reasons.append(inside[0].value)
    assert isinstance(reasons[-1], zlib.error)


@pytest_twisted.ensureDeferred
async def test_collector_that_raises(inner: Any, wrapped: Callable[[Any], Any]) -> None:
    """Its error is what the Deferred fails with, and the connection is closed."""

    def collect(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    server = RawServer(sends(HEAD + b"half", end="stop"))
    response = await treq.client.HTTPClient(wrapped(inner)).get(server.url)
    with pytest.raises(OSError, match="full"):
        await treq.collect(response, collect)
    await until(lambda: server.ended)
    server.close()


class Raises(Protocol):
    """A body's protocol with a mistake in it."""

    def __init__(self) -> None:
        self.ended: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        raise KeyError("mine")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason


@pytest.mark.parametrize("whole", [True, False])
@pytest_twisted.ensureDeferred
async def test_protocol_that_raises(inner: Any, whole: bool) -> None:
    """It hears what it has raised; the connection is not used again."""
    agent = HangupAgent(inner)
    script = always(OK) if whole else sends(HEAD + b"half", end="stop")
    server = RawServer(script)
    response = await agent.request(b"GET", server.url.encode())
    protocol = Raises()
    response.deliverBody(protocol)
    reason: Any = await until(lambda: protocol.ended)
    assert reason.check(KeyError)
    await until(lambda: server.ended)
    server.close()


@implementer(IBodyProducer)
class Producer:
    """A body with a mistake in it."""

    length = 5

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.stopped = False

    def startProducing(self, consumer: Any) -> Any:
        if self.kind == "raises":
            raise RuntimeError("mine")
        if self.kind == "fails":
            return fail(RuntimeError("mine"))
        if self.kind == "longer, later":
            reactor.callLater(0, consumer.write, b"too long")
            return Deferred()
        consumer.write(b"too long" if self.kind == "longer" else b"1")
        return Deferred() if self.kind == "longer" else succeed(None)

    def stopProducing(self) -> None:
        self.stopped = True

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


@pytest.mark.parametrize("kind", ["raises", "fails", "longer", "longer, later", "shorter"])
@pytest.mark.parametrize("agent", ["own", "retry"])
@pytest_twisted.ensureDeferred
async def test_producer_with_a_mistake(agent: str, kind: str) -> None:
    """It is told at once, and no other request is sent."""
    server = RawServer(lambda connection: connection.read_all())
    own = HangupAgent.from_reactor(reactor)
    body = Producer(kind)
    sender = own if agent == "own" else RetryAgent(own)
    error = await failure_of(server, sender, b"PUT", body)
    assert isinstance(error, RuntimeError if kind in ("raises", "fails") else ValueError)
    await settled()
    assert body.stopped is kind.startswith("longer")
    await own.close()
    assert len(server.connections) <= 1


@pytest_twisted.ensureDeferred
async def test_timeout_of_another_agent() -> None:
    """Nobody knows how far the request had come, so that it can have been acted on."""

    class Hasty:
        def request(self, *arguments: Any) -> Deferred[Any]:
            return fail(DeferredTimeout())

    error = await failure_of(RawServer(always(OK)), HangupAgent(Hasty()))
    assert (error.code, error.phase, error.acted_on) == ("ETIMEDOUT", "waiting", True)


@pytest.mark.parametrize("secured", [True, False])
@pytest_twisted.ensureDeferred
async def test_deadline_while_connecting(inner: Any, secured: bool) -> None:
    """A deadline of `RetryAgent` says where the request was: with ours in TLS, too."""
    server = RawServer(lambda connection: (connection.read(1), connection.read_all()))
    clock = Clock()
    agent = RetryAgent(inner, clock=clock)
    with ExitStack() as cleanup:
        cleanup.callback(server.close)
        port = server.port if secured else full_port(cleanup)
        scheme = b"https" if secured else b"http"
        asking = agent.request(b"POST", b"%b://localhost:%d/" % (scheme, port))
        if secured:
            await until(lambda: any(connection.received for connection in server.connections))
        clock.advance(RetryPolicy().deadline_seconds)
        with pytest.raises(ServerHangUp) as raised:
            await asking
    known = isinstance(inner, HangupAgent) or not secured
    assert raised.value.code == "ETIMEDOUT"
    assert raised.value.acted_on is not known


@pytest.mark.parametrize("secured", [True, False])
@pytest_twisted.ensureDeferred
async def test_proxy_that_cannot_connect_in_time(serve: Callable[..., Any], secured: bool) -> None:
    """It is a 504, in the time for a connection and not in that for an answer."""
    server = RawServer(lambda connection: connection.read_all())
    with ExitStack() as cleanup:
        cleanup.callback(server.close)
        port = server.port if secured else full_port(cleanup)
        url = f"{'https' if secured else 'http'}://localhost:{port}"
        timeouts = OutboundTimeouts(connect_seconds=SHORT, head_seconds=LONG)
        served = serve(ProxyResource(url, timeouts=timeouts))
        answer = await talk(served.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 504 ")


def _breaks_tls(connection: Connection) -> None:
    """Read the request, and answer past TLS."""
    connection.read_head()
    os.write(connection.socket.fileno(), b"HTTP/1.1 200 OK\r\n\r\n")
    connection.read_all()


@pytest.mark.parametrize("agent", ["own", "Twisted's"])
@pytest_twisted.ensureDeferred
async def test_tls_that_breaks_after_the_request(agent: str, tmp_path: Path) -> None:
    """The server has the request: that its answer is no TLS does not take that back."""
    ends = Ends(Way(_breaks_tls), "TLS", agent, tmp_path)
    error = await ends.error()
    await ends.close()
    assert error.code.startswith("ERR_SSL_")
    assert error.acted_on
