"""One attempt to deliver a request, by itself."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.outboxes import FakeAgent, Response
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from twisted_hangup import Attempt as Retry
from twisted_hangup import RetryAgent, RetryPolicy
from twisted_hangup.outbox import DeliveryPolicy
from twisted_hangup.outbox.delivery import DeliveryAttempt
from twisted_hangup.outbox.store import Claim, Settlement

CLAIM: Final = Claim(
    id=1,
    key="key",
    lane="http://there.test:80",
    destination="http://there.test:80",
    ordered=False,
    method="POST",
    url="http://there.test/hook",
    headers="",
    body=b"body",
    attempt=1,
    expires_at=1e9,
    lease="token",
    probe=False,
)


def unavailable(*values: bytes) -> Response:
    """A 503 with these values of Retry-After."""
    response = Response(503)
    response.headers = Headers({b"Retry-After": values})
    return response


def settlement(response: Response, **policy: Any) -> Settlement:
    """What one attempt makes of *response*."""
    agent = FakeAgent(lambda sent: response)
    settled: list[Settlement] = []
    clock = Clock()
    attempt = DeliveryAttempt(agent, CLAIM, DeliveryPolicy(**policy), clock)
    attempt.settled.addCallback(settled.append)
    assert not clock.getDelayedCalls()
    return settled[0]


def test_several_waits() -> None:
    """The longest counts, and what cannot be understood does not."""
    assert settlement(unavailable(b"7", b"20", b"soon", b"\xff")).wait_seconds == 20


@pytest.mark.parametrize("value", [b"301", b"9" * 10, b"9" * 400, b"Fri, 01 Jan 2100 00:00:00 GMT"])
def test_too_long_a_wait(value: bytes) -> None:
    """It is the longest that the policy allows, not none."""
    assert settlement(unavailable(value)).wait_seconds == 300


@given(st.lists(st.binary(max_size=30) | st.from_regex(rb"\d{1,20}", fullmatch=True), max_size=3))
def test_waits_as_the_retry_agent(values: list[bytes]) -> None:
    """Both understand a Retry-After in the same way, whatever a server puts into it."""
    retries: list[Retry] = []
    agent = RetryAgent(
        FakeAgent(lambda sent: unavailable(*values)),
        RetryPolicy(attempts=2, deadline_seconds=0),
        clock=Clock(),
        on_attempt=retries.append,
        uniform=lambda least, most: 0.0,
    )
    waiting = agent.request(b"POST", b"http://there.test/", Headers({"Idempotency-Key": ["key"]}))
    waiting.addErrback(lambda _: None).cancel()
    wait = settlement(unavailable(*values), pause_cap_seconds=1e10).wait_seconds
    assert retries[0].retry_in == wait
