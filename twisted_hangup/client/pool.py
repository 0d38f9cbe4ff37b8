"""Connections to one server, kept for the next request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from ..errors import ServerPhase
from ..limits import Limits, OutboundTimeouts
from ..transport.clock import steady
from ..transport.deadlines import Deadlines
from .connection import OutboundConnection, OutboundRequest, Receiver
from .failures import RequestCancelled, hang_up_of


class OutboundPool:
    """Connections to one server, kept for the next request.

    Args:
        endpoint: Where the server is.
        clock: The reactor, or a clock for tests.
        timeouts: How long the server may take.
        limits: What a response may cost; only ``head_*`` and ``chunk_*`` count.
        most_idle: Most idle connections that are kept.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        *,
        timeouts: OutboundTimeouts | None = None,
        limits: Limits | None = None,
        most_idle: int = 100,
    ) -> None:
        self.timeouts = timeouts or OutboundTimeouts()
        self.limits = limits or Limits()
        self.deadlines = Deadlines(clock)
        self._endpoint = endpoint
        self._clock = steady(clock)
        self._most_idle = most_idle
        self._idle: deque[OutboundConnection] = deque()
        self._all: set[OutboundConnection] = set()
        self._connecting: set[Exchange] = set()
        self._closed = False
        self._closing: list[Deferred[None]] = []

    def request(
        self, request: OutboundRequest, receiver: Receiver, *, fresh: bool = False
    ) -> Exchange:
        """Send *request* over an idle connection; over a new one if none is idle, or if *fresh*.

        Returns:
            The exchange, to give the request up.  If the pool is closed, the receiver has failed
            with a RuntimeError.
        """
        exchange = Exchange(request, receiver)
        if self._closed:
            receiver.failed(RuntimeError("the pool of connections is closed"))
            return exchange
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.quiet:
                exchange.connected(connection)
                return exchange
            connection.transport.abortConnection()
        factory = Factory.forProtocol(lambda: OutboundConnection(self))
        factory.noisy = False
        connecting: Deferred[Any] = maybeDeferred(self._endpoint.connect, factory)
        connecting.addCallback(lambda connection: connection.ready)
        if self.timeouts.connect_seconds:
            connecting.addTimeout(self.timeouts.connect_seconds, self._clock, _too_late)
        exchange.connecting = connecting
        self._connecting.add(exchange)
        connecting.addBoth(self._connected, exchange)
        connecting.addCallbacks(exchange.connected, exchange.eb_not_connected)
        return exchange

    def _connected(self, outcome: Any, exchange: Exchange) -> Any:
        self._connecting.discard(exchange)
        self._look_if_closed()
        return outcome

    def close(self) -> Deferred[None]:
        """Close all connections for good, and cancel the requests that run or wait for one.

        Returns:
            A new Deferred that fires with None when no connection is left.
        """
        self._closed = True
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)
        for exchange in [*self._connecting]:
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
        if self._closed:  # the endpoint went on connecting after it was cancelled
            connection.close()

    def free(self, connection: OutboundConnection) -> None:
        """*connection* may carry the next request."""
        self._idle.append(connection)
        if len(self._idle) > self._most_idle:
            self._idle.popleft().transport.loseConnection()

    def retire(self, connection: OutboundConnection) -> None:
        """*connection* may not be used again."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: OutboundConnection) -> None:
        """*connection* has gone."""
        self._all.discard(connection)
        self.retire(connection)
        self._look_if_closed()


class Exchange:
    """One request, from the connection to the end of its response.

    Attributes:
        connecting: The Deferred of a new connection, or None.
        connection: The connection that carries the request, once there is one.
    """

    __slots__ = ("_given_up", "_receiver", "_request", "connecting", "connection")

    def __init__(self, request: OutboundRequest, receiver: Receiver) -> None:
        self._request = request
        self._receiver = receiver
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
        if self._given_up:
            return
        error = hang_up_of(failure, self.phase, reused=False, bytes_received=0)
        self._receiver.failed(error)


def _too_late(outcome: Any, seconds: float) -> Failure:
    """Connecting has taken too long, whatever the endpoint raised when it was cancelled."""
    if isinstance(outcome, OutboundConnection):
        outcome.transport.abortConnection()
    return Failure(ConnectTimeout(string=f"{seconds:g} seconds"))
