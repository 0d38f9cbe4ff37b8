"""The one writer of a process: it stores what happens at the same time in one transaction.

A commit waits for the disk.  Meanwhile requests, results and claims gather for the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import KeyInUse, OutboxUnavailable
from ..limits import MIB
from .database import Database
from .request import NewRequest, OutboxLimits
from .store import Bounds, Demand, Pause, Result, Settlement, Work, run
from .thread import DatabaseThread, NoAnswer

#: Most that one transaction stores, so that it stays short.
_BATCH_REQUESTS: Final = 1000
_BATCH_BYTES: Final = 8 * MIB

#: The longest wait before trying a database again that is away; and into how many parts this
#: divides the time of a ``send()``, so that a database which is back by then stores its request.
_RETRY_SECONDS: Final = 0.1
_MOST_RETRY_SECONDS: Final = 5.0
_TRIES: Final = 4

#: How long a transaction may take: as long as a ``send()`` may, but at least this many seconds; and
#: twice as long after each that was too slow.
_LEAST_ANSWER_SECONDS: Final = 1.0
_MOST_ANSWER_SECONDS: Final = 60.0

#: A change of this many seconds is a step of the database's clock.  A smaller one may be the time
#: that the server takes to answer, and delays a delivery by no more than that.
_STEP_SECONDS: Final = 5.0

_log = Logger()


@dataclass(slots=True, eq=False)
class _Send:
    """A ``send()`` whose request is not stored yet, as far as is known."""

    request: NewRequest
    cost: int
    deadline: float
    stored: Deferred[str]
    unsure: bool = False

    def fail(self, error: Exception) -> None:
        if not self.stored.called:
            self.stored.errback(error)

    def fail_unstored(self, reason: str, cause: BaseException | None = None) -> None:
        error = OutboxUnavailable(reason, stored=None if self.unsure else False)
        error.__cause__ = cause
        self.fail(error)


@dataclass(slots=True)
class _Batch:
    """The content of one transaction."""

    sends: list[_Send] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    work: Work = field(default_factory=Work)

    def parts(self) -> Iterator[_Batch]:
        """One batch for each part that can fail by itself."""
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
    """Stores requests and results, and reports the requests that it has claimed."""

    def __init__(
        self,
        thread: DatabaseThread,
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
            thread: The writer's own thread, with a connection to *database*.
            database: The database.
            clock: An ``IReactorTime`` on the monotonic clock.
            limits: How much may wait, and how long.
            pause: See `Work`.
            demand: Returns what may be claimed right now; called before each transaction.
            bounds: The longest waits; None if this process claims nothing.
            committed: Called with the result of each transaction.
        """
        self._thread = thread
        self._database = database
        self._clock = clock
        self._limits = limits
        self._pause = pause
        self._demand = demand
        self._bounds = bounds
        self._committed = committed
        #: Whether stored times may be later than that: an earlier process may have left such.
        self._beyond = bounds is not None
        self._ahead: float | None = None
        self._sends: deque[_Send] = deque()
        #: One for all, because the garbage collector would look at each.
        self._canceller = self._withdraw
        self._storing: list[_Send] = []
        self._overdue: IDelayedCall | None = None
        self._unstored_bytes = 0
        self._settlements: list[Settlement] = []
        self._rewake: set[str] = set()
        self._look = self._sweep = False
        self._running = False
        self._closing = False
        self._retry: IDelayedCall | None = None
        self._retry_seconds = 0.0
        self._answer_seconds = 0.0
        #: Why the last transaction failed; None if it did not.
        self._trouble: str | None = None
        self._idle: list[Deferred[None]] = []

    def store(self, request: NewRequest) -> Deferred[str]:
        """Store *request*.

        Returns:
            A Deferred that fires with its key once it is on the disk.  It fails with `KeyInUse`, or
            with `OutboxUnavailable` after `OutboxLimits.store_seconds` at the latest.  Cancelling
            it withdraws the request, unless it is being stored at that moment.

        Raises:
            OutboxUnavailable: Too much waits already.
        """
        cost = request.cost
        if self._unstored_bytes + cost > self._limits.unstored_bytes:
            raise OutboxUnavailable(
                f"{self._unstored_bytes} bytes wait for {self._database.name} already"
            )
        deadline = self._clock.seconds() + self._limits.store_seconds
        stored: Deferred[str] = Deferred(self._canceller)
        self._sends.append(_Send(request, cost, deadline, stored))
        self._unstored_bytes += cost
        if self._overdue is None and isfinite(deadline):
            self._overdue = self._clock.callLater(self._limits.store_seconds, self._fail_overdue)
        self._work_soon()
        return stored

    def settle(self, settlement: Settlement) -> None:
        """Store the result of an attempt, however long that takes."""
        self._settlements.append(settlement)
        self._work_soon()

    def look(self, *, sweep: bool = False) -> None:
        """Look for requests to claim; with *sweep* also for old or overlooked ones."""
        self._look = True
        self._sweep = self._sweep or sweep
        self._work_soon()

    def wake(self, lanes: Iterable[str]) -> None:
        """Another process has stored something in *lanes*."""
        self._rewake.update(lanes)
        self.look()

    def close(self) -> Deferred[None]:
        """Store what waits, and end.

        Returns:
            A Deferred that fires when the thread has ended, or was given up.  If the database is
            away, what it could not store fails; leases that could not be given back end by
            themselves.
        """
        self._closing = True
        if self._retry is not None:
            self._retry.cancel()
            self._work()
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self._tell_if_idle()
        return idle.addCallback(lambda _: self._thread.close())

    def give_up(self, why: str) -> None:
        """Stop waiting for the database."""
        self._thread.give_up(why)

    def _fail_overdue(self) -> None:
        """The oldest request's time is up, whatever the database is doing."""
        self._overdue = None
        now = self._clock.seconds()
        why = self._trouble or f"does not answer within {self._limits.store_seconds:g} s"
        storing = [send for send in self._storing if not send.stored.called]
        for send in storing:
            if send.deadline <= now:
                send.unsure = True  # until an answer comes, too late
                send.fail_unstored(f"perhaps not stored in {self._database.name}: {why}")
        while self._sends and self._sends[0].deadline <= now:
            self._give_back(self._sends.popleft()).fail_unstored(
                f"not stored in {self._database.name}: {why}"
            )
        waiting = [send for send in storing if send.deadline > now] or self._sends
        if waiting and self._overdue is None:  # a callback above may have sent another request
            self._overdue = self._clock.callLater(waiting[0].deadline - now, self._fail_overdue)

    def _give_back(self, send: _Send) -> _Send:
        """*send* waits no longer."""
        self._unstored_bytes -= send.cost
        return send

    def _withdraw(self, stored: Deferred[str]) -> None:
        for send in self._sends:
            if send.stored is stored:
                self._sends.remove(self._give_back(send))
                return

    def _work_soon(self) -> None:
        """Begin in the next turn, with everything else that this turn brings."""
        if self._retry is None and not self._running:
            self._retry = self._clock.callLater(0, self._work)

    def _work(self) -> None:
        self._retry = None
        batch = self._next_batch()
        if batch is None:
            self._tell_if_idle()
            return
        self._running = True
        self._storing = batch.sends
        self._run(batch).addErrback(self._eb_split, batch).addErrback(_eb_bug).addCallback(
            self._cb_go_on
        )

    def _next_batch(self) -> _Batch | None:
        batch = _Batch()
        waiting, sends = self._sends, batch.sends
        size = 0
        while waiting and len(sends) < _BATCH_REQUESTS and size < _BATCH_BYTES:
            send = waiting.popleft()
            size += send.cost
            sends.append(send)
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
        least = max(self._limits.store_seconds, _LEAST_ANSWER_SECONDS)
        self._answer_seconds = min(max(self._answer_seconds, least), _MOST_ANSWER_SECONDS)
        storing = self._thread.run(
            lambda cursor: run(cursor, self._database, batch.work), self._answer_seconds
        )
        return storing.addCallbacks(
            self._cb_committed, self._eb_failed, callbackArgs=(batch,), errbackArgs=(batch,)
        )

    def _cb_committed(self, result: Result, batch: _Batch) -> None:
        self._retry_seconds = self._answer_seconds = 0.0
        if self._trouble is not None:
            self._trouble = None
            _log.info("{database} is back", database=self._database.name)
        before, self._ahead = self._ahead, result.ahead
        if before is not None and before - result.ahead > _STEP_SECONDS:
            self._beyond = self._bounds is not None
        if self._database.shared_writes:
            self._rewake.update(request.lane for request in batch.work.requests)
        self._unstored_bytes -= sum([send.cost for send in batch.sends])
        conflicts = result.conflicts
        for place, send in enumerate(batch.sends):
            if place in conflicts:
                send.fail(KeyInUse(f"the key {send.request.key} has another request"))
            elif not send.stored.called:
                send.stored.callback(send.request.key)
        self._committed(result)

    def _eb_failed(self, failure: Failure, batch: _Batch) -> Failure | None:
        """Keep what may work later, and fail what is wrong with the work itself."""
        cause = failure.value
        assert cause is not None
        silent = isinstance(cause, NoAnswer)
        reached = self._thread.reached
        if reached and not (silent or self._database.is_failing(cause)):
            return failure
        text = str(cause) if silent else self._database.explain(cause)
        unsure = reached and (silent or not self._database.is_certain(cause))
        away = silent or self._database.is_away(cause)
        now = self._clock.seconds()
        for send in reversed(batch.sends):
            send.unsure = send.unsure or unsure
            if away and not self._closing and send.deadline > now and not send.stored.called:
                self._sends.appendleft(send)
            else:
                reason = f"not stored in {self._database.name}: {text}"
                self._give_back(send).fail_unstored(reason, cause)
        self._settlements[:0] = batch.settlements
        self._rewake.update(batch.work.rewake)
        self._look = True
        self._sweep = self._sweep or batch.work.sweep
        self._beyond = self._beyond or batch.work.bounds is not None
        if self._trouble is None:
            _log.error("{database}: {text}", database=self._database.name, text=text)
        self._trouble = text
        if silent:
            self._answer_seconds *= 2
        most = min(_MOST_RETRY_SECONDS, self._limits.store_seconds / _TRIES)
        self._retry_seconds = max(_RETRY_SECONDS, min(2 * self._retry_seconds, most))
        return None

    def _cb_run(self, _: object, batch: _Batch) -> Deferred[None]:
        return self._run(batch)

    def _eb_split(self, failure: Failure, batch: _Batch) -> Any:
        """One part spoils the rest: do each part alone, and fail those that fail alone."""
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
        for send in batch.sends:
            reason = f"not stored: {self._database.explain(cause)}"
            self._give_back(send).fail_unstored(reason, cause)
        if not batch.sends:
            _log.failure("{database}", failure, database=self._database.name)
        return None

    def _cb_go_on(self, _: object) -> None:
        self._running = False
        self._storing = []
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
            overdue, self._overdue = self._overdue, None
            if overdue is not None:
                overdue.cancel()
            while self._sends:
                self._sends.popleft().fail_unstored("the outbox has stopped")
        waiters, self._idle = self._idle, []
        for waiter in waiters:
            waiter.callback(None)


def _eb_bug(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("a bug of the outbox", failure)
