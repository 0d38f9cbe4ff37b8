"""`RequestParser`: bytes in, events or one `ParseError` out.

It decides as llhttp 9.4 strict (Node 26): same code, reason and offset, however the bytes are cut.
docs/deviations.md lists the exceptions.  It knows no transport and no clock.

Two pattern matches take an ordinary head that is complete in one read (`common_head`).  The exact
reader (`scan` and its states) takes everything else, and it alone refuses.  It begins after an
ordinary request line, takes ordinary field lines in one step, and the rest byte by byte.
"""

from __future__ import annotations

from typing import Any

from ..errors import PARSE_ERRORS, ParseError, Phase
from ..events import NEED_DATA, Break, Event, Part, RequestHead
from ..limits import Limits
from . import body, start_line
from .common_head import FieldBlock
from .grammar import COMMON_REQUEST_LINE
from .message import DEFAULT_LIMITS, END, MessageParser
from .scan import RequestScan, methods_of


class RequestParser(MessageParser[RequestHead]):
    """Reads the requests of one connection, one message at a time.

    `HangupChannel` uses it; you need it only to read HTTP from bytes of your own.

    Give it each read with `receive`, then call `next_event` until it returns `NEED_DATA`.  After
    `EndOfMessage` the next call starts on the next message.  If you are not ready for one, do not
    call: the bytes wait inside.

    Requests that repeat the same header share one list object in ``RequestHead.fields``, unless the
    header is unusual.  Treat the list as read-only; if it ``is`` the last one, nothing has changed.

    Args:
        limits: What a request may cost.
        section: The `section` of another parser with the same limits, to begin with.
    """

    __slots__ = ("_methods",)

    def __init__(self, limits: Limits = DEFAULT_LIMITS, section: FieldBlock | None = None) -> None:
        super().__init__(limits)
        self._block = section
        self._methods = methods_of(limits.methods)

    def next_event(self) -> Event:
        """Judge the bytes that were received, up to the next event.

        Returns:
            For each message `RequestHead`, then any number of `BodyData`, then `EndOfMessage`.
            `NEED_DATA` when all bytes are used up, and always once the parser is closed.  The
            parser closes itself after a message that ends the connection
            (``RequestHead.keep_alive`` is False).

        Raises:
            ParseError: The bytes break RFC 9112 or a limit.  The parser is then closed.
        """
        if self._head is not None:
            return self._end_message(self._head, END)
        if self._scan is None:
            if self._at == len(self._packet) and not self._next_packet():
                return NEED_DATA
            self._offset = -self._at
            head = self._begin_message()
            if head is not None:
                return head
        return self._read_on()

    def whole(self, data: bytes | None = None) -> RequestHead | None:
        """The next head, if it is that of an ordinary request without a body, and complete.

        It has to have the same header as the last one.  `next_event` would return the same head,
        and then the end of its message, which is taken with it.

        Args:
            data: A read that is not received yet: the head is the first in it, and the rest of it
                is received.  By default the bytes that were received are looked at.

        Returns:
            None if it may be anything else, or if *data* is given while other bytes wait.  Nothing
            is taken then, and *data* is not received.
        """
        block, at = self._block, 0
        if data is None:
            data, at = self._packet, self._at
        elif self._packet:
            return None
        if (
            block is None
            or not block.ends_message
            or self._scan is not None
            or self._head is not None
            or (line := COMMON_REQUEST_LINE.match(data, at)) is None
        ):
            return None
        end, raw = line.end(), block.raw
        method, target, version = line.groups()
        if (
            version != block.version
            or not data.startswith(raw, end)
            or method not in self._methods.common
            or len(target) + len(raw) >= self._limits.head_bytes
        ):
            return None
        end += len(raw)
        keep_alive = block.keep_alive
        if not keep_alive:
            self._stop()
        elif end < len(data):
            self._packet, self._at = data, end
        elif data is self._packet:
            self._at = end
            self._next_packet()
        # The block's version, as each object that a connection keeps is one for all its requests.
        return RequestHead(
            method, target, block.version, block.fields, block.content_length, False, keep_alive
        )

    def finish(self) -> None:
        """Take note of the end of input, once `next_event` has returned `NEED_DATA`.

        Between messages (empty lines may have come), and when closed, it does nothing.

        Raises:
            UnexpectedEOF: A message is not complete.  The parser is then closed.
        """
        scan = self._scan
        if scan is not None and not scan.finished and scan.part is not Part.EMPTY_LINE:
            raise self._cut_short(scan)

    @property
    def phase(self) -> Phase:
        """``"idle"`` between messages (empty lines may have come), ``"head"`` or ``"body"``."""
        if self._scan is None or self._scan.part is Part.EMPTY_LINE:
            return "idle" if self._head is None else "body"
        return self._scan.phase

    @property
    def pending_request(self) -> RequestHead | None:
        """The request being read, with its fields so far; None before its target ended."""
        return self._head if self._scan is None else self._scan.head

    @property
    def request_line_so_far(self) -> Break | None:
        """The request line so far, if the message stops inside it; else None."""
        scan = self._scan
        if scan is None or scan.part is not Part.REQUEST_LINE:
            return None
        stopped = scan.ended_at()
        stopped.fields = self._fields_before(scan)
        return stopped

    @property
    def body_left(self) -> int:
        """How many of the bytes to be judged next are sure to belong to a body."""
        return 0 if self._scan is None else body.left(self._scan)

    def _begin_message(self) -> RequestHead | None:
        """Read the head that starts here, if it is complete in this packet and ordinary.

        Otherwise start the exact reader, after the ordinary part of the request line.
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
        block = version and self._common_fields(self._at, version, len(target))
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
        start_line.begin_after(scan, line, head)
        if not block:
            return None
        scan.line_at = self._at
        body.begin(scan, head)
        self._leave_packet(scan)
        return head

    def _begin_scan(self) -> RequestScan:
        """Give the message that starts here to the exact reader."""
        scan = self._scan = RequestScan(self._limits, start_line.before_request, self._methods)
        scan.line_at = self._at
        return scan

    @staticmethod
    def _error_of(head: RequestHead | None, *, code: str, **rest: Any) -> ParseError:
        return PARSE_ERRORS.get(code, ParseError)(code=code, request=head, **rest)
