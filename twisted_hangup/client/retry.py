"""Sending a request again, where that is safe and likely to help."""

from __future__ import annotations

import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from io import BytesIO
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from .._arguments import check_fields, must_be, must_be_reactor, must_take, statuses_in
from ..errors import ServerHangUp
from ..limits import IDEMPOTENT_METHODS, MIB, method_names
from ..report.text import shortened, visible
from ..transport.clock import steady
from .agent import HangupAgent, Requests, must_be_agent, treq_client
from .backoff import BytesProducer, Discard, doubled, retry_after_seconds
from .failures import NO_ANSWER, RequestCancelled, hang_up, phase_of_cancelled
from .producing import produced
from .url import request_url

if TYPE_CHECKING:
    from treq.client import HTTPClient

T = TypeVar("T")

#: Servers that have had a part of their budget and are remembered; more than that, and the one
#: that was asked longest ago has all of it again.
MOST_DESTINATIONS: Final = 1024

#: What of a URL may be a secret.
_SECRET: Final = re.compile(rb"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)

_URL_COLUMNS: Final = 200
_OUTCOME_COLUMNS: Final = 300

_log = Logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Which requests are sent again, when, and how often.

    A request is sent again only if a second one can do no harm: its method is in *methods*,
    it has an ``Idempotency-Key`` field, or the first never reached the server.

    Attributes:
        attempts: How often in all; 1 for never again.
        methods: What may be repeated (RFC 9110, section 9.2.2), as str or bytes; kept as bytes.
        statuses: Answers that another attempt may better: too many requests, bad gateway,
            unavailable, gateway timeout.
        first_delay_seconds: The longest wait before the second attempt; it doubles with
            each further one.  The wait itself is random from 0 to that ("full jitter"), so
            that clients of a server that was down do not come back all at once.
        longest_delay_seconds: Most that it grows to.
        attempt_seconds: For one attempt, connecting included, until a response begins; 0 =
            none.  What takes longer is given up, and sent again where the others allow.
        deadline_seconds: For taking in the body, all attempts and waits, until a response
            begins; 0 = none.  A server that asks for more patience in Retry-After does not
            get it.
        replay_bytes: A body up to this size is kept to be sent again; of a larger one, or
            one of unknown length, there is one attempt to send it.
        budget_ratio: Attempts beyond the first, as a part of all requests to one server: in
            an outage clients must not multiply the load.  Finagle: 0.2.
        budget_reserve: So many are allowed beyond that, for those who ask seldom.
    """

    attempts: int = 3
    methods: Collection[bytes | str] = IDEMPOTENT_METHODS
    statuses: frozenset[int] = frozenset({429, 502, 503, 504})
    first_delay_seconds: float = 0.25
    longest_delay_seconds: float = 8.0
    attempt_seconds: float = 0.0
    deadline_seconds: float = 30.0
    replay_bytes: int = MIB
    budget_ratio: float = 0.2
    budget_reserve: int = 10

    def __post_init__(self) -> None:
        check_fields(self, {"attempts": 1}, endless=True)
        object.__setattr__(self, "methods", method_names("methods", self.methods))
        object.__setattr__(self, "statuses", statuses_in("statuses", self.statuses))


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went.

    Attributes:
        number: From 1.
        method, uri: Of the request.
        error: Why there was no response, or None.
        status: Of the response, or None.
        retry_in: Seconds until the next attempt; None where this was the last.
    """

    number: int
    method: bytes
    uri: bytes
    error: Exception | None = None
    status: int | None = None
    retry_in: float | None = None


@implementer(IAgent)
class RetryAgent:
    """An agent that sends a request again where that is safe.

    Never a second time goes out what may have been acted on, unless the method, the policy
    or an ``Idempotency-Key`` says that it may.

    Args:
        agent: What sends; wrapped in `HangupAgent` if it is none.
        policy: `RetryPolicy` by default.
        clock: The installed reactor by default.
        on_attempt: Called with an `Attempt` after each.
        uniform: A random number between its two arguments.
    """

    def __init__(
        self,
        agent: IAgent | Requests,
        policy: RetryPolicy | None = None,
        *,
        clock: IReactorTime | None = None,
        on_attempt: Callable[[Attempt], object] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        must_be_agent("agent", agent, "RetryAgent")
        must_be("policy", policy, (RetryPolicy, type(None)), "RetryPolicy(attempts=...)")
        if on_attempt is not None:
            must_take("on_attempt", on_attempt, "attempt")
        must_take("uniform", uniform, "least", "most")
        if clock is None:
            from twisted.internet import reactor

            clock = reactor
        must_be_reactor("clock", clock)
        self._agent = agent if isinstance(agent, HangupAgent) else HangupAgent(agent)
        self._policy = policy or RetryPolicy()
        self._clock: Any = steady(clock)
        self._on_attempt = on_attempt
        self._uniform = uniform
        self._spent: OrderedDict[tuple[bytes, ...], float] = OrderedDict()
        self._pauses: set[Deferred[None]] = set()

    @classmethod
    def from_reactor(
        cls,
        reactor: Any,
        policy: RetryPolicy | None = None,
        *,
        on_attempt: Callable[[Attempt], object] | None = None,
    ) -> RetryAgent:
        """Make one around `HangupAgent.from_reactor`, with the time of *reactor*."""
        agent = HangupAgent.from_reactor(reactor)
        return cls(agent, policy, clock=reactor, on_attempt=on_attempt)

    def treq_client(self) -> HTTPClient:
        """A client of treq's, which asks through this agent: ``get()``, ``post()``, cookies."""
        return treq_client(self)

    def close(self) -> Deferred[None]:
        """Close the agent that sends, as `HangupAgent.close` does, and cancel what waits.

        Of those that `with_policy` has made of one, closing one closes all.
        """
        for pause in [*self._pauses]:
            pause.cancel()
        return self._agent.close()

    def with_policy(self, policy: RetryPolicy) -> RetryAgent:
        """The same agent with another *policy*, for one request or for many.

        What one of them spends of a server's budget is spent for both.
        """
        must_be("policy", policy, RetryPolicy, "RetryPolicy(attempts=...)")
        other = copy(self)
        other._policy = policy
        return other

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Send a request, and again where the policy allows.

        Returns:
            A Deferred that fires with the last response, whatever its status, or fails as
            the last attempt did; past the deadline with a `ServerHangUp`, ``ETIMEDOUT``.
            Cancelling it ends what is under way, and closes the connections of responses
            that were not to be the last.
        """
        return Deferred.fromCoroutine(
            self._request(method, uri, headers or Headers(), _Body(bodyProducer))
        )

    async def _request(self, method: bytes, uri: bytes, headers: Headers, body: _Body) -> IResponse:
        policy, clock = self._policy, self._clock
        repeatable = method in policy.methods or headers.hasHeader(b"Idempotency-Key")
        server = _server(uri)
        self._spend(server, -policy.budget_ratio)
        due = clock.seconds() + (policy.deadline_seconds or inf)
        if policy.attempts > 1:
            await self._by(due, body.keep(policy.replay_bytes))
        with ExitStack() as given_up:
            for number in range(1, policy.attempts + 1):
                response: Any = None
                error: Exception | None = None
                try:
                    sending = self._agent.request(method, uri, headers, body.next())
                    end = clock.seconds() + (policy.attempt_seconds or inf)
                    response = await self._by(min(due, end), sending)
                except ServerHangUp as hang_up:
                    error = hang_up
                    # Not connected may be what a redirect led to, after the request.
                    again = repeatable or not (hang_up.acted_on or body.begun)
                    # A certificate that is not trusted now will not be in a second.
                    again = again and not hang_up.code.startswith(("ERR_SSL_", "ERR_TLS_"))
                else:
                    again = repeatable and response.code in policy.statuses
                again = again and body.is_there and self._may_spend(server)
                delay = self._delay(number, response, due) if again else None
                status = None if response is None else response.code
                self._tell(Attempt(number, method, uri, error, status, delay))
                if delay is None:
                    break
                if response is not None:
                    discard = Discard(clock)
                    response.deliverBody(discard)
                    given_up.callback(discard.stop)
                self._spend(server, 1)
                await self._pause(delay)
            if error is not None:
                raise error
            given_up.pop_all()
        answered: IResponse = response
        return answered

    def _pause(self, seconds: float) -> Deferred[None]:
        def over(outcome: Any) -> Any:
            self._pauses.discard(pause)
            return outcome

        pause: Deferred[None] = deferLater(self._clock, seconds)
        self._pauses.add(pause)
        return pause.addBoth(over)

    def _by(self, due: float, waiting: Deferred[T]) -> Deferred[T]:
        """*waiting*, which is given up when the deadline has passed."""
        if due < inf:
            seconds = max(0.0, due - self._clock.seconds())
            waiting.addTimeout(seconds, self._clock, _too_late)
        return waiting

    def _delay(self, number: int, response: Any, due: float) -> float | None:
        """Seconds until the next attempt, or None where there is to be none."""
        policy = self._policy
        if number == policy.attempts:
            return None
        longest = doubled(policy.first_delay_seconds, number - 1, policy.longest_delay_seconds)
        delay = self._uniform(0.0, longest)
        if response is not None:
            delay = max(delay, retry_after_seconds(response.headers, time.time()))
        return delay if self._clock.seconds() + delay < due else None

    def _may_spend(self, server: tuple[bytes, ...]) -> bool:
        return self._spent.get(server, 0.0) <= self._policy.budget_reserve - 1

    def _spend(self, server: tuple[bytes, ...], attempts: float) -> None:
        """Take so many attempts from the budget of *server*, or give them back."""
        spent = self._spent.pop(server, 0.0) + attempts
        if spent > 0:  # most servers never need one
            self._spent[server] = spent
            if len(self._spent) > MOST_DESTINATIONS:
                self._spent.popitem(last=False)

    def _tell(self, attempt: Attempt) -> None:
        if self._on_attempt is not None:
            try:
                self._on_attempt(attempt)
            except Exception:
                _log.failure("on_attempt has failed; the request goes on")


class _Body:
    """The body of a request, for as many attempts as it is there."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._kept: bytes | None = None
        self._given: _Once | None = None

    def keep(self, most: int) -> Deferred[None]:
        """Take all of it into memory, if that is at most so many bytes.

        Returns:
            A Deferred that fires with None, or fails as the producer does.  Cancelling it
            stops the producer.
        """
        producer = self._producer
        if producer is None or producer.length is UNKNOWN_LENGTH or producer.length > most:
            return succeed(None)
        taken = BytesIO()
        keeping = produced(producer, taken, producer.length)
        keeping.addCallback(lambda _: setattr(self, "_kept", taken.getvalue()))
        return keeping.addErrback(_eb_not_kept)

    @property
    def begun(self) -> bool:
        """Whether the last attempt has begun to send it."""
        return self._given is not None and self._given.started

    @property
    def is_there(self) -> bool:
        """Whether `next` can give it once more."""
        return self._kept is not None or not self.begun

    def next(self) -> Any:
        """What one attempt sends."""
        if self._kept is not None:
            self._given = _Once(BytesProducer(self._kept))
        elif self._producer is not None and self._given is None:
            self._given = _Once(self._producer)
        return self._given


@implementer(IBodyProducer)
class _Once:
    """A body that can be sent once; it is known whether it was."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.length = producer.length
        self.started = False
        self.pauseProducing = producer.pauseProducing
        self.resumeProducing = producer.resumeProducing
        self.stopProducing = producer.stopProducing

    def startProducing(self, consumer: Any) -> Any:
        self.started = True
        return self._producer.startProducing(consumer)


def log_attempts(attempt: Attempt) -> None:
    """Log what is sent again, and what came of it, for ``on_attempt``.

    Attempts that a request begins and ends with are not logged: the caller has the response, or
    the error.  Of the URL nothing is shown that may be a secret: no userinfo and no query.
    """
    if attempt.error is None:
        outcome = f"answered {attempt.status}"
    else:
        outcome = shortened(str(attempt.error).encode(), _OUTCOME_COLUMNS)
    values: dict[str, Any] = {
        "method": visible(attempt.method),
        "url": shortened(_SECRET.sub(b"", attempt.uri), _URL_COLUMNS),
        "outcome": outcome,
        "number": attempt.number,
    }
    if attempt.retry_in is not None:
        words = "{method} {url}: {outcome} (attempt {number}); again in {seconds:.1f} s"
        _log.warn(words, seconds=attempt.retry_in, **values)
    elif attempt.number > 1 and attempt.error is None:
        _log.info("{method} {url}: {outcome} (attempt {number})", **values)
    elif attempt.number > 1:
        _log.warn("{method} {url}: {outcome} (attempt {number}, the last)", **values)


def _server(uri: bytes) -> tuple[bytes, ...]:
    """Whose budget a request to *uri* is charged to."""
    try:
        url = request_url(uri, by_name=False)
    except ValueError:
        return ()  # another agent's matter
    return url.scheme, url.host.lower(), b"%d" % url.port


def _eb_not_kept(failure: Failure) -> Any:
    """Nothing has been sent where taking in the body is cancelled."""
    return Failure(RequestCancelled("connecting")) if failure.check(CancelledError) else failure


def _too_late(outcome: Any, seconds: float) -> Any:
    """The deadline has passed; the error says how far the request had come."""
    if not isinstance(outcome, Failure):
        return outcome
    raise hang_up(*NO_ANSWER, phase_of_cancelled(outcome), outcome)
