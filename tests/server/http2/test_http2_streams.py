"""One request of an HTTP/2 connection goes wrong: it is answered, and the others go on."""

from __future__ import annotations

import io
import os
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.cleanliness import LoggedErrors
from support.http2_client import (
    CANCEL,
    FIRST_WINDOW,
    NO_ERROR,
    PROTOCOL_ERROR,
    H2Client,
    Stream,
    connection_of,
    fields_of,
    talk,
)
from support.wire import (
    HandClock,
    Paths,
    Serve,
    Served,
    filled,
    in_thread,
    settled,
    take_some,
    until,
    wait_for,
)
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import Data, File
from zope.interface import implementer

from twisted_hangup import ClientError, ClientHangUp, ClientSocket, Lenience, Limits, Timeouts
from twisted_hangup.events import Field
from twisted_hangup.journal.access_log import AccessLog
from twisted_hangup.journal.files import LogFile
from twisted_hangup.server.headers import FieldsOfStreams, headers_of
from twisted_hangup.server.http2.connection import HangupHTTP2
from twisted_hangup.server.http2.head import judge_head
from twisted_hangup.transport.layers import transport_beneath
from twisted_hangup.transport.sockets import held_by_kernel

INTERNAL_ERROR = 2


def settled_of(served: Served) -> list[tuple[ClientError, int | None]]:
    settled: list[tuple[ClientError, int | None]] = []
    served.site.journal.watch_settled(lambda error, status: settled.append((error, status)))
    return settled


async def silence(served: Served, client: H2Client, refused: Stream) -> None:
    """Let the time pass for which a client may be silent whose only stream has been refused."""
    connection = await connection_of(served)
    clock: Any = served.site.reactor
    await clock.wait_until(lambda: not connection.streams)
    await in_thread(lambda: client.until(lambda: refused.reset is not None))


class Bad(NamedTuple):
    """A request that is refused, and what is said of it."""

    why: str
    fields: list[tuple[bytes, bytes]]
    code: str
    field: bytes | None
    status: int = 400


