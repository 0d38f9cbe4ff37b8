"""Transports that tell: why the network lost a connection, and whether the peer takes bytes.

Twisted's own transports report every failed read or write as one and the same
`ConnectionLost`, and the socket is gone by the time a protocol hears of it; they say nothing
of a peer that takes no byte; and for each answer they ask the reactor for a turn to write in,
where the socket was writable all the time.  What we want of them otherwise stands in two classes,
one of which a listening port is given, or a transport when its connection is made or it is
watched.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sized
from functools import lru_cache
from math import inf
from typing import Any, Literal, Protocol

from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.main import CONNECTION_DONE
from twisted.logger import Logger
from twisted.python.failure import Failure

from .deadlines import Deadline, Deadlines
from .layers import transport_beneath

SystemCall = Literal["read", "write"]

_log = Logger()


class ConnectionBroken(ConnectionLost):
    """A `ConnectionLost` that knows more.

    Attributes:
        errno: The operating system's error number.
        syscall: What failed, ``"read"`` or ``"write"``.
    """

    def __init__(self, number: int, syscall: SystemCall) -> None:
        super().__init__()
        self.errno = number
        self.syscall = syscall

    def __str__(self) -> str:
        return f"{self.syscall} {self.code}"

    @property
    def code(self) -> str:
        """The name of the error number, such as ``ECONNRESET``."""
        return errno.errorcode.get(self.errno, str(self.errno))


def socket_error(transport: Any) -> int:
    """The error number that waits on the socket of *transport*, which is taken off it; or 0."""
    return int(transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


class WatchedSocket(FileDescriptor):
    """Mixed in before the class of a transport: the peer's taking of bytes is watched."""

    #: Told of the bytes that the peer takes; None while nobody wants to know.
    _watch: SendWatch | None = None

    def writeSomeData(self, data: Any) -> Any:
        """Write as the transport does, and tell."""
        sent: Any = super().writeSomeData(data)
        if self._watch is not None and isinstance(sent, int) and sent > 0:
            self._watch.bytes_taken()
        return sent


class Meter(Protocol):
    """Counts the bytes that are written to a transport: `unsent`, or `taken` by the kernel."""

    @property
    def sending(self) -> bool:
        """Whether anything is going to be sent: what `unsent` is, unless the transport has gone."""

    @property
    def taken(self) -> int: ...
    @property
    def unsent(self) -> int: ...


class Deliveries(Protocol):
    """Who wants to know when what was written to a transport has been sent.

    Attributes:
        undelivered: What they wait for; falsy where that is nothing.
    """

    @property
    def undelivered(self) -> Sized: ...

    def bytes_sent(self) -> None:
        """Some of what was written has been sent, perhaps all."""


