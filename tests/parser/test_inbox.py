"""What is judged ahead comes out in its turn, unchanged, and no more waits than is allowed."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parsing import own_size

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA, BodyData, EndOfMessage, Event, RequestHead
from twisted_hangup.limits import KIB, Limits
from twisted_hangup.parser import RequestParser
from twisted_hangup.parser.inbox import LARGEST_PACKET, MOST_EVENTS, MOST_MESSAGES, RequestInbox

GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE: Final = GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
BROKEN: Final = GET.replace(b"Host", b"Ho st")
READ: Final = 64 * KIB


def running(*reads: bytes) -> tuple[RequestInbox, RequestHead]:
    """An inbox that has handed out a whole GET and received *reads* since; and that GET."""
    inbox = RequestInbox(Limits())
    inbox.receive(GET)
    head, end = inbox.next_event(), inbox.next_event()
    assert isinstance(head, RequestHead) and isinstance(end, EndOfMessage)
    for data in reads:
        inbox.receive(data)
    return inbox, head


def judge_all(inbox: RequestInbox, head: RequestHead) -> None:
    while inbox.judge_ahead(head) is not NEED_DATA:
        pass


def rest(parser: RequestParser) -> list[Event]:
    """All events that still come out."""
    events: list[Event] = []
    while (event := parser.next_event()) is not NEED_DATA:
        events.append(event)
    return events


def test_nothing_waits() -> None:
    """An inbox in which nothing waits is a parser, and weighs no more than one."""
    inbox, head = running()
    assert inbox.judge_ahead(head) is NEED_DATA
    assert (inbox.events_wait, inbox.full, inbox.phase) == (False, False, "idle")
    assert own_size(RequestInbox(Limits())) <= own_size(RequestParser()) + 40


def test_events_come_in_their_turn() -> None:
    """What was judged ahead comes first, then what was not."""
    inbox, head = running(POST)
    judge_all(inbox, head)
    inbox.receive(GET)
    assert inbox.events_wait
    post, *body, get, end = rest(inbox)
    assert isinstance(post, RequestHead) and isinstance(get, RequestHead)
    assert body == [BodyData(b"abc"), EndOfMessage()] and end == EndOfMessage()
    assert not inbox.events_wait


@given(
    st.lists(st.sampled_from([GET, POST, CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"]), max_size=9),
    st.lists(st.integers(0, 600), max_size=9),
    st.lists(st.booleans(), max_size=60),
)
def test_judging_ahead_changes_nothing(
    messages: list[bytes], cuts: list[int], turns: list[bool]
) -> None:
    """Whenever it is done, the same events come out as of a parser."""
    wire = b"".join(messages)
    parser = RequestParser()
    inbox, head = running()
    events: list[Event] = []
    expected: list[Event] = []
    for start, end in pairwise([0, *sorted(cuts), len(wire)]):
        for each in (parser, inbox):
            each.receive(wire[start:end])
        expected += rest(parser)
        while turns and turns.pop():
            inbox.judge_ahead(head)
        events += rest(inbox)
    assert events == expected
    assert not inbox.events_wait and not inbox.full


@st.composite
def framed(draw: st.DrawFn) -> bytes:
    """A message whose body may be framed in any way, right or wrong."""
    if draw(st.booleans()):
        size = draw(st.integers(1, 60))
        return POST.replace(b": 3", b": %d" % size)[:-3] + bytes(draw(st.integers(0, size)))
    ends = st.sampled_from(
        [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b";a=b\r\n", b" \r\n"]
    )
    wire = CHUNKED
    for _ in range(draw(st.integers(0, 8))):
        size = draw(st.integers(1, 20))
        line = draw(st.sampled_from([b"%x", b"%X", b"%016x", b"%017x", b"g%x", b""]))
        wire += (line % size if line else line) + draw(ends)
        wire += b"x" * draw(st.sampled_from([size, size, size, size - 1])) + draw(ends)
    return wire + draw(
        st.sampled_from([b"0\r\n\r\n", b"0\r\n\r\n" + GET, b"0\r\nT: u\r\n\r\n", b""])
    )


class Story:
    """All that comes out of *reads*: heads, bytes of bodies, ends, and the error."""

    def __init__(self, parser: RequestParser, reads: list[bytes], as_read: list[bool]) -> None:
        self.events: list[Event] = []
        self.packets: list[bytes | None] = []
        try:
            for data in reads:
                parser.receive(data)
                self._read(parser, as_read)
            parser.finish()
        except ParseError as error:
            names = ("code", "reason", "phase", "offset", "field", "status", "request")
            facts = {name: getattr(error, name) for name in names}
            where = error.broke_at
            assert where is not None
            self.events.append((facts, where.part, where.line, where.caret))  # type: ignore[arg-type]
            self.packets.append(error.raw_packet)

    def _read(self, parser: RequestParser, as_read: list[bool]) -> None:
        while True:
            if isinstance(parser, RequestInbox) and as_read and as_read.pop():
                pieces, weight = parser.take_body()
                assert sum(map(len, pieces)) <= weight or not pieces
                event: Event = BodyData(b"".join(pieces)) if pieces else parser.next_event()
            else:
                event = parser.next_event()
            if event is NEED_DATA:
                return
            last = self.events[-1] if self.events else None
            if isinstance(event, BodyData) and isinstance(last, BodyData):
                assert event.data
                self.events[-1] = BodyData(last.data + event.data)
            else:
                self.events.append(event)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(framed(), max_size=3),
    st.lists(st.integers(0, 400), max_size=6),
    st.lists(st.booleans(), max_size=60),
    st.sampled_from([0, 25]),
)
def test_bodies_as_they_were_read(
    messages: list[bytes], cuts: list[int], as_read: list[bool], most: int
) -> None:
    """Taken without a copy, out of reads of any length, it is what comes byte by byte."""
    wire = b"".join(messages)
    limits = Limits(body_bytes=most)
    reads = [wire[start:end] for start, end in pairwise([0, *sorted(cuts), len(wire)])]
    single = [wire[at : at + 1] for at in range(len(wire))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twisted_hangup.parser.inbox.LARGEST_PACKET", 16)
        story = Story(RequestInbox(limits), reads, as_read)
    assert story.events == Story(RequestParser(limits), single, []).events
    assert all(packet is None or len(packet) <= 16 for packet in story.packets)


def test_a_long_read_is_judged_in_packets() -> None:
    """What comes after a body in the same read is not the body's packet, and no longer than one."""
    inbox, _ = running(POST.replace(b": 3", b": %d" % (3 * READ)))
    inbox.receive(bytes(3 * READ - 3) + GET * 5000 + BROKEN)
    with pytest.raises(ParseError) as caught:
        rest(inbox)
    packet, at = caught.value.raw_packet, caught.value.bytes_parsed
    assert packet is not None and at is not None and len(packet) <= LARGEST_PACKET
    assert packet[at - 1 : at + 3] == b"o st"


