"""Transports that report why the network lost a connection, and whether the peer takes bytes.

Twisted's transports report each failed read or write as the same `ConnectionLost`, and the socket
is gone when a protocol hears of it.  They do not report a peer that takes no byte.  And for each
answer they ask the reactor for a turn to write in, although the socket was writable all the time;
for a large body they need many turns.  Two classes here change that.  A listening port is given
one, or a transport gets one when its connection is made or it is watched.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import lru_cache, partial
from math import inf
from typing import Any, Final, Literal, Protocol

from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.main import CONNECTION_DONE
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..limits import KIB, MIB
from .deadlines import Deadline, Deadlines
from .layers import transport_beneath

SystemCall = Literal["read", "write"]

#: What a connection that carries a large body reads at a time, and keeps to be sent before it wants
#: no more: such a body takes fewer turns of the reactor.
LARGE_READ: Final = 256 * KIB

#: Most bytes of a body that are read in one turn of the reactor, give or take a usual read: the
#: more, the cheaper each of them.
LARGEST_READ: Final = 512 * KIB

#: Most bytes that a connection sends while they are being written, in one turn of the reactor; what
#: comes after them waits for the next turn.
LARGEST_WRITE: Final = MIB

#: Most pieces in one call; more are joined.
_PIECES_AT_ONCE: Final = 64

#: Seconds between two looks at a peer that makes no room, and the share of its time that they are
#: at most.
_LOOK_SECONDS: Final = 1.0
_LOOK_SHARE: Final = 0.25

try:
    import fcntl
    import termios
except ImportError:  # Windows
    _HELD = None
else:  # elsewhere a socket has another name for it, or none
    _HELD = termios.TIOCOUTQ if sys.platform == "linux" else None

_log = Logger()


class ConnectionBroken(ConnectionLost):
    """A `ConnectionLost` that knows the cause.

    Attributes:
        errno: The operating system's error number.
        syscall: Which call failed, ``"read"`` or ``"write"``.
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


def held_by_kernel(transport: FileDescriptor) -> int:
    """How many bytes the kernel has taken and the peer has not; 0 if it does not tell.

    Linux counts them until the peer's kernel has them (tcp(7), SIOCOUTQ).  Of a UNIX socket it
    counts the memory, in pieces of up to 32 KiB which the peer has to read to their end.
    """
    descriptor = transport.fileno()
    if _HELD is None or descriptor < 0:
        return 0
    try:
        count = fcntl.ioctl(descriptor, _HELD, bytes(4))
    except OSError:  # not a socket that counts them
        return 0
    return int.from_bytes(count, sys.byteorder)


def until_next_look(seconds: float) -> float:
    """In how many seconds to look again at a peer that has *seconds* to make room."""
    return min(_LOOK_SECONDS, seconds * _LOOK_SHARE)


