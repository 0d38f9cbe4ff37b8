"""TLS for small requests: OpenSSL is asked once, and Twisted's way is there for all the rest.

Twisted reads on until an exception of OpenSSL says that there is no more, asks it in the same
way for what there is to send, lets a turn of the reactor pass before it encrypts what was
written and another one before it sends that: half of what TLS costs a small request.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport
from twisted.python.failure import Failure

from .sockets import JointWrites, TellingSocket

# RFC 8446, section 5.1; RFC 5246, section 6.2.1
#   struct { ContentType type; ProtocolVersion version; uint16 length; opaque fragment[length]; }
_HEADER: Final = 5
_CONTENT_TYPES: Final = range(20, 25)

#: How much may be written in a turn before it is encrypted, in bytes; as in Twisted.
_TURN_BYTES: Final = 64_000

_log = Logger()


class LeanTLS(BufferingTLSTransport):
    """Mixed in before the class of a server's TLS transports; see `lean`."""

    #: Of the record that is being read: what has come of its header, or how much is to come.
    _header = b""
    _missing = 0

    #: Whether anything has come of the handshake; see `preamble_begun`.
    preamble_begun = False

    def makeConnection(self, transport: Any) -> None:
        """Begin; the same as Twisted's, with one `directlyProvides` in the place of ten."""
        if not self._connectWrapped:
            super().makeConnection(transport)
            return
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        ProtocolWrapper.makeConnection(self, transport)
        self._checkHandshakeStatus()

    def dataReceived(self, data: bytes) -> None:
        """Decrypt *data*: in one step where it is one whole record."""
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
            super().dataReceived(data)
            return
        connection = self._tlsConnection
        connection.bio_write(data)
        try:
            data = connection.recv(len(data))
        except (WantReadError, ZeroReturnError):
            self._flushReceiveBIO()  # one of TLS's own: a KeyUpdate, close_notify
        except Error:
            self._tlsShutdownFinished(Failure())
        else:
            if not self._aborted:
                self.wrappedProtocol.dataReceived(data)

    def _follow(self, data: bytes) -> None:
        """Note where in a record *data* ends.

        Where OpenSSL has a part of one already, what looks like a whole record is none: a part
        of it would stay there until the next read, and a client could pile up what stays.
        """
        self.preamble_begun = True
        data = self._header + data
        at = self._missing
        while at + _HEADER <= len(data):
            # An SSLv2 ClientHello, which OpenSSL 3 takes, is no record: it has no end for us.
            known = data[at] in _CONTENT_TYPES
            at += _HEADER + (data[at + 3] << 8 | data[at + 4]) if known else sys.maxsize
        self._header = data[at:]
        self._missing = max(0, at - len(data))

    def join(self, socket: TellingSocket, joint: JointWrites) -> None:
        """Encrypt what is written from now on once a turn, when *socket* beneath sends."""
        if self.write == self._aggregator.write:
            self._aggregator.flush()
            # Twisted's `write` of what its own buffer has gathered.
            encrypt = super(BufferingTLSTransport, self).write
            written: Any = _Written(encrypt, self._cannot_go_on, socket, joint)
            self._aggregator = written
            self.write = written.write  # type: ignore[method-assign]

    def _cannot_go_on(self, failure: Failure) -> None:
        """A producer has failed, which costs its connection over TCP as well."""
        _log.failure("Could not go on writing", failure)
        self._reason = failure
        self.abortConnection()


class _Written:
    """What was written to a TLS transport in this turn, in the place of Twisted's buffer.

    Args:
        encrypt: Called with all of it in one piece.
        failed: Called with what that raises at the end of a turn.
        socket: What sends it then.
    """

    __slots__ = ("_encrypt", "_failed", "_in_line", "_joint", "_pieces", "_room", "_socket")

    def __init__(
        self,
        encrypt: Callable[[bytes], object],
        failed: Callable[[Failure], object],
        socket: TellingSocket,
        joint: JointWrites,
    ) -> None:
        self._encrypt = encrypt
        self._failed = failed
        self._socket = socket
        self._joint = joint
        self._pieces: list[bytes] = []
        self._room = _TURN_BYTES
        self._in_line = False

    def write(self, data: bytes) -> None:
        """Encrypt *data* when this turn is over, or at once where that makes too much."""
        self._pieces.append(data + b"")  # what is no bytes is the caller's to hear of
        self._room -= len(data)
        if self._room < 0:
            self.flush()
        elif not self._in_line:
            self._in_line = True
            self._joint.add(self)

    def flush(self) -> None:
        """Encrypt it now."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._room = _TURN_BYTES
            self._encrypt(b"".join(pieces))

    close = flush

    def send_joined(self) -> None:
        """The turn is over: encrypt it, and send that."""
        self._in_line = False
        self._socket.hold()
        try:
            self.flush()
        except Exception:
            self._failed(Failure())
        self._socket.send_joined()


@lru_cache(maxsize=16)
def lean(kind: Any) -> Any:
    """The class *kind* with `LeanTLS` in front, where it buffers and reads as Twisted's does."""
    if not issubclass(kind, BufferingTLSTransport) or any(
        getattr(kind, name) is not getattr(BufferingTLSTransport, name)
        for name in ("dataReceived", "makeConnection")
    ):
        return kind
    return type(kind.__name__, (LeanTLS, kind), {"__module__": kind.__module__})


def adopt_tls(transport: Any, socket: TellingSocket, joint: JointWrites) -> None:
    """Let *transport*, a server's, be lean where it is TLS of Twisted's, and join its writes.

    A port that is listened on without `hangup_endpoint` makes lean ones from then on.

    Args:
        socket: What is beneath it.
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
