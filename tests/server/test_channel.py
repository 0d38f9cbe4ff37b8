"""One connection: the right answers in the right order, whatever goes wrong; in memory."""

from __future__ import annotations

from typing import Any, Final

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
    codes,
    in_thread,
    settled,
    statuses,
    talk,
    until,
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
from twisted_hangup.testing import MemoryClient, feed


class InMemory:
    """A site, and a client that has sent *pieces*."""

    def __init__(self, *pieces: bytes, root: Paths | None = None, **arguments: Any) -> None:
        self.root = root or Paths()
        self.site = HangupSite(self.root, **arguments)
        self.client: MemoryClient = feed(self.site, *pieces)

    @property
    def channel(self) -> Any:
        (channel,) = self.site.context.connections
        return channel


# Order.


@pytest.mark.parametrize(
    "segments", [[GOOD * 2 + BAD], [GOOD, GOOD, BAD], [GOOD + BAD[:30], BAD[30:]]]
)
def test_good_answers_come_first(segments: list[bytes]) -> None:
    """Good requests before a broken one are answered, in order, and then the broken one."""
    memory = InMemory(*segments)
    good = b"".join(segments).count(b"GET") - 1
    assert statuses(memory.client.received) == [200] * good + [400]
    assert memory.client.received.endswith(DEFAULT)
    assert memory.root.fast.ran == [b"/fast"] * good


def test_error_waits_for_the_slow_answer() -> None:
    """An error after a slow request is journaled at once, and answered in its turn."""
    memory = InMemory()
    client = memory.client
    chain: list[Failure] = []

    @memory.site.on_client_error
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        chain.append(failure)
        assert socket.writable and not socket.headers_sent
        return failure

    client.feed(SLOW + GOOD + BAD)
    assert codes(client) == ["HPE_INVALID_HEADER_TOKEN"]
    assert chain == []
    (request,) = memory.root.slow.requests
    request.write(b"slow")
    request.finish()
    client.advance(0)
    assert statuses(client.received) == [200, 200, 400]
    assert client.received.endswith(DEFAULT)
    assert len(chain) == 1
    assert client.errors[0].raw_packet == SLOW + GOOD + BAD


def test_many_pipelined_requests() -> None:
    """A thousand pipelined requests are answered without deep recursion, and in order."""
    client = InMemory(GOOD * 1000 + BAD).client
    assert statuses(client.received) == [200] * 1000 + [400]


def test_backlog_after_a_slow_request_is_bounded() -> None:
    """After a slow request reading pauses at the limit, and goes on when it is answered."""
    many = 5000
    memory = InMemory(SLOW, GOOD * many + BAD)
    assert 0 < memory.channel._inbox.buffered <= Limits().backlog_bytes + 65536
    memory.root.slow.requests[0].finish()
    assert statuses(memory.client.advance(0).received) == [200] * (many + 1) + [400]


def test_body_after_a_slow_request_is_bounded() -> None:
    """Reading pauses in the middle of a body whose turn has not come, and goes on in its turn."""
    length = 2_000_000
    post = b"POST /fast HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    memory = InMemory(SLOW + post % length, bytes(length))
    assert memory.channel._inbox.full
    assert memory.channel._inbox._octets <= Limits().backlog_bytes + 65536
    memory.root.slow.requests[0].finish()
    assert len(statuses(memory.client.advance(0).received)) == 2


# After an error nothing is parsed.


def test_nothing_is_parsed_after_an_error() -> None:
    """Good requests after a broken one are not run, in the same segment or a later one."""
    assert InMemory(BAD + GOOD, GOOD).root.fast.ran == []


def test_data_after_close_is_ignored() -> None:
    """What follows Connection: close is dropped, and the request itself is answered."""
    last = b"GET /fast HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    client = InMemory(last + GOOD + BAD).client
    assert statuses(client.received) == [200]
    assert client.errors == []


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
def test_resource_raises_after_its_first_write(
    expected_errors: LoggedErrors, length: bytes | None
) -> None:
    """Nothing is written into the response that has begun, and the connection ends."""
    wire = b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD
    memory = InMemory(wire, root=Paths(half=WritesThenRaises(length)))
    received = memory.client.received
    assert statuses(received) == [200]
    assert b"0123456789" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert b"Traceback" not in received and b"rror" not in received
    assert memory.client.ended == "fin"
    assert memory.root.fast.ran == []
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


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class EagerRequest(Request):
    """Begins its response before its body has come."""

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        self.method, self.uri, self.clientproto = b"POST", b"/", b"HTTP/1.1"
        self.write(b"begun")


