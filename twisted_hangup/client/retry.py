"""`RetryAgent`: sends a request again if that is safe and likely to help."""

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

#: Servers whose use of the budget is remembered.  With more of them, the one that was asked longest
#: ago gets its whole budget back.
MOST_DESTINATIONS: Final = 1024

#: The parts of a URL that may hold a secret.
_SECRET: Final = re.compile(rb"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)

_URL_COLUMNS: Final = 200
_OUTCOME_COLUMNS: Final = 300

_log = Logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Which requests are sent again, when, and how often.

    A request is sent again only if a second one can do no harm: its method is in *methods*, it has
    an ``Idempotency-Key`` header, or the first one never reached the server.

    Attributes:
        attempts: How many attempts there are in all; 1 = no retries.
        methods: The methods that may be repeated, as str or bytes; kept as bytes.  By default the
            idempotent ones (RFC 9110, section 9.2.2).
        statuses: The statuses after which another attempt may help.  By default 429, 502, 503 and
            504.
        first_delay_seconds: The longest wait before the second attempt; it doubles with each
            further one.  The wait itself is random, from 0 to this ("full jitter"), so that the
            clients of a server that was down do not come back all at once.
        longest_delay_seconds: The bound that it does not double beyond.
        attempt_seconds: How long one attempt may take, from connecting until a response begins; 0 =
            no limit.  An attempt that takes longer is cancelled, and the request is sent again if
            the other rules allow it.
        deadline_seconds: How long everything may take (reading the body, all attempts and waits)
            until a response begins; 0 = no limit.  If Retry-After asks for a longer wait, there is
            no further attempt.
        replay_bytes: A body up to this size is kept, to be sent again.  A larger one, or one of
            unknown length, is sent at most once.
        budget_ratio: The share of retries among all requests to one server, so that clients do not
            multiply the load in an outage.  Finagle: 0.2.
        budget_reserve: How many retries are allowed beyond that share, for clients that send few
            requests.
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
    """One attempt of a `RetryAgent`, for ``on_attempt``.

    Attributes:
        number: 1 for the first attempt.
        method: The request's method, as bytes.
        uri: The request's URL, as bytes.
        error: The exception, if there was no response; else None.
        status: The response's status; None if there was no response.
        retry_in: Seconds until the next attempt; None if this was the last.
    """

    number: int
    method: bytes
    uri: bytes
    error: Exception | None = None
    status: int | None = None
    retry_in: float | None = None


@implementer(IAgent)
class RetryAgent:
    """An `IAgent` that sends a request again if that is safe.

    Use it around a `HangupAgent`, alone or under treq:

        agent = RetryAgent.from_reactor(reactor)
        response = await agent.treq_client().get("https://example.org/")

    A request that the server may have acted on is not sent again, unless its method, the policy or
    an ``Idempotency-Key`` allows it.

    Args:
        agent: Any `IAgent`; it is wrapped in a `HangupAgent` if it is not one.
        policy: When to send again; `RetryPolicy` by default.
        clock: Gives the time; the installed reactor by default.
        on_attempt: Called with an `Attempt` after each one, such as `log_attempts`.
        uniform: Returns a random number between its two arguments; for tests.

    Raises:
        TypeError: An argument has the wrong type.
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
        """Make one around `HangupAgent.from_reactor`, on the clock of *reactor*."""
        agent = HangupAgent.from_reactor(reactor)
        return cls(agent, policy, clock=reactor, on_attempt=on_attempt)

    def treq_client(self) -> HTTPClient:
        """A client of treq that sends through this agent: ``get()``, ``post()``, cookies."""
        return treq_client(self)

    def close(self) -> Deferred[None]:
        """Close the wrapped agent, as `HangupAgent.close` does, and cancel the requests that wait.

        This closes the copies that `with_policy` has made, too.
        """
        for pause in [*self._pauses]:
            pause.cancel()
        return self._agent.close()

    def with_policy(self, policy: RetryPolicy) -> RetryAgent:
        """A copy with another *policy*, for one request or for many.

        The copy shares the connections and each server's budget with the original.
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
        """Send a request, and send it again if the policy allows it.

        Returns:
            A Deferred that fires with the last response, whatever its status, or fails as the last
            attempt did.  After ``deadline_seconds`` it fails with a `ServerHangUp` (``ETIMEDOUT``).
            If you cancel it, the running attempt is cancelled.
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
                    # Perhaps a redirect led to the server that refused, after the request.
                    again = repeatable or not (hang_up.acted_on or body.begun)
                    # A certificate that is not trusted now will not be trusted in a second.
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
        """*waiting*, which is cancelled when the deadline has passed."""
        if due < inf:
            seconds = max(0.0, due - self._clock.seconds())
            waiting.addTimeout(seconds, self._clock, _too_late)
        return waiting

    def _delay(self, number: int, response: Any, due: float) -> float | None:
        """Seconds until the next attempt; None if there is none."""
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
        if spent > 0:  # most servers never need a retry
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
    """The body of a request, for as many attempts as it can be sent."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._kept: bytes | None = None
        self._given: _Once | None = None

    def keep(self, most: int) -> Deferred[None]:
        """Read all of it into memory, if it has at most this many bytes.

        Returns:
            A Deferred that fires with None, or fails as the producer does.  Cancelling it stops the
            producer.
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
        """Whether `next` can provide it once more."""
        return self._kept is not None or not self.begun

    def next(self) -> Any:
        """The body for one more attempt."""
        if self._kept is not None:
            self._given = _Once(BytesProducer(self._kept))
        elif self._producer is not None and self._given is None:
            self._given = _Once(self._producer)
        return self._given


@implementer(IBodyProducer)
class _Once:
    """A body that can be sent once; it knows whether it was."""

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
    """Log each retry and its result; give it to `RetryAgent` as ``on_attempt``.

        agent = RetryAgent.from_reactor(reactor, on_attempt=log_attempts)

    A request that needs one attempt is not logged: the caller has its response, or its error.  The
    log shows URLs without userinfo and query, which may hold secrets.
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
    """The server whose budget pays for a request to *uri*."""
    try:
        url = request_url(uri, by_name=False)
    except ValueError:
        return ()  # another agent may know this scheme
    return url.scheme, url.host.lower(), b"%d" % url.port


def _eb_not_kept(failure: Failure) -> Any:
    """Reading the body was cancelled: nothing has been sent."""
    return Failure(RequestCancelled("connecting")) if failure.check(CancelledError) else failure


def _too_late(outcome: Any, seconds: float) -> Any:
    """The deadline has passed; the error's phase says how far the request had come."""
    if not isinstance(outcome, Failure):
        return outcome
    raise hang_up(*NO_ANSWER, phase_of_cancelled(outcome), outcome)
