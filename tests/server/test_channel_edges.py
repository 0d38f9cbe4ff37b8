"""Corners of one connection's life that a second reader found, each once broken."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    SLOW,
    Client,
    Fast,
    HandClock,
    Paths,
    Producer,
    Serve,
    codes,
    in_thread,
    settled,
    statuses,
    talk,
    until,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock, deferLater
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from twisted.web.iweb import INonQueuedRequestFactory, IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import Data
from zope.interface import implementer, provider

from twisted_hangup import ClientSocket, HangupSite, Limits, Timeouts
from twisted_hangup.limits import MIB
from twisted_hangup.testing import feed


def test_slow_answer_before_an_error_has_no_deadline() -> None:
    """No deadline cuts a running request because a broken one waits for its answer."""
    root = Paths()
    client = feed(HangupSite(root), SLOW + BAD).advance(3600)
    root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200, 400]


@implementer(IPushProducer)
class FinishesWhenStopped:
    """A producer that finishes its request when its consumer goes away."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None:
        self.request.unregisterProducer()
        self.request.finish()


class Produces(Resource):
    isLeaf = True

    def render(self, request: Request) -> int:
        request.registerProducer(FinishesWhenStopped(request), True)
        return NOT_DONE_YET


@pytest.mark.parametrize("leave", ["fin", "reset"])
def test_producer_that_finishes_when_it_is_stopped(leave: str) -> None:
    """One chain runs, and nothing after the dead client's request."""
    site = HangupSite(root := Paths(stream=Produces()))
    chain: list[Failure] = []

    @site.on_client_error
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        chain.append(failure)
        return failure

    client = feed(site, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD)
    getattr(client, leave)()
    assert codes(client) == ["ECONNRESET"]
    assert len(chain) == 1
    assert root.fast.ran == []


