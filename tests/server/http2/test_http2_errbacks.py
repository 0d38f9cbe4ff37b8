"""A request that is refused on its stream goes down the errback chain, as over HTTP/1."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from hyperframe.frame import DataFrame, RstStreamFrame
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.http2_client import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    H2Client,
    Stream,
    fields_of,
    talk,
)
from support.wire import HandClock, Paths, Serve, Served, in_thread, settled, until
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_hangup import (
    BodyTooLarge,
    ClientError,
    ClientHangUp,
    ClientSocket,
    HangupChannel,
    HeaderOverflow,
    HTTP2Error,
    Limits,
    ParseError,
    RequestTimeout,
    Timeouts,
    forward_client_errors,
)
from twisted_hangup.server.http2.connection import MOST_REFUSED, REFUSED_PER_SECOND
from twisted_hangup.server.http2.frames import MOST_STREAMS

BAD_PATH = fields_of(b"/a b")


def answers_of(served: Served) -> list[int | None]:
    answers: list[int | None] = []
    served.site.journal.watch_settled(lambda error, status: answers.append(status))
    return answers


def ask(fields: list[tuple[bytes, bytes]], client: H2Client, end: bool = True) -> Stream:
    """Send a head that is refused, read its answer, and see that the connection lives."""
    head = client.headers(fields, end=end)
    answer = client.send(head).answer(head.stream_id)
    assert client.answer(client.request()).status == 200
    return answer


refused = partial(partial, ask)


# Handlers that were written for HTTP/1: the README's, and those of docs/errors.md.


def too_large(failure: Any, socket: ClientSocket) -> None:
    failure.trap(HeaderOverflow)
    socket.respond(431, b"Your cookies are too large. Clear them and try again.\n")


async def as_json(failure: Any, socket: ClientSocket) -> Any:
    error = failure.value
    if error.status is None:
        return failure
    body = json.dumps({"code": error.code, "offset": error.offset}).encode()
    socket.respond(error.status, body, [("Content-Type", "application/json")])
    return None


@pytest_twisted.ensureDeferred
async def test_handlers_written_for_http1(serve_h2: Serve) -> None:
    """They work unchanged, in their order, and what was answered is told."""
    served = serve_h2()
    answers = answers_of(served)
    notes: list[str] = []

    @served.site.on_client_error
    def note(failure: Any, socket: ClientSocket) -> Any:
        notes.append(failure.value.report())
        return failure

    served.site.on_client_error(too_large)
    served.site.on_client_error(as_json)
    large = await talk(served.port, refused(fields_of(b"/fast", (b"a", b"b" * 17000))))
    assert (large.status, large.ended, large.reset) == (431, True, None)
    assert large.body == b"Your cookies are too large. Clear them and try again.\n"
    assert large.fields[b"content-type"] == b"text/plain; charset=utf-8"
    assert large.fields[b"content-length"] == b"%d" % len(large.body)
    assert b"connection" not in large.fields
    bad = await talk(served.port, refused(BAD_PATH))
    assert (bad.status, json.loads(bad.body)["code"]) == (400, "HPE_INVALID_URL")
    assert bad.fields[b"content-type"] == b"application/json"
    assert [note.partition(":")[0] for note in notes] == ["HPE_HEADER_OVERFLOW", "HPE_INVALID_URL"]
    assert answers == [431, 400]
    assert served.site.context.errbacks.outcomes == {"passed": 3, "handled": 2}


@pytest_twisted.ensureDeferred
async def test_socket_of_a_stream(serve_h2: Serve) -> None:
    """It says what the connection's would."""
    served = serve_h2()
    sockets: list[ClientSocket] = []

    @served.site.on_client_error
    def look(failure: Any, socket: ClientSocket) -> Any:
        sockets.append(socket)
        assert socket.peer is failure.value.peer
        assert (socket.secure, socket.writable, socket.headers_sent) == (True, True, False)
        assert socket.host.port == served.port
        socket.when_closed().addCallback(lambda _: closed.append(socket.writable))
        return failure

    closed: list[bool] = []
    await talk(served.port, refused(BAD_PATH))
    assert closed == [False]
    assert (sockets[0].closed, sockets[0].status_sent) == (True, 400)


