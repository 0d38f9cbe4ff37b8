"""Clients that hang up while reading from them is paused.

A reactor that does not read from a socket is not told that its peer has gone, and a
client that pipelines more than fits into the backlog can leave unnoticed: its slow request
goes on, and all that it had queued is run for nobody.  A ``poll()`` over all paused sockets,
twice a second, tells.
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

#: Called with the error number of a reset; 0 where the client has ended its input, or closed.
Gone: TypeAlias = Callable[[int], object]

#: Seconds between two looks.
INTERVAL: Final = 0.5

#: Where the platform does not tell (all but Linux), hang-ups are noticed later: when the
#: backlog is read, or when writing fails.
_PEER_CLOSED: Final = getattr(select, "POLLRDHUP", 0)


class PausedSockets:
    """The paused connections of one site."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._gone: dict[int, tuple[FileDescriptor, Gone]] = {}
        self._poll = select.poll() if _PEER_CLOSED else None
        self._timer: IDelayedCall | None = None

    def add(self, transport: Any, gone: Gone) -> int | None:
        """Call *gone* once, within a second, if the peer of *transport* hangs up.

        Returns:
            What to give to `remove` before the transport is read again or closed; None
            where this platform or transport does not tell.
        """
        transport = transport_beneath(transport)
        if self._poll is None or not isinstance(transport, FileDescriptor):
            return None
        descriptor: int = transport.fileno()
        if descriptor < 0:
            return None
        self._gone[descriptor] = (transport, gone)
        self._poll.register(descriptor, _PEER_CLOSED)
        if self._timer is None:
            self._timer = self._clock.callLater(INTERVAL, self._look)
        return descriptor

    def remove(self, descriptor: int | None) -> None:
        """Look at this one no more; harmless for None, and if *gone* was called already."""
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
            # None where what another one's end has caused removed it.
            if (watched := self._gone.get(descriptor)) is not None:
                self.remove(descriptor)
                transport, gone = watched
                gone(socket_error(transport) or ECONNRESET if what & select.POLLERR else 0)
        if self._gone and self._timer is None:
            self._timer = self._clock.callLater(INTERVAL, self._look)