def socket_error(transport: Any) -> int:
    """Take the pending error number from the socket of *transport*; 0 if there is none."""
    return int(transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


class WatchedSocket(FileDescriptor):
    """Comes before the class of a transport: it reports the bytes that the peer takes."""

    #: Gets the number of bytes that the peer takes; None while nobody watches.
    _watch: SendWatch | None = None

    def writeSomeData(self, data: Any) -> Any:
        """Write as the transport does, and report the bytes written."""
        sent: Any = super().writeSomeData(data)
        if self._watch is not None and isinstance(sent, int) and sent > 0:
            self._watch.bytes_taken()
        return sent


class Meter(Protocol):
    """Counts the bytes written to a transport: `unsent`, and those `taken` by the kernel."""

    @property
    def sending(self) -> bool:
        """Whether bytes will be sent: those in `unsent`, unless the transport has gone."""

    @property
    def taken(self) -> int: ...
    @property
    def unsent(self) -> int: ...

    def send_early(self) -> None:
        """Send now what would be sent when this turn is over."""


class Deliveries(Protocol):
    """A listener for bytes that have been sent.

    Attributes:
        undelivered: What it waits for; falsy if it waits for nothing.
    """

    @property
    def undelivered(self) -> Sized: ...

    def bytes_sent(self) -> None:
        """Some of what was written has been sent, perhaps all."""


class Unwritten(Protocol):
    """Bytes that are sent without being written; see `FilePart`."""

    def send(self, write: Callable[[], Any]) -> Any:
        """Do what ``doWrite`` does; *write* sends what was written before."""

    def wait(self) -> None:
        """The peer may have to make room first; harmless if that is known."""


class TellingSocket(WatchedSocket, tcp.Connection):
    """Comes before the class of a transport, of a port or a client.

    Over a UNIX socket it passes no file descriptors: HTTP does not use them.
    """

    socket: socket.socket
    protocol: Any
    _shouldShutdown: bool

    #: Sends this transport's bytes once a turn; and whether it is about to.
    _joint: JointWrites | None = None
    _in_line = False
    #: Whether there are bytes to send, and whether the reactor was asked to say when.
    sending = False
    _reactor_asked = False
    #: How many bytes may still be sent at once in this turn.
    _room = LARGEST_WRITE
    #: Whether reading is paused.
    reading_paused = False
    #: While a body is being read: bytes of it by which the next read may be larger; else None.
    expected: int | None = None
    #: Whether what is being delivered continues a body.
    in_body = False
    #: The first failure: the kernel reports the cause once, and after that an end or EPIPE.
    failure: ConnectionBroken | None = None
    #: Whether the peer has ended its input (FIN).
    _input_over = False
    #: Bytes that the kernel has taken so far.
    taken = 0
    #: Informed of them while it waits for some.
    deliveries: Deliveries | None = None
    #: What is sent after the bytes that were written.
    unwritten: Unwritten | None = None
    #: Whether all that the peer has sent is read before the failure of a write is reported.  The
    #: kernel keeps it, and it may be the answer that says why.  A server drops what a client that
    #: has left still asks for.
    reads_first = False

    def expect(self, size: int) -> None:
        """Bytes of a body come next, *size* at least: read on in this turn, and more at a time."""
        # Reads that end with a chunk would be cut in two to be judged.
        usual = self.bufferSize
        self.expected = 0 if size < usual else min(size, LARGEST_READ - usual)

    def doRead(self) -> Any:
        """Read what there is, as Twisted does; a failure has its cause."""
        room = LARGEST_READ
        while True:
            size, expected = self.bufferSize, self.expected
            self.in_body = expected is not None
            if expected is not None:
                size += expected
                self.expected = None
            try:
                data = self.socket.recv(size)
            except BlockingIOError:
                return None
            except OSError as error:
                return self._failed(error.errno or errno.ECONNRESET, "read")
            if not data:
                break
            outcome = self.protocol.dataReceived(data)
            if self.expected is None:
                return outcome
            room -= len(data)
            nearly_all = 4 * len(data) < size
            if room <= 0 or nearly_all:
                return outcome
        failure = self.failure
        # Linux refuses a write after a FIN and a reset with EPIPE, and after a reset alone not.
        if failure is None or (self.reads_first and failure.errno == errno.EPIPE):
            return CONNECTION_DONE
        return failure

    def writeSomeData(self, data: Any) -> Any:
        """Write what there is room for, as Twisted does; a failure has its cause."""
        if len(data) > self.SEND_LIMIT:
            data = memoryview(data)[: self.SEND_LIMIT]
        return self._send(self.socket.send, data)

    def _send(self, send: Callable[[Any], int], data: Any) -> Any:
        try:
            sent = send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.ENOBUFS or (self._input_over and not data):
                return 0  # Twisted sends nothing to close, which a peer that has closed refuses
            return self._failed(error.errno or errno.EPIPE, "write")
        self.taken += sent
        if sent and self._watch is not None:
            self._watch.bytes_taken()
        return sent

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def doWrite(self) -> Any:
        """Write what there is room for, and report it."""
        self._room = LARGEST_WRITE
        unwritten = self.unwritten
        outcome = unwritten.send(super().doWrite) if unwritten else super().doWrite()
        if outcome is not None and outcome is self.failure and self._has_to_read:
            self.stopWriting()
            outcome = None
        if self.deliveries is not None and self.deliveries.undelivered and not self._aborting:
            self.deliveries.bytes_sent()
        return outcome

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer has ended its input.

        Or it has reset the connection, and the reactor noticed that first: an error without
        anything to read looks like an orderly end to it.
        """
        if number := socket_error(self):
            self.connectionLost(Failure(self._failed(number, "read")))
            return
        self._input_over = True
        super().readConnectionLost(reason)
        if self.failure is not None and self.connected:
            self.startWriting()  # which fails again, and is reported now

    @property
    def _has_to_read(self) -> bool:
        """Whether a failed write has to wait for what the peer has sent."""
        return self.reads_first and not (self._input_over or self.disconnecting)

    def connectionLost(self, reason: Failure) -> None:
        """Ask the kernel for the cause if the reactor only saw that the socket has failed.

        A UNIX socket is lost in the same way when the peer has closed in order.  Then the peer
        has ended its input before, and there is no error.
        """
        if hasattr(self, "socket"):  # it is gone in a second call, which does nothing
            if reason.type is ConnectionLost:
                if number := socket_error(self):
                    self._failed(number, "read")
                if self.reading_paused and self._has_to_read:
                    return  # `doRead` reports it when reading is resumed
                if self.failure is not None:
                    reason = Failure(self.failure)
                elif self._input_over:
                    reason = Failure(CONNECTION_DONE)
            # Twisted shuts down what it closes; that fails if we have done it before.
            self._shouldShutdown = not self._writeDisconnected
            super().connectionLost(reason)

    def _failed(self, number: int, syscall: SystemCall) -> ConnectionBroken:
        if self.failure is None:
            self.failure = ConnectionBroken(number, syscall)
        return self.failure

    def stopReading(self) -> None:
        """Pause reading until `startReading`."""
        self.reading_paused = True
        super().stopReading()

    def startReading(self) -> None:
        """Resume reading."""
        self.reading_paused = False
        super().startReading()

    # Joint writes.

    def join(self, joint: JointWrites) -> None:
        """From now on send what was written once a turn, together with the other transports."""
        self._joint = joint

    def write(self, data: bytes) -> None:
        """Send *data*; as Twisted's, in one piece for the usual case."""
        if data.__class__ is not bytes or not data or self.TLS or self._writeDisconnected:
            super().write(data)
        elif self.connected:
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            if len(self.dataBuffer) + self._tempDataLen > self.bufferSize:
                if self._sent_at_once():
                    return
                self._maybePauseProducer()
            if not (self._in_line and self.sending):
                self.startWriting()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send the pieces in *iovec*, as `write` does."""
        pieces = [piece for piece in iovec if piece != b""]
        if self.TLS or any(piece.__class__ is not bytes for piece in pieces):
            super().writeSequence(pieces)
        elif pieces and self.connected and not self._writeDisconnected:
            last = pieces.pop()
            self._tempDataBuffer += pieces
            self._tempDataLen += sum(map(len, pieces))
            self.write(last)

    def _has_only_to_send(self) -> bool:
        """Whether there is nothing to do but to send the pieces that were written."""
        return not (
            self.dataBuffer
            or self.unwritten is not None
            or self.disconnecting
            or self._writeDisconnecting
            or self._aborting
            or self.producerPaused
            or (self.producer is not None and not self.streamingProducer)
        )

    def _sent_at_once(self) -> bool:
        """Send what was written now, as it is too much to be kept; its producer need not pause.

        Nobody is called.  What may not be sent now, or does not fit, waits as ever.

        Returns:
            Whether nothing of it is left.
        """
        pieces, size = self._tempDataBuffer, self._tempDataLen
        if (
            self._reactor_asked  # the peer has to make room
            or size > self._room
            or self._joint is None
            or self.producer is None
            or not self._has_only_to_send()
            or (self.deliveries is not None and self.deliveries.undelivered)
            or _HELD is None  # a slow peer would have to take all before we notice
            or self.fileno() < 0  # in memory
        ):
            return False
        if len(pieces) > _PIECES_AT_ONCE:
            pieces = [b"".join(pieces)]
        if len(pieces) == 1:
            sent = self._send(self.socket.send, pieces[0])
        else:
            sent = self._send(self.socket.sendmsg, pieces)
        if isinstance(sent, Exception):
            return False  # it fails again when this turn is over
        self._room -= sent
        if sent == size:
            self._tempDataBuffer = []
            self._tempDataLen = 0
            self.sending = False
            return True
        over = 0
        while sent >= len(pieces[over]):
            sent -= len(pieces[over])
            over += 1
        self.dataBuffer, self.offset = pieces[over], sent
        self._tempDataBuffer = pieces[over + 1 :]
        self._tempDataLen = sum(map(len, self._tempDataBuffer))
        self._ask_reactor()
        self.sending = True
        return False

    def startWriting(self) -> None:
        """There are bytes to send: send them at the end of this turn, or when the reactor says."""
        self.sending = True
        if self._joint is None:
            self._ask_reactor()
        elif not self._in_line:
            self._in_line = True
            self._joint.add(self)

    def hold(self) -> None:
        """Keep what is written for `send_joined`, which is about to be called."""
        self._in_line = True

    def _ask_reactor(self) -> None:
        self._reactor_asked = True
        if self.unwritten is not None:
            self.unwritten.wait()  # the reactor may never answer
        super().startWriting()

    def stopWriting(self) -> None:
        """There are no more bytes to send."""
        self.sending = False
        if self._reactor_asked:
            self._reactor_asked = False
            super().stopWriting()

    def send_joined(self) -> None:
        """Send what was written in this turn, and ask the reactor for a turn for the rest.

        As `doWrite`, in one piece if nothing else is to be done.
        """
        self._in_line = False
        self._room = LARGEST_WRITE
        if not (self.sending and self.connected):
            return
        pieces = self._tempDataBuffer
        if not pieces or self._tempDataLen > self.SEND_LIMIT or not self._has_only_to_send():
            self._write_on()
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        sent = self.writeSomeData(data)
        if isinstance(sent, Exception):
            self._ask_reactor()  # it sees the failure when it reads or writes again
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

    def send_early(self) -> None:
        """Send now what would be sent when this turn is over."""
        if self._in_line and self._joint is not None:
            self._joint.send([self])

    def _write_on(self) -> None:
        """Do what the reactor does when there is room, if that is sure to succeed."""
        # The reactor handles a closing connection, and a failed send: doWrite() would report the
        # end of the connection, and the reactor has to get that report.
        if not self.disconnecting:
            self._in_line = True
            try:
                self.doWrite()
            except Exception:  # a producer's; the reactor would do the same
                failure = Failure()
                _log.failure("Could not go on writing", failure)
                self.connectionLost(failure)
            self._in_line = False
        if self.sending:
            self._ask_reactor()


class JoinsWrites(Protocol):
    """What sends once a turn: a transport, or a body that goes to its file."""

    def send_joined(self) -> None: ...


class JointWrites:
    """The transports of one site, which send their answers together when the next turn begins.

    A transport asks the reactor to tell it when it can write, gets the answer in the next turn,
    writes, and takes its request back.  For a small answer this is a third of all the work, and it
    finds the socket writable every time.  Here it writes first, and asks only for what did not fit.
    Nothing is buffered here: the transport keeps its buffer, its order and its back-pressure.

    They wait for each other on purpose.  Sending wakes the peer, which on a busy machine costs the
    sender; one connection after the other took a fifth longer (measured).
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
        self.send(waiting)

    def send(self, transports: Sequence[JoinsWrites]) -> None:
        """Let *transports* send, one after the other."""
        for transport in transports:
            try:
                transport.send_joined()
            except Exception:  # of an application whose connection was lost
                _log.failure("Could not send what was written")


class SendWatch:
    """Watches one transport that has more to send than its peer takes.

    Each byte that the peer takes starts the time anew, however slowly it reads.  Only a peer that
    takes none for the whole time has stalled.  The kernel may hold megabytes for it, and takes more
    only when a third of its buffer is free: so what it holds is looked at as well, on Linux.  It
    looks once a second, and so is late by a second at most, never early.

    Args:
        transport: A transport.  The file descriptor under it is watched; in memory there is none,
            and nothing is watched.
        seconds: The time; 0 for no limit.
        stalled: Called once when the time has passed.
    """

    __slots__ = ("_deadline", "_deadlines", "_held", "_seconds", "_since", "_socket")

    def __init__(
        self,
        transport: Any,
        deadlines: Deadlines,
        seconds: float,
        stalled: Callable[[], object],
    ) -> None:
        self._socket = _watched(transport_beneath(transport))
        self._deadlines = deadlines
        self._deadline = Deadline(partial(self._look, stalled))
        self._seconds = seconds
        #: When we last saw that the peer had taken some bytes, and how many the kernel held then.
        self._since = self._held = 0.0

    def start(self) -> None:
        """Bytes wait to be sent; harmless if that is known."""
        if self._socket is not None and self._socket._watch is not self:
            self._socket._watch = self
            if self._seconds:
                self._since = self._deadlines.seconds()
                self._held = held_by_kernel(self._socket)
                self._look_later(self._since)

    def stop(self) -> None:
        """No bytes wait any more."""
        if self._socket is not None and self._socket._watch is self:
            self._socket._watch = None
            self._deadline.due = inf

    def forget(self) -> None:
        """Stop for good, and keep nothing alive."""
        self.stop()
        self._deadlines.forget(self._deadline)
        self._socket = None

    def bytes_taken(self) -> None:
        """The kernel has taken some of the bytes that wait, as the peer has made room."""
        self._held = inf  # so that the next look sees it: these calls are many, and looks few

    def _look_later(self, now: float) -> None:
        """Look again soon, but not after the peer's time has passed."""
        soon = now + until_next_look(self._seconds)
        self._deadlines.set(self._deadline, min(soon, self._since + self._seconds))

    def _look(self, stalled: Callable[[], object]) -> None:
        """See whether the peer has taken some bytes since the last look."""
        assert self._socket is not None
        now, held = self._deadlines.seconds(), held_by_kernel(self._socket)
        if held < self._held:
            self._since, self._held = now, held
        if now - self._since < self._seconds:
            self._look_later(now)
        else:
            stalled()


#: Twisted's classes whose reading and writing `TellingSocket` replaces.
_TWISTEDS = (tcp.Connection, unix.Server, unix.Client)


@lru_cache(maxsize=32)
def _mixed(mixin: Any, kind: Any) -> Any:
    """*kind* with *mixin* before it, if it is not there yet."""
    if issubclass(kind, mixin):
        return kind
    return type(kind.__name__, (mixin, kind), {"__module__": kind.__module__})


def telling(kind: Any) -> Any:
    """*kind*, a subclass of `tcp.Connection`, with `TellingSocket` before it."""
    return _mixed(TellingSocket, kind)


def adopted(transport: Any) -> TellingSocket | None:
    """Make *transport* a `TellingSocket`, if it is a socket of Twisted's.

    A port that was not wrapped by `hangup_endpoint` makes transports of its own class, and so do
    endpoints for clients.  The port makes telling ones from then on: an object whose class was
    changed stays slower, by 4 % of a small request.

    Returns:
        The transport itself.  None for anything else: TLS and other wrappers, transports in memory,
        and those whose class reads or writes in its own way.
    """
    if isinstance(transport, TellingSocket):
        return transport
    kind: Any = type(transport)
    if isinstance(transport, tcp.Connection) and _reads_as_twisted(kind):
        transport.__class__ = telling(kind)
        port = getattr(transport, "server", None)
        if isinstance(port, tcp.Port) and port.transport is kind:
            port.transport = telling(kind)
        socket: TellingSocket = transport  # type: ignore[assignment]  # its class was changed
        socket._reactor_asked = True  # perhaps: TLS writes before it is adopted
        return socket
    return None


def _watched(transport: Any) -> WatchedSocket | None:
    """Make *transport* a `WatchedSocket`, if it is a file descriptor; else return None."""
    if not isinstance(transport, FileDescriptor):
        return None
    if not isinstance(transport, WatchedSocket):
        kind: Any = type(transport)
        transport.__class__ = _mixed(WatchedSocket, kind)
    return transport  # type: ignore[return-value]  # its class was changed


@lru_cache(maxsize=16)
def _reads_as_twisted(kind: Any) -> bool:
    return all(
        any(getattr(kind, name) is getattr(theirs, name) for theirs in _TWISTEDS)
        for name in ("doRead", "writeSomeData")
    )