@pytest_twisted.ensureDeferred
async def test_answer_to_head(serve_h2: Serve) -> None:
    """It has no body (RFC 9110, section 9.3.2), though its length."""
    served = serve_h2()
    lengths: list[int] = []
    served.site.journal.watch_settled(lambda error, _: lengths.append(error.answered_bytes))
    served.site.on_client_error(lambda failure, socket: socket.respond(400, b"text"))
    answer = await talk(served.port, refused(fields_of(b"/a b", method=b"HEAD")))
    assert (answer.body, answer.fields[b"content-length"]) == (b"", b"4")
    assert (await talk(served.port, refused(BAD_PATH))).body == b"text"
    assert lengths == [0, 4]


@pytest_twisted.ensureDeferred
async def test_fields_that_http2_has_not(serve_h2: Serve) -> None:
    """What means nothing in HTTP/2 is left out, and the rest in lower case."""
    served = serve_h2()
    fields = {"Keep-Alive": "timeout=1", "Upgrade": "h3", "Retry-After": "9"}
    served.site.on_client_error(lambda failure, socket: socket.respond(400, b"", fields))
    answer = await talk(served.port, refused(BAD_PATH))
    assert answer.fields == {b":status": b"400", b"retry-after": b"9", b"content-length": b"0"}


# What is done otherwise.


@pytest.mark.parametrize(
    "act",
    [
        lambda socket: b"HTTP/1.1 402 Payment Required\r\nContent-Length: 2\r\n\r\nhi",
        lambda socket: socket.write(b"HTTP/1.1 402 Payment Required\r\n\r\n"),
        lambda socket: socket.end(b"HTTP/1.1 402 Payment Required\r\n\r\n"),
        lambda socket: socket.respond(99),
    ],
    ids=["bytes", "write", "end", "respond"],
)
@pytest_twisted.ensureDeferred
async def test_bugs_of_a_handler(
    serve_h2: Serve, expected_errors: LoggedErrors, act: Callable[[ClientSocket], Any]
) -> None:
    """Raw bytes are one: it is logged, and the next handler is asked, or the default given."""
    served = serve_h2()
    answers = answers_of(served)

    @served.site.on_client_error
    def raw(failure: Any, socket: ClientSocket) -> Any:
        return act(socket)

    asked: list[ClientError] = []

    @served.site.on_client_error
    def after(failure: Any, socket: ClientSocket) -> Any:
        asked.append(failure.value)
        return failure

    answer = await talk(served.port, refused(BAD_PATH))
    assert (answer.status, answer.body, answer.reset) == (400, b"", None)
    assert answers == [400]
    assert [error.code for error in asked] == ["HPE_INVALID_URL"]
    assert served.site.context.errbacks.outcomes["failed"] == 1
    (event,) = expected_errors.flush()
    assert "raw" in event["log_handler"]


@pytest.mark.parametrize(
    "fields, code",
    [
        (BAD_PATH, PROTOCOL_ERROR),
        (fields_of(b"/fast", (b"a", b"b" * 17000)), CANCEL),
        (fields_of(b"/fast", (b"content-length", b"11"), method=b"POST"), CANCEL),
    ],
    ids=["malformed", "head too large", "body too large"],
)
@pytest.mark.parametrize("end", ["end", "destroy"])
@pytest_twisted.ensureDeferred
async def test_no_answer(
    serve_h2: Serve, fields: list[tuple[bytes, bytes]], code: int, end: str
) -> None:
    """The stream is reset, of a malformed request with PROTOCOL_ERROR (RFC 9113, 8.1.1)."""
    served = serve_h2(limits=Limits(body_bytes=10))
    answers = answers_of(served)
    served.site.on_client_error(lambda failure, socket: getattr(socket, end)())
    answer = await talk(served.port, partial(ask, fields, end=False))
    assert (answer.status, answer.reset) == (None, code)
    assert answers == [None]


@pytest_twisted.ensureDeferred
async def test_subclass_of_the_channel(serve_h2: Serve) -> None:
    """Its ``client_error`` is called, and may leave it to the handlers."""

    class Mine(HangupChannel):
        def client_error(self, failure: Any, socket: ClientSocket) -> Any:
            seen.append(failure.value)
            if failure.check(HeaderOverflow):
                return socket.respond(431, b"mine")
            return super().client_error(failure, socket)

    seen: list[ClientError] = []
    served = serve_h2(channel=Mine)
    served.site.on_client_error(lambda failure, socket: socket.respond(418, b"theirs"))
    large = await talk(served.port, refused(fields_of(b"/fast", (b"a", b"b" * 17000))))
    bad = await talk(served.port, refused(BAD_PATH))
    assert (large.status, large.body, bad.status, bad.body) == (431, b"mine", 418, b"theirs")
    assert seen == served.errors