def without(name: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [*(field for field in fields_of() if field[0] != name), *more]


def path(why: str, value: bytes, method: bytes = b"GET") -> Bad:
    return Bad(why, fields_of(value, method=method), "HPE_INVALID_URL", b":path")


def with_field(why: str, name: bytes, value: bytes, code: str = "HPE_INVALID_HEADER_TOKEN") -> Bad:
    return Bad(why, fields_of(b"/fast", (name, value)), code, name)


BAD_LENGTH = "HPE_INVALID_CONTENT_LENGTH"

BAD = [
    path("space in the path", b"/a b"),
    path("control byte in the path", b"/a\x01"),
    path("byte above ASCII in the path", b"/\x80"),
    path("tab in the path", b"/a\tb"),
    path("line end in the path", b"/a\r\nX: y"),
    path("space in the query", b"/?a b"),
    path("fragment", b"/a#b"),
    path("no slash", b"a"),
    path("empty path", b""),
    path("absolute URI", b"https://localhost/fast"),
    path("scheme without authority", b"https:"),
    path("* for another method than OPTIONS", b"*"),
    Bad("no path", without(b":path"), "HPE_INVALID_URL", b":path"),
    Bad("no method", without(b":method"), "HPE_INVALID_METHOD", b":method"),
    Bad("method with a space", fields_of(method=b"GE T"), "HPE_INVALID_METHOD", b":method"),
    Bad("unknown method", fields_of(method=b"BREW"), "HPE_INVALID_METHOD", b":method"),
    Bad("the method of the preface", fields_of(method=b"PRI"), "HPE_INVALID_METHOD", b":method"),
    Bad("no scheme", without(b":scheme"), "ERR_HTTP2_INVALID_PSEUDOHEADER", b":scheme"),
    Bad(
        "pseudo-field twice",
        [(b":path", b"/"), *fields_of()],
        "ERR_HTTP2_INVALID_PSEUDOHEADER",
        b":path",
    ),
    Bad(
        "pseudo-field after a field",
        without(b":path", (b"a", b"b"), (b":path", b"/fast")),
        "ERR_HTTP2_INVALID_PSEUDOHEADER",
        b":path",
    ),
    Bad(
        "unknown pseudo-field",
        [(b":a", b"b"), *fields_of()],
        "ERR_HTTP2_INVALID_PSEUDOHEADER",
        b":a",
    ),
    Bad(
        "response's pseudo-field",
        [(b":status", b"200"), *fields_of()],
        "ERR_HTTP2_INVALID_PSEUDOHEADER",
        b":status",
    ),
    Bad(
        ":protocol",
        [(b":protocol", b"websocket"), *fields_of()],
        "ERR_HTTP2_INVALID_PSEUDOHEADER",
        b":protocol",
    ),
    Bad("no authority", without(b":authority"), "ERR_HTTP_HOST_REQUIRED", b"host"),
    Bad(
        "authority with userinfo",
        [*without(b":authority"), (b":authority", b"a@b")][-1:] + without(b":authority"),
        "ERR_HTTP_INVALID_HOST",
        b":authority",
    ),
    Bad(
        "empty authority",
        [(b":authority", b""), *without(b":authority")],
        "ERR_HTTP_INVALID_HOST",
        b":authority",
    ),
    Bad(
        "two hosts",
        without(b":authority", (b"host", b"a"), (b"host", b"a")),
        "ERR_HTTP_INVALID_HOST",
        b"host",
    ),
    with_field("Host that differs", b"host", b"other", "ERR_HTTP_INVALID_HOST"),
    with_field("Host with another port", b"host", b"localhost:80", "ERR_HTTP_INVALID_HOST"),
    with_field("upper case in a name", b"Upper", b"a"),
    with_field("colon in a name", b"a:b", b"c"),
    with_field("space in a name", b"a b", b"c"),
    with_field("line end in a value", b"a", b"b\r\nc: d"),
    with_field("control byte in a value", b"a", b"b\x01"),
    with_field("white space before a value", b"a", b" b"),
    with_field("white space after a value", b"a", b"b\t"),
    with_field("Connection", b"connection", b"close", "ERR_HTTP2_INVALID_CONNECTION_HEADERS"),
    with_field(
        "Transfer-Encoding",
        b"transfer-encoding",
        b"chunked",
        "ERR_HTTP2_INVALID_CONNECTION_HEADERS",
    ),
    with_field("Upgrade", b"upgrade", b"a", "ERR_HTTP2_INVALID_CONNECTION_HEADERS"),
    with_field("TE", b"te", b"gzip", "ERR_HTTP2_INVALID_CONNECTION_HEADERS"),
    with_field("a body that does not come", b"content-length", b"3", "HPE_INVALID_EOF_STATE"),
    with_field("a length in words", b"content-length", b"three", BAD_LENGTH),
    with_field("an empty length", b"content-length", b"", BAD_LENGTH),
    with_field("a length of 5,000 digits", b"content-length", b"9" * 5000, BAD_LENGTH),
    with_field("a length past 2^63", b"content-length", b"9" * 19, BAD_LENGTH),
    Bad(
        "two lengths that differ",
        fields_of(b"/fast", (b"content-length", b"0"), (b"content-length", b"1")),
        "HPE_UNEXPECTED_CONTENT_LENGTH",
        b"content-length",
    ),
    Bad(
        "two lengths",
        fields_of(b"/fast", (b"content-length", b"0"), (b"content-length", b"0")),
        "HPE_UNEXPECTED_CONTENT_LENGTH",
        b"content-length",
    ),
    with_field("a long field", b"a", b"b" * 16384, "HPE_HEADER_OVERFLOW")._replace(status=431),
    Bad("a long path", fields_of(b"/" * 16384, (b"a", b"b")), "HPE_HEADER_OVERFLOW", b":path", 414),
    Bad(
        "a long authority",
        [*without(b":authority")[:2], (b":authority", b"a" * 16384), (b":path", b"/")],
        "HPE_HEADER_OVERFLOW",
        b":authority",
        431,
    ),
    Bad(
        "many fields",
        fields_of(b"/fast", *[(b"a", b"b")] * 1001),
        "HPE_HEADER_OVERFLOW",
        b"a",
        431,
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.why)
@pytest_twisted.ensureDeferred
async def test_refused_request(serve_h2: Serve, bad: Bad) -> None:
    """It is answered on its stream, recorded, and not run; the other streams go on."""
    served = serve_h2()
    settled = settled_of(served)
    chained: list[Any] = []

    @served.site.on_client_error
    def note(failure: Failure, socket: ClientSocket) -> Failure:
        chained.append((failure.value, socket.peer.host, socket.writable, socket.headers_sent))
        return failure

    def run(client: H2Client) -> list[Stream]:
        running = client.request(b"/slow")
        head = client.headers(bad.fields)
        client.send(head)
        refused = client.answer(head.stream_id)
        return [refused, client.answer(client.request()), client.answer(running)]

    done = talk(served.port, run)
    request = await served.root.slow.started
    await until(lambda: served.root.fast.ran)
    request.finish()
    refused, good, running = await done
    assert (refused.status, refused.body, refused.reset) == (bad.status, b"", None)
    assert (good.status, running.status) == (200, 200)
    ((error, status),) = settled
    assert (error.code, error.field, status) == (bad.code, bad.field, bad.status)
    assert (error.status, error.peer.host) == (bad.status, "127.0.0.1")
    assert (error.raw_packet, error.bytes_parsed, error.offset) == (None, None, None)
    assert served.errors == [error]
    assert served.root.fast.ran == [b"/fast"]
    assert chained == [(error, "127.0.0.1", True, False)]
    assert error.report().startswith(f"{bad.code}: ")


REPORT = """\
HPE_INVALID_HEADER_TOKEN: Invalid header value char  (default answer 400)
  GET /fast?*************** HTTP/2
  authorization: **************
  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
In the value of header field "authorization": a control character other than tab
is not allowed in a field value. RFC 9110, section 5.5.
python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN"""


def test_report() -> None:
    """The report shows where it broke, as if it had been HTTP/1.1, and hides what is secret."""
    fields = fields_of(b"/fast?token=swordfish", (b"authorization", b"Bearer \x01sesame"))
    _, error = judge_head(fields, Limits())
    assert error is not None
    assert error.report() == REPORT


@pytest.mark.parametrize("size", [16384, 190_000])
@pytest.mark.parametrize("name", [b":path", b"a"])
def test_what_an_overflow_keeps(size: int, name: bytes) -> None:
    """An error that is kept for the operator keeps no more than HTTP/1.1's would."""
    fields = [*without(name), (name, b"/" * size), (b"user-agent", b"me")]
    _, error = judge_head(sorted(fields), Limits())
    assert error is not None and error.request is not None and error.broke_at is not None
    assert len(error.request.target) + len(error.broke_at.line) < 20_000
    assert error.request.fields == []


GOOD: list[tuple[str, list[tuple[bytes, bytes]], Limits]] = [
    ("query", fields_of(b"/fast?a=b&c=%20"), Limits()),
    ("Host alone", without(b":authority", (b"host", b"localhost:1")), Limits()),
    ("Host that agrees", fields_of(b"/fast", (b"host", b"localhost")), Limits()),
    ("Host with the default port", fields_of(b"/fast", (b"host", b"localhost:443")), Limits()),
    ("Host in another case", fields_of(b"/fast", (b"host", b"LocalHost")), Limits()),
    ("Host with an empty port", fields_of(b"/fast", (b"host", b"LOCALHOST:")), Limits()),
    ("empty value", fields_of(b"/fast", (b"a", b"")), Limits()),
    ("TE: trailers", fields_of(b"/fast", (b"te", b"trailers")), Limits()),
    ("obs-text", fields_of(b"/fast", (b"a", b"\xe4")), Limits()),
    ("no host wanted", without(b":authority"), Limits(require_host=False)),
    ("a method of one's own", fields_of(method=b"BREW"), Limits(methods=frozenset({b"BREW"}))),
    ("just short enough", fields_of(b"/fast", (b"a", b"b" * 16000)), Limits()),
    (
        "a control byte, where that is allowed",
        fields_of(b"/fast", (b"a", b"b\x01")),
        Limits(lenience=Lenience(control_bytes=True)),
    ),
]


@pytest.mark.parametrize("why, fields, limits", GOOD, ids=[good[0] for good in GOOD])
@pytest_twisted.ensureDeferred
async def test_accepted_request(
    serve_h2: Serve, why: str, fields: list[tuple[bytes, bytes]], limits: Limits
) -> None:
    """What is allowed is run."""
    served = serve_h2(limits=limits)

    def run(client: H2Client) -> Stream:
        head = client.headers(fields)
        return client.send(head).answer(head.stream_id)

    assert (await talk(served.port, run)).status == 200
    assert len(served.root.fast.ran) == 1 and served.errors == []


class Asked(Resource):
    """Tells what it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Request) -> bytes:
        assert request.content is not None
        self.requests.append((request.method, request.uri, request.content.read()))
        self.headers = dict(request.requestHeaders.getAllRawHeaders())
        self.cookie = request.getCookie(b"b")
        return b"body"


@pytest_twisted.ensureDeferred
async def test_header_that_nobody_reads(serve_h2: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made into `Headers` only for a resource that asks for it."""
    read: list[list[Field]] = []

    def note(cache: FieldsOfStreams, fields: list[Field]) -> Headers:
        read.append(fields)
        return headers_of(fields)

    monkeypatch.setattr(FieldsOfStreams, "headers", note)

    class Reads(Resource):
        def render_GET(self, request: Request) -> bytes:
            return request.getHeader(b"cookie") or b""

    served = serve_h2(Paths(fast=Data(b"", "text/plain"), reads=Reads()))
    site: Any = served.site
    site.log = lambda request: None  # that of a stock site reads it

    def run() -> bytes:
        client = H2Client(served.port)
        client.answer(client.request(b"/fast"))
        assert not read
        answer = client.answer(client.request(b"/reads", (b"cookie", b"a=b")))
        client.close()
        return answer.body

    assert await in_thread(run) == b"a=b"
    assert len(read) == 1


@pytest_twisted.ensureDeferred
async def test_request_as_the_resource_sees_it(serve_h2: Serve) -> None:
    """One Host, cookies joined, the body whole."""
    served = serve_h2(Paths(asked=(asked := Asked())))
    body = bytes(range(256)) * 1000

    def run(client: H2Client) -> Stream:
        more = [(b"host", b"localhost"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
        stream = client.request(b"/asked?q", *more, end=False, method=b"POST")
        for start in range(0, len(body), 16000):
            client.data(stream, body[start : start + 16000], end=False)
        return client.data(stream, b"").answer(stream)

    assert (await talk(served.port, run)).status == 200
    assert asked.requests == [(b"POST", b"/asked?q", body)]
    assert asked.headers == {b"Host": [b"localhost"], b"Cookie": [b"a=1; b=2"]}
    assert asked.cookie == b"2"


@pytest.mark.parametrize(
    "fields, status",
    [
        ([(b":method", b"CONNECT"), (b":authority", b"example.org:443")], 501),
        (fields_of(b"/fast", (b"expect", b"the unexpected")), 417),
    ],
)
@pytest.mark.parametrize("end", [False, True])
@pytest_twisted.ensureDeferred
async def test_refused_without_an_error(
    serve_h2: Serve, fields: list[tuple[bytes, bytes]], status: int, end: bool
) -> None:
    """CONNECT and unknown expectations are answered as over HTTP/1.1: well-formed, not run."""
    served = serve_h2()
    client = await in_thread(lambda: H2Client(served.port))
    head = client.headers(fields, end=end)
    refused = await in_thread(lambda: client.send(head).answer(head.stream_id))
    if not end:
        await silence(served, client, refused)
    assert (await in_thread(lambda: client.answer(client.request()))).status == 200
    client.close()
    assert (refused.status, refused.reset) == (status, None if end else NO_ERROR)
    assert served.errors == [] and served.root.fast.ran == [b"/fast"]


@pytest_twisted.ensureDeferred
async def test_rest_of_a_refused_request(serve_h2: Serve) -> None:
    """What follows in the same read is neither kept nor answered a second time."""
    served = serve_h2(limits=Limits(body_bytes=1))

    def run(client: H2Client) -> Stream:
        head = client.headers(fields_of(b"/fast", (b"expect", b"x")), end=False)
        body = DataFrame(head.stream_id, b"abc")
        trailers = client.headers([(b":a", b"b")], stream=head.stream_id)
        refused = client.send(head, body, trailers).answer(head.stream_id)
        assert client.answer(client.request()).status == 200
        return refused

    assert (await talk(served.port, run)).statuses == [417]
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_100_continue(serve_h2: Serve) -> None:
    """A client that waits for it is asked for its body."""
    served = serve_h2(Paths(asked=Asked()))

    def run(client: H2Client) -> Stream:
        stream = client.request(b"/asked", (b"expect", b"100-continue"), end=False)
        client.until(lambda: client.stream(stream).statuses)
        return client.data(stream, b"body").answer(stream)

    assert (await talk(served.port, run)).statuses == [100, 200]


@pytest.mark.parametrize(
    "length, sent", [(b"11", 0), (None, 11)], ids=["announced", "not announced"]
)
@pytest_twisted.ensureDeferred
async def test_body_too_large(serve_h2: Serve, length: bytes | None, sent: int) -> None:
    """413 as soon as it is known; the rest of the body is not wanted and harms nobody."""
    served = serve_h2(limits=Limits(body_bytes=10))

    def begin() -> tuple[H2Client, int]:
        client = H2Client(served.port)
        more = [] if length is None else [(b"content-length", length)]
        stream = client.request(b"/fast", *more, end=False, method=b"POST")
        client.data(stream, bytes(sent), end=False).answer(stream)
        return client, stream

    def go_on() -> Any:
        for _ in range(10):  # more than the window of the connection, were it not given back
            client.data(stream, bytes(16000), end=False).ping()
        return client.answer(client.request())

    client, stream = await in_thread(begin)
    refused = client.stream(stream)
    await silence(served, client, refused)
    good = await in_thread(go_on)
    client.close()
    assert (refused.status, refused.ended, refused.reset) == (413, True, NO_ERROR)
    assert good.status == 200
    assert served.codes == ["ERR_HTTP_BODY_TOO_LARGE"]
    assert served.root.fast.ran == [b"/fast"]


TOO_SHORT = ("HPE_INVALID_EOF_STATE", "Invalid EOF state")
TOO_LONG = (BAD_LENGTH, "Body longer than its Content-Length")


class Body(NamedTuple):
    """A body after ``Content-Length: 10``, and what its request is refused for."""

    why: str
    pieces: list[bytes]
    refused: tuple[str, str] | None
    trailers: bool = False
    padding: int = 0
    ended: bool = True


BODIES = [
    Body("as announced", [bytes(10)], None),
    Body("as announced, in pieces", [bytes(4), b"", bytes(6), b""], None),
    Body("as announced, with trailers", [bytes(10)], None, trailers=True),
    Body("as announced, padded", [bytes(4), bytes(6)], None, padding=100),
    Body("too short", [bytes(9)], TOO_SHORT),
    Body("none", [b""], TOO_SHORT),
    Body("too short, in pieces", [bytes(4), bytes(5)], TOO_SHORT),
    Body("too short, with trailers", [bytes(9)], TOO_SHORT, trailers=True),
    Body("none but trailers", [], TOO_SHORT, trailers=True),
    Body("too short, padded", [bytes(9)], TOO_SHORT, padding=1),
    Body("too long", [bytes(11)], TOO_LONG),
    Body("too long, in pieces", [bytes(10), bytes(1)], TOO_LONG),
    Body("too long, with trailers", [bytes(11)], TOO_LONG, trailers=True),
    Body("too long, padded", [bytes(5), bytes(6)], TOO_LONG, padding=1),
    Body("too long, and goes on", [bytes(11), *[bytes(16000)] * 6], TOO_LONG),
    Body("too long, without an end", [bytes(11)], TOO_LONG, ended=False),
]


def body_frames(client: H2Client, head: HeadersFrame, body: Body) -> list[Frame]:
    flags = ["PADDED"] if body.padding else []
    frames: list[Frame] = [
        DataFrame(head.stream_id, piece, pad_length=body.padding, flags=flags)
        for piece in body.pieces
    ]
    if body.trailers:
        frames.append(client.headers([(b"a", b"b")], stream=head.stream_id))
    elif body.ended:
        frames[-1].flags.add("END_STREAM")
    return frames


@pytest.mark.parametrize("at_once", [True, False], ids=["in one write", "one by one"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.why)
@pytest_twisted.ensureDeferred
async def test_body_and_its_length(serve_h2: Serve, body: Body, at_once: bool) -> None:
    """A body that is not as long as announced costs its own request, and no other."""
    served = serve_h2()
    settled = settled_of(served)

    def run(client: H2Client) -> list[int | None]:
        running = client.request(b"/slow")
        fields = fields_of(b"/fast", (b"content-length", b"10"), method=b"POST")
        head = client.headers(fields, end=False)
        frames = [head, *body_frames(client, head, body)]
        for some in [frames] if at_once else [[frame] for frame in frames]:
            client.send(*some).ping()
        answer = client.answer(head.stream_id)
        good = client.answer(client.request(b"/fast?good"))
        return [answer.status, good.status, client.answer(running).status]

    done = talk(served.port, run)
    request = await served.root.slow.started
    await until(lambda: b"/fast?good" in served.root.fast.ran)
    request.finish()
    status = 400 if body.refused else 200
    assert await done == [status, 200, 200]
    assert len(served.root.fast.ran) == (1 if body.refused else 2)
    assert [
        (error.code, error.reason, error.phase, error.field, answered)
        for error, answered in settled
    ] == ([(*body.refused, "body", b"content-length", 400)] if body.refused else [])


@pytest.mark.parametrize("method", [b"HEAD", b"POST"])
@pytest.mark.parametrize("length, status", [(None, 200), (b"0", 400), (b"1", 200), (b"01", 200)])
@pytest_twisted.ensureDeferred
async def test_body_of_one_byte(
    serve_h2: Serve, method: bytes, length: bytes | None, status: int
) -> None:
    """Where no length is announced, the body has any; and HEAD is as other methods."""
    served = serve_h2()

    def run(client: H2Client) -> int | None:
        more = [] if length is None else [(b"content-length", length)]
        stream = client.request(b"/fast", *more, end=False, method=method)
        return client.data(stream, b"a").answer(stream).status

    assert await talk(served.port, run) == status


@pytest.mark.parametrize(
    "trailers, code",
    [
        ([(b"a", b"b")], None),
        ([(b":path", b"/")], "ERR_HTTP2_INVALID_PSEUDOHEADER"),
        ([(b"a", b"b\n")], "HPE_INVALID_HEADER_TOKEN"),
        ([(b"a", b"b" * 17000)], "HPE_HEADER_OVERFLOW"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_trailers(
    serve_h2: Serve, trailers: list[tuple[bytes, bytes]], code: str | None
) -> None:
    """Trailers are judged as fields are."""
    served = serve_h2()

    def run(client: H2Client) -> Stream:
        stream = client.request(end=False, method=b"POST")
        client.data(stream, b"abc", end=False)
        return client.send(client.headers(trailers, stream=stream)).answer(stream)

    answered = await talk(served.port, run)
    assert answered.status == {None: 200, "HPE_HEADER_OVERFLOW": 431}.get(code, 400)
    assert served.codes == ([code] if code else [])
    assert len(served.root.fast.ran) == (code is None)
    assert [error.phase for error in served.errors] == (["body"] if code else [])


def multipart(body: bytes, kind: bytes = b"multipart/form-data; boundary=x") -> Any:
    def run(client: H2Client) -> Stream:
        more = [(b"content-type", kind)]
        stream = client.request(b"/fast", *more, end=False, method=b"POST")
        refused = client.data(stream, body).answer(stream)
        assert client.answer(client.request()).status == 200
        return refused

    return run


@pytest.mark.parametrize(
    "run",
    [
        multipart(b"abc"),
        multipart(b"--x\r\nContent-Disposition: form-data; name*=utf-8''a\r\n\r\nb\r\n--x--\r\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_multipart(serve_h2: Serve, run: Any) -> None:
    """A multipart body that cannot be parsed is the client's fault."""
    served = serve_h2()
    assert (await talk(served.port, run)).status == 400
    assert served.codes == ["ERR_HTTP_MULTIPART"]
    assert served.errors[0].field == b"content-type"


@pytest_twisted.ensureDeferred
async def test_refused_requests_in_the_access_log(serve_h2: Serve) -> None:
    """The access log has refused requests, too, and knows HTTP/2 by its name."""
    served = serve_h2()
    output = io.BytesIO()
    log = AccessLog(LogFile(output, "access log"))
    served.site.journal.watch_settled(log.refused)
    await talk(served.port, lambda c: c.answer(c.request(b"/a b", (b"user-agent", b"me"))))
    assert output.getvalue().endswith(b'"GET /a b HTTP/2" 400 - "-" "me"\n')


# The client gives one request up.


@pytest_twisted.ensureDeferred
async def test_reset_stream(serve_h2: Serve) -> None:
    """RST_STREAM cancels that request alone; it is counted, and no client error."""
    served = serve_h2()
    statuses: list[int] = []
    served.site.log = lambda request: statuses.append(request.code)  # type: ignore[method-assign]

    def run(client: H2Client) -> Stream:
        stream = client.request(b"/slow")
        client.ping().send(RstStreamFrame(stream, error_code=CANCEL))
        return client.answer(client.request())

    done = talk(served.port, run)
    request = await served.root.slow.started
    assert (await done).status == 200
    (gone,) = served.root.slow.gone
    assert gone.check(ConnectionLost) and gone.check(ConnectionDone)
    cause = gone.value.__cause__
    assert isinstance(cause, ClientHangUp)
    assert (cause.reason, cause.phase) == ("Stream reset: CANCEL", "response")
    assert served.errors == [] and served.site.journal.stream_resets == 1
    assert statuses == [499, 200]
    request.write(b"too late")
    request.finish()


@pytest.mark.parametrize("path", [b"/fast", b"/a b"])
@pytest_twisted.ensureDeferred
async def test_request_and_reset_in_one_read(serve_h2: Serve, path: bytes) -> None:
    """A request that is given up in the read that brings it is never begun."""
    served = serve_h2()

    def run(client: H2Client) -> Stream:
        for _ in range(10):  # more than the connection's window, were it not given back
            client.send(*_given_up(client, path))
            client.answer(client.request())
        return client.answer(client.request())

    assert (await talk(served.port, run)).status == 200
    assert served.root.fast.ran == [b"/fast"] * 11
    assert served.errors == [] and served.site.journal.stream_resets == 30


def _given_up(client: H2Client, path: bytes) -> list[Frame]:
    """Three requests with a body, each of them given up, in one TLS record."""
    frames: list[Frame] = []
    for _ in range(3):
        head = client.headers(fields_of(path, (b"content-length", b"5")), end=False)
        frames += [head, DataFrame(head.stream_id, bytes(4000))]
        frames.append(RstStreamFrame(head.stream_id, error_code=CANCEL))
    return frames


class Pauses(Request):
    """A request class that wants no more of its body for now."""

    def handleContentChunk(self, data: bytes) -> None:
        super().handleContentChunk(data)
        if self.requestHeaders.hasHeader(b"pause"):
            self.channel.pauseProducing()


@pytest_twisted.ensureDeferred
async def test_reset_of_a_paused_upload(serve_h2: Serve) -> None:
    """What was not taken of its body is given back to the connection's window."""
    served = serve_h2(requestFactory=Pauses)

    def run(client: H2Client) -> Stream:
        paused = client.request(b"/fast", (b"pause", b"1"), end=False)
        for _ in range(4):
            client.data(paused, bytes(15000), end=False)
        client.send(RstStreamFrame(paused, error_code=CANCEL)).ping()
        stream = client.request(b"/fast", end=False)
        for _ in range(4):
            client.data(stream, bytes(15000), end=False)
        return client.data(stream, b"").answer(stream)

    assert (await talk(served.port, run)).status == 200
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_paused_upload_goes_on(serve_h2: Serve) -> None:
    """A body that was paused arrives whole, and its request is run then."""
    served = serve_h2(Paths(asked=(asked := Asked())), requestFactory=Pauses)
    client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.data(_paused(client), b"abc").ping())
    connection = await connection_of(served)
    assert asked.requests == []
    await until(partial(goes_on, connection.streams[1], asked))
    assert (await in_thread(lambda: client.answer(1))).status == 200
    client.close()
    assert asked.requests == [(b"GET", b"/asked", bytes(15000) + b"abc")]


@pytest_twisted.ensureDeferred
async def test_small_pieces_of_a_paused_upload(serve_h2: Serve) -> None:
    """They wait together, or their objects would take far more memory than the window allows."""
    served = serve_h2(Paths(asked=(asked := Asked())), requestFactory=Pauses)
    client = await in_thread(lambda: H2Client(served.port))
    pieces = [
        DataFrame(1, b"%d" % (n % 10), pad_length=n % 2, flags=["PADDED"]) for n in range(6000)
    ]
    await in_thread(lambda: _paused(client) and client.send(*pieces).ping())
    connection = await connection_of(served)
    stream = connection.streams[1]
    assert len(stream._inboundDataBuffer) < 10
    assert stream.unread_bytes == sum(1 + 1 + n % 2 for n in range(6000))
    await in_thread(lambda: client.data(1, b"").ping())
    await until(partial(goes_on, stream, asked))
    assert asked.requests == [(b"GET", b"/asked", bytes(15000) + b"0123456789" * 600)]
    client.close()


def goes_on(stream: Any, asked: Asked) -> bool:
    """Let a paused upload go on, for a turn; whether it has reached its resource."""
    if not asked.requests:
        stream.resumeProducing()
    return bool(asked.requests)


def _paused(client: H2Client) -> int:
    stream = client.request(b"/asked", (b"pause", b"1"), end=False)
    client.data(stream, bytes(15000), end=False)
    return stream


class Unending(Resource):
    """Writes for as long as there is room."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.written = self.stopped = 0
        self.producing = False

    def render(self, request: Request) -> int:
        self.request = request
        request.registerProducer(self, True)
        self.resumeProducing()
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        self.producing = True
        while self.producing:
            self.request.write(bytes(8192))
            self.written += 8192

    def pauseProducing(self) -> None:
        self.producing = False

    def stopProducing(self) -> None:
        self.producing = False
        self.stopped += 1


@pytest_twisted.ensureDeferred
async def test_producer(serve_h2: Serve) -> None:
    """A producer waits while its client does, however large the window, and is stopped."""
    served = serve_h2(Paths(unending=(unending := Unending())))

    def run() -> H2Client:
        settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}
        client = H2Client(served.port, settings=settings, windows=False, receive_buffer=16384)
        client.send(WindowUpdateFrame(0, window_increment=2**30))
        client.request(b"/unending")
        return client

    client = await in_thread(run)
    before = 0
    while not before or before != unending.written:
        before = unending.written
        await settled(100)
    assert before < 16 * 1024 * 1024
    await in_thread(lambda: client.until(lambda: len(client.stream(1).body) > before))
    assert unending.written > before
    await in_thread(lambda: client.send(RstStreamFrame(1, error_code=CANCEL)))
    await until(lambda: unending.stopped)
    assert unending.stopped == 1
    client.close()


@pytest_twisted.ensureDeferred
async def test_window_and_reset_in_one_read(serve_h2: Serve) -> None:
    """A window opened for a response that is given up in the same read harms nobody."""
    served = serve_h2(Paths(unending=(unending := Unending())))

    def run(client: H2Client) -> Stream:
        stream = client.request(b"/unending")
        client.until(lambda: client.stream(stream).body)
        update = WindowUpdateFrame(0, window_increment=1000)
        reset = RstStreamFrame(stream, error_code=CANCEL)
        following = [client.headers(fields_of()) for _ in range(2)]
        client.send(update, reset, *following)
        return client.answer(following[-1].stream_id)

    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 10}
    assert (await talk(served.port, run, settings=settings, windows=False)).status == 200
    assert unending.stopped == 1


@pytest_twisted.ensureDeferred
async def test_windows(serve_h2: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response waits for its window without work, and goes on as the window opens."""
    tries: list[int] = []
    send = HangupHTTP2._send_frame

    def counted(connection: HangupHTTP2, stream_id: int) -> None:
        tries.append(stream_id)
        send(connection, stream_id)

    monkeypatch.setattr(HangupHTTP2, "_send_frame", counted)
    page = bytes(range(256)) * 1024
    served = serve_h2(Paths(page=Data(page, "text/plain")))

    def run(client: H2Client) -> Stream:
        stream = client.request(b"/page")
        client.until(lambda: client.stream(stream).body)
        assert client.stream(stream).body == page[:10]
        for _ in range(20):  # each takes a turn of the reactor
            client.ping()
        assert len(tries) < 10
        client.send(WindowUpdateFrame(stream, window_increment=90))
        client.until(lambda: len(client.stream(stream).body) == 100)
        client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**20}))
        client.send(WindowUpdateFrame(0, window_increment=2**20))
        return client.answer(stream)

    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 10}
    assert (await talk(served.port, run, settings=settings, windows=False)).body == page


def _have(pages: list[Stream], size: int) -> bool:
    return sum(len(page.body) for page in pages) == size


@pytest_twisted.ensureDeferred
async def test_streams_take_turns_at_the_window(serve_h2: Serve) -> None:
    """If the connection's window does for a few frames, each stream gets some of them."""
    from twisted.internet import reactor  # whose time moves: who has waited longest is the next

    served = serve_h2(Paths(page=Data(bytes(300_000), "text/plain")), reactor=reactor)

    def run(client: H2Client) -> list[int]:
        streams = [client.request(b"/page") for _ in range(10)]
        pages = [client.stream(stream) for stream in streams]
        for turn in range(1, 21):  # in each, the connection's window is used up
            client.until(partial(_have, pages, turn * FIRST_WINDOW))
            client.send(WindowUpdateFrame(0, window_increment=FIRST_WINDOW))
        return [len(page.body) for page in pages]

    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**20}
    got = await talk(served.port, run, settings=settings, windows=False)
    assert 2 * min(got) > max(got)


@pytest_twisted.ensureDeferred
async def test_each_frame_is_given_back(serve_h2: Serve, tmp_path: Path) -> None:
    """What a client gives back in small parts does not become smaller and smaller frames."""
    content = os.urandom(12_000_000)
    (tmp_path / "file").write_bytes(content)
    served = serve_h2(File(str(tmp_path)), reactor=HandClock())
    stream = await talk(served.port, lambda client: client.answer(client.request(b"/file")))
    assert stream.body == content and served.codes == []
    written = len(content) // 65_536 + 1  # of which each may end with a small frame, or two
    assert sum(size < 4096 for size in stream.frames) <= 2 * written


@pytest.mark.parametrize("of_stream", [False, True])
@pytest_twisted.ensureDeferred
async def test_window_that_stays_small(serve_h2: Serve, of_stream: bool) -> None:
    """A window for a small frame gets it a moment later, or sooner if it grows."""
    served = serve_h2(
        Paths(page=Data(bytes(100_000), "text/plain")), reactor=(clock := HandClock())
    )
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: FIRST_WINDOW if of_stream else 2**20}
    client = await in_thread(lambda: H2Client(served.port, settings=settings, windows=False))
    stream_id = client.request(b"/page")
    stream = client.stream(stream_id)
    opened = stream_id if of_stream else 0
    if of_stream:
        client.send(WindowUpdateFrame(0, window_increment=2**20))

    async def read(count: int) -> None:
        await in_thread(lambda: client.until(lambda: len(stream.body) >= count))
        await in_thread(client.ping)
        assert len(stream.body) == count

    await read(FIRST_WINDOW)
    client.send(WindowUpdateFrame(opened, window_increment=1000))
    await read(FIRST_WINDOW)
    client.send(WindowUpdateFrame(opened, window_increment=1000))
    await read(FIRST_WINDOW)
    clock.wait(0.5)
    await read(FIRST_WINDOW + 2000)
    client.send(WindowUpdateFrame(opened, window_increment=1000))
    await read(FIRST_WINDOW + 3000)  # nothing has been sent for a moment
    for _ in range(4):
        client.send(WindowUpdateFrame(opened, window_increment=1024))
    await read(FIRST_WINDOW + 3000 + 4096)  # each is half of what did not come in time
    assert stream.frames[-6:] == [2000, 1000, 1024, 1024, 1024, 1024]
    client.send(WindowUpdateFrame(opened, window_increment=2**20))
    await in_thread(lambda: client.answer(stream_id))
    client.close()


@pytest_twisted.ensureDeferred
async def test_window_that_is_small_from_the_first(serve_h2: Serve) -> None:
    """A client with little room need not wait for each frame, and may give back very many."""
    served = serve_h2(Paths(page=Data(bytes(300_000), "text/plain")), reactor=HandClock())
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 100}
    run = lambda client: client.answer(client.request(b"/page"))  # noqa: E731
    stream = await talk(served.port, run, settings=settings)
    assert stream.frames == [100] * 3000
    assert served.codes == []


@pytest_twisted.ensureDeferred
async def test_window_that_is_given_back_when_it_is_used_up(serve_h2: Serve) -> None:
    """A frame leaves no small rest of a window, for which the next one would wait."""
    served = serve_h2(Paths(page=Data(bytes(100_000), "text/plain")), reactor=HandClock())
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 20_000}

    def run(client: H2Client) -> Stream:
        stream_id = client.request(b"/page")
        stream = client.stream(stream_id)
        client.send(WindowUpdateFrame(0, window_increment=100_000))
        for turn in range(1, 5):
            client.until(partial(_have, [stream], turn * 20_000))
            client.send(WindowUpdateFrame(stream_id, window_increment=20_000))
        return client.answer(stream_id)

    stream = await talk(served.port, run, settings=settings, windows=False)
    assert stream.frames == [10_000] * 8 + [16_384, 3616]


@pytest_twisted.ensureDeferred
async def test_small_writes_wait_together(serve_h2: Serve) -> None:
    """What a handler has written in small pieces while the window was closed is one frame."""

    class Dribbles(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            for number in range(2000):
                request.write(b"%010d" % number)
            return b"end"

    served = serve_h2(Paths(page=Dribbles()))

    def run(client: H2Client) -> Stream:
        stream = client.request(b"/page")
        client.ping().send(WindowUpdateFrame(stream, window_increment=2**20))
        return client.answer(stream)

    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
    stream = await talk(served.port, run, settings=settings)
    assert stream.body == b"".join(b"%010d" % number for number in range(2000)) + b"end"
    assert stream.frames == [16_384, len(stream.body) - 16_384]


class Tagged(Resource):
    """Answers with a large header that differs from all others."""

    isLeaf = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.streams: list[Any] = []

    def render(self, request: Request) -> bytes:
        self.streams.append(request.channel)
        request.setHeader(b"x-tag", os.urandom(500).hex().encode())
        return bytes(0 if request.method == b"HEAD" else self.size)


@pytest_twisted.ensureDeferred
async def test_heads_wait_for_a_client_that_reads_late(serve_h2: Serve) -> None:
    """The heads of a whole page are no flood, though the client reads none for a while."""
    page, part = Tagged(2_000_000), Tagged(4)
    served = serve_h2(Paths(page=page, part=part))
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}
    client = await in_thread(
        lambda: H2Client(served.port, settings=settings, windows=False, receive_buffer=2**17)
    )
    client.send(WindowUpdateFrame(0, window_increment=2**30))
    connection = await connection_of(served)
    sender = transport_beneath(connection.transport)
    # A size that is set does not grow, and so there is no room once there is none.
    sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**17)
    streams = [client.request(b"/page")]
    await until(lambda: connection._consumerBlocked is not None)
    await filled(sender)
    streams += [client.request(b"/part", method=b"HEAD" if n % 2 else b"GET") for n in range(90)]
    await until(lambda: len(part.streams) == 90)
    assert all(stream.unsent(None) for stream in part.streams)
    answers = await in_thread(lambda: [client.answer(stream) for stream in streams])
    assert [len(answer.body) for answer in answers] == [page.size, *[4, 0] * 45]
    assert len({answer.fields[b"x-tag"] for answer in answers}) == len(streams)
    assert served.errors == []
    client.close()


@pytest_twisted.ensureDeferred
async def test_one_stream_stalls(serve_h2: Serve) -> None:
    """Without window for send_seconds, one response is given up where others go on."""
    root = Paths(page=Data(bytes(100_000), "text/plain"))
    served = serve_h2(root, reactor=(clock := HandClock()))
    last_words = settled_of(served)
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 10}
    client = await in_thread(lambda: H2Client(served.port, settings=settings, windows=False))
    client.request(b"/slow")
    stalled = client.stream(client.request(b"/page"))
    await in_thread(lambda: client.until(lambda: stalled.body))
    await clock.wait_until(lambda: last_words)
    good = await in_thread(lambda: client.answer(3, client.request()))
    client.close()
    assert (stalled.reset, good.status) == (CANCEL, 200)
    error, status = last_words[0]
    assert (error.code, error.phase, status) == ("ETIMEDOUT", "response", None)
    assert error.request is not None and error.request.target == b"/page"
    assert served.errors[0] is error


