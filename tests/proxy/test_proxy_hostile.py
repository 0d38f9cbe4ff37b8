"""Servers behind the proxy that break the rules, on purpose or not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
import pytest_twisted
from support.certificates import server_context
from support.http2_client import H2Client
from support.proxying import Proxied
from support.proxying import proxied as proxied
from support.upstreams import OK, Connection, always
from support.wire import PATIENCE, Client, Served, arrived, in_thread, statuses, talk, until

from twisted_hangup import Limits, OutboundTimeouts, ProxyResource, ServerHangUp, UpstreamError

GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST: Final = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
HEAD_SECONDS: Final = OutboundTimeouts().head_seconds
IDLE_SECONDS: Final = OutboundTimeouts().idle_seconds

EVIL: Final = b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil"


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


CHUNKED: Final = head(b"Transfer-Encoding: chunked")

#: Answers that are refused as a whole: nothing of them may reach the client.
REFUSED: Final = {
    "both lengths": head(b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "two lengths": head(b"Content-Length: 2", b"Content-Length: 30") + b"ok" + EVIL,
    "a length that is none": head(b"Content-Length: 2x") + b"ok",
    "another coding": head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "a line end in a value": head(b"X: a\rSet-Cookie: b=c", b"Content-Length: 2") + b"ok",
    "LF in a value": head(b"X: a\nSet-Cookie: b=c", b"Content-Length: 2") + b"ok",
    "NUL in a value": head(b"X: a\0b", b"Content-Length: 2") + b"ok",
    "a folded value": head(b"X: a\r\n b", b"Content-Length: 2") + b"ok",
    "a space before the colon": head(b"Content-Length : 2") + b"ok",
    "a 101 that nobody asked for": head(b"Upgrade: x", b"Connection: upgrade", status=b"101 Go"),
    "another version": OK.replace(b"1.1", b"2.0"),
    "a status below 100": OK.replace(b"200", b"099"),
    "a huge head": head(*(b"X-%d: %b" % (at, b"y" * 1000) for at in range(100))) + b"",
    "too many fields": head(*(b"X: %d" % at for at in range(3000)), b"Content-Length: 2") + b"ok",
    "a line without an end": b"HTTP/1.1 200 " + b"O" * 100_000,
    "endless interim responses": head(b"Link: </a>", status=b"103 Early Hints") * 1000 + OK,
    "a 204 with a body": head(b"Content-Length: 4", status=b"204 No Content") + b"evil",
}


@pytest.mark.parametrize("answer", REFUSED)
@pytest_twisted.ensureDeferred
async def test_refused(proxied: Callable[..., Proxied], answer: str) -> None:
    """What can be read in two ways, or has no end, is a 502; and its connection is done."""
    there = proxied(always(REFUSED[answer]))
    received = await talk(there.port, GET + LAST)
    finals = [status for status in statuses(received) if status != 103]
    assert finals == [502, 502]
    assert b"evil" not in received.lower() and b"Set-Cookie" not in received
    codes = [error.code for error in there.upstream_errors]
    assert codes == ["ERR_UPSTREAM_RESPONSE"] * 2
    assert len(there.server.connections) == 2
    await until(lambda: len(there.server.ended) == 2)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("answer", REFUSED)
@pytest_twisted.ensureDeferred
async def test_refused_while_a_body_comes(
    proxied: Callable[..., Proxied], answer: str, tls: bool
) -> None:
    """So it is for a client that is still sending; and its server gets no end of the body."""
    ended: list[bool] = []

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.read(10)
        with suppress(OSError):
            connection.send(REFUSED[answer])
        ended.append(connection.read_all().endswith(b"0\r\n\r\n"))

    there = proxied(script, tls=server_context() if tls else None)
    chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n"
    received = await talk(there.port, chunks, b"x" * 0x20000, tls=tls)
    assert [status for status in statuses(received) if status != 103] == [502]
    assert b"evil" not in received.lower() and b"Set-Cookie" not in received
    assert [error.code for error in there.upstream_errors] == ["ERR_UPSTREAM_RESPONSE"]
    await until(lambda: there.server.ended)
    assert ended == [False]


#: Answers that break a rule whose meaning is one for everybody, and how they are passed on.
TOLERATED: Final = {
    "the same length twice": (head(b"Content-Length: 2", b"Content-Length: 2") + b"ok", b"ok"),
    "a list of one length": (head(b"Content-Length: 2, 2") + b"ok", b"ok"),
    "a 204 in chunks": (head(b"Transfer-Encoding: chunked", status=b"204 No") + b"0\r\n\r\n", b""),
    "a 304 in chunks": (head(b"Transfer-Encoding: chunked", status=b"304 No") + b"0\r\n\r\n", b""),
}


@pytest.mark.parametrize("answer", TOLERATED)
@pytest_twisted.ensureDeferred
async def test_tolerated(proxied: Callable[..., Proxied], answer: str) -> None:
    """They go on normalised, and so does the next request."""
    wire, body = TOLERATED[answer]
    there = proxied(always(wire))
    received = await talk(there.port, GET + LAST)
    assert statuses(received) == [int(wire[9:12])] * 2
    first = received.partition(b"\r\n\r\n")[0].lower()
    assert first.count(b"content-length") == bool(body) and b"2, 2" not in first
    assert b"transfer-encoding" not in first
    assert received.endswith(b"\r\n\r\n" + body)
    assert not there.upstream_errors


#: Answers that are broken once a part of them is with the client.
CUT: Final = {
    "a chunk that is none": CHUNKED + b"2\r\nok\r\nzz\r\n",
    "a chunk without its end": CHUNKED + b"2\r\nok" + EVIL,
    "a bomb of extensions": CHUNKED + b"2\r\nok\r\n" + b"1;" + b"x" * 200_000,
    "endless trailers": CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 50_000,
    "a trailer with a bare CR": CHUNKED + b"2\r\nok\r\n0\r\nX: y\rz\r\n\r\n",
    "a length in the trailers": CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 2\r\n\r\n",
    "too short a body": head(b"Content-Length: 20") + b"ok",
}


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
@pytest.mark.parametrize("answer", CUT)
@pytest_twisted.ensureDeferred
async def test_cut(proxied: Callable[..., Proxied], answer: str, http2: bool) -> None:
    """A body that breaks in the middle is seen by the client to be broken."""

    def script(connection: Connection) -> None:
        connection.read_head()
        with suppress(OSError):
            connection.send(CUT[answer])

    there = proxied(script, tls=server_context() if http2 else None)

    def ask() -> bool:
        if http2:
            client = H2Client(there.port)
            stream = client.answer(client.request(b"/"))
            client.close()
            return stream.reset is not None and not stream.ended
        plain = Client(there.port).send(GET)
        received = b""
        with suppress(ConnectionError):
            received = plain.read_all()
        plain.close()
        whole = received.endswith((b"\r\n0\r\n\r\n", b"Service.\r\n"))
        return not whole and statuses(received) in ([200], [502])

    assert await in_thread(ask)
    (error,) = there.upstream_errors
    expected = "ERR_UPSTREAM_RESET" if "short" in answer else "ERR_UPSTREAM_RESPONSE"
    assert error.code == expected


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD"])
@pytest_twisted.ensureDeferred
async def test_nobody_gets_anothers_answer(
    proxied: Callable[..., Proxied], method: bytes, late: bool
) -> None:
    """Bytes behind an answer are no answer to the next request, whoever sends it."""

    answered = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        while line := connection.read_head():
            answer = OK.removesuffix(b"ok") if line.startswith(b"HEAD") else OK
            if late:
                connection.send(answer)
                answered.acquire(timeout=PATIENCE)
                connection.send(EVIL)
            else:
                connection.send(answer + EVIL)

    there = proxied(script)
    for _ in range(3):
        received = await talk(
            there.port, LAST.replace(b"GET", method).replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n")
        )
        assert statuses(received) == [200] and b"vil" not in received
        if late:
            answered.release()
            await until(lambda: not there.proxy.pool._idle)
    assert len(there.server.connections) == 3


@pytest_twisted.ensureDeferred
async def test_what_waits_unread_is_no_answer(proxied: Callable[..., Proxied]) -> None:
    """An idle connection is looked at before it is used, not only when the reactor reads it."""
    there = proxied(always(OK))
    await talk(there.port, LAST)
    (kept,) = there.proxy.pool._idle
    kept.transport.pauseProducing()  # as if the reactor had not come to it yet
    there.server.connections[0].send(EVIL)
    await arrived(kept.transport.socket)
    received = await talk(there.port, LAST)
    assert statuses(received) == [200] and received.endswith(b"ok")
    assert len(there.server.connections) == 2


@pytest_twisted.ensureDeferred
async def test_connection_that_spoke_unasked_is_gone_at_once(
    proxied: Callable[..., Proxied],
) -> None:
    """No request can catch it between its bytes and its end."""
    there = proxied(always(OK))
    await talk(there.port, LAST)
    (kept,) = there.proxy.pool._idle
    kept.dataReceived(EVIL)
    assert not there.proxy.pool._idle


@pytest_twisted.ensureDeferred
async def test_stale_connection_is_noticed_before_a_post(proxied: Callable[..., Proxied]) -> None:
    """A POST, which is never sent twice, does not go out over a connection that has ended."""

    close = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(OK)
        close.wait(PATIENCE)

    there = proxied(script)
    post = LAST.replace(b"GET", b"POST")
    await talk(there.port, post)
    (kept,) = there.proxy.pool._idle
    kept.transport.pauseProducing()
    close.set()
    await arrived(kept.transport.socket)
    assert statuses(await talk(there.port, post)) == [200]


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\nX: ", b""], ids=["head", "interim"])
@pytest_twisted.ensureDeferred
async def test_slow_head(proxied: Callable[..., Proxied], part: bytes) -> None:
    """A head that comes byte by byte has as long as a head that comes at once."""
    going_on = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(part)
        for _ in range(3):
            going_on.acquire(timeout=PATIENCE)
            connection.send(b"x" if part else head(status=b"102 Processing"))
        connection.read_all()

    there = proxied(script)
    received = talk(there.port, LAST)
    (connection,) = await until(lambda: there.proxy.pool._all)

    async def drop() -> None:
        came = connection.bytes_received
        going_on.release()
        await until(lambda: connection.bytes_received > came)

    for _ in range(2):
        await drop()
        there.clock.wait(HEAD_SECONDS / 2 - 1)
    await drop()
    assert not there.upstream_errors
    there.clock.wait(3)
    assert statuses(await received)[-1] == 504
    assert [error.code for error in there.upstream_errors] == ["ERR_UPSTREAM_TIMEOUT"]
    await until(lambda: there.server.ended)


@pytest_twisted.ensureDeferred
async def test_limits_of_responses(proxied: Callable[..., Proxied]) -> None:
    """An operator whose application has larger heads can say so."""
    large = head(b"X: " + b"y" * 20_000, b"Content-Length: 2") + b"ok"
    assert statuses(await talk(proxied(always(large)).port, LAST)) == [502]
    there = proxied(always(large), limits=Limits(head_bytes=40_000))
    assert statuses(await talk(there.port, LAST)) == [200]


@pytest_twisted.ensureDeferred
async def test_long_upload_over_a_kept_connection(proxied: Callable[..., Proxied]) -> None:
    """The deadline of an idle connection ends when it is used, however long the request is."""
    taken: list[int] = []
    late = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(OK)
        connection.read_head()
        taken.append(len(connection.read(1_000_000)))
        late.wait(PATIENCE)
        taken.append(len(connection.read(19_000_000)))
        connection.send(OK)

    there = proxied(script, buffer_requests=True)
    await talk(there.port, LAST)
    received = talk(there.port, POST % 20_000_000, b"x" * 20_000_000)
    await until(lambda: taken)
    there.clock.wait(2 * IDLE_SECONDS)
    late.set()
    assert statuses(await received) == [200] and sum(taken) == 20_000_000
    assert len(there.server.connections) == 1


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_server_that_takes_no_upload(
    proxied: Callable[..., Proxied], tls: bool, held: bool
) -> None:
    """A server that stops reading is out of time, and the client is told."""

    answered = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        answered.wait(PATIENCE)

    there = proxied(script, tls=server_context() if tls else None, buffer_requests=held)
    received = talk(there.port, POST % 20_000_000, b"x" * 20_000_000, tls=tls)
    await until(lambda: there.server.connections and there.server.connections[0].received)
    await there.clock.wait_until(lambda: there.upstream_errors)
    assert statuses(await received) == [504]
    answered.set()
    assert [error.code for error in there.upstream_errors] == ["ERR_UPSTREAM_TIMEOUT"]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_answer_before_the_upload_is_read(
    proxied: Callable[..., Proxied], tls: bool, held: bool
) -> None:
    """An early refusal reaches the client; the connection, half used, does not live on."""

    answered = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(head(b"Content-Length: 3", status=b"413 Too much") + b"no!")
        answered.wait(PATIENCE)

    there = proxied(script, tls=server_context() if tls else None, buffer_requests=held)
    received = await talk(there.port, POST % 20_000_000, b"x" * 20_000_000, tls=tls)
    answered.set()
    assert statuses(received) == [413] and received.endswith(b"no!")
    assert not there.proxy.pool._idle


@pytest.mark.parametrize(
    "host, code", [("localhost", "CERTIFICATE_VERIFY_FAILED"), ("127.0.0.1", "ALTNAME_INVALID")]
)
@pytest_twisted.ensureDeferred
async def test_certificate_that_is_not_trusted(
    serve: Callable[..., Served], host: str, code: str
) -> None:
    """A server that cannot prove who it is gets no request, and the operator is told why."""
    server = serve(tls=server_context())
    proxy = ProxyResource(f"https://{host}:{server.port}")
    there = serve(proxy)
    errors: list[UpstreamError] = []
    there.site.journal.watch_upstream(errors.append)
    assert statuses(await talk(there.port, LAST)) == [502]
    (error,) = errors
    assert error.code == "ERR_UPSTREAM_REFUSED"
    assert isinstance(error.__cause__, ServerHangUp) and code in error.__cause__.code
    assert server.root.fast.ran == []
    await proxy.pool.close()
