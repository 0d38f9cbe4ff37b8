"""Frames without end cost the connection that sends them, and nobody else."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from hyperframe.frame import (
    AltSvcFrame,
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.cleanliness import LoggedErrors
from support.http2_client import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PREFACE,
    REFUSED_STREAM,
    H2Client,
    Stream,
    fields_of,
    talk,
)
from support.processes import running
from support.wire import PATIENCE, Paths, Serve, Served, Slow, in_thread, until
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.static import Data, File

from twisted_hangup import HangupSite, HTTP2Error, Limits
from twisted_hangup.server.bodies import MOST_IN_MEMORY
from twisted_hangup.server.context import MoreStreams
from twisted_hangup.server.http2.connection import MOST_QUEUED, MOST_REFUSED, SLICE, HangupHTTP2
from twisted_hangup.server.http2.frames import MOST_STREAMS, MOST_UNREAD, STREAM_WINDOW
from twisted_hangup.server.http2.stream import HangupStream

#: Frames that a client may send for nothing.
AT_ONCE, PER_SECOND = 1000, 33


class Flood(NamedTuple):
    """Frames that do nothing: what comes before them, and one of them."""

    why: str
    frames: Callable[[H2Client, int], list[Frame]]


def _upload(client: H2Client) -> int:
    return client.request(b"/fast", method=b"POST", end=False)


def _acknowledged(frame: Frame) -> Frame:
    frame.flags.add("ACK")
    return frame


class PriorityUpdate(Frame):
    """Of RFC 9218, which browsers send."""

    type = 16

    def serialize_body(self) -> bytes:
        return b"\0\0\0\1u=1"


def _padding(client: H2Client, count: int) -> list[Frame]:
    frame = DataFrame(_upload(client), b"", pad_length=30)
    frame.flags.add("PADDED")
    return [frame] * count


def _windows(client: H2Client, count: int) -> list[Frame]:
    """SETTINGS that change the window of every stream, to and fro."""
    sizes = [65534, 65535]
    return [SettingsFrame(0, settings={4: sizes[each % 2]}) for each in range(count)]


def _of_closed_stream(client: H2Client, kind: Any, **arguments: Any) -> Frame:
    stream = client.request()
    client.answer(stream)
    frame: Frame = kind(stream, **arguments)
    return frame


def _reset_stream(client: H2Client) -> int:
    """One that was reset so long ago that h2 has nothing but its number."""
    stream = client.request(b"/slow")
    client.send(RstStreamFrame(stream, error_code=CANCEL))
    client.answer(client.request())
    client.answer(client.request())
    return stream


def _empty_continuations(client: H2Client, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        head = client.headers(fields_of())
        head.flags.discard("END_HEADERS")
        last = ContinuationFrame(head.stream_id)
        last.flags.add("END_HEADERS")
        frames += [head, *[ContinuationFrame(head.stream_id)] * 60, last]
    return frames


FLOODS = [
    Flood("SETTINGS", lambda _, n: [SettingsFrame(0)] * n),
    Flood("SETTINGS that change the windows", _windows),
    Flood("acknowledgements of SETTINGS", lambda _, n: [_acknowledged(SettingsFrame(0))] * n),
    Flood("PING", lambda _, n: [PingFrame(0)] * n),
    Flood("acknowledgements of PING", lambda _, n: [_acknowledged(PingFrame(0))] * n),
    Flood("WINDOW_UPDATE", lambda _, n: [WindowUpdateFrame(0, window_increment=1)] * n),
    Flood("WINDOW_UPDATE of a stream", lambda c, n: [WindowUpdateFrame(_upload(c), 1)] * n),
    Flood(
        "WINDOW_UPDATE of a closed stream",
        lambda c, n: [_of_closed_stream(c, WindowUpdateFrame, window_increment=1)] * n,
    ),
    Flood("empty DATA", lambda c, n: [DataFrame(_upload(c))] * n),
    Flood("DATA that is padding", _padding),
    Flood("PRIORITY", lambda _, n: [PriorityFrame(1, depends_on=3)] * n),
    Flood("PRIORITY_UPDATE", lambda _, n: [PriorityUpdate(0)] * n),
    Flood("ALTSVC", lambda _, n: [AltSvcFrame(0, b"a", b"b")] * n),
    Flood("frames of no known type", lambda _, n: [ExtensionFrame(200, 0, 0, body=b"")] * n),
    Flood(
        "RST_STREAM of a closed stream",
        lambda c, n: [_of_closed_stream(c, RstStreamFrame, error_code=CANCEL)] * n,
    ),
    Flood("RST_STREAM of no stream", lambda _, n: [RstStreamFrame(99, error_code=CANCEL)] * n),
    Flood(
        "HEADERS of a stream that was reset",
        lambda c, n: [c.headers(fields_of(), stream=_reset_stream(c))] * n,
    ),
    Flood("GOAWAY", lambda _, n: [GoAwayFrame(0)] * n),
    Flood("empty CONTINUATION", _empty_continuations),
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.why)
@pytest_twisted.ensureDeferred
async def test_frames_that_do_nothing(serve_h2: Serve, flood: Flood) -> None:
    """A thousand are let pass, and not many more: then it is one HTTP2Error."""
    served = serve_h2()

    def run(client: H2Client) -> bool:
        client.request(b"/slow")
        client.send(*flood.frames(client, AT_ONCE - 50)).ping()
        alive = served.errors == []
        with suppress(OSError):
            client.send(*flood.frames(client, 200))
        client.to_the_end()
        return alive and client.goaways[-1][0] == ENHANCE_YOUR_CALM

    assert await talk(served.port, run)
    (error,) = served.errors
    assert isinstance(error, HTTP2Error)
    assert (error.code, error.phase) == ("ERR_HTTP2_ENHANCE_YOUR_CALM", "response")
    assert error.reason == "Too many frames that do nothing"
    await served.emptied()


@pytest_twisted.ensureDeferred
async def test_frames_at_a_human_rate(serve_h2: Serve) -> None:
    """Who types into a request does so for as long as they like."""
    served = serve_h2()
    clock: Any = served.site.reactor
    client = await in_thread(lambda: H2Client(served.port))
    upload = await in_thread(lambda: _upload(client))
    keys = [DataFrame(upload, b"a")] * (PER_SECOND - 3)
    for _ in range(100):
        await in_thread(lambda: client.send(*keys).ping())
        clock.wait(1)
    stream = await in_thread(lambda: client.data(upload, b"").answer(upload))
    assert (stream.status, served.errors) == (200, [])
    client.close()


@pytest_twisted.ensureDeferred
async def test_body_of_small_pieces(serve_h2: Serve) -> None:
    """A program may write its body a byte at a time, as Node sends it."""
    served = serve_h2()
    count = 3 * AT_ONCE

    def run(client: H2Client) -> Stream:
        upload = _upload(client)
        return client.send(*[DataFrame(upload, b"a")] * count).data(upload, b"").answer(upload)

    assert (await talk(served.port, run)).status == 200
    assert served.errors == []


@pytest.mark.parametrize("pieces", [2000, 2700])
@pytest_twisted.ensureDeferred
async def test_body_under_way_when_its_stream_is_reset(serve_h2: Serve, pieces: int) -> None:
    """What the client had a window for is no flood, and is not answered; more of it is."""
    limits = Limits(body_bytes=100, linger_bytes=100)
    served = serve_h2(limits=limits)
    size = 100
    under_way = pieces * size <= STREAM_WINDOW

    def run(client: H2Client) -> tuple[H2Client, int]:
        upload = _upload(client)
        with suppress(OSError):
            client.send(*[DataFrame(upload, bytes(size))] * pieces)
            client.send(*[DataFrame(upload, bytes(size))] * (0 if under_way else AT_ONCE))
        client.answer(client.request())
        return client, upload

    client, upload = await talk(served.port, run)
    stream = client.stream(upload)
    assert (stream.status, stream.reset) == (413, NO_ERROR)
    assert (client.goaways == []) is under_way
    assert (client.resets == 1) is under_way


class Chatty(Resource):
    """Writes a few bytes at a time."""

    isLeaf = True

    def render(self, request: Request) -> int:
        for _ in range(1500):
            request.write(b"an event")
        request.finish()
        return NOT_DONE_YET


@pytest_twisted.ensureDeferred
async def test_windows_for_what_we_sent(serve_h2: Serve) -> None:
    """A client that gives back each byte as it reads it, twice, sends nothing in vain."""
    served = serve_h2(Paths(chatty=Chatty(), page=Data(bytes(10**6), "text/plain")))

    def run(client: H2Client) -> list[int]:
        pages = [client.answer(client.request(b"/chatty")), client.answer(client.request(b"/page"))]
        return [len(page.body) for page in pages]

    assert await talk(served.port, run) == [1500 * 8, 10**6]
    assert served.errors == []


def _has(stream: Stream, size: int) -> bool:
    return len(stream.body) >= size


@pytest_twisted.ensureDeferred
async def test_window_that_drips(serve_h2: Serve) -> None:
    """A client that takes a response byte by byte is no better than one that takes none."""
    served = serve_h2(Paths(page=Data(bytes(10**6), "text/plain")))

    def run(client: H2Client) -> int:
        stream = client.request(b"/page")
        page = client.stream(stream)
        with suppress(OSError):
            for size in range(AT_ONCE + 100):
                update = WindowUpdateFrame(stream, window_increment=1)
                client.send(update).until(partial(_has, page, size + 1))
        return len(page.body)

    windows = {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
    assert AT_ONCE <= await talk(served.port, run, settings=windows, windows=False) <= AT_ONCE + 20
    assert served.codes == ["ERR_HTTP2_ENHANCE_YOUR_CALM"]


@pytest_twisted.ensureDeferred
async def test_frames_of_requests(serve_h2: Serve) -> None:
    """A window and a priority for each of very many requests are nothing out of the ordinary."""
    served = serve_h2()

    def run(client: H2Client) -> list[int | None]:
        answers = []
        for _ in range(30):
            heads = [client.headers(fields_of()) for _ in range(50)]
            frames: list[Frame] = []
            for head in heads:
                window = WindowUpdateFrame(head.stream_id, window_increment=10**6)
                frames += [PriorityFrame(head.stream_id), head, window]
            streams = [head.stream_id for head in heads]
            client.send(*frames).answer(*streams)
            answers += [client.stream(stream).status for stream in streams]
        return answers

    assert await talk(served.port, run) == [200] * 1500
    assert served.errors == []


# Streams.


@pytest_twisted.ensureDeferred
async def test_more_streams_than_announced(serve_h2: Serve) -> None:
    """One stream too many is refused, and those that are open do not notice."""
    served = serve_h2()

    def run(client: H2Client) -> tuple[list[int], H2Client]:
        heads = [client.headers(fields_of(b"/slow")) for _ in range(103)]
        client.send(*heads).ping()
        refused = [id_ for id_, stream in client.streams.items() if stream.reset is not None]
        assert {client.stream(id_).reset for id_ in refused} == {REFUSED_STREAM}
        return refused, client

    client = await in_thread(lambda: H2Client(served.port))
    refused, _ = await in_thread(lambda: run(client))
    assert refused == [201, 203, 205]
    for request in served.root.slow.requests:
        request.finish()
    await in_thread(lambda: client.answer(1, 199))
    assert (await in_thread(lambda: client.answer(client.request()))).status == 200
    assert (len(served.root.slow.requests), served.errors) == (100, [])
    client.close()


@pytest_twisted.ensureDeferred
async def test_many_refusals_in_one_read(serve_h2: Serve) -> None:
    """A request that is answered at once takes no place of another, however they arrive."""
    served = serve_h2()

    def run(client: H2Client) -> list[int | None]:
        for _ in range(10):
            client.request(b"/slow")
        heads = [client.headers(fields_of(b"/a b")) for _ in range(MOST_REFUSED)]
        streams = [head.stream_id for head in heads]
        client.send(*heads).answer(*streams)
        return [client.stream(stream).status for stream in streams]

    assert await talk(served.port, run) == [400] * MOST_REFUSED
    assert served.codes[:MOST_REFUSED] == ["HPE_INVALID_URL"] * MOST_REFUSED


@pytest_twisted.ensureDeferred
async def test_streams_above_the_limit_without_end(serve_h2: Serve) -> None:
    """They are frames that do nothing."""
    served = serve_h2()

    def run(client: H2Client) -> H2Client:
        with suppress(OSError):
            for _ in range(14):
                client.send(*[client.headers(fields_of(b"/slow")) for _ in range(100)])
        return client.to_the_end()

    client = await talk(served.port, run)
    assert [code for code, _ in client.goaways] == [ENHANCE_YOUR_CALM]
    assert served.codes == ["ERR_HTTP2_ENHANCE_YOUR_CALM"]


@pytest_twisted.ensureDeferred
async def test_rapid_reset(serve_h2: Serve) -> None:
    """Streams opened and reset without end cost the connection (CVE-2023-44487)."""
    served = serve_h2()

    def run(client: H2Client) -> H2Client:
        with suppress(OSError):
            for _ in range(20):
                frames: list[Frame] = []
                for _ in range(100):
                    head = client.headers(fields_of(b"/slow"))
                    frames += [head, RstStreamFrame(head.stream_id, error_code=CANCEL)]
                client.send(*frames)
        return client.to_the_end()

    client = await talk(served.port, run)
    assert served.codes == ["ERR_HTTP2_ENHANCE_YOUR_CALM"]
    assert served.site.journal.stream_resets == 1001
    assert [code for code, _ in client.goaways] == [ENHANCE_YOUR_CALM]


# What a client makes us hold.


@pytest_twisted.ensureDeferred
async def test_places_for_streams(serve_h2: Serve) -> None:
    """Streams take no more files than there are places; the first of a connection needs none."""
    served = serve_h2()
    places = served.site.context.more_streams
    places.most = 5
    clients = [await in_thread(lambda: H2Client(served.port)) for _ in range(3)]

    def ask(client: H2Client) -> list[int | None]:
        streams = [client.request(b"/slow") for _ in range(4)]
        client.ping()
        return [client.stream(stream).reset for stream in streams]

    resets = [await in_thread(partial(ask, client)) for client in clients]
    no = REFUSED_STREAM
    assert resets == [[None] * 4, [None, None, None, no], [None, no, no, no]]
    assert (places.taken, len(served.root.slow.requests)) == (5, 8)
    await in_thread(lambda: clients[0].send(RstStreamFrame(1), RstStreamFrame(3)).ping())
    assert places.taken == 3
    for request in served.root.slow.requests[2:4]:
        request.finish()
    await in_thread(lambda: clients[0].answer(5, 7))
    assert places.taken == 2
    assert await in_thread(partial(ask, clients[2])) == [None, None, None, no]
    for client in clients:
        client.close()
    await served.emptied()
    assert places.taken == 0


@pytest_twisted.ensureDeferred
async def test_answered_requests_need_no_place(serve_h2: Serve) -> None:
    """However many small pages a client asks for in one read, it gets them."""
    served = serve_h2()
    served.site.context.more_streams.most = 1

    def run(client: H2Client) -> list[int | None]:
        heads = [client.headers(fields_of()) for _ in range(100)]
        streams = [head.stream_id for head in heads]
        client.send(*heads).answer(*streams)
        return [client.stream(stream).status for stream in streams]

    assert await talk(served.port, run) == [200] * 100
    assert served.site.context.more_streams.taken == 0


@pytest_twisted.ensureDeferred
async def test_request_that_cannot_be_made_gives_its_place_back(
    serve_h2: Serve, expected_errors: LoggedErrors
) -> None:
    """And takes none where it is malformed."""

    def made(channel: Any, queued: bool) -> Request:
        if channel.streamID > 1:
            raise MemoryError
        return Request(channel, queued)

    served = serve_h2(requestFactory=made)

    def run(client: H2Client) -> int:
        client.request(b"/slow")
        client.answer(client.request(), client.request(b"/a b"))
        return served.site.context.more_streams.taken

    assert await talk(served.port, run) == 0
    assert len(expected_errors.flush(MemoryError)) == 1


def test_places_are_a_share_of_the_files() -> None:
    """A quarter of those that the process may open, in whose log is told that they are taken."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    warnings: list[str] = []
    places = MoreStreams(lambda words, most: warnings.append(words.format(most=most)))
    assert places.take()
    assert places.most == limit // 4
    places.taken = limit // 4
    assert not places.take()
    assert warnings == [f"All {limit // 4} HTTP/2 streams are taken; more are refused"]


