"""A WSGI application can tell that its client has left, and is stopped where that can be done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.http2_client import H2Client
from support.wire import (
    PATIENCE,
    Client,
    Paths,
    Serve,
    Served,
    in_thread,
    pause,
    settled,
    talk,
    until,
)
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThread
from twisted.python.threadpool import ThreadPool
from twisted.web.server import Site

from twisted_hangup import ForwardedClients, HangupWSGIResource
from twisted_hangup.report.text import peer_text

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], None]]

WIRE = b"GET /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    """One thread for applications."""
    threads = ThreadPool(1, 1)
    threads.start()
    yield threads
    pytest_twisted.blockon(deferToThread(threads.stop))


class App:
    """An application that does what it is given, and notes what becomes of it."""

    def __init__(self, body: Callable[[App], Iterable[bytes]]) -> None:
        self.body = body
        self.calls = 0
        self.pieces = 0
        self.closed = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.calls += 1
        self.gone: threading.Event = environ["twisted_hangup.client_gone"]
        self.input = environ["wsgi.input"]
        self.write = start_response("200 OK", [("Content-Type", "text/plain")])
        return Body(self)


class Body:
    """What an application returns: an iterable with a ``close()``."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __iter__(self) -> Iterator[bytes]:
        yield from self.app.body(self.app)

    def close(self) -> None:
        self.app.closed.set()


async def served(
    serve: Serve, pool: ThreadPool, app: Callable[..., Any], **arguments: Any
) -> Served:
    from twisted.internet import reactor

    resource: Any = HangupWSGIResource(cast(IReactorFromThreads, reactor), pool, app)
    return serve(Paths(app=resource), **arguments)


async def leave(serve: Serve, pool: ThreadPool, app: App, wire: bytes = WIRE) -> Served:
    """Let a client leave while *app* is at work, and wait for its end."""
    site = await served(serve, pool, app)
    await site.leave(wire, lambda: app.calls)
    assert await in_thread(lambda: app.closed.wait(PATIENCE))
    assert site.codes == ["ECONNRESET"]
    return site


@pytest_twisted.ensureDeferred
async def test_answers(serve: Serve, pool: ThreadPool) -> None:
    """An ordinary response is what it is with Twisted's own resource."""
    app = App(lambda app: [b"one", b"", b"two"])
    site = await served(serve, pool, app)
    received: bytes = await talk(site.port, WIRE)
    assert received.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert app.closed.is_set() and not app.gone.is_set()


class Reader:
    """An application that reads as much as it is told to, as Django does; or to the end."""

    def __init__(self, to_the_end: bool = False) -> None:
        self.to_the_end = to_the_end

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.environ = environ
        size = -1 if self.to_the_end else int(environ["CONTENT_LENGTH"] or 0)
        self.body = environ["wsgi.input"].read(size)
        start_response("200 OK", [("Content-Length", "0")])
        return []


CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n3\r\na=1\r\n4;x=y\r\n&b=2\r\n0\r\nT: u\r\n\r\n"
LARGE = b"Transfer-Encoding: chunked\r\n\r\n30d40\r\n" + b"b" * 200_000 + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("to_the_end", [False, True])
@pytest.mark.parametrize("kind", [b"application/x-www-form-urlencoded", b"text/plain"])
@pytest.mark.parametrize(
    ("framed", "length", "body"),
    [
        (CHUNKS, "7", b"a=1&b=2"),
        (LARGE, "200000", b"b" * 200_000),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "0", b""),
        (b"Content-Length: 3\r\n\r\na=1", "3", b"a=1"),
        (b"\r\n", "", b""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_length_of_the_body(
    serve: Serve,
    pool: ThreadPool,
    framed: bytes,
    length: str,
    body: bytes,
    kind: bytes,
    to_the_end: bool,
) -> None:
    """An application is told how long the body is, in whatever way it came, and where it ends."""
    app = Reader(to_the_end)
    site = await served(serve, pool, app)
    head = b"POST /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: %b\r\n" % kind
    await talk(site.port, head + framed)
    assert (app.environ["CONTENT_LENGTH"], app.body) == (length, body)
    assert app.environ["wsgi.input_terminated"] is True
    assert "HTTP_TRANSFER_ENCODING" not in app.environ


@pytest_twisted.ensureDeferred
async def test_length_of_a_body_over_http2(serve: Serve, pool: ThreadPool) -> None:
    """The same where a body comes in frames, without a Content-Length."""
    app = Reader()
    site = await served(serve, pool, app, tls=server_context())
    client = await in_thread(lambda: H2Client(site.port))
    stream = await in_thread(lambda: client.request(b"/app", method=b"POST", end=False))
    await in_thread(lambda: client.data(stream, b"abc", end=False).data(stream, b"de"))
    await in_thread(lambda: client.answer(stream))
    await in_thread(client.close)
    assert (app.environ["CONTENT_LENGTH"], app.body) == ("5", b"abcde")


@pytest_twisted.ensureDeferred
async def test_whole_url(serve: Serve, pool: ThreadPool) -> None:
    """A target in absolute form is a path to it, and its host is the server's name."""
    app = Reader()
    site = await served(serve, pool, app)
    await talk(site.port, WIRE.replace(b"/app", b"http://h.example:81/app/b%20c?d=e"))
    names = "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "HTTP_HOST", "SERVER_NAME"
    expected = ["/app", "/b c", "d=e", "h.example:81", "h.example"]
    assert [app.environ[name] for name in names] == expected


@pytest_twisted.ensureDeferred
async def test_event(serve: Serve, pool: ThreadPool) -> None:
    """An application that waits for the event is woken when its client leaves."""
    woken: list[bool] = []

    def body(app: App) -> Iterator[bytes]:
        yield b"begun"
        woken.append(app.gone.wait(PATIENCE))

    await leave(serve, pool, App(body))
    assert woken == [True]


@pytest_twisted.ensureDeferred
async def test_stops_asking(serve: Serve, pool: ThreadPool) -> None:
    """The next piece is not asked for, also of an application that does not look."""
    pieces = 0

    def body(app: App) -> Iterator[bytes]:
        nonlocal pieces
        app.gone.wait(PATIENCE)
        while True:
            pieces += 1
            yield b""

    await leave(serve, pool, App(body))
    assert pieces == 1


@pytest_twisted.ensureDeferred
async def test_stops_before_the_first_piece(serve: Serve, pool: ThreadPool) -> None:
    """A response that nobody waits for when it comes back is closed, and not begun."""
    begun: list[App] = []

    class Late(App):
        def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            self.calls += 1
            environ["twisted_hangup.client_gone"].wait(PATIENCE)
            return super().__call__(environ, start_response)

    def body(app: App) -> Iterator[bytes]:
        begun.append(app)
        yield b""

    await leave(serve, pool, Late(body))
    assert not begun


@pytest_twisted.ensureDeferred
async def test_write_raises(serve: Serve, pool: ThreadPool) -> None:
    """``write()`` raises, and what comes back out of the application is not logged."""
    raised: list[BaseException] = []

    def body(app: App) -> Iterable[bytes]:
        app.write(b"begun")
        app.gone.wait(PATIENCE)
        try:
            app.write(b"late")
        except BrokenPipeError as error:
            raised.append(error)
            raise
        return []

    await leave(serve, pool, App(body))
    assert len(raised) == 1


@pytest_twisted.ensureDeferred
async def test_write_raises_in_the_call(serve: Serve, pool: ThreadPool) -> None:
    """The same before the application has returned anything."""
    ended = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [])
        environ["twisted_hangup.client_gone"].wait(PATIENCE)
        try:
            write(b"late")
        finally:
            ended.set()
        return []

    site = await served(serve, pool, app)
    await site.leave(WIRE)
    assert await in_thread(lambda: ended.wait(PATIENCE))
    await settled()


@pytest_twisted.ensureDeferred
async def test_queued(serve: Serve, pool: ThreadPool) -> None:
    """A request that still waits for a thread when its client leaves is never run."""
    release = threading.Event()
    app = App(lambda app: [b"done"] if release.wait(PATIENCE) else [])
    site = await served(serve, pool, app)
    first = talk(site.port, WIRE)
    await until(lambda: app.calls)
    team = pool._team
    await site.leave(WIRE, lambda: team.statistics().backloggedWorkCount)
    release.set()
    assert b"done" in await first
    assert b"done" in await talk(site.port, WIRE)
    assert app.calls == 2


@pytest_twisted.ensureDeferred
async def test_input_stays_readable(serve: Serve, pool: ThreadPool) -> None:
    """What the client has sent before it left can be read to the end."""
    read: list[bytes] = []

    def body(app: App) -> Iterator[bytes]:
        app.gone.wait(PATIENCE)
        read.append(app.input.read())
        yield b""

    wire = b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)
    await leave(serve, pool, App(body), wire)
    assert read == [bytes(200_000)]


@pytest_twisted.ensureDeferred
async def test_error_after_that(
    serve: Serve, pool: ThreadPool, expected_errors: LoggedErrors
) -> None:
    """Another error is the application's, and is logged once."""

    def body(app: App) -> Iterator[bytes]:
        app.gone.wait(PATIENCE)
        raise KeyError("key")
        yield b""

    await leave(serve, pool, App(body))
    await until(lambda: expected_errors.events)
    await settled()
    assert len(expected_errors.flush(KeyError)) == 1


