"""When a request is sent again, when never, and how long that takes."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from time import sleep
from typing import Any

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.upstreams import OK, Connection, RawServer
from support.wire import HandClock, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock, Cooperator
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, RedirectAgent, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer, provider

from twisted_hangup import ServerHangUp, log_attempts
from twisted_hangup.client import Attempt, HangupAgent, RetryAgent, RetryPolicy, retry
from twisted_hangup.client.backoff import Discard

REFUSED = ServerHangUp("connect ECONNREFUSED", code="ECONNREFUSED", phase="connecting")
UNTRUSTED = ServerHangUp(
    "certificate verify failed", code="ERR_SSL_CERTIFICATE_VERIFY_FAILED", phase="connecting"
)
WRONG_NAME = ServerHangUp(
    "Hostname/IP does not match certificate's altnames",
    code="ERR_TLS_CERT_ALTNAME_INVALID",
    phase="connecting",
)
HUNG_UP = ServerHangUp("socket hang up", code="ECONNRESET", phase="waiting")


class Answer:
    """A response without a body."""

    length = 0

    def __init__(self, code: int, *retry_after: bytes) -> None:
        self.code = code
        self.headers = Headers({b"Retry-After": retry_after} if retry_after else {})
        self.discarded = False

    def deliverBody(self, protocol: Any) -> None:
        self.discarded = True


class Scripted:
    """An agent that answers as it was told to, and remembers what it was asked."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.bodies: list[bytes | None] = []

    def request(self, method: bytes, uri: bytes, headers: Any, body: Any) -> Deferred[Any]:
        outcome = self.outcomes.pop(0)
        if body is None:
            self.bodies.append(None)
        elif outcome is not REFUSED:
            consumer = BytesIO()
            body.startProducing(consumer)
            self.bodies.append(consumer.getvalue())
        if isinstance(outcome, Deferred):
            return outcome
        if isinstance(outcome, Exception):
            return fail(Failure(outcome))
        return succeed(outcome)


class Retried:
    """A `RetryAgent` on a `Clock`, with no jitter, and what came of one request."""

    def __init__(self, *outcomes: Any, uniform: Any = lambda least, most: most, **policy: Any):
        self.clock = Clock()
        self.scripted = Scripted(*outcomes)
        self.attempts: list[Attempt] = []
        self.agent = RetryAgent(
            HangupAgent(self.scripted),  # type: ignore[arg-type]
            RetryPolicy(**policy),
            clock=self.clock,
            on_attempt=self.attempts.append,
            uniform=uniform,
        )
        self.result: Any = None

    def request(
        self, method: bytes = b"GET", headers: Headers | None = None, body: Any = None
    ) -> Retried:
        self.waiting = self.agent.request(method, b"http://a/", headers, body)
        self.waiting.addBoth(self._done)
        return self

    def _done(self, result: Any) -> None:
        self.result = result.value if isinstance(result, Failure) else result._response

    @property
    def delays(self) -> list[float | None]:
        return [attempt.retry_in for attempt in self.attempts]


def run(retried: Retried, seconds: float = 100) -> Retried:
    for _ in range(int(seconds / 0.05)):
        retried.clock.advance(0.05)
    return retried


KEY = Headers({"Idempotency-Key": ["k"]})