@pytest_twisted.ensureDeferred
async def test_bodies_in_memory(serve_h2: Serve) -> None:
    """All streams of a connection share one bound: beyond it, the largest go to files."""
    served = serve_h2(Paths(counts=Counts()))
    size, pieces, count = 15_000, 6, 14

    def run(client: H2Client) -> tuple[int, int, list[bytes]]:
        streams = [client.request(b"/counts", method=b"POST", end=False) for _ in range(count)]
        for stream in streams:
            for _ in range(pieces):
                client.data(stream, bytes(size), end=False).ping()
        (connection,) = served.site.context.open()
        contents = [stream._request.content for stream in connection.streams.values()]
        in_memory = sum(content.tell() for content in contents if isinstance(content, BytesIO))
        counted = connection.bodies.bytes
        for stream in streams:
            client.data(stream, b"")
        client.answer(*streams)
        assert connection.bodies.bytes == 0
        return in_memory, counted, [client.stream(stream).body for stream in streams]

    in_memory, counted, bodies = await talk(served.port, run)
    assert MOST_IN_MEMORY - size * pieces < in_memory == counted <= MOST_IN_MEMORY
    assert bodies == [b"%d" % (size * pieces)] * count


class Counts(Resource):
    """Says how much it was sent, and keeps it if that is little."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.little: list[bytes] = []

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        size = request.content.seek(0, 2)
        if size < 100:
            request.content.seek(0)
            self.little.append(request.content.read())
        return b"%d" % size


class LongHead(Resource):
    """Answers with fields alone."""

    isLeaf = True
    most = 0

    def render(self, request: Any) -> bytes:
        self.most = max(self.most, len(request.channel._conn.streams))
        request.setHeader(b"X-Long", bytes(range(48, 58)) * 1000)
        return b""


@pytest_twisted.ensureDeferred
async def test_heads_that_are_not_read(serve_h2: Serve) -> None:
    """A client that asks and asks and reads no answer cannot fill the memory."""
    served = serve_h2(root := LongHead())
    clock: Any = served.site.reactor

    def run() -> H2Client:
        client = H2Client(served.port, receive_buffer=16 * 1024)
        with suppress(OSError):
            while not served.errors:
                client.request()
        return client

    client = await in_thread(run)
    (error,) = served.errors
    assert error.code == "ERR_HTTP2_ENHANCE_YOUR_CALM"
    # Too many refused requests, or resets of ours: what has been sent before decides.
    assert error.reason in (
        "Too many frames that do nothing",
        "Too many control frames wait to be read",
    )
    assert root.most == MOST_STREAMS
    await clock.wait_until(lambda: served.site.open_connections == 0)
    client.close()


@pytest_twisted.ensureDeferred
async def test_settings_that_are_not_kept(serve_h2: Serve) -> None:
    """Of a client's settings only those are kept that change anything, and a small table."""
    served = serve_h2()

    def run(client: H2Client) -> tuple[dict[Any, Any], int]:
        settings = dict.fromkeys(range(100, 130), 7)
        client.send(SettingsFrame(0, settings={1: 2**32 - 1, **settings})).ping()
        (connection,) = served.site.context.open()
        conn = connection.conn
        return dict(conn.remote_settings), conn.encoder.header_table_size

    settings, table = await talk(served.port, run)
    assert not settings.keys() & set(range(100, 130))
    assert table == 4096


