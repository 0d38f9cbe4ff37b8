"""Each request that was begun is in the access log once, and counted once, whatever ends it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from io import BytesIO
from threading import Event
from typing import Any, Final, NamedTuple

import pytest
import pytest_twisted
from hyperframe.frame import RstStreamFrame, WindowUpdateFrame
from prometheus_client import CollectorRegistry
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.http2_client import CANCEL, H2Client
from support.http2_client import talk as h2_talk
from support.wire import BAD, GOOD, SLOW, Paths, Producer, Serve, settled, until
from twisted.internet.protocol import Protocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from twisted_hangup import ClientError, ClientSocket, HangupSite, Limits, Timeouts
from twisted_hangup.journal.access_log import AccessLog
from twisted_hangup.journal.files import LogFile
from twisted_hangup.limits import MIB
from twisted_hangup.metrics import Metrics
from twisted_hangup.server import forms
from twisted_hangup.testing import MemoryClient, feed


class Lines(BytesIO):
    """An output for an `AccessLog`: the request line and status of each line."""

    @property
    def requests(self) -> list[str]:
        """Such as ``GET /fast 200``; without a request, only the status."""
        words = [line.split('"') for line in self.getvalue().decode().splitlines()]
        return [
            " ".join([*line[1].split()[:2], line[2].split()[0]]).removeprefix("- ")
            for line in words
        ]


class Site(HangupSite):
    """A site with an access log, as the service has it, and metrics."""

    def __init__(self, root: Resource, **arguments: Any) -> None:
        super().__init__(root, **arguments)
        self.lines = Lines()
        self.access_log = AccessLog(LogFile(self.lines, "access log"))
        self.journal.watch_settled(self.access_log.refused)
        self.refused = 0
        self.journal.watch_settled(self._settled)
        self.registry = CollectorRegistry()
        Metrics(self, registry=self.registry)

    def log(self, request: Any) -> None:
        self.access_log.request(request)

    def _settled(self, error: ClientError, status: int | None) -> None:
        self.refused += error.refuses

    @property
    def counted(self) -> int:
        """The requests that are over, and the answers to those that were refused."""
        samples = [
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "hangup_requests_total"
        ]
        return int(sum(samples)) + self.refused


class Begins(Resource):
    """Writes a piece of its response, and then does what it is told."""

    isLeaf = True

    def __init__(self, then: Callable[[Any], object] = lambda request: None) -> None:
        super().__init__()
        self.then = then

    def render(self, request: Request) -> int:
        request.write(b"begun")
        self.then(request)
        return NOT_DONE_YET


class Does(Begins):
    """Does it before it has written anything."""

    def render(self, request: Request) -> int:
        self.then(request)
        return NOT_DONE_YET


def fails(*_: object, **__: object) -> Any:
    raise LookupError("a bug")


class FailsEarly(Request):
    """A request that fails as soon as a body comes."""

    handleContentChunk = fails


class FailsWhenReceived(Request):
    requestReceived = fails


class FailsInProcess(Request):
    process = fails


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET /{path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def post(path: str, body: bytes, *fields: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"POST /{path} HTTP/1.1", "Host: a", f"Content-Length: {size}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


FORM: Final = "Content-Type: application/x-www-form-urlencoded"
PARTS: Final = "Content-Type: multipart/form-data; boundary=x"
CHUNKED: Final = b"POST /fast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


def nothing(site: Site, client: MemoryClient) -> None: ...


def reset(site: Site, client: MemoryClient) -> None:
    client.reset()


def fin(site: Site, client: MemoryClient) -> None:
    client.fin()


def wait(site: Site, client: MemoryClient) -> None:
    client.advance(1000)


def hang_up(site: Site, client: MemoryClient) -> None:
    site.drain()
    site.hang_up_all()


class End(NamedTuple):
    """How requests end, and the lines of the access log for them.

    Attributes:
        wire: What the client sends.
        lines: Method, target and status of each line.
        then: What happens after that.
        site: Arguments of the site.
        fails: Whether the application's bug is logged.
    """

    wire: bytes
    lines: list[str]
    then: Callable[[Site, MemoryClient], object] = nothing
    site: dict[str, Any] = {}  # never changed
    fails: bool = False


ENDS: Final[dict[str, End]] = {
    "answered": End(GOOD + get("nix"), ["GET /fast 200", "GET /nix 404"]),
    "answered, then the client leaves": End(GOOD, ["GET /fast 200"], reset),
    "with a body": End(post("fast", b"abc"), ["POST /fast 200"]),
    "refused expectation": End(get("fast", "Expect: rain"), ["GET /fast 417"]),
    "refused expectation of a body": End(
        post("fast", b"abc", "Expect: rain"), ["POST /fast 417"], reset
    ),
    "refused head": End(BAD, ["GET /fast 400"], reset),
    "no request": End(b"\0", ["400"]),
    "slow head": End(GOOD[:30], ["GET /fast 408"], wait),
    "left in the head": End(GOOD[:30], ["GET /fast 499"], reset),
    "input ended in the head": End(GOOD[:30], ["GET /fast 400"], fin),
    "broken body": End(CHUNKED + b"zz", ["POST /fast 400"], reset),
    "broken body, in the same read": End(
        # The first has its line when it is sent, which is after this turn.
        GOOD + CHUNKED + b"zz",
        ["POST /fast 400", "GET /fast 200"],
    ),
    "body too large": End(
        CHUNKED + b"1\r\nx", ["POST /fast 413"], wait, {"limits": Limits(body_bytes=3)}
    ),
    "slow body": End(CHUNKED, ["POST /fast 408"], wait),
    "left in the body": End(CHUNKED, ["POST /fast 499"], reset),
    "input ended in the body": End(CHUNKED, ["POST /fast 400"], fin),
    "hung up on in the body": End(CHUNKED, ["POST /fast 444"], hang_up),
    "left while it runs": End(SLOW, ["GET /slow 499"], reset),
    "input ended while it runs": End(SLOW, ["GET /slow 499"], fin),
    "hung up on while it runs": End(SLOW, ["GET /slow 444"], hang_up),
    "hung up on in its response": End(get("begins"), ["GET /begins 200"], hang_up),
    "left, and another waits": End(SLOW + GOOD, ["GET /slow 499"], reset),
    "left, and a broken one waits": End(SLOW + BAD, ["GET /slow 499", "GET /fast 444"], reset),
    "hung up on, and a broken one waits": End(
        SLOW + BAD, ["GET /slow 499", "GET /fast 444"], hang_up
    ),
    "client takes nothing": End(get("much"), ["GET /much 499"], wait),
    "resource fails": End(get("fails"), ["GET /fails 500"], reset, fails=True),
    "resource fails in its response": End(
        get("begins-fails"), ["GET /begins-fails 200"], reset, fails=True
    ),
    "resource aborts": End(get("aborts"), ["GET /aborts 444"]),
    "resource aborts in its response": End(get("begins-aborts"), ["GET /begins-aborts 200"]),
    "resource closes": End(get("closes"), ["GET /closes 444"], reset),
    "resource closes in its response": End(get("begins-closes"), ["GET /begins-closes 200"], reset),
    "resource finishes when the client has left": End(get("late"), ["GET /late 499"], reset),
    "another protocol": End(get("upgrades"), ["GET /upgrades 101"], reset),
    "request cannot be made": End(
        GOOD, ["GET /fast 500"], reset, {"requestFactory": fails}, fails=True
    ),
    "request cannot take its body": End(
        CHUNKED, ["POST /fast 500"], reset, {"requestFactory": FailsEarly}, fails=True
    ),
    "request cannot be received": End(
        GOOD, ["GET /fast 500"], reset, {"requestFactory": FailsWhenReceived}, fails=True
    ),
    "request cannot be processed": End(
        GOOD, ["GET /fast 500"], wait, {"requestFactory": FailsInProcess}, fails=True
    ),
    "broken form": End(post("fast", b"x", PARTS), ["POST /fast 400"], reset),
    "form too large": End(
        post("fast", b"a=1", FORM), ["POST /fast 413"], reset, {"limits": Limits(form_bytes=2)}
    ),
    "no room for a form": End(post("fast", b"a=" + bytes(98), FORM), ["POST /fast 503"], reset),
    "no file for a body": End(post("fast", bytes(200_000)), ["POST /fast 503"], reset),
    "no file in the middle of a body": End(
        post("fast", bytes(200_000), length=300_000), ["POST /fast 503"], reset
    ),
}

ROOT: Final[dict[str, Resource]] = {
    "begins": Begins(),
    "much": Begins(
        lambda request: request.registerProducer(Producer(request, bytes(99_999)), False)
    ),
    "fails": Does(fails),
    "begins-fails": Begins(fails),
    "aborts": Does(lambda request: request.transport.abortConnection()),
    "begins-aborts": Begins(lambda request: request.transport.abortConnection()),
    "closes": Does(lambda request: request.transport.loseConnection()),
    "begins-closes": Begins(lambda request: request.transport.loseConnection()),
    "late": Does(lambda request: request.notifyFinish().addErrback(lambda _: request.finish())),
    "upgrades": Does(lambda request: request.channel.upgrade(Protocol())),
}


def no_file() -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file for a body, and room for no more than 99 bytes of forms."""
    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    room = forms.Room()
    room.bytes = Limits().form_bytes * forms.LARGEST_AT_ONCE - 99
    monkeypatch.setattr(forms, "ROOM", room)