@pytest.mark.parametrize(
    "method, headers, first, expected",
    [
        (b"GET", None, HUNG_UP, 2),
        (b"PUT", None, HUNG_UP, 2),
        (b"DELETE", None, HUNG_UP, 2),
        (b"POST", None, HUNG_UP, 1),  # may have been acted on
        (b"PATCH", None, HUNG_UP, 1),
        (b"POST", KEY, HUNG_UP, 2),
        (b"POST", None, REFUSED, 2),  # cannot have been
        (b"GET", None, UNTRUSTED, 1),
        (b"POST", KEY, WRONG_NAME, 1),
        (b"GET", None, Answer(503), 2),
        (b"GET", None, Answer(429), 2),
        (b"GET", None, Answer(500), 1),
        (b"GET", None, Answer(404), 1),
        (b"POST", None, Answer(503), 1),
        (b"POST", KEY, Answer(503), 2),
        (b"GET", None, KeyError("no hang-up"), 1),
    ],
)
def test_what_is_sent_again(method: bytes, headers: Any, first: Any, expected: int) -> None:
    """Only what can do no harm a second time, and what a second time may better."""
    retried = run(Retried(first, Answer(200)).request(method, headers))
    assert len(retried.scripted.outcomes) == 2 - expected
    if expected == 2:
        assert retried.result.code == 200
    else:
        assert retried.result is first


def test_backoff() -> None:
    """The longest wait doubles; the last failure is the result."""
    retried = run(Retried(*[HUNG_UP] * 5, attempts=5, longest_delay_seconds=1.0).request())
    assert retried.delays == [0.25, 0.5, 1.0, 1.0, None]
    assert retried.result is HUNG_UP


def test_full_jitter() -> None:
    """The wait is anything from none at all."""
    asked: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return 0.0

    run(Retried(HUNG_UP, HUNG_UP, Answer(200), uniform=uniform).request())
    assert asked == [(0.0, 0.25), (0.0, 0.5)]


def test_attempts_are_bounded() -> None:
    """The status of the last response is the caller's to judge."""
    retried = run(Retried(Answer(503), Answer(503), Answer(503)).request())
    assert retried.result.code == 503 and not retried.result.discarded
    assert [attempt.status for attempt in retried.attempts] == [503] * 3


def test_unwanted_response_is_read() -> None:
    """The connection of a response that is not used is not left hanging."""
    unwanted = Answer(503)
    run(Retried(unwanted, Answer(200)).request())
    assert unwanted.discarded


@pytest.mark.parametrize(
    "values, least",
    [
        ((b"3",), 3.0),
        ((b"0",), 0.25),
        ((b"soon",), 0.25),
        ((b"-1",), 0.25),
        ((b"3", b"7", b"soon"), 7.0),
        ((b"\xff",), 0.25),
        ((b"Sun, 06 Nov 1994 08:49:37 GMT",), 0.25),
        ((b"Fri, 31 Dec 99999999999999999999 23:59:59 GMT",), 0.25),
    ],
)
def test_retry_after(values: tuple[bytes, ...], least: float) -> None:
    """The server is given the time it asks for; what cannot be understood asks for none."""
    retried = run(Retried(Answer(503, *values), Answer(200)).request())
    assert retried.delays == [least, None]
    assert retried.result.code == 200


@pytest.mark.parametrize("value", [b"31", b"9" * 10, b"9" * 400, b"Fri, 01 Jan 2100 00:00:00 GMT"])
def test_server_that_asks_for_too_much(value: bytes) -> None:
    """Past the deadline nobody waits: the caller gets the 503 now."""
    retried = Retried(Answer(503, value), deadline_seconds=30).request()
    assert retried.result.code == 503 and not retried.result.discarded


def test_deadline() -> None:
    """An attempt that does not end is ended, with an error that says so."""
    retried = Retried(Deferred(), deadline_seconds=2.0).request()
    run(retried, 1.9)
    assert retried.result is None
    run(retried, 0.2)
    assert isinstance(retried.result, ServerHangUp)
    assert retried.result.code == "ETIMEDOUT"


def test_no_deadline() -> None:
    """0 means that there is none."""
    retried = Retried(Deferred(), deadline_seconds=0).request()
    run(retried, 1000)
    assert retried.result is None
    retried.waiting.cancel()


def test_budget() -> None:
    """In an outage retries do not multiply the load."""
    retried = Retried(*[HUNG_UP] * 1000, budget_ratio=0.1, budget_reserve=10)
    for _ in range(200):
        run(retried.request(), 1)
    sent = 1000 - len(retried.scripted.outcomes)
    assert 200 + 10 <= sent <= 200 + 10 + 20 + 1