@pytest_twisted.ensureDeferred
async def test_small_table(serve_h2: Serve) -> None:
    """A client that wants no table gets none."""
    served = serve_h2()

    def run(client: H2Client) -> tuple[Stream, int]:
        answers = [client.answer(client.request()) for _ in range(3)]
        (connection,) = served.site.context.open()
        return answers[-1], len(connection.conn.encoder.header_table.dynamic_entries)

    settings = {SettingsFrame.HEADER_TABLE_SIZE: 0}
    stream, entries = await talk(served.port, run, settings=settings)
    assert (stream.status, stream.body, entries) == (200, b"fast", 0)


def test_closed_streams() -> None:
    """A connection that has served very many requests remembers the latest of them."""
    memory = Memory()
    protocol, _ = memory.connect()
    protocol.dataReceived(_requests(b"a", 1200))
    while memory.toil.ran[-1] != b"/a1199":
        memory.clock.turn()
    (connection,) = memory.site.context.open()
    assert len(connection.conn._closed_streams) == 1024


# The slice.


class Wire(StringTransport):
    """A connection in memory that has negotiated HTTP/2."""

    negotiatedProtocol = b"h2"


class Toil(Resource):
    """Takes a third of a slice for each request."""

    isLeaf = True

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.ran: list[bytes] = []

    def render(self, request: Request) -> bytes:
        self.ran.append(request.path)
        self.clock.rightNow += SLICE / 2.9
        return b""


