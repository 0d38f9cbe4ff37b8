"""Pipelined messages, judged ahead of their turn; `inbox.RequestInbox` does so and is bounded.

A channel with an inbox needs neither this nor a parser of its own.  There, `Backlog.judge` is
``judge_ahead``, ``bool(backlog)`` is ``events_wait``, `Backlog.close` is ``drop_incomplete``,
`Backlog.clear` and ``parser.close()`` are ``close``; the rest has the same name, and
``next_event`` is the only one.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..events import NEED_DATA, EndOfMessage, Event, RequestHead
from .request import RequestParser

#: Complete messages that are judged ahead.  What is behind them waits as bytes: a parsed
#: message takes up to ten times the room.
READ_AHEAD: Final = 64


class Backlog:
    """Events that were judged before they are due, in order; true while it has some.

    While a request is being answered, `judge` lets the parser look at what came behind
    it, so that a broken message is known at once.  `next_event` then hands out what was
    found, each in its turn.
    """

    __slots__ = ("_ahead", "_last_head", "_limit_bytes", "_messages", "_parser")

    def __init__(self, parser: RequestParser, limit_bytes: int) -> None:
        self._parser = parser
        self._limit_bytes = limit_bytes
        #: Made when it is needed: an empty one is the largest part of an idle connection.
        self._ahead: deque[Event] | None = None
        self._messages = 0
        self._last_head: RequestHead | None = None

    def __bool__(self) -> bool:
        return bool(self._ahead)

    @property
    def full(self) -> bool:
        """Whether more input would be more than the limits allow to wait here."""
        return self._messages >= READ_AHEAD or self._parser.buffered > self._limit_bytes

    def next_event(self) -> Event:
        """The oldest event; what the parser says next where there is none."""
        if not self._ahead:
            return self._parser.next_event()
        event = self._ahead.popleft()
        if not self._ahead:
            self._ahead = None
        if event.__class__ is EndOfMessage:
            self._messages -= 1
        return event

    def judge(self, running: RequestHead) -> bool:
        """Judge one more event behind the request *running*; False where that has to wait.

        Raises:
            ParseError: A message behind it is broken.
        """
        if self._messages >= READ_AHEAD:
            return False
        ahead = self._ahead
        last = self._last_head if ahead else running
        assert last is not None
        if last.upgrade and (not ahead or ahead[-1].__class__ is EndOfMessage):
            return False  # what follows may be another protocol's
        event = self._parser.next_event()
        if event is NEED_DATA:
            return False
        if isinstance(event, RequestHead):
            self._last_head = event
        elif event.__class__ is EndOfMessage:
            self._messages += 1
        if ahead is None:
            ahead = self._ahead = deque()
        ahead.append(event)
        return True

    def close(self) -> None:
        """Judge nothing more, and drop what was judged of a message that is not complete."""
        self._parser.close()
        while self._ahead and self._ahead[-1].__class__ is not EndOfMessage:
            self._ahead.pop()

    def clear(self) -> None:
        """Judge nothing more, and hand out nothing more."""
        self._parser.close()
        self._ahead = None
        self._messages = 0
