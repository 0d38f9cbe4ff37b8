"""What becomes of a request after an attempt: delivered, tried again later, or given up."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from random import uniform
from typing import Final, TypeAlias

from twisted.web.http_headers import Headers

#: Draws a number between 0 and what it is given; another one makes a test exact.
Jitter: TypeAlias = Callable[[float], float]

#: Doubling more often than this leaves every sensible cap behind, and floats at last.
_MOST_DOUBLINGS: Final = 64

_DELAY_SECONDS: Final = re.compile(rb"[0-9]{1,10}")


def uniform_below(most: float) -> float:
    """Full jitter: anything between 0 and *most*, so that clients do not come back as one."""
    return uniform(0.0, most)


class Verdict(Enum):
    """What is done with a request after an attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryPolicy:
    """When a request is tried again, and for how long; subclass it to judge differently.

    Attributes:
        base_seconds: The wait after the first failure is drawn between 0 and this; the
            bound doubles with each failure after it (exponential backoff, full jitter).
        cap_seconds: What that bound grows to.
        max_age_seconds: A request that is older than this is dead.  Stripe tries its
            webhooks for 3 days.
        attempt_seconds: How long one attempt may take, the response's head included.
        settle_seconds: How much longer than an attempt a claim lasts, which is time to
            write down how it ended.  What a killed process was delivering is tried again
            when its claim has ended.
        failures_to_pause: So many failures of a destination in a row, none of its
            requests getting through between them, and it is left alone for a while; then
            one request at a time probes it.
        pause_cap_seconds: The longest such pause, and the longest ``Retry-After`` that is
            heeded.  It grows as the waits do.
    """

    base_seconds: float = 1.0
    cap_seconds: float = 900.0
    max_age_seconds: float = 3 * 24 * 3600.0
    attempt_seconds: float = 30.0
    settle_seconds: float = 30.0
    failures_to_pause: int = 5
    pause_cap_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Raises ValueError for a number that is not positive."""
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be more than 0")

    def judge(self, status: int, attempt: int) -> Verdict:
        """What a response says about its request.

        Args:
            status: Status code of the response (RFC 9110, section 15).
            attempt: 1 for the first.

        2xx is delivered.  408, 425, 429 and 5xx are tried again.  So is 409 after the
        first attempt: a server answers so while an earlier attempt with the same
        ``Idempotency-Key`` is still running.  Everything else is dead at once, redirects
        included: to follow one would send the request, its credentials with it, to a
        server that nobody named, and the same request again gets the same redirect.
        """
        if 200 <= status < 300:
            return Verdict.DELIVERED
        if status >= 500 or status in (408, 425, 429) or (status == 409 and attempt > 1):
            return Verdict.RETRY
        return Verdict.DEAD

    def wait(self, attempts: int, jitter: Jitter = uniform_below) -> float:
        """Seconds until the next attempt, after so many."""
        return jitter(min(self.cap_seconds, self._doubled(attempts - 1)))

    def pause(self, failures: int, jitter: Jitter = uniform_below) -> float | None:
        """Seconds to leave a destination alone after so many failures in a row; None if few."""
        beyond = failures - self.failures_to_pause
        if beyond < 0:
            return None
        return jitter(min(self.pause_cap_seconds, self._doubled(beyond)))

    def _doubled(self, times: int) -> float:
        doubled: float = self.base_seconds * 2 ** min(times, _MOST_DOUBLINGS)
        return doubled


def retry_after_seconds(headers: Headers, now: float) -> float:
    """How long a response asks us to wait (RFC 9110, section 10.2.3); 0 if it does not.

    Args:
        headers: Of the response.
        now: Seconds since the epoch, to which a date is compared.
    """
    for value in headers.getRawHeaders(b"retry-after", [])[:1]:
        if _DELAY_SECONDS.fullmatch(value.strip()):
            return float(value)
        try:
            date = parsedate_to_datetime(value.decode("ascii"))
            return max(0.0, date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp() - now)
        except (ValueError, OverflowError):  # neither of the two forms: as if it were not there
            return 0.0
    return 0.0
