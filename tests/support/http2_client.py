"""A client that speaks HTTP/2 frame by frame, also such as no library would send."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from twisted.internet.defer import Deferred

from twisted_hangup.server.http2.connection import HangupHTTP2

from .certificates import server_context
from .wire import Client, HandClock, Serve, Served, in_thread, until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER = 9

#: RFC 9113, section 7
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11

Fields = Iterable[tuple[bytes, bytes]]


def fields_of(
    path: bytes = b"/fast", *more: tuple[bytes, bytes], method: bytes = b"GET"
) -> list[tuple[bytes, bytes]]:
    """The fields of an ordinary request, and *more*."""
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path),
        *more,
    ]


@pytest.fixture
def serve_h2(serve: Serve) -> Serve:
    """Serve over TLS, where HTTP/2 can be negotiated, on a clock that stands or on another one."""
    return lambda what=None, **arguments: serve(
        what, tls=server_context(), **{"reactor": HandClock(), **arguments}
    )


#: RFC 9113, section 6.9.2.
FIRST_WINDOW = 65_535


class Stream:
    """What has come on one stream.

    Attributes:
        frames: The bytes of content in each DATA frame.
    """

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.fields: dict[bytes, bytes] = {}
        self.lines: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.frames: list[int] = []
        self.ended = False
        self.reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def status(self) -> int | None:
        return self.statuses[-1] if self.statuses else None


class H2Client:
    """A blocking client, for a thread.

    Attributes:
        goaways: Code and last stream of each GOAWAY.
        pings: What the server has acknowledged.
        pinged: How many PINGs of its own it has sent.
        resets: How many RST_STREAM it has sent.
        closed: Whether the server has ended the connection: ``"end"`` with close_notify,
            ``"reset"`` without.
    """

    def __init__(
        self,
        port: int,
        *,
        settings: dict[int, int] | None = None,
        preface: bool = True,
        windows: bool = True,
        receive_buffer: int | None = None,
    ) -> None:
        self.client = Client(port, tls=True, alpn="h2", receive_buffer=receive_buffer)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.streams: dict[int, Stream] = {}
        self.goaways: list[tuple[int, int]] = []
        self.settings: dict[int, int] = {}
        self.pings: list[bytes] = []
        self.pinged = self.resets = 0
        #: What was added to the windows for DATA, or sent of it: of each stream, and with 0 of the
        #: connection.
        self.added: dict[int, int] = {}
        self.closed = ""
        self._input = b""
        self._windows = windows
        self._next = 1
        if preface:
            self.raw(PREFACE).send(SettingsFrame(0, settings=settings or {}))

    def raw(self, data: bytes) -> H2Client:
        self.client.send(data)
        return self

    def send(self, *frames: Frame) -> H2Client:
        for frame in frames:
            if isinstance(frame, DataFrame):
                self._open(0, -len(frame.data))
                self._open(frame.stream_id, -len(frame.data))
        return self.raw(b"".join(frame.serialize() for frame in frames))

    def headers(self, fields: Fields, end: bool = True, stream: int | None = None) -> HeadersFrame:
        """The HEADERS frame of a new stream, or of *stream*."""
        if stream is None:
            stream, self._next = self._next, self._next + 2
        frame = HeadersFrame(stream, data=self.encoder.encode(list(fields)))
        frame.flags.add("END_HEADERS")
        if end:
            frame.flags.add("END_STREAM")
        return frame

    def request(self, path: bytes = b"/fast", *more: tuple[bytes, bytes], **kwargs: Any) -> int:
        """Send a whole request, or with ``end=False`` its head; the id of its stream."""
        frame = self.headers(fields_of(path, *more, method=kwargs.pop("method", b"GET")), **kwargs)
        self.send(frame)
        return frame.stream_id

    def data(self, stream: int, data: bytes, end: bool = True) -> H2Client:
        frame = DataFrame(stream, data=data)
        if end:
            frame.flags.add("END_STREAM")
        return self.send(frame)

    def room(self, stream_id: int) -> int:
        """How many bytes of DATA may be sent on the stream now."""
        window = self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, FIRST_WINDOW)
        room = FIRST_WINDOW + self.added.get(0, 0)
        return min(room, window + self.added.get(stream_id, 0))

    def _open(self, stream_id: int, count: int) -> None:
        self.added[stream_id] = self.added.get(stream_id, 0) + count

    def stream(self, stream_id: int) -> Stream:
        return self.streams.setdefault(stream_id, Stream())

    def until(self, condition: Callable[[], object]) -> H2Client:
        """Read until *condition* holds, or the end."""
        while not self.closed and not condition():
            try:
                more = self.client.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLError) as error:
                if isinstance(error, socket.timeout):
                    raise
                self.closed = "reset"
                break
            if not more:
                self.closed = "end"
            self._input += more
            self._take()
        return self

    def answer(self, *stream_ids: int) -> Stream:
        """Read until these streams are over; the last of them."""
        self.until(lambda: all(self.stream(stream_id).over for stream_id in stream_ids))
        return self.stream(stream_ids[-1])

    def ping(self) -> H2Client:
        """Read until the server has acted on all that was sent: it answers a PING in its turn."""
        before = len(self.pings)
        return self.send(PingFrame(0)).until(lambda: len(self.pings) > before)

    def to_the_end(self) -> H2Client:
        return self.until(lambda: False)

    def close(self) -> None:
        self.client.close()

    def _take(self) -> None:
        while len(self._input) >= _FRAME_HEADER:
            frame, length = Frame.parse_frame_header(memoryview(self._input[:_FRAME_HEADER]))
            end = _FRAME_HEADER + length
            if len(self._input) < end:
                return
            frame.parse_body(memoryview(self._input[_FRAME_HEADER:end]))
            self._input = self._input[end:]
            self._received(frame)

    def _received(self, frame: Frame) -> None:
        stream = self.stream(frame.stream_id)
        if isinstance(frame, HeadersFrame):
            stream.lines = [(*line,) for line in self.decoder.decode(frame.data, raw=True)]
            stream.fields = dict(stream.lines)
            stream.statuses.append(int(stream.fields[b":status"]))
        elif isinstance(frame, DataFrame):
            stream.body += frame.data
            stream.frames.append(len(frame.data))
            if self._windows and frame.data:
                for stream_id in {0, frame.stream_id}:
                    update = WindowUpdateFrame(stream_id, window_increment=len(frame.data))
                    self.send(update)
        elif isinstance(frame, RstStreamFrame):
            self.resets += 1
            if stream.reset is None:  # frames on their way are answered by more of them
                stream.reset = frame.error_code
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append((frame.error_code, frame.last_stream_id))
        elif isinstance(frame, SettingsFrame):
            self.settings.update(frame.settings)
        elif isinstance(frame, WindowUpdateFrame):
            self._open(frame.stream_id, frame.window_increment)
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.pings.append(frame.opaque_data)
            else:
                self.pinged += 1
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        if "END_STREAM" in frame.flags:
            stream.ended = True


async def connection_of(served: Served) -> Any:
    """The `HangupHTTP2` of the only connection, whose handshake may still be under way."""

    def all_speak() -> list[HangupHTTP2]:
        return [one for one in served.site.context.open() if isinstance(one, HangupHTTP2)]

    (connection,) = await until(all_speak)
    return connection


def talk(port: int, run: Callable[[H2Client], Any], **kwargs: Any) -> Deferred[Any]:
    """Let a new client *run* in a thread, then close it."""

    def session() -> Any:
        client = H2Client(port, **kwargs)
        try:
            return run(client)
        finally:
            client.close()

    return in_thread(session)
