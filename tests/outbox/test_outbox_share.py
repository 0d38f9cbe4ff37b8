"""What one destination may take, and what it may ask for."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.awake import Awake
from support.awake import awake as awake
from support.outboxes import FakeAgent, Response, Sent, Start
from support.outboxes import database as database
from support.outboxes import postgres_dsn as postgres_dsn
from support.outboxes import start as start
from support.wire import until
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError, ConnectionLost, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as ConnectRefusal
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_hangup import ServerHangUp
from twisted_hangup.outbox import Delivery, DeliveryPolicy, OutboxLimits, Verdict
from twisted_hangup.outbox.delivery import DeliveryAttempt
from twisted_hangup.outbox.store import Claim, Settlement

HEALTHY: Final = "http://healthy.test/"

#: By when the first delivery to a destination that works begins, however many others hang: in a
#: second, to which a busy machine adds; not after the 30 s that their attempts have.
SOON: Final = 1.0 + 3.0


def hanging(number: int) -> str:
    return f"http://hangs{number}.test/"


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("dead", [4, 12, 30])
@pytest_twisted.ensureDeferred
async def test_dead_neighbours(
    dead: int, ordered: bool, tmp_path: Path, start: Start, awake: Awake
) -> None:
    """Destinations that hang from the first do not keep another one waiting."""
    agent = FakeAgent(lambda sent: 200 if sent.url == HEALTHY.encode() else Deferred())
    outbox = start(str(tmp_path / "outbox"), agent=agent, grace_seconds=0)
    await gatherResults(
        [
            outbox.send("POST", hanging(one), ordered=f"{number}" if ordered else False)
            for one in range(dead)
            for number in range(10)
        ]
    )
    began = awake.seconds
    await outbox.send("POST", HEALTHY)
    await until(lambda: HEALTHY.encode() in [sent.url for sent in agent.sent])
    assert awake.seconds - began < SOON
    await outbox.stopService()


@pytest.mark.parametrize("ordered", [False, True])
@pytest_twisted.ensureDeferred
async def test_neighbours_that_die(
    ordered: bool, tmp_path: Path, start: Start, awake: Awake
) -> None:
    """Nor do those that have all they may have, and then hang."""
    healthy = True
    agent = FakeAgent(lambda sent: 200 if healthy or sent.url == HEALTHY.encode() else Deferred())
    outbox = start(str(tmp_path / "outbox"), agent=agent, grace_seconds=0)

    def send_all() -> Deferred[Any]:
        return gatherResults(
            [
                outbox.send("POST", hanging(one), ordered=f"{number}" if ordered else False)
                for one in range(6)
                for number in range(20)
            ]
        )

    await send_all()
    await until(lambda: len(agent.sent) == 120)
    healthy = False
    agent.sent.clear()
    await send_all()
    await until(lambda: len(agent.sent) >= 30)
    began = awake.seconds
    await outbox.send("POST", HEALTHY)
    await until(lambda: HEALTHY.encode() in [sent.url for sent in agent.sent])
    assert awake.seconds - began < SOON
    await outbox.stopService()


@pytest_twisted.ensureDeferred
async def test_so_many_at_a_time(tmp_path: Path, start: Start) -> None:
    """A destination that works gets more and more at a time, up to its bound."""
    running: Counter[bytes] = Counter()
    most: Counter[bytes] = Counter()
    waiting: list[tuple[Sent, Deferred[int]]] = []

    def answer(sent: Sent) -> Deferred[int]:
        running[sent.url] += 1
        most[sent.url] = max(most[sent.url], running[sent.url])
        waiting.append((sent, Deferred()))
        return waiting[-1][1]

    agent = FakeAgent(answer)
    limits = OutboxLimits(deliveries_per_destination=3)
    outbox = start(str(tmp_path / "outbox"), agent=agent, limits=limits)
    await gatherResults([outbox.send("POST", HEALTHY) for _ in range(40)])
    for _ in range(40):
        await until(lambda: waiting)
        sent, answering = waiting.pop()
        running[sent.url] -= 1
        answering.callback(200)
    assert most == {HEALTHY.encode(): 3}


@pytest_twisted.ensureDeferred
async def test_too_many_requests(tmp_path: Path, start: Start) -> None:
    """A server that counts is left alone for as long as it asks, and answers 429 seldom."""
    allowed, until_when, refused = 5, 0.0, 0
    period = 0.3

    def answer(sent: Sent) -> Any:
        nonlocal allowed, until_when, refused
        if time.monotonic() > until_when:
            allowed, until_when = 5, time.monotonic() + period
        if allowed:
            allowed -= 1
            return 200
        refused += 1
        return Response(429, {"Retry-After": ["1"]})

    policy = DeliveryPolicy(base_seconds=0.01, pause_cap_seconds=period)
    outbox = start(str(tmp_path / "outbox"), agent=FakeAgent(answer), policy=policy)
    seen: list[Delivery] = []
    outbox.watch(seen.append)
    await gatherResults([outbox.send("POST", HEALTHY) for _ in range(20)])
    await until(lambda: [one.verdict for one in seen].count(Verdict.DELIVERED) == 20)
    assert refused <= 20
    assert not any(one.failures for one in (await outbox.stats()).destinations.values())


CLAIM: Final = Claim(
    *(1, "key", "http://a.test:80", "http://a.test:80", False, "POST", "http://a.test/"),
    *("", b"body", 1, 1e9, "token", False),
)


def settlement(answer: Any) -> Settlement:
    """What one attempt makes of an answer."""
    settled: list[Settlement] = []
    attempt = DeliveryAttempt(FakeAgent(lambda sent: answer), CLAIM, DeliveryPolicy(), Clock())
    attempt.settled.addCallback(settled.append)
    return settled[0]


@pytest.mark.parametrize(
    "status, fields, reached, pause",
    [
        (429, {"Retry-After": ["7"]}, None, 7),
        (429, {}, False, 0),
        (503, {"Retry-After": ["7"]}, False, 7),
        (200, {"Retry-After": ["7"]}, True, 7),
    ],
)
def test_who_asks_for_a_pause(
    status: int, fields: dict[str, list[str]], reached: bool | None, pause: float
) -> None:
    """A 429 with a time is no failure of the destination."""
    settled = settlement(Response(status, fields))
    assert (settled.reached, settled.pause_seconds) == (reached, pause)


def hang_up(code: str, phase: Any = "connecting") -> ServerHangUp:
    return ServerHangUp("went", code=code, phase=phase)


@pytest.mark.parametrize(
    "error, reached",
    [
        (ConnectError(osError=errno.EMFILE), None),
        (ConnectError(osError=errno.EADDRNOTAVAIL), None),
        (ConnectError(osError=errno.ENETUNREACH), None),
        (DNSLookupError("no"), None),
        (hang_up("ENFILE"), None),
        (hang_up("EAI_AGAIN"), None),
        (hang_up("ENOTFOUND"), None),
        (ConnectRefusal(osError=errno.ECONNREFUSED), False),
        (ConnectError(osError=errno.EHOSTUNREACH), False),
        (hang_up("ECONNRESET"), False),
        (hang_up("ENOBUFS", "waiting"), False),
        (ConnectionLost(), False),
    ],
    ids=repr,
)
def test_whose_fault(error: Exception, reached: bool | None) -> None:
    """What this machine lacks does not count against a destination."""
    settled = settlement(Failure(error))
    assert settled.verdict is Verdict.RETRY and settled.reached is reached


@pytest.mark.parametrize(
    "error", [lambda: ConnectError(osError=errno.EMFILE), lambda: DNSLookupError("no")]
)
@pytest_twisted.ensureDeferred
async def test_a_local_fault(error: Callable[[], Exception], tmp_path: Path, start: Start) -> None:
    """Nothing is paused; when it is over, all goes out."""
    broken = True
    agent = FakeAgent(lambda sent: Failure(error()) if broken else 200)
    policy = DeliveryPolicy(base_seconds=0.01, cap_seconds=0.05, failures_to_pause=2)
    outbox = start(str(tmp_path / "outbox"), agent=agent, policy=policy)
    await gatherResults([outbox.send("POST", HEALTHY) for _ in range(10)])
    await until(lambda: len(agent.sent) > 30)
    assert not (await outbox.stats()).destinations["http://healthy.test:80"].failures
    broken = False

    async def delivered() -> bool:
        return not (await outbox.stats()).queued

    await until(delivered)


@pytest_twisted.ensureDeferred
async def test_pause_and_resume(database: str, start: Start) -> None:
    """By hand, for every process: nothing goes out, and after that all does."""
    agent = FakeAgent()
    outbox = start(database, agent=agent, limits=OutboxLimits(poll_seconds=0.05))
    other = start(database, agent=agent, limits=OutboxLimits(poll_seconds=0.05))
    await outbox.pause(HEALTHY)
    await outbox.send("POST", HEALTHY, None, b"1")
    await other.send("POST", HEALTHY, None, b"2", ordered=True)
    await outbox.send("POST", hanging(1), None, b"3")
    await until(lambda: agent.sent)
    assert (await other.stats()).destinations["http://healthy.test:80"].held
    assert agent.bodies == [b"3"]
    await other.resume(HEALTHY)
    await until(lambda: {*agent.bodies} == {b"1", b"2", b"3"})
    with pytest.raises(ValueError, match="not an absolute"):
        await outbox.pause("healthy.test")


@pytest_twisted.ensureDeferred
async def test_retry_now(database: str, start: Start) -> None:
    """What waits for long after a failure goes out when somebody says so."""
    agent = FakeAgent(lambda sent: 500 if len(agent.sent) < 3 else 200)
    policy = DeliveryPolicy(base_seconds=600.0, failures_to_pause=2)
    outbox = start(database, agent=agent, policy=policy, jitter=lambda most: most)
    keys = [await outbox.send("POST", HEALTHY) for _ in range(2)]

    async def paused() -> bool:
        destinations = (await outbox.stats()).destinations
        return any(one.paused_seconds for one in destinations.values())

    await until(paused)
    assert await outbox.retry_now(keys) == 2
    await until(lambda: len(agent.sent) == 4)
