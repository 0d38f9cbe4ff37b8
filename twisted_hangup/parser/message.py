"""What a connection has brought and nobody has judged yet, read by read."""

from __future__ import annotations

from collections import deque

from .scan import Scan


class Reads:
    """Keeps reads apart, because an error tells which of them holds the byte to blame.

    Attributes:
        _packet: The read that is being judged.
        _at: The first byte in it that has not been judged.
        _offset: Where its first byte stands, counted from the message's first.
    """

    __slots__ = ("_at", "_closed", "_offset", "_packet", "_queue", "_queued")

    def __init__(self) -> None:
        self._packet = b""
        self._at = 0
        self._offset = 0
        self._queue: deque[bytes] | None = None
        self._queued = 0
        self._closed = False

    def receive(self, data: bytes) -> None:
        """Take in one read, to be judged by `next_event`; drop it if the parser is closed."""
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
        """Parse nothing more, ever: drop what waits and what is still to come."""
        self._stop()

    def _stop(self) -> None:
        """Judge nothing more."""
        self._closed = True
        self._packet = b""
        self._at = 0
        self._queue = None
        self._queued = 0

    @property
    def closed(self) -> bool:
        return self._closed

    def unread(self) -> list[bytes]:
        """Hand over the bytes that have not been judged, read by read, and close."""
        rest = [self._packet[self._at :]] if self._at < len(self._packet) else []
        rest += self._queue or ()
        self.close()
        return rest

    @property
    def buffered(self) -> int:
        """How many bytes have been received and not been judged."""
        return len(self._packet) - self._at + self._queued

    def _next_packet(self) -> bool:
        """Let go of the packet, which has been judged to its end; say if there is another."""
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

    def _leave_packet(self, scan: Scan) -> None:
        """Go on to the next packet if this one has been judged to its end."""
        if self._at == len(self._packet):
            scan.hold(self._packet)
            self._next_packet()
