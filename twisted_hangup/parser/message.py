"""What the two parsers share: the reads, the last header section, and the making of errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final, Generic

from ..errors import ParseError, Phase
from ..events import NEED_DATA, BodyData, Break, EndOfMessage, Field, NeedData, Part
from ..limits import Limits
from .common_head import FieldBlock, read_block
from .refusals import END_OF_INPUT, Refusal, Why
from .scan import Head, Scan

DEFAULT_LIMITS: Final = Limits()

#: The end of every message without trailers; no parser makes a second one.
END: Final = EndOfMessage([])


class MessageParser(Generic[Head]):
    """Reads the messages of one connection, one at a time.

    Reads are kept apart, because an error says which of them holds the offending byte.

    Attributes:
        _packet: The read that is being judged.
        _at: The first byte in it that has not been judged.
        _offset: The place of the packet's first byte, counted from the message's first.
        _scan: The exact reader, while it has a message.
        _head: A head that was returned, while its message is read without the exact reader.
        _block: The last header section, if it was an ordinary one.
        _uncommon: Whether a message before this one had other fields, or trailers.
    """

    __slots__ = (
        *("_at", "_block", "_closed", "_head", "_limits", "_offset", "_packet"),
        *("_queue", "_queued", "_scan", "_uncommon"),
    )

    #: Makes the error of the head so far and the arguments of `ParseError`.
    _error_of: ClassVar[Callable[..., ParseError]]

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._packet = b""
        self._at = 0
        self._offset = 0
        self._queue: deque[bytes] | None = None
        self._queued = 0
        self._closed = False
        self._scan: Scan[Head] | None = None
        self._head: Head | None = None
        self._block: FieldBlock | None = None
        self._uncommon = False

    # --- reads --------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Add one read, to be judged by `next_event`; drop it if the parser is closed."""
        if self._closed or not data:
            return
        if self._at == len(self._packet) and not self._queued:
            self._packet = data
            self._at = 0
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        self._queued += len(data)

    def close(self) -> None:
        """Parse no more: drop the bytes that wait, and all that are still to come."""
        self._stop()

    def _stop(self) -> None:
        """Judge no more."""
        self._closed = True
        self._packet = b""
        self._at = 0
        self._queue = None
        self._queued = 0
        self._scan = None
        self._head = None
        self._block = None

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def section(self) -> FieldBlock | None:
        """The last header section, if it was an ordinary one; None once closed."""
        return self._block

    def unread(self) -> list[bytes]:
        """Return the bytes that have not been judged, read by read, and close."""
        rest = [self._packet[self._at :]] if self._at < len(self._packet) else []
        rest += self._queue or ()
        self.close()
        return rest

    @property
    def buffered(self) -> int:
        """How many bytes have been received and not been judged."""
        return len(self._packet) - self._at + self._queued

    def _next_packet(self) -> bool:
        """Release the packet, which is judged to its end; say if there is another."""
        self._offset += len(self._packet)
        self._at = 0
        if not self._queue:
            self._packet = b""
            return False
        self._packet = self._queue.popleft()
        self._queued -= len(self._packet)
        if not self._queue:
            self._queue = None  # an empty deque weighs more than the rest of an idle parser
        return True

    # --- messages -----------------------------------------------------------------------

    def _common_fields(self, at: int, version: bytes, spent: int) -> FieldBlock | None:
        """The header section at index *at*, if it is complete in this packet and ordinary.

        Args:
            at: Where it starts.
            version: The version in the start line.
            spent: Bytes of the start line that count against ``Limits.head_bytes``.
        """
        block = self._block
        if block is None or not self._packet.startswith(block.raw, at) or block.version != version:
            block = read_block(self._packet, at, version, self._limits)
            if block is None:
                return None
            self._block = block
        # This counts more than the limit does; the exact reader reads a section near the limit.
        return block if spent + len(block.raw) < self._limits.head_bytes else None

    def _read_on(self) -> Head | BodyData | EndOfMessage | NeedData:
        """Let the exact reader go on to the next event."""
        scan = self._scan
        assert scan is not None
        while True:
            if scan.finished:
                assert scan.head is not None
                trailers, block = scan.trailers, self._block
                if trailers or block is None or scan.head.fields is not block.fields:
                    self._uncommon = True
                return self._end_message(scan.head, EndOfMessage(trailers) if trailers else END)
            if not self._packet:
                return NEED_DATA
            try:
                self._at = scan.advance(self._packet, self._at)
            except Refusal as refusal:
                raise self._refused(scan, refusal) from None
            self._leave_packet(scan)
            if (event := scan.event) is not None:
                scan.event = None
                return event

    def _leave_packet(self, scan: Scan[Head]) -> None:
        """Go on to the next packet if this one has been judged to its end."""
        if self._at == len(self._packet):
            scan.hold(self._packet)
            self._next_packet()

    def _end_message(self, head: Head, end: EndOfMessage) -> EndOfMessage:
        """Prepare for the message after *head*'s, if there can be one."""
        self._head = None
        self._scan = None
        if not head.keep_alive:
            self._stop()
        elif self._at == len(self._packet):
            self._next_packet()
        return end

    # --- errors -------------------------------------------------------------------------

    def _refused(self, scan: Scan[Head], refusal: Refusal) -> ParseError:
        """Make the error of a refusal by the exact reader, and judge no more."""
        broke_at = scan.broke_at(self._packet, refusal, max(0, -self._offset))
        broke_at.fields = self._fields_before(scan)
        field = refusal.field or scan.field
        return self._error(refusal.why, scan.phase, scan.head, broke_at, field, refusal.offset)

    def _cut_short(self, scan: Scan[Head]) -> ParseError:
        """Make the error of the end of input, and judge no more."""
        broke_at = scan.ended_at()
        broke_at.fields = self._fields_before(scan)
        return self._error(END_OF_INPUT, scan.phase, scan.head, broke_at, scan.field)

    def _fields_before(self, scan: Scan[Head]) -> list[Field] | None:
        """The field lines before the line that *scan* is in, for `Break.fields`."""
        if scan.part is Part.TRAILER:
            return scan.trailers
        if scan.head is not None and scan.part is not scan.START:
            return scan.head.fields
        if self._uncommon:
            return None
        return [] if self._block is None else self._block.fields

    def _error(
        self,
        fault: Why,
        phase: Phase,
        head: Head | None,
        broke_at: Break,
        field: bytes | None = None,
        at: int | None = None,
    ) -> ParseError:
        """Make an error, and judge no more.

        Args:
            fault: Code and reason.
            phase: The phase of the message that was being read.
            head: Its head, as far as it has come.
            broke_at: Where it broke.
            field: Name of the field that is wrong.
            at: Index in the packet where it broke; None for the end of input.
        """
        error = self._error_of(
            head,
            reason=fault.reason,
            code=fault.code,
            phase=phase,
            field=field,
            raw_packet=None if at is None else self._packet,
            bytes_parsed=at or 0,
            offset=self._offset + (self._at if at is None else at),
            broke_at=broke_at,
        )
        self._stop()
        return error
