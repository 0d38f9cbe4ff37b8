"""One connection: the right answers in the right order, whatever goes wrong, on real sockets."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.wire import (
    BAD,
    DEFAULT,
    GOOD,
    SLOW,
    Client,
    Paths,
    Serve,
    in_thread,
    pause,
    statuses,
    talk,
)
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.web.http import Request as PlainRequest
from twisted.web.resource import Resource
from twisted.web.server import Request

from twisted_hangup import (
    ClientHangUp,
    ClientSocket,
    HangupSite,
    Limits,
    UnexpectedEOF,
)


def talk_to(port: int, *segments: bytes) -> bytes:
    """All that is read of a server while another thread sends *segments* to it."""
    client = Client(port)
    feeder = threading.Thread(target=client.send, args=segments)
    feeder.start()
    received = client.read_all()
    feeder.join()
    client.close()
    return received


# Order.


@pytest.mark.parametrize(
    "segments", [[GOOD * 2 + BAD], [GOOD, GOOD, BAD], [GOOD + BAD[:30], BAD[30:]]]
)
@pytest_twisted.ensureDeferred
async def test_good_answers_come_first(serve: Serve, segments: list[bytes]) -> None:
    """Good requests before a broken one are answered, in order, and then the broken one."""
    served = serve()
    received = await talk(served.port, *segments)
    good = b"".join(segments).count(b"GET") - 1
    assert statuses(received) == [200] * good + [400]
    assert received.endswith(DEFAULT)
    assert served.root.fast.ran == [b"/fast"] * good


@pytest_twisted.ensureDeferred
async def test_error_waits_for_the_slow_answer(serve: Serve) -> None:
    """An error behind a slow request is journaled at once, and answered in its turn."""
    served = serve()
    started = served.root.slow.started
    chain: list[Failure] = []

    @served.site.on_client_error
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        chain.append(failure)
        assert socket.writable and not socket.headers_sent
        return failure

    received = talk(served.port, SLOW + GOOD + BAD)
    request = await started
    await pause()
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN"]
    assert chain == []
    request.write(b"slow")
    request.finish()
    answer = await received
    assert statuses(answer) == [200, 200, 400]
    assert answer.endswith(DEFAULT)
    assert len(chain) == 1
    assert served.errors[0].raw_packet == SLOW + GOOD + BAD


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest_twisted.ensureDeferred
async def test_client_leaves_while_the_error_waits(serve: Serve, leave: str) -> None:
    """If the client leaves first, the chain runs then, and the running request is cancelled."""
    served = serve()
    slow = served.root.slow
    started = slow.started
    chain: list[tuple[Any, bool]] = []

    @served.site.on_client_error
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        chain.append((failure.value, socket.writable))
        return failure

    client = await in_thread(lambda: Client(served.port).send(SLOW + BAD))
    await started
    await pause()
    await in_thread(getattr(client, leave))
    await pause()
    assert served.codes == ["HPE_INVALID_HEADER_TOKEN"]
    assert chain == [(served.errors[0], False)]
    assert len(slow.gone) == 1


@pytest_twisted.ensureDeferred
async def test_many_pipelined_requests(serve: Serve) -> None:
    """A thousand pipelined requests are answered without deep recursion, and in order."""
    served = serve()
    received = await talk(served.port, GOOD * 1000 + BAD)
    assert statuses(received) == [200] * 1000 + [400]


@pytest_twisted.ensureDeferred
async def test_backlog_behind_a_slow_request_is_bounded(serve: Serve) -> None:
    """Behind a slow request reading pauses at the limit, and goes on when it is answered."""
    served = serve()
    started = served.root.slow.started
    many = 20_000
    received = in_thread(lambda: talk_to(served.port, SLOW, GOOD * many, BAD))
    request = await started
    await pause(0.3)
    (channel,) = served.site.context.connections
    assert channel._inbox.buffered <= Limits().backlog_bytes + 65536
    request.finish()
    assert statuses(await received) == [200] * (many + 1) + [400]


@pytest_twisted.ensureDeferred
async def test_body_after_a_slow_request_is_bounded(serve: Serve) -> None:
    """Reading pauses in the middle of a body whose turn has not come, and goes on in its turn."""
    served = serve()
    started = served.root.slow.started
    length = 20_000_000
    post = b"POST /fast HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"

    received = in_thread(lambda: talk_to(served.port, SLOW + post % length, bytes(length)))
    request = await started
    (channel,) = served.site.context.connections
    while not channel._inbox.full:
        await pause(0.01)
    await pause(0.2)
    assert channel._inbox._body_bytes <= Limits().backlog_bytes + 65536
    request.finish()
    assert len(statuses(await received)) == 2


# After an error nothing is parsed.


@pytest_twisted.ensureDeferred
async def test_nothing_is_parsed_after_an_error(serve: Serve) -> None:
    """Good requests behind a broken one are not run, in the same segment or a later one."""
    served = serve()
    await talk(served.port, BAD + GOOD, GOOD)
    assert served.root.fast.ran == []


@pytest_twisted.ensureDeferred
async def test_data_after_close_is_ignored(serve: Serve) -> None:
    """What follows Connection: close is dropped, and the request itself is answered."""
    served = serve()
    last = b"GET /fast HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    received = await talk(served.port, last + GOOD + BAD)
    assert statuses(received) == [200]
    assert served.errors == []


# A response that has begun.


class WritesThenRaises(Resource):
    isLeaf = True

    def __init__(self, length: bytes | None) -> None:
        super().__init__()
        self.length = length

    def render(self, request: Request) -> bytes:
        if self.length is not None:
            request.setHeader(b"Content-Length", self.length)
        request.write(b"0123456789")
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("length", [None, b"100", b"10"])
@pytest_twisted.ensureDeferred
async def test_resource_raises_after_its_first_write(
    serve: Serve, expected_errors: LoggedErrors, length: bytes | None
) -> None:
    """Nothing is written into the response that has begun, and the connection ends."""
    served = serve(Paths(half=WritesThenRaises(length)))
    received = await talk(served.port, b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD)
    assert statuses(received) == [200]
    assert b"0123456789" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert b"Traceback" not in received and b"rror" not in received
    assert served.root.fast.ran == []
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_response_that_ends_with_the_connection_is_reset(
    serve: Serve, expected_errors: LoggedErrors
) -> None:
    """A response without a length must not look whole when it is cut short."""
    served = serve(Paths(half=WritesThenRaises(None)))
    with pytest.raises(ConnectionResetError):
        await talk(served.port, b"GET /half HTTP/1.0\r\nHost: a\r\n\r\n")
    expected_errors.flush(ZeroDivisionError)


class EagerRequest(Request):
    """Begins its response before its body has come."""

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        self.method, self.uri, self.clientproto = b"POST", b"/", b"HTTP/1.1"
        self.write(b"begun")


@pytest.mark.parametrize("answer", [None, b"answer"])
@pytest_twisted.ensureDeferred
async def test_body_breaks_after_its_response_has_begun(serve: Serve, answer: Any) -> None:
    """Not even a handler can write into the broken message's own response."""
    served = serve(requestFactory=EagerRequest)
    seen: list[bool] = []

    @served.site.on_client_error
    def handler(failure: Failure, socket: ClientSocket) -> Any:
        seen.append(socket.headers_sent)
        return failure if answer is None else answer

    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    def run() -> bytes:
        client = Client(served.port).send(chunked)
        received = client.read_until(b"begun\r\n")
        client.send(b"zz\r\n")
        try:
            return received + client.read_all()
        except ConnectionResetError:
            return received
        finally:
            client.close()

    received = await in_thread(run)
    assert received.endswith(b"begun\r\n")
    assert served.codes == ["HPE_INVALID_CHUNK_SIZE"]
    assert seen == [True]