class TellingSocket(WatchedSocket, tcp.Connection):
    """Mixed in before the class of a transport: a port's, or a client's.

    Over a UNIX socket no file descriptors are passed: HTTP has no use for them.
    """

    socket: socket.socket
    protocol: Any
    _shouldShutdown: bool

    #: What sends this transport's bytes once a turn, and whether it is about to.
    _joint: JointWrites | None = None
    _in_line = False
    #: Whether there is anything to send, and whether the reactor was asked to say when.
    sending = False
    _reactor_asked = False
    #: Whether somebody has paused reading.
    reading_paused = False
    #: The first failure: the kernel tells the cause only once, and then of an end or EPIPE.
    failure: ConnectionBroken | None = None
    #: Whether the peer has ended its input (FIN).
    _input_over = False
    #: Bytes that the kernel has taken so far.
    taken = 0
    #: Told of them while it waits for some.
    deliveries: Deliveries | None = None

    def doRead(self) -> Any:
        """Read what there is; the same as Twisted's, but for what a failure is."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._failed(error.errno or errno.ECONNRESET, "read")
        return self.protocol.dataReceived(data) if data else self.failure or CONNECTION_DONE

    def writeSomeData(self, data: Any) -> Any:
        """Write what there is room for; the same as Twisted's, but for what a failure is."""
        try:
            if len(data) > self.SEND_LIMIT:
                data = memoryview(data)[: self.SEND_LIMIT]
            sent = self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.ENOBUFS or (self._input_over and not data):
                return 0  # to close, Twisted sends nothing, which a peer that has closed refuses
            return self._failed(error.errno or errno.EPIPE, "write")
        self.taken += sent
        if sent and self._watch is not None:
            self._watch.bytes_taken()
        return sent

    @property
    def unsent(self) -> int:
        """Bytes that were written, and that the kernel has not taken yet."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def doWrite(self) -> Any:
        """Write what there is room for, and tell of it."""
        outcome = super().doWrite()
        if self.deliveries is not None and self.deliveries.undelivered and not self._aborting:
            self.deliveries.bytes_sent()
        return outcome

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer has ended its input.

        Or it has reset the connection, and the reactor saw that before the input's end: to it an
        error without anything to read is an end in order.
        """
        if number := socket_error(self):
            self.connectionLost(Failure(self._failed(number, "read")))
            return
        self._input_over = True
        super().readConnectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Ask the kernel where the reactor only saw that the socket has failed.

        A UNIX socket is lost in the same way where the peer has closed in order: then it has
        ended its input before, and there is no error.
        """
        if hasattr(self, "socket"):  # gone in a second call, which does nothing
            if reason.type is ConnectionLost and (number := socket_error(self)):
                self._failed(number, "read")
            if reason.type is ConnectionLost:
                if self.failure is not None:
                    reason = Failure(self.failure)
                elif self._input_over:
                    reason = Failure(CONNECTION_DONE)
            # Twisted shuts down what it closes, which fails where we have done that before.
            self._shouldShutdown = not self._writeDisconnected
            super().connectionLost(reason)

    def _failed(self, number: int, syscall: SystemCall) -> ConnectionBroken:
        if self.failure is None:
            self.failure = ConnectionBroken(number, syscall)
        return self.failure

    def stopReading(self) -> None:
        """Read no more until `startReading`."""
        self.reading_paused = True
        super().stopReading()

    def startReading(self) -> None:
        """Read what comes."""
        self.reading_paused = False
        super().startReading()

    # Joint writes.

    def join(self, joint: JointWrites) -> None:
        """Send what is written from now on with the others, once a turn."""
        self._joint = joint

    def write(self, data: bytes) -> None:
        """Send *data*; the same as Twisted's, in one piece for what is usual."""
        if data.__class__ is not bytes or not data or self.TLS or self._writeDisconnected:
            super().write(data)
        elif self.connected:
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            if len(self.dataBuffer) + self._tempDataLen > self.bufferSize:
                self._maybePauseProducer()
            self.startWriting()

    def startWriting(self) -> None:
        """There is something to send: at the end of this turn, or when the reactor says so."""
        self.sending = True
        if self._joint is None:
            self._ask_reactor()
        elif not self._in_line:
            self._in_line = True
            self._joint.add(self)

    def hold(self) -> None:
        """Let what is written wait for `send_joined`, which is about to be called."""
        self._in_line = True

    def _ask_reactor(self) -> None:
        self._reactor_asked = True
        super().startWriting()

    def stopWriting(self) -> None:
        """There is nothing to send any more."""
        self.sending = self._reactor_asked = False
        super().stopWriting()

    def send_joined(self) -> None:
        """Send what was written in this turn, and ask the reactor for what did not fit.

        What `doWrite` does, in one piece where it has nothing else to do.
        """
        self._in_line = False
        if not (self.sending and self.connected):
            return
        pieces = self._tempDataBuffer
        if (
            not pieces
            or self.dataBuffer
            or self.disconnecting
            or self._writeDisconnecting
            or self.producerPaused
            or not self.streamingProducer
            or self._tempDataLen > self.SEND_LIMIT
        ):
            self._write_on()
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        sent = self.writeSomeData(data)
        if isinstance(sent, Exception):
            self._ask_reactor()  # which sees the failure when it reads or writes again
            return
        self._tempDataBuffer = []
        self._tempDataLen = 0
        if sent < len(data):
            self.dataBuffer, self.offset = data, sent
            self._ask_reactor()
        elif self._reactor_asked:
            self.stopWriting()
        else:
            self.sending = False
        deliveries = self.deliveries
        if deliveries is not None and deliveries.undelivered:
            deliveries.bytes_sent()

    def _write_on(self) -> None:
        """Do as the reactor does when there is room, as far as that is sure to go well."""
        # A connection that is closing is left to the reactor: doWrite() would say that it
        # is over, and the reactor is who has to know.  So is a failed send.
        if not self.disconnecting:
            self._in_line = True
            try:
                self.doWrite()
            except Exception:  # a producer's; what the reactor does in its place
                failure = Failure()
                _log.failure("Could not go on writing", failure)
                self.connectionLost(failure)
            self._in_line = False
        if self.sending:
            self._ask_reactor()


