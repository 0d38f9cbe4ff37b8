"""What ends an HTTP/2 connection is one client error, as it is over HTTP/1.1."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.certificates import server_context
from support.http2_client import (
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    H2Client,
    connection_of,
    fields_of,
    talk,
)
from support.processes import run
from support.wire import (
    HandClock,
    Paths,
    Serve,
    Served,
    filled,
    in_thread,
    settled,
    take_a_little,
    until,
    wait_for,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.web.server import Site
from twisted.web.static import Data

from twisted_hangup import (
    ClientFailure,
    ClientHangUp,
    ClientSocket,
    HangupChannel,
    HangupSite,
    HTTP2Error,
    Limits,
    RequestTimeout,
    Timeouts,
    TLSError,
    forward_client_errors,
)
from twisted_hangup.transport.layers import transport_beneath


@pytest_twisted.ensureDeferred
async def test_http2_is_served(serve_h2: Serve) -> None:
    """A client that negotiates HTTP/2 gets it, for many requests on one connection."""
    served = serve_h2()

    def run(client: H2Client) -> list[tuple[int | None, bytes]]:
        streams = [client.request() for _ in range(5)]
        client.answer(*streams)
        return [(client.stream(stream).status, client.stream(stream).body) for stream in streams]

    assert await talk(served.port, run) == [(200, b"fast")] * 5
    assert served.errors == []


class Broken(NamedTuple):
    """A way to break the connection."""

    why: str
    frames: Callable[[H2Client], bytes]
    name: str
    number: int
    phase: str = "idle"
    last_stream: int = 0


def _raw(*frames: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


def _unended(client: H2Client) -> HeadersFrame:
    frame = client.headers(fields_of())
    frame.flags.discard("END_HEADERS")
    return frame


def _answered(client: H2Client) -> int:
    """A stream whose response has come."""
    stream = client.request()
    client.answer(stream)
    return stream


BROKEN = [
    Broken("DATA on stream 0", lambda _: b"\0\0\0\0\0\0\0\0\0", "PROTOCOL_ERROR", 1),
    Broken("DATA on an idle stream", lambda _: _raw(DataFrame(9, b"a")), "PROTOCOL_ERROR", 1),
    Broken(
        "an even stream",
        lambda c: _raw(c.headers(fields_of(), stream=2)),
        "PROTOCOL_ERROR",
        1,
        "head",
    ),
    Broken(
        "a frame too large",
        lambda _: b"\0\x40\x01\x06\0\0\0\0\0" + bytes(0x4001),
        "FRAME_SIZE_ERROR",
        6,
    ),
    Broken(
        "a window too large",
        lambda _: _raw(WindowUpdateFrame(0, window_increment=2**31 - 1)),
        "FLOW_CONTROL_ERROR",
        3,
    ),
    Broken(
        "HPACK that is none",
        lambda _: b"\0\0\x01\x01\x05\0\0\0\x01\xff",
        "COMPRESSION_ERROR",
        9,
        "head",
    ),
    Broken(
        "a frame inside a field block",
        lambda c: _raw(_unended(c), PingFrame(0)),
        "PROTOCOL_ERROR",
        1,
        "head",
    ),
    Broken(
        "an endless field block",
        lambda c: _raw(_unended(c), *[ContinuationFrame(1, bytes(16384))] * 20),
        "ENHANCE_YOUR_CALM",
        11,
        "head",
    ),
    Broken(
        "a field list that unpacks to very much",
        lambda c: _raw(c.headers([(b"a", b"b" * 4000)] * 100)),
        "ENHANCE_YOUR_CALM",
        11,
        "head",
    ),
    Broken(
        "CONTINUATION after the response",
        lambda c: _raw(ContinuationFrame(_answered(c), flags=["END_HEADERS"])),
        "PROTOCOL_ERROR",
        1,
        last_stream=1,
    ),
    Broken("garbage", lambda _: b"*" * 100, "FRAME_SIZE_ERROR", 6),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.why)
@pytest_twisted.ensureDeferred
async def test_connection_error(serve_h2: Serve, broken: Broken) -> None:
    """It is one HTTP2Error, told by GOAWAY and a close that the client can read."""
    served = serve_h2()

    def run(client: H2Client) -> H2Client:
        client.until(lambda: client.settings)
        return client.raw(broken.frames(client)).to_the_end()

    client = await talk(served.port, run)
    (error,) = served.errors
    assert isinstance(error, HTTP2Error)
    assert (error.code, error.phase) == (f"ERR_HTTP2_{broken.name}", broken.phase)
    assert (error.status, error.raw_packet, error.bytes_parsed) == (None, None, None)
    assert " " in error.reason and "<" not in error.reason
    assert error.peer.host == "127.0.0.1"
    assert (client.goaways, client.closed) == ([(broken.number, broken.last_stream)], "end")
    await served.emptied()


@pytest_twisted.ensureDeferred
async def test_broken_preface(serve_h2: Serve) -> None:
    """A client that negotiates HTTP/2 and then speaks HTTP/1.1 is told in HTTP/2."""
    served = serve_h2()
    client = await talk(
        served.port,
        lambda c: c.raw(b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n").to_the_end(),
        preface=False,
    )
    assert client.goaways == [(PROTOCOL_ERROR, 0)]
    assert served.codes == ["ERR_HTTP2_PROTOCOL_ERROR"]
    assert served.root.fast.ran == []


@pytest_twisted.ensureDeferred
async def test_nothing_after_the_error_is_run(serve_h2: Serve) -> None:
    """Requests after a connection error are not run, in whichever read they come."""
    served = serve_h2()

    def run(client: H2Client) -> H2Client:
        good = _raw(client.headers(fields_of()))
        client.raw(_raw(DataFrame(9, b"a")) + good)
        with suppress(OSError):
            wait_for(lambda: served.errors)
            for _ in range(5):
                client.request()
        return client.to_the_end()

    await talk(served.port, run)
    assert served.codes == ["ERR_HTTP2_PROTOCOL_ERROR"]
    assert served.root.fast.ran == []


@pytest_twisted.ensureDeferred
async def test_connection_error_while_a_request_runs(serve_h2: Serve) -> None:
    """The running requests are cancelled, and the error names one of them."""
    served = serve_h2()

    def run(client: H2Client) -> H2Client:
        client.request(b"/slow?1")
        client.request(b"/slow?2")
        wait_for(lambda: len(served.root.slow.requests) == 2)
        return client.send(DataFrame(9, b"a")).to_the_end()

    client = await talk(served.port, run)
    (error,) = served.errors
    assert (error.phase, error.code) == ("response", "ERR_HTTP2_PROTOCOL_ERROR")
    assert error.request is not None and error.request.target == b"/slow?1"
    assert client.goaways == [(PROTOCOL_ERROR, 3)]
    assert len(served.root.slow.gone) == 2
    for gone in served.root.slow.gone:
        assert gone.check(ConnectionLost) and gone.check(ConnectionDone)
        assert gone.value.__cause__ is error


class Noting(HangupChannel):
    """A channel that answers by itself."""

    def client_error(self, failure: ClientFailure, socket: ClientSocket) -> Any:
        noted.append((failure.value, socket.writable, socket.secure))
        socket.write(b"not frames")
        return super().client_error(failure, socket)


noted: list[tuple[Any, bool, bool]] = []


@pytest.mark.parametrize("own_site", [False, True])
@pytest_twisted.ensureDeferred
async def test_hook_and_handlers(serve_h2: Serve, own_site: bool) -> None:
    """The hook of the channel class and the handlers see it, and can write nothing."""
    noted.clear()
    seen: list[Any] = []
    root = Paths()

    def answer(failure: Failure, socket: ClientSocket) -> bytes:
        seen.append(failure.value)
        socket.respond(400, b"not frames either")
        return b"nor this"

    if own_site:
        site: Any = Site(root)
        forward_client_errors(site, channel=Noting).add(answer)
    else:
        site = HangupSite(root, channel=Noting)
        site.on_client_error(answer)
    served = serve_h2(site)
    client = await talk(served.port, lambda c: c.send(DataFrame(9, b"a")).to_the_end())
    ((error, writable, secure),) = noted
    assert (writable, secure) == (False, True)
    assert seen == [error]
    assert (client.goaways, client.closed, client._input) == ([(PROTOCOL_ERROR, 0)], "end", b"")
    await settled()


@pytest_twisted.ensureDeferred
async def test_handler_that_waits(serve_h2: Serve) -> None:
    """The connection is closed when the handler has done its work."""
    served = serve_h2()
    waiting: Deferred[None] = Deferred()
    statuses: list[Any] = []
    served.site.journal.watch_settled(lambda error, status: statuses.append(status))

    @served.site.on_client_error
    async def wait(failure: Failure, socket: ClientSocket) -> None:
        await waiting
        socket.end()

    done = talk(served.port, lambda c: c.send(DataFrame(9, b"a")).to_the_end())
    await until(lambda: served.errors)
    await settled()
    assert served.codes == ["ERR_HTTP2_PROTOCOL_ERROR"] and statuses == []
    waiting.callback(None)
    client = await done
    assert (client.goaways, client.closed) == ([(PROTOCOL_ERROR, 0)], "end")
    assert statuses == [None]


@pytest_twisted.ensureDeferred
async def test_what_was_sent_before_is_not_lost(serve_h2: Serve) -> None:
    """A response on its way arrives, though the client sends much after its own mistake."""
    page = bytes(range(256)) * 128
    served = serve_h2(Paths(page=Data(page, "text/plain")))

    def run(client: H2Client) -> H2Client:
        client.request(b"/page")
        client.until(lambda: client.stream(1).status)
        client.send(DataFrame(9, b"a"))
        with suppress(OSError):
            for _ in range(64):
                client.raw(bytes(65536))
        return client.to_the_end()

    client = await talk(served.port, run)
    assert client.stream(1).body == page
    assert client.goaways == [(PROTOCOL_ERROR, 1)]


# The client leaves.


def _notify(client: H2Client) -> None:
    assert isinstance(client.client.socket, ssl.SSLSocket)
    with suppress(OSError):
        client.client.socket.unwrap()


LEAVE: dict[str, Callable[[H2Client], object]] = {
    "reset": lambda client: client.client.reset(),
    "fin": lambda client: client.client.end(),
    "close_notify": _notify,
}


@pytest.mark.parametrize("leave", list(LEAVE))
@pytest_twisted.ensureDeferred
async def test_client_leaves_while_requests_run(serve_h2: Serve, leave: str) -> None:
    """One hang-up, however many requests were running; each of them is cancelled."""
    served = serve_h2()

    def run(client: H2Client) -> None:
        client.request(b"/slow?1")
        client.request(b"/slow?2")
        wait_for(lambda: len(served.root.slow.requests) == 2)
        LEAVE[leave](client)

    await talk(served.port, run)
    await served.emptied()
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code, error.phase) == ("ECONNRESET", "response")
    assert [gone.value.__cause__ for gone in served.root.slow.gone] == [error, error]


@pytest.mark.parametrize("leave", list(LEAVE))
@pytest_twisted.ensureDeferred
async def test_client_leaves_in_a_request_body(serve_h2: Serve, leave: str) -> None:
    """The phase is that of the request which was not complete, and it is not run."""
    served = serve_h2()

    def run(client: H2Client) -> None:
        stream = client.request(end=False, method=b"POST")
        client.data(stream, b"abc", end=False).ping()
        LEAVE[leave](client)

    await talk(served.port, run)
    await served.emptied()
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.phase, error.request and error.request.target) == ("body", b"/fast")
    assert served.root.fast.ran == []


@pytest.mark.parametrize("leave", ["fin", "close_notify"])
@pytest_twisted.ensureDeferred
async def test_client_leaves_between_requests(serve_h2: Serve, leave: str) -> None:
    """That is a normal end."""
    served = serve_h2()

    def run(client: H2Client) -> None:
        client.answer(client.request())
        LEAVE[leave](client)

    await talk(served.port, run)
    await served.emptied()
    assert served.errors == []


@pytest.mark.parametrize("leave, codes", [("reset", ["ECONNRESET"]), ("fin", [])])
@pytest_twisted.ensureDeferred
async def test_idle_client_leaves_an_endpoint(serve: Serve, leave: str, codes: list[str]) -> None:
    """On an endpoint of ours a reset is told from an end, also where nothing runs."""
    from twisted.internet import reactor

    endpoint = SSL4ServerEndpoint(reactor, 0, server_context(), interface="127.0.0.1")
    served = serve(endpoint=endpoint)

    def run(client: H2Client) -> None:
        client.answer(client.request())
        LEAVE[leave](client)

    await talk(served.port, run)
    await served.emptied()
    assert served.codes == codes
    assert [error.phase for error in served.errors] == ["idle"] * len(codes)


@pytest_twisted.ensureDeferred
async def test_corrupt_record(serve_h2: Serve) -> None:
    """What is no TLS any more is a TLSError, and a hang-up for what runs."""
    served = serve_h2()

    def run(client: H2Client) -> None:
        client.request(b"/slow")
        wait_for(lambda: served.root.slow.requests)
        os.write(client.client.socket.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        client.to_the_end()

    await talk(served.port, run)
    await served.emptied()
    (error,) = served.errors
    assert isinstance(error, TLSError)
    assert error.phase == "response" and error.code.startswith("ERR_SSL_")
    assert [gone.value.__cause__ for gone in served.root.slow.gone] == [error]


@pytest_twisted.ensureDeferred
async def test_goaway_of_the_client(serve_h2: Serve) -> None:
    """GOAWAY without an error: what runs is still answered, then the connection ends."""
    served = serve_h2()

    client = await in_thread(lambda: H2Client(served.port))
    started = served.root.slow.started
    await in_thread(lambda: client.request(b"/slow"))
    request = await started
    goaway = GoAwayFrame(0), WindowUpdateFrame(0, window_increment=10)
    await in_thread(lambda: client.send(*goaway).ping())
    request.write(b"at last")
    request.finish()
    await in_thread(client.to_the_end)
    client.close()
    assert (client.stream(1).status, client.stream(1).body) == (200, b"at last")
    assert (client.closed, served.errors, served.root.slow.gone) == ("end", [], [])


@pytest_twisted.ensureDeferred
async def test_goaway_with_an_error(serve_h2: Serve) -> None:
    """GOAWAY with an error is a hang-up of what runs, and nothing where nothing runs."""
    served = serve_h2()
    await talk(served.port, lambda c: c.send(GoAwayFrame(0, error_code=2)).to_the_end())
    assert served.errors == []

    def run(client: H2Client) -> H2Client:
        client.request(b"/slow")
        wait_for(lambda: served.root.slow.requests)
        return client.send(GoAwayFrame(0, error_code=2)).to_the_end()

    await talk(served.port, run)
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.reason, error.phase) == ("GOAWAY: INTERNAL_ERROR", "response")
    assert len(served.root.slow.gone) == 1


# Time.


def on_clock(serve_h2: Serve, what: Any = None, **arguments: Any) -> tuple[Served, HandClock]:
    """A site, and the clock by which it serves."""
    clock = HandClock()
    return serve_h2(what, reactor=clock, **arguments), clock


@pytest_twisted.ensureDeferred
async def test_slow_request_is_not_killed(serve_h2: Serve) -> None:
    """A response may take longer than any deadline; stock Twisted gives it 60 seconds."""
    served, clock = on_clock(serve_h2)
    started = served.root.slow.started
    done = talk(served.port, lambda c: c.answer(c.request(b"/slow")))
    request = await started
    clock.wait(3600)
    request.finish()
    assert (await done).status == 200
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_idle_connection(serve_h2: Serve) -> None:
    """An idle connection is closed quietly, and PINGs do not keep it open."""
    served, clock = on_clock(serve_h2)
    client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.answer(client.request()))
    for _ in range(8):
        clock.wait(8)
        await in_thread(client.ping)
    assert client.goaways == []
    clock.wait(3)
    await in_thread(client.to_the_end)
    client.close()
    assert client.goaways == [(NO_ERROR, 1)]
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_connection_without_a_request(serve_h2: Serve) -> None:
    """A browser that connects ahead of its requests is idle, and given the keep-alive time."""
    served, clock = on_clock(serve_h2, timeouts=Timeouts(head_seconds=10))
    client = await in_thread(lambda: H2Client(served.port).ping())
    clock.wait(Timeouts().keep_alive_seconds - 1)
    assert served.site.open_connections == 1
    clock.wait(2)
    await in_thread(client.to_the_end)
    client.close()
    assert (client.goaways, served.errors) == ([(NO_ERROR, 0)], [])


@pytest.mark.parametrize("sent, phase", [(b"", "idle"), (PREFACE[:5], "head")])
@pytest_twisted.ensureDeferred
async def test_no_preface(serve_h2: Serve, sent: bytes, phase: str) -> None:
    """A client that agrees on HTTP/2 and never begins is a RequestTimeout without HTTP/1."""
    served, clock = on_clock(serve_h2)
    client = await in_thread(lambda: H2Client(served.port, preface=False).raw(sent))
    await until(lambda: [each.phase for each in served.site.context.open()] == [phase])
    await clock.wait_until(lambda: served.errors)
    await in_thread(client.to_the_end)
    client.close()
    (error,) = served.errors
    assert isinstance(error, RequestTimeout)
    assert (error.phase, error.status) == (phase, None)
    assert (client.closed, client._input) == ("end", b"")


@pytest_twisted.ensureDeferred
async def test_header_block_that_dribbles(serve_h2: Serve) -> None:
    """A field block that does not end in time costs the connection, whatever else runs."""
    served, clock = on_clock(serve_h2)
    client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.request(b"/slow"))
    for byte in _raw(client.headers(fields_of()))[:-1]:
        await in_thread(partial(client.raw, bytes([byte])))
        await settled()
        clock.wait(8)
        if served.errors:
            break
    await in_thread(client.to_the_end)
    client.close()
    (error,) = served.errors
    assert (error.code, error.phase) == ("ERR_HTTP2_ENHANCE_YOUR_CALM", "response")
    assert client.goaways == [(ENHANCE_YOUR_CALM, 1)]


@pytest_twisted.ensureDeferred
async def test_header_block_across_the_idle_deadline(serve_h2: Serve) -> None:
    """It is waited for; the connection is idle again when its request was refused."""
    served, clock = on_clock(serve_h2, timeouts=Timeouts(keep_alive_seconds=10))
    client = await in_thread(lambda: H2Client(served.port))
    data = _raw(client.headers(fields_of(b"/a b")))
    await in_thread(lambda: client.raw(data[:15]))
    channel = await connection_of(served)
    await until(lambda: channel.phase == "head")
    clock.wait(50)
    await in_thread(lambda: client.raw(data[15:]).answer(1))
    assert client.stream(1).status == 400
    await settled()
    clock.wait(12)
    await in_thread(client.to_the_end)
    client.close()
    assert (client.goaways, client.closed) == ([(NO_ERROR, 1)], "end")


@pytest_twisted.ensureDeferred
async def test_slow_request_body(serve_h2: Serve) -> None:
    """A request that is not complete in time is answered 408; the others go on."""
    served, clock = on_clock(serve_h2)
    client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.request(b"/slow"))
    stream = await in_thread(lambda: client.request(end=False, method=b"POST"))
    for _ in range(7):
        assert served.errors == []
        await in_thread(lambda: client.data(stream, b"a", end=False).ping())
        clock.wait(45)
    await in_thread(lambda: client.answer(stream))
    assert (await in_thread(lambda: client.answer(client.request()))).status == 200
    client.close()
    assert (client.stream(3).status, client.stream(3).reset) == (408, NO_ERROR)
    assert [type(error) for error in served.errors[:1]] == [RequestTimeout]
    assert served.errors[0].phase == "body"


@pytest.mark.parametrize("how", ["window", "tcp"])
@pytest_twisted.ensureDeferred
async def test_client_that_takes_nothing(serve_h2: Serve, how: str) -> None:
    """Neither reading nor opening the window, while data waits, is given up."""
    served, clock = on_clock(serve_h2, Paths(page=Data(bytes(8_000_000), "text/plain")))
    big = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30} if how == "tcp" else None

    def run() -> H2Client:
        client = H2Client(served.port, windows=False, settings=big, receive_buffer=16 * 1024)
        if big:
            client.send(WindowUpdateFrame(0, window_increment=2**30))
        client.request(b"/page")
        return client

    client = await in_thread(run)
    await until(lambda: [each.phase for each in served.site.context.open()] == ["response"])
    reads = succeed(client) if big else in_thread(client.to_the_end)
    await clock.wait_until(lambda: served.site.open_connections == 0)
    await reads
    (error,) = served.errors
    assert isinstance(error, ClientHangUp)
    assert (error.code, error.reason, error.phase) == ("ETIMEDOUT", "write ETIMEDOUT", "response")
    client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_takes_little(serve_h2: Serve) -> None:
    """What it takes of the kernel's counts, although the kernel takes no more for long."""
    served, clock = on_clock(serve_h2, Paths(page=Data(bytes(8_000_000), "text/plain")))

    def run() -> H2Client:
        big = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}
        client = H2Client(served.port, windows=False, settings=big, receive_buffer=16 * 1024)
        client.send(WindowUpdateFrame(0, window_increment=2**30))
        client.request(b"/page")
        return client

    client = await in_thread(run)
    await until(lambda: [each.phase for each in served.site.context.open()] == ["response"])
    connection = await connection_of(served)
    socket = transport_beneath(connection.transport)
    await filled(socket)
    for _ in range(4):
        clock.wait(Timeouts().send_seconds - 1)
        await take_a_little(lambda: client.client.socket.recv(4096), socket)
    assert served.site.open_connections == 1
    client.close()