@pytest_twisted.ensureDeferred
async def test_site_of_ones_own(serve: Serve) -> None:
    """A `Site` with `forward_client_errors` has the same."""
    site = Site(Paths())
    forward_client_errors(site).add(lambda failure, socket: socket.respond(400, b"mine"))
    served = serve(site, tls=server_context())

    def run(client: H2Client) -> Stream:
        head = client.headers(BAD_PATH)
        return client.send(head).answer(head.stream_id)

    assert (await talk(served.port, run)).body == b"mine"


# The kinds of refusals.


def multipart(client: H2Client) -> Stream:
    kind = b"multipart/form-data; boundary=x"
    stream = client.request(b"/fast", (b"content-type", kind), end=False, method=b"POST")
    return client.data(stream, b"no boundary").answer(stream)


def longer_than_allowed(client: H2Client) -> Stream:
    stream = client.request(b"/fast", end=False, method=b"POST")
    return client.data(stream, bytes(2000), end=False).answer(stream)


def bad_trailers(client: H2Client) -> Stream:
    stream = client.request(end=False, method=b"POST")
    return client.send(client.headers([(b":path", b"/")], stream=stream)).answer(stream)


def dribbled(client: H2Client) -> Stream:
    return client.answer(client.request(end=False, method=b"POST"))


@pytest.mark.parametrize(
    "run, kind, phase, status",
    [
        (multipart, ParseError, "body", 400),
        (longer_than_allowed, BodyTooLarge, "body", 413),
        (bad_trailers, ParseError, "body", 400),
        (dribbled, RequestTimeout, "body", 408),
    ],
)
@pytest_twisted.ensureDeferred
async def test_request_that_had_begun(
    serve_h2: Serve, run: Callable[[H2Client], Stream], kind: type, phase: str, status: int
) -> None:
    """It never reaches its resource, and the handlers answer it."""
    clock = HandClock()
    served = serve_h2(limits=Limits(body_bytes=1000), reactor=clock)
    seen: list[ClientError] = []

    @served.site.on_client_error
    def answer_it(failure: Any, socket: ClientSocket) -> None:
        seen.append(failure.value)
        socket.respond(failure.value.status, b"mine")

    done = talk(served.port, run)
    if kind is RequestTimeout:
        await until(lambda: [each.phase for each in served.site.context.open()] == ["body"])
        await clock.wait_until(lambda: seen)
    answer = await done
    assert (answer.status, answer.body) == (status, b"mine")
    assert served.errors == seen
    assert (type(seen[0]), seen[0].phase) == (kind, phase)
    assert served.root.fast.ran == []


class Begins(Resource):
    """Begins a response before the request is complete, and never ends it."""

    isLeaf = True
    begun = False

    def render(self, request: Request) -> int:
        self.begun = True
        request.write(bytes(100_000))
        return NOT_DONE_YET


@pytest_twisted.ensureDeferred
async def test_response_that_nobody_takes(serve_h2: Serve) -> None:
    """The handlers see that nothing can be added to it, nor reach its client."""
    clock = HandClock()
    served = serve_h2(Paths(begins=(begins := Begins())), reactor=clock)
    answers = answers_of(served)
    seen: list[tuple[type, bool, bool]] = []

    @served.site.on_client_error
    def answer_it(failure: Any, socket: ClientSocket) -> None:
        seen.append((type(failure.value), socket.headers_sent, socket.writable))
        socket.respond(400, b"mine")

    def run(client: H2Client) -> Stream:
        client.request(b"/slow")
        return client.answer(client.request(b"/begins"))

    done = talk(served.port, run, windows=False)
    await until(lambda: begins.begun)
    await clock.wait_until(lambda: seen)
    answer = await done
    assert (answer.status, answer.reset) == (200, CANCEL)
    assert (seen[0], answers[0]) == ((ClientHangUp, True, False), None)
    await served.emptied()


# A chain that takes its time.


