"""Sending the body of a request: a file, or whatever an `IBodyProducer` produces."""

from __future__ import annotations

from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.protocols.basic import FileSender
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer


def send_body(transport: Any, body: BinaryIO | IBodyProducer, length: int | None) -> Deferred[Any]:
    """Write *body* to *transport*, no faster than that takes it.

    Args:
        length: How many bytes it has; None to frame it in chunks.

    Returns:
        A Deferred that fires when all of it is with the transport.  It fails with what the
        producer failed with, or ValueError where that did not keep to *length*; if the
        connection is lost it may never fire.
    """
    if not IBodyProducer.providedBy(body):
        sending: Deferred[Any] = FileSender().beginFileTransfer(body, transport)
        return sending
    framed = _Framed(transport, length)
    transport.registerProducer(body, True)
    producing: Deferred[Any] = body.startProducing(framed)

    def finish(result: Any) -> Any:
        transport.unregisterProducer()
        framed.finish()
        return result

    def unregister(failure: Any) -> Any:
        transport.unregisterProducer()
        return failure

    return producing.addCallbacks(finish, unregister)


@implementer(IConsumer)
class _Framed:
    """What a body is produced into."""

    def __init__(self, transport: Any, length: int | None) -> None:
        self._transport = transport
        self._left = length

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """The body is the transport's producer already."""

    def unregisterProducer(self) -> None:
        """It is unregistered when it is done."""

    def write(self, data: bytes) -> None:
        if self._left is None:
            if data:
                self._transport.writeSequence((b"%x\r\n" % len(data), data, b"\r\n"))
            return
        if len(data) > self._left:
            raise ValueError("the body is longer than its producer has announced")
        self._left -= len(data)
        self._transport.write(data)

    def finish(self) -> None:
        if self._left is None:
            self._transport.write(b"0\r\n\r\n")
        elif self._left:
            raise ValueError("the body is shorter than its producer has announced")
