"""The cases of h2spec by its own ids, which are sections of RFC 7540 and 7541.

As of h2spec's commit 5349aa6b7adc (MIT), in our words: all 146, and the one that it has for
``--strict``.  Some of its cases send another form than they say (generic/5, http2/8.1.2.3);
these send what they say.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hpack.hpack import encode_integer

from .h2spec import (
    ACK,
    AUTHORITY,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW,
    LONG,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    METHOD,
    PADDED,
    PATH,
    PING,
    POST,
    POSTS,
    PRIORITISED,
    PUSH_PROMISE,
    RST_STREAM,
    SCHEME,
    SETTINGS,
    WHOLE,
    WINDOW_UPDATE,
    WORD,
    Peer,
    Step,
    acknowledged,
    block,
    closes,
    connection_error,
    continuation,
    data,
    first_settings,
    frame,
    goaway,
    headers,
    octets,
    ping,
    pong,
    pong_or_close,
    priority,
    reset,
    response,
    response_ends,
    says,
    settings,
    stream_error,
    urgency,
    window,
)
from .http2_client import (
    COMPRESSION_ERROR,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
)

#: The cases that fail; one that passes after all fails the tests, so that this is true.
FAILURES: Final = {
    # The whole request has come, and is malformed.  It is answered 400, and both sides have
    # ended the stream: RFC 9113, section 8.1.1, "a server MAY send an HTTP response prior to
    # closing or resetting the stream".  h2spec takes nothing but a reset, which may not follow
    # any more on a closed stream (section 5.1).  In docs/deviations.md it is
    # http2-malformed-answered.
    "http2/8.1.2/1",
    *(f"http2/8.1.2.1/{at}" for at in (1, 2, 4)),
    *(f"http2/8.1.2.2/{at}" for at in (1, 2)),
    *(f"http2/8.1.2.3/{at}" for at in range(1, 8)),
    *(f"http2/8.1.2.6/{at}" for at in (1, 2)),
}


class Case(NamedTuple):
    """One case.

    Attributes:
        why: What the client does.
        steps: What it sends, and what has to come of that.
    """

    why: str
    steps: tuple[Step, ...]


def case(why: str, *steps: Step) -> Case:
    """One on a connection that begins as it ought to."""
    return Case(why, (Peer.begin, *steps))


UNKNOWN = frame(0x16, bytes(8))
#: No flag of a PING, and that of an acknowledgement least of all.
NO_FLAGS = 0x16
RESERVED = 1 << 31
FIELDS = (METHOD, SCHEME, PATH, AUTHORITY)
POSTED = (POSTS, SCHEME, PATH, AUTHORITY)
TRAILERS = block(("x-test", "ok"))
UPLOAD = headers(POST, END_HEADERS)
OPEN = headers(GET, END_HEADERS)
UNFINISHED = headers(GET, 0)
UNFINISHED_REQUEST = headers(GET, END_STREAM)
NO_WINDOW = settings((INITIAL_WINDOW_SIZE, 0))

#: The two forms of a string (RFC 7541, section 5.2), and the index of a name that is known.
NAME, HUFFMAN_NAME = b"\x06x-test", b"\x85\xf2\xb2\x4a\x84\xff"
VALUE, HUFFMAN_VALUE = b"\x06h2spec", b"\x84\x9c\x48\xac\xa4"
USER_AGENT = 58


def request(*fields: tuple[str, str], flags: int = WHOLE) -> bytes:
    """A request with *fields* alone."""
    return headers(block(*fields), flags)


def named(kind: int, prefix: int) -> bytes:
    """A literal of that *kind* with an indexed name (RFC 7541, section 6.2), up to its value."""
    name = encode_integer(USER_AGENT, prefix)
    name[0] |= kind
    return bytes(name)


def padded(content: bytes, padding: bytes) -> bytes:
    return bytes([len(padding)]) + content + padding


def upload_of_frame_size(more: int) -> Step:
    """A body in one frame, of the size that the server takes and *more*."""

    def send(peer: Peer) -> None:
        peer.raw(UPLOAD + data(b"x" * (peer.settings.get(MAX_FRAME_SIZE, 2**14) + more)))

    return send


def one_stream_too_many(peer: Peer) -> None:
    """As many requests as the server announces, and one more; none of them can be answered."""
    most = peer.settings[MAX_CONCURRENT_STREAMS]
    peer.raw(NO_WINDOW + b"".join(headers(stream=1 + 2 * at) for at in range(most + 1)))


def table_too_large(peer: Peer) -> None:
    """A table of fields that is larger than the server announces."""
    size = encode_integer(peer.settings.get(HEADER_TABLE_SIZE, 4096) + 1, 5)
    size[0] |= 0x20
    peer.raw(headers(bytes(size) + GET))


#: What comes of most cases.
BREAKS, RESETS = connection_error(PROTOCOL_ERROR), stream_error(PROTOCOL_ERROR)
CLOSED, UNREADABLE = stream_error(STREAM_CLOSED), connection_error(COMPRESSION_ERROR)
WRONG_SIZE = connection_error(FRAME_SIZE_ERROR)

SECTIONS: Final = {
    "generic/1": [Case("a preface and settings", (first_settings,))],
    "generic/2": [
        case("PRIORITY on an idle stream", priority(urgency()) + ping(), pong),
        case(
            "WINDOW_UPDATE on a half-closed stream", NO_WINDOW + headers() + window(1, 1), octets(1)
        ),
        case(
            "PRIORITY on a half-closed stream",
            NO_WINDOW + headers() + priority(urgency()) + window(1, 1),
            octets(1),
        ),
        case("RST_STREAM on a half-closed stream", headers() + reset() + ping(), pong_or_close),
        case(
            "PRIORITY on a closed stream",
            headers(),
            response_ends,
            priority(urgency()) + ping(),
            pong,
        ),
    ],
    "generic/3.1": [
        case("one DATA frame", UPLOAD + data(), response),
        case("two DATA frames", UPLOAD + data(flags=0) + data(), response),
        case(
            "a padded DATA frame",
            UPLOAD + data(padded(b"test", b"padded"), END_STREAM | PADDED),
            response,
        ),
    ],
    "generic/3.2": [
        case("HEADERS", headers(), response),
        case("padded HEADERS", headers(padded(GET, bytes(8)), WHOLE | PADDED), response),
        case("HEADERS with a priority", headers(urgency() + GET, WHOLE | PRIORITISED), response),
    ],
    "generic/3.3": [
        case("PRIORITY with weight 1", priority(urgency(weight=0)) + headers(), response),
        case("PRIORITY with weight 256", priority(urgency()) + headers(), response),
        case("PRIORITY on another stream", priority(urgency(1, 0), 3) + headers(), response),
        case("PRIORITY, exclusive", priority(urgency(0, 0, True)) + headers(), response),
        case("PRIORITY on a later idle stream", priority(urgency(), 3) + headers(), response),
    ],
    "generic/3.4": [case("RST_STREAM", OPEN + reset() + ping(), pong_or_close)],
    "generic/3.5": [
        case(
            "SETTINGS of each kind",
            settings(
                (HEADER_TABLE_SIZE, 4096),
                (ENABLE_PUSH, 1),
                (MAX_CONCURRENT_STREAMS, 100),
                (INITIAL_WINDOW_SIZE, 65535),
                (MAX_FRAME_SIZE, 16384),
                (MAX_HEADER_LIST_SIZE, 100),
            ),
            acknowledged,
        )
    ],
    "generic/3.7": [case("PING", ping(), pong)],
    "generic/3.8": [case("GOAWAY", goaway(NO_ERROR) + ping(), pong_or_close)],
    "generic/3.9": [
        case("WINDOW_UPDATE of the connection", window(0, 1) + ping(), pong),
        case("WINDOW_UPDATE of a stream", headers() + window(1, 1), response),
    ],
    "generic/3.10": [
        case(
            "one CONTINUATION frame", headers(GET[:5], END_STREAM) + continuation(GET[5:]), response
        ),
        case(
            "two CONTINUATION frames",
            headers(GET[:5], END_STREAM) + continuation(GET[5:10], 0) + continuation(GET[10:]),
            response,
        ),
    ],
    "generic/4": [
        case("GET", headers(), response),
        case("HEAD", request((":method", "HEAD"), SCHEME, PATH, AUTHORITY), response),
        case("POST", UPLOAD + data(), response),
        case(
            "POST with trailers",
            request(*POSTED, ("trailer", "x-test"), flags=END_HEADERS)
            + data(flags=0)
            + headers(TRAILERS),
            response,
        ),
    ],
    "generic/5": [
        case("an indexed field", headers(GET + bytes([0x80 | USER_AGENT])), response),
        case(
            "a literal to be indexed, of an indexed name",
            headers(GET + named(0x40, 6) + VALUE),
            response,
        ),
        case(
            "a literal to be indexed, of an indexed name, in Huffman's code",
            headers(GET + named(0x40, 6) + HUFFMAN_VALUE),
            response,
        ),
        case(
            "a literal to be indexed, of a new name",
            headers(GET + b"\x40" + NAME + VALUE),
            response,
        ),
        case(
            "a literal to be indexed, of a new name, in Huffman's code",
            headers(GET + b"\x40" + HUFFMAN_NAME + HUFFMAN_VALUE),
            response,
        ),
        case(
            "a literal that is not indexed, of an indexed name",
            headers(GET + named(0x00, 4) + VALUE),
            response,
        ),
        case(
            "a literal that is not indexed, of an indexed name, in Huffman's code",
            headers(GET + named(0x00, 4) + HUFFMAN_VALUE),
            response,
        ),
        case(
            "a literal that is not indexed, of a new name",
            headers(GET + b"\x00" + NAME + VALUE),
            response,
        ),
        case(
            "a literal that is not indexed, of a new name, in Huffman's code",
            headers(GET + b"\x00" + HUFFMAN_NAME + HUFFMAN_VALUE),
            response,
        ),
        case(
            "a literal that is never indexed, of an indexed name",
            headers(GET + named(0x10, 4) + VALUE),
            response,
        ),
        case(
            "a literal that is never indexed, of an indexed name, in Huffman's code",
            headers(GET + named(0x10, 4) + HUFFMAN_VALUE),
            response,
        ),
        case(
            "a literal that is never indexed, of a new name",
            headers(GET + b"\x10" + NAME + VALUE),
            response,
        ),
        case(
            "a literal that is never indexed, of a new name, in Huffman's code",
            headers(GET + b"\x10" + HUFFMAN_NAME + HUFFMAN_VALUE),
            response,
        ),
        case("a table of 128 bytes", headers(b"\x3f\x61" + GET), response),
        case("a table of 128 bytes, then 4096", headers(b"\x3f\x61\x3f\xe1\x1f" + GET), response),
    ],
    "http2/3.5": [
        Case("a preface and settings", (first_settings,)),
        Case("a preface that is none", (b"INVALID CONNECTION PREFACE\r\n\r\n", BREAKS)),
    ],
    "http2/4.1": [
        case("a frame of unknown type", UNKNOWN + ping(), pong),
        case("flags that mean nothing", ping(flags=NO_FLAGS), pong),
        case("the reserved bit", frame(PING, WORD, NO_FLAGS, RESERVED), pong),
    ],
    "http2/4.2": [
        case("DATA as large as may be", upload_of_frame_size(0), response),
        case("DATA that is too large", upload_of_frame_size(1), stream_error(FRAME_SIZE_ERROR)),
        case(
            "HEADERS that are too large",
            headers(GET + block(*((f"x-dummy{at}", LONG) for at in range(5)))),
            WRONG_SIZE,
        ),
    ],
    "http2/4.3": [
        case("a field block that is none", headers(b"\x40"), UNREADABLE),
        case(
            "PRIORITY within a field block",
            UNFINISHED + priority(urgency()) + continuation(),
            BREAKS,
        ),
        case(
            "HEADERS of another stream within a field block",
            UNFINISHED + headers(stream=3) + continuation(),
            BREAKS,
        ),
    ],
    "http2/5.1": [
        case("idle: DATA", data(), BREAKS),
        case("idle: RST_STREAM", reset(), BREAKS),
        case("idle: WINDOW_UPDATE", window(1, 100), BREAKS),
        case("idle: CONTINUATION", continuation(GET), BREAKS),
        case("half-closed: DATA", headers() + data(), CLOSED),
        case("half-closed: HEADERS", headers() + headers(), CLOSED),
        case(
            "half-closed: CONTINUATION",
            headers() + continuation(GET),
            stream_error(STREAM_CLOSED, PROTOCOL_ERROR),
        ),
        case("reset: DATA", OPEN + reset() + data(), CLOSED),
        case("reset: HEADERS", OPEN + reset() + headers(), CLOSED),
        case(
            "reset: CONTINUATION",
            OPEN + reset() + continuation(),
            stream_error(STREAM_CLOSED, PROTOCOL_ERROR),
        ),
        case("closed: DATA", headers(), response_ends, data(), CLOSED),
        case(
            "closed: HEADERS", headers(), response_ends, headers(), connection_error(STREAM_CLOSED)
        ),
        case(
            "closed: CONTINUATION",
            headers(),
            response_ends,
            continuation(),
            connection_error(STREAM_CLOSED, PROTOCOL_ERROR),
        ),
    ],
    "http2/5.1.1": [
        case("a stream of an even number", headers(stream=2), BREAKS),
        case(
            "a stream of a lower number than the last",
            headers(stream=5) + headers(stream=3),
            BREAKS,
        ),
    ],
    "http2/5.1.2": [
        case(
            "more streams at once than there may be",
            one_stream_too_many,
            stream_error(PROTOCOL_ERROR, REFUSED_STREAM),
        )
    ],
    "http2/5.3.1": [
        case(
            "HEADERS that depend on their own stream",
            headers(urgency(1) + GET, WHOLE | PRIORITISED),
            RESETS,
        ),
        case("PRIORITY that depends on its own stream", priority(urgency(1)), RESETS),
    ],
    "http2/5.4.1": [
        case("an error, to see the end", frame(PING, WORD, stream=3), closes),
        case(
            "an error, to see GOAWAY",  # with --strict
            frame(PING, WORD, stream=3),
            says(GOAWAY, PROTOCOL_ERROR),
        ),
    ],
    "http2/5.5": [
        case("a frame of unknown type", UNKNOWN + ping(), pong),
        case("a frame of unknown type within a field block", UNFINISHED_REQUEST + UNKNOWN, BREAKS),
    ],
    "http2/6.1": [
        case("DATA on no stream", data(stream=0), BREAKS),
        case("DATA on a half-closed stream", headers(POST) + data(), CLOSED),
        case(
            "DATA with more padding than there is",
            request(*POSTED, ("content-length", "4"), flags=END_HEADERS)
            + data(b"\x06test", END_STREAM | PADDED),
            BREAKS,
        ),
    ],
    "http2/6.2": [
        case(
            "PRIORITY within a field block",
            UNFINISHED + priority(urgency()) + continuation(),
            BREAKS,
        ),
        case(
            "HEADERS of another stream within a field block",
            UNFINISHED + headers(stream=3) + continuation(),
            BREAKS,
        ),
        case("HEADERS on no stream", headers(stream=0), BREAKS),
        case(
            "HEADERS with more padding than there is",
            headers(bytes([len(GET) + 2]) + GET, WHOLE | PADDED),
            RESETS,
        ),
    ],
    "http2/6.3": [
        case("PRIORITY on no stream", priority(urgency(), 0), BREAKS),
        case(
            "PRIORITY that is too short",
            headers() + priority(urgency()[:4]),
            stream_error(FRAME_SIZE_ERROR),
        ),
    ],
    "http2/6.4": [
        case("RST_STREAM on no stream", reset(0), BREAKS),
        case("RST_STREAM on an idle stream", reset(), BREAKS),
        case(
            "RST_STREAM that is too short",
            headers() + frame(RST_STREAM, bytes(3), stream=1),
            stream_error(FRAME_SIZE_ERROR),
        ),
    ],
    "http2/6.5": [
        case("an acknowledgement with content", frame(SETTINGS, bytes(1), ACK), WRONG_SIZE),
        case(
            "SETTINGS on a stream",
            frame(SETTINGS, bytes([0, MAX_CONCURRENT_STREAMS, 0, 0, 0, 100]), stream=1),
            BREAKS,
        ),
        case(
            "half of a setting",
            frame(SETTINGS, bytes([0, MAX_CONCURRENT_STREAMS, 0])),
            stream_error(PROTOCOL_ERROR, FRAME_SIZE_ERROR),
        ),
    ],
    "http2/6.5.2": [
        case("ENABLE_PUSH of 2", settings((ENABLE_PUSH, 2)), BREAKS),
        case(
            "INITIAL_WINDOW_SIZE that is too large",
            settings((INITIAL_WINDOW_SIZE, LARGEST_WINDOW + 1)),
            connection_error(FLOW_CONTROL_ERROR),
        ),
        case("MAX_FRAME_SIZE that is too small", settings((MAX_FRAME_SIZE, 2**14 - 1)), BREAKS),
        case("MAX_FRAME_SIZE that is too large", settings((MAX_FRAME_SIZE, 2**24)), BREAKS),
        case("an unknown setting", settings((0xFF, 1)) + ping(), pong),
    ],
    "http2/6.5.3": [
        case(
            "one setting twice",
            settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)),
            acknowledged,
            headers(),
            octets(1),
        ),
        case("SETTINGS", settings((ENABLE_PUSH, 0)), acknowledged),
    ],
    "http2/6.7": [
        case("PING", ping(), pong),
        case("an acknowledgement of no PING", ping(b"no PING ", ACK) + ping(), pong),
        case("PING on a stream", frame(PING, WORD, stream=1), BREAKS),
        case("PING that is too short", frame(PING, bytes(6)), WRONG_SIZE),
    ],
    "http2/6.8": [case("GOAWAY on a stream", frame(GOAWAY, bytes(8), 0, 1), BREAKS)],
    "http2/6.9": [
        case("WINDOW_UPDATE by 0", window(0, 0), BREAKS),
        case("WINDOW_UPDATE of a stream by 0", OPEN + window(1, 0), RESETS),
        case("WINDOW_UPDATE that is too short", frame(WINDOW_UPDATE, b"\x00\x00\x01"), WRONG_SIZE),
    ],
    "http2/6.9.1": [
        case(
            "a window of 1", settings((INITIAL_WINDOW_SIZE, 1)), acknowledged, headers(), octets(1)
        ),
        case(
            "more window than there may be",
            window(0, LARGEST_WINDOW) * 2,
            says(GOAWAY, FLOW_CONTROL_ERROR),
        ),
        case(
            "more window of a stream than there may be",
            OPEN + window(1, LARGEST_WINDOW) * 2,
            says(RST_STREAM, FLOW_CONTROL_ERROR, 1),
        ),
    ],
    "http2/6.9.2": [
        case(
            "a window that is opened by SETTINGS",
            NO_WINDOW,
            acknowledged,
            headers() + settings((INITIAL_WINDOW_SIZE, 1)),
            octets(1),
        ),
        case(
            "a window below 0",
            settings((INITIAL_WINDOW_SIZE, 3)),
            acknowledged,
            headers(),
            octets(3),
            settings((INITIAL_WINDOW_SIZE, 2)),
            acknowledged,
            window(1, 2),
            octets(1),
        ),
        case(
            "a window that is too large",
            settings((INITIAL_WINDOW_SIZE, LARGEST_WINDOW + 1)),
            connection_error(FLOW_CONTROL_ERROR),
        ),
    ],
    "http2/6.10": [
        case(
            "two CONTINUATION frames",
            UNFINISHED_REQUEST + continuation(flags=0) + continuation(),
            response,
        ),
        case("CONTINUATION, then DATA", headers(POST, 0) + continuation(flags=0) + data(), BREAKS),
        case("CONTINUATION on no stream", UNFINISHED_REQUEST + continuation(stream=0), BREAKS),
        case("CONTINUATION after a whole field block", headers() + continuation(), BREAKS),
        case("CONTINUATION after the last one", UNFINISHED_REQUEST + continuation() * 2, BREAKS),
        case(
            "CONTINUATION after DATA",
            headers(POST, 0) + data() + continuation(flags=0) + continuation(stream=0),
            BREAKS,
        ),
    ],
    "http2/7": [
        case("GOAWAY with an unknown code", goaway(0xFF) + ping(), pong_or_close),
        case("RST_STREAM with an unknown code", UPLOAD + reset(code=0xFF) + ping(), pong),
    ],
    "http2/8.1": [
        case(
            "trailers that do not end the stream",
            UPLOAD + data(flags=0) + headers(TRAILERS, END_HEADERS),
            RESETS,
        )
    ],
    "http2/8.1.2": [case("a name in capitals", request(*FIELDS, ("X-TEST", "ok")), RESETS)],
    "http2/8.1.2.1": [
        case("an unknown pseudo-header field", request(*FIELDS, (":test", "ok")), RESETS),
        case("the pseudo-header field of a response", request(*FIELDS, (":status", "200")), RESETS),
        case(
            "a pseudo-header field in trailers",
            UPLOAD + data(flags=0) + headers(block(POSTS), END_HEADERS),
            RESETS,
        ),
        case("pseudo-header fields after another one", request(("x-test", "ok"), *FIELDS), RESETS),
    ],
    "http2/8.1.2.2": [
        case("Connection", request(*FIELDS, ("connection", "keep-alive")), RESETS),
        case(
            "TE with more than trailers",
            request(*FIELDS, ("trailers", "test"), ("te", "trailers, deflate")),
            RESETS,
        ),
    ],
    "http2/8.1.2.3": [
        case("an empty :path", request(METHOD, SCHEME, (":path", ""), AUTHORITY), RESETS),
        case("no :method", request(SCHEME, PATH, AUTHORITY), RESETS),
        case("no :scheme", request(METHOD, PATH, AUTHORITY), RESETS),
        case("no :path", request(METHOD, SCHEME, AUTHORITY), RESETS),
        *(
            case(f"{twice[0]} twice", request(*FIELDS, twice), RESETS)
            for twice in (METHOD, SCHEME, PATH)
        ),
    ],
    "http2/8.1.2.6": [
        case(
            "a Content-Length that is not that of one DATA frame",
            request(*POSTED, ("content-length", "1"), flags=END_HEADERS) + data(),
            RESETS,
        ),
        case(
            "a Content-Length that is not that of two DATA frames",
            request(*POSTED, ("content-length", "1"), flags=END_HEADERS) + data(flags=0) + data(),
            RESETS,
        ),
    ],
    "http2/8.2": [
        case(
            "PUSH_PROMISE",
            frame(PUSH_PROMISE, (3).to_bytes(4, "big") + GET, END_HEADERS, 1),
            BREAKS,
        )
    ],
    "hpack/2.3.3": [
        case("an indexed field, above the index", headers(GET + b"\xc6"), UNREADABLE),
        case("an indexed name, above the index", headers(GET + b"\x7f\x07\x00"), UNREADABLE),
    ],
    "hpack/4.2": [case("the size of the table, after a field", headers(GET + b"\x21"), UNREADABLE)],
    "hpack/5.2": [
        case(
            "Huffman's code with a byte too much",
            headers(GET + b"\x00" + HUFFMAN_NAME + b"\x84\x49\x50\x9f\xff"),
            UNREADABLE,
        ),
        case(
            "Huffman's code filled up with zeros",
            headers(GET + b"\x00" + HUFFMAN_NAME + b"\x83\x49\x50\x90"),
            UNREADABLE,
        ),
        case(
            "Huffman's code for the end of a string",
            headers(GET + b"\x00" + HUFFMAN_NAME + b"\x87\xff\xff\xff\xfd\x25\x42\x7f"),
            UNREADABLE,
        ),
    ],
    "hpack/6.1": [case("index 0", headers(GET + b"\x80"), UNREADABLE)],
    "hpack/6.3": [case("a table larger than it may be", table_too_large, UNREADABLE)],
}

CASES: Final = {
    f"{section}/{at}": each
    for section, cases in SECTIONS.items()
    for at, each in enumerate(cases, 1)
}
