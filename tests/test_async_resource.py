"""What an ``async def render_GET`` returns or raises is one proper response."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Final

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.wire import Paths, Serve, pause, talk
from twisted.internet.defer import Deferred, succeed
from twisted.web.resource import EncodingResourceWrapper
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Request

from twisted_hangup import AsyncResource, cancellable


class Does(AsyncResource):
    """Does what it is given."""

    isLeaf = True

    def __init__(self, work: Callable[[Any], Any]) -> None:
        super().__init__()
        self.work = work
        self.finished: list[object] = []

    async def render_GET(self, request: Request) -> Any:
        self.request = request
        request.notifyFinish().addBoth(self.finished.append)
        await pause(0)
        result = self.work(request)
        return await result if isinstance(result, Deferred) else result


class Cancellable(Does):
    """The same, for as long as its client waits."""

    @cancellable
    async def render_GET(self, request: Request) -> Any:
        return await super().render_GET(request)


def wire(method: bytes = b"GET", close: bool = True) -> bytes:
    fields = b"Host: a\r\nConnection: close\r\n" if close else b"Host: a\r\n"
    return b"%s /does HTTP/1.1\r\n%s\r\n" % (method, fields)


async def answer(
    serve: Serve, resource: AsyncResource, method: bytes = b"GET"
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields and body of the one response that comes."""
    served = serve(Paths(does=resource))
    head, _, body = (await talk(served.port, wire(method))).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines)
    return int(first.split()[1]), fields, body


def writes(*pieces: bytes, result: object = None, finish: bool = False) -> Callable[[Any], Any]:
    def work(request: Any) -> Any:
        for piece in pieces:
            request.write(piece)
        if finish:
            request.finish()
        return result

    return work


CHUNKED: Final = b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
HTML: Final = b"text/html"

#: work -> (length, type, bytes after the head)
RESULTS: Final[dict[str, tuple[Callable[[Any], Any], bytes | None, bytes, bytes]]] = {
    "bytes": (lambda _: b"body", b"4", HTML, b"body"),
    "no bytes": (lambda _: b"", b"0", b"", b""),
    "str": (lambda _: "grüß", b"6", b"text/html; charset=utf-8", "grüß".encode()),
    "Deferred": (lambda _: succeed(b"body"), b"4", HTML, b"body"),
    "None": (lambda _: None, None, HTML, b"0\r\n\r\n"),
    "None after writes": (writes(b"a", b"b"), None, HTML, CHUNKED),
    "None, finished": (writes(b"a", b"b", finish=True), None, HTML, CHUNKED),
    "bytes after writes": (writes(b"a", result=b"b"), None, HTML, CHUNKED),
}


@pytest.mark.parametrize("kind", [Does, Cancellable])
@pytest.mark.parametrize("result", RESULTS)
@pytest_twisted.ensureDeferred
async def test_result(serve: Serve, result: str, kind: type[Does]) -> None:
    """Each result ends one response, with its length where that can be known."""
    work, length, content_type, body = RESULTS[result]
    resource = kind(work)
    status, fields, received = await answer(serve, resource)
    assert (status, fields.get(b"content-length"), received) == (200, length, body)
    assert fields.get(b"content-type", b"") == content_type
    assert resource.finished == [None]
    assert resource.request.responseHeaders.hasHeader(b"Content-Length") == (length is not None)


@pytest.mark.parametrize("result", RESULTS)
@pytest_twisted.ensureDeferred
async def test_head(serve: Serve, result: str) -> None:
    """HEAD gets the fields that GET gets, and no body (RFC 9110, section 9.3.2)."""
    work, length, content_type, _ = RESULTS[result]
    status, fields, received = await answer(serve, Does(work), b"HEAD")
    assert (status, fields.get(b"content-length"), received) == (200, length, b"")
    assert fields.get(b"content-type", b"") == content_type


@pytest_twisted.ensureDeferred
async def test_own_content_type(serve: Serve) -> None:
    """The type that a method sets stays, also for text."""

    def work(request: Any) -> str:
        request.setHeader(b"Content-Type", b"text/plain")
        return "text"

    assert (await answer(serve, Does(work)))[1][b"content-type"] == b"text/plain"


@pytest.mark.parametrize("code", [204, 304])
@pytest_twisted.ensureDeferred
async def test_status_without_body(serve: Serve, code: int) -> None:
    """A status that has no body has no length either (RFC 9110, section 8.6)."""

    def work(request: Any) -> bytes:
        request.setResponseCode(code)
        return b""

    status, fields, received = await answer(serve, Does(work))
    assert (status, received) == (code, b"")
    assert b"content-length" not in fields


@pytest_twisted.ensureDeferred
async def test_compressed(serve: Serve) -> None:
    """An encoder around the resource works as for any other."""
    import gzip

    wrapped = EncodingResourceWrapper(Does(lambda _: b"body" * 100), [GzipEncoderFactory()])
    served = serve(Paths(does=wrapped))
    sent = wire().replace(b"Host", b"Accept-Encoding: gzip\r\nHost")
    head, _, body = (await talk(served.port, sent)).partition(b"\r\n\r\n")
    assert b"Content-Length" not in head
    pieces = body.split(b"\r\n")[1::2]  # every second line is the size of a chunk
    assert gzip.decompress(b"".join(pieces)) == b"body" * 100


