"""What a worker and the first process tell each other: frames on a pair of sockets.

A frame is a kind, a length and finished bytes.  Nobody waits for the other end: frames for which
there is no room are dropped and counted.  The end of the channel is the end of the other process,
however that came.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IFileDescriptorReceiver, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ...limits import MIB

#: Most bytes of frames that wait for the other process.  Twisted's transport holds 64 KiB more.
MOST_WAITING_BYTES: Final = MIB

#: Most copies of descriptors that the other process has not taken yet.  It may be stopped for days.
MOST_COPIES: Final = 4

_HEAD: Final = struct.Struct(">BI")
_COUNT: Final = struct.Struct(">Q")


class Kind(IntEnum):
    """What a frame is.  Kinds from 16 on belong to who runs the workers."""

    #: The worker serves.
    READY = 1
    #: An event of the worker's log, as JSON.
    LOG = 2
    #: How many frames the sender has dropped in all.
    LOST = 3
    #: A descriptor has been taken, or had no room.
    RECEIVED = 4


@implementer(IPushProducer, IFileDescriptorReceiver)
class Channel(Protocol):
    """One end.  Call its methods in the reactor's thread.

    Attributes:
        lost_frames: How many frames have been dropped, of those sent here.
        closed: Fires with None when the other end, or this one, has been closed.
    """

    def __init__(self, received: Callable[[int, bytes], object]) -> None:
        """*received* is called with the kind and the payload of each frame that comes."""
        self.lost_frames = 0
        self.closed: Deferred[None] = Deferred()
        self._received = received
        self._input = b""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._open = False
        self._reported_frames = 0
        #: Copies of descriptors on their way, and descriptors that have come.
        self._sent: deque[int] = deque()
        self._arrived: deque[int] = deque()

    def send(self, kind: int, payload: bytes = b"") -> bool:
        """Send a frame, now or when the other process reads again.

        Returns:
            Whether there was room for it.
        """
        if not self._open:
            return False
        frame = frame_of(kind, payload)
        if not self._paused:
            self._write(frame)
        elif self._waiting_bytes + len(frame) <= MOST_WAITING_BYTES:
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
        else:
            self.lost_frames += 1
            return False
        return True

    def send_descriptor(self, kind: int, descriptor: int) -> None:
        """Send a copy of *descriptor* with a frame, which waits for no other.

        Raises:
            OSError: This process has no room for the copy, or `MOST_COPIES` wait already.
        """
        if self._open:
            if len(self._sent) >= MOST_COPIES:
                raise BlockingIOError("the other process takes no descriptors")
            # Ours may be closed, and its number used again, before the other process reads.
            self._sent.append(os.dup(descriptor))
            self._transport.sendFileDescriptor(self._sent[-1])
            self._write(_HEAD.pack(kind, 0))

    def take_descriptor(self) -> int:
        """The descriptor that has come with the frame; you close it.

        Raises:
            OSError: This process had no room for one more file when it came.
        """
        self.send(Kind.RECEIVED)
        if not self._arrived:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._arrived.popleft()

    def close(self) -> Deferred[None]:
        """Close it once all frames are sent; returns `closed`."""
        if self._open:
            self._write(b"".join(self._waiting))
            self._report_losses()
            self._open = False
            self._transport.unregisterProducer()
            self._transport.loseConnection()
        return self.closed

    def connectionMade(self) -> None:
        self._open = True
        transport: Any = self.transport
        self._transport = transport
        transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        data = self._input + data
        start = 0
        while len(data) - start >= _HEAD.size:
            kind, length = _HEAD.unpack_from(data, start)
            end = start + _HEAD.size + length
            if end > len(data):
                break
            if kind == Kind.RECEIVED and self._sent:
                os.close(self._sent.popleft())
            else:
                self._received(kind, data[start + _HEAD.size : end])
            start = end
        self._input = data[start:]

    def fileDescriptorReceived(self, descriptor: int) -> None:
        # Before the frame that it belongs to.
        os.set_inheritable(descriptor, False)
        self._arrived.append(descriptor)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._open = False
        self._waiting.clear()
        for descriptors in (self._sent, self._arrived):
            while descriptors:
                os.close(descriptors.popleft())
        self.closed.callback(None)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._waiting and not self._paused:
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame)
            self._write(frame)
        if not self._paused:
            self._report_losses()

    def stopProducing(self) -> None:
        self._waiting.clear()

    def _report_losses(self) -> None:
        if self.lost_frames != self._reported_frames:
            self._reported_frames = self.lost_frames
            self._write(frame_of(Kind.LOST, _COUNT.pack(self.lost_frames)))

    def _write(self, data: bytes) -> None:
        self._transport.write(data)


def frame_of(kind: int, payload: bytes) -> bytes:
    """A frame as it is sent."""
    return _HEAD.pack(kind, len(payload)) + payload


def count_in(payload: bytes) -> int:
    """The number in a frame of `Kind.LOST`."""
    number: int = _COUNT.unpack(payload)[0]
    return number