# No exception leaves the channel.

MULTIPART = (
    b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary%s\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
BROKEN_MULTIPART = {
    "no boundary": (b"", b"x"),
    "odd boundary": (b"\xff*0*", b"x"),
    "RFC 2231 name": (
        b"=b",
        b"--b\r\nContent-Disposition: form-data; name*=utf-8''n\r\n\r\nv\r\n--b--\r\n",
    ),
}


@pytest.mark.parametrize("broken", BROKEN_MULTIPART)
@pytest_twisted.ensureDeferred
async def test_broken_multipart(serve: Serve, broken: str) -> None:
    """Multipart that cannot be parsed is the client's fault, and loses no earlier answer."""
    served = serve()
    boundary, body = BROKEN_MULTIPART[broken]
    received = await talk(served.port, GOOD + MULTIPART % (boundary, len(body), body) + GOOD)
    assert statuses(received) == [200, 400]
    assert served.codes == ["ERR_HTTP_MULTIPART"]
    assert served.root.fast.ran == [b"/fast"]


class RaisesInProcess(PlainRequest):
    def process(self) -> None:
        raise ZeroDivisionError("a bug")


@pytest_twisted.ensureDeferred
async def test_request_class_that_raises(serve: Serve, expected_errors: LoggedErrors) -> None:
    """An application's request that raises is answered 500, and logged once."""
    site = HangupSite(Resource())

    def make_request(*arguments: Any) -> RaisesInProcess:
        return RaisesInProcess(*arguments)

    site.requestFactory = make_request  # type: ignore[assignment]
    served = serve(site)
    received = await talk(served.port, GOOD)
    assert statuses(received) == [500]
    assert served.errors == []
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_absurd_content_length(serve: Serve) -> None:
    """A Content-Length of 5000 digits is refused like any other that is too large."""
    served = serve()
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"
    assert await talk(served.port, wire) == DEFAULT
    assert served.codes == ["HPE_INVALID_CONTENT_LENGTH"]


# Well-formed requests that no resource sees.


@pytest_twisted.ensureDeferred
async def test_connect_is_not_implemented(serve: Serve) -> None:
    """CONNECT is answered 501 and closed, and what follows it is not parsed."""
    served = serve()
    received = await talk(served.port, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + GOOD)
    assert statuses(received) == [501]
    assert served.root.fast.ran == []
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_unknown_expectation(serve: Serve) -> None:
    """An Expect other than 100-continue is answered 417."""
    served = serve()
    received = await talk(served.port, b"GET /fast HTTP/1.1\r\nHost: a\r\nExpect: cake\r\n\r\n")
    assert statuses(received) == [417]
    assert served.root.fast.ran == []


@pytest_twisted.ensureDeferred
async def test_continue_only_where_the_body_is_wanted(serve: Serve) -> None:
    """A body that is announced too large is refused before any 100 Continue."""
    served = serve(limits=Limits(body_bytes=10))
    wire = b"POST /fast HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    assert statuses(await talk(served.port, wire % 11)) == [413]
    assert served.codes == ["ERR_HTTP_BODY_TOO_LARGE"]
    small = (wire % 10).replace(b"Host: a", b"Host: a\r\nConnection: close")
    assert statuses(await talk(served.port, small, b"0123456789")) == [100, 200]


# Clients that leave.


@pytest.mark.parametrize("leave", ["close", "reset", "end"])
@pytest_twisted.ensureDeferred
async def test_client_leaves_a_slow_request(serve: Serve, leave: str) -> None:
    """A client that leaves before its response is finished is one ClientHangUp."""
    served = serve()
    slow = served.root.slow
    started = slow.started
    client = await in_thread(lambda: Client(served.port).send(SLOW))
    await started
    await in_thread(getattr(client, leave))
    await pause()
    client.close()
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code, error.phase, error.status) == ("ECONNRESET", "response", None)
    assert error.reason == ("read ECONNRESET" if leave == "reset" else "socket hang up")
    (gone,) = slow.gone
    assert gone.check(ConnectionLost) and gone.check(ConnectionDone)
    assert gone.value.__cause__ is error
    assert slow.requests[0].code == 499