class Turns(Clock):
    """A clock by which a turn of the reactor takes a microsecond."""

    def callLater(self, delay: float, *args: Any, **kw: Any) -> Any:
        return super().callLater(delay or 1e-6, *args, **kw)

    def turn(self) -> None:
        self.advance(1.5e-6)


class Memory:
    """A site in memory, and what a client sends to it."""

    def __init__(self) -> None:
        self.clock = Turns()
        self.toil = Toil(self.clock)
        self.site = HangupSite(self.toil, reactor=self.clock)

    def connect(self) -> tuple[Any, Wire]:
        protocol, wire = self.site.buildProtocol(None), Wire()
        protocol.makeConnection(wire)
        protocol.dataReceived(PREFACE + SettingsFrame(0).serialize())
        return protocol, wire


def _requests(name: bytes, count: int) -> bytes:
    """So many requests, compressed without a table, and so for any connection."""
    wire = b""
    for each in range(count):
        path = b"/%b%d" % (name, each)
        block = b"\x82\x87\x41\x01a\x04" + bytes([len(path)]) + path
        frame = HeadersFrame(2 * each + 1, block, flags=["END_HEADERS", "END_STREAM"])
        wire += frame.serialize()
    return wire


def test_control_frames_that_are_not_read() -> None:
    """Answers to PINGs that wait for the transport cannot fill the memory; heads are not those."""
    memory = Memory()
    memory.site.resource = LongHead()
    protocol, wire = memory.connect()
    protocol._channel.pauseProducing()
    errors: list[Any] = []
    memory.site.journal.watch(errors.append)
    protocol.dataReceived(_requests(b"a", 100))
    memory.clock.turn()
    assert errors == []
    wire.clear()
    size = len(PingFrame(0).serialize())
    for _ in range(17 * 1024 // size - 1):
        protocol.dataReceived(PingFrame(0).serialize())
        memory.clock.turn()
    assert (errors, wire.value()) == ([], b"")
    protocol.dataReceived(PingFrame(0).serialize())
    memory.clock.turn()
    (error,) = errors
    assert error.code == "ERR_HTTP2_ENHANCE_YOUR_CALM"
    assert error.reason == "Too many control frames wait to be read"


def test_responses_to_one_read_leave_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads come first; then bodies and ends, in turn, in one write and before the next turn."""
    memory = Memory()
    memory.site.resource = Paths(
        **{f"a{each}": Data(b"hello\n", "text/plain") for each in range(40)}
    )
    protocol, wire = memory.connect()
    wire.clear()
    written: list[bytes] = []
    monkeypatch.setattr(wire, "write", written.append)
    protocol.dataReceived(_requests(b"a", 40))
    bodies = [DataFrame(2 * each + 1, b"hello\n", flags=["END_STREAM"]) for each in range(40)]
    assert written[-1] == b"".join(frame.serialize() for frame in bodies)
    assert b"".join(written).count(b"hello\n") == 40
    # Nothing but their numbers is left of them.
    assert not protocol._channel.streams
    assert not protocol._channel.conn.streams


def test_no_more_is_sent_in_a_turn_than_others_can_wait_for() -> None:
    """A large response goes on in the next turn of the reactor, with a piece for each stream."""
    memory = Memory()
    memory.site.resource = Paths(
        **{f"a{each}": Data(bytes(10**6), "text/plain") for each in range(2)}
    )
    protocol, wire = memory.connect()
    settings = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**30})
    window = WindowUpdateFrame(0, window_increment=2**30)
    protocol.dataReceived(settings.serialize() + window.serialize())
    wire.clear()
    protocol.dataReceived(_requests(b"a", 2))
    sizes = []
    for _ in range(3):
        sizes.append(len(wire.value()))
        wire.clear()
        memory.clock.turn()
    assert max(sizes) < 128 * 1024 + 1000 < sum(sizes)


def test_window_of_uploads() -> None:
    """One stream has a part of the connection's window; the client hears of both at once."""
    memory = Memory()
    protocol, wire = memory.connect()
    settings: Any
    settings, rest = Frame.parse_frame_header(memoryview(wire.value()[:9]))
    settings.parse_body(memoryview(wire.value()[9 : 9 + rest]))
    assert settings.settings[SettingsFrame.INITIAL_WINDOW_SIZE] == STREAM_WINDOW == MOST_UNREAD // 4
    assert protocol._channel.conn.inbound_flow_control_window == MOST_UNREAD


def test_large_frames() -> None:
    """Whatever size a client allows, a frame that we send is soon encrypted."""
    clock = Clock()
    site = HangupSite(Paths(a0=Data(bytes(10**6), "text/plain")), reactor=clock)
    protocol, wire = site.buildProtocol(None), Wire()
    protocol.makeConnection(wire)
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30, SettingsFrame.MAX_FRAME_SIZE: 2**24 - 1}
    window = WindowUpdateFrame(0, window_increment=2**30).serialize()
    protocol.dataReceived(PREFACE + SettingsFrame(0, settings=settings).serialize() + window)
    protocol.dataReceived(_requests(b"a", 1))
    clock.pump([0] * 10)
    sizes, rest = [], wire.value()
    while rest:
        frame, length = Frame.parse_frame_header(memoryview(rest[:9]))
        rest = rest[9 + length :]
        if isinstance(frame, DataFrame):
            sizes.append(length)
    assert (sum(sizes), max(sizes)) == (10**6, MOST_QUEUED)