async def slow_reader(served: Served, count: int, held: int) -> tuple[H2Client, HangupHTTP2]:
    """A client with *count* responses that reads nothing yet; the kernel may hold *held* bytes."""
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 256 * 1024}

    def run() -> H2Client:
        client = H2Client(served.port, settings=settings, windows=False, receive_buffer=16384)
        return client.send(WindowUpdateFrame(0, window_increment=2**30)).ping()

    client = await in_thread(run)
    connection = await connection_of(served)
    transport_beneath(connection.transport).socket.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, held
    )
    for _ in range(count):
        client.request(b"/page")
    await until(lambda: len(connection.streams) == count)
    await filled(transport_beneath(connection.transport))
    return client, connection


@pytest.mark.skipif(sys.platform != "linux", reason="its kernel says what it holds")
@pytest_twisted.ensureDeferred
async def test_client_that_reads_slowly(serve_h2: Serve) -> None:
    """It opens a window once it has what the server has sent, which may take a while."""
    clock = HandClock()
    served = serve_h2(Paths(page=Data(bytes(500_000), "text/plain")), reactor=clock)
    client, connection = await slow_reader(served, 1, 2**20)
    stream = client.stream(1)
    for count in range(1, 6):
        clock.wait(Timeouts().send_seconds - 2)
        await take_some(
            lambda: client.until(lambda: len(stream.body) >= count * 45_000),  # noqa: B023
            transport_beneath(connection.transport),
        )
    transport = transport_beneath(connection.transport)
    await in_thread(lambda: client.until(lambda: len(stream.body) == 256 * 1024))
    await until(lambda: not held_by_kernel(transport))
    clock.wait(Timeouts().send_seconds - 2)  # of which the last bytes have only just come
    client.send(WindowUpdateFrame(1, window_increment=2**20))
    await in_thread(lambda: client.answer(1))
    client.close()
    assert len(stream.body) == 500_000 and served.codes == []


