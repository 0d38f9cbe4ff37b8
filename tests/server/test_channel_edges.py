"""Corners of one connection's life that a second reader found, each once broken."""

from __future__ import annotations

import time
from typing import Any

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
    Paths,
    Serve,
    in_thread,
    pause,
    statuses,
    talk,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import Data
from zope.interface import implementer, provider

from twisted_hangup import ClientSocket, HangupSite, Limits, Timeouts


@pytest_twisted.ensureDeferred
async def test_slow_answer_before_an_error_has_no_deadline(serve: Serve) -> None:
    """No deadline cuts a running request because a broken one waits behind it."""
    served = serve(timeouts=Timeouts(head_seconds=0.3, request_seconds=0.3))
    started = served.root.slow.started
    received = talk(served.port, SLOW + BAD)
    request = await started
    await pause(1.5)
    request.finish()
    assert statuses(await received) == [200, 400]


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


@pytest_twisted.ensureDeferred
async def test_producer_that_finishes_when_it_is_stopped(serve: Serve) -> None:
    """One chain runs, and nothing behind the dead client's request."""
    served = serve(Paths(stream=Produces()))
    chain: list[Failure] = []

    @served.site.on_client_error
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        chain.append(failure)
        return failure

    wire = b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD
    for leave in ("close", "reset"):
        client = await in_thread(lambda: Client(served.port).send(wire))
        await pause()
        await in_thread(getattr(client, leave))
        await pause()
    assert served.codes == ["ECONNRESET", "ECONNRESET"]
    assert len(chain) == 2
    assert served.root.fast.ran == []


