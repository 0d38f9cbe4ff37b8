"""h2 with its slow parts left out does what h2 does."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import example, given
from hypothesis import strategies as st

from twisted_hangup import Limits
from twisted_hangup.events import Field
from twisted_hangup.server.http2 import frames
from twisted_hangup.server.http2.frames import MOST_STREAMS, server_frames

#: A head whose block changes no table, and one that no table decodes.
HEAD = Encoder().encode([(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"https")])
BROKEN = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"

RESPONSES: list[tuple[Field, ...]] = [
    ((b":status", b"200"), (b"Date", b"today"), (b"Content-Length", b"6")),
    ((b":status", b"200"), (b"Date", b"tomorrow"), (b"Content-Length", b"6")),
    (
        (b":status", b"200"),
        (b"Content-Length", b"6"),
        (b"Set-Cookie", b"a=b"),
        (b"SET-COOKIE", b""),
    ),
    (ONLY_404 := ((b":status", b"404"),)),
    ((b":status", b"100"),),
    ((b":status", b"200"), (b"Connection", b"close"), (b"Upgrade", b"h2c"), (b"ETag ", b" x\t")),
    ((b":status", b"200"), (b"Authorization", b"secret"), (b"Cookie", b"short")),
    ((b":status", b"401"), (b"Proxy-Authorization", b"secret"), (b"Cookie", b"long" * 9)),
    ((b":status", b"200"), (b"Large", b"x" * 5000)),
    ((b":status", b"200"), (b"Larger", b"\xff" * 20_000)),
    *(((b":status", b"200"), (b"Name-%d" % each, b"v" * 300)) for each in range(15)),
]

STREAMS = st.sampled_from([0, 1, 1, 3, 3, 5, 2])
FLAGS = {
    DataFrame: ["END_STREAM", "PADDED"],
    HeadersFrame: ["END_STREAM", "END_HEADERS", "END_HEADERS", "PADDED", "PRIORITY"],
    ContinuationFrame: ["END_HEADERS"],
}


@st.composite
def received(draw: st.DrawFn) -> Any:
    """A frame of the client."""
    kind: Any = draw(
        st.sampled_from(
            [HeadersFrame] * 6
            + [DataFrame] * 4
            + [ContinuationFrame, RstStreamFrame, WindowUpdateFrame, SettingsFrame, PingFrame]
            + [PriorityFrame]
        )
    )
    if kind is SettingsFrame:
        table = st.sampled_from([0, 100, 4096, 65536])
        window = st.sampled_from([0, 10, 65535, 100_000])
        frame: Any = SettingsFrame(0, settings={1: draw(table), 4: draw(window), 5: 2**14})
    elif kind is PingFrame:
        frame = PingFrame(0, b"12345678")
    elif kind is WindowUpdateFrame:
        increments = st.sampled_from([1, 1000, 2**31 - 1])
        frame = WindowUpdateFrame(draw(STREAMS), window_increment=draw(increments))
    else:
        frame = kind(draw(STREAMS.filter(bool)))
        if kind in (HeadersFrame, ContinuationFrame):
            frame.data = draw(st.sampled_from([HEAD] * 5 + [b"", HEAD[:1], BROKEN]))
        if kind is DataFrame:
            frame.data = bytes(draw(st.sampled_from([0, 1, 5000, 16_000])))
        for flag in draw(st.lists(st.sampled_from(FLAGS.get(kind, [""])), max_size=4)):
            if flag:
                frame.flags.add(flag)
        if "PADDED" in frame.flags:
            frame.pad_length = 3
    return frame


SENT = st.one_of(
    st.tuples(st.just("response"), st.sampled_from([1, 3, 5]), st.sampled_from(RESPONSES)),
    st.tuples(st.just("data"), st.sampled_from([1, 3, 5]), st.sampled_from([0, 1, 9000, 16384])),
    st.tuples(st.just("last"), st.sampled_from([1, 3, 5]), st.sampled_from([0, 1, 9000, 17000])),
    st.tuples(st.just("taken"), st.sampled_from([1, 3, 5]), st.sampled_from([1, 40_000, 200_000])),
    st.tuples(st.just("reset"), st.sampled_from([1, 3, 5]), st.just(0)),
)


def act(connection: Any, step: Any, lean: bool) -> object:
    """Take or send one frame; returns what can be seen of that."""
    try:
        if isinstance(step, Frame):
            wire = bytearray(step.serialize())
            if step.body_len and type(step) in FLAGS:
                wire[5] |= 0x80  # a reserved bit, which is ignored (RFC 9113, section 4.1)
            receive: Any = partial(H2Connection.receive_data, connection)
            events = (connection.receive_data if lean else receive)(wire)
            return [(type(event), str(vars_of(event))) for event in events]
        kind, stream_id, value = step
        if kind == "response":
            if lean:
                connection.send_response(stream_id, value)
            else:
                connection.send_headers(stream_id, value)
        elif kind == "taken":
            connection.acknowledge_received_data(value, stream_id)
        elif kind == "reset":
            connection.reset_stream(stream_id, ErrorCodes.CANCEL)
        else:
            send: Any = partial(H2Connection.send_data, connection)
            content = memoryview(bytes(value))
            (connection.send_data if lean else send)(stream_id, content, kind == "last")
    except (ProtocolError, KeyError) as error:
        return type(error), str(error).partition("<memory")[0]  # an address follows
    return None


def vars_of(event: Any) -> dict[str, Any]:
    """What an event has, and those that it refers to."""
    names = [name for name in dir(event) if not name.startswith("_")]
    values = {name: getattr(event, name) for name in names}
    return {
        name: vars_of(value) if type(value).__module__ == "h2.events" else value
        for name, value in values.items()
    }


def state(connection: Any) -> object:
    """Where the connection and its streams stand, and what they may still send and receive."""
    streams = {
        stream_id: (
            stream.state_machine.state,
            stream.outbound_flow_control_window,
            stream.inbound_flow_control_window,
        )
        for stream_id, stream in connection.streams.items()
    }
    windows = connection.outbound_flow_control_window, connection.inbound_flow_control_window
    table = list(connection.encoder.header_table.dynamic_entries)
    return connection.state_machine.state, windows, table, streams


BEGUN = [SettingsFrame(0), *(HeadersFrame(each, HEAD, flags=["END_HEADERS"]) for each in (1, 3))]


@given(st.lists(st.one_of(SENT, SENT, received()), max_size=40))
@example([SettingsFrame(0, settings={4: 10}), ("data", 1, 9000)])  # no window
@example([HeadersFrame(5, HEAD), DataFrame(1, b"a")])  # no CONTINUATION
@example([PushPromiseFrame(1, 2, HEAD), DataFrame(1, b"a")])  # nor here
@example([("response", 1, RESPONSES[4]), ("response", 1, RESPONSES[0])])  # 100 first
@example([("response", 1, RESPONSES[0])] * 2)
@example([("response", 1, ONLY_404), SettingsFrame(0, settings={1: 0}), ("response", 3, ONLY_404)])
def test_as_h2(steps: list[Any]) -> None:
    """Whatever is received and sent: the same events, errors, bytes, states, windows and table."""
    lean, whole = server_frames(Limits()), server_frames(Limits())
    whole.encoder = Encoder()
    for connection in lean, whole:
        connection.initiate_connection()
    for step in [*BEGUN, *steps]:
        outcome = act(lean, step, True)
        assert outcome == act(whole, step, False), step
        assert lean.data_to_send() == whole.data_to_send(), step
        assert state(lean) == state(whole)
        if isinstance(outcome, tuple):
            break


@given(st.lists(st.sampled_from(RESPONSES), max_size=60), st.data())
def test_repeated_heads(responses: list[tuple[Field, ...]], data: st.DataObject) -> None:
    """The blocks of heads, repeated or not, are those of h2, through any change of the table."""
    lean, whole = server_frames(Limits()), server_frames(Limits())
    whole.encoder = Encoder()
    for number, response in enumerate(responses):
        resized = data.draw(st.sampled_from([None] * 9 + [0, 60, 4096]))
        head = HeadersFrame(2 * number + 1, HEAD, flags=["END_HEADERS"])
        steps: list[Any] = [head, ("response", head.stream_id, response)]
        if resized is not None:
            steps.insert(0, SettingsFrame(0, settings={1: resized}))
        for step in steps:
            assert act(lean, step, True) == act(whole, step, False)
            assert lean.data_to_send() == whole.data_to_send()


def test_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A usual request, its body and its response need none of the slow parts; a head once."""

    def slow(*arguments: object, **options: object) -> None:
        raise AssertionError("asked")

    connection: Any = server_frames(Limits())
    for kind, name in (
        (FrameBuffer, "add_data"),
        (H2Stream, "send_headers"),
        (H2Stream, "send_data"),
        (H2Connection, "_open_streams"),
        (Frame, "__init__"),
    ):
        monkeypatch.setattr(kind, name, slow)
    encoded: list[object] = []
    encode = Encoder.encode

    def counted(*arguments: Any) -> bytes:
        encoded.append(arguments)
        return encode(*arguments)

    monkeypatch.setattr(Encoder, "encode", counted)

    def frame(kind: int, flags: int, stream_id: int, content: bytes) -> bytes:
        size = len(content).to_bytes(3, "big")
        return size + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + content

    blocks = []
    for stream_id in (1, 3, 5):
        connection.receive_data(frame(1, 4, stream_id, HEAD))
        connection.receive_data(frame(0, 0, stream_id, b"some"))
        connection.receive_data(frame(0, 1, stream_id, b" more"))
        connection.send_response(stream_id, RESPONSES[0])
        blocks.append(connection.data_to_send()[9:])
        connection.send_data(stream_id, b"hello\n", end_stream=True)
        assert connection.data_to_send() == frame(0, 1, stream_id, b"hello\n")
        connection.forget(stream_id)
    assert not connection.streams
    assert len(encoded) == 2  # the first fills the table
    assert blocks[0] != blocks[1] == blocks[2]