@pytest_twisted.ensureDeferred
async def test_stream_that_waits_for_its_turn(serve_h2: Serve) -> None:
    """The client of a response that could be sent is not to blame for what has not been."""
    clock = HandClock()
    served = serve_h2(Paths(page=Data(bytes(500_000), "text/plain")), reactor=clock)
    client, connection = await slow_reader(served, 20, 8192)
    for count in range(1, 5):
        clock.wait(Timeouts().send_seconds / 2)
        total = lambda: sum(len(stream.body) for stream in client.streams.values())  # noqa: E731
        await take_some(
            lambda: client.until(lambda: total() >= count * 60_000),  # noqa: B023
            transport_beneath(connection.transport),
        )
    connection.resumeProducing()
    connection._look_for_stalled()
    assert len(connection.streams) == 20 and served.codes == []
    client.close()


@pytest_twisted.ensureDeferred
async def test_window_of_the_connection_is_shared(serve_h2: Serve) -> None:
    """Each response gets its part of it, and none is given up because others got theirs first."""
    clock = HandClock()
    served = serve_h2(Paths(page=Data(bytes(500_000), "text/plain")), reactor=clock)
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**20}
    client = await in_thread(lambda: H2Client(served.port, settings=settings, windows=False))
    streams = [client.stream(client.request(b"/page")) for _ in range(3)]

    async def read(count: int) -> list[int]:
        """Read so many bytes of all responses; how many there are then of each."""
        lengths = lambda: [len(stream.body) for stream in streams]  # noqa: E731
        await in_thread(lambda: client.until(lambda: sum(lengths()) >= count))
        return lengths()

    before = after = await read(FIRST_WINDOW)
    for count in range(1, 7):
        clock.wait(Timeouts().send_seconds - 2)
        client.send(WindowUpdateFrame(0, window_increment=16_384))
        after = await read(FIRST_WINDOW + count * 16_384)
    assert [more - less for more, less in zip(after, before, strict=True)] == [2 * 16_384] * 3
    assert served.codes == []
    await clock.wait_until(lambda: served.site.open_connections == 0)
    assert {*served.codes} == {"ETIMEDOUT"}
    client.close()


