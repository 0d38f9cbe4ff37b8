"""The reverse proxy between raw clients and raw servers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPResponse
from typing import Any

import pytest
import pytest_twisted
from support.certificates import server_context
from support.proxying import Proxied
from support.proxying import proxied as proxied
from support.upstreams import OK, Connection, always
from support.wire import DEFAULT, PATIENCE, Client, in_thread, pause, statuses, talk, until
from twisted.internet.task import Clock

from twisted_hangup import ForwardedClients
from twisted_hangup.limits import OutboundTimeouts
from twisted_hangup.proxy import ProxyResource
from twisted_hangup.proxy.forwarding import Forwarding
from twisted_hangup.report.text import peer_text
from twisted_hangup.server.bodies import LARGEST_HELD

GET = b"GET /a/b?c=d HTTP/1.1\r\nHost: example.org\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"


def body_of(received: bytes) -> bytes:
    return received.partition(b"\r\n\r\n")[2]


# What arrives at the server.


@pytest_twisted.ensureDeferred
async def test_server_that_does_not_say_who_it_is(proxied: Callable[..., Proxied]) -> None:
    """It is not called Twisted; a Date is added (RFC 9110, section 6.6.1)."""
    there = proxied(always(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    answer = (await talk(there.port, LAST)).lower()
    assert b"\r\nserver:" not in answer
    assert answer.count(b"\r\ndate:") == 1


@pytest_twisted.ensureDeferred
async def test_request_and_response_cross(proxied: Callable[..., Proxied]) -> None:
    """Target and fields arrive as they were sent, with ours behind; so does the answer."""
    there = proxied(
        always(
            b"HTTP/1.1 201 Made it\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nServer: x\r\n"
            b"Date: never\r\nContent-Length: 2\r\n\r\nok"
        )
    )
    head = b"GET /a%2Fb//c?x=%20 HTTP/1.1\r\nHost: example.org\r\nX-One: 1\r\n"
    answer = await talk(there.port, head + b"Connection: close\r\n\r\n")
    (connection,) = there.server.connections
    assert connection.received == (
        b"GET /a%2Fb//c?x=%20 HTTP/1.1\r\nHost: example.org\r\nX-One: 1\r\n"
        b"Via: 1.1 twisted_hangup\r\n"
        b'Forwarded: for=127.0.0.1;proto=http;host="example.org"\r\n'
        b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: example.org\r\n\r\n"
    )
    lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 201 Made it"
    assert sorted(line.lower() for line in lines[1:]) == [
        b"connection: close",
        b"content-length: 2",
        b"date: never",
        b"server: x",
        b"set-cookie: a=1",
        b"set-cookie: b=2",
        b"via: 1.1 twisted_hangup",
    ]
    assert body_of(answer) == b"ok"


@pytest.mark.parametrize(
    "path, asked, target",
    [
        ("", b"/x/y?q", b"/x/y?q"),
        ("/", b"/x/y?q", b"/x/y?q"),
        ("/app", b"/x?q", b"/app/x?q"),
        ("/app/", b"/", b"/app/"),
        ("", b"http://example.org/x?q", b"/x?q"),
        ("", b"http://example.org", b"/"),
        ("", b"http://example.org?q", b"/?q"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_target(
    proxied: Callable[..., Proxied], path: str, asked: bytes, target: bytes
) -> None:
    """Always in origin form; with a path in the URL, that comes first."""
    there = proxied(always(OK), path)
    await talk(
        there.port, b"GET %b HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n" % asked
    )
    assert there.server.connections[0].received.startswith(b"GET %b HTTP/1.1\r\n" % target)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("size", [1, 60_000, 200_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest_twisted.ensureDeferred
async def test_upload(
    proxied: Callable[..., Proxied], size: int, chunked: bool, held: bool, tls: bool
) -> None:
    """A body arrives whole, framed by its length; if it came in chunks and went on so, in those."""
    bodies = []
    in_chunks = chunked and not held and size > LARGEST_HELD

    def script(connection: Connection) -> None:
        head = connection.read_head()
        framing = b"Transfer-Encoding: chunked" if in_chunks else b"Content-Length: %d" % size
        assert b"\r\n%b\r\n" % framing in head
        assert (b"Content-Length" in head) != (b"Transfer-Encoding" in head)
        bodies.append(read_chunks(connection) if in_chunks else connection.read(size))
        connection.send(OK)
        connection.read_head()

    there = proxied(script, tls=server_context() if tls else None, buffer_requests=held)
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else body
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n\r\n" % framing
    assert body_of(await talk(there.port, head, sent, tls=tls)) == b"ok"
    assert bodies == [body]


def read_chunks(connection: Connection) -> bytes:
    """A body in chunks, without extensions or trailers."""
    body = b""
    while size := int(connection.read_until(b"\r\n"), 16):
        body += connection.read(size)
        assert connection.read(2) == b"\r\n"
    assert connection.read(2) == b"\r\n"
    return body


@pytest.mark.parametrize("size", [2, LARGEST_HELD + 1], ids=["held", "streamed"])
@pytest_twisted.ensureDeferred
async def test_expectation_is_met_here(proxied: Callable[..., Proxied], size: int) -> None:
    """The client's Expect is answered by us, and the server sees none."""
    there = proxied(
        lambda connection: (connection.read_head(), connection.read(size), connection.send(OK))
    )

    def run() -> bytes:
        client = Client(there.port)
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
        )
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = client.send(b"x" * size).read_all()
        client.close()
        return answer

    assert body_of(await in_thread(run)) == b"ok"
    assert b"Expect" not in there.server.connections[0].received