def test_streams_are_not_walked_over_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what opens a window that was closed, or wider ones for all, wakes all streams."""
    woken: list[int] = []
    monkeypatch.setattr(HangupStream, "windowUpdated", lambda self: woken.append(self.streamID))
    memory = Memory()
    memory.site.resource = slow = Slow()
    protocol, _ = memory.connect()

    def wakes(*frames: Frame) -> list[int]:
        woken.clear()
        protocol.dataReceived(b"".join(frame.serialize() for frame in frames))
        return woken

    protocol.dataReceived(_requests(b"a", 3))
    for settings in {}, {4: 65535}, {4: 65534}, {1: 0, 5: 20000}:
        assert wakes(WindowUpdateFrame(0, 1), SettingsFrame(0, settings=settings)) == []
    assert wakes(SettingsFrame(0, settings={4: 2**20})) == [1, 3, 5]
    slow.requests[0].write(bytes(70_000))
    while protocol._channel.conn.outbound_flow_control_window:
        memory.clock.turn()
    assert wakes(WindowUpdateFrame(0, 10_000)) == [3, 5, 1, 1]  # the first sends the rest
    assert wakes(WindowUpdateFrame(0, 1)) == []


def test_slice() -> None:
    """One client's frames take a slice of each turn, and those of others come in between."""
    memory = Memory()
    (one, wire), (other, _) = memory.connect(), memory.connect()
    one.dataReceived(_requests(b"a", 8))
    assert memory.toil.ran == [b"/a0", b"/a1", b"/a2"]
    assert wire.producerState == "paused"
    other.dataReceived(_requests(b"b", 1))
    one.dataReceived(PingFrame(0).serialize())  # what TLS had read already
    assert memory.toil.ran[3:] == [b"/b0"]
    memory.clock.turn()
    assert memory.toil.ran[4:] == [b"/a3", b"/a4", b"/a5"]
    assert (wire.producerState, b"\0\0\x08\x06\x01" in wire.value()) == ("paused", False)
    memory.clock.turn()
    assert memory.toil.ran[7:] == [b"/a6", b"/a7"]
    assert (wire.producerState, b"\0\0\x08\x06\x01" in wire.value()) == ("producing", True)


