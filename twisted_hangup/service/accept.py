"""When to accept: not more connections than there may be, nor than there are files for.

A connection too many is not accepted and closed again, as Node does, but left to wait in
the kernel's queue, as HAProxy does at its ``maxconn``: a client that did nothing wrong is
served a moment later instead of getting an error, one that floods us costs nothing, and a
load balancer in front sees the queue fill.  Idle connections end by their deadlines, so
that the queue always moves.

Twisted's own `Port` accepts up to a hundred connections at a time, and at the limit of open
files accepts and closes whatever comes, with a log line for each.  Here each accept asks
first, so that this never begins.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..journal.flood import ThrottledWarning
from ..transport.clock import steady

#: Connections accepted in one turn of the reactor before others get theirs.
ACCEPTS_PER_TURN: Final = 100

#: How long accepting rests when no file can be opened.
REST_SECONDS: Final = 1.0

#: Share of the limit that connections leave to the files they are served from, to the
#: application's own connections and to logs; and the least that is left.
SPARE_SHARE: Final = 16
LEAST_SPARE: Final = 32

_log = Logger()


class Gate:
    """Accepts connections on any number of ports, while there is room for one more.

    Attributes:
        most: Most connections at a time over all its ports; None for no limit.
        open: Connections there are.
    """

    def __init__(self, clock: IReactorTime, most: int | None = None) -> None:
        self.most = most
        self.open = 0
        self._clock = clock = steady(clock)
        self._warn = ThrottledWarning(clock)
        self._ports: list[Any] = []
        self._closed = False
        self._rest: IDelayedCall | None = None

    def guard(self, port: IListeningPort) -> None:
        """Ask this gate before *port* accepts a connection.

        A port that is not one of Twisted's own stream ports is left as it is: its
        connections are not counted.  That is logged.
        """
        if not isinstance(port, tcp.Port):
            _log.warn("Connections of {port} are not counted: not a port of Twisted's", port=port)
            return
        self._ports.append(port)
        guarded: Any = port
        guarded.transport = type("CountedServer", (_Counted, port.transport), {"gate": self})
        guarded.doRead = partial(self._accept, port)
        if self._closed:
            port.stopReading()

    def retire(self) -> None:
        """Touch the ports no more; to be called before they are closed."""
        self._ports.clear()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _accept(self, port: Any) -> None:
        """In the place of `Port.doRead`, which it calls for one connection at a time."""
        for _ in range(ACCEPTS_PER_TURN):
            if self._is_full():
                return
            port.numberAccepts = 1
            type(port).doRead(port)
            if port.numberAccepts == 1:
                return  # doRead() raises the number when it accepts as many as allowed

    def _is_full(self) -> bool:
        if self._closed:
            return True  # another port noticed in this same turn
        if self.most is not None and self.open >= self.most:
            self._close()
            self._warn(
                "All {most} connections are taken; new clients wait until one ends",
                most=self.most,
            )
            return True
        if not files_left():
            self._close()
            self._rest = self._clock.callLater(REST_SECONDS, self._rested)
            self._warn(
                "Out of files with {open} connections open; new clients wait", open=self.open
            )
            return True
        return False

    def _close(self) -> None:
        self._closed = True
        for port in self._ports:
            port.stopReading()

    def _rested(self) -> None:
        self._rest = None
        self._reopen()

    def _reopen(self) -> None:
        self._closed = False
        for port in self._ports:
            port.startReading()

    def connection_made(self) -> None:
        self.open += 1

    def connection_ended(self) -> None:
        self.open -= 1
        if self._closed and self._rest is None:
            self._reopen()


class _Counted:
    """Mixed in before a port's transport class: tells the gate of each connection."""

    gate: Gate

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate.connection_made()

    def connectionLost(self, reason: Failure) -> None:
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self.gate.connection_ended()


def raise_file_limit() -> int | None:
    """Raise the soft limit of open files to the hard one, and log it.

    Returns:
        The limit that holds now; None where the system has none.
    """
    try:
        import resource
    except ImportError:  # Windows has handles instead, some 16 million of them
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # macOS: "unlimited" is more than it allows
            _log.warn("Open files: the limit stays at {soft}, {error}", soft=soft, error=str(error))
            return soft
    _log.info("Open files: at most {hard} (the limit was {soft})", soft=soft, hard=hard)
    return None if hard == resource.RLIM_INFINITY else hard


def room_for_connections(limit: int) -> int:
    """How many connections leave room for everything else under a *limit* of open files.

    What is open now is taken for what stays open; at least one connection is allowed.
    """
    spare = max(LEAST_SPARE, limit // SPARE_SHARE)
    return max(1, limit - _open_now() - spare)


def files_left() -> bool:
    """Whether one more file can be opened, in this process and in the whole system."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return LEAST_SPARE