class Flaky:
    """Hosts that are dead, and one that answers every second request."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def request(self, method: bytes, uri: bytes, headers: Any, body: Any) -> Deferred[Any]:
        self.asked.append(uri)
        if uri.startswith(b"http://healthy/") and len(self.asked) % 2 == 0:
            return succeed(Answer(200))
        return fail(Failure(HUNG_UP))


def test_budget_of_each_server() -> None:
    """A dead server spends its own; which one it is does not depend on how its URL is spelled."""
    clock, flaky = Clock(), Flaky()
    policy = RetryPolicy(budget_ratio=0.0, budget_reserve=3, first_delay_seconds=0)
    agent = RetryAgent(flaky, policy, clock=clock)  # type: ignore[arg-type]

    def ask(uri: bytes) -> int:
        flaky.asked.clear()
        agent.request(b"GET", uri).addErrback(lambda _: None)
        clock.pump([0.0] * 5)
        return len(flaky.asked)

    spellings = [b"http://dead/a", b"HTTP://DEAD:80/b?c", b"http://dead"]
    assert [ask(uri) for uri in spellings] == [3, 2, 1]
    assert ask(b"https://dead/") == ask(b"http://dead:81/") == 3
    assert ask(b"http://healthy/") == 2
    for number in range(retry.MOST_DESTINATIONS):
        ask(b"http://dead%d/" % number)
    assert len(agent._spent) == retry.MOST_DESTINATIONS
    assert ask(b"http://dead/") == 3


def test_budget_is_shared_by_policies() -> None:
    """A request may have a policy of its own; the server does not care which it was."""
    clock, flaky = Clock(), Flaky()
    policy = RetryPolicy(budget_ratio=0.0, budget_reserve=3, first_delay_seconds=0)
    agent = RetryAgent(flaky, policy, clock=clock)  # type: ignore[arg-type]
    once = agent.with_policy(replace(policy, attempts=1))
    often = agent.with_policy(replace(policy, attempts=10))
    asked = []
    for one in (once, agent, often, often, agent):
        flaky.asked.clear()
        one.request(b"GET", b"http://dead/").addErrback(lambda _: None)
        clock.pump([0.0] * 15)
        asked.append(len(flaky.asked))
    assert asked == [1, 3, 2, 1, 1]


def test_time_for_an_attempt() -> None:
    """One that takes longer is given up, and counts as what it is."""
    cancelled: list[Any] = []
    first: Deferred[Any] = Deferred(cancelled.append)
    retried = run(Retried(first, Answer(200), attempt_seconds=2).request(), 3)
    assert len(cancelled) == 1 and retried.result.code == 200
    assert (retried.attempts[0].error.code, retried.attempts[0].error.phase) == (  # type: ignore[union-attr]
        "ETIMEDOUT",
        "waiting",
    )
    retried = run(Retried(Deferred(), Answer(200), attempt_seconds=2).request(b"POST"), 3)
    assert retried.result.code == "ETIMEDOUT" and len(retried.attempts) == 1
    # The deadline of all is the earlier one here.
    retried = run(Retried(Deferred(), attempt_seconds=2, deadline_seconds=1).request(), 3)
    assert retried.result.code == "ETIMEDOUT" and len(retried.attempts) == 1


@pytest.mark.parametrize("length", [4, UNKNOWN_LENGTH])
@pytest.mark.parametrize("kind", ["own", "Twisted's"])
@pytest_twisted.ensureDeferred
async def test_a_redirect_that_leads_nowhere(kind: str, length: Any) -> None:
    """The request has been acted on, whatever became of the one that its answer names."""
    heads: list[bytes] = []

    def script(connection: Connection) -> None:
        heads.append(connection.read_head())
        connection.send(
            b"HTTP/1.1 303 See Other\r\nLocation: http://nowhere.invalid/\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )

    server = RawServer(script)
    own = HangupAgent.from_reactor(reactor)
    agent = RetryAgent(
        RedirectAgent(own if kind == "own" else Agent(reactor)),
        RetryPolicy(first_delay_seconds=0),
    )
    body = FileBodyProducer(BytesIO(b"once"))
    body.length = length
    with pytest.raises(ServerHangUp, match="ENOTFOUND"):
        await agent.request(b"POST", server.url.encode(), None, body)
    assert len(heads) == 1
    await own.close()
    server.close()


def test_close_ends_what_waits_for_another_attempt() -> None:
    """Also that of an agent of another policy, and without a second attempt."""
    retried = Retried(REFUSED, REFUSED)
    other = retried.agent.with_policy(RetryPolicy(attempts=2))
    failures: list[Failure] = []
    other.request(b"GET", b"http://b/").addErrback(failures.append)
    retried.request()
    assert retried.clock.getDelayedCalls()
    closed: list[None] = []
    retried.agent.close().addCallback(closed.append)
    assert closed == [None] and not retried.clock.getDelayedCalls()
    assert isinstance(retried.result, CancelledError) and failures[0].check(CancelledError)


@pytest_twisted.ensureDeferred
async def test_close_closes_the_agent_beneath() -> None:
    """What is asked after it is not sent."""
    agent = RetryAgent.from_reactor(reactor)
    await agent.close()
    await agent.close()
    with pytest.raises(RuntimeError, match="closed"):
        await agent.request(b"GET", b"http://127.0.0.1:1/")


@pytest_twisted.ensureDeferred
async def test_time_for_an_attempt_that_connects() -> None:
    """What was not sent is sent again, whatever its method: TLS was not set up in time."""
    server = RawServer(lambda connection: connection.read_all())
    agent = HangupAgent.from_reactor(reactor)
    clock = HandClock()
    policy = RetryPolicy(attempts=2, attempt_seconds=2, first_delay_seconds=0)
    url = server.url.replace("http", "https").encode()
    asking = RetryAgent(agent, policy, clock=clock).request(b"POST", url)
    await until(lambda: len(server.connections) == 1)
    clock.wait(2)
    await until(lambda: len(server.connections) == 2)
    clock.wait(2)
    with pytest.raises(ServerHangUp) as raised:
        await asking
    assert not raised.value.acted_on and len(server.connections) == 2
    await agent.close()
    server.close()


@pytest.mark.parametrize("methods", [{"POST"}, ["POST", b"PUT"], frozenset({b"POST"})])
def test_methods(methods: Any) -> None:
    """Of text or of bytes."""
    retried = run(Retried(HUNG_UP, Answer(200), methods=methods).request(b"POST"))
    assert retried.result.code == 200
    assert RetryPolicy(methods=methods) == RetryPolicy(methods=RetryPolicy(methods=methods).methods)


@pytest.mark.parametrize(
    "mistake",
    [
        *({"methods": "POST"}, {"methods": b"POST"}, {"methods": {1}}),
        *({"methods": {"GET,POST"}}, {"methods": {""}}, {"statuses": {"503"}}),
    ],
)
def test_sets_that_match_nothing(mistake: dict[str, Any]) -> None:
    """They would switch every retry off in silence."""
    with pytest.raises((TypeError, ValueError), match=r"\S"):
        RetryPolicy(**mistake)


@pytest.mark.parametrize(
    "outcomes, lines",
    [
        ([Answer(200)], []),
        ([Answer(404)], []),
        ([UNTRUSTED], []),
        (
            [HUNG_UP, Answer(503), Answer(200)],
            [
                "warn GET http://a/x: ECONNRESET: socket hang up (waiting) (attempt 1);"
                " again in 0.2 s",
                "warn GET http://a/x: answered 503 (attempt 2); again in 0.5 s",
                "info GET http://a/x: answered 200 (attempt 3)",
            ],
        ),
        (
            [HUNG_UP, HUNG_UP],
            [
                "warn GET http://a/x: ECONNRESET: socket hang up (waiting) (attempt 1);"
                " again in 0.2 s",
                "warn GET http://a/x: ECONNRESET: socket hang up (waiting) (attempt 2, the last)",
            ],
        ),
    ],
)
def test_log_attempts(outcomes: list[Any], lines: list[str]) -> None:
    """What is sent again, and what came of it; no secret of a URL."""
    logged: list[str] = []

    @provider(ILogObserver)
    def keep(event: Any) -> None:
        logged.append(f"{event['log_level'].name} {formatEvent(event)}")

    retried = Retried(*outcomes, attempts=len(outcomes))
    retried.agent._on_attempt = log_attempts
    globalLogPublisher.addObserver(keep)
    try:
        retried.agent.request(b"GET", b"http://u:p@a/x?token=s#{f}").addErrback(lambda _: None)
        run(retried)
    finally:
        globalLogPublisher.removeObserver(keep)
    assert logged == lines


def test_cancelled_while_waiting() -> None:
    """In the pause between two attempts: nothing more is sent."""
    retried = Retried(HUNG_UP, Answer(200)).request()
    retried.waiting.cancel()
    run(retried)
    assert isinstance(retried.result, CancelledError)
    assert len(retried.scripted.outcomes) == 1
    assert retried.clock.getDelayedCalls() == []


def test_cancelled_in_an_attempt() -> None:
    """The attempt under way is cancelled."""
    cancelled: list[Any] = []
    retried = Retried(Deferred(cancelled.append)).request()
    retried.waiting.cancel()
    assert len(cancelled) == 1 and isinstance(retried.result, CancelledError)
    assert retried.clock.getDelayedCalls() == []


def test_hook_that_fails(expected_errors: LoggedErrors) -> None:
    """Watching must not end what is watched."""
    retried = Retried(HUNG_UP, Answer(200))

    def broken(attempt: Attempt) -> None:
        raise KeyError("in the hook")

    retried.agent._on_attempt = broken
    run(retried.request())
    assert retried.result.code == 200
    assert len(expected_errors.flush()) == 2


# Bodies.


def producer(data: bytes) -> FileBodyProducer:
    at_once: Any = lambda call: call()  # noqa: E731
    cooperator = Cooperator(scheduler=at_once)
    return FileBodyProducer(BytesIO(data), cooperator)


def test_body_is_sent_again() -> None:
    """The same bytes each time."""
    retried = run(Retried(HUNG_UP, REFUSED, Answer(200)).request(b"PUT", body=producer(b"body")))
    assert retried.result.code == 200
    assert retried.scripted.bodies == [b"body", b"body"]


@implementer(IBodyProducer)
class Stream:
    """A body that can be had once."""

    def __init__(self, length: Any) -> None:
        self.length = length

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(b"once")
        return succeed(None)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 1 << 30])
def test_body_that_can_be_had_once(length: Any) -> None:
    """Once it has been begun there is no second attempt; before that there is."""
    retried = run(Retried(REFUSED, HUNG_UP, Answer(200)).request(b"PUT", body=Stream(length)))
    assert retried.result is HUNG_UP
    assert retried.scripted.bodies == [b"once"]


class Stalled(Stream):
    """A body that does not come; it knows whether it was stopped."""

    stopped = 0

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self.producing: Deferred[None] = Deferred()
        return self.producing

    def stopProducing(self) -> None:
        self.stopped += 1


def test_deadline_while_the_body_is_taken_in() -> None:
    """The deadline is for that, too; nothing is sent, and the producer stops."""
    body = Stalled(100)
    retried = Retried(Answer(200), deadline_seconds=2.0).request(b"PUT", body=body)
    run(retried, 1.9)
    assert retried.result is None
    run(retried, 0.2)
    assert isinstance(retried.result, ServerHangUp) and retried.result.code == "ETIMEDOUT"
    assert not retried.result.acted_on
    assert body.stopped == 1 and len(retried.scripted.outcomes) == 1
    body.producing.callback(None)  # too late, and no harm
    assert retried.clock.getDelayedCalls() == []


def test_cancelled_while_the_body_is_taken_in() -> None:
    """The producer stops."""
    body = Stalled(100)
    retried = Retried(Answer(200)).request(b"PUT", body=body)
    retried.waiting.cancel()
    assert isinstance(retried.result, CancelledError)
    assert body.stopped == 1 and retried.clock.getDelayedCalls() == []


def test_body_that_fails(expected_errors: LoggedErrors) -> None:
    """What a producer fails with comes out, and it is not stopped; to fail in that is logged."""
    body = Stalled(100)
    retried = Retried(Answer(200)).request(b"PUT", body=body)
    body.producing.errback(Failure(KeyError("file")))
    assert isinstance(retried.result, KeyError) and not body.stopped
    body.stopProducing = None  # type: ignore[assignment,method-assign]
    retried = Retried(Answer(200)).request(b"PUT", body=body)
    retried.waiting.cancel()
    assert isinstance(retried.result, CancelledError)
    assert len(expected_errors.flush()) == 1


@pytest.mark.parametrize(
    "policy", [{"attempts": 0}, {"deadline_seconds": -1}, {"budget_ratio": -0.1}]
)
def test_policy_that_is_none(policy: dict[str, Any]) -> None:
    """A mistake is told at once."""
    with pytest.raises(ValueError, match=next(iter(policy))):
        RetryPolicy(**policy)


# For real.


def drip(connection: Connection) -> None:
    """A 503 whose body never ends."""
    connection.read_head()
    connection.send(b"HTTP/1.1 503 Later\r\nContent-Length: 60000\r\n\r\n")
    while connection.socket.send(b"x"):
        sleep(0.02)


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("cancelled", [False, True])
@pytest_twisted.ensureDeferred
async def test_unwanted_bodies_that_drip(stock: bool, cancelled: bool) -> None:
    """Their connections are closed in time; at once where the request is cancelled."""
    server = RawServer(drip)
    own = Agent(reactor) if stock else HangupAgent.from_reactor(reactor)
    clock, attempts = HandClock(), list[Attempt]()
    agent = RetryAgent(
        own, RetryPolicy(deadline_seconds=0), clock=clock, on_attempt=attempts.append
    )
    waiting = [agent.request(b"GET", server.url.encode()) for _ in range(5)]
    if cancelled:
        await until(lambda: len(attempts) == 5)
        for one in waiting:
            one.cancel()
            with pytest.raises(CancelledError):
                await one
        await until(lambda: len(server.ended) == 5)
    else:
        await clock.wait_until(lambda: all(one.called for one in waiting))
        for one in waiting:
            response = await one
            discard = Discard(clock)
            response.deliverBody(discard)
            discard.stop()
        await clock.wait_until(lambda: len(server.ended) == 15)
    assert len(server.connections) == (5 if cancelled else 15)
    server.close()


@pytest_twisted.ensureDeferred
async def test_over_real_connections() -> None:
    """Two servers' worth of bad luck, and then an answer."""
    from twisted.internet import reactor

    def script(connection: Connection) -> None:
        connection.read_head()
        if len(server.connections) == 1:
            connection.reset()
        elif len(server.connections) == 2:
            connection.send(b"HTTP/1.1 503 Later\r\nContent-Length: 4\r\n\r\nwait")
        else:
            connection.send(OK)

    server = RawServer(script)
    own = HangupAgent.from_reactor(reactor)
    agent = RetryAgent(own, RetryPolicy(first_delay_seconds=0.02))
    response = await agent.request(b"GET", server.url.encode())
    assert await readBody(response) == b"ok"
    await own.close()
    server.close()
