"""Every way in which a connection ends, in every phase, over every transport: what is told.

The table of docs/errors.md is the one that is run here, over real sockets.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

import pytest
import pytest_twisted
from hyperframe.frame import GoAwayFrame, RstStreamFrame
from support.certificates import server_context
from support.http2_client import CANCEL, PROTOCOL_ERROR, H2Client, fields_of
from support.wire import (
    GOOD,
    PATIENCE,
    Client,
    HandClock,
    Paths,
    Serve,
    Served,
    in_thread,
    settled,
    until,
)
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.threadpool import ThreadPool
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import Data

from twisted_hangup import ClientError, HangupSite
from twisted_hangup.cancel import cancel_on_hangup
from twisted_hangup.journal.access_log import refused_line
from twisted_hangup.testing import feed
from twisted_hangup.transport.layers import transport_beneath
from twisted_hangup.wsgi import HangupWSGIResource

reactor: Any = installed

PAGE: Final = Path(__file__).parents[2] / "docs" / "errors.md"

#: A phase of the table -> what the client has sent, and up to what it has read the answer.
PHASES: Final[dict[str, tuple[bytes, bytes]]] = {
    "before a byte": (b"", b""),
    "head": (b"GET /fast HTTP/1.1\r\nHost: a\r\nX", b""),
    "body": (b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", b""),
    "running": (b"GET /running HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "partly sent": (b"GET /partly HTTP/1.1\r\nHost: a\r\n\r\n", b"begun\r\n"),
    "all queued": (b"GET /queued HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n\r\n"),
    "delivered": (b"GET /delivered HTTP/1.1\r\nHost: a\r\n\r\n", b"hello"),
    "idle": (GOOD, b"fast"),
}

#: More than any two socket buffers hold.
MUCH: Final = bytes(16 * 1024 * 1024)

#: Seconds: longer than any of `Timeouts`.
LONG: Final = 600.0


class Answers(Resource):
    """Writes *data*, in chunks or with its length, and finishes or not."""

    isLeaf = True

    def __init__(self, data: bytes, *, length: bool = False, finishes: bool = False) -> None:
        super().__init__()
        self.data, self.length, self.finishes = data, length, finishes
        #: How ``notifyFinish()`` has fired.
        self.ends: list[str] = []

    def render(self, request: Request) -> int:
        request.notifyFinish().addCallbacks(
            lambda _: self.ends.append("fires"), lambda _: self.ends.append("fails")
        )
        if self.length:
            request.setHeader(b"Content-Length", b"%d" % len(self.data))
        if self.data:
            request.write(self.data)
        if self.finishes:
            request.finish()
        return NOT_DONE_YET


class Site(HangupSite):
    """Keeps status and length of its access log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lines: list[tuple[str, int]] = []
        self.journal.watch_settled(self.refused)

    def log(self, request: Any) -> None:
        self.lines.append((str(request.code), request.sentLength))

    def refused(self, error: ClientError, status: int | None) -> None:
        line = refused_line("", error, status)
        if line is not None:
            self.lines.append((line.split('"')[2].split()[0], 0))


def begin(client: Client, phase: str) -> bytes:
    """Come as far as *phase* over HTTP/1; what has been read of the answer."""
    sent, answer = PHASES[phase]
    client.send(sent)
    return client.read_until(answer) if answer else b""


def begin2(client: H2Client, phase: str) -> None:
    """Come as far as *phase* over HTTP/2."""
    if phase == "head":
        frame = client.ping().headers(fields_of())
        frame.flags.discard("END_HEADERS")
        client.send(frame)
        return
    if phase == "body":
        client.data(client.request(method=b"POST", end=False), b"abc", end=False)
    elif phase == "idle":
        client.answer(client.request())
    elif phase != "before a byte":
        stream = client.request(PHASES[phase][0].split()[1])
        body = {"partly sent": b"begun", "delivered": b"hello"}.get(phase, b"")
        client.until(lambda: client.stream(stream).body == body)
    client.ping()


def read_on(client: Client) -> None:
    client.end()
    with suppress(OSError):
        client.read_all()


