"""The input of a connection: it judges requests before their turn, within bounds.

A channel owns one `RequestInbox`, and no other parser.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..events import NEED_DATA, BodyData, EndOfMessage, Event, Field, RequestHead
from ..limits import KIB, Limits
from . import body
from .common_head import FieldBlock
from .request import RequestParser

#: Most complete messages that are judged ahead.  What comes after them waits as bytes: a parsed
#: message takes up to ten times the room.
MOST_MESSAGES: Final = 64

#: Most events that are judged ahead: as many as those messages have if each body comes in two
#: pieces.  A chunk of one byte is six bytes on the wire, and an event of a hundred.
MOST_EVENTS: Final = 4 * MOST_MESSAGES

#: Most field lines that are judged ahead.  One without a value is four bytes on the wire, and
#: more than a hundred in memory.
MOST_LINES: Final = 4 * MOST_MESSAGES

#: Most bytes of a read that are judged together, and so of ``ParseError.raw_packet``; bytes of a
#: body come on top.
LARGEST_PACKET: Final = 64 * KIB


class RequestInbox(RequestParser):
    """A `RequestParser` that judges ahead while a request is being answered.

    Call `judge_ahead` until it returns `NEED_DATA`, so that a broken message is known at once.
    Stop reading from the connection while it is `full`.  `next_event` returns the events that were
    judged, each in its turn, and then goes on like any parser.  `phase`, `pending_request`,
    `buffered` and `finish` are about the bytes after the events that wait.
    """

    __slots__ = ("_ahead", "_last_head", "_lines", "_messages", "_octets")

    def __init__(self, limits: Limits, section: FieldBlock | None = None) -> None:
        super().__init__(limits, section)
        #: The events, oldest first, each with its bytes and field lines.  None if there are
        #: none: an empty deque would be the largest part of an idle connection.
        self._ahead: deque[tuple[Event, int, int]] | None = None
        #: Of these events: complete messages, bytes, field lines, and the last head.
        self._messages = 0
        self._octets = 0
        self._lines = 0
        self._last_head: RequestHead | None = None

    @property
    def events_wait(self) -> bool:
        """Whether events wait that were judged ahead."""
        return self._ahead is not None

    @property
    def full(self) -> bool:
        """Whether enough bytes wait here to stop reading.

        That is more than ``Limits.backlog_bytes``, or `MOST_MESSAGES`, `MOST_EVENTS` or
        `MOST_LINES`.
        False once further input is dropped.
        """
        if self.closed:
            return False
        waiting = self._octets + self.buffered
        return waiting > self._limits.backlog_bytes or self._far_enough

    @property
    def _far_enough(self) -> bool:
        """Whether to judge no more ahead; what still comes waits as bytes."""
        ahead = self._ahead
        return ahead is not None and (
            self._messages >= MOST_MESSAGES
            or len(ahead) >= MOST_EVENTS
            or self._lines >= MOST_LINES
        )

    def receive(self, data: bytes) -> None:
        """Add one read; it may be as long as what is left of the body, and `LARGEST_PACKET`."""
        if len(data) > LARGEST_PACKET:
            at = 0 if self.buffered else min(self.body_left, len(data))
            super().receive(data[:at])
            while len(data) - at > LARGEST_PACKET:
                super().receive(data[at : at + LARGEST_PACKET])
                at += LARGEST_PACKET
            data = data[at:]
        super().receive(data)

    def next_event(self) -> Event:
        """The oldest event that was judged ahead; else the next one, as in `RequestParser`."""
        ahead = self._ahead
        if ahead is None:
            return RequestParser.next_event(self)  # super() costs more, on every event
        entry = ahead.popleft()
        self._forget(*entry)
        return entry[0]

    def take_body(self) -> tuple[list[body.Buffer], int]:
        """The bytes of a body that come next in what was received, without a copy of them.

        `next_event` would return the same bytes.

        Returns:
            The bytes, and how many bytes they keep in memory.  No bytes if `next_event` has to say
            what comes next.
        """
        scan, packet = self._scan, self._packet
        if scan is None or not packet or self._ahead is not None:
            return [], 0
        pieces, self._at = body.take(scan, packet, self._at)
        if pieces:
            self._leave_packet(scan)
        return pieces, len(packet)

    def judge_ahead(self, running: RequestHead) -> Event:
        """Judge one more event after the request *running*, which waits for its turn.

        Returns:
            The event; `NEED_DATA` if there is none, or if it is not to be judged yet.

        Raises:
            ParseError: A message after it is broken.  The events before it still wait.
        """
        if self._far_enough:
            return NEED_DATA
        ahead = self._ahead
        last = running if ahead is None else self._last_head
        assert last is not None
        if last.upgrade and (ahead is None or isinstance(ahead[-1][0], EndOfMessage)):
            return NEED_DATA  # the next bytes may belong to another protocol
        event = RequestParser.next_event(self)
        if event is NEED_DATA:
            return event
        octets = lines = 0
        if isinstance(event, BodyData):
            octets = len(event.data)
        elif isinstance(event, EndOfMessage):
            self._messages += 1
            octets, lines = _size(event.trailers)
        else:
            assert isinstance(event, RequestHead)
            if event.fields is not last.fields:  # heads with the same header share it
                octets, lines = _size(event.fields)
            octets += len(event.method) + len(event.target)
            last = event
        self._octets += octets
        self._lines += lines
        self._last_head = last
        if ahead is None:
            ahead = self._ahead = deque()
        ahead.append((event, octets, lines))
        return event

    def drop_incomplete(self) -> None:
        """Judge no more, and keep only the events of complete messages."""
        self._stop()
        while self._ahead and not isinstance(self._ahead[-1][0], EndOfMessage):
            self._forget(*self._ahead.pop())

    def close(self) -> None:
        """Judge no more, and return no more events."""
        if self._closed and self._ahead is None:
            return
        super().close()
        self._ahead = self._last_head = None
        self._messages = self._octets = self._lines = 0

    def _forget(self, event: Event, octets: int, lines: int) -> None:
        """Stop counting *event*, which has been taken out."""
        self._octets -= octets
        self._lines -= lines
        if isinstance(event, EndOfMessage):
            self._messages -= 1
        if not self._ahead:
            self._ahead = self._last_head = None


def _size(section: list[Field]) -> tuple[int, int]:
    """Bytes and lines of a header or trailer section."""
    return sum(len(name) + len(value) for name, value in section), len(section)