class FinishesThenRaises(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.finish()
        raise ZeroDivisionError("a bug")


@pytest_twisted.ensureDeferred
async def test_resource_that_finishes_and_then_raises(
    serve: Serve, expected_errors: LoggedErrors
) -> None:
    """The finished response stands, the bug is logged, and the connection goes on."""
    served = serve(Paths(done=FinishesThenRaises()))
    wire = b"GET /done HTTP/1.1\r\nHost: a\r\n\r\n"
    received = await talk(served.port, wire + GOOD + BAD)
    assert statuses(received) == [200, 200, 400]
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_request_factory_that_raises(serve: Serve, expected_errors: LoggedErrors) -> None:
    """The client is told, and the bug logged."""
    site = HangupSite(Resource())

    def make_request(*arguments: Any) -> Any:
        raise ZeroDivisionError("a bug")

    site.requestFactory = make_request  # type: ignore[assignment]
    assert statuses(await talk(serve(site).port, GOOD)) == [500]
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_request_factory_without_a_queue(serve: Serve) -> None:
    """An INonQueuedRequestFactory is called with the channel alone, as Twisted does."""

    @provider(INonQueuedRequestFactory)
    def make_request(channel: Any) -> Request:
        return Request(channel)

    site = HangupSite(Fast())
    site.requestFactory = make_request
    assert statuses(await talk(serve(site).port, GOOD + BAD)) == [200, 400]


@pytest_twisted.ensureDeferred
async def test_asynchronous_answer_after_the_clients_fin(serve: Serve) -> None:
    """A client that ends its input right behind the error still reads a late answer."""
    served = serve()

    @served.site.on_client_error
    async def answer(failure: Failure, socket: ClientSocket) -> bytes:
        await pause(0.2)
        return b"late\n"

    assert await talk(served.port, BAD, fin=True) == b"late\n"


@pytest_twisted.ensureDeferred
async def test_coroutine_that_will_not_be_cancelled(serve: Serve) -> None:
    """Past its time the default is sent, whatever the handler goes on doing."""
    served = serve(timeouts=Timeouts(handler_seconds=0.2))
    goes_on: Deferred[None] = Deferred()

    @served.site.on_client_error
    async def stubborn(failure: Failure, socket: ClientSocket) -> bytes:
        try:
            await Deferred()
        except CancelledError:
            await goes_on
        return b"never\n"

    assert await talk(served.port, BAD) == DEFAULT
    goes_on.callback(None)


class ClosesTransport(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        transport: Any = request.transport
        transport.loseConnection()
        return b"bye"


@pytest_twisted.ensureDeferred
async def test_application_that_closes_the_transport(serve: Serve) -> None:
    """Its answer is delivered, and nothing pipelined behind it is run."""
    for context in (None, server_context()):
        served = serve(Paths(bye=ClosesTransport()), tls=context)
        wire = b"GET /bye HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD
        received = await talk(served.port, wire, tls=context is not None)
        assert statuses(received) == [200]
        assert b"bye" in received
        assert served.root.fast.ran == []
        assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_half_open_client_with_an_error_behind(serve: Serve) -> None:
    """With allow_half_open the running request is finished, and then the error answered."""
    served = serve(limits=Limits(allow_half_open=True))
    started = served.root.slow.started
    received = talk(served.port, SLOW + BAD, fin=True)
    request = await started
    await pause()
    request.finish()
    assert statuses(await received) == [200, 400]


@pytest_twisted.ensureDeferred
async def test_idle_tls_connection_runs_nothing_after_its_close(serve: Serve) -> None:
    """What arrives over TLS after the quiet close is not run, and the connection goes."""
    served = serve(
        tls=server_context(),
        timeouts=Timeouts(keep_alive_seconds=0.3, linger_silence_seconds=0.3),
    )

    def run() -> None:
        client = Client(served.port, tls=True).send(GOOD)
        client.read_until(b"0\r\n\r\n")
        time.sleep(1.2)
        client.send(b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        time.sleep(1.2)
        client.close()

    await in_thread(run)
    assert served.root.fast.ran == [b"/fast"]
    assert served.site.open_connections == 0


@pytest_twisted.ensureDeferred
async def test_slow_reader_over_tls(serve: Serve) -> None:
    """A response before Connection: close is whole, however slowly it is read."""
    page = bytes(range(256)) * 16384
    served = serve(
        Paths(page=Data(page, "application/octet-stream")),
        tls=server_context(),
        timeouts=Timeouts(linger_silence_seconds=0.3),
    )

    def run() -> bytes:
        client = Client(served.port, tls=True, receive_buffer=16 * 1024)
        client.send(b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = bytearray()
        while more := client.socket.recv(65536):
            received += more
            time.sleep(0.005)
        client.close()
        return bytes(received)

    assert (await in_thread(run)).endswith(page)


@pytest_twisted.ensureDeferred
async def test_slow_reader_is_not_idle(serve: Serve) -> None:
    """The keep-alive time counts from when the client has its response, not before."""
    page = bytes(range(256)) * 16384
    served = serve(
        Paths(page=Data(page, "application/octet-stream")),
        timeouts=Timeouts(keep_alive_seconds=0.3),
    )

    def run() -> bytes:
        client = Client(served.port, receive_buffer=16 * 1024)
        client.send(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1.5)
        received = client.read_all()
        client.close()
        return received

    assert (await in_thread(run)).endswith(page)


@pytest_twisted.ensureDeferred
async def test_client_that_does_not_read_gets_no_further_answers(serve: Serve) -> None:
    """Pipelined requests are run only as far as their client takes the responses."""
    page = bytes(500_000)
    fast = Fast()
    fast.render = lambda request: fast.ran.append(request.uri) or page  # type: ignore[method-assign, func-returns-value]
    served = serve(Paths(big=fast))
    wire = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 100

    def run() -> tuple[int, bytes]:
        client = Client(served.port, receive_buffer=16 * 1024).send(wire + BAD)
        time.sleep(0.5)
        ran_unread = len(fast.ran)
        received = client.read_all()
        client.close()
        return ran_unread, received

    ran_unread, received = await in_thread(run)
    assert ran_unread < 20
    assert statuses(received) == [200] * 100 + [400]


@pytest_twisted.ensureDeferred
async def test_drain_finishes_an_upload(serve: Serve) -> None:
    """A message that has begun is answered before the connection is closed."""
    served = serve()
    head = b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    client = await in_thread(lambda: Client(served.port).send(head + b"ab"))
    await pause()
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
