"""Connections to one server, kept for the next request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from ..errors import ServerPhase
from ..limits import Limits, OutboundTimeouts
from ..transport.clock import steady
from ..transport.deadlines import Deadline, Deadlines
from ..transport.sockets import JointWrites
from .connection import OutboundConnection, OutboundRequest, Receiver
from .failures import RequestCancelled, hang_up_of


class PoolBusy(Exception):
    """All connections to the server are in use, and none becomes free for this request."""


class OutboundPool:
    """Connections to one server, kept for the next request.

    Args:
        endpoint: Where the server is.
        clock: The reactor, or a clock for tests.
        timeouts: How long the server may take.
        limits: What a response may cost; only ``head_*`` and ``chunk_*`` count.
        most_idle: Most idle connections that are kept.
        most_connections: Most connections at a time; 0 = no limit.  Beyond them, as many requests
            again wait for one, in order, for at most ``connect_seconds``.  Any other one, and any
            that has waited for so long, fails with `PoolBusy`.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        *,
        timeouts: OutboundTimeouts | None = None,
        limits: Limits | None = None,
        most_idle: int = 100,
        most_connections: int = 0,
    ) -> None:
        self.timeouts = timeouts or OutboundTimeouts()
        self.limits = limits or Limits()
        self.deadlines = Deadlines(clock)
        self.joint_writes = JointWrites(clock)
        self._endpoint = endpoint
        self._clock = steady(clock)
        self._most_idle = most_idle
        self._most = most_connections
        self._waiting: deque[Exchange] = deque()
        self._idle: deque[OutboundConnection] = deque()
        self._all: set[OutboundConnection] = set()
        self._connecting: set[Exchange] = set()
        #: Those of them that have no connection yet; that of the others may still need TLS.
        self._opening: set[Exchange] = set()
        self._closed = False
        self._closing: list[Deferred[None]] = []

    def request(
        self, request: OutboundRequest, receiver: Receiver, *, fresh: bool = False
    ) -> Exchange:
        """Send *request* over an idle connection; over a new one if none is idle, or if *fresh*.

        If all connections are in use and there may be no more, it waits for one.

        Returns:
            The exchange, to give the request up.  If the pool is closed, the receiver has failed
            with a RuntimeError.
        """
        exchange = Exchange(request, receiver, fresh)
        if self._closed:
            receiver.failed(RuntimeError("the pool of connections is closed"))
        elif self._waiting or not self._begin(exchange):
            self._queue(exchange)
        return exchange

    def _begin(self, exchange: Exchange) -> bool:
        """Give *exchange* a connection, or begin to make one; False if there may be no more."""
        while self._idle and not exchange.fresh:
            connection = self._idle.pop()
            if connection.quiet:
                exchange.connected(connection)
                return True
            connection.transport.abortConnection()
        if self._most and len(self._all) + len(self._opening) >= self._most:
            if self._idle:  # it makes room
                self._idle.popleft().part()
            return False
        self._connect(exchange)
        return True

    def _connect(self, exchange: Exchange) -> None:
        factory = Factory.forProtocol(lambda: OutboundConnection(self, exchange))
        factory.noisy = False
        self._opening.add(exchange)
        connecting: Deferred[Any] = maybeDeferred(self._endpoint.connect, factory)
        connecting.addCallback(lambda connection: connection.ready)
        if self.timeouts.connect_seconds:
            connecting.addTimeout(self.timeouts.connect_seconds, self._clock, _too_late)
        exchange.connecting = connecting
        self._connecting.add(exchange)
        connecting.addBoth(self._connected, exchange)
        connecting.addCallbacks(exchange.connected, exchange.eb_not_connected)

    def _connected(self, outcome: Any, exchange: Exchange) -> Any:
        self._connecting.discard(exchange)
        self._opening.discard(exchange)
        self._next_in_turn()
        return outcome

    # Requests that wait for a connection.

    def _queue(self, exchange: Exchange) -> None:
        if len(self._waiting) >= self._most:
            exchange.fail(PoolBusy(f"{self._most} connections are in use, as many requests wait"))
            return
        self._waiting.append(exchange)
        exchange.waits = Deadline(partial(self._waited_too_long, exchange))
        exchange.unqueue = partial(self._leave_queue, exchange)
        seconds = self.timeouts.connect_seconds
        self.deadlines.set(exchange.waits, self.deadlines.seconds() + (seconds or inf))

    def _leave_queue(self, exchange: Exchange) -> None:
        self._waiting.remove(exchange)
        self._take_from_queue(exchange)

    def _take_from_queue(self, exchange: Exchange) -> None:
        assert exchange.waits is not None
        self.deadlines.forget(exchange.waits)
        exchange.waits = exchange.unqueue = None

    def _waited_too_long(self, exchange: Exchange) -> None:
        self._leave_queue(exchange)
        seconds = self.timeouts.connect_seconds
        exchange.fail(PoolBusy(f"no connection was free for {seconds:g} seconds"))

    def _next_in_turn(self) -> None:
        """A connection is free, or there may be a new one."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if not self._begin(exchange):
                self._waiting.appendleft(exchange)
                break
            self._take_from_queue(exchange)
        self._look_if_closed()

    def close(self) -> Deferred[None]:
        """Close all connections for good, and cancel the requests that run or wait for one.

        Returns:
            A new Deferred that fires with None when no connection is left.
        """
        self._closed = True
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)
        for exchange in [*self._waiting, *self._connecting]:
            exchange.cancel()
        for connection in [*self._all]:
            connection.close()
        self._look_if_closed()
        return closed

    def _look_if_closed(self) -> None:
        if not self._all and not self._connecting:
            closing, self._closing = self._closing, []
            for closed in closing:
                closed.callback(None)

    # Called by connections.

    def connected(self, connection: OutboundConnection) -> None:
        """*connection* is connected."""
        self._all.add(connection)
        self._opening.discard(connection.opened_for)
        if self._closed:  # the endpoint went on connecting after it was cancelled
            connection.close()

    def free(self, connection: OutboundConnection) -> None:
        """*connection* may carry the next request."""
        self._idle.append(connection)
        if len(self._idle) > self._most_idle:
            self._idle.popleft().part()
        self._next_in_turn()

    def retire(self, connection: OutboundConnection) -> None:
        """*connection* may not be used again."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: OutboundConnection) -> None:
        """*connection* has gone."""
        self._all.discard(connection)
        self.retire(connection)
        self._next_in_turn()


