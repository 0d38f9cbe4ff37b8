"""Writes the body of a request from its producer, and checks the length that it announced."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger()


def produced(producer: Any, consumer: Any, length: int | None) -> Deferred[None]:
    """Let *producer* write its body into *consumer*.

    Args:
        length: How many bytes it has; None for a chunked body.

    Returns:
        A Deferred that fires when it has written everything.  It fails with the producer's error,
        or at once with ValueError if the producer writes more than *length* bytes, or ends before.
        If *producer* was stopped, it may never fire.  Cancelling it stops *producer*.
    """
    ended: Deferred[None] = Deferred(lambda _: stop(producer))
    framed = _Framed(producer, consumer, length, ended)
    producing: Deferred[Any] = maybeDeferred(producer.startProducing, framed)
    producing.addCallback(framed.finish).addBoth(framed.end)
    return ended


def stop(producer: Any) -> None:
    """Tell *producer* to stop: nobody reads its body any more."""
    try:
        producer.stopProducing()
    except Exception:
        _log.failure("A body cannot be stopped; its request has ended")


@implementer(IConsumer)
class _Framed:
    """The consumer of a body's producer."""

    def __init__(
        self, producer: Any, consumer: Any, length: int | None, ended: Deferred[None]
    ) -> None:
        self._producer = producer
        self._consumer = consumer
        self._left = length
        self._ended = ended

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Do nothing: the body is the transport's producer already."""

    def unregisterProducer(self) -> None:
        """Do nothing: the producer is unregistered when it is done."""

    def write(self, data: bytes) -> None:
        """Pass *data* on.

        Too much is not raised here: the caller may be a timer, and not the request.
        """
        if self._ended.called:
            return
        if self._left is None:
            if data:
                self._consumer.writeSequence((b"%x\r\n" % len(data), data, b"\r\n"))
        elif len(data) <= self._left:
            self._left -= len(data)
            self._consumer.write(data)
        else:
            words = "the body is longer than its producer has announced"
            self.end(Failure(ValueError(words)))
            stop(self._producer)

    def finish(self, result: object) -> None:
        """The producer has written everything."""
        if self._ended.called:
            return
        if self._left is None:
            self._consumer.write(b"0\r\n\r\n")
        elif self._left:
            raise ValueError("the body is shorter than its producer has announced")

    def end(self, result: Any) -> None:
        if not self._ended.called:
            self._ended.callback(result)