# Closing.


@pytest_twisted.ensureDeferred
async def test_drain(serve_h2: Serve) -> None:
    """drain() says GOAWAY, finishes what runs, takes nothing new, and closes."""
    served = serve_h2()

    client = await in_thread(lambda: H2Client(served.port))
    started = served.root.slow.started
    await in_thread(lambda: client.request(b"/slow"))
    request = await started
    assert served.site.open_connections == 1
    drained = served.site.drain()
    await in_thread(lambda: client.until(lambda: client.goaways))
    await in_thread(lambda: client.answer(client.request()))
    assert not drained.called
    request.finish()
    await in_thread(client.to_the_end)
    client.close()
    await drained
    assert client.goaways == [(NO_ERROR, 1)]
    assert (client.stream(1).status, client.stream(3).reset) == (200, REFUSED_STREAM)
    assert client.closed == "end"
    assert served.root.fast.ran == []


@pytest_twisted.ensureDeferred
async def test_drain_waits_for_no_idle_client(serve_h2: Serve) -> None:
    """Without a request a connection is closed at once, though its client keeps it open."""
    served = serve_h2(reactor=HandClock())  # which stands
    client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.answer(client.request()))
    await served.site.drain()
    await in_thread(client.to_the_end)
    client.close()
    assert client.goaways == [(NO_ERROR, 1)]