class JoinsWrites(Protocol):
    """A transport that sends once a turn."""

    def send_joined(self) -> None: ...


class JointWrites:
    """The transports of one site whose answers leave together, when the next turn begins.

    A transport asks the reactor to be told when it can write, is told so in the reactor's
    next turn, writes, and takes its request back: for a small answer that is a third of all
    the work, and it finds the socket writable every time.  Here it writes first and asks only
    for what did not fit.  Nothing is buffered here: the transport keeps its own buffer, its
    own order and its own back-pressure.

    That all of them wait for each other is on purpose.  To send wakes the peer, which on
    a busy machine costs whoever sends; measured, one connection after the other took a
    fifth longer.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[JoinsWrites] = []

    def add(self, transport: JoinsWrites) -> None:
        """Let *transport* send when this turn of the reactor is over."""
        if not self._waiting:
            self._clock.callLater(0, self._send_all)
        self._waiting.append(transport)

    def _send_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            try:
                transport.send_joined()
            except Exception:  # an application's, whose connection was lost
                _log.failure("Could not send what was written")


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

    __slots__ = ("_deadline", "_deadlines", "_seconds", "_socket")

    def __init__(
        self,
        transport: Any,
        deadlines: Deadlines,
        seconds: float,
        stalled: Callable[[], object],
    ) -> None:
        self._socket = _watched(transport_beneath(transport))
        self._deadlines = deadlines
        self._deadline = Deadline(stalled)
        self._seconds = seconds or inf

    def start(self) -> None:
        """Something waits to be sent; harmless where it is known already."""
        if self._socket is not None and self._socket._watch is not self:
            self._socket._watch = self
            self._deadlines.set(self._deadline, self._deadlines.seconds() + self._seconds)

    def stop(self) -> None:
        """Nothing waits any more."""
        if self._socket is not None and self._socket._watch is self:
            self._socket._watch = None
            self._deadline.due = inf

    def forget(self) -> None:
        """Stop for good, and let go of everything."""
        self.stop()
        self._deadlines.forget(self._deadline)
        self._socket = None

    def bytes_taken(self) -> None:
        """The peer has taken some of what waits."""
        self._deadline.due = self._deadlines.seconds() + self._seconds


#: The classes in whose place `TellingSocket` reads and writes.
_TWISTEDS = (tcp.Connection, unix.Server, unix.Client)


@lru_cache(maxsize=32)
def _mixed(mixin: Any, kind: Any) -> Any:
    """The class *kind* with *mixin* in front, if it is not there yet."""
    if issubclass(kind, mixin):
        return kind
    return type(kind.__name__, (mixin, kind), {"__module__": kind.__module__})


def telling(kind: Any) -> Any:
    """The class *kind*, a subclass of `tcp.Connection`, with `TellingSocket` in front."""
    return _mixed(TellingSocket, kind)


def adopted(transport: Any) -> TellingSocket | None:
    """Let *transport* tell from now on, where it is a socket of Twisted's.

    A port that is listened on without `hangup_endpoint` makes transports of its own class,
    and so do endpoints for clients.  The port makes telling ones from then on: an object whose
    class was changed is slower for the rest of its life, by 4 % of a small request.

    Returns:
        The transport itself; None for anything else: TLS and other wrappers, transports in
        memory, and those whose application reads or writes in a way of its own.
    """
    if isinstance(transport, TellingSocket):
        return transport
    kind: Any = type(transport)
    if isinstance(transport, tcp.Connection) and _reads_as_twisted(kind):
        transport.__class__ = telling(kind)
        port = getattr(transport, "server", None)
        if isinstance(port, tcp.Port) and port.transport is kind:
            port.transport = telling(kind)
        return transport  # type: ignore[return-value]  # it is one now
    return None


def _watched(transport: Any) -> WatchedSocket | None:
    """Let *transport* be watched from now on, where it is a file descriptor; else None."""
    if not isinstance(transport, FileDescriptor):
        return None
    if not isinstance(transport, WatchedSocket):
        kind: Any = type(transport)
        transport.__class__ = _mixed(WatchedSocket, kind)
    return transport  # type: ignore[return-value]  # it is one now


@lru_cache(maxsize=16)
def _reads_as_twisted(kind: Any) -> bool:
    return all(
        any(getattr(kind, name) is getattr(theirs, name) for theirs in _TWISTEDS)
        for name in ("doRead", "writeSomeData")
    )
