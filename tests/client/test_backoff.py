"""What `RetryAgent` and the outbox wait for, send and throw away."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface.verify import verifyObject

from twisted_hangup.client.backoff import (
    DISCARD_SECONDS,
    DISCARDED_BYTES,
    MOST_SECONDS,
    BytesProducer,
    Discard,
    doubled,
    retry_after_seconds,
    uniform_below,
)

#: 1,000 seconds after the epoch, where the dates below begin.
NOW: Final = 1000.0


@pytest.mark.parametrize(
    "values, seconds",
    [
        ([], 0),
        ([b"120"], 120),
        ([b" 3 "], 3),
        ([b"-5"], 0),
        ([b"1.5"], 0),
        ([b"soon"], 0),
        ([b""], 0),
        ([b"999999999"], 999999999),
        ([b"9" * 10], MOST_SECONDS),
        ([b"9" * 11], MOST_SECONDS),
        ([b"9" * 10_000], MOST_SECONDS),
        ([b"0" * 20 + b"7"], 7),
        ([b"Thu, 01 Jan 1970 00:20:00 GMT"], 200),
        ([b"Thursday, 01-Jan-70 00:20:00 GMT"], 200),
        ([b"Thu Jan  1 00:20:00 1970"], 200),
        ([b"Thu, 01 Jan 1970 00:20:00"], 200),
        ([b"Thu, 01 Jan 1970 00:00:10 GMT"], 0),
        ([b"Thu, 99 Jan 1970 00:00:10 GMT"], 0),
        ([b"Fri, 31 Dec 9999 23:59:59 GMT"], MOST_SECONDS),
        ([b"Fri, 31 Dec 99999999999999999999 23:59:59 GMT"], 0),
        ([b"Thursday, -Jan-70 00:20:00 GMT"], 0),
        ([b"\xff"], 0),
        ([b"5", b"90", b"7"], 90),
        ([b"\xff", b"5", b"soon"], 5),
        ([b"5", b"Thu, 01 Jan 1970 00:20:00 GMT"], 200),
    ],
)
def test_retry_after(values: list[bytes], seconds: float) -> None:
    """Seconds or a date (RFC 9110, section 10.2.3); anything else is as if it were not there."""
    assert retry_after_seconds(Headers({b"Retry-After": values}), NOW) == seconds


#: What looks like a value, and what does not.
VALUES: Final = st.lists(
    st.binary(max_size=40)
    | st.from_regex(rb"[0-9]{1,400}", fullmatch=True)
    | st.from_regex(
        rb"([A-Z][a-z]{2,8},? )?[0-9]{0,2}[ -]?(Jan|Dec)?[ -][0-9]{0,30} "
        rb"[0-9:.]{0,9}( GMT|[+-][0-9]+)?",
        fullmatch=True,
    ),
    max_size=3,
)


@given(VALUES)
def test_whatever_a_server_sends(values: list[bytes]) -> None:
    """It asks for some time or none; whatever else is with it makes that no shorter."""
    seconds = retry_after_seconds(Headers({b"Retry-After": values}), NOW)
    assert 0.0 <= seconds <= MOST_SECONDS
    for value in values:
        assert retry_after_seconds(Headers({b"Retry-After": [value]}), NOW) <= seconds


def test_waits_double_up_to_the_longest() -> None:
    """However many there were, no float runs over."""
    waits = [doubled(0.25, times, 1.0) for times in (0, 1, 2, 3, 1_000_000)]
    assert waits == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert doubled(0.0, 5, 1.0) == 0.0


def test_full_jitter() -> None:
    """Anything from none at all to the bound."""
    waits = [uniform_below(10.0) for _ in range(1000)]
    assert 0 <= min(waits) < 1 and 9 < max(waits) <= 10
    assert uniform_below(0.0) == 0


def test_body_in_one_piece() -> None:
    """It knows its length, can be sent as often as one likes, and is done at once."""
    producer = BytesProducer(b"body")
    assert verifyObject(IBodyProducer, producer) and producer.length == 4
    for _ in range(2):
        consumer = BytesIO()
        assert producer.startProducing(consumer).called  # type: ignore[arg-type]
        assert consumer.getvalue() == b"body"


class Proxied:
    """The transport that Twisted's own client gives to a body: it knows no abortConnection."""

    disconnecting = False

    def stopProducing(self) -> None:
        self.disconnecting = True


def test_short_rest_is_read() -> None:
    """Up to the bound, so that the connection can carry another request."""
    clock = Clock()
    discard, transport = Discard(clock), StringTransport()
    discard.makeConnection(transport)
    for _ in range(4):
        discard.dataReceived(b"x" * (DISCARDED_BYTES // 4))
    assert not transport.disconnecting and not discard.ended.called
    discard.connectionLost(Failure(ConnectionDone()))
    assert discard.ended.called and not transport.disconnecting
    discard.stop()
    assert discard.ended.result is None and not transport.disconnecting
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("kind", [StringTransport, Proxied])
def test_long_rest_is_not(kind: Any) -> None:
    """One byte more closes the connection, by whatever its transport has for that."""
    discard, transport = Discard(Clock()), kind()
    discard.makeConnection(transport)
    discard.dataReceived(b"x" * DISCARDED_BYTES)
    assert not transport.disconnecting
    discard.dataReceived(b"x")
    assert transport.disconnecting and discard.ended.called
    discard.connectionLost(Failure(ConnectionDone()))


@pytest.mark.parametrize("kind", [StringTransport, Proxied])
def test_rest_that_drips_is_not(kind: Any) -> None:
    """Nor is it read for ever, however little comes."""
    clock = Clock()
    discard, transport = Discard(clock), kind()
    discard.makeConnection(transport)
    for _ in range(9):
        clock.advance(DISCARD_SECONDS / 10)
        discard.dataReceived(b"x")
    assert not transport.disconnecting
    clock.advance(DISCARD_SECONDS / 10)
    assert transport.disconnecting and discard.ended.called
