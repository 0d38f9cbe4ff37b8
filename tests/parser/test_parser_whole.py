"""Requests that are read in one piece each are the requests that their events tell of."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import fuzz, ours

from twisted_hangup.events import NEED_DATA, RequestHead
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser

FIELDS = b"Host: a\r\nX-Thing: 1\r\n\r\n"
GET = b"GET /first HTTP/1.1\r\n" + FIELDS


def used(*reads: bytes, limits: Limits | None = None) -> RequestParser:
    """A parser that has read *reads*."""
    parser = RequestParser(limits or Limits())
    for data in reads:
        parser.receive(data)
        while parser.next_event() is not NEED_DATA:
            pass
    return parser


def test_same_fields_again() -> None:
    """The head is told at once, with the same fields, and the parser is ready for the next one."""
    parser = used(GET)
    head = parser.whole(b"HEAD /second?a=b HTTP/1.1\r\n" + FIELDS)
    assert head is not None
    assert (head.method, head.target, head.version) == (b"HEAD", b"/second?a=b", b"1.1")
    assert head.fields == [(b"Host", b"a"), (b"X-Thing", b"1")] and head.keep_alive
    again = parser.whole(GET)
    assert again is not None and again.fields is head.fields
    assert parser.phase == "idle" and parser.next_event() is NEED_DATA


def test_fields_that_another_parser_has_read() -> None:
    """A new parser that is given them tells the first request at once, and any other by events."""
    section = used(GET).section
    assert section is not None
    head = RequestParser(section=section).whole(GET)
    assert head is not None and head.fields is section.fields
    other = GET.replace(b"Thing: 1", b"Thing: 2")
    parser = RequestParser(section=section)
    assert parser.whole(other) is None
    parser.receive(other)
    told = parser.next_event()
    assert isinstance(told, RequestHead) and told.fields[1] == (b"X-Thing", b"2")
    parser.close()
    assert parser.section is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GET[:-1],
        b"\r\n" + GET,
        b"GET /first HTTP/1.0\r\n" + FIELDS,
        b"GET  /first HTTP/1.1\r\n" + FIELDS,
        b"get /first HTTP/1.1\r\n" + FIELDS,
        b"CONNECT a:1 HTTP/1.1\r\n" + FIELDS,
        b"PRI * HTTP/2.0\r\n" + FIELDS,
        b"GET /\x80 HTTP/1.1\r\n" + FIELDS,
        b"GET / HTTP/1.1\r\nX: 1\r\n" + FIELDS,
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + FIELDS,
        b"GET / HTTP/1.1\r\n" + FIELDS.replace(b"1", b"2"),
        FIELDS,
    ],
)
def test_anything_else_is_left_to_the_events(data: bytes) -> None:
    """Nothing is said of it, and nothing taken."""
    parser = used(GET)
    assert parser.whole(data) is None
    parser.receive(GET)
    assert isinstance(parser.next_event(), RequestHead)


def test_several_in_one_read() -> None:
    """They are told one after the other, and the bytes after them wait for the events."""
    parser = used(GET)
    second = GET.replace(b"first", b"second")
    other = b"GET /other HTTP/1.1\r\nHost: b\r\n\r\n"
    heads = [parser.whole(GET + second + GET + other + b"G"), parser.whole(), parser.whole()]
    assert [head and head.target for head in heads] == [b"/first", b"/second", b"/first"]
    assert parser.whole() is None and parser.buffered == len(other) + 1
    told = parser.next_event()
    assert isinstance(told, RequestHead) and told.target == b"/other"


def test_the_last_request_of_a_connection() -> None:
    """It is told as well, and nothing after it is read."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    first = RequestParser()
    first.receive(request)
    first.next_event()
    parser = RequestParser(section=first.section)
    head = parser.whole(request + GET)
    assert head is not None and not head.keep_alive
    assert parser.closed and not parser.buffered
    assert parser.whole(request) is None and parser.next_event() is NEED_DATA


def test_a_read_that_was_received() -> None:
    """Without a read, the bytes that were received are looked at, read by read."""
    parser = used(GET)
    assert parser.whole() is None
    parser.receive(GET + GET)
    parser.receive(GET + b"G")
    assert all(parser.whole() for _ in range(3))
    assert parser.whole() is None and parser.buffered == 1


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: a\r\nContent-Length: 1\r\n\r\n",
        b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_fields_that_say_more_are_left_to_the_events(fields: bytes) -> None:
    """A body and an upgrade are no common case."""
    request = b"GET / HTTP/1.1\r\n" + fields
    parser = RequestParser()
    parser.receive(request)
    parser.next_event()
    assert parser.whole(request) is None


@pytest.mark.parametrize("reads", [[], [GET[:30]], [b"\r\n"], [GET, b"G"]])
def test_bytes_that_wait_come_first(reads: list[bytes]) -> None:
    """What a message has begun with, or an empty line, is not passed over."""
    assert used(*reads).whole(GET) is None


@pytest.mark.parametrize("require_host", [True, False])
def test_never_otherwise_than_the_events(require_host: bool) -> None:
    """Of thousands of mutated streams none is told in two ways."""
    limits = Limits(require_host=require_host)
    streams = [b"".join(reads) for reads in fuzz.mutants(10_000, seed=12 + require_host)]
    streams += [seed for seed in fuzz.seeds() if seed]
    verdicts = [ours.whole_disagrees(stream, limits) for stream in streams]
    assert not [stream for stream, wrong in zip(streams, verdicts, strict=True) if wrong]
    assert verdicts.count(False) > 100, "the mutants no longer reach it"


#: What a client may send several of: mostly the same, now and then anything else.
MESSAGES = [
    *(GET, GET, GET, GET.replace(b"/first", b"/second?a=b"), GET.replace(b"GET", b"HEAD")),
    *(GET.replace(b"1.1", b"1.0"), GET.replace(b" /", b"  /"), GET.replace(b"/first", b"*")),
    *(GET.replace(b"Host", b"Connection: close\r\nHost"), GET.replace(b"X-Thing", b"X Thing")),
    *(GET.replace(b"X-Thing", b"Content-Length"), GET.replace(b"GET", b"BREW"), b"\r\n", b"x"),
    *(GET.replace(b"X-Thing: 1", b"X-Thing: 2"), GET.replace(b"1\r\n\r\n", b"1\r\n \r\n")),
]


@settings(max_examples=2_000, derandomize=True, database=None)
@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.lists(st.integers(1, 400), max_size=3))
def test_several_never_otherwise_than_the_events(messages: list[bytes], cuts: list[int]) -> None:
    """However a stream is cut: the same messages, the same error at the same place."""
    wire = b"".join(messages)
    ends = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    reads = [wire[start:end] for start, end in pairwise(ends) if start < end]
    assert ours.story(used(GET), reads, whole=True) == ours.story(used(GET), reads, whole=False)


def test_nothing_is_read_once_closed() -> None:
    """A parser that was closed judges nothing more."""
    parser = used(GET)
    parser.close()
    assert parser.whole(GET) is None