def test_a_broken_message_is_known_at_once() -> None:
    """The error comes before the events in front of it, which are still handed out."""
    inbox, head = running(GET + POST[:-1], b"c" + BROKEN)
    with pytest.raises(ParseError):
        judge_all(inbox, head)
    assert inbox.events_wait
    assert [event for event in rest(inbox) if isinstance(event, EndOfMessage)] == [
        EndOfMessage()
    ] * 2
    assert rest(inbox) == []


def test_drop_incomplete() -> None:
    """Of a message that breaks in its body nothing is left, and the ones before it stay."""
    inbox, head = running(GET + CHUNKED + b"1\r\na\r\nx")
    with pytest.raises(ParseError):
        judge_all(inbox, head)
    inbox.drop_incomplete()
    assert len(rest(inbox)) == 2
    inbox.receive(GET)
    assert (rest(inbox), inbox.events_wait, inbox.full) == ([], False, False)


def test_drop_incomplete_where_none_is_complete() -> None:
    """Then nothing waits, and nothing more is judged."""
    inbox, head = running(POST[:-1])
    judge_all(inbox, head)
    inbox.drop_incomplete()
    inbox.receive(b"c" + GET)
    assert (inbox.events_wait, rest(inbox)) == (False, [])


@pytest.mark.parametrize("after", [GET, b"GET"])
def test_close(after: bytes) -> None:
    """Nothing more is handed out, though it was judged, nor judged, whatever comes."""
    inbox, head = running(POST, after)
    judge_all(inbox, head)
    inbox.close()
    inbox.receive(GET)
    assert inbox.judge_ahead(head) is NEED_DATA
    assert (rest(inbox), inbox.events_wait, inbox.full, inbox.buffered) == ([], False, False, 0)
    inbox.finish()