@pytest_twisted.ensureDeferred
async def test_half_open_client_gets_its_answer(serve: Serve) -> None:
    """With allow_half_open a client that has ended its input still gets the response."""
    served = serve(limits=Limits(allow_half_open=True))
    started = served.root.slow.started
    received = talk(served.port, SLOW + GOOD, fin=True)
    request = await started
    await pause()
    request.finish()
    assert statuses(await received) == [200, 200]
    assert served.errors == []


@pytest.mark.parametrize(
    "wire, phase",
    [
        (b"GET / HT", "head"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", "body"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_end_of_input_inside_a_message(serve: Serve, wire: bytes, phase: str) -> None:
    """A FIN inside a head or body is an UnexpectedEOF, answered 400 and readable."""
    served = serve()
    assert await talk(served.port, wire, fin=True) == DEFAULT
    (error,) = served.errors
    assert isinstance(error, UnexpectedEOF)
    assert (error.phase, error.bytes_parsed, error.offset) == (phase, 0, len(wire))
    assert error.raw_packet is None


@pytest.mark.parametrize("wire", [b"", b"\r\n", GOOD])
@pytest_twisted.ensureDeferred
async def test_end_of_input_between_messages(serve: Serve, wire: bytes) -> None:
    """A FIN between messages is a normal end."""
    served = serve()
    await talk(served.port, wire, fin=True)
    assert served.errors == []


@pytest.mark.parametrize(
    "wire, phase",
    [
        (b"", "idle"),
        (b"GET / HT", "head"),
        (GOOD, "idle"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", "body"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_reset_in_each_phase(serve: Serve, wire: bytes, phase: str) -> None:
    """A reset is a ClientHangUp in any phase."""
    served = serve()
    client = await in_thread(lambda: Client(served.port).send(wire))
    await pause()
    client.reset()
    await pause()
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code, error.reason, error.phase) == ("ECONNRESET", "read ECONNRESET", phase)
    assert (error.request is not None) == (phase != "idle")