def close_with_notify(client: Client) -> None:
    client.socket.settimeout(0)
    with suppress(OSError):  # it does not wait for the server's
        client.socket.unwrap()  # type: ignore[attr-defined]
    client.close()


def cut(client: Client) -> None:
    socket.socket.shutdown(client.socket, socket.SHUT_WR)


#: How a connection ends in the table -> how a client does that, if it has to do anything.
WAYS: Final[dict[str, Callable[[Any], object]]] = {
    "close": lambda client: client.close(),
    "half-close": read_on,
    "reset": lambda client: client.reset(),
    "close_notify": close_with_notify,
    "FIN alone": cut,
    "silence": lambda client: None,
    "closed by us": lambda client: None,
    "GOAWAY": lambda client: client.send(GoAwayFrame(0, error_code=PROTOCOL_ERROR)),
    "RST_STREAM": lambda client: client.send(RstStreamFrame(1, error_code=CANCEL)),
}
FRAMES: Final = ("GOAWAY", "RST_STREAM")


class Cell(NamedTuple):
    """What the page says of one end."""

    way: str
    over: str
    phase: str
    told: str

    def __str__(self) -> str:
        return f"{self.way}, {self.over}, {self.phase}"


def table() -> list[Cell]:
    """The cells of the page, but for those that cannot be."""
    text = PAGE.read_text("utf-8").partition("\n## Every end\n")[2].partition("\n## ")[0]
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    )
    return [
        Cell(way.partition(":")[0], over, phase, told)
        for way, overs, *cells in rows
        for over in overs.split(", ")
        for phase, told in zip(head[2:], cells, strict=True)
        if told
    ]


def test_table_is_whole() -> None:
    """Every way, phase and transport stands in it."""
    cells = table()
    assert {cell.way for cell in cells} == set(WAYS)
    assert {cell.phase for cell in cells} == set(PHASES)
    assert {cell.over for cell in cells} == {"TCP", "UNIX", "TLS", "HTTP/2"}


def serve_over(serve: Serve, over: str, directory: Path, clock: HandClock) -> Served:
    much = Answers(MUCH, length=True, finishes=True)
    root = Paths(
        running=Answers(b""),
        partly=Answers(b"begun"),
        queued=much,
        delivered=Answers(b"hello", length=True),
    )
    site = Site(root, reactor=clock)
    if over == "UNIX":
        return serve(site, unix=str(directory / "socket"))
    if over == "TCP":
        return serve(site)
    return serve(
        site, endpoint=SSL4ServerEndpoint(reactor, 0, server_context(), interface="127.0.0.1")
    )


def told(served: Served, site: Site, phase: str) -> str:
    """What was told of an end, in the words of the table."""
    errors = [f"{error.code} {error.phase}" for error in served.errors]
    (name,) = re.findall(rb"/(\w+) ", PHASES[phase][0]) or [b"fast"]
    ends = getattr(site.resource.children[name], "ends", [])
    parts = [errors, [status for status, _ in site.lines], ends]
    return ", ".join(" and ".join(part) or "-" for part in parts)


@pytest.mark.parametrize("cell", table(), ids=str)
@pytest_twisted.ensureDeferred
async def test_end(serve: Serve, tmp_path: Path, cell: Cell) -> None:
    """What handlers hear, the access log and notifyFinish() is what the table says."""
    clock = HandClock()
    served = serve_over(serve, cell.over, tmp_path, clock)
    site: Any = served.site

    def start() -> Any:
        if cell.over == "HTTP/2":
            client2 = H2Client(served.port, windows=False)
            begin2(client2, cell.phase)
            return client2
        client = Client(served.port, tls=cell.over == "TLS")
        begin(client, cell.phase)
        return client

    client: Any = await in_thread(start)
    raw: Client = client.client if cell.over == "HTTP/2" else client
    await served.has_read(raw)
    if cell.way == "closed by us":
        site.hang_up_all()
    await in_thread(lambda: WAYS[cell.way](client if cell.way in FRAMES else raw))
    expected = cell.told
    if expected == "stays":
        expected = "-, -, -"
        await served.has_read(raw)
        clock.wait(LONG)
        await settled()
        assert site.open_connections == 1
    elif cell.way in ("silence", "GOAWAY"):
        if cell.way == "GOAWAY":  # not before it has come
            await until(lambda: served.errors or not site.open_connections)
        await clock.wait_until(lambda: site.open_connections == 0)
    elif cell.way == "RST_STREAM":
        await until(lambda: site.lines)
    else:
        await served.emptied()
    await settled()
    assert told(served, site, cell.phase) == expected, told(served, site, cell.phase)
    if cell.told != "stays" and cell.phase == "all queued":
        ((_, sent),) = site.lines
        assert (sent == len(MUCH)) is (cell.way == "half-close")
    site.hang_up_all()
    await in_thread(raw.close)