@pytest.mark.parametrize("answer", [None, b"answer"])
def test_body_breaks_after_its_response_has_begun(answer: Any) -> None:
    """Not even a handler can write into the broken message's own response."""
    memory = InMemory(requestFactory=EagerRequest)
    seen: list[bool] = []

    @memory.site.on_client_error
    def handler(failure: Failure, socket: ClientSocket) -> Any:
        seen.append(socket.headers_sent)
        return failure if answer is None else answer

    client = memory.client.feed(CHUNKED)
    assert client.received.endswith(b"begun\r\n")
    client.feed(b"zz\r\n").fin()
    assert client.received.endswith(b"begun\r\n")
    assert codes(client) == ["HPE_INVALID_CHUNK_SIZE"]
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
def test_broken_multipart(broken: str) -> None:
    """Multipart that cannot be parsed is the client's fault, and loses no earlier answer."""
    boundary, body = BROKEN_MULTIPART[broken]
    memory = InMemory(GOOD + MULTIPART % (boundary, len(body), body) + GOOD)
    assert statuses(memory.client.received) == [200, 400]
    assert codes(memory.client) == ["ERR_HTTP_MULTIPART"]
    assert memory.root.fast.ran == [b"/fast"]


class RaisesInProcess(PlainRequest):
    def process(self) -> None:
        raise ZeroDivisionError("a bug")


def test_request_class_that_raises(expected_errors: LoggedErrors) -> None:
    """An application's request that raises is answered 500, and logged once."""

    def make_request(*arguments: Any) -> RaisesInProcess:
        return RaisesInProcess(*arguments)

    client = InMemory(GOOD, requestFactory=make_request).client
    assert statuses(client.received) == [500]
    assert client.errors == []
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


def test_absurd_content_length() -> None:
    """A Content-Length of 5000 digits is refused like any other that is too large."""
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"
    client = InMemory(wire).client
    assert client.received == DEFAULT
    assert codes(client) == ["HPE_INVALID_CONTENT_LENGTH"]


# Well-formed requests that no resource sees.


def test_connect_is_not_implemented() -> None:
    """CONNECT is answered 501 and closed, and what follows it is not parsed."""
    memory = InMemory(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + GOOD)
    assert (statuses(memory.client.received), memory.client.ended) == ([501], "fin")
    assert memory.root.fast.ran == []
    assert memory.client.errors == []


def test_unknown_expectation() -> None:
    """An Expect other than 100-continue is answered 417."""
    memory = InMemory(b"GET /fast HTTP/1.1\r\nHost: a\r\nExpect: cake\r\n\r\n")
    assert (statuses(memory.client.received), memory.client.ended) == ([417], "fin")
    assert memory.root.fast.ran == []


def test_continue_only_where_the_body_is_wanted() -> None:
    """A body that is announced too large is refused before any 100 Continue."""
    limits = Limits(body_bytes=10)
    wire = b"POST /fast HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    refused = InMemory(wire % 11, limits=limits).client
    assert statuses(refused.received) == [413]
    assert codes(refused) == ["ERR_HTTP_BODY_TOO_LARGE"]
    client = InMemory(wire % 10, limits=limits).client
    assert statuses(client.received) == [100]
    assert statuses(client.feed(b"0123456789").received) == [100, 200]


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
    await until(lambda: served.errors)
    await settled()
    client.close()
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code, error.phase, error.status) == ("ECONNRESET", "response", None)
    assert error.reason == ("read ECONNRESET" if leave == "reset" else "socket hang up")
    (gone,) = slow.gone
    assert gone.check(ConnectionLost) and gone.check(ConnectionDone)
    assert gone.value.__cause__ is error
    assert slow.requests[0].code == 499


def test_half_open_client_gets_its_answer() -> None:
    """With allow_half_open a client that has ended its input still gets the response."""
    memory = InMemory(SLOW + GOOD, limits=Limits(allow_half_open=True))
    client = memory.client.fin()
    memory.root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200, 200]
    assert client.errors == []


