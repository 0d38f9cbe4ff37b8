"""`ResponseParser`: the bytes of a server in, events or one `ResponseParseError` out.

It decides as the client of Node 26 (llhttp 9.4 strict): same code, reason and offset, however the
bytes are cut.  docs/deviations.md lists the exceptions.  A response that can be read in two ways is
refused, because a proxy passes on what it reads.

Two pattern matches take an ordinary head that is complete in one read.  The exact reader takes any
other head, and it alone refuses.  Bodies without chunks need no reader.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from ..errors import ParseError, Phase, ResponseParseError
from ..events import NEED_DATA, BodyData, Break, EndOfMessage, Part, ResponseEvent, ResponseHead
from ..limits import Limits
from . import body, start_line
from . import refusals as why
from .grammar import COMMON_STATUS_LINE
from .head_end import settle
from .message import DEFAULT_LIMITS, END, MessageParser
from .scan import ResponseScan

#: ``_left`` of a body that ends with the connection.
_UNTIL_CLOSE: Final = -1


@lru_cache(maxsize=16)
def _of_responses(limits: Limits) -> Limits:
    """*limits* without those that apply to requests only."""
    return replace(limits, body_bytes=0, require_host=False)


class ResponseParser(MessageParser[ResponseHead]):
    """Reads the responses of one connection, each to a request that you announce.

    `ProxyResource` uses it; you need it only to read HTTP from bytes of your own.

    Announce the request with `expect`, give each read to `receive`, and call `next_event` until it
    returns `NEED_DATA`.  After `EndOfMessage` call it once more before you use the connection
    again.  A byte that comes while nothing is expected is an error: as the start of the next
    response it would give one client another client's answer.

    Responses that repeat the same header share one list object in ``ResponseHead.fields``, unless
    the header is unusual.  Treat the list as read-only; if it ``is`` the last one, nothing has
    changed.

    Args:
        limits: What a response may cost: ``head_bytes`` (the reason phrase counts),
            ``head_fields``, ``chunk_extension_bytes``, ``leading_crlf`` and ``lenience`` apply;
            ``body_bytes`` does not.
    """

    __slots__ = ("_asked_upgrade", "_left", "_method")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(_of_responses(limits))
        #: The method of the request that is to be answered.
        self._method: bytes | None = None
        self._asked_upgrade = False
        #: For a body without chunks: how many bytes are still to come.
        self._left = 0

    def expect(self, method: bytes, *, upgrade: bool = False) -> None:
        """Announce a request that has been sent, or is about to be; its response comes next.

        Args:
            method: A response to HEAD has no body; after a 2xx to CONNECT no HTTP follows.
            upgrade: Whether the request asked for another protocol, so that a 101 is allowed.

        Raises:
            RuntimeError: The last response is not complete, or no other can follow it.
        """
        if self._closed or self._method is not None:
            raise RuntimeError("no other response can come now")
        if self._at == len(self._packet) and not self._queued:
            self._method = method
            self._asked_upgrade = upgrade
        # Else the bytes that wait came before the request, and the next event is the error.

    def next_event(self) -> ResponseEvent:
        """Judge the bytes that were received, up to the next event.

        Returns:
            Any number of interim `ResponseHead` (``ResponseHead.interim``), which stand alone; the
            `ResponseHead` of the response, any number of `BodyData`, and `EndOfMessage`.
            `NEED_DATA` when all bytes are used up, and always once the parser is closed.  The
            parser closes itself after a message that ends the connection
            (``ResponseHead.keep_alive`` is False).  After one that ends HTTP
            (``ResponseHead.upgrade``) it keeps the bytes for `unread`.

        Raises:
            ResponseParseError: The bytes break RFC 9112 or a limit, or no request asked for them.
                The parser is then closed.
        """
        if self._left:
            return self._read_body()
        head = self._head
        if head is not None:
            if head.upgrade and self._method is None:
                return NEED_DATA
            return self._end_message(head, END)
        if self._scan is None:
            if self._at == len(self._packet) and not self._next_packet():
                return NEED_DATA
            self._offset = -self._at
            if self._method is None:
                raise self._unrequested()
            head = self._common_head(self._method)
            if head is not None:
                return head
        event = self._read_on()
        scan = self._scan
        if scan is not None and scan.finished and event is scan.head:
            self._begin_body(scan.head)
        return event

    def finish(self) -> EndOfMessage | None:
        """Take note of the end of input, once `next_event` has returned `NEED_DATA`, and close.

        Returns:
            The end of a body that ends with the connection.  None if nothing was to come, or if the
            connection has another protocol.

        Raises:
            ResponseParseError: ``HPE_INVALID_EOF_STATE``: the response is not complete, or has not
                begun (phase ``"idle"``).
        """
        if self._left == _UNTIL_CLOSE:
            self._stop()
            return END
        if self._method is not None:
            raise self._not_complete()
        if not (self._head and self._head.upgrade):
            self._stop()
        return None

    def _stop(self) -> None:
        super()._stop()
        self._method = None
        self._left = 0

    @property
    def phase(self) -> Phase:
        """``"idle"`` before the first byte of a response, ``"head"`` or ``"body"``."""
        if self._scan is not None:
            return self._scan.phase
        return "idle" if self._method is None or self._head is None else "body"

    @property
    def expecting(self) -> bool:
        """Whether a response, or the rest of one, is still to come."""
        return self._method is not None

    # --- heads --------------------------------------------------------------------------

    def _common_head(self, method: bytes) -> ResponseHead | None:
        """Read the head that starts here, if it is complete in this packet and ordinary.

        Otherwise start the exact reader.
        """
        line = COMMON_STATUS_LINE.match(self._packet, self._at)
        if line is not None:
            at = line.end()
            version, status, reason = line.groups()
            block = self._common_fields(at, version, at - self._at)
            if block is not None:
                head = ResponseHead(
                    int(status),
                    reason or b"",
                    version,
                    block.fields,
                    block.content_length,
                    block.chunked,
                    block.keep_alive,
                    block.upgrade,
                )
                if settle(head, method, self._asked_upgrade) is None:
                    self._begin_after(head, line.group()[:-2], at + len(block.raw))
                    return head
        self._begin_scan(method)
        return None

    def _begin_after(self, head: ResponseHead, status_line: bytes, at: int) -> None:
        """Go on after an ordinary head, which ends at index *at*."""
        self._at = at
        if head.chunked and head.has_body:
            assert self._method is not None
            scan = self._begin_scan(self._method)
            scan.head = head
            scan.start_line = status_line
            body.begin(scan, head)
            self._leave_packet(scan)
        else:
            self._begin_body(head)

    def _begin_scan(self, method: bytes) -> ResponseScan:
        """Give the bytes that start here to the exact reader."""
        scan = self._scan = ResponseScan(
            self._limits, start_line.before_response, method, self._asked_upgrade
        )
        scan.line_at = self._at
        return scan

    def _begin_body(self, head: ResponseHead) -> None:
        """Read the body of *head* next; it has no chunks, or there is none."""
        self._scan = None
        if head.has_body:
            self._left = _UNTIL_CLOSE if head.content_length is None else head.content_length
        if not head.interim:
            self._head = head
        if self._at == len(self._packet):
            self._next_packet()

    # --- bodies -------------------------------------------------------------------------

    def _read_body(self) -> ResponseEvent:
        """Emit the bytes of a body without chunks."""
        packet, at, left = self._packet, self._at, self._left
        if at == len(packet):
            return NEED_DATA
        end = len(packet) if left < 0 else min(at + left, len(packet))
        if left > 0:
            self._left = left - (end - at)
        self._at = end
        if end == len(packet):
            self._next_packet()
        return BodyData(packet[at:end])

    def _end_message(self, head: ResponseHead, end: EndOfMessage) -> EndOfMessage:
        self._method = None
        if not head.upgrade:
            return MessageParser._end_message(self, head, end)  # super() costs more
        self._scan = None
        self._head = head  # so that nothing after it is read
        return end

    # --- errors -------------------------------------------------------------------------

    def _unrequested(self) -> ParseError:
        """Make the error of a byte that no request asked for."""
        at = self._at
        broke_at = Break(Part.STATUS_LINE, b"", self._packet[at : at + 1], 0)
        broke_at.packet_part = Part.STATUS_LINE
        broke_at.message_at = at
        return self._error(why.NOT_REQUESTED, "idle", None, broke_at, at=at)

    def _not_complete(self) -> ParseError:
        """Make the error of the end of input."""
        if self._scan is not None:
            return self._cut_short(self._scan)
        head = self._head
        if head is not None:
            line = b"HTTP/%b %d %b" % (head.version, head.status, head.reason)
            broke_at = Break(Part.BODY, line.rstrip(b" "), b"", 0)
        else:
            self._offset = -self._at
            broke_at = Break(Part.EMPTY_LINE, b"", b"", 0)
        return self._error(why.END_OF_INPUT, self.phase, head, broke_at)

    @staticmethod
    def _error_of(head: ResponseHead | None, **rest: Any) -> ParseError:
        return ResponseParseError(response=head, **rest)
