"""Pipelined messages, judged ahead of their turn."""

from __future__ import annotations

from collections import deque
from typing import Final

from .events import NEED_DATA, EndOfMessage, Event, RequestHead
from .parser import RequestParser

#: Complete messages that are judged ahead.  What is behind them waits as bytes: a parsed
#: message takes up to ten times the room.
READ_AHEAD: Final = 64


class Backlog:
    """The events of one connection, in order, some of them judged before they are due.

    While a request is being answered, `judge_ahead` lets the parser look at what came
    behind it, so that a broken message is known at once.  `next_event` then hands out
    what was found, each in its turn.
    """

    __slots__ = ("_ahead", "_last_head", "_limit_bytes", "_messages", "parser")

    def __init__(self, parser: RequestParser, limit_bytes: int) -> None:
        self.parser = parser
        self._limit_bytes = limit_bytes
        self._ahead: deque[Event] = deque()
        self._messages = 0
        self._last_head: RequestHead | None = None

    def __bool__(self) -> bool:
        return bool(self._ahead)

    @property
    def full(self) -> bool:
        """Whether more input would be more than the limits allow to wait here."""
        return self._messages >= READ_AHEAD or self.parser.buffered > self._limit_bytes

    def next_event(self) -> Event:
        """The next event in order, as `RequestParser.next_event`."""
        if not self._ahead:
            event = self.parser.next_event()
            if isinstance(event, RequestHead):
                self._last_head = event
            return event
        event = self._ahead.popleft()
        if event.__class__ is EndOfMessage:
            self._messages -= 1
        return event

    def judge_ahead(self) -> bool:
        """Judge one more event; False where that has to wait.

        Raises:
            ParseError: A message behind the running request is broken.
        """
        if self._messages >= READ_AHEAD:
            return False
        complete = not self._ahead or self._ahead[-1].__class__ is EndOfMessage
        if complete and self._last_head is not None and self._last_head.upgrade:
            return False  # what follows may be another protocol's
        event = self.parser.next_event()
        if event is NEED_DATA:
            return False
        if isinstance(event, RequestHead):
            self._last_head = event
        elif event.__class__ is EndOfMessage:
            self._messages += 1
        self._ahead.append(event)
        return True

    def close(self) -> None:
        """Judge nothing more, and drop what was judged of a message that is not complete."""
        self.parser.close()
        while self._ahead and self._ahead[-1].__class__ is not EndOfMessage:
            self._ahead.pop()

    def clear(self) -> None:
        """Judge nothing more, and hand out nothing more."""
        self.parser.close()
        self._ahead.clear()
        self._messages = 0
