"""What happens with a request after an attempt: delivered, tried again, or given up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from .._arguments import check_positive_fields
from ..client.backoff import Jitter, doubled, uniform_below


class Verdict(Enum):
    """What happens with a request after an attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryPolicy:
    """When a request of an `Outbox` is tried again, and for how long.

    Subclass it and override `judge` to decide differently.

    Attributes:
        base_seconds: The wait after the first failure is random, from 0 to this; the bound doubles
            with each further failure (exponential backoff, full jitter).
        cap_seconds: The largest bound of a wait.
        max_age_seconds: An older request is given up.  Stripe tries its webhooks for 3 days.
        max_attempts: A request is given up after this many attempts, whatever its age; an attempt
            that the end of its process cut short counts.  By default only the age counts.
        attempt_seconds: How long one attempt may take, until the response's head has arrived.
        settle_seconds: How much longer than an attempt its claim lasts: the time to store the
            result.  If a process is killed, its requests are tried again when their claims end.
        failures_to_pause: After this many failures of a destination in a row, the destination is
            paused; then one request at a time probes it.
        pause_cap_seconds: The longest such pause, which grows as the waits do.  Also the longest
            ``Retry-After`` that is obeyed.
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
        """Raise TypeError if a field is not a number, and ValueError if it is not positive."""
        check_positive_fields(self)

    def judge(self, status: int | None, attempt: int) -> Verdict:
        """What a response means for its request.

        2xx is delivered.  408, 425, 429, 5xx and no status are tried again.  So is 409 after the
        first attempt: a server answers it while an earlier attempt with the same
        ``Idempotency-Key`` is still running.  Everything else is given up at once, also a redirect:
        following it would send the request with its credentials to a server that you did not name,
        and repeating the request would get the same redirect.

        Args:
            status: Status code of the response (RFC 9110, section 15), even if the response broke
                off after it; None if there was none.
            attempt: 1 for the first.
        """
        if status is None:
            return Verdict.RETRY
        if 200 <= status < 300:
            return Verdict.DELIVERED
        if status >= 500 or status in (408, 425, 429) or (status == 409 and attempt > 1):
            return Verdict.RETRY
        return Verdict.DEAD

    def judge_failure(self, error: BaseException, attempt: int) -> Verdict:
        """What an attempt without a status means for its request; asks `judge`.

        Args:
            error: The agent's error; ``CancelledError`` after `attempt_seconds`.
            attempt: 1 for the first.
        """
        return self.judge(None, attempt)

    def wait(self, attempts: int, jitter: Jitter = uniform_below) -> float:
        """Seconds until the next attempt, after this many."""
        return jitter(doubled(self.base_seconds, attempts - 1, self.cap_seconds))

    def pause(self, failures: int, jitter: Jitter = uniform_below) -> float | None:
        """Seconds to pause a destination after this many failures in a row; None if too few."""
        beyond = failures - self.failures_to_pause
        if beyond < 0:
            return None
        return jitter(doubled(self.base_seconds, beyond, self.pause_cap_seconds))
