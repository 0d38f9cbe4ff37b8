"""TLS with fewer calls of OpenSSL, above all for small requests; Twisted's code does all the rest.

Twisted reads until an exception of OpenSSL says that there is no more, and asks in the same way for
what there is to send.  It lets one turn of the reactor pass before it encrypts what was written,
and another one before it sends that.  This is half of what TLS costs a small request.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport
from twisted.python.failure import Failure

from ..limits import KIB
from .sockets import JointWrites, Meter, TellingSocket

# RFC 8446, section 5.1; RFC 5246, section 6.2.1
#   struct { ContentType type; ProtocolVersion version; uint16 length; opaque fragment[length]; }
_HEADER: Final = 5
_CONTENT_TYPES: Final = range(20, 25)

#: Most bytes written in a turn before they are encrypted; as in Twisted.
_TURN_BYTES: Final = 64_000

#: Most bytes in one record (RFC 8446, section 5.1).
_RECORD_BYTES: Final = 2**14

#: Most bytes taken from OpenSSL at a time, of which it holds one record; as in Twisted.
_TAKEN_BYTES: Final = 2**15

#: Most bytes that OpenSSL is given at a time; it keeps a third more for as long as the connection
#: is open.
LARGEST_PIECE: Final = 64 * KIB

_log = Logger()


class LeanTLS(BufferingTLSTransport):
    """Comes before the class of a server's TLS transports; see `lean`."""

    #: The part of the current record's header that has come, or how many bytes are to come.
    _header = b""
    _missing = 0

    #: Whether a byte of the handshake has come; see `preamble_begun`.
    preamble_begun = False

    #: Why the TCP connection was lost, while `connectionLost` runs, if it is known.
    _lost_because: ConnectionLost | None = None

    def makeConnection(self, transport: Any) -> None:
        """As Twisted's, with one call of `directlyProvides` in place of ten.

        Nor does a server ask OpenSSL to begin, which it cannot before its client has: it would only
        make buffers of 32 KiB for a client that may never send a byte.
        """
        if not self._connectWrapped:
            super().makeConnection(transport)
            return
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        ProtocolWrapper.makeConnection(self, transport)
        if not _is_server(self.factory):
            self._checkHandshakeStatus()

    def dataReceived(self, data: bytes) -> None:
        """Decrypt *data*, in pieces: the buffer of OpenSSL grows with them, and never shrinks."""
        for at in range(0, len(data), LARGEST_PIECE):
            self._receive(data[at : at + LARGEST_PIECE])
            if self._lostTLSConnection or self._aborted:
                return

    def _receive(self, data: bytes) -> None:
        """Decrypt *data*; in one step if it is one whole record."""
        if (
            len(data) <= _HEADER
            or _HEADER + (data[3] << 8 | data[4]) != len(data)
            or self._missing
            or self._header
            or self._appSendBuffer
            or self._lostTLSConnection
            or not self._handshakeDone
        ):
            self._follow(data)
            if (
                getattr(self.transport, "in_body", False)
                and self._handshakeDone
                and not (self._appSendBuffer or self._lostTLSConnection)
            ):
                self._decrypt(data)
            else:
                super().dataReceived(data)
            return
        connection = self._tlsConnection
        connection.bio_write(data)
        try:
            data = connection.recv(len(data))
        except (WantReadError, ZeroReturnError):
            self._flushReceiveBIO()  # a message of TLS itself: a KeyUpdate, close_notify
        except Error:
            self._tlsShutdownFinished(Failure())
        else:
            if not self._aborted:
                self.wrappedProtocol.dataReceived(data)

    def _decrypt(self, data: bytes) -> None:
        """Decrypt *data* as Twisted does, and deliver what it holds in one piece."""
        connection = self._tlsConnection
        connection.bio_write(data)
        pieces: list[bytes] = []
        finish = self._flushSendBIO
        try:
            while True:
                pieces.append(connection.recv(_RECORD_BYTES))
        except WantReadError:
            pass
        except ZeroReturnError:
            finish = self._flushReceiveBIO  # which is told so again
        except Error:
            finish = partial(self._tlsShutdownFinished, Failure())
        if pieces and not self._aborted:
            self.wrappedProtocol.dataReceived(b"".join(pieces))
        if not self._lostTLSConnection:
            finish()

    def _follow(self, data: bytes) -> None:
        """Note where in a record *data* ends.

        If OpenSSL holds a part of a record already, *data* is not a whole record, even if it looks
        like one.  A part of it would stay there until the next read, and a client could let such
        parts pile up.
        """
        self.preamble_begun = True
        data = self._header + data
        at = self._missing
        while at + _HEADER <= len(data):
            # An SSLv2 ClientHello, which OpenSSL 3 accepts, is no record and has no length for us.
            known = data[at] in _CONTENT_TYPES
            at += _HEADER + (data[at + 3] << 8 | data[at + 4]) if known else sys.maxsize
        self._header = data[at:]
        self._missing = max(0, at - len(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """As Twisted's, which asks OpenSSL what the end of the client's bytes means.

        If no part of a record has come, nor close_notify, it is an end that TLS did not announce.
        """
        if self._handshakeDone and not (self._lostTLSConnection or self._missing or self._header):
            self._lostTLSConnection = True
            if self._reason is None:
                self._reason = Failure(self._lost_because or CONNECTION_LOST)
        super().connectionLost(reason)

    def join(self, socket: TellingSocket, joint: JointWrites) -> None:
        """From now on encrypt what was written once a turn, when *socket* sends."""
        if self.write == self._aggregator.write:
            self._aggregator.flush()
            written: Any = Written(self, socket, joint)
            self._aggregator = written
            self.write = written.write  # type: ignore[method-assign]

    def encrypt(self, data: bytes) -> list[int]:
        """Encrypt *data* and write it to the socket, as Twisted does with its own buffer.

        OpenSSL's buffers never become smaller: it holds one record at a time.

        Returns:
            How long the records are then, without those that wait for TLS or come too late.
        """
        if self._lostTLSConnection or (self.disconnecting and self._producer is None):
            return []
        connection = self._tlsConnection
        transport: Any = self.transport
        view, over, records = memoryview(data), 0, []
        finish: Callable[[], object] | None = None
        while over < len(data) and finish is None:
            try:
                over += connection.send(view[over : over + _RECORD_BYTES])
                records.append(connection.bio_read(_TAKEN_BYTES))
            except WantReadError:
                finish = partial(self._bufferedWrite, data[over:])
            except Error:
                finish = partial(self._tlsShutdownFinished, Failure())
        if len(records) == 1:
            transport.write(records[0])
        elif records:
            transport.writeSequence(records)
        if finish is not None:
            finish()
        return list(map(len, records))

    def cannot_go_on(self, failure: Failure) -> None:
        """A producer has raised: end the connection, as over TCP."""
        _log.failure("Could not go on writing", failure)
        self._reason = failure
        self.abortConnection()


def _is_server(factory: Any) -> bool:
    """Whether *factory* is sure to make the server's ends of TLS connections."""
    creator = factory._creatorCallable
    names = getattr(getattr(creator, "__code__", None), "co_freevars", ())
    if "isClient" not in names:
        return False
    return creator.__closure__[names.index("isClient")].cell_contents is False


class Written:
    """The bytes written to a TLS transport in this turn; it replaces Twisted's buffer.

    It counts bytes before encryption.  A record counts as taken when the kernel has all of it.

    Args:
        transport: Encrypts the bytes.
        socket: Sends them then.
    """

    __slots__ = (
        *("_in_line", "_joint", "_pieces", "_room", "_socket", "_transport"),
        *("_encrypted", "_flushed", "_marks", "_taken"),
    )

    def __init__(self, transport: LeanTLS, socket: TellingSocket, joint: JointWrites) -> None:
        self._transport = transport
        self._socket = socket
        self._joint = joint
        self._pieces: list[bytes] = []
        self._room = _TURN_BYTES
        self._in_line = False
        #: Bytes flushed; of these, bytes encrypted; and bytes taken by the kernel, at the last
        #: look.
        self._flushed = self._encrypted = self._taken = 0
        #: The ends of records that wait to be sent: as bytes of the socket, and before encryption.
        #: A list, as it is short: an empty deque takes as much memory as all else here.
        self._marks: list[tuple[int, int]] = []

    @property
    def taken(self) -> int:
        """Bytes in records that the kernel has taken whole."""
        if self._marks:
            self._look_at_marks()
        return self._taken

    @property
    def sending(self) -> bool:
        """Whether there are bytes to send."""
        return bool(self._pieces) or self._socket.sending

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken."""
        return self._flushed + _TURN_BYTES - self._room - self.taken

    def write(self, data: bytes) -> None:
        """Encrypt *data* when this turn is over, or at once if too much waits."""
        self._pieces.append(data + b"")  # raises in the caller if it is not bytes
        self._room -= len(data)
        if self._room < 0:
            self.flush()
        elif not self._in_line:
            self._in_line = True
            self._joint.add(self)

    def flush(self) -> None:
        """Encrypt what was written so far."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._flushed += _TURN_BYTES - self._room
            self._room = _TURN_BYTES
            self._encrypt(b"".join(pieces))

    close = flush

    def _look_at_marks(self) -> None:
        marks, taken, over = self._marks, self._socket.taken, 0
        while over < len(marks) and marks[over][0] <= taken:
            over += 1
        if over:
            self._taken = marks[over - 1][1]
            del marks[:over]

    def _encrypt(self, data: bytes) -> None:
        socket, marks, left = self._socket, self._marks, len(data)
        self._look_at_marks()  # or they would pile up if nobody asks
        end = socket.taken + socket.unsent
        lengths = self._transport.encrypt(data)
        if socket.taken + socket.unsent == end:
            return  # it will never be sent: TLS has ended
        for length in lengths:
            end += length
            self._encrypted += min(left, _RECORD_BYTES)
            left -= _RECORD_BYTES
            marks.append((end, self._encrypted))

    def send_joined(self) -> None:
        """The turn is over: encrypt what was written, and send it."""
        self._in_line = False
        self._socket.hold()
        try:
            self.flush()
        except Exception:
            self._transport.cannot_go_on(Failure())
        self._socket.send_joined()

    def send_early(self) -> None:
        """Do it now, if it was to be done."""
        if self._in_line:
            self._joint.send([self])


@lru_cache(maxsize=16)
def lean(kind: Any) -> Any:
    """*kind* with `LeanTLS` before it, if it buffers and reads as Twisted's class does."""
    if not issubclass(kind, BufferingTLSTransport) or any(
        getattr(kind, name) is not getattr(BufferingTLSTransport, name)
        for name in ("dataReceived", "makeConnection")
    ):
        return kind
    return type(kind.__name__, (LeanTLS, kind), {"__module__": kind.__module__})


def adopt_tls(transport: Any, socket: TellingSocket, joint: JointWrites) -> None:
    """Make a server's *transport* lean if it is Twisted's TLS, and join its writes.

    If the port was not wrapped by `hangup_endpoint`, it makes lean transports from then on.

    Args:
        socket: The transport under it.
    """
    if not isinstance(transport, BufferingTLSTransport):
        return
    kind: Any = type(transport)
    if (leaner := lean(kind)) is not kind:
        transport.__class__ = leaner
        if transport.factory.protocol is kind:
            transport.factory.protocol = leaner
    if isinstance(transport, LeanTLS):
        transport.join(socket, joint)


def meter_of(transport: Any, socket: TellingSocket | None) -> Meter | None:
    """What counts the bytes that are written to *transport*, once it has been adopted.

    Args:
        socket: The transport under it.

    Returns:
        None if they cannot be counted: in memory, or over TLS that is not lean.
    """
    if socket is not None and transport is socket:
        return socket
    if isinstance(transport, LeanTLS) and isinstance(transport._aggregator, Written):
        return transport._aggregator
    return None if ISSLTransport.providedBy(transport) else socket