@pytest.mark.parametrize("name", ENDS)
def test_one_line(name: str, expected_errors: LoggedErrors) -> None:
    """Over HTTP/1."""
    end = ENDS[name]
    site = Site(Paths(**ROOT), **end.site)
    client = feed(site)
    if name == "client takes nothing":
        client.reading = False
    client.feed(end.wire)
    end.then(site, client)
    client.advance(1)
    if site.open_connections:  # nor is there another line when the client has gone
        client.reset().advance(1000)
    assert site.open_connections == 0
    assert site.lines.requests == end.lines
    assert site.counted == len(end.lines)
    assert bool(expected_errors.flush(LookupError)) is end.fails


@pytest.mark.parametrize("end, status", [(reset, 499), (fin, 499), (hang_up, 444)])
def test_ended_while_its_form_is_read(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[Site, MemoryClient], object], status: int
) -> None:
    """Nor is a request forgotten that has come and no resource has seen."""
    monkeypatch.undo()  # there is room
    site = Site(Paths())
    client = feed(site)
    (channel,) = site.context.connections
    channel.dataReceived(post("fast", b"%" * MIB, FORM))  # which takes many turns
    end(site, client)
    client.advance(1)
    assert site.lines.requests == [f"POST /fast {status}"]
    assert site.counted == 1


