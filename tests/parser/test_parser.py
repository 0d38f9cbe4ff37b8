"""RequestParser as its caller sees it: events, phases, what it keeps and what it lets go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from time import process_time
from typing import Final

import pytest
from support.parsing import own_size

from twisted_hangup.errors import ParseError
from twisted_hangup.events import (
    NEED_DATA,
    BodyData,
    EndOfMessage,
    Event,
    RequestHead,
)
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser

GET: Final = b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
GET_HEAD: Final = RequestHead(b"GET", b"/a?b", b"1.1", [(b"Host", b"a")])


def fed(*reads: bytes, limits: Limits | None = None) -> RequestParser:
    """A parser that has received *reads* and judged none."""
    parser = RequestParser(limits or Limits())
    for data in reads:
        parser.receive(data)
    return parser


def drain(parser: RequestParser) -> list[Event]:
    """All events there are, without the `NEED_DATA` after them."""
    events: list[Event] = []
    while (event := parser.next_event()) is not NEED_DATA:
        events.append(event)
    return events


# --- events -----------------------------------------------------------------------------


def test_bodiless_request() -> None:
    """A request without a body is a head and its end."""
    assert drain(fed(GET)) == [GET_HEAD, EndOfMessage()]


def test_body_of_known_length() -> None:
    """A body comes out as it came in: the data of each read, nothing joined."""
    events = drain(fed(POST + b"ab", b"c", b"de"))
    head, *rest = events
    assert isinstance(head, RequestHead)
    assert (head.content_length, head.chunked, head.has_body) == (5, False, True)
    assert rest == [BodyData(b"ab"), BodyData(b"c"), BodyData(b"de"), EndOfMessage()]


def test_empty_body_of_known_length() -> None:
    """A length of 0 is told, and has no data."""
    head, *rest = drain(fed(POST.replace(b"5", b"0")))
    assert isinstance(head, RequestHead)
    assert head.content_length == 0
    assert rest == [EndOfMessage()]


def test_chunked_body() -> None:
    """Chunks come out without their framing, and trailers with the end."""
    wire = b'3;a="b"\r\nabc\r\n00a\r\n0123456789\r\n0\r\nT: \tu \r\n\r\n'
    head, *rest = drain(fed(CHUNKED + wire))
    assert isinstance(head, RequestHead)
    assert (head.content_length, head.chunked, head.has_body) == (None, True, True)
    end = EndOfMessage([(b"T", b"u")])
    assert rest == [BodyData(b"abc0123456789"), end]


def test_fields_as_received() -> None:
    """Names keep their case, values lose the white space around them and nothing else."""
    wire = b"GET / HTTP/1.1\r\nhOsT:a\r\nX: \t b \xff\tc \t\r\nX:\r\n\r\n"
    fields = [(b"hOsT", b"a"), (b"X", b"b \xff\tc"), (b"X", b"")]
    for reads in ([wire], [wire[:30], wire[30:]]):
        head = drain(fed(*reads))[0]
        assert isinstance(head, RequestHead)
        assert head.fields == fields


def test_pipelined_requests() -> None:
    """Requests after one another come out one by one, whatever reads they came in."""
    expected = [GET_HEAD, EndOfMessage(), GET_HEAD, EndOfMessage()]
    assert drain(fed(GET + GET)) == expected
    assert drain(fed(GET + GET[:9], GET[9:])) == expected
    assert drain(fed(GET + b"\r\n", GET)) == expected


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive", "upgrade"),
    [
        (b"1.1", b"", True, False),
        (b"1.1", b"Connection: Close\r\n", False, False),
        (b"1.1", b"Connection: x, close\t,y\r\n", False, False),
        (b"1.1", b"Connection: closed\r\nConnection: not close\r\n", True, False),
        (b"1.1", b"Connection: x\r\nconnection:close\r\n", False, False),
        (b"1.1", b"Proxy-Connection: close\r\n", False, False),
        (b"1.0", b"", False, False),
        (b"1.0", b"Connection: keep-alive\r\n", True, False),
        (b"1.0", b"Connection: close\r\n", False, False),
        (b"1.1", b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n", True, True),
        (b"1.1", b"Upgrade: h2c\r\n", True, False),
        (b"1.1", b"Connection: upgrade\r\n", True, False),
        (b"1.1", b"Connection: upgrade\r\nUpgrade:\r\n", True, False),
    ],
)
def test_connection(version: bytes, lines: bytes, keep_alive: bool, upgrade: bool) -> None:
    """Persistence and upgrade are told as llhttp tells them, by both readers."""
    wire = b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + lines + b"\r\n"
    for reads in ([wire], [wire[:7], wire[7:]]):
        head = drain(fed(*reads))[0]
        assert isinstance(head, RequestHead)
        assert (head.keep_alive, head.upgrade) == (keep_alive, upgrade)


def test_upgrade_keeps_its_framing() -> None:
    """The parser goes on after an upgrade; whoever switches protocols stops it."""
    wire = POST.replace(b"Host", b"Connection: upgrade\r\nUpgrade: x\r\nHost")
    assert drain(fed(wire + b"abcde"))[1:] == [BodyData(b"abcde"), EndOfMessage()]


def test_connect_is_an_upgrade() -> None:
    """CONNECT asks for a tunnel."""
    head = fed(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").next_event()
    assert isinstance(head, RequestHead)
    assert head.upgrade


# --- closing ----------------------------------------------------------------------------


def test_nothing_is_parsed_after_the_last_request() -> None:
    """After a request that is the last one, bytes are dropped and no error."""
    last = GET.replace(b"Host", b"Connection: close\r\nHost")
    parser = fed(last + b"\x16\x03", b"\x01")
    assert len(drain(parser)) == 2
    assert parser.closed
    parser.receive(b"\x01")
    assert parser.buffered == 0
    assert drain(parser) == []
    parser.finish()


def test_nothing_is_parsed_after_an_error() -> None:
    """After an error the parser is closed for good."""
    parser = fed(b"\x16", GET)
    with pytest.raises(ParseError):
        parser.next_event()
    parser.receive(GET)
    assert parser.closed
    assert parser.buffered == 0
    assert parser.next_event() is NEED_DATA
    parser.finish()


@pytest.mark.parametrize("begun", [b"", b"GET /", GET, POST + b"a"])
def test_close(begun: bytes) -> None:
    """Closing drops all that waits, at any point."""
    parser = fed(begun)
    parser.next_event()
    parser.receive(GET)
    parser.close()
    assert (parser.next_event(), parser.buffered, parser.phase) == (NEED_DATA, 0, "idle")
    assert parser.pending_request is None
    parser.finish()


def test_unread() -> None:
    """The bytes after an upgrade request are handed over as they came, unjudged."""
    parser = fed(GET + b"\x81\x01a", b"\x81\x01b", b"\x81\x01c")
    assert parser.next_event() == GET_HEAD
    assert parser.unread() == [b"\x81\x01a", b"\x81\x01b", b"\x81\x01c"]
    assert parser.closed
    assert parser.unread() == []


def test_unread_after_the_end() -> None:
    """It makes no difference whether the end of the message was fetched."""
    parser = fed(GET + b"x")
    assert len([parser.next_event(), parser.next_event()]) == 2
    assert parser.unread() == [b"x"]


# --- state ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "phase", "method"),
    [
        (b"", "idle", None),
        (b"\r\n\n", "idle", None),
        (b"G", "head", None),
        (b"GET /", "head", None),
        (b"GET / ", "head", b"GET"),
        (b"GET / HTTP/1.1\r\nA: b\r\n", "head", b"GET"),
        (POST, "body", b"POST"),
        (POST + b"abcd", "body", b"POST"),
        (POST + b"abcde", "idle", None),
        (CHUNKED, "body", b"POST"),
        (CHUNKED + b"1\r\na\r\n0\r\n", "body", b"POST"),
        (CHUNKED + b"0\r\n\r\n", "idle", None),
        (GET, "idle", None),
        (GET + b"\r\n", "idle", None),
        (GET + b"P", "head", None),
    ],
)
def test_phase(wire: bytes, phase: str, method: bytes | None) -> None:
    """The phase and the request in it, once all bytes have been judged."""
    for reads in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        parser = fed(*reads)
        drain(parser)
        assert parser.phase == phase
        pending = parser.pending_request
        assert (pending and pending.method) == method


def test_pending_request_grows() -> None:
    """What there is of a request can be seen before its head is complete."""
    parser = fed(b"GET /x HTTP/1.0\r\nA: b\r\nC: d")
    drain(parser)
    assert parser.pending_request == RequestHead(b"GET", b"/x", b"1.0", [(b"A", b"b")])


def test_between_head_and_end() -> None:
    """A request given out is pending until its end has been, too."""
    for reads in ([GET], [GET[:9], GET[9:]]):
        parser = fed(*reads)
        head = parser.next_event()
        assert parser.pending_request is head
        assert parser.phase == "body"
        parser.finish()
        parser.next_event()
        assert parser.pending_request is None
        assert parser.phase == "idle"


def test_buffered() -> None:
    """What waits is counted over all reads, less what has been judged."""
    parser = fed(GET + GET, GET, b"GET")
    assert parser.buffered == 3 * len(GET) + 3
    parser.next_event()
    assert parser.buffered == 2 * len(GET) + 3
    drain(parser)
    assert parser.buffered == 0


def test_empty_reads() -> None:
    """A read of nothing changes nothing."""
    parser = fed(b"", GET[:5], b"", GET[5:], b"")
    assert drain(parser) == [GET_HEAD, EndOfMessage()]


# --- repeated field blocks --------------------------------------------------------------


def heads(*wires: bytes) -> list[RequestHead]:
    return [event for event in drain(fed(*wires)) if isinstance(event, RequestHead)]


def test_repeated_field_block() -> None:
    """Heads with the very same field section share its list; another target changes nothing."""
    first, second = heads(GET + GET.replace(b"/a", b"/other"))
    assert second.target == b"/other?b"
    assert second.fields is first.fields


@pytest.mark.parametrize(
    "other",
    [
        GET.replace(b"Host: a", b"Host: b"),
        GET.replace(b"Host: a", b"host: a"),
        GET.replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n"),
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    ],
)
def test_other_field_block(other: bytes) -> None:
    """One byte, or another version, and the list is a new one."""
    first, second = heads(GET + other)
    assert second.fields is not first.fields


def test_repeated_block_in_another_version() -> None:
    """What a block means depends on the version: a Host, and persistence."""
    without_host = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    parser = fed(without_host, without_host.replace(b"1.0", b"1.1"))
    assert len([parser.next_event(), parser.next_event()]) == 2
    with pytest.raises(ParseError, match="Missing Host"):
        parser.next_event()


def test_repeated_block_near_the_limit() -> None:
    """A block that fitted with one target need not fit with a longer one."""
    parser = fed(GET, GET.replace(b"/a", b"/" + b"a" * 95), limits=Limits(head_bytes=100))
    assert len([parser.next_event(), parser.next_event()]) == 2
    with pytest.raises(ParseError, match="Header overflow"):
        parser.next_event()


# --- cost -------------------------------------------------------------------------------


def test_an_idle_parser_is_small() -> None:
    """Ten thousand connections that have sent nothing cost few bytes each."""
    assert own_size(RequestParser()) < 500
    parser = fed(b"GET / HTTP/1.1\r\nHost: a", b"\r\n\r\n")
    drain(parser)
    assert own_size(parser) < 500


def test_a_parser_in_a_head_is_small() -> None:
    """So do ten thousand that send a head slowly, over what they have sent."""
    parser = fed(b"GET / HTTP/1.1\r\n", b"H")
    drain(parser)
    assert own_size(parser) < 2000


def test_reads_are_let_go() -> None:
    """A long body, or a head of many lines, leaves no bytes behind that were judged."""
    parser = fed(POST.replace(b"5", b"99999999"))
    parser.next_event()
    for _ in range(100):
        parser.receive(b"x" * 1000)
        drain(parser)
    assert own_size(parser) < 2000


def duration(work: Callable[[], object]) -> float:
    """The processor time of *work*, the best of three."""
    times = []
    for _ in range(3):
        start = process_time()
        work()
        times.append(process_time() - start)
    return min(times)


def read_bytewise(wire: bytes) -> None:
    parser = RequestParser(Limits(head_bytes=1 << 30, head_fields=0, leading_crlf=1 << 30))
    for at in range(len(wire)):
        parser.receive(wire[at : at + 1])
        parser.next_event()


@pytest.mark.parametrize(
    "pattern",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n",
        b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n%s: x\r\n\r\n",
    ],
)
def test_a_byte_costs_the_same_however_long_the_line(pattern: bytes) -> None:
    """A client that sends one byte per read costs O(n): four times the line, four times."""
    short, long = pattern % (b"x" * 5_000), pattern % (b"x" * 20_000)
    assert duration(partial(read_bytewise, long)) < 8 * duration(partial(read_bytewise, short))


def evil() -> Iterator[bytes]:
    """Streams that make a careless pattern go back again and again."""
    size = 50_000
    runs = b" |\t|,|a|a |a: |%20|:|a:\r\n|;|@|[|\r".split(b"|")
    starts = [
        *(b"", b"GET ", b"GET /", b"GET http://", b"GET http://a@", b"GET / HTTP/1.1\r\nHost: "),
        *(b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nConnection: ", b"GET / HTTP/1.1\r\nX: "),
        *(b"GET / HTTP/1.1\r\nTransfer-Encoding: ", b"GET / HTTP/1.1\r\nContent-Length: 1"),
    ]
    ends = [b"", b"\r\n\r\n", b"\r\n\n", b" HTTP/1.1\r\n\r\n", b"\x01\r\n\r\n"]
    for start, run, end in product(starts, runs, ends):
        yield start + run * (size // len(run)) + end


def test_no_stream_is_expensive() -> None:
    """50 kB of anything are judged in a time that fits 50 kB."""
    limits = Limits(head_bytes=1 << 30, head_fields=0, leading_crlf=1 << 30)
    for wire in evil():
        start = process_time()
        with suppress(ParseError):
            drain(fed(wire, limits=limits))
        assert process_time() - start < 0.5, wire[:60]