async def waiting(served: Served, run: Callable[[H2Client], Any]) -> tuple[Any, ...]:
    """Let the one handler wait while a client does what *run* says.

    Returns:
        What the handler waits for, its socket, and what *run* is going to return.
    """
    asked: Deferred[tuple[Deferred[None], ClientSocket]] = Deferred()

    @served.site.on_client_error
    async def wait(failure: Any, socket: ClientSocket) -> Any:
        if asked.called:
            return failure
        gate: Deferred[None] = Deferred()
        asked.callback((gate, socket))
        await gate
        return socket.respond(400, b"late")

    done = talk(served.port, run)
    return (*(await asked), done)


@pytest_twisted.ensureDeferred
async def test_what_comes_while_the_chain_waits(serve_h2: Serve) -> None:
    """It is dropped and its window given back; other streams go on."""
    served = serve_h2()

    def run(client: H2Client) -> tuple[Stream, int | None]:
        head = client.headers(BAD_PATH, end=False)
        client.send(head)
        for _ in range(20):  # five times the windows of stream and connection
            client.data(head.stream_id, bytes(16000), end=False).ping()
        good = client.answer(client.request()).status
        uploaded.append(good)
        return client.data(head.stream_id, b"").answer(head.stream_id), good

    uploaded: list[int | None] = []
    gate, socket, done = await waiting(served, run)
    await until(lambda: uploaded)
    assert socket.writable
    gate.callback(None)
    answer, good = await done
    assert (answer.status, answer.body, answer.reset, good) == (400, b"late", None, 200)


@pytest_twisted.ensureDeferred
async def test_too_much_comes_while_the_chain_waits(serve_h2: Serve) -> None:
    """Beyond ``linger_bytes`` the stream is reset; the connection lives."""
    served = serve_h2(limits=Limits(linger_bytes=20_000))
    answers = answers_of(served)

    def run(client: H2Client) -> Stream:
        head = client.headers(BAD_PATH, end=False)
        client.send(head).data(head.stream_id, bytes(16000), end=False).ping()
        answer = client.data(head.stream_id, bytes(16000), end=False).answer(head.stream_id)
        assert client.answer(client.request()).status == 200
        return answer

    gate, socket, done = await waiting(served, run)
    answer = await done
    assert (answer.status, answer.reset, socket.writable, answers) == (
        None,
        PROTOCOL_ERROR,
        False,
        [None],
    )
    gate.callback(None)


@pytest_twisted.ensureDeferred
async def test_empty_frames_while_the_chain_waits(serve_h2: Serve) -> None:
    """They cost the connection, as on any stream; the chain learns that its client has gone."""
    served = serve_h2()

    def run(client: H2Client) -> H2Client:
        head = client.headers(BAD_PATH, end=False)
        client.send(head)
        client.send(*(DataFrame(head.stream_id) for _ in range(1100)))
        return client.to_the_end()

    gate, socket, done = await waiting(served, run)
    client = await done
    assert [code for code, _ in client.goaways] == [ENHANCE_YOUR_CALM]
    assert not socket.writable
    gate.callback(None)
    await settled()
    assert served.codes == ["HPE_INVALID_URL", "ERR_HTTP2_ENHANCE_YOUR_CALM"]


@pytest.mark.parametrize("lost", [False, True], ids=["reset", "connection lost"])
@pytest_twisted.ensureDeferred
async def test_client_that_does_not_wait(serve_h2: Serve, lost: bool) -> None:
    """Its socket is closed and not writable; nothing was answered; there is no other error."""
    served = serve_h2()
    answers = answers_of(served)

    def run(client: H2Client) -> None:
        head = client.headers(BAD_PATH, end=False)
        client.send(head).ping()
        if not lost:
            client.send(RstStreamFrame(head.stream_id, error_code=CANCEL))
            assert client.answer(client.request()).status == 200

    gate, socket, done = await waiting(served, run)
    closed = socket.when_closed()
    await done
    await closed
    assert (socket.writable, socket.closed) == (False, True)
    gate.callback(None)
    await settled()
    assert (answers, served.codes) == ([None], ["HPE_INVALID_URL"])
    await served.emptied()


@pytest_twisted.ensureDeferred
async def test_handler_that_never_ends(serve_h2: Serve) -> None:
    """After ``handler_seconds`` it is cancelled, and the default answer goes out."""
    clock = HandClock()
    served = serve_h2(reactor=clock)
    answers = answers_of(served)
    gate, _, done = await waiting(served, refused(BAD_PATH))
    await settled()  # the handler is called before its time begins
    clock.wait(Timeouts().handler_seconds - 1)
    assert not gate.called
    clock.wait(2)
    answer = await done
    assert (answer.status, answer.body, answers) == (400, b"", [400])
    assert served.site.context.errbacks.outcomes == {"cancelled": 1}
    assert gate.called