def test_handlers_answer_in_the_line() -> None:
    """The line has the status that a handler has sent."""
    site = Site(Paths())

    @site.on_client_error
    def teapot(failure: Any, socket: ClientSocket) -> None:
        socket.respond(418, b"short")

    feed(site, CHUNKED, b"zz").reset()
    assert site.lines.requests == ["POST /fast 418"] and site.counted == 1


# Over HTTP/2.

Run = Callable[[H2Client], object]


def ask(path: str, method: bytes = b"GET", end: bool = True) -> Run:
    return lambda client: client.request(f"/{path}".encode(), method=method, end=end)


def asked(client: H2Client, path: str = "slow") -> int:
    """A request that runs, or whose body is not complete."""
    if path:
        stream = client.request(f"/{path}".encode())
    else:
        stream = client.request(method=b"POST", end=False)
        client.data(stream, b"abc", end=False)
    client.ping()
    return stream


def reset_by_client(path: str) -> Run:
    return lambda client: client.send(RstStreamFrame(asked(client, path), error_code=CANCEL)).ping()


def with_body(body: bytes, *fields: tuple[bytes, bytes]) -> Run:
    def run(client: H2Client) -> None:
        stream = client.request(b"/fast", *fields, method=b"POST", end=False)
        for at in range(0, len(body), 10_000):
            client.data(stream, body[at : at + 10_000], end=at + 10_000 >= len(body))
        client.answer(stream)

    return run


def broken_connection(client: H2Client) -> None:
    asked(client, "")
    asked(client, "")
    asked(client)
    client.send(WindowUpdateFrame(0, window_increment=2**31 - 1)).to_the_end()


