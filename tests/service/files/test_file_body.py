"""Files that the kernel sends: the same bytes, ends and log lines as when they are written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.http2_client import talk as talk_http2
from support.wire import (
    Client,
    HandClock,
    Serve,
    Served,
    in_thread,
    settled,
    take_a_little,
    talk,
    until,
)
from twisted.internet.endpoints import serverFromString
from twisted.logger import capturedLogs
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.server import Request

from twisted_hangup import HangupSite, Timeouts
from twisted_hangup.service.files import StaticFiles
from twisted_hangup.transport import sendfile
from twisted_hangup.transport.sockets import TellingSocket

MIB = 1024 * 1024
SIZE = 12 * MIB + 345
CONTENT = Random(19).randbytes(SIZE)
GET = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
SMALL = b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Kernel:
    """What `os.sendfile` was asked, and did.

    Attributes:
        steps: Bytes asked for and sent, of each call that sent some.
        fail: Raised by the next calls, in their order.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.fail: list[int] = []

    def __call__(self, out: int, file: int, offset: int, count: int) -> int:
        if self.fail:
            raise OSError(self.fail.pop(0), "by this test")
        sent = os.sendfile(out, file, offset, count)
        self.steps.append((count, sent))
        return sent

    @property
    def sent(self) -> int:
        return sum(sent for _, sent in self.steps)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(sendfile, "_sendfile", kernel)
    return kernel


class Log:
    """The lines of an access log: status, and bytes of the body."""

    def __init__(self, served: Served) -> None:
        self.lines: list[tuple[int, int]] = []
        site: Any = served.site
        site.log = lambda request: self.lines.append((request.code, request.sentLength))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StaticFiles]:
    """A directory; all of its files that were opened have to be closed when the test is over."""
    (tmp_path / "large").write_bytes(CONTENT)
    (tmp_path / "small").write_bytes(b"small")
    files = StaticFiles(str(tmp_path))
    files.out_of_files = pytest.fail
    opened: list[FileIO] = []
    real = StaticFiles.openForReading

    def opening(self: StaticFiles) -> FileIO:
        opened.append(real(self))
        return opened[-1]

    monkeypatch.setattr(StaticFiles, "openForReading", opening)
    yield files
    assert opened
    assert all(file.closed for file in opened)