def test_slice_of_a_read_in_pieces() -> None:
    """The records of one read share its slice; after a pause there is a new one."""
    memory = Memory()
    protocol, wire = memory.connect()
    frames = _requests(b"a", 8)
    size = len(frames) // 8
    pieces = [frames[at : at + size] for at in range(0, len(frames), size)]
    for piece in pieces[:4]:
        protocol.dataReceived(piece)
    assert (len(memory.toil.ran), wire.producerState) == (3, "paused")
    memory.clock.turn()
    assert (len(memory.toil.ran), wire.producerState) == (4, "producing")
    for piece in pieces[4:]:
        memory.clock.advance(SLICE)
        protocol.dataReceived(piece)
    assert (len(memory.toil.ran), wire.producerState) == (8, "producing")


@pytest.mark.parametrize("how", ["lost", "closed"])
def test_end_while_frames_wait(how: str) -> None:
    """What waits is not begun, and leaves nothing in the reactor."""
    memory = Memory()
    protocol, wire = memory.connect()
    protocol.dataReceived(_requests(b"a", 8))
    if how == "lost":
        protocol.connectionLost(connectionDone)
    else:
        memory.site.context.open()[0]._stalled()
        memory.clock.turn()
        assert wire.producerState != "paused"  # the end of its input is to be noticed
        protocol.connectionLost(connectionDone)
    memory.clock.advance(100)
    assert len(memory.toil.ran) == 3
    assert memory.clock.getDelayedCalls() == []


