"""Accepts connections only while there is room: for connections, and for open files.

A connection too many waits in the kernel's queue, as in HAProxy at its ``maxconn``; Node accepts it
and closes it again.  So a client that did nothing wrong is served a moment later and gets no error,
a flood costs nothing, and a load balancer sees the queue fill.  Idle connections end by their
deadlines, and earlier if clients wait (`Room`), so that the queue always moves.

One address cannot take all places.  Connections beyond its share are accepted and closed at once,
because the kernel's queue returns clients in the order in which they came.

Twisted's own `Port` accepts up to a hundred connections at a time.  At the limit of open files it
accepts and closes whatever comes, with a log line for each.  Here each accept asks first, so that
this never begins.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Any, Final, Protocol

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime
from twisted.logger import Logger
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure

from ..journal.flood import ThrottledWarning
from ..server.room import Room
from ..transport.addresses import Network, ip_of, is_within
from ..transport.clock import steady

#: Connections accepted in one turn of the reactor; then other clients have their turn.
ACCEPTS_PER_TURN: Final = 100

#: If all connections are busy, how long clients wait until we look again.
LOOK_SECONDS: Final = 0.5

#: How long accepting rests when no file can be opened.
REST_SECONDS: Final = 1.0

#: The share of the limit that connections leave for the files they are served from, for the
#: application's own connections and for logs; and the least that they leave.
SPARE_SHARE: Final = 16
LEAST_SPARE: Final = 32

#: How many connections one client has addresses for: a /64 of IPv6, one address of IPv4.
_CLIENTS_BYTES: Final = 8

_WHO_MAKES: Final = {
    "idle": "those that were idle for longest make",
    "head": "the oldest that have not sent a whole head make",
}

_log = Logger()


class Places(Protocol):
    """The places for connections in all worker processes, as one of them sees them.

    Attributes:
        held: How many places this process has taken.
        most: Most connections of all of them together; None for no limit.
        excess: How many connections are above that limit.
        leads: Whether this process holds so many more than another that it leaves the next
            connection to that one.
    """

    held: int
    most: int | None

    @property
    def excess(self) -> float: ...

    @property
    def leads(self) -> bool: ...

    def wait_seconds(self) -> float:
        """How long to leave the next connection to others before asking again; 0 to accept it."""

    def lock(self) -> float:
        """Let no other process take a place until `unlock`; how long to wait if one is at it."""

    def unlock(self) -> None: ...


class Gate:
    """Accepts connections on any number of ports, while there is room for one more.

    Attributes:
        most: Most connections at a time over all its ports; None for no limit.
        open: Connections that are open.
        of_address: How many of them each address has; IPv6 by its first 64 bits, because a client
            has all of these.  Without those that `shares` leaves out.
    """

    def __init__(
        self,
        clock: IReactorTime,
        most: int | None = None,
        *,
        room: Room | None = None,
        most_of_address: int | None = None,
        trusted: Sequence[Network] = (),
        places: Places | None = None,
    ) -> None:
        """
        Args:
            clock: Gives the time and timers.
            most: Most connections at a time over all its ports; None for no limit.
            room: Asked for a place when all are taken; it also counts who is turned away.
            most_of_address: Most connections at a time of one address.
            trusted: Addresses that may have any number: proxies, each with many clients.
            places: If this is one of several workers, the places of all of them.
        """
        self.most = most
        self.open = 0
        self.of_address: Counter[bytes] = Counter()
        #: Connections that have made room, and end in the next turn.
        self._leaving = 0
        #: Whether the next connection has a place only if another one makes room.
        self._makes_room = False
        self._room = room
        self._most_of_address = most_of_address
        self._trusted = trusted
        self._places = places
        self._clock = clock = steady(clock)
        self._warn = ThrottledWarning(clock)
        self._warn_of_room = ThrottledWarning(clock)
        self._warn_of_address = ThrottledWarning(clock)
        self._ports: list[Any] = []
        self._closed = False
        self._rest: IDelayedCall | None = None
        #: Whether the rest is only there to leave the next connection to other workers.
        self._yields = False
        self._next_look: IDelayedCall | None = None
        self._waiting_for_none: list[Deferred[None]] = []

    def guard(self, port: IListeningPort) -> None:
        """Ask this gate before *port* accepts a connection.

        A port that is not one of Twisted's own stream ports is left alone; its connections are not
        counted, and that is logged.
        """
        if not isinstance(port, tcp.Port):
            _log.warn("Connections of {port} are not counted: not a port of Twisted's", port=port)
            return
        self._ports.append(port)
        guarded: Any = port
        counted: type = _Counted
        if self._most_of_address is not None and _has_addresses(port):
            counted = _CountedOfAddress
            guarded.factory = _Door(port.factory, self)
        guarded.transport = type("CountedServer", (counted, port.transport), {"gate": self})
        guarded.doRead = partial(self._accept, port)
        if self._closed:
            port.stopReading()

    def retire(self) -> None:
        """Stop managing the ports; call it before they are closed."""
        self._ports.clear()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._look_no_more()

    def _accept(self, port: Any) -> None:
        """Replaces `Port.doRead`, and calls it for one connection at a time."""
        for accepted in range(ACCEPTS_PER_TURN):
            if not self._takes_place(accepted):
                return
            before = self.open
            port.numberAccepts = 1
            type(port).doRead(port)
            if port.numberAccepts == 1:
                self._count(0)  # no client has come for the place
                return  # doRead() raises the number when it accepts as many as allowed
            if self._room is not None and self._makes_room and self.open > before:
                # Only now is it certain that a client waited.
                self._leaving += 1
                self._count(0)
                self._warn_of_room(
                    "All {most} connections are taken; {who} room",
                    most=self._bound,
                    who=_WHO_MAKES[self._room.make()],
                )

    def _takes_place(self, accepted: int) -> bool:
        """Take the place of one more connection; False if it has to wait, which is seen to.

        Args:
            accepted: How many have been accepted in this turn.
        """
        if self._closed:
            return False  # another port noticed in this same turn
        places = self._places
        if places is None:
            return not self._is_full()
        if seconds := places.wait_seconds():
            return self._yield(seconds, accepted)
        if places.most is None:
            return not self._is_full()
        if seconds := places.lock():
            return self._yield(seconds, accepted)
        try:
            if self._is_full():
                return False
            self._count(1)
            return True
        finally:
            places.unlock()

    def _yield(self, seconds: float, accepted: int) -> bool:
        # Once some have been accepted, perhaps no more come; if they do, that is the next turn's.
        if not accepted:
            self._yields = True
            self._look_away(seconds)
        return False

    def _look_away(self, seconds: float) -> None:
        self._close()
        self._rest = self._clock.callLater(seconds, self._rested)

    def _count(self, taken: int) -> None:
        """Tell the other workers what this one holds, and that it has *taken* a place more."""
        if self._places is not None:
            self._places.held = self.open - self._leaving + taken

    def _excess(self) -> float:
        """How many connections are above the limit, without those that are about to end."""
        excess = -inf if self.most is None else self.open - self._leaving - self.most
        return excess if self._places is None else max(excess, self._places.excess)

    def _is_full(self) -> bool:
        self._makes_room = self._excess() >= 0
        if self._makes_room and not (self._room is not None and self._room.can_make()):
            self._close()
            if self._room is not None or self._places is not None:
                # While requests are answered, perhaps no connection ends, or one of another worker.
                self._next_look = self._clock.callLater(LOOK_SECONDS, self._reopen)
            self._warn(
                "All {most} connections are taken; new clients wait until one ends",
                most=self._bound,
            )
            return True
        if not files_left():
            self._look_away(REST_SECONDS)
            self._warn(
                "Out of files with {open} connections open; new clients wait", open=self.open
            )
            return True
        return False

    @property
    def _bound(self) -> int | None:
        """The limit that is reached: that of all workers, or our own."""
        places = self._places
        return self.most if places is None or places.excess < 0 else places.most

    def _close(self) -> None:
        self._closed = True
        for port in self._ports:
            port.stopReading()

    def _rested(self) -> None:
        self._rest = None
        self._yields = False
        self._reopen()

    def _reopen(self) -> None:
        self._closed = False
        self._look_no_more()
        for port in self._ports:
            port.startReading()

    def _look_no_more(self) -> None:
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()
        self._next_look = None

    def shares(self, host: str) -> bytes | None:
        """The key under which connections of *host* are counted; None if they are not."""
        ip = ip_of(host)
        return None if ip is None or is_within(ip, self._trusted) else ip.packed[:_CLIENTS_BYTES]

    def admits(self, host: str) -> bool:
        """Whether *host* may have one more connection."""
        share = self.shares(host)
        if share is None or self.of_address[share] < (self._most_of_address or inf):
            return True
        if self._room is not None:
            self._room.turned_away["address"] += 1
        self._warn_of_address(
            "{host} has {most} connections, as many as one address may have; more are closed",
            host=host,
            most=self._most_of_address,
        )
        return False

    def when_empty(self) -> Deferred[None]:
        """Return a new Deferred that fires with None once no connection is open."""
        waiter: Deferred[None] = Deferred()
        self._waiting_for_none.append(waiter)
        self._look_if_empty()
        return waiter

    def hang_up(self, reactor: Any) -> None:
        """Abort every connection that *reactor* reads from or writes to."""
        for one in {*reactor.getReaders(), *reactor.getWriters()}:
            if isinstance(one, _Counted) and one.gate is self:
                connection: Any = one
                connection.abortConnection()

    def _look_if_empty(self) -> None:
        if not self.open:
            waiting, self._waiting_for_none = self._waiting_for_none, []
            for waiter in waiting:
                waiter.callback(None)

    def connection_made(self) -> None:
        self.open += 1
        self._count(0)

    def connection_ended(self) -> None:
        self.open -= 1
        self._leaving = max(0, self._leaving - 1)
        self._count(0)
        if self._closed and self._rest is None:
            self._reopen()
        elif self._yields and self._rest and self._places and not self._places.leads:
            self._rest.cancel()
            self._rested()
        self._look_if_empty()


class _Counted:
    """Comes before a port's transport class: it tells the gate of each connection."""

    gate: Gate

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate.connection_made()

    def connectionLost(self, reason: Failure) -> None:
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self.gate.connection_ended()


