"""What comes back from a real server, and what the outbox makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.outboxes import URL, FakeAgent, Response, Sent, Start
from support.outboxes import start as start
from support.upstreams import Connection, RawServer, always
from support.wire import until
from twisted.internet import reactor
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.client import Agent

from twisted_hangup import HangupAgent
from twisted_hangup.client.backoff import Discard
from twisted_hangup.outbox import Delivery, DeliveryPolicy, Verdict

#: Waits that a test can wait for.
QUICK = DeliveryPolicy(base_seconds=0.02, cap_seconds=0.05, pause_cap_seconds=0.05)

AGENTS: dict[str, Callable[[], Any]] = {
    "own": lambda: None,
    "stock": lambda: Agent(reactor),
    "wrapped": lambda: HangupAgent(Agent(reactor)),
}

#: An answer that has a status and then goes wrong, and what is done with the request.
BROKEN = [
    (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Verdict.DELIVERED),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        Verdict.DELIVERED,
    ),
    (
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n",
        Verdict.DELIVERED,
    ),
    (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", Verdict.DELIVERED),
    (b"HTTP/1.1 201 Yes\r\nX : y\r\nContent-Length: 0\r\n\r\n", Verdict.DELIVERED),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", Verdict.DELIVERED),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk",
        Verdict.DELIVERED,
    ),
    (b"HTTP/1.1 404 No\nContent-Length: 0\n\n", Verdict.DEAD),
    (b"HTTP/1.1 410 No\r\nContent-Length: 9\r\n\r\ncut", Verdict.DEAD),
    (b"HTTP/1.1 503 No\nContent-Length: 0\n\n", Verdict.RETRY),
    (b"ICY 200 OK\r\n\r\n", Verdict.RETRY),
    (b"SSH-2.0-OpenSSH_9\r\n", Verdict.RETRY),
]


@contextmanager
def served(script: Callable[[Connection], object]) -> Iterator[RawServer]:
    """A server that runs *script* per connection."""
    server = RawServer(script)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("wire, verdict", BROKEN, ids=lambda one: getattr(one, "value", None))
@pytest_twisted.ensureDeferred
async def test_a_status_that_came_decides(
    wire: bytes, verdict: Verdict, tmp_path: Path, start: Start
) -> None:
    """Whatever is wrong with the rest of the response."""
    with served(always(wire)) as server:
        outbox = start(str(tmp_path / "outbox"), policy=QUICK)
        seen: list[Delivery] = []
        outbox.watch(seen.append)
        await outbox.send("POST", server.url)
        await until(lambda: seen)
        await outbox.stopService()
    assert seen[0].verdict is verdict
    assert (seen[0].problem is None) == (verdict is Verdict.DELIVERED)
    if verdict is not Verdict.RETRY:
        assert len(server.connections) == 1


@pytest.mark.parametrize("agent", AGENTS)
@pytest_twisted.ensureDeferred
async def test_a_body_that_breaks_off(agent: str, tmp_path: Path, start: Start) -> None:
    """Through each agent, the head decides."""
    with served(always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")) as server:
        outbox = start(str(tmp_path / "outbox"), policy=QUICK, agent=AGENTS[agent]())
        seen: list[Delivery] = []
        outbox.watch(seen.append)
        await outbox.send("POST", server.url)
        await until(lambda: seen)
        await outbox.stopService()
    assert [one.verdict for one in seen] == [Verdict.DELIVERED]


class Cut(Exception):
    """What an agent may fail with that reads bodies by itself."""

    def __init__(self, code: int) -> None:
        super().__init__("cut short")
        self.response = Response(code)


@pytest.mark.parametrize(
    "status, verdict",
    [(200, Verdict.DELIVERED), (400, Verdict.DEAD), (500, Verdict.RETRY), (103, Verdict.RETRY)],
)
@pytest_twisted.ensureDeferred
async def test_an_agent_that_reads_bodies(
    status: int, verdict: Verdict, tmp_path: Path, start: Start
) -> None:
    """Its failure has the response, or the failure that led to it has."""

    def answer(sent: Sent) -> Failure:
        error = ConnectionLost()
        error.__cause__ = Cut(status)
        return Failure(error)

    outbox = start(str(tmp_path / "outbox"), agent=FakeAgent(answer), policy=QUICK)
    seen: list[Delivery] = []
    outbox.watch(seen.append)
    await outbox.send("POST", URL)
    await until(lambda: seen)
    assert seen[0].verdict is verdict


class Stalled(Response):
    """Has a body that does not come."""

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(_Stopped(protocol))


class _Stopped:
    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol

    def stopProducing(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionLost()))


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_body(tmp_path: Path, start: Start) -> None:
    """What is delivered is written down when the head has come, and the next one goes out."""
    agent = FakeAgent(lambda sent: Stalled(200))
    outbox = start(str(tmp_path / "outbox"), agent=agent)
    for number in range(20):
        await outbox.send("POST", URL, None, b"%d" % number, ordered=True)
    await until(lambda: len(agent.sent) == 20)

    async def written() -> bool:
        return not (await outbox.stats()).queued

    await until(written)
    await outbox.stopService()


@pytest_twisted.ensureDeferred
async def test_bodies_are_bounded(tmp_path: Path, start: Start) -> None:
    """No more are drained at the same time than may be delivered to one destination."""
    agent = FakeAgent(lambda sent: Stalled(200))
    outbox: Any = start(str(tmp_path / "outbox"), agent=agent)
    most = outbox._limits.deliveries_per_destination
    for number in range(3 * most):
        await outbox.send("POST", URL, None, b"%d" % number)
    await until(lambda: len(agent.sent) == 3 * most)
    drained: dict[Discard, str] = outbox._drains._discards
    assert len(drained) == most
    await outbox.stopService()
    assert not drained


class Judge(DeliveryPolicy):
    """Gives up what a server does not answer, and nothing else."""

    def judge(self, status: int | None, attempt: int) -> Verdict:
        if status is None and attempt == 3:
            return Verdict.DEAD
        return super().judge(status, attempt)


class Forgetful(DeliveryPolicy):
    """Knows one status, and forgets to ask for the others."""

    def judge(self, status: int | None, attempt: int) -> Verdict:
        if status == 404:
            return Verdict.RETRY
        return None  # type: ignore[return-value]  # as who has no type checker has it


@pytest.mark.parametrize("answer", [200, Failure(ConnectionLost())], ids=["answer", "failure"])
@pytest_twisted.ensureDeferred
async def test_no_verdict(
    answer: Any, tmp_path: Path, start: Start, expected_errors: LoggedErrors
) -> None:
    """A policy that says nothing has a bug, which is logged; attempts are bounded."""
    policy = Forgetful(base_seconds=0.01, max_attempts=2)
    outbox = start(str(tmp_path / "outbox"), agent=FakeAgent(lambda _: answer), policy=policy)
    deliveries: list[Any] = []
    outbox.watch(deliveries.append)
    await outbox.send("POST", URL)
    await until(lambda: len(deliveries) == 2)
    assert [one.verdict for one in deliveries] == [Verdict.RETRY, Verdict.DEAD]
    assert "the policy's verdict must be a Verdict, not None" in deliveries[0].problem
    assert len(expected_errors.flush(TypeError)) == 2


class Certain(DeliveryPolicy):
    """Gives up where the error says so."""

    def judge_failure(self, error: BaseException, attempt: int) -> Verdict:
        if isinstance(error, ConnectionLost) and attempt == 3:
            return Verdict.DEAD
        return super().judge_failure(error, attempt)


@pytest.mark.parametrize(
    "policy, why",
    [
        (Judge(base_seconds=0.01), "ConnectionLost: "),
        (Certain(base_seconds=0.01), "ConnectionLost: "),
        (DeliveryPolicy(base_seconds=0.01, max_attempts=3), "too many attempts; ConnectionLost: "),
    ],
    ids=["judge", "judge_failure", "max_attempts"],
)
@pytest_twisted.ensureDeferred
async def test_poison(policy: DeliveryPolicy, why: str, tmp_path: Path, start: Start) -> None:
    """A request that makes a server hang up can be given up, and its lane goes on."""

    def answer(sent: Sent) -> Any:
        return Failure(ConnectionLost()) if sent.body == b"poison" else 200

    agent = FakeAgent(answer)
    outbox = start(str(tmp_path / "outbox"), agent=agent, policy=policy)
    for body in (b"1", b"poison", b"2"):
        await outbox.send("POST", URL, None, body, ordered=True)
    await until(lambda: b"2" in agent.bodies)
    assert agent.bodies == [b"1", *[b"poison"] * 3, b"2"]
    (letter,) = await outbox.requests()
    assert letter.problem is not None and letter.problem.startswith(why)


@pytest_twisted.ensureDeferred
async def test_attempts_that_answer(tmp_path: Path, start: Start) -> None:
    """A status that asks for another attempt does not get one for ever."""
    agent = FakeAgent(lambda sent: 500)
    policy = DeliveryPolicy(base_seconds=0.01, max_attempts=2)
    outbox = start(str(tmp_path / "outbox"), agent=agent, policy=policy)
    await outbox.send("POST", URL)
    (letter,) = await until(outbox.requests)
    assert letter.problem == "too many attempts; answered 500 Whatever"
    assert len(agent.sent) == 2


@pytest_twisted.ensureDeferred
async def test_words_of_a_hang_up(tmp_path: Path, start: Start) -> None:
    """The problem is Node's words, not what Twisted said beneath them."""
    with served(lambda connection: connection.read_head()) as server:
        agent = HangupAgent(Agent(reactor))
        outbox = start(str(tmp_path / "outbox"), agent=agent, policy=QUICK)
        seen: list[Delivery] = []
        outbox.watch(seen.append)
        await outbox.send("PUT", server.url)
        await until(lambda: seen)
        await outbox.stopService()
    assert seen[0].problem == "ServerHangUp: ECONNRESET: socket hang up (waiting)"