def test_the_last_message_is_handed_out() -> None:
    """A message that the connection does not outlive ends the judging, and still comes."""
    inbox, head = running(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
    judge_all(inbox, head)
    assert inbox.closed
    assert len(rest(inbox)) == 2


@pytest.mark.parametrize(
    "upgrade", [UPGRADE, UPGRADE.replace(b"Host", b"Content-Length: 1\r\nHost") + b"x"]
)
def test_nothing_after_an_upgrade_is_judged(upgrade: bytes) -> None:
    """It may be another protocol's, which gets it unread."""
    inbox, head = running(upgrade + b"\x00 not HTTP")
    judge_all(inbox, head)
    assert isinstance(rest_of_one(inbox)[-1], EndOfMessage)
    assert inbox.unread() == [b"\x00 not HTTP"]


def rest_of_one(inbox: RequestInbox) -> list[Event]:
    """The events of the oldest message."""
    events = [inbox.next_event()]
    while not isinstance(events[-1], EndOfMessage):
        events.append(inbox.next_event())
    return events


def test_nothing_after_a_running_upgrade_is_judged() -> None:
    """The same where the request that is being answered asks for it."""
    inbox = RequestInbox(Limits())
    inbox.receive(UPGRADE + GET)
    head = inbox.next_event()
    assert isinstance(head, RequestHead)
    inbox.next_event()
    assert inbox.judge_ahead(head) is NEED_DATA
    assert inbox.unread() == [GET]


# --- bounds -----------------------------------------------------------------------------


def reads_until_full(inbox: RequestInbox, head: RequestHead, data: bytes) -> int:
    """How many bytes go in, as a channel does it, before `RequestInbox.full` says enough."""
    for taken in range(0, 4 * 1024 * KIB, len(data)):
        judge_all(inbox, head)
        if inbox.full:
            return taken
        inbox.receive(data)
    raise AssertionError("never full")


def test_a_body_without_end_fills_it() -> None:
    """An upload after a running request waits no further than its first read."""
    inbox, head = running(POST.replace(b": 3", b": 1000000000000"))
    assert reads_until_full(inbox, head, b"x" * READ) == READ
    assert own_size(inbox) < Limits().backlog_bytes + READ + 4 * KIB


def test_what_is_not_judged_fills_it() -> None:
    """So do the bytes of requests after those that may be judged, and of a head that is cut."""
    inbox, head = running(GET * MOST_MESSAGES)
    assert reads_until_full(inbox, head, GET) == 0
    most = Limits().backlog_bytes
    inbox, head = running(b"x" * most)
    assert not inbox.full
    inbox.receive(b"x")
    assert inbox.full


def test_messages_are_bounded() -> None:
    """So many are judged, and the next one when one has gone."""
    inbox, head = running(GET * (MOST_MESSAGES + 1))
    judge_all(inbox, head)
    assert (inbox.full, inbox.buffered) == (True, len(GET))
    rest_of_one(inbox)
    assert inbox.judge_ahead(head) is not NEED_DATA


def test_events_are_bounded() -> None:
    """Bytes of body in a chunk of their own cost more than they weigh."""
    chunk = b"1;a\r\nx\r\n"  # without an extension, the chunks of one read are one event
    inbox, head = running(CHUNKED + chunk * 7_000)
    judge_all(inbox, head)
    assert inbox.full
    assert own_size(inbox) < 128 * KIB
    assert len(rest(inbox)) == 7_001
    assert not inbox.full
    inbox, head = running(CHUNKED + chunk * (MOST_EVENTS - 2))
    judge_all(inbox, head)
    assert not inbox.full


def test_room_comes_back() -> None:
    """When what was judged has been handed out, more is judged; none is lost or doubled."""
    body = bytes(range(256)) * 1024
    inbox, head = running(POST.replace(b": 3", b": %d" % len(body))[:-3])
    taken, pieces = 0, []
    while taken < len(body):
        while not inbox.full and taken < len(body):
            inbox.receive(body[taken : taken + 5000])
            taken += 5000
            judge_all(inbox, head)
        pieces += [event.data for event in rest(inbox) if isinstance(event, BodyData)]
    assert b"".join(pieces) == body


def fields(count: int, at: int, value: bytes = b"") -> bytes:
    return b"".join(b"%x: %b\r\n" % (number, value) for number in range(at, at + count))


@pytest.mark.parametrize(
    ("start", "count", "value"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 900, b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 4, b"x" * 3000),
        (b"GET /" + b"x" * 15_000 + b" HTTP/1.1\r\nHost: a\r\n", 0, b""),
        (CHUNKED + b"0\r\n", 900, b""),
        (CHUNKED + b"0\r\n", 4, b"x" * 3000),
    ],
    ids=["fields", "values", "target", "trailers", "trailer-values"],
)
@pytest.mark.parametrize("cut", [1000, READ])
def test_field_sections_are_bounded(start: bytes, count: int, value: bytes, cut: int) -> None:
    """What a head or trailers hold counts, by the octet and by the line."""
    messages = [start + fields(count, at * count, value) + b"\r\n" for at in range(400)]
    wire = b"".join(messages)
    inbox, head = running()
    for at in range(0, len(wire), cut):
        judge_all(inbox, head)
        if inbox.full:
            break
        inbox.receive(wire[at : at + cut])
    assert at <= Limits().backlog_bytes + 2 * max(len(messages[0]), READ)
    assert own_size(inbox) < 2 * READ + 128 * KIB
    inbox.receive(wire[at:])
    assert len(rest_of_all(inbox)) == len(messages)
    assert not inbox.full


def rest_of_all(inbox: RequestInbox) -> list[Event]:
    return [event for event in rest(inbox) if isinstance(event, EndOfMessage)]


def test_fields_that_are_shared_count_once() -> None:
    """A client that sends the same fields again and again is read ahead as far as any."""
    many = GET.replace(b"\r\n\r\n", b"\r\n" + fields(30, 4096, b"x") + b"\r\n")
    inbox, head = running(many * MOST_MESSAGES)
    judge_all(inbox, head)
    assert inbox.buffered == 0
