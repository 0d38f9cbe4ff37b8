"""Notices clients that hang up while reading from them is paused.

A reactor does not notice a hang-up on a socket that it does not read.  So a client that pipelines
more than the backlog holds could leave unnoticed: its slow request goes on, and its queued requests
run for nobody.  A ``poll()`` over all paused sockets, twice a second, notices it.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from errno import ECONNRESET
from typing import Any, Final, TypeAlias

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .layers import transport_beneath
from .sockets import socket_error

#: Called with the error number of a reset, or with 0 after a FIN.
Gone: TypeAlias = Callable[[int], object]

#: Seconds between two looks.
INTERVAL: Final = 0.5

#: On platforms other than Linux hang-ups are noticed later: when the backlog is read, or when
#: writing fails.
_PEER_CLOSED: Final = getattr(select, "POLLRDHUP", 0)


class PausedSockets:
    """The paused connections of one site."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._gone: dict[int, tuple[FileDescriptor, Gone]] = {}
        self._poll = select.poll() if _PEER_CLOSED else None
        self._timer: IDelayedCall | None = None

    def add(self, transport: Any, gone: Gone, *, input_over: bool = False) -> int | None:
        """Call *gone* once, within a second, if the peer of *transport* hangs up.

        Args:
            input_over: Whether it has sent its FIN.  Then a hang-up is a reset, or over a UNIX
                socket the end of its reading.

        Returns:
            A key for `remove`, which you call before the transport is read again or closed.  None
            if this platform or transport cannot notice it.
        """
        transport = transport_beneath(transport)
        if self._poll is None or not isinstance(transport, FileDescriptor):
            return None
        descriptor: int = transport.fileno()
        if descriptor < 0:
            return None
        self._gone[descriptor] = (transport, gone)
        self._poll.register(descriptor, 0 if input_over else _PEER_CLOSED)
        if self._timer is None:
            self._timer = self._clock.callLater(INTERVAL, self._look)
        return descriptor

    def remove(self, descriptor: int | None) -> None:
        """Stop watching; harmless for None, and if *gone* was called already."""
        if self._poll is None or descriptor is None or self._gone.pop(descriptor, None) is None:
            return
        self._poll.unregister(descriptor)
        if not self._gone and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        assert self._poll is not None
        for descriptor, what in self._poll.poll(0):
            # None if an earlier *gone* has removed it.
            if (watched := self._gone.get(descriptor)) is not None:
                self.remove(descriptor)
                transport, gone = watched
                gone(socket_error(transport) or ECONNRESET if what & select.POLLERR else 0)
        if self._gone and self._timer is None:
            self._timer = self._clock.callLater(INTERVAL, self._look)
