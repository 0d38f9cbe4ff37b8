"""A response is as long as its head has announced, or visibly cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.http2_client import talk
from support.wire import GOOD, Paths, Serve
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import File
from zope.interface import implementer

from twisted_hangup import HangupSite
from twisted_hangup.testing import feed

HEAD_END = b"\r\n\r\n"


class Announces(Resource):
    """Announces a length and writes these pieces."""

    isLeaf = True

    def __init__(self, length: bytes, pieces: list[bytes], status: int = 200) -> None:
        super().__init__()
        self.length, self.pieces, self.status = length, pieces, status

    def render(self, request: Request) -> int:
        request.setResponseCode(self.status)
        request.setHeader(b"Content-Length", self.length)
        for piece in self.pieces:
            request.write(piece)
        request.finish()
        return NOT_DONE_YET


class OwnRequest(Request):
    """One that does not get a lean base."""

    content = None


@implementer(ILogObserver)
class Log:
    """The warnings of ours about lengths, and the access log."""

    def __init__(self, site: HangupSite) -> None:
        self.warnings: list[str] = []
        self.statuses: list[int] = []
        site.log = self.note  # type: ignore[method-assign]
        globalLogPublisher.addObserver(self)

    def note(self, request: Any) -> None:
        self.statuses.append(request.code)

    def __call__(self, event: Any) -> None:
        if "Content-Length" in event.get("log_format", ""):
            self.warnings.append(event["log_format"])


@pytest.fixture(params=[Request, OwnRequest], ids=["lean", "own"])
def answered(request: pytest.FixtureRequest) -> Any:
    """Makes a site of a resource and feeds it."""
    logs: list[Log] = []

    def run(resource: Any, wire: bytes) -> tuple[Any, Log]:
        site = HangupSite(Paths(it=resource), requestFactory=request.param)
        logs.append(Log(site))
        return feed(site, wire), logs[-1]

    yield run
    for log in logs:
        globalLogPublisher.removeObserver(log)


GET = b"GET /it HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [[b"hello", b"more", b"more"], [b"hellomore"], [b"", b"hel", b"lomore"], [b"hel", b"lo", b"x"]],
)
def test_never_more_than_announced(answered: Callable[..., Any], pieces: list[bytes]) -> None:
    """The rest is dropped, in one line of the log, and the next response is the next."""
    client, log = answered(Announces(b"5", pieces), GET + GOOD)
    _, first, _second, *rest = client.received.split(b"HTTP/1.1 200")
    assert first.endswith(HEAD_END + b"hello")
    assert (len(log.warnings), log.statuses, rest) == (1, [200, 200], [])


@pytest.mark.parametrize("pieces", [[b"hel"], [], [b"", b"h", b"e"]])
def test_less_ends_the_connection(answered: Callable[..., Any], pieces: list[bytes]) -> None:
    """The client sees it cut, and no log has it as a success."""
    client, log = answered(Announces(b"5", pieces), GET + GOOD)
    assert client.received.endswith(HEAD_END + b"".join(pieces))
    assert client.ended is not None
    assert (len(log.warnings), log.statuses) == (1, [444])


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_no_body_to_count(answered: Callable[..., Any], method: str, status: int) -> None:
    """What has no body may announce that of another."""
    client, log = answered(Announces(b"5", [b"hel"], status), GET.replace(b"GET", method.encode()))
    assert client.received.endswith(HEAD_END)
    assert (client.ended, log.warnings, log.statuses) == (None, [], [status])


@pytest.mark.parametrize("length", [b"", b"x", b"-1"])
def test_no_number(answered: Callable[..., Any], length: bytes) -> None:
    """What is no number announces nothing."""
    client, log = answered(Announces(length, [b"hello", b"more"]), GET)
    assert client.received.endswith(b"hellomore")
    assert log.warnings == []


@pytest.mark.parametrize("change", [b"x" * 100_000, None], ids=["grows", "shrinks"])
def test_file_that_changes(
    answered: Callable[..., Any], tmp_path: Path, change: bytes | None
) -> None:
    """A file that grows or shrinks while it is served is no other response's business."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1_000_000)

    class Changing(File):
        def makeProducer(self, request: Any, file: Any) -> Any:
            producer = super().makeProducer(request, file)
            with path.open("r+b") as other:
                if change is None:
                    other.truncate(300_000)
                else:
                    other.seek(0, 2)
                    other.write(change)

            def start() -> None:
                while producer.request is not None:
                    producer.resumeProducing()

            producer.start = start
            return producer

    client, log = answered(Changing(str(path)), GET + GOOD)
    body = client.received.partition(HEAD_END)[2].partition(b"HTTP/1.1 ")[0]
    assert len(body) == (300_000 if change is None else 1_000_000)
    assert len(log.warnings) == 1
    assert log.statuses == ([444] if change is None else [200, 200])


@pytest.mark.parametrize("pieces", [[b"hel"], [b"hello", b"more"]], ids=["short", "long"])
@pytest_twisted.ensureDeferred
async def test_over_http2(serve: Serve, pieces: list[bytes]) -> None:
    """A stream is not longer than its head said, and reset where it is shorter."""
    short = len(b"".join(pieces)) < 5
    served = serve(Paths(it=Announces(b"5", pieces)), tls=server_context())
    log = Log(served.site)
    answer = await talk(served.port, lambda c: c.answer(c.request(b"/it")))
    globalLogPublisher.removeObserver(log)
    assert answer.status == 200
    assert answer.body == (b"" if short else b"hello")  # what is queued goes with a reset
    assert (answer.reset is not None, answer.ended) == (short, not short)
    assert (len(log.warnings), log.statuses) == (1, [444 if short else 200])


def test_floods_no_log() -> None:
    """A resource that is wrong each time is told of once a second."""
    clock = Clock()
    site = HangupSite(Paths(it=Announces(b"5", [b"hello", b"more"])), reactor=clock)
    log = Log(site)
    feed(site, GET * 20)
    clock.advance(1)
    feed(site, GET * 20)
    globalLogPublisher.removeObserver(log)
    assert log.statuses == [200] * 40
    assert len(log.warnings) == 2
