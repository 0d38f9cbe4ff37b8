"""Where bodies are kept: in memory within bounds, in files beyond, and 503 where none is left."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.http2_client import H2Client
from support.http2_client import talk as h2_talk
from support.wire import GOOD, Paths, Serve, statuses, talk
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.web.http import Request as PlainRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from twisted_hangup import HangupSite
from twisted_hangup.server.bodies import _MOST_PIECES, LARGEST_IN_MEMORY, BodiesInMemory
from twisted_hangup.testing import feed
from twisted_hangup.transport.lean_tls import LeanTLS


class Keeps(Resource):
    """Notes what holds each body, and what it holds."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[type[Any]] = []
        self.bodies: list[bytes] = []

    def render(self, request: Request) -> bytes:
        content: Any = request.content
        self.kinds.append(type(content))
        self.bodies.append(content.read())
        return b"kept"


class LoggedSite(HangupSite):
    """Notes the status of each request in its access log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logged: list[int] = []

    def log(self, request: Any) -> None:
        self.logged.append(request.code)


def posted(*pieces: bytes, chunked: bool = False, length: int | None = None) -> list[bytes]:
    """The reads of a POST to /keep, one for the head and one for each of *pieces*."""
    framing = b"Content-Length: %d" % (sum(map(len, pieces)) if length is None else length)
    if chunked:
        framing = b"Transfer-Encoding: chunked"
        pieces = (*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n")
    return [b"POST /keep HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n", *pieces]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What is logged, as text."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        lines.append(formatEvent(event) + ("" if "log_failure" not in event else " (traceback)"))

    observer: Any = note
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


LARGE = bytes(LARGEST_IN_MEMORY)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize(
    "size, in_memory",
    [(1, True), (LARGEST_IN_MEMORY - 1, True), (LARGEST_IN_MEMORY, False), (1_000_000, False)],
)
@pytest.mark.parametrize("factory", [Request, type("Own", (Request,), {})])
def test_small_bodies_take_no_file(
    factory: type[Request], size: int, in_memory: bool, chunked: bool
) -> None:
    """How a body is framed does not say whether it takes a descriptor, its size does."""
    keeps = Keeps()
    body = os.urandom(size)
    pieces = [body[at : at + 50_000] for at in range(0, size, 50_000)]
    site = HangupSite(Paths(keep=keeps), requestFactory=factory)
    client = feed(site, *posted(*pieces, chunked=chunked))
    assert statuses(client.received) == [200]
    assert keeps.bodies == [body]
    assert (keeps.kinds == [BytesIO]) is in_memory


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_no_file_before_there_is_a_body(chunked: bool) -> None:
    """To announce a large body takes no descriptor."""
    before = open_files()
    feed(HangupSite(Paths()), posted(b"", chunked=chunked, length=10**9)[0])
    assert open_files() == before


class OwnFile(HangupSite):
    """A site whose bodies are its own affair."""

    def getContentFile(self, length: int | None) -> BytesIO:
        self.length = length
        return BytesIO()


def test_files_of_the_site() -> None:
    """What the site gives is left alone, however large it gets."""
    keeps = Keeps()
    site = OwnFile(Paths(keep=keeps))
    feed(site, *posted(LARGE, LARGE))
    assert keeps.kinds == [BytesIO] and keeps.bodies == [LARGE * 2]
    assert site.length == len(LARGE) * 2


# Where there is no room.


class _FullFile:
    """A file on a disk that is full: it says so when it is written, or not before a flush."""

    def __init__(self, early: bool) -> None:
        self.closed = False
        self._early = early

    def write(self, data: bytes) -> int:
        if self._early:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self.closed = True
        self.flush()


def no_file() -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


TROUBLE: dict[str, Callable[[], Any]] = {
    "no descriptor": no_file,
    "disk full": lambda: _FullFile(early=True),
    "disk full, buffered": lambda: _FullFile(early=False),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("factory", [Request, PlainRequest])
def test_no_room(
    factory: type[PlainRequest],
    trouble: str,
    chunked: bool,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[str],
) -> None:
    """A body that gets no file is a 503 for its request: one line, no traceback."""
    files: list[Any] = []

    def make() -> Any:
        files.append(TROUBLE[trouble]())
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    keeps = Keeps()
    site = LoggedSite(Paths(keep=keeps), requestFactory=factory)
    client = feed(site, *posted(LARGE, LARGE, chunked=chunked), GOOD)
    assert statuses(client.received) == [503]
    assert keeps.bodies == [] and client.errors == []
    assert site.logged == [503]
    assert all(file.closed for file in files)
    (line,) = log_lines
    assert "503" in line and "(traceback)" not in line
    assert feed(site, GOOD).received.endswith(b"fast") is (factory is Request)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("chunk", [0, 7_000, 65_536, 300_000])
async def test_large_uploads(
    serve: Serve, chunk: int, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large body is written in few pieces, and is what the client sent."""
    writes: list[int] = []
    write = os.writev

    def note(file: int, pieces: list[bytes]) -> int:
        writes.append(sum(map(len, pieces)))
        return write(file, pieces)

    monkeypatch.setattr(os, "writev", note)
    decrypted: list[int] = []
    decrypt = LeanTLS._decrypt

    def note_decrypted(transport: LeanTLS, data: bytes) -> None:
        decrypted.append(len(data))
        decrypt(transport, data)

    monkeypatch.setattr(LeanTLS, "_decrypt", note_decrypted)
    keeps = Keeps()
    served = serve(Paths(keep=keeps), tls=server_context() if tls else None)
    body = os.urandom(3_000_000)
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)] if chunk else [body]
    wire = b"".join(posted(*pieces, chunked=bool(chunk)))
    last = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received = await talk(served.port, wire + last, tls=tls)
    assert statuses(received) == [200, 200]
    assert keeps.bodies == [body]
    assert bool(decrypted) is tls
    assert sum(writes) <= len(body) and len(writes) <= len(body) // LARGEST_IN_MEMORY + 1