@pytest_twisted.ensureDeferred
async def test_not_done_yet(serve: Serve) -> None:
    """Something else finishes the response then."""

    def work(request: Any) -> int:
        pause(0).addCallback(lambda _: (request.write(b"late"), request.finish()))
        return NOT_DONE_YET

    assert (await answer(serve, Does(work)))[2] == b"4\r\nlate\r\n0\r\n\r\n"


@pytest_twisted.ensureDeferred
async def test_method_without_coroutine(serve: Serve) -> None:
    """A method may be an ordinary one."""

    class Plain(AsyncResource):
        def render_GET(self, request: Request) -> bytes:
            return b"plain"

    assert (await answer(serve, Plain()))[2] == b"plain"


@pytest_twisted.ensureDeferred
async def test_unknown_method(serve: Serve) -> None:
    """A method that it has not is answered as by any resource."""
    assert (await answer(serve, Does(lambda _: b""), b"POST"))[0] == 405


class Sentinel(Exception):
    """What a resource raises."""


def fails(*pieces: bytes) -> Callable[[Any], Any]:
    def work(request: Any) -> None:
        writes(*pieces)(request)
        raise Sentinel

    return work


@pytest.mark.parametrize("kind", [Does, Cancellable])
@pytest_twisted.ensureDeferred
async def test_error(serve: Serve, kind: type[Does], expected_errors: LoggedErrors) -> None:
    """An exception before the first write is answered 500, and logged once."""
    resource = kind(fails())
    assert (await answer(serve, resource))[0] == 500
    assert resource.finished == [None]
    assert len(expected_errors.flush()) == 1


@pytest_twisted.ensureDeferred
async def test_error_after_writes(serve: Serve, expected_errors: LoggedErrors) -> None:
    """An exception after it cuts the response short, so that the client can tell."""
    status, _, body = await answer(serve, Does(fails(b"a")))
    assert (status, body) == (200, b"1\r\na\r\n")
    assert len(expected_errors.flush(Sentinel)) == 1


@pytest_twisted.ensureDeferred
async def test_error_after_finish(serve: Serve, expected_errors: LoggedErrors) -> None:
    """An exception after the end is logged, and changes nothing."""

    def work(request: Any) -> None:
        writes(b"a", b"b", finish=True)(request)
        raise Sentinel

    assert (await answer(serve, Does(work)))[2] == CHUNKED
    assert len(expected_errors.flush(Sentinel)) == 1


@pytest_twisted.ensureDeferred
async def test_wrong_type(serve: Serve, expected_errors: LoggedErrors) -> None:
    """What cannot be sent is an error, that names what it is."""
    assert (await answer(serve, Does(lambda _: 7)))[0] == 500
    (event,) = expected_errors.flush(TypeError)
    assert str(event["log_failure"].value).endswith("returned int, not bytes, str or None")


@pytest_twisted.ensureDeferred
async def test_cancelled_otherwise(serve: Serve, expected_errors: LoggedErrors) -> None:
    """Cancelling that has nothing to do with the client is an error like any other."""

    def work(request: Any) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        deferred.cancel()
        return deferred

    assert (await answer(serve, Cancellable(work)))[0] == 500
    assert len(expected_errors.flush()) == 1


async def leave(serve: Serve, resource: AsyncResource) -> None:
    """Let a client leave while *resource* is at work."""
    served = serve(Paths(does=resource))
    await served.leave(wire())
    assert served.codes == ["ECONNRESET"]


@pytest_twisted.ensureDeferred
async def test_cancellable(serve: Serve) -> None:
    """A method that is cancellable ends, silently."""
    cancelled: list[object] = []
    await leave(serve, Cancellable(lambda _: Deferred(cancelled.append)))
    gc.collect()
    assert len(cancelled) == 1


@pytest_twisted.ensureDeferred
async def test_not_cancellable(serve: Serve) -> None:
    """A method that is not goes on; what it returns is dropped."""
    step: Deferred[bytes] = Deferred(lambda _: pytest.fail("cancelled"))
    resource = Does(lambda _: step)
    await leave(serve, resource)
    step.callback(b"late")
    gc.collect()
    assert len(resource.finished) == 1


@pytest.mark.parametrize("kind", [Does, Cancellable])
@pytest_twisted.ensureDeferred
async def test_late_error(serve: Serve, kind: type[Does], expected_errors: LoggedErrors) -> None:
    """Any other error after that is the application's, and is logged once."""
    work: Deferred[None] = Deferred(lambda deferred: deferred.errback(Sentinel()))
    await leave(serve, kind(lambda request: work))
    if kind is Does:
        work.errback(Sentinel())
    gc.collect()
    assert len(expected_errors.flush(Sentinel)) == 1
