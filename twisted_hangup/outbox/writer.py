"""The one writer of a process: what happens at the same time is stored in one transaction.

A commit waits for the disk; while it does, requests, settlements and claims gather for the
next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from twisted.enterprise.adbapi import Transaction
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import KeyInUse, OutboxUnavailable
from ..limits import MIB
from .database import Database, Pool
from .request import NewRequest, OutboxLimits
from .sql import create_tables
from .store import Bounds, Demand, Pause, Result, Settlement, Work, run

#: What one transaction stores at most, so that none takes long.
_BATCH_REQUESTS: Final = 1000
_BATCH_BYTES: Final = 8 * MIB

#: How long to wait before trying a database again that is away.
_RETRY_SECONDS: Final = 0.1
_MOST_RETRY_SECONDS: Final = 5.0

#: So many seconds back are a step of the database's clock: less may be how long a server takes
#: to say what time it is, and a delivery is late by no more than that.
_STEP_SECONDS: Final = 5.0

_log = Logger()


@dataclass(slots=True, eq=False)
class _Send:
    """A ``send()`` whose request is not stored yet."""

    request: NewRequest
    cost: int
    deadline: float
    stored: Deferred[str]

    def fail(self, error: Exception) -> None:
        if not self.stored.called:
            self.stored.errback(error)


@dataclass(slots=True)
class _Batch:
    """What one transaction is about."""

    sends: list[_Send] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    work: Work = field(default_factory=Work)

    def parts(self) -> Iterator[_Batch]:
        """One batch for each thing that can fail by itself."""
        for send in self.sends:
            work = Work(requests=[send.request], seconds=self.work.seconds)
            yield _Batch([send], work=work)
        for settlement in self.settlements:
            work = Work(settlements=[settlement], pause=self.work.pause, seconds=self.work.seconds)
            yield _Batch(settlements=[settlement], work=work)
        rest = replace(self.work, requests=(), settlements=())
        if rest.rewake or rest.demand is not None or rest.sweep or rest.bounds is not None:
            yield _Batch(work=rest)


class Writer:
    """Stores what it is given, and tells what it has claimed."""

    def __init__(
        self,
        pool: Pool,
        database: Database,
        clock: Any,
        limits: OutboxLimits,
        *,
        pause: Pause,
        demand: Callable[[], Demand | None],
        bounds: Bounds | None,
        committed: Callable[[Result], None],
    ) -> None:
        """
        Args:
            pool: Of connections to *database*.
            database: Where it goes.
            clock: An ``IReactorTime`` that nobody can set.
            limits: How much may wait, and how long.
            pause: As `Work` has it.
            demand: What may be claimed right now; asked before each transaction.
            bounds: The longest waits; None where this process claims nothing.
            committed: Called with the result of each transaction.
        """
        self._pool = pool
        self._database = database
        self._clock = clock
        self._limits = limits
        self._pause = pause
        self._demand = demand
        self._bounds = bounds
        self._committed = committed
        #: Whether what is stored may be later than that: an earlier process may have left
        #: it so.
        self._beyond = bounds is not None
        self._ahead: float | None = None
        self._sends: deque[_Send] = deque()
        self._unstored_bytes = 0
        self._settlements: list[Settlement] = []
        self._rewake: set[str] = set()
        self._look = self._sweep = False
        self._created = False
        self._running = False
        self._closing = False
        self._retry: IDelayedCall | None = None
        self._retry_seconds = 0.0
        self._idle: list[Deferred[None]] = []

    def store(self, request: NewRequest) -> Deferred[str]:
        """Store *request*.

        Returns:
            A Deferred that fires with its key once it is on the disk, and fails with
            `OutboxUnavailable` or `KeyInUse`.  To cancel it withdraws the request, unless
            it is being stored right then.

        Raises:
            OutboxUnavailable: Too much waits already.
        """
        cost = request.cost
        if self._unstored_bytes + cost > self._limits.unstored_bytes:
            raise OutboxUnavailable(
                f"{self._unstored_bytes} bytes wait for {self._database.name} already"
            )
        deadline = self._clock.seconds() + self._limits.store_seconds
        send = _Send(request, cost, deadline, Deferred(lambda _: self._withdraw(send)))
        self._sends.append(send)
        self._unstored_bytes += cost
        self._work_soon()
        return send.stored

    def settle(self, settlement: Settlement) -> None:
        """Write down what became of a request, however long that takes."""
        self._settlements.append(settlement)
        self._work_soon()

    def look(self, *, sweep: bool = False) -> None:
        """See what can be claimed; with *sweep*, also what is too old or was overlooked."""
        self._look = True
        self._sweep = self._sweep or sweep
        self._work_soon()

    def close(self) -> Deferred[None]:
        """Store what there is, and do nothing after that.

        Returns:
            A Deferred that fires when no thread is at work.  What a database that is away
            did not take fails; leases that could not be given back end by themselves.
        """
        self._closing = True
        if self._retry is not None:
            self._retry.cancel()
            self._work()
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self._tell_if_idle()
        return idle

    def _withdraw(self, send: _Send) -> None:
        if send in self._sends:
            self._sends.remove(send)
            self._unstored_bytes -= send.cost

    def _work_soon(self) -> None:
        """In the next turn, together with what else this one brings."""
        if self._retry is None and not self._running:
            self._retry = self._clock.callLater(0, self._work)

    def _work(self) -> None:
        self._retry = None
        batch = self._next_batch()
        if batch is None:
            self._tell_if_idle()
            return
        self._running = True
        self._run(batch).addErrback(self._eb_split, batch).addErrback(_eb_bug).addCallback(
            self._cb_go_on
        )

    def _next_batch(self) -> _Batch | None:
        batch = _Batch()
        size = 0
        while self._sends and len(batch.sends) < _BATCH_REQUESTS and size < _BATCH_BYTES:
            send = self._sends.popleft()
            size += send.cost
            batch.sends.append(send)
        batch.settlements, self._settlements = self._settlements, []
        demand = None if self._closing else self._demand()
        looking = self._sweep or self._beyond or (self._look and demand is not None)
        if not (looking or batch.sends or batch.settlements or self._rewake):
            return None
        batch.work = Work(
            requests=[send.request for send in batch.sends],
            settlements=batch.settlements,
            rewake=frozenset(self._rewake),
            demand=demand,
            sweep=self._sweep,
            pause=self._pause,
            bounds=self._bounds if self._beyond else None,
            seconds=self._clock.seconds,
        )
        self._rewake.clear()
        self._look = self._sweep = self._beyond = False
        return batch

    def _run(self, batch: _Batch) -> Deferred[None]:
        storing = maybeDeferred(self._pool.runInteraction, self._interaction, batch.work)
        return storing.addCallbacks(
            self._cb_committed, self._eb_failed, callbackArgs=(batch,), errbackArgs=(batch,)
        )

    def _interaction(self, transaction: Transaction, work: Work) -> Result:
        """In a thread: do *work* in one transaction."""
        if not self._created:
            create_tables(transaction, self._database)
            self._created = True
        return run(transaction, self._database, work)

    def _cb_committed(self, result: Result, batch: _Batch) -> None:
        if self._retry_seconds:
            self._retry_seconds = 0.0
            _log.info("{database} is back", database=self._database.name)
        before, self._ahead = self._ahead, result.ahead
        if before is not None and before - result.ahead > _STEP_SECONDS:
            self._beyond = self._bounds is not None
        if self._database.shared_writes:
            self._rewake.update(request.lane for request in batch.work.requests)
        for place, send in enumerate(batch.sends):
            self._unstored_bytes -= send.cost
            if place in result.conflicts:
                send.fail(KeyInUse(f"the key {send.request.key} has another request"))
            elif not send.stored.called:
                send.stored.callback(send.request.key)
        self._committed(result)

    def _eb_failed(self, failure: Failure, batch: _Batch) -> Failure | None:
        """Keep what may work later, and pass on what is wrong with the work itself."""
        cause = failure.value
        assert cause is not None
        unknown_tables = failure.check(OutboxUnavailable)
        if not (unknown_tables or self._database.is_failing(cause)):
            return failure
        text = self._database.explain(cause)
        error = OutboxUnavailable(f"not stored in {self._database.name}: {text}")
        error.__cause__ = cause
        now = self._clock.seconds()
        wait = self._database.is_away(cause) and not self._closing
        for send in reversed(batch.sends):
            if wait and send.deadline > now and not send.stored.called:
                self._sends.appendleft(send)
            else:
                self._unstored_bytes -= send.cost
                send.fail(error)
        self._settlements[:0] = batch.settlements
        self._rewake.update(batch.work.rewake)
        self._look = True
        self._sweep = self._sweep or batch.work.sweep
        self._beyond = self._beyond or batch.work.bounds is not None
        if not self._retry_seconds:
            _log.error("{database}: {text}", database=self._database.name, text=text)
        self._retry_seconds = min(max(_RETRY_SECONDS, 2 * self._retry_seconds), _MOST_RETRY_SECONDS)
        return None

    def _cb_run(self, _: object, batch: _Batch) -> Deferred[None]:
        return self._run(batch)

    def _eb_split(self, failure: Failure, batch: _Batch) -> Any:
        """One thing spoils the rest: do each by itself, and give up what fails alone."""
        parts = [*batch.parts()]
        if len(parts) > 1:
            one_by_one: Deferred[Any] = Deferred()
            for part in parts:
                one_by_one.addCallback(self._cb_run, part)
                one_by_one.addErrback(self._eb_split, part)
            one_by_one.callback(None)
            return one_by_one
        cause = failure.value
        assert cause is not None
        error = OutboxUnavailable(f"not stored: {self._database.explain(cause)}")
        error.__cause__ = cause
        for send in batch.sends:
            self._unstored_bytes -= send.cost
            send.fail(error)
        if not batch.sends:
            _log.failure("{database}", failure, database=self._database.name)
        return None

    def _cb_go_on(self, _: object) -> None:
        self._running = False
        if self._retry_seconds and not self._closing:
            self._retry = self._clock.callLater(self._retry_seconds, self._work)
        elif self._retry_seconds:
            self._tell_if_idle()
        else:
            self._work()

    def _tell_if_idle(self) -> None:
        if self._running or self._retry is not None:
            return
        if self._closing:
            while self._sends:
                self._sends.popleft().fail(OutboxUnavailable("the outbox has stopped"))
        waiters, self._idle = self._idle, []
        for waiter in waiters:
            waiter.callback(None)


def _eb_bug(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("a bug of the outbox", failure)