class End2(NamedTuple):
    """The same for HTTP/2."""

    run: Run
    lines: list[str]
    site: dict[str, Any] = {}  # never changed
    hang_up: bool = False
    fails: bool = False


URLENCODED: Final = (b"content-type", b"application/x-www-form-urlencoded")

ENDS2: Final[dict[str, End2]] = {
    "answered": End2(lambda client: client.answer(client.request()), ["GET /fast 200"]),
    "refused expectation": End2(
        lambda client: client.answer(client.request(b"/fast", (b"expect", b"rain"))),
        ["GET /fast 417"],
    ),
    "refused head": End2(lambda client: client.answer(client.request(b"/a b")), ["GET /a 400"]),
    "body too large": End2(
        with_body(b"abcd"), ["POST /fast 413"], {"limits": Limits(body_bytes=3)}
    ),
    "slow body": End2(
        lambda client: client.answer(client.request(method=b"POST", end=False)),
        ["POST /fast 408"],
        {"timeouts": Timeouts(request_seconds=0.1)},
    ),
    "reset in the body": End2(reset_by_client(""), ["POST /fast 499"]),
    "reset while it runs": End2(reset_by_client("slow"), ["GET /slow 499"]),
    "reset in its response": End2(reset_by_client("begins"), ["GET /begins 499"]),
    "left in the body": End2(lambda client: asked(client, ""), ["POST /fast 499"]),
    "left in two bodies": End2(
        lambda client: (asked(client, ""), asked(client, "")), ["POST /fast 499"] * 2
    ),
    "left while it runs": End2(asked, ["GET /slow 499"]),
    "broken connection": End2(
        broken_connection, ["GET /slow 499", "POST /fast 499", "POST /fast 499"]
    ),
    "hung up on in the body": End2(
        lambda client: asked(client, ""), ["POST /fast 444"], hang_up=True
    ),
    "hung up on while it runs": End2(asked, ["GET /slow 444"], hang_up=True),
    "hung up on in its response": End2(
        lambda client: asked(client, "begins"), ["GET /begins 200"], hang_up=True
    ),
    "resource fails": End2(
        lambda client: client.answer(client.request(b"/fails")), ["GET /fails 500"], fails=True
    ),
    "resource fails in its response": End2(
        lambda client: client.answer(client.request(b"/begins-fails")),
        ["GET /begins-fails 200"],
        fails=True,
    ),
    "resource aborts": End2(
        lambda client: client.answer(client.request(b"/aborts2")), ["GET /aborts2 444"]
    ),
    "request cannot be made": End2(
        lambda client: client.answer(client.request()),
        ["GET /fast 444"],
        {"requestFactory": fails},
        fails=True,
    ),
    "request cannot be processed": End2(
        lambda client: client.answer(client.request()),
        ["GET /fast 500"],
        {"requestFactory": FailsInProcess},
        fails=True,
    ),
    "broken form": End2(
        with_body(b"x", (b"content-type", b"multipart/form-data")), ["POST /fast 400"]
    ),
    "no room for a form": End2(with_body(b"a=" + bytes(98), URLENCODED), ["POST /fast 503"]),
    "no file for a body": End2(with_body(bytes(150_000)), ["POST /fast 503"]),
}


@pytest.mark.parametrize("name", ENDS2)
@pytest_twisted.ensureDeferred
async def test_one_line_over_http2(name: str, serve: Serve, expected_errors: LoggedErrors) -> None:
    """Over HTTP/2, where it is the end of a stream."""
    end = ENDS2[name]
    aborts = Does(lambda request: request.channel.abortConnection())
    site = Site(Paths(**ROOT, aborts2=aborts), **end.site)
    served = serve(site, tls=server_context())

    has_asked = Event()

    def run(client: H2Client) -> None:
        end.run(client)
        has_asked.set()
        if end.hang_up:
            client.to_the_end()

    talking = h2_talk(served.port, run)
    if end.hang_up:
        await until(lambda: has_asked.is_set() or talking.called)
        site.hang_up_all()
    await talking
    await served.emptied()
    await settled()
    assert sorted(site.lines.requests) == sorted(end.lines)
    assert site.counted == len(end.lines)
    assert bool(expected_errors.flush(LookupError)) is end.fails