@pytest.mark.parametrize("windows", [(2 * 8192, 0), (8192 + 1, 8192 - 1)])
@pytest_twisted.ensureDeferred
async def test_window_that_is_just_filled(serve_h2: Serve, windows: tuple[int, int]) -> None:
    """A producer that has filled the window to the last byte waits for no longer than others."""
    clock = HandClock()
    served = serve_h2(Paths(unending=(unending := Unending())), reactor=clock)
    first, more = windows
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: first}
    client = await in_thread(lambda: H2Client(served.port, settings=settings, windows=False))
    stream = client.request(b"/unending")
    if more:
        await in_thread(lambda: client.until(lambda: len(client.stream(stream).body) == first))
        client.send(WindowUpdateFrame(stream, window_increment=more))
    await in_thread(lambda: client.until(lambda: len(client.stream(stream).body) == first + more))
    await clock.wait_until(lambda: unending.stopped)
    await served.emptied()
    assert served.codes == ["ETIMEDOUT"]
    client.close()


@pytest_twisted.ensureDeferred
async def test_response_that_just_fills_the_window(serve_h2: Serve) -> None:
    """An application that waits for room before it finishes need not wait for more of it."""

    @implementer(IPushProducer)
    class Waits(Resource):
        isLeaf = True
        paused = False

        def render(self, request: Request) -> int:
            self.request = request
            request.registerProducer(self, True)
            request.write(bytes(100))
            if not self.paused:
                self.resumeProducing()
            return NOT_DONE_YET

        def pauseProducing(self) -> None:
            self.paused = True

        def resumeProducing(self) -> None:
            self.request.unregisterProducer()
            self.request.finish()

        def stopProducing(self) -> None: ...

    served = serve_h2(Paths(page=Waits()))
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 100}
    run = lambda client: client.answer(client.request(b"/page"))  # noqa: E731
    stream = await talk(served.port, run, settings=settings, windows=False)
    assert stream.ended and len(stream.body) == 100