@pytest_twisted.ensureDeferred
async def test_answer_larger_than_the_window(serve_h2: Serve) -> None:
    """It is sent as the client takes it."""
    served = serve_h2()
    body = bytes(range(256)) * 2000
    served.site.on_client_error(lambda failure, socket: socket.respond(400, body))
    assert (await talk(served.port, refused(BAD_PATH))).body == body


@pytest_twisted.ensureDeferred
async def test_answer_that_nobody_takes(serve_h2: Serve) -> None:
    """A client without a window for it is given up after ``send_seconds``."""
    clock = HandClock()
    served = serve_h2(reactor=clock)
    served.site.on_client_error(lambda failure, socket: socket.respond(400, b"text"))

    def run(client: H2Client) -> Stream:
        client.request(b"/slow")
        head = client.headers(BAD_PATH)
        refused = client.send(head).answer(head.stream_id)
        assert not client.closed
        return refused

    done = talk(served.port, run, settings={4: 0})
    request = await served.root.slow.started
    await until(lambda: served.codes == ["HPE_INVALID_URL"])
    await clock.wait_until(lambda: done.called)
    answer = await done
    assert (answer.status, answer.body, answer.reset) == (400, b"", PROTOCOL_ERROR)
    request.notifyFinish().addErrback(lambda _: None)
    await served.emptied()


# How many there may be.


@pytest_twisted.ensureDeferred
async def test_flood_of_refused_requests(serve_h2: Serve) -> None:
    """One more than may be at once ends the connection, with one error for that."""
    served = serve_h2(reactor=HandClock())
    seen: list[ClientError] = []

    @served.site.on_client_error
    def note(failure: Any, socket: ClientSocket) -> Any:
        seen.append(failure.value)
        return failure

    def run(client: H2Client) -> H2Client:
        for _ in range(MOST_REFUSED):
            head = client.headers(BAD_PATH)
            client.send(head).answer(head.stream_id)
        client.send(*(client.headers(BAD_PATH) for _ in range(10)))
        return client.to_the_end()

    client = await talk(served.port, run)
    assert [code for code, _ in client.goaways] == [ENHANCE_YOUR_CALM]
    assert {stream.status for id_, stream in client.streams.items() if id_} == {400}
    assert [type(error) for error in seen] == [ParseError] * MOST_REFUSED + [HTTP2Error]
    assert served.errors == seen