# What was sent, and what was not.


@pytest.mark.parametrize("over", ["TCP", "UNIX", "TLS"])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("status", ["499", "200"])
@pytest_twisted.ensureDeferred
async def test_bytes_of_a_lost_response(
    serve: Serve, tmp_path: Path, over: str, finished: bool, status: str
) -> None:
    """A response that was only queued is logged with what the kernel took: exact to a record.

    Whether its client leaves or we abort it, and whether it was finished or not.
    """
    served = serve_over(serve, over, tmp_path, HandClock())
    site: Any = served.site
    site.resource.putChild(b"queued", Answers(MUCH, length=True, finishes=finished))
    client = await in_thread(lambda: Client(served.port, tls=over == "TLS"))
    head = await in_thread(lambda: begin(client, "all queued"))
    await served.has_read(client)
    (channel,) = site.context.open()
    wire = transport_beneath(channel.transport)
    if status == "200":
        site.hang_up_all()
    await in_thread(client.close)
    await served.emptied()
    ((logged, sent),) = site.lines
    output = sent + len(head)
    assert logged == status and 0 < sent < len(MUCH)
    if over == "TLS":
        assert output % 2**14 == 0 and wire.taken - 2**15 < output < wire.taken
    else:
        assert output == wire.taken


class EndsAndAborts(Resource):
    """A producer that has written all of its response, and then aborts the connection."""

    isLeaf = True
    size = 1024 * 1024  # more than a transport takes before it pauses

    def render(self, request: Request) -> int:
        self.request = request
        request.setHeader(b"Content-Length", b"%d" % (self.size + 5))
        request.registerProducer(self, True)
        request.write(bytes(self.size))
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        request = self.request
        transport: Any = request.transport
        request.write(b"hello")
        request.unregisterProducer()
        request.finish()
        transport.abortConnection()

    def pauseProducing(self) -> None:
        pass


