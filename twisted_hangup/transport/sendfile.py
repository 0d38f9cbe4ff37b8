"""Parts of a file that the kernel sends, so that the process never reads them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper

from ..limits import KIB, MIB
from .sockets import TellingSocket

#: Bytes sent in one turn of the reactor, so that other connections get theirs.  A socket of Linux
#: holds no more (tcp_wmem); between turns others use the processor's caches, so few are cheap.
TURN_BYTES: Final = 4 * MIB

#: Bytes of a file that are read at a time where it cannot be sent.
READ_BYTES: Final = 64 * KIB

#: What `os.sendfile` fails with if the file, or its file system, is at fault: reading it may do.
_FILE_ERRORS: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO})

_log = Logger()

_sendfile: Any = getattr(os, "sendfile", None)


def file_socket(transport: Any) -> TellingSocket | None:
    """The socket under *transport*, if what is written to one is sent as it is on the other.

    Returns:
        None over TLS, under layers that have a say in what is written, in memory, and where the
        operating system cannot send files.
    """
    while isinstance(transport, ProtocolWrapper):
        if type(transport).write is not ProtocolWrapper.write:
            return None
        transport = transport.transport
    if _sendfile is None or not isinstance(transport, TellingSocket) or transport.TLS:
        return None
    return transport


class FilePart:
    """A part of a file, on its way to the peer.

    It is sent after what was written before it; nothing is written meanwhile.  The producer of the
    transport is paused while the peer has to make room, as if the part had been written.

    Args:
        file: The file descriptor, which stays open until the part is over.
        sent: Called with the number of bytes of each step.
        over: Called when all of it is sent, or the file ends before that.
    """

    __slots__ = ("_file", "_offset", "_over", "_sent", "_socket", "left")

    def __init__(
        self,
        socket: TellingSocket,
        file: int,
        offset: int,
        length: int,
        *,
        sent: Callable[[int], object],
        over: Callable[[], object],
    ) -> None:
        self._socket = socket
        self._file, self._offset, self.left = file, offset, length
        self._sent, self._over = sent, over

    def start(self) -> None:
        """Send it, from the end of this turn of the reactor on."""
        self._socket.unwritten = self
        self._socket.startWriting()

    def drop(self) -> None:
        """Send no more of it; harmless when it is over."""
        if self._socket.unwritten is self:
            self._socket.unwritten = None

    def send(self, write: Callable[[], Any]) -> Any:
        """Send what there is room for.

        Args:
            write: Sends what was written, as ``doWrite`` does.

        Returns:
            What ``doWrite`` returns.
        """
        socket = self._socket
        if socket.disconnecting or socket._writeDisconnecting:
            self.drop()
            return write()
        if socket._tempDataLen or socket.dataBuffer:
            outcome = write()
            if outcome is not None or socket.unsent or socket.unwritten is not self:
                return outcome
            socket.startWriting()
        try:
            count = _sendfile(socket.fileno(), self._file, self._offset, min(self.left, TURN_BYTES))
        except BlockingIOError:
            count = -1
        except OSError as error:
            if error.errno not in _FILE_ERRORS:
                return socket._failed(error.errno or errno.EPIPE, "write")
            count = self._write_read()
        else:
            socket.taken += count
            if socket._watch is not None:
                socket._watch.bytes_taken()
        if count > 0:
            self._offset += count
            self.left -= count
            self._sent(count)
        if self.left and count:
            self.wait()
            return None
        self.drop()
        if not socket.unsent:
            socket.stopWriting()
            producer: Any = socket.producer
            if producer is not None and socket.producerPaused:
                socket.producerPaused = False
                producer.resumeProducing()
        self._over()
        return None

    def wait(self) -> None:
        """The peer has to make room; who produces hears of it, and gives the peer its time."""
        producer: Any = self._socket.producer
        if producer is not None and not self._socket.producerPaused:
            self._socket.producerPaused = True
            producer.pauseProducing()

    def _write_read(self) -> int:
        """Write some bytes that were read; returns their number, 0 if the file has no more."""
        try:
            data = os.pread(self._file, min(self.left, READ_BYTES), self._offset)
        except OSError:
            _log.failure("Could not read a file that is being sent")
            return 0
        self._socket.write(data)
        return len(data)