class Exchange:
    """One request, from the connection to the end of its response.

    Attributes:
        fresh: Whether it needs a new connection.
        waits: Until when it waits for its turn, or None.
        unqueue: Called to wait no more.
        connecting: The Deferred of a new connection, or None.
        connection: The connection that carries the request, once there is one.
    """

    __slots__ = (
        *("_given_up", "_receiver", "_request"),
        *("connecting", "connection", "fresh", "unqueue", "waits"),
    )

    def __init__(self, request: OutboundRequest, receiver: Receiver, fresh: bool) -> None:
        self._request = request
        self._receiver = receiver
        self.fresh = fresh
        self.waits: Deadline | None = None
        self.unqueue: Callable[[], object] | None = None
        self._given_up = False
        self.connecting: Deferred[Any] | None = None
        self.connection: OutboundConnection | None = None

    @property
    def phase(self) -> ServerPhase:
        """The phase of the request."""
        return "connecting" if self.connection is None else self.connection.phase

    def abort(self, gone: Callable[[], object] | None = None) -> None:
        """Give up the request in any phase; the receiver is not called any more.

        Args:
            gone: Called once the connection that carries it has gone.
        """
        self._given_up = True
        if self.connection is not None:
            self.connection.abort(self._receiver, gone)
        elif self.connecting is not None:
            self.connecting.cancel()
        elif self.unqueue is not None:
            self.unqueue()

    def fail(self, error: Exception) -> None:
        """Tell the receiver, unless the request was given up."""
        if not self._given_up:
            self._receiver.failed(error)

    def cancel(self) -> None:
        """Stop connecting; the receiver fails with a cancellation, whatever the endpoint raises."""
        self.abort()
        self._receiver.failed(RequestCancelled("connecting"))

    def connected(self, connection: OutboundConnection) -> None:
        self.connecting = None
        if self._given_up:
            connection.transport.abortConnection()
            return
        self.connection = connection
        connection.send(self._request, self._receiver)

    def eb_not_connected(self, failure: Failure) -> None:
        self.connecting = None
        self.fail(hang_up_of(failure, self.phase, reused=False, bytes_received=0))


def _too_late(outcome: Any, seconds: float) -> Failure:
    """Connecting has taken too long, whatever the endpoint raised when it was cancelled."""
    if isinstance(outcome, OutboundConnection):
        outcome.transport.abortConnection()
    return Failure(ConnectTimeout(string=f"{seconds:g} seconds"))
