"""What `RetryAgent` and the outbox have in common: how long to wait before another attempt,
by which clock, the body that it sends, and what is left of the response before it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from ..limits import KIB
from ..transport.clock import steady as steady

#: Draws a number between 0 and its argument; another one makes a test exact.
Jitter: TypeAlias = Callable[[float], float]

#: Doubling more often than this leaves every sensible bound below it, and floats at last.
_MOST_DOUBLINGS: Final = 64

# RFC 9110, section 10.2.3
#   delay-seconds = 1*DIGIT
_DELAY_SECONDS: Final = re.compile(rb"[0-9]+")

#: The longest wait that a server can ask for: what RFC 9111, section 1.2.2, makes of a number
#: of seconds that is too large to count with.
MOST_SECONDS: Final = 2.0**31

#: Of a body that nobody wants so much is read, to keep the connection for the next request.
DISCARDED_BYTES: Final = 64 * KIB

#: And for so long, in seconds.
DISCARD_SECONDS: Final = 5.0


def uniform_below(most: float) -> float:
    """Full jitter: anything between 0 and *most*, so that clients do not come back as one."""
    return random.uniform(0.0, most)


def doubled(seconds: float, times: int, most: float) -> float:
    """*seconds*, doubled so many times, but not beyond *most*: the bound of one wait."""
    return min(most, seconds * 2.0 ** min(times, _MOST_DOUBLINGS))


def retry_after_seconds(headers: Headers, now: float) -> float:
    """How long a response asks us to wait (RFC 9110, section 10.2.3).

    Args:
        headers: Of the response.
        now: Seconds since the epoch, to which a date is compared.

    Returns:
        The longest where it asks several times, at most `MOST_SECONDS`; 0 where it does not
        ask, or says something that is neither a number of seconds nor a date.
    """
    values = headers.getRawHeaders(b"Retry-After", [])
    return max((_seconds(value.strip(), now) for value in values), default=0.0)


def _seconds(value: bytes, now: float) -> float:
    if _DELAY_SECONDS.fullmatch(value):
        return min(float(value), MOST_SECONDS)
    try:
        date = parsedate_to_datetime(value.decode("ascii"))
        seconds = date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp() - now
    except (ValueError, OverflowError, IndexError):  # the last from older Pythons
        return 0.0
    return min(max(0.0, seconds), MOST_SECONDS)


@implementer(IBodyProducer)
class BytesProducer:
    """A body that is in memory, written in one piece."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class Discard(Protocol):
    """Reads what is left of a body that nobody wants, and closes the connection if that is long.

    Give it to ``deliverBody`` at once: the time runs from the start.

    Attributes:
        ended: Fires with None once the body has ended or the connection is closed; never fails.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.ended: Deferred[None] = Deferred()
        self._read = 0
        self._timer = clock.callLater(DISCARD_SECONDS, self.stop)

    def dataReceived(self, data: bytes) -> None:
        self._read += len(data)
        if self._read > DISCARDED_BYTES:
            self.stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended.called:
            if self._timer.active():
                self._timer.cancel()
            self.ended.callback(None)

    def stop(self) -> None:
        """Close the connection; harmless when it is over."""
        if self.ended.called:
            return
        transport: Any = self.transport
        if transport is not None:  # a response that has none to give is no reason to fail
            getattr(transport, "abortConnection", transport.stopProducing)()
        self.connectionLost()
