"""What becomes of a request after an attempt: delivered, tried again later, or given up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from .._arguments import check_positive_fields
from ..client.backoff import Jitter, doubled, uniform_below


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
        max_attempts: A request that has been tried so often is dead, whatever its age.  An
            attempt counts that the end of its process cut short.  By default only the age
            does.
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
    max_attempts: float = inf
    attempt_seconds: float = 30.0
    settle_seconds: float = 30.0
    failures_to_pause: int = 5
    pause_cap_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Raises TypeError for what is no number, and ValueError for one that is not positive."""
        check_positive_fields(self)

    def judge(self, status: int | None, attempt: int) -> Verdict:
        """What a response says about its request.

        Args:
            status: Status code of the response (RFC 9110, section 15), also of one that broke
                off after it; None where none has come.
            attempt: 1 for the first.

        2xx is delivered.  408, 425, 429, 5xx and no status are tried again.  So is 409 after
        the first attempt: a server answers so while an earlier attempt with the same
        ``Idempotency-Key`` is still running.  Everything else is dead at once, redirects
        included: to follow one would send the request, its credentials with it, to a
        server that nobody named, and the same request again gets the same redirect.
        """
        if status is None:
            return Verdict.RETRY
        if 200 <= status < 300:
            return Verdict.DELIVERED
        if status >= 500 or status in (408, 425, 429) or (status == 409 and attempt > 1):
            return Verdict.RETRY
        return Verdict.DEAD

    def judge_failure(self, error: BaseException, attempt: int) -> Verdict:
        """What an attempt that brought no status says about its request: asks `judge`.

        Args:
            error: What the agent has failed with; ``CancelledError`` after `attempt_seconds`.
            attempt: 1 for the first.
        """
        return self.judge(None, attempt)

    def wait(self, attempts: int, jitter: Jitter = uniform_below) -> float:
        """Seconds until the next attempt, after so many."""
        return jitter(doubled(self.base_seconds, attempts - 1, self.cap_seconds))

    def pause(self, failures: int, jitter: Jitter = uniform_below) -> float | None:
        """Seconds to leave a destination alone after so many failures in a row; None if few."""
        beyond = failures - self.failures_to_pause
        if beyond < 0:
            return None
        return jitter(doubled(self.base_seconds, beyond, self.pause_cap_seconds))
