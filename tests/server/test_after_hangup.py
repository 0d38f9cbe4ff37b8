"""What an application does with a request after its client has left: nothing comes of it."""

from __future__ import annotations

import errno
import gc
import tempfile
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest
import pytest_twisted
from hyperframe.frame import RstStreamFrame
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.http2_client import H2Client
from support.wire import (
    SLOW,
    Client,
    Fast,
    Paths,
    Producer,
    Serve,
    Served,
    in_thread,
    settled,
    until,
)
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure
from twisted.web.server import Request
from twisted.web.util import DeferredResource

from twisted_hangup import ClientHangUp, HangupSite
from twisted_hangup.testing import feed


class Logging(HangupSite):
    """Keeps the access log."""

    def __init__(self) -> None:
        self.paths = Paths()
        super().__init__(self.paths)
        self.lines: list[tuple[bytes, int]] = []

    def log(self, request: Any) -> None:
        self.lines.append((request.uri, request.code))


def http1(served: Served, secure: bool) -> Client:
    return Client(served.port, tls=secure).send(SLOW)


def http2(served: Served, secure: bool) -> H2Client:
    client = H2Client(served.port)
    client.request(b"/slow")
    return client


class Way(NamedTuple):
    """How a client asks, and how it leaves."""

    ask: Callable[[Served, bool], Any]
    leave: Callable[[Any], object]
    secure: bool = False


LEAVE: Final = {
    "reset": Way(http1, Client.reset),
    "fin": Way(http1, Client.end),
    "tls": Way(http1, Client.close, secure=True),
    "HTTP/2 stream reset": Way(http2, lambda client: client.send(RstStreamFrame(1)), secure=True),
    "HTTP/2 connection closed": Way(http2, H2Client.close, secure=True),
}


async def left(
    serve: Serve, how: str, meanwhile: Callable[[Any], object] = lambda request: None
) -> tuple[Any, Logging]:
    """A request whose client has left so; *meanwhile* is called with it before that."""
    way = LEAVE[how]
    site = Logging()
    served = serve(site, tls=server_context() if way.secure else None)
    started: Deferred[Request] = site.paths.slow.started
    asking = in_thread(lambda: way.ask(served, way.secure))
    request = await started
    meanwhile(request)
    gone: Deferred[None] = Deferred()
    request.notifyFinish().addErrback(lambda _: gone.callback(None))
    client = await asking
    await in_thread(lambda: way.leave(client))
    await gone
    await in_thread(client.close)
    return request, site


#: What applications do with a request, stock Twisted raising or not.
USES: Final[dict[str, Callable[[Any], object]]] = {
    "write too much": lambda request: (
        request.setHeader(b"Content-Length", b"1"),
        request.write(b"late"),
    ),
    "write": lambda request: request.write(b"late"),
    "finish": lambda request: request.finish(),
    "finish twice": lambda request: (request.finish(), request.finish()),
    "write after finish": lambda request: (request.finish(), request.write(b"late")),
    "registerProducer": lambda request: request.registerProducer(Producer(request, b"x"), True),
    "unregisterProducer": lambda request: request.unregisterProducer(),
    "notifyFinish": lambda request: request.notifyFinish(),
    "notifyFinish, callback only": lambda request: request.notifyFinish().addCallback(print),
    "setHeader": lambda request: request.setHeader(b"X-Late", b"1"),
    "addCookie": lambda request: request.addCookie(b"late", b"1"),
    "setResponseCode": lambda request: request.setResponseCode(200),
    "redirect": lambda request: request.redirect(b"/elsewhere"),
    "setLastModified": lambda request: request.setLastModified(1),
    "setETag": lambda request: request.setETag(b"late"),
    "getClientAddress": lambda request: request.getClientAddress().host,
    "getHost": lambda request: request.getHost().port,
    "getRequestHostname": lambda request: request.getRequestHostname(),
    "URLPath": lambda request: request.URLPath(),
    "prePathURL": lambda request: request.prePathURL(),
    "getUser": lambda request: request.getUser(),
    "isSecure": lambda request: request.isSecure(),
    "loseConnection": lambda request: request.loseConnection(),
    "content": lambda request: request.content.read(),
    "repr": repr,
}