def body_of(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


def ranged(value: str) -> bytes:
    return b"GET /large HTTP/1.1\r\nHost: a\r\nRange: %b\r\n\r\n" % value.encode()


def fetched(client: Any) -> bytes:
    return bytes(client.answer(client.request(b"/large")).body)


def parts_of(response: bytes) -> list[tuple[bytes, bytes]]:
    """The ranges of a multipart response and their bytes, by the lengths that they name."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head + b"\r\n"
    parts = []
    for match in re.finditer(rb"Content-range: bytes (\d+)-(\d+)/\d+\r\n\r\n", body):
        length = int(match[2]) - int(match[1]) + 1
        parts.append((match[1], body[match.end() : match.end() + length]))
    return parts


# What is sent.


@pytest.mark.parametrize("wire", ["tcp", "unix", "haproxy"])
@pytest_twisted.ensureDeferred
async def test_whole_file(
    serve: Serve,
    files: StaticFiles,
    kernel: Kernel,
    wire: str,
    tmp_path: Path,
) -> None:
    """All of it comes, a bounded piece in each turn, and the request after it is answered."""
    if wire == "haproxy":
        from twisted.internet import reactor

        served = serve(
            files, endpoint=serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1")
        )
    else:
        served = serve(files, unix=str(tmp_path / "socket") if wire == "unix" else None)
    log = Log(served)
    line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" if wire == "haproxy" else b""
    response = await talk(served.port, line + GET + SMALL)
    body = body_of(response)
    assert body[:SIZE] == CONTENT
    assert body[SIZE:].startswith(b"HTTP/1.1 200 OK\r\n") and body.endswith(b"small")
    assert kernel.sent == SIZE
    assert max(asked for asked, _ in kernel.steps) <= sendfile.TURN_BYTES
    await until(lambda: log.lines == [(200, SIZE), (200, 5)])
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_last_response(serve: Serve, files: StaticFiles, kernel: Kernel) -> None:
    """With Connection: close the connection ends after the last byte, and not before."""
    served = serve(files)
    assert body_of(await talk(served.port, LAST)) == CONTENT
    assert kernel.sent == SIZE
    await served.emptied()
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_requests_before_it(
    serve: Serve, files: StaticFiles, kernel: Kernel, tmp_path: Path
) -> None:
    """Those that are sent with it in one turn are logged before it."""
    (tmp_path / "quick").write_bytes(CONTENT[:100_000])
    served = serve(files)
    log = Log(served)
    small = SMALL.replace(b"Connection: close\r\n", b"")
    quick = GET.replace(b"large", b"quick")
    await talk(served.port, small + small + quick + SMALL)
    assert kernel.steps
    assert log.lines == [(200, 5), (200, 5), (200, 100_000), (200, 5)]


@pytest_twisted.ensureDeferred
async def test_head_sends_nothing(serve: Serve, files: StaticFiles, kernel: Kernel) -> None:
    """HEAD says the length; a small file is written with its head."""
    response = await talk(serve(files).port, LAST.replace(b"GET", b"HEAD"))
    assert b"\r\nContent-Length: %d\r\n" % SIZE in response
    assert body_of(response) == b""
    assert (await talk(serve(files).port, SMALL)).endswith(b"\r\n\r\nsmall")
    assert kernel.steps == []


RANGES = Random(7)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest_twisted.ensureDeferred
async def test_ranges_of_a_large_file(
    serve: Serve, files: StaticFiles, kernel: Kernel, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sends the same bytes that are read where it cannot send."""
    served = serve(files)
    for _ in range(4):
        starts = sorted(RANGES.sample(range(SIZE - MIB), count))
        ends = [*starts[1:], SIZE]
        pairs = [
            (start, RANGES.randrange(start + 1, end))
            for start, end in zip(starts, ends, strict=True)
        ]
        wire = ranged("bytes=" + ",".join(f"{start}-{last}" for start, last in pairs))
        wire = wire.replace(b"Range", b"Connection: close\r\nRange")
        sent = await talk(served.port, wire)
        with monkeypatch.context() as without:
            without.setattr(sendfile, "_sendfile", None)
            read = await talk(served.port, wire)
        expected = [(b"%d" % start, CONTENT[start : last + 1]) for start, last in pairs]
        for response in (sent, read):
            assert response.startswith(b"HTTP/1.1 206 ")
            if count == 1:
                assert body_of(response) == expected[0][1]
            else:
                assert parts_of(response) == expected
    assert kernel.steps


# Where the file is read.


class OwnWrite(Request):
    """A request of an application that changes what is written."""

    def write(self, data: bytes) -> None:
        super().write(data)


class Layer(ProtocolWrapper):
    """A layer that has a say in what is written."""

    def write(self, data: bytes) -> None:
        super().write(data)


def own_request(files: StaticFiles) -> HangupSite:
    return HangupSite(files, requestFactory=OwnWrite)


@pytest.mark.parametrize("why", ["tls", "request", "layer", "platform"])
@pytest_twisted.ensureDeferred
async def test_read_instead(
    serve: Serve,
    files: StaticFiles,
    kernel: Kernel,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TLS, whoever has a say in the bytes, and systems without sendfile get them written."""
    if why == "request":
        served = serve(own_request(files))
    elif why == "platform":
        monkeypatch.setattr(sendfile, "_sendfile", None)
        served = serve(files)
    else:
        served = serve(files, tls=server_context() if why == "tls" else None)
    if why == "layer":
        monkeypatch.setattr(served.site, "buildProtocol", layered(served.site))
    assert body_of(await talk(served.port, LAST, tls=why == "tls")) == CONTENT
    assert kernel.steps == []


def layered(site: Any) -> Any:
    build = site.buildProtocol
    factory: Any = WrappingFactory(site)
    return lambda address: Layer(factory, build(address))


@pytest_twisted.ensureDeferred
async def test_http2(serve: Serve, files: StaticFiles, kernel: Kernel) -> None:
    """Over HTTP/2 it is written in frames."""
    served = serve(files, tls=server_context())
    body = await talk_http2(served.port, fetched)
    assert body == CONTENT
    assert kernel.steps == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest_twisted.ensureDeferred
async def test_file_system_that_cannot_send(
    serve: Serve, files: StaticFiles, kernel: Kernel, number: int
) -> None:
    """What the kernel cannot send of a file is read."""
    served = serve(files)
    log = Log(served)
    kernel.fail = [number] * 10_000
    assert body_of(await talk(served.port, LAST)) == CONTENT
    assert kernel.steps == []
    await until(lambda: log.lines == [(200, SIZE)])


@pytest_twisted.ensureDeferred
async def test_broken_disk(
    serve: Serve,
    files: StaticFiles,
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    expected_errors: LoggedErrors,
) -> None:
    """A file that cannot be read any more cuts the response, and the log says why."""
    served = serve(files)

    def broken(*_: int) -> bytes:
        raise OSError(errno.EIO, "by this test")

    monkeypatch.setattr(os, "pread", broken)
    kernel.fail = [errno.EIO]
    assert body_of(await talk(served.port, LAST)) == b""
    (event,) = expected_errors.flush(OSError)
    assert event["log_format"] == "Could not read a file that is being sent"


# A file that changes, and a client that leaves.


async def stuck(kernel: Kernel) -> None:
    """Wait until the client has room for nothing more."""
    sent = -1
    while sent != kernel.sent or not sent:
        sent = kernel.sent
        await settled()


async def begun(served: Served, kernel: Kernel, wire: bytes = LAST) -> Client:
    """A client that has asked for the large file and has taken a part of it."""
    client: Client = await in_thread(
        lambda: Client(served.port, receive_buffer=16 * 1024).send(wire)
    )
    await stuck(kernel)
    assert 0 < kernel.sent < SIZE
    return client


@pytest_twisted.ensureDeferred
async def test_file_that_shrinks(
    serve: Serve, files: StaticFiles, kernel: Kernel, tmp_path: Path
) -> None:
    """The response is cut: its length says so to the client, its status to the access log."""
    served = serve(files)
    log = Log(served)
    client = await begun(served, kernel, GET)
    with capturedLogs() as events:
        left = kernel.sent + 1000
        os.truncate(tmp_path / "large", left)
        response = await in_thread(client.read_all)
    assert b"\r\nContent-Length: %d\r\n" % SIZE in response
    assert body_of(response) == CONTENT[:left]
    await until(lambda: log.lines == [(444, left)])
    assert any("bytes short of its Content-Length" in str(one["log_format"]) for one in events)
    client.close()
    await served.emptied()


@pytest.mark.parametrize("value", ["bytes=0-9999999", "bytes=0-4999999,5000000-9999999"])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_range_that_goes(
    serve: Serve, files: StaticFiles, tmp_path: Path, value: str, tls: bool
) -> None:
    """So is a response to a range whose end has gone, also where it is read."""
    served = serve(files, tls=server_context() if tls else None)
    client = await in_thread(
        lambda: Client(served.port, tls=tls, receive_buffer=16 * 1024).send(ranged(value))
    )
    await until(lambda: served.site.context.phases()["response"])
    os.truncate(tmp_path / "large", 9_000_000)
    response = await in_thread(client.read_all)
    length = re.search(rb"Content-Length: (\d+)", response)
    assert length is not None
    assert 8_000_000 < len(body_of(response)) < int(length[1])
    client.close()
    await served.emptied()


@pytest_twisted.ensureDeferred
async def test_file_that_grows(
    serve: Serve, files: StaticFiles, kernel: Kernel, tmp_path: Path
) -> None:
    """No more is sent than the head said, and the next response comes right after it."""
    served = serve(files)
    client = await begun(served, kernel, GET + SMALL)
    with (tmp_path / "large").open("ab") as file:
        file.write(bytes(MIB))
    body = body_of(await in_thread(client.read_all))
    assert body[:SIZE] == CONTENT
    assert body[SIZE:].startswith(b"HTTP/1.1 200 OK\r\n")
    client.close()


@pytest_twisted.ensureDeferred
async def test_file_that_is_deleted(
    serve: Serve, files: StaticFiles, kernel: Kernel, tmp_path: Path
) -> None:
    """A file that is deleted or replaced is sent to its end."""
    client = await begun(serve(files), kernel)
    (tmp_path / "new").write_bytes(b"new")
    os.replace(tmp_path / "new", tmp_path / "large")
    assert body_of(await in_thread(client.read_all)) == CONTENT
    client.close()


@pytest.mark.parametrize("how", ["reset", "end"])
@pytest_twisted.ensureDeferred
async def test_client_that_leaves(
    serve: Serve,
    files: StaticFiles,
    kernel: Kernel,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its request fails, its line has what was sent, and the file is closed."""
    ends: list[Any] = []
    render = StaticFiles.render_GET

    def watched(self: StaticFiles, request: Any) -> Any:
        request.notifyFinish().addBoth(ends.append)
        return render(self, request)

    monkeypatch.setattr(StaticFiles, "render_GET", watched)
    served = serve(files)
    log = Log(served)
    client = await begun(served, kernel)
    client.end() if how == "end" else client.reset()
    await until(lambda: ends)
    assert isinstance(ends[0], Failure)
    if how == "end":
        await in_thread(client.read_all)
    await until(lambda: log.lines)
    assert log.lines == [(499, kernel.sent)]
    (code,) = served.codes
    assert code in ("ECONNRESET", "EPIPE")
    client.close()
    await served.emptied()


@pytest_twisted.ensureDeferred
async def test_client_that_takes_nothing(serve: Serve, files: StaticFiles, kernel: Kernel) -> None:
    """Past send_seconds without a byte taken it is given up; a byte starts the time anew."""
    clock = HandClock()
    served = serve(files, reactor=clock)
    client = await begun(served, kernel)
    seconds = Timeouts().send_seconds
    (channel,) = served.site.context.connections
    for _ in range(2):
        clock.wait(seconds - 1)
        await take_a_little(lambda: client.socket.recv(4096), channel.transport)
    for _ in range(2):
        clock.wait(seconds - 1)
        sent = kernel.sent
        while kernel.sent == sent:
            await in_thread(lambda: [client.socket.recv(MIB) for _ in range(30)])
            await settled()
        await stuck(kernel)
    assert kernel.sent < SIZE
    clock.wait(seconds - 1)
    await settled()
    assert served.site.open_connections == 1

    def gone() -> bool:
        clock.wait(seconds)
        return served.site.open_connections == 0

    await until(gone)
    assert served.codes == ["ETIMEDOUT"]
    client.close()


@pytest.mark.parametrize("size", [66_000, 100_000, 250_000])
@pytest_twisted.ensureDeferred
async def test_client_without_room_for_the_head(
    serve: Serve, files: StaticFiles, kernel: Kernel, size: int
) -> None:
    """What it has asked for before fills its buffers: it has no more time than others."""
    clock = HandClock()
    served = serve(files, reactor=clock)
    ranged = GET.replace(b"\r\n\r\n", b"\r\nRange: bytes=1-%d\r\n\r\n" % size)
    client = await in_thread(lambda: Client(served.port).send(ranged * 120))
    await stuck(kernel)
    seconds = Timeouts().send_seconds
    clock.wait(seconds - 1)
    await settled()
    assert served.site.open_connections == 1

    def gone() -> bool:
        clock.wait(Timeouts().send_seconds)  # again where the kernel had room once more
        return served.site.open_connections == 0

    await until(gone)
    assert served.codes == ["ETIMEDOUT"]
    client.close()


@pytest_twisted.ensureDeferred
async def test_head_that_waits(
    serve: Serve, files: StaticFiles, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file comes after it, and the next response after that."""
    write, room = TellingSocket.writeSomeData, [0, 10, 0]

    def some(transport: TellingSocket, data: Any) -> Any:
        return write(transport, data[: room.pop()]) if room else write(transport, data)

    monkeypatch.setattr(TellingSocket, "writeSomeData", some)
    received = await talk(serve(files).port, GET + SMALL)
    assert not room
    assert body_of(received)[:SIZE] == CONTENT
    assert body_of(received)[SIZE:].endswith(b"small")


@pytest_twisted.ensureDeferred
async def test_connection_is_aborted(serve: Serve, files: StaticFiles, kernel: Kernel) -> None:
    """A connection that we end takes the file with it."""
    served = serve(files)
    client = await begun(served, kernel)
    served.site.hang_up_all()
    await served.emptied()
    client.close()


@pytest_twisted.ensureDeferred
async def test_application_closes(
    serve: Serve, files: StaticFiles, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the application has closed the connection, no more of the file is sent."""
    requests: list[Any] = []
    render = StaticFiles.render_GET

    def watched(self: StaticFiles, request: Any) -> Any:
        requests.append(request)
        return render(self, request)

    monkeypatch.setattr(StaticFiles, "render_GET", watched)
    served = serve(files)
    client = await begun(served, kernel)
    sent = kernel.sent
    requests[0].loseConnection()
    assert body_of(await in_thread(client.read_all)) == CONTENT[:sent]
    client.close()
    await served.emptied()


@pytest_twisted.ensureDeferred
async def test_others_are_served_meanwhile(
    serve: Serve, files: StaticFiles, kernel: Kernel
) -> None:
    """A client that takes nothing keeps nobody waiting, and gets the rest when it reads on."""
    served = serve(files)
    client = await begun(served, kernel)
    assert (await talk(served.port, SMALL)).endswith(b"small")
    assert body_of(await in_thread(client.read_all)) == CONTENT
    client.close()