@pytest_twisted.ensureDeferred
async def test_drain_before_the_first_frame(serve_h2: Serve) -> None:
    """A client that drain() finds between the handshake and its preface is served no more."""
    served = serve_h2()
    client = await in_thread(lambda: H2Client(served.port, preface=False))
    (channel,) = served.site.context.open()
    await until(lambda: channel.phase == "idle")  # the handshake is over
    drained = served.site.drain()

    def run() -> None:
        with suppress(OSError):
            client.raw(PREFACE).send(SettingsFrame(0))
            client.request()
            client.to_the_end()
        client.close()

    await in_thread(run)
    await drained
    assert served.root.fast.ran == [] and served.errors == []


#: The last stream of a GOAWAY that refuses none.
ANY = 2**31 - 1


@pytest_twisted.ensureDeferred
async def test_retire(serve_h2: Serve) -> None:
    """A stream on its way is served: its GOAWAY comes after a PING and its acknowledgement."""
    served = serve_h2(reactor=HandClock())
    client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.answer(client.request()))
    served.site.retire()
    last = await in_thread(client.request)  # it has not read the first GOAWAY
    await in_thread(lambda: client.answer(last))
    await in_thread(client.to_the_end)
    client.close()
    assert client.goaways == [(NO_ERROR, ANY), (NO_ERROR, last)]
    assert client.stream(last).status == 200
    assert client.closed == "end"
    assert served.errors == []
    await served.emptied()