@pytest.mark.parametrize("how", LEAVE)
@pytest_twisted.ensureDeferred
async def test_harmless(serve: Serve, how: str) -> None:
    """Nothing raises, nothing is logged as an error, and the access log has one line: 499."""
    request, site = await left(serve, how)
    for use in USES.values():
        use(request)
    await settled()
    gc.collect()
    assert site.lines == [(b"/slow", 499)]
    assert request.code == 499


@pytest.mark.parametrize("how", LEAVE)
@pytest_twisted.ensureDeferred
async def test_late_resource(serve: Serve, how: str) -> None:
    """A resource that is found too late is not asked: no work is begun for nobody."""
    request, _ = await left(serve, how)
    found = Fast()
    DeferredResource(succeed(found)).render(request)
    assert found.ran == []


@pytest.mark.parametrize("how", LEAVE)
@pytest_twisted.ensureDeferred
async def test_same_answers(serve: Serve, how: str) -> None:
    """What is known of the client stays known."""
    before: list[object] = []

    def ask(request: Any) -> list[object]:
        return [request.isSecure(), request.getClientAddress(), request.getHost(), request.uri]

    request, _ = await left(serve, how, lambda request: before.extend(ask(request)))
    assert ask(request) == before
    assert request.isSecure() == LEAVE[how].secure


@pytest.mark.parametrize("how", LEAVE)
@pytest_twisted.ensureDeferred
async def test_late_producer(serve: Serve, how: str) -> None:
    """A producer that is registered too late is stopped at once, as by a transport."""
    request, _ = await left(serve, how)
    producer = Producer(request, b"late", finish=True)
    request.registerProducer(producer, True)
    assert producer.stopped == 1


@pytest.mark.parametrize("how", LEAVE)
@pytest_twisted.ensureDeferred
async def test_late_notification(serve: Serve, how: str) -> None:
    """Who asks late is told the same: the reason, and its cause."""
    early: list[Any] = []
    late: list[Any] = []
    request, _ = await left(
        serve, how, lambda request: request.notifyFinish().addErrback(early.append)
    )
    request.notifyFinish().addErrback(late.append)
    assert late[0].value is early[0].value
    assert isinstance(late[0].value.__cause__, ClientHangUp)


@pytest_twisted.ensureDeferred
async def test_unobserved_notifications(serve: Serve) -> None:
    """Whoever asked for the end and does not care is not told in the log."""

    def ask(request: Any) -> None:
        request.notifyFinish()
        request.notifyFinish().addCallback(print)
        request.notifyFinish().addErrback(lambda failure: failure)

    await left(serve, "reset", ask)
    gc.collect()  # nothing logged: the test's fixture looks


@pytest_twisted.ensureDeferred
async def test_failing_notification(serve: Serve, expected_errors: LoggedErrors) -> None:
    """What a callback of its own raises is the application's error, and is logged."""

    def ask(request: Any) -> None:
        request.notifyFinish().addErrback(lambda failure: 1 / 0)

    await left(serve, "reset", ask)
    gc.collect()
    assert len(expected_errors.flush(ZeroDivisionError)) == 1
    expected_errors.flush()  # Twisted's headline above it


@pytest_twisted.ensureDeferred
async def test_notifications_in_order(serve: Serve) -> None:
    """Every one that was asked for fires, also when one of them asks for another."""
    told: list[int] = []

    def ask(request: Any) -> None:
        for number in range(3):
            request.notifyFinish().addErrback(lambda _, number=number: told.append(number))
        request.notifyFinish().addErrback(
            lambda _: request.notifyFinish().addErrback(lambda _: told.append(3))
        )
        request.notifyFinish().addErrback(lambda _: told.append(4))

    await left(serve, "fin", ask)
    assert told == [0, 1, 2, 3, 4]


@pytest_twisted.ensureDeferred
async def test_notification_after_the_end(serve: Serve) -> None:
    """Who asks after a response was finished is told that at once."""
    served = serve()
    started = served.root.slow.started
    client = in_thread(lambda: Client(served.port).send(SLOW))
    request: Any = await started
    request.finish()
    await in_thread((await client).close)
    assert await gatherResults([request.notifyFinish()]) == [None]


