"""What `RetryAgent` and the outbox share: the wait before another attempt, its clock, the body that
is sent again, and the rest of a response that nobody reads.
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

#: Draws a number between 0 and its argument; a test can give an exact one.
Jitter: TypeAlias = Callable[[float], float]

#: Most doublings: more exceed every sensible bound, and in the end floats.
_MOST_DOUBLINGS: Final = 64

# RFC 9110, section 10.2.3
#   delay-seconds = 1*DIGIT
_DELAY_SECONDS: Final = re.compile(rb"[0-9]+")

#: The longest wait that a server can ask for: RFC 9111, section 1.2.2, replaces numbers of seconds
#: that are too large by this one.
MOST_SECONDS: Final = 2.0**31

#: Most bytes of an unwanted body that are read, to keep the connection for the next request.
DISCARDED_BYTES: Final = 64 * KIB

#: And for how long it is read, in seconds.
DISCARD_SECONDS: Final = 5.0


def uniform_below(most: float) -> float:
    """Full jitter: anything between 0 and *most*, so that clients do not come back all at once."""
    return random.uniform(0.0, most)


def doubled(seconds: float, times: int, most: float) -> float:
    """*seconds*, doubled so many times, but at most *most*: the bound of one wait."""
    return min(most, seconds * 2.0 ** min(times, _MOST_DOUBLINGS))


def retry_after_seconds(headers: Headers, now: float) -> float:
    """How long a response asks us to wait (RFC 9110, section 10.2.3).

    Args:
        headers: The headers of the response.
        now: Seconds since the epoch; a date is compared to it.

    Returns:
        The longest wait if there are several, at most `MOST_SECONDS`.  0 without Retry-After, or if
        it is neither a number of seconds nor a date.
    """
    values = headers.getRawHeaders(b"Retry-After", [])
    return max((_seconds(value.strip(), now) for value in values), default=0.0)


def _seconds(value: bytes, now: float) -> float:
    if _DELAY_SECONDS.fullmatch(value):
        return min(float(value), MOST_SECONDS)
    try:
        date = parsedate_to_datetime(value.decode("ascii"))
        seconds = date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp() - now
    except (ValueError, OverflowError, IndexError):  # older Pythons raise the last
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
    """Reads the rest of an unwanted body, and closes the connection if that is long.

    Give it to ``deliverBody`` at once: its time runs from the start.

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
        """Close the connection; harmless if the body has ended."""
        if self.ended.called:
            return
        transport: Any = self.transport
        if transport is not None:  # some responses have none, which is no reason to fail
            getattr(transport, "abortConnection", transport.stopProducing)()
        self.connectionLost()
