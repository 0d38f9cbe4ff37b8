"""What a response or a failure means for a queued request, and how long it then waits."""

from __future__ import annotations

import pytest

from twisted_hangup.outbox import DeliveryPolicy, Verdict

DELIVERED, RETRY, DEAD = Verdict.DELIVERED, Verdict.RETRY, Verdict.DEAD


@pytest.mark.parametrize(
    "status, attempt, verdict",
    [
        (200, 1, DELIVERED),
        (204, 7, DELIVERED),
        (299, 1, DELIVERED),
        (301, 1, DEAD),
        (302, 1, DEAD),
        (303, 1, DEAD),
        (307, 2, DEAD),
        (400, 1, DEAD),
        (401, 1, DEAD),
        (404, 1, DEAD),
        (408, 1, RETRY),
        (409, 1, DEAD),
        (409, 2, RETRY),
        (410, 1, DEAD),
        (422, 2, DEAD),
        (425, 1, RETRY),
        (429, 1, RETRY),
        (500, 1, RETRY),
        (501, 1, RETRY),
        (503, 1, RETRY),
        (599, 1, RETRY),
    ],
)
def test_judge(status: int, attempt: int, verdict: Verdict) -> None:
    """Each status is delivered, tried again or dead."""
    assert DeliveryPolicy().judge(status, attempt) is verdict


def test_waits_double_up_to_the_cap() -> None:
    """The bound of the wait doubles with each attempt."""
    policy = DeliveryPolicy(base_seconds=1, cap_seconds=60)
    longest = [policy.wait(attempts, lambda most: most) for attempts in range(1, 9)]
    assert longest == [1, 2, 4, 8, 16, 32, 60, 60]
    assert policy.wait(1_000_000, lambda most: most) == 60


def test_waits_have_full_jitter() -> None:
    """A wait is anything from 0 to its bound."""
    waits = [DeliveryPolicy(base_seconds=10).wait(1) for _ in range(1000)]
    assert 0 <= min(waits) < 1 and 9 < max(waits) <= 10
    assert 4 < sum(waits) / len(waits) < 6


def test_pauses() -> None:
    """A destination is left alone after some failures in a row, longer and longer."""
    policy = DeliveryPolicy(failures_to_pause=3, base_seconds=1, pause_cap_seconds=5)
    pauses = [policy.pause(failures, lambda most: most) for failures in range(1, 8)]
    assert pauses == [None, None, 1, 2, 4, 5, 5]


@pytest.mark.parametrize("name", ["base_seconds", "max_age_seconds", "failures_to_pause"])
def test_numbers_are_positive(name: str) -> None:
    """A policy with a number that makes no sense is refused."""
    numbers = {name: 0}
    with pytest.raises(ValueError, match=name):
        DeliveryPolicy(**numbers)