class _CountedOfAddress(_Counted):
    """The same, with the address of the client."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        client: Any = self
        self._share = self.gate.shares(client.client[0])
        if self._share is not None:
            self.gate.of_address[self._share] += 1

    def connectionLost(self, reason: Failure) -> None:
        share = self._share
        if share is not None:
            self.gate.of_address[share] -= 1
            if not self.gate.of_address[share]:
                del self.gate.of_address[share]
        super().connectionLost(reason)


class _Door:
    """A port's factory, which gets only clients that are admitted."""

    def __init__(self, factory: Any, gate: Gate) -> None:
        self._factory = factory
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)

    def buildProtocol(self, address: Any) -> Any:
        """Make a protocol; None tells the port to close the connection."""
        return self._factory.buildProtocol(address) if self._gate.admits(address.host) else None


def _has_addresses(port: tcp.Port) -> bool:
    """Whether the clients of *port* have addresses of their own, and are no proxies."""
    factory = port.factory
    while factory is not None:
        if isinstance(factory, HAProxyWrappingFactory):
            return False
        factory = getattr(factory, "wrappedFactory", None)
    return port.addressFamily in (socket.AF_INET, socket.AF_INET6)


def raise_file_limit() -> int | None:
    """Raise the soft limit of open files to the hard one, and log it.

    Returns:
        The limit that holds now; None if the system has none.
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

    Files that are open now count as staying open.  At least one connection is allowed.
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