def test_blocks_are_bounded() -> None:
    """Heads that are never the same are not kept, beyond a few."""
    connection: Any = server_frames(Limits())
    for number in range(100):
        stream_id = 2 * number + 1
        connection.receive_data(HeadersFrame(stream_id, HEAD, flags=["END_HEADERS"]).serialize())
        # Fields that are too large for the table leave it empty, so it does not change.
        connection.encoder.header_table.maxsize = 0
        connection.send_response(stream_id, ((b":status", b"200"), (b"n", b"%d" % number)))
    assert len(connection.encoder._blocks) <= frames._MOST_BLOCKS


def test_long_names_are_not_kept() -> None:
    """Names are kept for all connections: those of a proxy's servers may be of any length."""
    connection: Any = server_frames(Limits())
    connection.receive_data(HeadersFrame(1, HEAD, flags=["END_HEADERS"]).serialize())
    before = frames._lower.cache_info().misses
    connection.send_response(1, ((b"seen-once-" * 1000, b"a"),))
    assert frames._lower.cache_info().misses == before


def test_ended_streams_are_forgotten_even_if_nobody_says_so() -> None:
    """h2 looks for them once it has more streams than can be open."""
    connection: Any = server_frames(Limits())
    for number in range(3 * MOST_STREAMS):
        stream_id = 2 * number + 1
        connection.receive_data(HeadersFrame(stream_id, HEAD, flags=["END_HEADERS"]).serialize())
        connection.receive_data(RstStreamFrame(stream_id).serialize())
        assert len(connection.streams) <= MOST_STREAMS + 1
