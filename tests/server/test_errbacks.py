"""Each row of the table of what a handler may return or raise, over a real socket."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.wire import BAD, DEFAULT, GOOD, Serve, talk
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from twisted_hangup import ClientSocket, HeaderOverflow, MaskingPolicy, ParseError, Timeouts


def later(value: Any) -> Deferred[Any]:
    from twisted.internet import reactor

    return deferLater(reactor, 0.01, lambda: value)


def not_mine(failure: Failure, socket: ClientSocket) -> Failure:
    return failure


def trap_another(failure: Failure, socket: ClientSocket) -> None:
    failure.trap(HeaderOverflow)
    socket.end(b"never")


def raise_the_same(failure: Failure, socket: ClientSocket) -> None:
    failure.raiseException()


def take_and_end(failure: Failure, socket: ClientSocket) -> None:
    socket.end(b"taken\n")


def respond(failure: Failure, socket: ClientSocket) -> None:
    socket.respond(418, b"short and stout\n", {"X-Pot": "tea"})


def give_bytes(failure: Failure, socket: ClientSocket) -> bytes:
    return b"given\n"


def give_bytes_later(failure: Failure, socket: ClientSocket) -> Deferred[bytes]:
    return later(b"later\n")


def pass_on_later(failure: Failure, socket: ClientSocket) -> Deferred[Failure]:
    return later(failure)


async def answer_in_a_coroutine(failure: Failure, socket: ClientSocket) -> bytes:
    await later(None)
    return b"awaited\n"


async def pass_on_in_a_coroutine(failure: Failure, socket: ClientSocket) -> None:
    await later(None)
    failure.raiseException()


async def trap_in_a_coroutine(failure: Failure, socket: ClientSocket) -> None:
    failure.trap(HeaderOverflow)


def write_and_pass_on(failure: Failure, socket: ClientSocket) -> Failure:
    socket.write(b"begun ")
    return failure


def write_and_respond(failure: Failure, socket: ClientSocket) -> None:
    socket.write(b"begun ")
    socket.respond(400, b"too late")


def write_and_end(failure: Failure, socket: ClientSocket) -> None:
    socket.write(b"one ")
    socket.end(b"two\n")


POT = (
    b"HTTP/1.1 418 I'm a teapot\r\nConnection: close\r\nX-Pot: tea\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\n\r\nshort and stout\n"
)


@pytest.mark.parametrize(
    "handlers, answer",
    [
        ([], DEFAULT),
        ([not_mine], DEFAULT),
        ([trap_another], DEFAULT),
        ([raise_the_same], DEFAULT),
        ([pass_on_later], DEFAULT),
        ([pass_on_in_a_coroutine], DEFAULT),
        ([trap_in_a_coroutine], DEFAULT),
        ([not_mine, take_and_end], b"taken\n"),
        ([trap_another, pass_on_later, give_bytes], b"given\n"),
        ([give_bytes, take_and_end], b"given\n"),
        ([give_bytes_later], b"later\n"),
        ([answer_in_a_coroutine], b"awaited\n"),
        ([respond], POT),
        ([write_and_end], b"one two\n"),
        # Once something is written, nothing is added to it.
        ([write_and_pass_on], b"begun "),
        ([write_and_pass_on, give_bytes], b"begun "),
        ([write_and_pass_on, respond], b"begun "),
        ([write_and_respond], b"begun "),
    ],
    ids=lambda value: "+".join(f.__name__ for f in value) if isinstance(value, list) else "",
)
@pytest_twisted.ensureDeferred
async def test_answer(serve: Serve, handlers: list[Any], answer: bytes) -> None:
    """What the client reads is what the first handler that takes the error made of it."""
    served = serve()
    for handler in handlers:
        served.site.on_client_error(handler)
    assert await talk(served.port, BAD) == answer
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN"]


CHUNKED = b"POST /fast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "wire, status_line",
    [
        (BAD, b"400 Bad Request"),
        (b"GET /", b"408 Request Timeout"),
        (CHUNKED + b"1;a=" + b"b" * 20_000, b"413 Payload Too Large"),
        (GOOD[:-2] + b"X: " + b"a" * 20_000, b"431 Request Header Fields Too Large"),
        (GOOD[:-2] + b"X: a\r\n" * 1001, b"431 Request Header Fields Too Large"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_default_answers(serve: Serve, wire: bytes, status_line: bytes) -> None:
    """The default answers are Node's, byte for byte."""
    served = serve(timeouts=Timeouts(head_seconds=0.3))
    answer = b"HTTP/1.1 " + status_line + b"\r\nConnection: close\r\n\r\n"
    assert await talk(served.port, wire) == answer


def crash(failure: Failure, socket: ClientSocket) -> None:
    raise ZeroDivisionError("a bug")


def return_a_failure(failure: Failure, socket: ClientSocket) -> Failure:
    return Failure(ZeroDivisionError("a bug"))


async def crash_in_a_coroutine(failure: Failure, socket: ClientSocket) -> None:
    await later(None)
    raise ZeroDivisionError("a bug")


def return_nonsense(failure: Failure, socket: ClientSocket) -> Any:
    return 42


