"""A peer that takes no byte of what waits to be sent to it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.abstract import FileDescriptor

from .deadlines import Deadline, Deadlines
from .layers import transport_beneath


class SendWatch:
    """Watches one transport that has more to send than its peer has room for.

    How much of it the peer takes does not matter, nor how slowly: each byte that it takes
    starts the time anew.  Only a peer that takes none at all for so long has stalled.

    Args:
        transport: A transport; watched is the file descriptor beneath it.  Without one
            (in-memory transports) nothing is.
        seconds: The time; 0 for no limit.
        stalled: Called once when the time has passed.
    """

    __slots__ = ("_deadline", "_deadlines", "_descriptor", "_seconds", "_watching")

    def __init__(
        self,
        transport: Any,
        deadlines: Deadlines,
        seconds: float,
        stalled: Callable[[], object],
    ) -> None:
        transport = transport_beneath(transport)
        self._descriptor = transport if isinstance(transport, FileDescriptor) else None
        self._deadlines = deadlines
        self._deadline = Deadline(stalled)
        self._seconds = seconds or inf
        self._watching = False

    def start(self) -> None:
        """Something waits to be sent; harmless where it is known already."""
        descriptor: Any = self._descriptor
        if descriptor is None or self._watching:
            return
        self._watching = True
        descriptor.writeSomeData = self._write_some_data
        self._deadlines.set(self._deadline, self._deadlines.seconds() + self._seconds)

    def stop(self) -> None:
        """Nothing waits any more."""
        descriptor: Any = self._descriptor
        if self._watching:
            self._watching = False
            del descriptor.writeSomeData
            self._deadline.due = inf

    def forget(self) -> None:
        """Stop for good, and let go of everything."""
        self.stop()
        self._deadlines.forget(self._deadline)
        self._descriptor = None

    def _write_some_data(self, data: bytes) -> Any:
        """What the transport calls to send: send, and note whether anything was taken."""
        descriptor: Any = self._descriptor
        result = type(descriptor).writeSomeData(descriptor, data)
        if isinstance(result, int) and result > 0:
            self._deadline.due = self._deadlines.seconds() + self._seconds
        return result