@pytest_twisted.ensureDeferred
async def test_refused_request_never_arrives(proxied: Callable[..., Proxied]) -> None:
    """What is no HTTP is refused at the front, and told as ever."""
    there = proxied(always(OK))
    bad = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await talk(there.port, bad, fin=True) == DEFAULT
    assert there.served.codes == ["HPE_INVALID_TRANSFER_ENCODING"]
    assert there.server.connections == []


@pytest_twisted.ensureDeferred
async def test_half_a_body_never_arrives(proxied: Callable[..., Proxied]) -> None:
    """A client that leaves in the middle of its upload has asked for nothing."""
    there = proxied(always(OK))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"
    assert statuses(await talk(there.port, head, fin=True)) == [400]
    assert there.server.connections == []


# What comes back.


@pytest.mark.parametrize(
    "answer, status, received",
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            200,
            b"ok",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 204 No\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 99\r\nETag: x\r\n\r\n", 304, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", 404, b"no"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_response_is_framed_anew(
    proxied: Callable[..., Proxied], answer: bytes, status: int, received: bytes
) -> None:
    """However the server ended its body, the client can tell where it ends."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(answer)

    there = proxied(script)
    client = await in_thread(lambda: Client(there.port).send(GET))

    def run() -> tuple[int, bytes]:
        response = HTTPResponse(client.socket, method="GET")
        response.begin()
        return response.status, response.read()

    found = await in_thread(run)
    client.close()
    assert found == (status, received)


@pytest_twisted.ensureDeferred
async def test_head(proxied: Callable[..., Proxied]) -> None:
    """The answer to HEAD has the length of the body that does not come."""
    there = proxied(always(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"))
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    received = await talk(
        there.port, head + head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    assert statuses(received) == [200, 200]
    assert received.count(b"Content-Length: 99") == 2 and received.endswith(b"\r\n\r\n")
    assert len(there.server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_interim_responses_cross(proxied: Callable[..., Proxied]) -> None:
    """103 goes on to the client; 100 is between us and the server."""
    there = proxied(
        always(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    )
    received = await talk(there.port, LAST)
    assert statuses(received) == [103, 200] and b"Link: </a>" in received
    old = b"GET / HTTP/1.0\r\n\r\n"
    assert (await talk(there.port, old)).startswith(b"HTTP/1.0 200 OK\r\n")


@pytest_twisted.ensureDeferred
async def test_trailers_cross(proxied: Callable[..., Proxied]) -> None:
    """Trailers go to the client that asks for them, but those that mean framing."""
    there = proxied(
        always(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
            b"X-Sum: 1\r\nSet-Cookie: a=1\r\n\r\n"
        )
    )
    wanting = LAST.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n")
    assert (await talk(there.port, wanting)).endswith(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert (await talk(there.port, LAST)).endswith(b"2\r\nok\r\n0\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_first_part_does_not_wait_for_the_rest(proxied: Callable[..., Proxied]) -> None:
    """A response that comes slowly is passed on as it comes, its head before its body."""
    seen = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.read_head()
        for part in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"o", b"k"):
            connection.send(part)
            assert seen.acquire(timeout=PATIENCE)

    there = proxied(script)

    def run() -> None:
        client = Client(there.port).send(GET)
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        seen.release()
        for part in (b"o", b"k"):
            assert client.socket.recv(1) == part
            seen.release()
        client.close()

    await in_thread(run)


# The pool.


@pytest_twisted.ensureDeferred
async def test_connections_are_kept(proxied: Callable[..., Proxied]) -> None:
    """Many requests, one after another, cross over one connection."""
    there = proxied(always(OK))
    received = await talk(there.port, GET * 5 + LAST)
    assert statuses(received) == [200] * 6
    assert len(there.server.connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\n",  # a response that nobody has asked for
    ],
)
@pytest_twisted.ensureDeferred
async def test_connection_that_must_not_be_kept(
    proxied: Callable[..., Proxied], answer: bytes
) -> None:
    """The next client gets nothing that was left on another one's connection."""
    there = proxied(always(answer))
    assert statuses(await talk(there.port, GET + LAST)) == [200] * 2
    assert len(there.server.connections) == 2


@pytest_twisted.ensureDeferred
async def test_idle_connection_is_closed_in_time(proxied: Callable[..., Proxied]) -> None:
    """Before the server loses its patience, we close."""
    there = proxied(always(OK))
    await talk(there.port, LAST)
    there.clock.wait(OutboundTimeouts().idle_seconds - 0.25)
    assert there.proxy.pool._idle
    there.clock.wait(1)
    await until(lambda: len(there.server.ended) == 1)


def stale_at_second(kind: str) -> Callable[[Connection], None]:
    """A script whose connections answer once, and end when they get a second request."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(OK)
        connection.read_head()
        if kind == "reset":
            connection.reset()

    return script


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize(
    "method, expected", [(b"GET", 200), (b"PUT", 200), (b"POST", 502), (b"PATCH", 502)]
)
@pytest_twisted.ensureDeferred
async def test_stale_connection(
    proxied: Callable[..., Proxied], method: bytes, expected: int, kind: str
) -> None:
    """A request that meets its connection's end is sent again only where that is safe."""
    there = proxied(stale_at_second(kind))
    second = (
        b"%b / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi" % method
    )

    def run() -> bytes:
        client = Client(there.port).send(GET)
        client.read_until(b"ok")
        try:
            return client.send(second).read_all()
        finally:
            client.close()

    assert statuses(await in_thread(run)) == [expected]
    codes = [error.code for error in there.upstream_errors]
    assert codes == ([] if expected == 200 else ["ERR_UPSTREAM_RESET"])


# The server fails.

FAILURES = {
    "closes at once": (lambda connection: None, 502, "ERR_UPSTREAM_RESET"),
    "closes": (lambda connection: connection.read_head(), 502, "ERR_UPSTREAM_RESET"),
    "resets": (
        lambda connection: (connection.read_head(), connection.reset()),
        502,
        "ERR_UPSTREAM_RESET",
    ),
    "closes in its head": (
        lambda connection: (connection.read_head(), connection.send(OK[:20])),
        502,
        "ERR_UPSTREAM_RESET",
    ),
    "is no HTTP server": (
        lambda connection: (connection.read_head(), connection.send(b"220 smtp\r\n")),
        502,
        "ERR_UPSTREAM_RESPONSE",
    ),
    "breaks its head": (
        lambda connection: (
            connection.read_head(),
            connection.send(b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"),
        ),
        502,
        "ERR_UPSTREAM_RESPONSE",
    ),
    "is silent": (
        lambda connection: (connection.read_head(), connection.read_all()),
        504,
        "ERR_UPSTREAM_TIMEOUT",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest_twisted.ensureDeferred
async def test_failure_before_the_head(proxied: Callable[..., Proxied], failure: str) -> None:
    """The client gets a readable 502 or 504, and its connection lives on."""
    script, status, code = FAILURES[failure]
    there = proxied(script)
    answers = talk(there.port, GET + LAST)
    asked = there.server.connections
    for _ in range(2 if status == 504 else 0):
        await until(lambda: len(asked) > len(there.upstream_errors) and asked[-1].received)
        there.clock.wait(OutboundTimeouts().head_seconds + 1)
    received = await answers
    assert statuses(received) == [status] * 2
    assert received.count(b"The server behind this proxy failed: ") == 2
    assert there.server.url.encode() not in received
    assert [error.code for error in there.upstream_errors] == [code] * 2
    error = there.upstream_errors[0]
    assert error.status == status and error.upstream == there.server.url
    assert there.server.url in error.reason and error.peer.host == "127.0.0.1"
    assert there.served.errors == []


@pytest_twisted.ensureDeferred
async def test_server_that_is_not_there(proxied: Callable[..., Proxied]) -> None:
    """A refused connection is a 502."""
    there = proxied(always(OK))
    there.server.close()
    assert statuses(await talk(there.port, LAST)) == [502]
    (error,) = there.upstream_errors
    assert error.code == "ERR_UPSTREAM_REFUSED" and "ECONNREFUSED" in error.reason


CUTS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
}


@pytest.mark.parametrize(
    "framing, end",
    [(framing, end) for framing in CUTS for end in ("close", "reset", "silence")]
    + [("chunked", "broken")],
)
@pytest_twisted.ensureDeferred
async def test_failure_in_the_body(proxied: Callable[..., Proxied], framing: str, end: str) -> None:
    """A body cut short cannot look whole to the client."""
    passed_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(CUTS[framing])
        passed_on.wait(PATIENCE)
        if end == "reset":
            connection.reset()
        elif end == "silence":
            connection.read_all()
        elif end == "broken":
            connection.send(b"?")

    there = proxied(script)

    def run() -> bytes:
        client = Client(there.port).send(GET)
        data = client.read_until(b"half")
        passed_on.set()
        with suppress(ConnectionResetError):
            while more := client.socket.recv(4096):
                data += more
        client.close()
        return data

    reading = in_thread(run)
    if end == "silence":
        await until(passed_on.is_set)
        await there.clock.wait_until(lambda: there.upstream_errors)
    received = await reading
    assert b"half" in received and not received.endswith(b"0\r\n\r\n")
    assert len(body_of(received)) < 10 or framing == "chunked"
    expected = {"silence": "ERR_UPSTREAM_TIMEOUT", "broken": "ERR_UPSTREAM_RESPONSE"}
    (error,) = there.upstream_errors
    assert error.code == expected.get(end, "ERR_UPSTREAM_RESET") and error.status is None


# The client leaves.


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("begun", [True, False])
@pytest_twisted.ensureDeferred
async def test_client_leaves(proxied: Callable[..., Proxied], begun: bool, reset: bool) -> None:
    """The server sees the connection go, before and after its head."""

    def script(connection: Connection) -> None:
        connection.read_head()
        if begun:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        connection.read_all()

    there = proxied(script)
    client = await in_thread(lambda: Client(there.port).send(GET))
    await until(lambda: there.server.connections and there.server.connections[0].received)
    if begun:
        await in_thread(lambda: client.read_until(b"half"))
    client.reset() if reset else client.close()
    await until(lambda: there.server.ended)
    assert there.served.codes == ["ECONNRESET"] and there.upstream_errors == []


@pytest_twisted.ensureDeferred
async def test_client_leaves_before_the_connection_is_made(
    proxied: Callable[..., Proxied],
) -> None:
    """Nobody connects for nobody."""
    from twisted.internet.defer import Deferred

    connecting: list[Any] = []
    cancelled: list[Any] = []
    there = proxied(always(OK))

    class Never:
        def connect(self, factory: Any) -> Deferred[Any]:
            connecting.append(factory)
            return Deferred(cancelled.append)

    there.proxy.pool._endpoint = Never()  # type: ignore[assignment]
    client = await in_thread(lambda: Client(there.port).send(GET))
    await until(lambda: connecting)
    client.reset()
    await until(lambda: cancelled)
    assert there.upstream_errors == []


# Backpressure.


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_slow_client_slows_the_server(proxied: Callable[..., Proxied], tls: bool) -> None:
    """Of 64 MB for a client that does not read, little leaves the server."""
    from twisted.internet import reactor

    total, sent = 64_000_000, [0]

    def script(connection: Connection) -> None:
        connection.read_head()
        part = b"x" * 640_000
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total
        connection.send(head + part)  # more at once than the client's transport wants
        for _ in range(total // len(part) - 1):
            sent[0] += len(part)
            connection.send(part)

    there = proxied(script, tls=server_context() if tls else None)
    client = await in_thread(lambda: Client(there.port, tls=tls, receive_buffer=65536).send(GET))
    before = 0
    while not before or before != sent[0]:
        before = sent[0]
        await pause(0.05)  # the server's thread needs its turns, too
    assert sent[0] < 20_000_000
    (upstream,) = there.proxy.pool._all
    await until(lambda: upstream.transport not in reactor.getReaders())
    there.clock.wait(2 * OutboundTimeouts().silence_seconds)
    assert there.upstream_errors == []  # the silence is ours

    def read() -> int:
        client.read_until(b"\r\n\r\n")
        return len(client.read(total))

    assert await in_thread(read) == total
    client.close()


# Upgrades.


def echoing(connection: Connection) -> None:
    """A server that says 101 and a word, and then echoes."""
    head = connection.read_head()
    assert b"\r\nUpgrade: echo\r\n" in head and b"\r\nConnection: Upgrade\r\n" in head
    connection.send(b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nhello")
    while data := connection.socket.recv(65536):
        connection.send(data)


UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n"


@pytest_twisted.ensureDeferred
async def test_upgrade_is_a_tunnel(proxied: Callable[..., Proxied]) -> None:
    """After a 101 bytes pass both ways, the first ones included; either end may close."""
    there = proxied(echoing)

    def run() -> None:
        client = Client(there.port).send(UPGRADE + b"early")
        head = client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Go\r\n") and b"Upgrade: echo\r\n" in head
        assert client.read(10) == b"helloearly"
        assert len(client.send(b"x" * 1_000_000).read(1_000_000)) == 1_000_000
        client.close()

    await in_thread(run)
    await until(lambda: there.server.ended)
    assert there.served.errors == [] and there.upstream_errors == []


@pytest_twisted.ensureDeferred
async def test_server_closes_the_tunnel(proxied: Callable[..., Proxied]) -> None:
    """What the server sent before its end still arrives."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n")
        connection.send(b"x" * 500_000)

    there = proxied(script)
    received = await talk(there.port, UPGRADE)
    assert len(body_of(received)) == 500_000


@pytest_twisted.ensureDeferred
async def test_upgrade_that_the_server_declines(proxied: Callable[..., Proxied]) -> None:
    """Any other answer is an ordinary one."""
    there = proxied(always(OK))
    received = await talk(there.port, UPGRADE + LAST)
    assert statuses(received) == [200, 200]


# Small things.


@pytest.mark.parametrize("method, status", [(b"OPTIONS", 204), (b"TRACE", 405)])
@pytest_twisted.ensureDeferred
async def test_max_forwards(proxied: Callable[..., Proxied], method: bytes, status: int) -> None:
    """At 0 the request ends here; else it is counted down (RFC 9110, section 7.6.2)."""
    there = proxied(always(OK))
    head = b"%b / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMax-Forwards: %d\r\n\r\n"
    assert statuses(await talk(there.port, head % (method, 0))) == [status]
    assert there.server.connections == []
    assert statuses(await talk(there.port, head % (method, 5))) == [200]
    assert b"Max-Forwards: 4\r\n" in there.server.connections[0].received


@pytest.mark.parametrize(
    "url", ["", "9000", "ftp://a/", "http://", "http://a:x/", "http://a/?q", "http://u@a/"]
)
def test_url_that_is_none(url: str) -> None:
    """A mistake is told when the proxy is made."""
    with pytest.raises(ValueError, match=r"http|Port"):
        ProxyResource(url, reactor=Clock())


@pytest_twisted.ensureDeferred
async def test_host_is_rewritten(proxied: Callable[..., Proxied]) -> None:
    """With ``host="rewrite"`` the server is called by its own name."""
    there = proxied(always(OK), forwarding=Forwarding(host="rewrite"))
    await talk(there.port, LAST)
    host = b"\r\nHost: 127.0.0.1:%d\r\n" % there.server.port
    assert host in there.server.connections[0].received


@pytest.mark.parametrize(
    ("choice", "value"), [("append", b"203.0.113.7, 127.0.0.1"), ("replace", b"127.0.0.1")]
)
@pytest_twisted.ensureDeferred
async def test_list_of_proxies_goes_on(
    proxied: Callable[..., Proxied], choice: Any, value: bytes
) -> None:
    """Whoever the client is, the end of the connection is added; errors are the client's."""
    there = proxied(
        lambda connection: (connection.read_head(), connection.reset()),
        forwarding=Forwarding(forwarded=choice),
    )
    there.site.context.forwarded = ForwardedClients(["127.0.0.1"])
    wire = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n"
    await talk(there.port, wire + b"Connection: close\r\n\r\n")
    values = re.findall(rb"X-Forwarded-For: (.*)\r\n", there.server.connections[0].received)
    assert b", ".join(values) == value
    assert [peer_text(error.peer) for error in there.upstream_errors] == ["203.0.113.7"]
