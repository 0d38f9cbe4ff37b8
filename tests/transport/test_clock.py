"""Waits last as long as they were to, however the time of day is set meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.wire import until
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.python import runtime
from twisted.web.client import Agent
from twisted.web.resource import Resource
from zope.interface import implementer

from twisted_hangup import HangupSite
from twisted_hangup.client import RetryAgent
from twisted_hangup.client.pool import OutboundPool
from twisted_hangup.outbox import Outbox
from twisted_hangup.service.accept import Gate
from twisted_hangup.service.serving import HangupService
from twisted_hangup.status.resource import StatusResource
from twisted_hangup.transport import clock as clock_module
from twisted_hangup.transport.clock import INTERVAL, THREAD, SteadyClock, steady
from twisted_hangup.transport.deadlines import Deadline, Deadlines

HOUR = 3600.0


@implementer(IReactorFromThreads)
class Reactor(Clock):
    """A reactor that goes by a time of day, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.ahead = 0.0
        self.called: list[float] = []
        self.seconds = self._time_of_day  # type: ignore[method-assign]  # one and the same each time
        monkeypatch.setattr(runtime, "seconds", self.seconds)
        monkeypatch.setattr(clock_module, "monotonic", lambda: self.rightNow)
        monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
        self.steady: Any = steady(self)
        assert isinstance(self.steady, SteadyClock)

    def _time_of_day(self) -> float:
        return self.rightNow + self.ahead

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002
        *args: object,
        **kwargs: object,
    ) -> None:
        callable(*args, **kwargs)

    def note(self) -> None:
        """What waits here."""
        self.called.append(self.rightNow)

    def set(self, seconds: float) -> None:
        """Set the time of day, forward or back."""
        self.ahead += seconds

    def pass_by(self, seconds: float) -> None:
        """Let time pass, in which the clocks are compared."""
        until = self.rightNow + seconds
        while self.rightNow < until:
            self.pump([INTERVAL / 10] * 10)
            self.steady.compare()
            self.advance(0)


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Reactor:
    return Reactor(monkeypatch)


@pytest.mark.parametrize("step", [0, 0.05, -0.05, 1, -1, 2, -2, 30, -30, HOUR, -HOUR, 1e6, -1e6])
@pytest.mark.parametrize("begun", ["before", "after"])
def test_waits_as_long_as_ever(reactor: Reactor, step: float, begun: str) -> None:
    """A call comes after its seconds, begun before the step or between it and the comparison."""
    if begun == "after":
        reactor.set(step)
    reactor.steady.callLater(3, reactor.note)
    reactor.advance(0.7)
    if begun == "before":
        reactor.set(step)
    reactor.pass_by(10)
    (called,) = reactor.called
    assert 2.99 <= called <= 3.6
    assert reactor.getDelayedCalls() == reactor.steady.getDelayedCalls() == []


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_deadlines(reactor: Reactor, step: float) -> None:
    """Nor does a step touch deadlines, whatever they have set before and set after."""
    deadlines = Deadlines(reactor)
    for due in (1.0, 5.0, 9.0):
        deadlines.set(Deadline(reactor.note), due)
    reactor.pass_by(2)
    reactor.set(step)
    deadlines.set(Deadline(reactor.note), 4.0)
    reactor.pass_by(10)
    assert [round(called) for called in reactor.called] == [1, 4, 5, 9]
    assert reactor.getDelayedCalls() == []


def test_turns_of_others(reactor: Reactor) -> None:
    """What was to come in the next turn comes, whoever waits for it; what began later waits."""
    reactor.steady.callLater(9, lambda: None)
    reactor.pass_by(1)
    reactor.callLater(0, reactor.note)
    reactor.callLater(HOUR, reactor.note)
    reactor.set(-HOUR)
    reactor.callLater(3, reactor.note)
    reactor.pass_by(5)
    assert [round(called) for called in reactor.called] == [2, 4]
    assert len(reactor.getDelayedCalls()) == 2


def test_as_a_delayed_call(reactor: Reactor) -> None:
    """It can be moved and cancelled as any other."""
    call = reactor.steady.callLater(5, reactor.note)
    assert (call.active(), call.getTime()) == (True, 5)
    call.reset(2)
    call.delay(1)
    reactor.set(HOUR)
    reactor.pass_by(2)
    assert reactor.called == []
    reactor.pass_by(2)
    assert len(reactor.called) == 1
    assert not call.active()
    call = reactor.steady.callLater(5, reactor.note)
    call.cancel()
    assert not call.active()
    assert reactor.getDelayedCalls() == reactor.steady.getDelayedCalls() == []


def test_clocks_of_tests_know_best() -> None:
    """A clock that is no reactor's is waited with as it is."""
    clock = Clock()
    assert steady(clock) is clock
    clock.seconds = runtime.seconds  # type: ignore[method-assign]
    assert steady(clock) is clock


@pytest_twisted.ensureDeferred
async def test_who_waits_by_it(tmp_path: Path) -> None:
    """Whoever waits for something of ours, by whatever they were given as a clock."""
    from twisted.internet import reactor

    site = HangupSite(Resource(), reactor=reactor)
    pool = OutboundPool(HostnameEndpoint(reactor, "a", 1), reactor)
    status = StatusResource(site, reactor)
    outbox = Outbox(str(tmp_path / "outbox"))
    outbox.startService()  # knows its reactor from then on
    waiting: list[Any] = [
        *(site.context.deadlines, site.context.paused, site.context.warn_of_bodies),
        *(pool, pool.deadlines, RetryAgent(Agent(reactor)), outbox),
        *(Gate(reactor), status._access, status._streams),
        HangupService(site, [], Gate(reactor), reactor=reactor, grace_seconds=1),
    ]
    assert {one._clock for one in waiting} == {steady(reactor)}
    await outbox.stopService()


@pytest_twisted.ensureDeferred
async def test_thread() -> None:
    """There is one, while something waits, and none a second after."""
    from twisted.internet import reactor

    def threads() -> int:
        return [thread.name for thread in threading.enumerate()].count(THREAD)

    await until(lambda: threads() == 0)  # those of other tests
    assert steady(reactor) is steady(reactor)
    calls = [steady(reactor).callLater(60, lambda: None) for _ in range(20)]
    counted = threads()
    for call in calls:
        call.cancel()
    assert counted == 1
    await until(lambda: threads() == 0)
