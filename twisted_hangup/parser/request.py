"""RequestParser: bytes in, events or one `ParseError` out.

It decides as llhttp 9.4 strict does (Node 26): same code, reason and offset, however the
bytes are cut; docs/deviations.md lists where it does not.  It knows no transport and no
clock.

A head that is complete in one read and has nothing unusual is taken by two pattern matches
(`common_head`); everything else goes through the exact reader (`scan` and its states), which
alone refuses.  It begins behind a request line that is common, takes such field lines
whole, and goes byte by byte through the rest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from ..errors import PARSE_ERRORS, ParseError, Phase
from ..events import NEED_DATA, EndOfMessage, Event, Part, RequestHead
from ..limits import Limits
from . import body, start_line
from .common_head import FieldBlock, read_block
from .grammar import COMMON_REQUEST_LINE
from .message import Reads
from .refusals import END_OF_INPUT, Refusal
from .scan import Methods, Scan

_methods = lru_cache(maxsize=16)(Methods)

_DEFAULT_LIMITS: Final = Limits()

#: The end of every message without trailers; the parser makes no second one.
_END: Final = EndOfMessage([])

_IN_HEAD: Final = (Part.EMPTY_LINE, Part.REQUEST_LINE, Part.FIELD)
_IN_FIELDS: Final = (Part.FIELD, Part.TRAILER)


class RequestParser(Reads):
    """Reads the requests of one connection, one message at a time.

    Give it each read with `receive`, then call `next_event` until it says `NEED_DATA`.
    After `EndOfMessage` the next call starts on the next message; a caller that is not
    ready for one just does not call, and what came meanwhile stays inside.

    Repeated requests with the very same field section share one list object in
    ``RequestHead.fields``, unless something in it is unusual: treat it as read-only, and
    compare it with ``is`` to know that nothing has changed.

    Args:
        limits: What a request may cost.
    """

    __slots__ = ("_block", "_head", "_limits", "_methods", "_scan")

    def __init__(self, limits: Limits = _DEFAULT_LIMITS) -> None:
        super().__init__()
        self._limits = limits
        self._methods = _methods(limits.methods)
        #: The exact reader, while it has a message.
        self._scan: Scan | None = None
        #: A head without body that was given out, so that its end comes next.
        self._head: RequestHead | None = None
        self._block: FieldBlock | None = None

    def next_event(self) -> Event:
        """Judge what has been received, up to the next event.

        Returns:
            `RequestHead`, then any number of `BodyData`, then `EndOfMessage`, for each
            message; `NEED_DATA` when all bytes are used up, and for good once the parser
            is closed.  After a message that the connection does not outlive
            (``RequestHead.keep_alive``) it closes by itself.

        Raises:
            ParseError: The bytes break RFC 9112 or a limit.  The parser is closed then.
        """
        if self._head is not None:
            return self._end_message(self._head, _END)
        if self._scan is None:
            if self._at == len(self._packet) and not self._next_packet():
                return NEED_DATA
            self._offset = -self._at
            head = self._begin_message()
            if head is not None:
                return head
        return self._read_on()

    def finish(self) -> None:
        """Take note of the end of input, once `next_event` has said `NEED_DATA`.

        Returns quietly between messages, also behind empty lines, and when closed.

        Raises:
            UnexpectedEOF: A message is not complete.  The parser is closed then.
        """
        scan = self._scan
        if scan is None or scan.finished or scan.part is Part.EMPTY_LINE:
            return
        error = PARSE_ERRORS[END_OF_INPUT.code](
            END_OF_INPUT.reason,
            code=END_OF_INPUT.code,
            phase=_phase_of(scan),
            request=scan.head,
            field=scan.name if scan.part in _IN_FIELDS else None,
            bytes_parsed=0,
            offset=self._offset + self._at,
            broke_at=scan.ended_at(),
        )
        self._stop()
        raise error

    def _stop(self) -> None:
        super()._stop()
        self._scan = None
        self._head = None
        self._block = None

    @property
    def phase(self) -> Phase:
        """``"idle"`` between messages, also behind empty lines; ``"head"`` or ``"body"``."""
        if self._scan is None or self._scan.part is Part.EMPTY_LINE:
            return "idle" if self._head is None else "body"
        return _phase_of(self._scan)

    @property
    def pending_request(self) -> RequestHead | None:
        """The request being read, with its fields so far; None before its target ended."""
        return self._head if self._scan is None else self._scan.head

    def _begin_message(self) -> RequestHead | None:
        """Read the head that starts here, if it is complete in this packet and not unusual.

        Otherwise let the exact reader begin, behind what is common of the request line.
        """
        line = COMMON_REQUEST_LINE.match(self._packet, self._at)
        if line is None:
            self._begin_scan()
            return None
        method, target, version = line.groups()
        if method not in self._methods.common or len(target) >= self._limits.head_bytes:
            self._begin_scan()
            return None
        self._at = line.end()
        block = version and self._common_fields(version, len(target))
        if not block:
            head = RequestHead(method, target, version or b"")
        else:
            head = RequestHead(
                method,
                target,
                version,
                block.fields,
                block.content_length,
                block.chunked,
                block.keep_alive,
                block.upgrade,
            )
            self._at += len(block.raw)
            if not (block.content_length or block.chunked):
                self._head = head
                return head
        scan = self._begin_scan()
        start_line.begin_behind(scan, line, head)
        if not block:
            return None
        scan.line_at = self._at
        body.begin(scan, head)
        self._leave_packet(scan)
        return head

    def _common_fields(self, version: bytes, spent: int) -> FieldBlock | None:
        """The field section that starts here, if it is complete and not unusual."""
        block = self._block
        if (
            block is None
            or not self._packet.startswith(block.raw, self._at)
            or block.version != version
        ):
            block = read_block(self._packet, self._at, version, self._limits)
            if block is None:
                return None
            self._block = block
        # More than the limit counts: what is near it is for the exact reader.
        return block if spent + len(block.raw) < self._limits.head_bytes else None

    def _begin_scan(self) -> Scan:
        """Give the message that starts here to the exact reader."""
        scan = self._scan = Scan(self._limits, self._methods, start_line.empty_lines)
        scan.line_at = self._at
        return scan

    def _read_on(self) -> Event:
        """Let the exact reader go on to the next event."""
        scan = self._scan
        assert scan is not None
        while True:
            if scan.finished:
                assert scan.head is not None
                trailers = scan.trailers
                return self._end_message(scan.head, EndOfMessage(trailers) if trailers else _END)
            if not self._packet:
                return NEED_DATA
            try:
                self._at = scan.advance(self._packet, self._at)
            except Refusal as refusal:
                raise self._error(scan, refusal) from None
            self._leave_packet(scan)
            if (event := scan.event) is not None:
                scan.event = None
                return event

    def _end_message(self, head: RequestHead, end: EndOfMessage) -> Event:
        self._head = None
        self._scan = None
        if not head.keep_alive:
            self._stop()
        elif self._at == len(self._packet):
            self._next_packet()
        return end

    def _error(self, scan: Scan, refusal: Refusal) -> ParseError:
        """Make an error of *refusal*, and close."""
        why, packet = refusal.why, self._packet
        message_at = max(0, -self._offset)
        error = PARSE_ERRORS.get(why.code, ParseError)(
            why.reason,
            code=why.code,
            phase=_phase_of(scan),
            request=scan.head,
            field=refusal.field or (scan.name if scan.part in _IN_FIELDS else None),
            raw_packet=packet,
            bytes_parsed=refusal.offset,
            offset=self._offset + refusal.offset,
            broke_at=scan.broke_at(packet, refusal, message_at),
        )
        self._stop()
        return error


def _phase_of(scan: Scan) -> Phase:
    return "head" if scan.part in _IN_HEAD else "body"