@pytest_twisted.ensureDeferred
async def test_closed_after_an_error(
    serve: Serve, pool: ThreadPool, expected_errors: LoggedErrors
) -> None:
    """The response iterable is closed whatever happens (PEP 3333)."""

    def body(app: App) -> Iterator[bytes]:
        raise KeyError("key")
        yield b""

    app = App(body)
    site = await served(serve, pool, app)
    assert b" 500 " in await talk(site.port, WIRE)
    assert app.closed.is_set()
    assert len(expected_errors.flush(KeyError)) == 1


# A client that does not read.

PIECE = bytes(100_000)
PIECES = 500

#: What is written before a client reads anything: what two kernels and a transport hold.
MOST_PIECES = 200


def yielding(app: App) -> Iterator[bytes]:
    for app.pieces in range(1, PIECES + 1):
        yield PIECE


def writing(app: App) -> Iterable[bytes]:
    for app.pieces in range(1, PIECES + 1):
        app.write(PIECE)
    return ()


@pytest.mark.parametrize("body", [yielding, writing])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_waits_for_its_client(
    serve: Serve, pool: ThreadPool, body: Callable[[App], Iterable[bytes]], tls: bool
) -> None:
    """What an application writes is kept for no client that does not take it."""
    app = App(body)
    site = await served(serve, pool, app, tls=server_context() if tls else None)
    client = await in_thread(lambda: Client(site.port, tls=tls).send(WIRE))
    await until(lambda: app.pieces)
    pieces = -1
    while pieces != app.pieces:
        pieces = app.pieces
        await pause(0.2)
    assert pieces < MOST_PIECES
    response = await in_thread(client.read_all)
    client.close()
    assert response.endswith(b"\r\n0\r\n\r\n")
    assert app.pieces == PIECES and len(response) > PIECES * len(PIECE)
    assert app.closed.is_set() and not app.gone.is_set()


@pytest_twisted.ensureDeferred
async def test_waits_on_a_site_of_twisteds(serve: Serve, pool: ThreadPool) -> None:
    """The resource needs no site of ours for that."""
    from twisted.internet import reactor

    app = App(yielding)
    resource: Any = HangupWSGIResource(cast(IReactorFromThreads, reactor), pool, app)
    site = serve(Site(Paths(app=resource)))
    client = await in_thread(lambda: Client(site.port).send(WIRE))
    await until(lambda: app.pieces)
    await pause(0.2)
    assert app.pieces < MOST_PIECES
    response = await in_thread(client.read_all)
    client.close()
    assert response.endswith(b"\r\n0\r\n\r\n") and len(response) > PIECES * len(PIECE)


@pytest_twisted.ensureDeferred
async def test_waits_for_its_client_over_http2(serve: Serve, pool: ThreadPool) -> None:
    """The same where it is the window of a stream that is closed."""
    app = App(yielding)
    site = await served(serve, pool, app, tls=server_context())
    client = await in_thread(lambda: H2Client(site.port))
    await in_thread(lambda: client.request(b"/app"))
    await until(lambda: app.pieces)
    await pause(0.2)
    assert app.pieces < 10
    await in_thread(client.close)
    assert await in_thread(lambda: app.closed.wait(PATIENCE))
    assert app.gone.is_set()


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_while_it_is_waited_for(serve: Serve, pool: ThreadPool) -> None:
    """Nobody is waited for who has left."""
    app = App(writing)
    site = await served(serve, pool, app)
    client = await in_thread(lambda: Client(site.port).send(WIRE))
    await until(lambda: app.pieces)
    await pause(0.2)
    client.reset()
    assert await in_thread(lambda: app.closed.wait(PATIENCE))
    assert app.pieces < MOST_PIECES
    assert app.gone.is_set()
    await settled()


@pytest.mark.parametrize("named", [False, True], ids=["nobody named", "named by a proxy"])
@pytest_twisted.ensureDeferred
async def test_addresses_at_a_unix_socket(
    serve: Serve, pool: ThreadPool, tmp_path: Path, named: bool
) -> None:
    """An application has what PEP 3333 promises also where no address has a port."""
    from twisted.internet import reactor

    seen: list[Environ] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return []

    resource = HangupWSGIResource(cast(IReactorFromThreads, reactor), pool, application)
    forwarded = ForwardedClients(["unix"]) if named else None
    served = serve(resource, unix=str(tmp_path / "a.sock"), forwarded=forwarded)
    logged: list[object] = []
    served.site.log = lambda request: logged.append(request.client)  # type: ignore[method-assign]
    wire = b"GET / HTTP/1.0\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
    assert b" 200 OK\r\n" in await talk(served.port, wire)
    names = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "HTTP_X_FORWARDED_FOR")
    client = ["203.0.113.7", "0"] if named else ["", ""]
    assert [seen[0][name] for name in names] == [*client, "localhost", "80", "203.0.113.7"]
    assert [peer_text(one) for one in logged] == ["203.0.113.7" if named else "unix"]