def test_a_file_takes_less_than_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk is nearly full, the system writes less than it was asked to."""
    monkeypatch.setattr(os, "writev", lambda file, pieces: os.write(file, pieces[0][:10]))
    keeps = Keeps()
    body = os.urandom(300_000)
    feed(HangupSite(Paths(keep=keeps)), *posted(body[:LARGEST_IN_MEMORY], body[LARGEST_IN_MEMORY:]))
    assert keeps.bodies == [body]


@pytest.mark.parametrize("late", [False, True], ids=["in a turn", "at the end"])
def test_no_room_later(late: bool, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]) -> None:
    """A disk that fills up while a body is being written is a 503 as well."""

    def full(file: int, pieces: list[bytes]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    keeps = Keeps()
    site = LoggedSite(Paths(keep=keeps))
    before = open_files()
    client = feed(site, *posted(LARGE, b"x", length=len(LARGE) * 3))
    if late:
        client.feed(LARGE, LARGE)
    else:
        for _ in range(_MOST_PIECES):
            client.feed(b"x")
    assert statuses(client.received) == [503]
    assert keeps.bodies == [] and client.errors == [] and site.logged == [503]
    assert open_files() == before
    assert len(log_lines) == 1


class Counts(Request):
    """Has a say in how its body comes."""

    pieces: list[bytes]

    def handleContentChunk(self, data: bytes) -> None:
        self.pieces = [*getattr(self, "pieces", []), data]
        super().handleContentChunk(data)


def test_what_applications_see_of_a_body() -> None:
    """A class that takes pieces itself gets all of them, as bytes."""
    seen: list[bytes] = []

    class Shows(Resource):
        isLeaf = True

        def render(self, request: Any) -> bytes:
            seen.extend(request.pieces)
            return b""

    site = HangupSite(Paths(keep=Shows()), requestFactory=Counts)
    body = os.urandom(300_000)
    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    feed(site, b"".join(posted(*pieces, chunked=True)))
    assert b"".join(seen) == body and all(type(piece) is bytes for piece in seen)


def test_files_end_with_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a body that breaks is closed at once, and not when the client has gone."""
    site = HangupSite(Paths())
    before = open_files()
    client = feed(site, *posted(LARGE, b"x", chunked=True)[:2])
    assert open_files() == before + 1
    client.feed(b"broken")
    assert statuses(client.received) == [400]
    assert open_files() == before
    assert site.open_connections == 1


class Fake:
    """A request, to what counts it."""

    def __init__(self, moved: list[str], name: str) -> None:
        self.moved, self.name = moved, name

    def move_body_to_file(self) -> None:
        self.moved.append(self.name)


def test_bodies_of_one_connection() -> None:
    """Together they keep the bound, and the largest is the one that goes to a file."""
    moved: list[str] = []
    small, large, late = (Fake(moved, name) for name in ("small", "large", "late"))
    bodies: Any = BodiesInMemory(100)
    bodies.grew(small, 30)
    bodies.grew(large, 40)
    bodies.grew(large, 60)
    assert bodies.bytes == 90 and moved == []
    bodies.grew(late, 20)
    assert bodies.bytes == 50 and moved == ["large"]
    bodies.forget(small)
    bodies.forget(small)
    assert bodies.bytes == 20
    bodies.grew(late, 101)
    assert bodies.bytes == 0 and moved == ["large", "late"]


class Holds(Resource):
    """Never answers."""

    isLeaf = True

    def render(self, request: Request) -> int:
        return NOT_DONE_YET


def test_bodies_are_counted_until_their_request_is_over() -> None:
    """Finished or left, a request holds no memory any more."""
    site = HangupSite(Paths(keep=Keeps(), hold=Holds()))
    client = feed(site)
    (channel,) = site.context.connections
    bodies = channel.bodies = BodiesInMemory()  # as a connection of HTTP/2 has one
    head, body = posted(b"12345")
    client.feed(head, body[:3])
    assert bodies.bytes == 3
    client.feed(body[3:])
    assert bodies.bytes == 0
    client.feed(head.replace(b"/keep", b"/hold"), body)
    assert bodies.bytes == 5
    client.reset()
    assert bodies.bytes == 0


@pytest_twisted.ensureDeferred
async def test_no_room_over_http2(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    """Over HTTP/2 it is a 503 for the one stream, and the others go on."""
    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    site = LoggedSite(Paths(keep=Keeps()))
    served = serve(site, tls=server_context())

    def run(client: H2Client) -> list[int | None]:
        stream = client.request(b"/keep", method=b"POST", end=False)
        for at in range(0, len(LARGE), 10_000):
            client.data(stream, LARGE[at : at + 10_000], end=False)
        return [client.answer(stream).status, client.answer(client.request()).status]

    assert await h2_talk(served.port, run) == [503, 200]
    assert sorted(site.logged) == [200, 503]
    assert [line for line in log_lines if "503" in line and "(traceback)" not in line]


@pytest_twisted.ensureDeferred
async def test_descriptors_of_real_uploads(serve: Serve) -> None:
    """A hundred uploads in small chunks take no descriptor but those of their connections."""
    keeps = Keeps()
    served = serve(Paths(keep=keeps))
    received = await talk(served.port, b"".join(posted(b"small", chunked=True)) * 100, fin=True)
    assert statuses(received) == [200] * 100
    assert keeps.kinds == [BytesIO] * 100