# The resource fails.


class Fails(Resource):
    """Raises, at once or after its first write."""

    isLeaf = True

    def __init__(self, write: bool) -> None:
        super().__init__()
        self.write = write

    def render(self, request: Request) -> bytes:
        if self.write:
            request.write(b"begun")
        raise ZeroDivisionError


@pytest.mark.parametrize("write", [False, True])
@pytest_twisted.ensureDeferred
async def test_resource_that_raises(
    serve_h2: Serve, write: bool, expected_errors: LoggedErrors
) -> None:
    """A 500 page, or a response that is visibly cut where it has begun."""
    served = serve_h2(Paths(fails=Fails(write)))

    def run(client: H2Client) -> Stream:
        failed = client.answer(client.request(b"/fails"))
        assert client.answer(client.request()).status == 200
        return failed

    statuses: list[int] = []
    served.site.log = lambda request: statuses.append(request.code)  # type: ignore[method-assign]
    failed = await talk(served.port, run)
    assert len(statuses) == 2
    if write:
        assert (failed.status, failed.reset) == (200, INTERNAL_ERROR)
        assert b"500" not in failed.body
    else:
        assert (failed.status, failed.reset) == (500, None)
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


class Process(Request):
    """A request class that fails outside of any resource."""

    def process(self) -> None:
        raise ZeroDivisionError


