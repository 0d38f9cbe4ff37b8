"""The one door for the bytes of a connection: requests, judged ahead of their turn and bounded.

A channel owns one `RequestInbox` and nothing else that parses.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..events import NEED_DATA, BodyData, EndOfMessage, Event, Field, RequestHead
from ..limits import Limits
from .common_head import FieldBlock
from .request import RequestParser

#: Complete messages that are judged ahead.  What comes after them waits as bytes: a parsed
#: message takes up to ten times the room.
MOST_MESSAGES: Final = 64

#: Events that are judged ahead: those of as many messages with a body in two pieces.  A chunk
#: of one byte is six bytes on the wire, and an event of a hundred.
MOST_EVENTS: Final = 4 * MOST_MESSAGES

#: Field lines after which no more is judged ahead.  One without a value is four bytes on the
#: wire, and more than a hundred in memory.
MOST_LINES: Final = 4 * MOST_MESSAGES


class RequestInbox(RequestParser):
    """A `RequestParser` that judges ahead while a request is being answered.

    Call `judge_ahead` until it says False, so that a broken message is known at once; read
    no more from the connection while it is `full`.  `next_event` hands out what was judged,
    each event in its turn, and then goes on like any parser.  `phase`, `pending_request`,
    `buffered` and `finish` tell of the bytes that were judged last or not yet, and know
    nothing of the events that wait.
    """

    __slots__ = ("_ahead", "_last_head", "_lines", "_messages", "_octets")

    def __init__(self, limits: Limits, section: FieldBlock | None = None) -> None:
        super().__init__(limits, section)
        #: The events, oldest first, each with its octets and field lines.  None where there
        #: are none: an empty deque would be the largest part of an idle connection.
        self._ahead: deque[tuple[Event, int, int]] | None = None
        #: Of those: complete messages, octets, field lines, and the head that came last.
        self._messages = 0
        self._octets = 0
        self._lines = 0
        self._last_head: RequestHead | None = None

    @property
    def events_wait(self) -> bool:
        """Whether there are events that were judged ahead."""
        return self._ahead is not None

    @property
    def full(self) -> bool:
        """Whether enough waits here: more than ``Limits.backlog_bytes``, judged or not,
        `MOST_MESSAGES`, `MOST_EVENTS`, or `MOST_LINES`.  Not once what comes is dropped.
        """
        if self.closed:
            return False
        waiting = self._octets + self.buffered
        return waiting > self._limits.backlog_bytes or self._far_enough

    @property
    def _far_enough(self) -> bool:
        """Whether no more is judged ahead; what still comes waits as bytes."""
        ahead = self._ahead
        return ahead is not None and (
            self._messages >= MOST_MESSAGES
            or len(ahead) >= MOST_EVENTS
            or self._lines >= MOST_LINES
        )

    def next_event(self) -> Event:
        """The oldest event that was judged ahead; else what `RequestParser.next_event` says."""
        ahead = self._ahead
        if ahead is None:
            return RequestParser.next_event(self)  # super() costs more, on every event
        entry = ahead.popleft()
        self._forget(*entry)
        return entry[0]

    def judge_ahead(self, running: RequestHead) -> Event:
        """Judge one more event after the request *running*, which waits for its turn.

        Returns:
            That event; `NEED_DATA` where there is none, or where it is not to be judged yet.

        Raises:
            ParseError: A message after it is broken.  The events before it still wait.
        """
        if self._far_enough:
            return NEED_DATA
        ahead = self._ahead
        last = running if ahead is None else self._last_head
        assert last is not None
        if last.upgrade and (ahead is None or isinstance(ahead[-1][0], EndOfMessage)):
            return NEED_DATA  # what follows may be another protocol's
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
            if event.fields is not last.fields:  # which all heads with the same share
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
        """Judge nothing more, and keep only the events of complete messages."""
        self._stop()
        while self._ahead and not isinstance(self._ahead[-1][0], EndOfMessage):
            self._forget(*self._ahead.pop())

    def close(self) -> None:
        """Judge nothing more, and hand out nothing more, ever."""
        super().close()
        self._ahead = self._last_head = None
        self._messages = self._octets = self._lines = 0

    def _forget(self, event: Event, octets: int, lines: int) -> None:
        """Count *event* no more, which has been taken out."""
        self._octets -= octets
        self._lines -= lines
        if isinstance(event, EndOfMessage):
            self._messages -= 1
        if not self._ahead:
            self._ahead = self._last_head = None


def _size(section: list[Field]) -> tuple[int, int]:
    """Octets and lines of a field section."""
    return sum(len(name) + len(value) for name, value in section), len(section)