@pytest_twisted.ensureDeferred
async def test_retire_while_a_request_runs(serve_h2: Serve) -> None:
    """It is finished; a stream that comes after the acknowledgement may be repeated elsewhere."""
    served = serve_h2(reactor=HandClock())
    client = await in_thread(lambda: H2Client(served.port))
    started = served.root.slow.started
    await in_thread(lambda: client.request(b"/slow"))
    request = await started
    served.site.retire()
    served.site.retire()
    await in_thread(lambda: client.until(lambda: len(client.goaways) == 2))
    await in_thread(lambda: client.answer(client.request()))
    request.finish()
    await in_thread(client.to_the_end)
    client.close()
    assert client.goaways == [(NO_ERROR, ANY), (NO_ERROR, 1)]
    assert (client.stream(1).status, client.stream(3).reset) == (200, REFUSED_STREAM)
    assert client.pinged == 1


@pytest_twisted.ensureDeferred
async def test_retire_before_the_first_request(serve_h2: Serve) -> None:
    """The connection goes on to its first request."""
    served = serve_h2(reactor=HandClock())
    before = await in_thread(lambda: H2Client(served.port).ping())
    served.site.retire()
    for client in (before, await in_thread(lambda: H2Client(served.port).ping())):
        assert client.goaways == []
        await in_thread(client.request)
        await in_thread(client.to_the_end)
        client.close()
        assert client.goaways == [(NO_ERROR, ANY), (NO_ERROR, 1)]
        assert client.stream(1).status == 200