@pytest_twisted.ensureDeferred
async def test_refused_requests_over_a_long_time(serve_h2: Serve) -> None:
    """A proxy may have any number of them on its one connection, so they do not come at once."""
    clock = HandClock()
    served = serve_h2(reactor=clock)
    client = await in_thread(lambda: H2Client(served.port))

    def refused(count: int) -> list[int | None]:
        heads = [client.headers(BAD_PATH) for _ in range(count)]
        client.send(*heads)
        return [client.answer(head.stream_id).status for head in heads]

    for _ in range(3):
        assert await in_thread(lambda: refused(MOST_REFUSED)) == [400] * MOST_REFUSED
        for _ in range(MOST_REFUSED // 50):
            clock.wait(50 / REFUSED_PER_SECOND)
            assert (await in_thread(lambda: client.answer(client.request()))).status == 200
    assert await in_thread(lambda: refused(MOST_REFUSED + 1)) == [400] * MOST_REFUSED + [None]
    assert [code for code, _ in client.goaways] == [ENHANCE_YOUR_CALM]
    client.close()


@pytest.mark.parametrize("answers", [False, True])
@pytest_twisted.ensureDeferred
async def test_handlers_at_work(serve_h2: Serve, answers: bool) -> None:
    """They keep the place of a stream that the client has reset, or that they have answered."""
    clock = HandClock()
    served = serve_h2(reactor=clock, timeouts=Timeouts(handler_seconds=0))
    waiting: list[Deferred[None]] = []

    @served.site.on_client_error
    def look_up(failure: Any, socket: ClientSocket) -> Any:
        if answers:
            socket.respond(403)
        waiting.append(Deferred())
        return waiting[-1]

    client = await in_thread(lambda: H2Client(served.port))

    def refuse_and_reset(count: int) -> None:
        for _ in range(count):
            head = client.headers(BAD_PATH)
            # The PING: a stream that is reset in the same read is not begun.
            client.send(head).ping().send(RstStreamFrame(head.stream_id, error_code=CANCEL))

    def ask() -> tuple[int | None, int | None]:
        stream = client.answer(client.request())
        return stream.status, stream.reset

    await in_thread(lambda: refuse_and_reset(MOST_STREAMS - 1))
    clock.wait(50 / REFUSED_PER_SECOND)
    assert await in_thread(ask) == (200, None)
    await in_thread(lambda: refuse_and_reset(1))
    assert await in_thread(ask) == (None, REFUSED_STREAM)
    for chain in waiting[:3]:
        chain.callback(None)
    await in_thread(lambda: refuse_and_reset(2))
    assert await in_thread(ask) == (200, None)
    assert (len(waiting), client.goaways) == (MOST_STREAMS + 2, [])
    for chain in waiting[3:]:
        chain.callback(None)
    client.close()


@pytest_twisted.ensureDeferred
async def test_flood_of_bodies_too_large(serve_h2: Serve) -> None:
    """The same of requests that had begun; the one too many has no response."""
    served = serve_h2(limits=Limits(body_bytes=10), reactor=HandClock())

    def run(client: H2Client) -> H2Client:
        for _ in range(MOST_REFUSED + 1):
            stream = client.request(end=False, method=b"POST")
            client.data(stream, bytes(11)).answer(stream)
        return client.to_the_end()

    client = await talk(served.port, run)
    assert [code for code, _ in client.goaways] == [ENHANCE_YOUR_CALM]
    assert served.codes == ["ERR_HTTP_BODY_TOO_LARGE"] * MOST_REFUSED + [
        "ERR_HTTP2_ENHANCE_YOUR_CALM"
    ]
    assert served.root.fast.ran == []


# After the answer.


@pytest_twisted.ensureDeferred
async def test_rest_of_an_upload(serve_h2: Serve) -> None:
    """No reset comes with the answer; what the client still sends is dropped until it ends."""
    served = serve_h2()

    def run(client: H2Client) -> Stream:
        head = client.headers(BAD_PATH, end=False)
        answer = client.send(head).answer(head.stream_id)
        assert (answer.status, answer.ended) == (400, True)
        for _ in range(20):
            client.data(head.stream_id, bytes(16000), end=False).ping()
        client.data(head.stream_id, b"").ping()
        return answer

    assert (await talk(served.port, run)).reset is None
    assert served.codes == ["HPE_INVALID_URL"]
    assert not served.site.context.lingered.total()


@pytest_twisted.ensureDeferred
async def test_end_of_a_request_after_its_answer(serve_h2: Serve) -> None:
    """A PING follows: curl 7.88 does not notice that it has ended the stream until it reads."""
    served = serve_h2()

    def run(client: H2Client) -> int:
        head = client.headers(BAD_PATH, end=False)
        assert client.send(head).answer(head.stream_id).ended
        assert client.ping().pinged == 0
        return client.data(head.stream_id, b"").until(lambda: client.pinged).pinged

    assert await talk(served.port, run) == 1


@pytest_twisted.ensureDeferred
async def test_upload_without_end(serve_h2: Serve) -> None:
    """Past ``linger_bytes`` it is reset with NO_ERROR (RFC 9113, section 8.1)."""
    served = serve_h2(limits=Limits(linger_bytes=40_000))

    def run(client: H2Client) -> Stream:
        head = client.headers(BAD_PATH, end=False)
        answer = client.send(head).answer(head.stream_id)
        while answer.reset is None:
            client.data(head.stream_id, bytes(16000), end=False).ping()
        return answer

    answer = await talk(served.port, run)
    assert (answer.status, answer.reset) == (400, NO_ERROR)


@pytest_twisted.ensureDeferred
async def test_length_that_is_not_kept_any_more(serve_h2: Serve) -> None:
    """A refused body is nobody's, so its length does not matter; the connection lives."""
    served = serve_h2(limits=Limits(body_bytes=10))

    def run(client: H2Client) -> Stream:
        stream = client.request(b"/fast", (b"content-length", b"11"), end=False, method=b"POST")
        answer = client.answer(stream)
        client.data(stream, bytes(100)).ping()
        assert client.answer(client.request()).status == 200
        return answer

    assert (await talk(served.port, run)).status == 413