class ProducesThenRaises(Resource):
    isLeaf = True

    def __init__(self, streaming: bool) -> None:
        super().__init__()
        self.streaming = streaming
        self.producers: list[Producer] = []

    def render(self, request: Request) -> int:
        request.write(b"begun")
        self.producers.append(Producer(request, b"more", finish=True))
        request.registerProducer(self.producers[-1], self.streaming)
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("streaming", [True, False])
def test_producer_of_a_response_that_is_cut(streaming: bool, expected_errors: LoggedErrors) -> None:
    """It is stopped, once, and cannot make the response look whole."""
    site = HangupSite(Paths(cut=(resource := ProducesThenRaises(streaming))))
    client = feed(site, b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
    (producer,) = resource.producers
    assert producer.stopped == 1
    assert client.received.endswith(b"\r\n5\r\nbegun\r\n")
    client.fin()
    assert (producer.stopped, site.open_connections) == (1, 0)
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize("streaming", [True, False])
def test_producer_of_a_connection_that_its_application_closes(streaming: bool) -> None:
    """It is stopped when the connection has gone, if not before."""
    client = feed(HangupSite(root := Paths()), SLOW)
    (request,) = root.slow.requests
    request.registerProducer(producer := Producer(request, b""), streaming)
    request.loseConnection()
    client.advance(0).fin()
    assert (producer.stopped, client.ended) == (1, "fin")


def test_producer_of_a_client_that_left_and_takes_nothing() -> None:
    """It is stopped once: when the client has left, and not again when that stalls."""
    client = feed(HangupSite(root := Paths()), SLOW)
    (request,) = root.slow.requests
    request.registerProducer(producer := Producer(request, b""), True)
    request.write(b"x" * MIB)
    client.reading = False
    client.fin().advance(200)
    assert (producer.stopped, client.ended) == (1, "reset")
    assert codes(client) == ["ECONNRESET"]


class FinishesThenRaises(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.finish()
        raise ZeroDivisionError("a bug")


def test_resource_that_finishes_and_then_raises(expected_errors: LoggedErrors) -> None:
    """The finished response stands, the bug is logged, and the connection goes on."""
    site = HangupSite(Paths(done=FinishesThenRaises()))
    client = feed(site, b"GET /done HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD + BAD)
    assert statuses(client.received) == [200, 200, 400]
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


def test_request_that_finishes_and_then_raises(expected_errors: LoggedErrors) -> None:
    """A request class that does so gets no second answer, and the connection ends."""

    class Answers(Request):
        def process(self) -> None:
            self.finish()
            raise ZeroDivisionError("a bug")

    client = feed(HangupSite(Resource(), requestFactory=Answers), GOOD + GOOD)
    assert (statuses(client.received), client.ended) == ([200], "fin")
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


def test_request_factory_that_raises(expected_errors: LoggedErrors) -> None:
    """The client is told, and the bug logged."""

    def make_request(*arguments: Any) -> Any:
        raise ZeroDivisionError("a bug")

    site = HangupSite(Resource(), requestFactory=make_request)
    client = feed(site, GOOD)
    assert statuses(client.received) == [500]
    assert client.received.endswith(b"\r\n\r\nThe server failed to handle this request.\n")
    client = feed(site, GOOD.replace(b"GET", b"HEAD"))
    assert statuses(client.received) == [500]
    assert client.received.endswith(b"\r\n\r\n")
    assert len(expected_errors.flush(ZeroDivisionError)) == 2


def test_request_factory_that_makes_no_requests(expected_errors: LoggedErrors) -> None:
    """The client is told, and the log what was made by whom, once for each request."""
    wraps: Any = proxyForInterface(IRequest)

    def make_request(*arguments: Any) -> Any:
        return wraps(Request(*arguments))

    site = HangupSite(Resource(), requestFactory=make_request)
    body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    for wire in (GOOD, body):
        assert statuses(feed(site, wire, fin=True).received) == [500]
        (event,) = expected_errors.flush(TypeError)
        assert "make_request" in str(event["log_failure"].value) and site.open_connections == 0


def test_request_factory_without_a_queue() -> None:
    """An INonQueuedRequestFactory is called with the channel alone, as Twisted does."""

    @provider(INonQueuedRequestFactory)
    def make_request(channel: Any) -> Request:
        return Request(channel)

    client = feed(HangupSite(Fast(), requestFactory=make_request), GOOD + BAD)
    assert statuses(client.received) == [200, 400]


def test_asynchronous_answer_after_the_clients_fin() -> None:
    """A client that ends its input right after the error still reads a late answer."""
    site = HangupSite(Paths(), reactor=(clock := Clock()))

    @site.on_client_error
    async def answer(failure: Failure, socket: ClientSocket) -> bytes:
        await deferLater(clock, 20, lambda: None)
        return b"late\n"

    assert feed(site, BAD, fin=True).advance(21).received == b"late\n"


def test_coroutine_that_will_not_be_cancelled() -> None:
    """Past its time the default is sent, whatever the handler goes on doing."""
    site = HangupSite(Paths())
    goes_on: Deferred[None] = Deferred()

    @site.on_client_error
    async def stubborn(failure: Failure, socket: ClientSocket) -> bytes:
        try:
            await Deferred()
        except CancelledError:
            await goes_on
        return b"never\n"

    client = feed(site, BAD).advance(31)
    goes_on.callback(None)
    assert client.advance(1).received == DEFAULT


class ClosesTransport(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        transport: Any = request.transport
        transport.loseConnection()
        return b"bye"


@pytest_twisted.ensureDeferred
async def test_application_that_closes_the_transport(serve: Serve) -> None:
    """Its answer is delivered, and nothing pipelined after it is run."""
    for context in (None, server_context()):
        served = serve(Paths(bye=ClosesTransport()), tls=context)
        wire = b"GET /bye HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD
        received = await talk(served.port, wire, tls=context is not None)
        assert statuses(received) == [200]
        assert b"bye" in received
        assert served.root.fast.ran == []
        assert served.errors == []


def test_half_open_client_with_an_error_after_it() -> None:
    """With allow_half_open the running request is finished, and then the error answered."""
    site = HangupSite(root := Paths(), limits=Limits(allow_half_open=True))
    client = feed(site, SLOW + BAD, fin=True)
    root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200, 400]


@pytest_twisted.ensureDeferred
async def test_idle_tls_connection_runs_nothing_after_its_close(serve: Serve) -> None:
    """What arrives over TLS after the quiet close is not run, and the connection goes."""
    served = serve(tls=server_context(), reactor=(clock := HandClock()))
    client = await in_thread(lambda: Client(served.port, tls=True).send(GOOD))
    await in_thread(lambda: client.read_until(b"fast"))
    (channel,) = served.site.context.open()
    clock.wait(Timeouts().keep_alive_seconds + 1)
    assert channel.over
    await in_thread(lambda: client.send(GOOD))
    await served.has_read(client)
    assert served.root.fast.ran == [b"/fast"]
    clock.wait(Timeouts().linger_silence_seconds + 1)
    await until(lambda: served.site.open_connections == 0)
    await in_thread(client.close)


@pytest_twisted.ensureDeferred
async def test_slow_reader_over_tls(serve: Serve) -> None:
    """A response before Connection: close is whole, however slowly it is read."""
    page = bytes(range(256)) * 16384
    root = Paths(page=Data(page, "application/octet-stream"))
    served = serve(root, tls=server_context(), reactor=(clock := HandClock()))
    wire = b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    client = await in_thread(
        lambda: Client(served.port, tls=True, receive_buffer=16 * 1024).send(wire)
    )
    received = b""
    for _ in range(20):
        received += await in_thread(lambda: client.socket.recv(16 * 1024))
        await settled()
        clock.wait(Timeouts().linger_silence_seconds + 1)
    received += await in_thread(client.read_all)
    assert received.endswith(page)
    await in_thread(client.close)


def test_slow_reader_is_not_idle() -> None:
    """The keep-alive time counts from when the client has its response, not before."""
    root = Paths(page=Data(bytes(500_000), "application/octet-stream"))
    client = feed(HangupSite(root, timeouts=Timeouts(keep_alive_seconds=10)))
    client.reading = False
    client.feed(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").advance(50)
    client.reading = True
    client.advance(9)
    assert (statuses(client.received), client.ended) == ([200], None)
    assert client.advance(2).ended == "fin"


def test_client_that_does_not_read_gets_no_further_answers() -> None:
    """Pipelined requests are run only as far as their client takes the responses."""
    fast = Fast()
    fast.render = lambda request: fast.ran.append(request.uri) or bytes(500_000)  # type: ignore[method-assign, func-returns-value]
    client = feed(HangupSite(Paths(big=fast)))
    client.reading = False
    client.feed(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 100 + BAD)
    assert len(fast.ran) == 1
    client.reading = True
    assert statuses(client.received) == [200] * 100 + [400]


@pytest_twisted.ensureDeferred
async def test_drain_finishes_an_upload(serve: Serve) -> None:
    """A message that has begun is answered before the connection is closed."""
    served = serve()
    head = b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    client = await in_thread(lambda: Client(served.port).send(head + b"ab"))
    await until(lambda: served.site.context.phases()["body"])
    drained = served.site.drain()
    received = await in_thread(lambda: client.send(b"cd").read_all())
    client.close()
    assert statuses(received) == [200]
    await drained


def test_positional_arguments_of_site() -> None:
    """HangupSite takes Site's arguments in Site's places."""
    site = HangupSite(Resource(), None, None, 30)
    assert site.timeOut == 30
    assert site.context.timeouts.keep_alive_seconds == 30