@pytest.mark.parametrize(
    "wire, phase",
    [
        (b"GET / HT", "head"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", "body"),
    ],
)
def test_end_of_input_inside_a_message(wire: bytes, phase: str) -> None:
    """A FIN inside a head or body is an UnexpectedEOF, answered 400 and readable."""
    client = InMemory(wire).client.fin()
    assert (client.received, client.ended) == (DEFAULT, "fin")
    (error,) = client.errors
    assert isinstance(error, UnexpectedEOF)
    assert (error.phase, error.bytes_parsed, error.offset) == (phase, 0, len(wire))
    assert error.raw_packet is None


@pytest.mark.parametrize("wire", [b"", b"\r\n", GOOD])
def test_end_of_input_between_messages(wire: bytes) -> None:
    """A FIN between messages is a normal end."""
    client = InMemory(wire).client.fin()
    assert (client.errors, client.ended) == ([], "fin")


@pytest.mark.parametrize(
    "wire, phase",
    [
        (b"", "idle"),
        (b"GET / HT", "head"),
        (GOOD, "idle"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", "body"),
    ],
)
def test_reset_in_each_phase(wire: bytes, phase: str) -> None:
    """A reset is a ClientHangUp in any phase."""
    (error,) = InMemory(wire).client.reset().errors
    assert isinstance(error, ClientHangUp)
    assert (error.code, error.reason, error.phase) == ("ECONNRESET", "read ECONNRESET", phase)
    assert (error.request is not None) == (phase != "idle")


# The clock of a message that is read after a running request.

HALF_POST: Final = b"POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "phase", "seconds"),
    [(HALF_POST, "body", 300), (HALF_POST[:-2] + b"X: ", "head", 60)],
    ids=["body", "head"],
)
def test_drip_after_a_slow_request(start: bytes, phase: str, seconds: int) -> None:
    """A message that drips after a running request has its time, and its 408 in its turn."""
    memory = InMemory(SLOW + GOOD, start)
    client = memory.client
    for _ in range(seconds // 4):
        client.advance(3.9)
        client.feed(b"x")
    assert codes(client) == []
    client.advance(0.1 * seconds / 4 + 1)
    assert codes(client) == ["ERR_HTTP_REQUEST_TIMEOUT"]
    assert (client.errors[0].phase, client.received) == (phase, b"")
    memory.root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200, 200, 408]


def test_the_clock_stands_while_reading_is_paused() -> None:
    """What we do not read cannot be late; after that the message has the time that was left."""
    memory = InMemory(SLOW, HALF_POST)
    client = memory.client
    client.advance(100).feed(b"x" * 70_000)
    assert memory.channel._inbox.full
    client.advance(10_000)
    memory.root.slow.requests[0].finish()
    client.advance(199).feed(b"x")
    assert codes(client) == []
    client.advance(2)
    assert codes(client) == ["ERR_HTTP_REQUEST_TIMEOUT"]
    assert statuses(client.advance(0).received) == [200, 408]


def test_no_answer_renews_the_time_of_a_later_message() -> None:
    """It counts from the message's own first byte, however many are answered meanwhile."""
    memory = InMemory(SLOW * 3 + GOOD, HALF_POST[:20])
    client = memory.client
    for request in range(3):
        client.advance(19)
        memory.root.slow.requests[request].finish()
    assert codes(client.advance(2)) == []
    assert codes(client.advance(3)) == ["ERR_HTTP_REQUEST_TIMEOUT"]


def test_what_has_come_whole_is_never_late() -> None:
    """Requests that wait for their turn have no deadline, and each later one its own."""
    memory = InMemory(SLOW + HALF_POST[:-4])
    client = memory.client
    client.advance(50).feed(b"\r\n\r\n" + bytes(10_000))
    client.advance(200).feed(bytes(0))
    assert codes(client) == []
    memory = InMemory(SLOW, HALF_POST.replace(b"1000000", b"3"))
    client = memory.client
    client.advance(290).feed(b"abc")
    client.advance(5).feed(HALF_POST)
    client.advance(290)
    assert codes(client) == []
    memory.root.slow.requests[0].finish()
    assert statuses(client.advance(0).received) == [200, 200]


def test_response_that_is_finished_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection reads all the while, so it is not told to go on."""
    memory = InMemory(SLOW)
    resumed: list[object] = []
    monkeypatch.setattr(memory.channel._wire, "startReading", lambda: resumed.append(None))
    memory.root.slow.requests[0].finish()
    memory.client.advance(0).feed(GOOD)
    assert statuses(memory.client.received) == [200, 200]
    assert not resumed


def test_pause_ends_with_the_response_that_it_waited_for() -> None:
    """If reading was paused meanwhile, it is resumed, and what has come is answered."""
    memory = InMemory(SLOW, GOOD, HALF_POST, b"x" * 70_000)
    assert memory.channel._wire.reading_paused
    memory.root.slow.requests[0].finish()
    assert not memory.channel._wire.reading_paused
    assert statuses(memory.client.advance(0).received) == [200, 200]
