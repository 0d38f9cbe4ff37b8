"""The body of a response that is in a file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from io import FileIO
from typing import Any, NamedTuple

from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from ...server.request import HangupRequest
from ...transport.sendfile import READ_BYTES, FilePart
from ...transport.sockets import TellingSocket

_log = Logger()


class Part(NamedTuple):
    """Bytes of a file, and what comes before them in the body."""

    before: bytes
    offset: int
    length: int


def send_parts(request: Any, file: FileIO, parts: Iterable[Part]) -> None:
    """Send *parts* of *file* as the body of *request*, finish that, and close the file.

    A small body is written at once.  The kernel sends a larger one if it can; if not, it is read
    and written piece by piece.  If the file has become shorter, the response is cut short; what was
    added to it is not sent.

    Args:
        request: The head of its response has the length of all that as ``Content-Length``.
    """
    parts = deque(parts)
    length = sum(part.length for part in parts)
    if length <= READ_BYTES:
        ReadBody(request, file, parts).resumeProducing()
        return
    socket = None
    # Many small parts are cheaper to read.
    if length >= READ_BYTES * len(parts) and isinstance(request, HangupRequest):
        socket = request._hangup_file_socket
    if socket is None:
        request.registerProducer(ReadBody(request, file, parts), False)
    else:
        body = SentBody(request, file, parts, socket)
        request.registerProducer(body, True)
        body.send_part()


class FileBody:
    """What produces a response's body from a file."""

    def __init__(self, request: Any, file: FileIO, parts: deque[Part]) -> None:
        self._request = request
        self._file = file
        self._parts = parts

    def stopProducing(self) -> None:
        """Nobody wants it any more, or all of it was sent."""
        self._file.close()
        self._request = None

    def _finish(self) -> None:
        """End the response; it is cut short if a part was."""
        request = self._request
        self.stopProducing()
        request.unregisterProducer()
        request.finish()


@implementer(IPullProducer)
class ReadBody(FileBody):
    """Reads the file, a piece at a time."""

    def resumeProducing(self) -> None:
        """Write the next piece; after the last one, finish."""
        if self._request is None:
            return
        parts, pieces, room = self._parts, [], READ_BYTES
        while parts and room > 0:
            before, offset, length = parts.popleft()
            try:
                data = os.pread(self._file.fileno(), min(length, room), offset)
            except OSError:
                _log.failure("Could not read a file that is being sent")
                data = b""
            pieces += [before, data]
            room -= len(before) + len(data)
            if length and not data:
                parts.clear()
            elif len(data) < length:
                parts.appendleft(Part(b"", offset + len(data), length - len(data)))
        self._request.write(b"".join(pieces))
        if not parts and self._request is not None:
            self._finish()


@implementer(IPushProducer)
class SentBody(FileBody):
    """Lets the kernel send the file."""

    def __init__(
        self, request: Any, file: FileIO, parts: deque[Part], socket: TellingSocket
    ) -> None:
        super().__init__(request, file, parts)
        self._socket = socket
        self._sending: FilePart | None = None

    def send_part(self) -> None:
        """Send the next part; after the last one, finish."""
        request = self._request
        if request is None:
            return  # the client has left
        if self._sending is not None and self._sending.left:
            self._parts.clear()  # the file has become shorter
        before, offset, length = self._parts.popleft() if self._parts else Part(b"", 0, 0)
        if before or not request.startedWriting:
            request.write(before)
        if not length:
            self._finish()
            return
        self._sending = FilePart(
            self._socket,
            self._file.fileno(),
            offset,
            length,
            sent=request._hangup_body_sent,
            over=self.send_part,
        )
        self._sending.start()

    def pauseProducing(self) -> None:
        """The client has to make room; the kernel takes what there is room for."""

    def resumeProducing(self) -> None:
        """There is room again."""

    def stopProducing(self) -> None:
        if self._sending is not None:
            self._sending.drop()
        super().stopProducing()