@pytest.mark.parametrize("bug", [crash, return_a_failure, crash_in_a_coroutine, return_nonsense])
@pytest_twisted.ensureDeferred
async def test_bug(serve: Serve, expected_errors: LoggedErrors, bug: Any) -> None:
    """A handler's bug is logged, and the chain goes on with the original error."""
    served = serve()
    seen: list[Failure] = []
    served.site.on_client_error(bug)

    @served.site.on_client_error
    def after(failure: Failure, socket: ClientSocket) -> Failure:
        seen.append(failure)
        return failure

    assert await talk(served.port, BAD) == DEFAULT
    assert [failure.value for failure in seen] == served.errors
    (logged,) = expected_errors.flush()
    if bug is not return_nonsense:
        assert logged["log_failure"].check(ZeroDivisionError)


@pytest_twisted.ensureDeferred
async def test_what_a_handler_sees(serve: Serve) -> None:
    """The failure holds the error, with the packet and the place where it broke."""
    served = serve()
    seen: list[Any] = []

    @served.site.on_client_error
    def look(failure: Failure, socket: ClientSocket) -> Failure:
        failure.trap(ParseError)
        seen.append((failure.value, socket.peer, socket.writable, socket.headers_sent))
        return failure

    await talk(served.port, BAD)
    ((error, peer, writable, headers_sent),) = seen
    assert error.raw_packet == BAD
    assert error.bytes_parsed == error.offset == BAD.index(b" header")
    assert (error.phase, error.status, error.field) == ("head", 400, b"bad")
    assert error.request.target == b"/fast"
    assert error.request.fields == [(b"Host", b"a")]
    assert error.peer == peer
    assert writable and not headers_sent


@pytest_twisted.ensureDeferred
async def test_handler_added_later_sees_nothing_earlier(serve: Serve) -> None:
    """A handler that is added while an error is settled does not see that error."""
    served = serve()
    seen: list[Failure] = []

    def late(failure: Failure, socket: ClientSocket) -> Failure:
        seen.append(failure)
        return failure

    @served.site.on_client_error
    def add_another(failure: Failure, socket: ClientSocket) -> Failure:
        served.site.on_client_error(late)
        return failure

    await talk(served.port, BAD)
    assert seen == []
    await talk(served.port, BAD)
    assert len(seen) == 1


@pytest_twisted.ensureDeferred
async def test_waiting_handler_is_cancelled(serve: Serve) -> None:
    """Past handler_seconds a waiting handler is cancelled, and the default goes out."""
    served = serve(timeouts=Timeouts(handler_seconds=0.2))
    cancelled: list[Deferred[None]] = []
    skipped: list[Failure] = []

    @served.site.on_client_error
    def wait(failure: Failure, socket: ClientSocket) -> Deferred[None]:
        return Deferred(cancelled.append)

    @served.site.on_client_error
    def after(failure: Failure, socket: ClientSocket) -> Failure:
        skipped.append(failure)
        return failure

    assert await talk(served.port, BAD) == DEFAULT
    assert len(cancelled) == 1
    assert skipped == []


@pytest_twisted.ensureDeferred
async def test_forgetful_handler_is_closed_for(serve: Serve) -> None:
    """A handler that said None and never closes has its socket destroyed."""
    served = serve(timeouts=Timeouts(handler_seconds=0.2))
    sockets: list[ClientSocket] = []

    @served.site.on_client_error
    def forget(failure: Failure, socket: ClientSocket) -> None:
        sockets.append(socket)

    with pytest.raises(ConnectionResetError):
        await talk(served.port, BAD)
    await sockets[0].when_closed()
    assert sockets[0].closed


@pytest_twisted.ensureDeferred
async def test_late_answer_goes_nowhere(serve: Serve) -> None:
    """A handler that answers after its time writes nothing behind the default."""
    served = serve(timeouts=Timeouts(handler_seconds=0.2))
    answer: Deferred[bytes] = Deferred(lambda _: None)
    served.site.on_client_error(lambda failure, socket: answer)
    received = talk(served.port, BAD)
    served.site.on_client_error(lambda failure, socket: succeed(b"never"))
    assert await received == DEFAULT


@pytest_twisted.ensureDeferred
async def test_bug_in_a_flood(serve: Serve, expected_errors: LoggedErrors) -> None:
    """A handler that fails every time is told about ever more seldom."""
    served = serve()

    @served.site.on_client_error
    def crash_each_time(failure: Failure, socket: ClientSocket) -> None:
        raise KeyError("a bug")

    for _ in range(20):
        await talk(served.port, BAD)
    assert len(expected_errors.flush()) == 5


@pytest_twisted.ensureDeferred
async def test_report_masks_what_the_site_masks(serve: Serve) -> None:
    """The site's policy decides what report() hides."""
    served = serve(masking=MaskingPolicy(extra_fields=frozenset({b"x-api-key"})))
    await talk(served.port, b"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: TOPSECRET\x01\r\n\r\n")
    assert "TOPSECRET" not in served.errors[0].report()
    assert "TOPSECRET" in served.errors[0].report(masked=False)