@pytest_twisted.ensureDeferred
async def test_request_class_that_raises(serve_h2: Serve, expected_errors: LoggedErrors) -> None:
    """The client gets a 500, and the connection goes on."""
    served = serve_h2(Paths(), requestFactory=Process)

    def run(client: H2Client) -> list[int | None]:
        return [client.answer(client.request()).status for _ in range(2)]

    assert await talk(served.port, run) == [500, 500]
    assert len(expected_errors.flush(ZeroDivisionError)) == 2


@pytest_twisted.ensureDeferred
async def test_late_writes(serve_h2: Serve) -> None:
    """write() and finish() after the end of the connection do nothing."""
    served = serve_h2()

    def run(client: H2Client) -> None:
        client.request(b"/slow")
        wait_for(lambda: served.root.slow.requests)
        client.client.reset()

    done = talk(served.port, run)
    request = await served.root.slow.started
    await done
    await served.emptied()
    request.write(b"nobody")
    request.finish()


@pytest.mark.parametrize(
    "method, length",
    [(b"GET", None), (b"GET", b""), (b"GET", b"7"), (b"GET", b"6"), (b"HEAD", b"6")],
)
@pytest_twisted.ensureDeferred
async def test_transport_methods_of_the_application(
    serve_h2: Serve, method: bytes, length: bytes | None
) -> None:
    """request.loseConnection() ends that response alone, visibly so where it may not be whole,
    and what follows does nothing."""
    served = serve_h2()

    def run(client: H2Client) -> list[Stream]:
        first = client.answer(client.request(b"/slow", method=method))
        return [first, client.answer(client.request())]

    done = talk(served.port, run)
    request = await served.root.slow.started
    body = b"so far" if method == b"GET" else b""
    if length is not None:
        if length:
            request.setHeader(b"content-length", length)
        request.write(b"so far")
    logged: list[int] = []
    site: Any = served.site
    site.log = lambda request: logged.append(request.sentLength)
    ended: list[str] = []
    request.notifyFinish().addCallbacks(
        lambda _: ended.append("fires"), lambda _: ended.append("fails")
    )
    request.loseConnection()
    first, second = await done
    whole = length == b"6"
    assert ended == ["fires" if whole else "fails"]
    assert len(logged) == 2 and (logged[0] == len(body) or not whole)
    assert (first.ended, first.reset) == ((True, None) if whole else (False, INTERNAL_ERROR))
    assert first.body == body or not whole
    assert second.status == 200
    request.write(b"more")
    request.finish()
    with suppress(AttributeError):
        request.channel.abortConnection()
    assert served.errors == []