@pytest_twisted.ensureDeferred
async def test_retire_without_an_acknowledgement(serve_h2: Serve) -> None:
    """The second GOAWAY comes after some seconds all the same."""
    served, clock = on_clock(serve_h2)
    client = await in_thread(lambda: H2Client(served.port))
    await in_thread(lambda: client.answer(client.request()))
    served.site.retire()
    await settled()
    clock.wait(4)
    connection = await connection_of(served)
    assert not connection.closing
    clock.wait(2)
    assert connection.closing
    await in_thread(client.to_the_end)
    client.close()
    assert client.goaways == [(NO_ERROR, ANY), (NO_ERROR, 1)]


@pytest_twisted.ensureDeferred
async def test_control_frames_are_sent_once(serve_h2: Serve) -> None:
    """What waited for room when an error came is not sent again while a handler thinks."""
    served = serve_h2()

    @served.site.on_client_error
    async def think(failure: Failure, socket: ClientSocket) -> Failure:
        connection.resumeProducing()
        await settled()
        return failure

    client = await in_thread(lambda: H2Client(served.port).until(lambda: True))
    await in_thread(lambda: client.answer(client.request()))
    connection = await connection_of(served)
    connection.pauseProducing()
    client.send(PingFrame(0, opaque_data=b"12345678"))
    await settled()
    await in_thread(lambda: client.send(DataFrame(9, b"a")).to_the_end())
    client.close()
    assert client.pings == [b"12345678"]
    assert len(client.goaways) == 1