class Leaves(Resource):
    """Its first request loses the connection."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.ran = 0

    def render(self, request: Request) -> bytes:
        self.ran += 1
        stream: Any = request.channel
        stream._conn.connectionLost(connectionDone)
        return b""


def test_connection_lost_by_a_request() -> None:
    """Nothing is begun that came in the same read."""
    memory = Memory()
    memory.site.resource = leaves = Leaves()
    protocol, _ = memory.connect()
    protocol.dataReceived(_requests(b"a", 8))
    memory.clock.advance(100)
    assert (leaves.ran, memory.clock.getDelayedCalls()) == (1, [])


# Clients that people use.

CURL, CHROMIUM = shutil.which("curl"), shutil.which("chromium")
MUCH = 100_000_000

#: Takes and gives as much, and tells how much that was.
SCRIPT = b"""<script>
(async () => {
  const down = await (await fetch("/big")).arrayBuffer();
  const up = await (await fetch("/counts", {method: "POST", body: down})).text();
  await fetch("/told", {method: "POST", body: `${down.byteLength} ${up}`});
})();
</script>"""


@pytest.fixture
def transfers(serve_h2: Serve, tmp_path: Path) -> Served:
    """A site that gives and takes 100 MB."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(MUCH)
    pages = {"big": File(str(big)), "counts": Counts(), "told": Counts()}
    pages["page"] = Data(SCRIPT, "text/html")
    return serve_h2(Paths(**pages))


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest_twisted.ensureDeferred
async def test_curl(transfers: Served, tmp_path: Path) -> None:
    """100 MB go down and up through curl, by the windows that it gives."""

    def curl(*arguments: str) -> bytes:
        command = [str(CURL), "-sk", "--http2", "--fail", *arguments]
        command += ["--speed-limit", "1", "--speed-time", f"{PATIENCE:g}"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    url = f"https://localhost:{transfers.port}"
    down = ["-o", "/dev/null", "-w", "%{http_version} %{size_download}", f"{url}/big"]
    assert await in_thread(lambda: curl(*down)) == b"2 %d" % MUCH
    fields = ["-H", "Expect:", "-H", "Content-Type: application/octet-stream"]  # and no form
    up = [*fields, "--data-binary", f"@{tmp_path / 'big'}", f"{url}/counts"]
    assert await in_thread(lambda: curl(*up)) == b"%d" % MUCH
    assert transfers.errors == []
    await transfers.emptied()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest_twisted.ensureDeferred
async def test_chromium(transfers: Served, tmp_path: Path) -> None:
    """The same through a browser."""
    switches = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
    switches += ["--ignore-certificate-errors", f"--user-data-dir={tmp_path / 'profile'}"]
    answered: list[bytes] = []
    transfers.site.log = lambda request: answered.append(request.path)  # type: ignore[method-assign]
    command = [str(CHROMIUM), *switches, f"https://localhost:{transfers.port}/page"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with running(tmp_path, *command, **quiet) as browser:
        for path in (b"/page", b"/big", b"/counts", b"/told"):  # each takes its time
            await until(partial(answered.count, path))
        assert any(isinstance(one, HangupHTTP2) for one in transfers.site.context.open())
        browser.kill()  # how it would end by itself is not looked at here
    assert transfers.root.children[b"told"].little == [b"%d %d" % (MUCH, MUCH)]
    assert transfers.codes in ([], ["ECONNRESET"])  # as it is ended
    await transfers.emptied()