@pytest.mark.parametrize("size", [10, 200_000], ids=["in memory", "in a file"])
@pytest_twisted.ensureDeferred
async def test_content(serve: Serve, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body can still be read, and its file is closed with the request."""
    files: list[weakref.ref[Any]] = []
    make = tempfile.TemporaryFile

    def remember(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        files.append(weakref.ref(made))
        return made

    monkeypatch.setattr(tempfile, "TemporaryFile", remember)
    served = serve()
    started = served.root.slow.started
    wire = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    client = await in_thread(lambda: Client(served.port).send(wire, bytes(size)))
    request: Any = await started
    served.root.slow.requests.clear()
    client.reset()
    await until(lambda: served.errors)
    content = request.content
    assert content.read() == bytes(size)
    del request, started
    gc.collect()
    assert content.closed
    assert len(files) == (size > 100_000)


class Unstoppable(Producer):
    """A producer that fails when it is stopped."""

    def stopProducing(self) -> None:
        raise LookupError("nothing to stop")


@pytest.mark.parametrize("leave", ["reset", "fin"])
@pytest_twisted.ensureDeferred
async def test_producer_that_fails_when_stopped(
    serve: Serve, expected_errors: LoggedErrors, leave: str
) -> None:
    """It keeps neither the connection open nor its request in the dark."""
    served = serve()
    way = LEAVE[leave]
    client = await in_thread(lambda: way.ask(served, way.secure))
    await until(lambda: served.root.slow.requests)
    (request,) = served.root.slow.requests
    request.registerProducer(Unstoppable(request, b""), True)
    await in_thread(lambda: way.leave(client))
    await until(lambda: served.site.open_connections == 0)
    client.close()
    assert len(served.root.slow.gone) == len(served.errors) == 1
    assert served.site.open_connections == 0
    assert expected_errors.flush(LookupError)


class FailsWhenLost(Request):
    """A request of an application that fails when its connection is lost."""

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        raise LookupError("a bug")


class FullDisk(HangupSite):
    """Cannot write its access log."""

    def log(self, request: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("leave", ["reset", "fin"])
@pytest.mark.parametrize("fault", [FullDisk, FailsWhenLost])
def test_application_that_fails_when_its_client_leaves(
    fault: Any, leave: str, expected_errors: LoggedErrors
) -> None:
    """It is logged; the error is told and settled, and the connection forgotten, all the same."""
    root = Paths()
    site = FullDisk(root) if fault is FullDisk else HangupSite(root, requestFactory=fault)
    answers: list[object] = []
    site.journal.watch_settled(lambda error, status: answers.append(status))
    client = feed(site, SLOW)
    getattr(client, leave)()
    assert len(root.slow.gone) == len(client.errors) == len(answers) == 1
    assert site.open_connections == 0
    assert len(expected_errors.flush(OSError, LookupError)) == 1


def test_access_log_that_fails_when_a_response_is_cut(expected_errors: LoggedErrors) -> None:
    """The client sees the cut all the same."""
    client = feed(FullDisk(root := Paths()), SLOW)
    (request,) = root.slow.requests
    request.write(b"begun")
    request.processingFailed(Failure(LookupError("a bug")))
    client.advance(0).fin()
    assert (client.received[-12:], client.ended) == (b"\r\n5\r\nbegun\r\n", "fin")
    assert len(root.slow.gone) == 1
    assert len(expected_errors.flush()) == 2


@pytest.mark.parametrize("fault", [FullDisk, FailsWhenLost])
@pytest_twisted.ensureDeferred
async def test_application_that_fails_when_its_http2_client_leaves(
    serve: Serve, expected_errors: LoggedErrors, fault: Any
) -> None:
    """Every request of the connection is told, and the connection forgotten."""
    root = Paths()
    site = FullDisk(root) if fault is FullDisk else HangupSite(root, requestFactory=fault)
    served = serve(site, tls=server_context())
    started = root.slow.started

    def ask() -> H2Client:
        client = H2Client(served.port)
        client.request(b"/slow")
        client.request(b"/slow")
        return client

    client = await in_thread(ask)
    await started
    await until(lambda: len(root.slow.requests) == 2)
    await in_thread(client.close)
    await until(lambda: site.open_connections == 0)
    assert len(root.slow.gone) == 2
    assert len(expected_errors.flush(OSError, LookupError)) == 2
