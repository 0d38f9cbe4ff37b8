"""Our parser's verdict, in the same words as `node` gives Node's."""

from __future__ import annotations

from collections.abc import Sequence

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA, BodyData, EndOfMessage, RequestHead
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser

from .node import Error, Message, Verdict


def judge(reads: Sequence[bytes], limits: Limits) -> Verdict:
    """Read *reads* as one connection, up to the first request that asks for an upgrade."""
    parser = RequestParser(limits)
    messages: list[Message] = []
    before = 0
    try:
        for data in reads:
            parser.receive(data)
            if _take_events(parser, messages):
                return Verdict(messages, None)
            before += len(data)
        parser.finish()
    except ParseError as error:
        return _broken(messages, error, before)
    return Verdict(messages, None)


def whole_disagrees(stream: bytes, limits: Limits) -> bool | None:
    """Whether `RequestParser.whole` tells *stream* otherwise than its events do.

    The parser has read a stream like it before.  None if `whole` leaves it to the events.
    """
    tried, by_whole, by_events = (_used(stream, limits) for _ in range(3))
    if tried is None or by_whole is None or by_events is None or tried.whole(stream) is None:
        return None
    return story(by_whole, [stream], whole=True) != story(by_events, [stream], whole=False)


def story(parser: RequestParser, reads: Sequence[bytes], *, whole: bool) -> list[object]:
    """All that *parser* tells of *reads*: events, an error and its place, what is left.

    Args:
        whole: Ask `RequestParser.whole` before each event.
    """
    told: list[object] = []
    try:
        for data in reads:
            head = parser.whole(data) if whole else None
            if head is None:
                parser.receive(data)
            while True:
                event = parser.next_event() if head is None else head
                if event is NEED_DATA:
                    break
                told += [event] if head is None else [head, EndOfMessage([])]
                head = parser.whole() if whole else None
        parser.finish()
    except ParseError as error:
        told.append((type(error), error.code, error.reason, error.bytes_parsed, error.offset))
        told.append((error.raw_packet, error.phase, error.request, error.field, error.broke_at))
    return [*told, parser.phase, parser.buffered, parser.closed]


def _used(stream: bytes, limits: Limits) -> RequestParser | None:
    """A parser that has read *stream*, and waits for the next message; None if it does not."""
    parser = RequestParser(limits)
    parser.receive(stream)
    try:
        while parser.next_event() is not NEED_DATA:
            pass
    except ParseError:
        return None
    return None if parser.closed or parser.phase != "idle" else parser


def _broken(messages: list[Message], error: ParseError, before: int) -> Verdict:
    if error.raw_packet is None:
        return Verdict(messages, Error(error.code, error.reason, None))
    assert error.bytes_parsed is not None
    assert error.offset is not None
    broke = Error(error.code, error.reason, before + error.bytes_parsed)
    return Verdict(messages, broke, before + error.bytes_parsed - error.offset)


def _take_events(parser: RequestParser, messages: list[Message]) -> bool:
    """Add what has come out to *messages*; say whether it asks for an upgrade."""
    while (event := parser.next_event()) is not NEED_DATA:
        if isinstance(event, RequestHead):
            messages.append(
                Message(
                    event.method,
                    event.target,
                    event.version,
                    event.fields,
                    event.keep_alive,
                    event.upgrade,
                    trailers=[],
                )
            )
            if event.upgrade:
                return True
        elif isinstance(event, BodyData):
            messages[-1].body += event.data
        elif isinstance(event, EndOfMessage):
            messages[-1].trailers = event.trailers
            messages[-1].complete = True
    return False