class Ends:
    """A producer that ends its response in its own way when it is stopped."""

    def __init__(self, request: Request, how: str) -> None:
        self.request, self.how = request, how

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        if self.how == "fails to go on":
            raise LookupError("nothing to write")

    def stopProducing(self) -> None:
        if self.how == "closes":
            self.request.loseConnection()
        elif self.how == "aborts":
            stream: Any = self.request.channel
            stream.abortConnection()
        elif self.how == "finishes":
            self.request.unregisterProducer()
            self.request.finish()
        elif self.how == "raises":
            raise LookupError("nothing to stop")


class Ending(Resource):
    """``/ending``: what `Ends` writes, which never ends by itself."""

    isLeaf = True

    def __init__(self, how: str, size: int) -> None:
        super().__init__()
        self.how, self.size = how, size
        self.gone: list[Any] = []

    def render(self, request: Request) -> int:
        request.notifyFinish().addBoth(self.gone.append)
        request.registerProducer(Ends(request, self.how), True)
        if self.size:
            request.write(b"a" * self.size)
        return NOT_DONE_YET


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("how", ["closes", "aborts", "finishes", "raises"])
@pytest_twisted.ensureDeferred
async def test_producer_that_ends_its_response_when_stopped(
    serve_h2: Serve, expected_errors: LoggedErrors, how: str, size: int
) -> None:
    """The other streams do not notice, and the request is told once that its client left."""
    ending = Ending(how, size)
    served = serve_h2(Paths(ending=ending))

    def run(client: H2Client) -> Stream:
        reset = client.request(b"/ending")
        client.answer(client.request())
        client.send(RstStreamFrame(reset, error_code=CANCEL))
        return client.answer(client.request())

    assert (await talk(served.port, run)).status == 200
    (told,) = ending.gone
    assert told is None if how == "finishes" else told.check(ConnectionLost)
    assert len(expected_errors.flush(LookupError)) == (how == "raises")
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_producer_that_fails_to_go_on(serve_h2: Serve, expected_errors: LoggedErrors) -> None:
    """Its own response is broken off, and no other."""
    served = serve_h2(Paths(ending=Ending("fails to go on", 100_000)))

    def run(client: H2Client) -> tuple[int | None, int | None]:
        broken = client.answer(client.request(b"/ending"))
        return broken.reset, client.answer(client.request()).status

    assert await talk(served.port, run) == (INTERNAL_ERROR, 200)
    assert len(expected_errors.flush(LookupError)) == 1


@pytest_twisted.ensureDeferred
async def test_write_to_another_stream_that_is_reset(serve_h2: Serve) -> None:
    """Who hears of one reset may write to a request that is reset in the same read."""
    served = serve_h2()
    slow = served.root.slow
    raised: list[Exception] = []

    def tell_the_others(_: object) -> None:
        for request in slow.requests:
            try:
                request.write(b"one has left")
            except Exception as error:
                raised.append(error)

    def run(client: H2Client) -> Stream:
        streams = [client.request(b"/slow") for _ in range(3)]
        client.answer(client.request())
        for request in slow.requests:
            request.notifyFinish().addErrback(tell_the_others)
        resets = [RstStreamFrame(stream, error_code=CANCEL) for stream in streams]
        # h2 forgets streams that are closed when another one is opened.
        client.send(*resets, client.headers(fields_of()))
        return client.answer(9)

    assert (await talk(served.port, run)).status == 200
    assert raised == []


class Eager(Request):
    """Answers before it has been read."""

    def handleContentChunk(self, data: bytes) -> None:
        super().handleContentChunk(data)
        self.write(b"so far: ")


@pytest.mark.parametrize(
    "lengths, more, code",
    [
        ([], 10, CANCEL),
        ([(b"content-length", b"8")], 8, PROTOCOL_ERROR),
        ([(b"content-length", b"8")], 6, PROTOCOL_ERROR),
    ],
    ids=["larger than allowed", "longer than announced", "shorter than announced"],
)
@pytest_twisted.ensureDeferred
async def test_response_that_began_before_the_refusal(
    serve_h2: Serve, lengths: list[tuple[bytes, bytes]], more: int, code: int
) -> None:
    """A body of a wrong length breaks off a response that has begun; no second head follows."""
    served = serve_h2(limits=Limits(body_bytes=10), requestFactory=Eager)
    settled = settled_of(served)

    def run(client: H2Client) -> tuple[list[int], int | None]:
        stream = client.request(b"/fast", *lengths, method=b"POST", end=False)
        client.data(stream, b"a", end=False).until(lambda: client.stream(stream).body)
        answer = client.data(stream, b"a" * more).answer(stream)
        return answer.statuses, answer.reset

    assert await talk(served.port, run) == ([200], code)
    assert [status for _, status in settled] == [None]


class Unmade(Request):
    """Of which there can be only so many."""

    def parseCookies(self) -> None:
        if self.requestHeaders.hasHeader(b"unmade"):
            raise OSError("too many open files")

    def handleContentChunk(self, data: bytes) -> None:
        raise OSError("no space left on the device")


@pytest_twisted.ensureDeferred
async def test_request_that_there_is_no_room_for(
    serve_h2: Serve, expected_errors: LoggedErrors
) -> None:
    """It is the only one that fails: it is reset where it cannot be made, else a 500."""
    served = serve_h2(requestFactory=Unmade)

    def run(client: H2Client) -> tuple[int | None, int | None, int | None]:
        unmade = client.answer(client.request(b"/fast", (b"unmade", b"1")))
        stream = client.request(method=b"POST", end=False)
        unread = client.data(stream, b"a" * 10, end=False).answer(stream)
        return unmade.reset, unread.status, client.answer(client.request()).status

    assert await talk(served.port, run) == (INTERNAL_ERROR, 500, 200)
    assert len(expected_errors.flush(OSError)) == 2
    assert served.errors == []


@pytest.mark.parametrize("length", [b"", b"+5", b"-5", b"1_0", b"0x5", b"5,5"])
def test_content_length_that_is_no_number(length: bytes) -> None:
    """It is refused whatever the version of h2 lets through."""
    fields = fields_of(b"/fast", (b"content-length", length), method=b"POST")
    head, error = judge_head(fields, Limits())
    assert error is not None and error.code == "HPE_INVALID_CONTENT_LENGTH"
    assert head.content_length is None


@pytest_twisted.ensureDeferred
async def test_what_a_connection_keeps(serve_h2: Serve) -> None:
    """Its attributes of ours are slots: Python's dictionary of all would take 1,500 bytes."""
    served = serve_h2(Paths())

    def run(client: H2Client) -> None:
        client.answer(client.request(b"/fast"))
        [connection] = served.site.context.connections
        assert isinstance(connection, HangupHTTP2)
        assert len(vars(connection)) < 30  # with more, Python 3.11 makes one

    await talk(served.port, run)