def test_response_that_is_aborted_where_it_is_written() -> None:
    """What is written and aborted when the client reads on is not sent."""
    site = Site(EndsAndAborts(), reactor=Clock())
    client = feed(site)
    client.reading = False
    client.feed(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    client.reading = True
    assert client.advance(0).received.endswith(bytes(8))
    assert site.lines == [("200", EndsAndAborts.size)]


@pytest_twisted.ensureDeferred
async def test_pipelined_responses_that_are_lost(serve: Serve) -> None:
    """What waits belongs to the last of them."""
    site: Any = Site(Paths(large=Data(MUCH, "text/plain")))
    served = serve(site)
    asked = GOOD * 3 + b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
    client = await in_thread(lambda: Client(served.port).send(asked))
    await until(lambda: len(site.lines) == 3)
    await in_thread(client.reset)
    await served.emptied()
    (*first, (status, sent)) = site.lines
    assert first == [("200", 4)] * 3 and status == "499" and sent < len(MUCH)


class Bodiless(Answers):
    """Has no body, whatever length it says, and finishes later."""

    def render(self, request: Request) -> int:
        request.setResponseCode(int(request.uri[-3:]))
        super().render(request)
        request.write(b"")
        return NOT_DONE_YET


@pytest.mark.parametrize("line", ["HEAD /x/200", "GET /x/204", "GET /x/304"])
@pytest.mark.parametrize("kind", ["half-close", "reset"])
@pytest_twisted.ensureDeferred
async def test_delivered_without_a_body(serve: Serve, line: str, kind: str) -> None:
    """A response that ends with its head is delivered with that."""
    site: Any = Site(Paths(x=Bodiless(b"")))
    served = serve(site)
    client = await in_thread(
        lambda: Client(served.port).send(f"{line} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    )
    await in_thread(lambda: client.read_until(b"\r\n\r\n"))
    await in_thread(lambda: WAYS[kind](client))
    await served.emptied()
    assert site.lines == [(line[-3:], 0)]
    assert site.resource.children[b"x"].ends == ["fires"]
    assert [error.phase for error in served.errors] == ["idle"] * (kind == "reset")
    client.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_finish_after_the_client_has_left(serve: Serve, tls: bool) -> None:
    """It does nothing, and what waits for the end of the request is not cancelled."""
    site: Any = Site(Paths(delivered=Answers(b"hello", length=True)))
    served = serve(site, tls=server_context() if tls else None)
    client = await in_thread(lambda: Client(served.port, tls=tls))
    await in_thread(lambda: begin(client, "delivered"))
    (channel,) = site.context.open()
    (request,) = channel.requests
    work: Deferred[str] = Deferred()
    done = cancel_on_hangup(request, work)
    await in_thread(client.close)
    await served.emptied()
    work.callback("done")
    assert await done == "done"
    await request.notifyFinish()
    assert request.gone is None and not request.client_hung_up
    request.write(b"more")
    request.finish()
    assert site.lines == [("200", 5)] and served.codes == []


@pytest_twisted.ensureDeferred
async def test_wsgi_goes_on_after_its_last_byte(serve: Serve) -> None:
    """An application that works on when its client has all of the response is let finish that."""
    left, worked = Event(), Event()

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"hello"
        left.wait(PATIENCE)
        worked.set()

    pool = ThreadPool(1, 1)
    pool.start()
    try:
        site: Any = Site(HangupWSGIResource(reactor, pool, application))
        served = serve(site)
        client = await in_thread(lambda: Client(served.port).send(GOOD))
        await in_thread(lambda: client.read_until(b"hello"))
        await in_thread(client.close)
        await served.emptied()
        left.set()
        await until(worked.is_set)
        await settled()
        assert site.lines == [("200", 5)] and served.codes == []
    finally:
        left.set()
        await deferToThread(pool.stop)


#: A server on a UNIX socket, whose clients close in order; prints what was told of that.
CLOSES: Final = r"""
import socket, sys
from importlib import import_module
import_module(f"twisted.internet.{sys.argv[1]}reactor").install()
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.static import Data
from twisted_hangup import HangupSite, hangup_endpoint

root = Resource()
root.putChild(b"", Data(b"fast", "text/plain"))
site = HangupSite(root)
site.journal.watch(lambda error: print(error.code, error.phase))
endpoint = UNIXServerEndpoint(reactor, sys.argv[2])
(hangup_endpoint(endpoint) if sys.argv[3] == "endpoint" else endpoint).listen(site)

def leave(sent, answer):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[2])
    client.sendall(sent)
    read = b""
    while not read.endswith(answer) and (more := client.recv(9999)):
        read += more
    client.close()

def emptied(rest):
    if site.open_connections:
        reactor.callLater(0.01, emptied, rest)
    else:
        run(rest)

def run(rest):
    if rest:
        deferToThread(leave, *rest[0]).addCallback(
            lambda _: reactor.callLater(0.05, emptied, rest[1:])
        )
    else:
        reactor.stop()

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
reactor.callWhenRunning(run, [(b"", b""), (b"\r\n", b""), (GET, b"fast")])
reactor.run()
"""


@pytest.mark.parametrize("listens", ["bare", "endpoint"])
@pytest.mark.parametrize("name", ["epoll", "poll", "select"])
def test_unix_client_that_closes_in_order(tmp_path: Path, name: str, listens: str) -> None:
    """It is no error, whatever the reactor makes of it."""
    command = [sys.executable, "-c", CLOSES, name, str(tmp_path / "socket"), listens]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert (done.stdout, done.returncode) == (b"", 0), done.stderr