@pytest_twisted.ensureDeferred
async def test_hang_up_all(serve_h2: Serve) -> None:
    """hang_up_all() aborts, and cancels what runs; nobody's client is to blame."""
    served = serve_h2()
    done = talk(served.port, lambda c: [c.request(b"/slow"), c.to_the_end()])
    await served.root.slow.started
    served.site.hang_up_all()
    await done
    await served.emptied()
    assert len(served.root.slow.gone) == 1
    assert served.errors == []


@pytest_twisted.ensureDeferred
async def test_client_that_ignores_the_close(serve_h2: Serve) -> None:
    """What became of the error is told at once; the client is left when it lingers too long."""
    served, clock = on_clock(serve_h2)
    codes: list[str] = []
    served.site.journal.watch_settled(lambda error, status: codes.append(error.code))
    client = await in_thread(lambda: H2Client(served.port).send(DataFrame(9, b"a")).to_the_end())
    assert codes == ["ERR_HTTP2_PROTOCOL_ERROR"]
    clock.wait(Timeouts().linger_silence_seconds - 1)
    assert served.site.open_connections == 1
    await clock.wait_until(lambda: served.site.open_connections == 0)
    client.close()


@pytest_twisted.ensureDeferred
async def test_announced_settings(serve_h2: Serve) -> None:
    """The client is told how long its field list may be."""
    served = serve_h2(limits=Limits(head_bytes=1000, head_fields=10))
    client = await talk(served.port, lambda c: c.until(lambda: c.settings))
    assert client.settings[SettingsFrame.MAX_HEADER_LIST_SIZE] == 1320


def test_without_the_extra() -> None:
    """Where h2 is not installed, everything else works."""
    program = (
        "import sys; sys.modules['h2'] = None; import twisted_hangup; "
        "sys.exit('twisted_hangup.server.http2.connection' in sys.modules)"
    )
    assert run("python", "-c", program).returncode == 0
