"""`Outbox`: a queue of requests that are delivered later if they cannot be delivered now.

A request that `Outbox.send` has stored survives the end of the process.  It is delivered at least
once: by this process, by the next one, or by another one that shares the database.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, TypeAlias, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IAgent

from .._arguments import must_be, must_be_number, must_be_reactor, must_take
from ..client.agent import HangupAgent, Requests, must_be_agent
from ..client.backoff import Jitter, steady, uniform_below
from ..errors import KeyInUse, OutboxUnavailable
from ..limits import OutboundTimeouts
from . import admin, sql
from .admin import OutboxStats, QueuedRequest
from .database import LOCK_SECONDS, Database, PostgreSQL, database_named
from .delivery import DeliveryAttempt, Drains, handback
from .listener import Listener
from .policy import DeliveryPolicy, Verdict
from .request import HeadersArgument, NewRequest, OutboxLimits, Text, new_request
from .store import Bounds, Claim, Demand, Result, Settlement, store_in
from .thread import DatabaseThread, NoAnswer
from .writer import Writer

T = TypeVar("T")

#: One in so many of the deliveries is kept for destinations that have none running.
_SPARE: Final = 4

#: Destinations whose number of deliveries at a time is remembered.
_MOST_WINDOWS: Final = 1000

#: How long a question about the queue, or a change of it by hand, may take.
_QUESTION_SECONDS: Final = 60.0
_CHANGE_SECONDS: Final = 600.0

#: How much longer than its attempts a service may take to stop, whatever its database does.
_CLOSING_SECONDS: Final = 0.5

#: How often to look for requests that are too old, and for lanes that nobody looks at.
_SWEEP_SECONDS: Final = 30.0

_log = Logger()


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of one delivery attempt, for watchers.

    Attributes:
        key: The request's ``Idempotency-Key``.
        destination: Scheme, host and port.
        attempt: 1 for the first.
        verdict: What happens with the request now.
        problem: How the attempt ended, in one line; None if the request was delivered.
        wait_seconds: The least time until the next attempt; 0 if there is none.
    """

    key: str
    destination: str
    attempt: int
    verdict: Verdict
    problem: str | None
    wait_seconds: float


Watcher: TypeAlias = Callable[[Delivery], object]


class Outbox(Service):
    """Stores requests and delivers them; a service for any Twisted application.

    Use it for requests that have to arrive sooner or later, such as webhooks:

        outbox = Outbox("outbox.db")
        outbox.setServiceParent(application)
        ...
        await outbox.send("POST", "https://example.org/hook", body=b"...")

    The queue is in SQLite or PostgreSQL.  A request that `send` has stored is delivered at least
    once, even if this process ends.  It carries an ``Idempotency-Key``, so that the server can
    recognize a repetition.
    """

    def __init__(
        self,
        database: str,
        *,
        agent: IAgent | Requests | None = None,
        policy: DeliveryPolicy = DeliveryPolicy(),  # noqa: B008 (frozen)
        limits: OutboxLimits = OutboxLimits(),  # noqa: B008 (frozen)
        deliver: bool = True,
        grace_seconds: float = 10.0,
        jitter: Jitter = uniform_below,
        reactor: Any = None,
        clock: Any = None,
    ) -> None:
        """
        Args:
            database: The path of an SQLite file, or a ``postgresql://`` URL.
            agent: The `IAgent` that delivers.  None makes a `HangupAgent`, which is closed when the
                service stops.
            policy: When to try again, and for how long.
            limits: How much is accepted, and done at once.
            deliver: Whether this process delivers, or only stores for others that do.
            grace_seconds: How long attempts may go on when the service stops.
            jitter: Returns a random wait up to its argument; also called in a thread.
            reactor: For threads and connections; None for the installed one.
            clock: An ``IReactorTime`` for timers, and with SQLite for the times in the file.  None
                for *reactor*.

        Raises:
            ModuleNotFoundError: *database* is PostgreSQL, and psycopg is not installed.
            TypeError: An argument has the wrong type.
            ValueError: *database* is not the name of a database.
        """
        must_be("database", database, str)
        if agent is not None:
            must_be_agent("agent", agent, "HangupAgent")
        must_be("policy", policy, DeliveryPolicy, "DeliveryPolicy(max_attempts=...)")
        must_be("limits", limits, OutboxLimits, "OutboxLimits(body_bytes=...)")
        must_be("deliver", deliver, bool)
        must_be_number("grace_seconds", grace_seconds, endless=True)
        must_take("jitter", jitter, "bound")
        for name, one in (("reactor", reactor), ("clock", clock)):
            if one is not None:
                must_be_reactor(name, one)
        self._reactor: Any = reactor
        self._clock: Any = reactor if clock is None else clock
        # Half the time, so that a second try can still succeed in time.
        lock_seconds = min(LOCK_SECONDS, limits.store_seconds / 2)
        seconds = time.time if self._clock is None else self._clock.seconds
        self._database: Database = database_named(database, seconds, lock_seconds)
        self._own_agent = agent is None
        self._agent = agent
        self._policy = policy
        self._limits = limits
        self._deliver = deliver
        self._grace_seconds = grace_seconds
        self._jitter = jitter
        self._questions: DatabaseThread | None = None
        self._writer: Writer | None = None
        self._attempts: set[DeliveryAttempt] = set()
        self._drains: Drains | None = None
        self._listener: Listener | None = None
        self._tables_seen = False
        self._running: Counter[str] = Counter()
        self._windows: dict[str, int] = {}
        self._timers: dict[str, IDelayedCall] = {}
        self._watchers: set[Watcher] = set()

    def send(
        self,
        method: Text,
        url: Text,
        headers: HeadersArgument = None,
        body: bytes = b"",
        *,
        key: str | None = None,
        ordered: bool | str = False,
        max_age_seconds: float | None = None,
    ) -> Deferred[str]:
        """Store a request, and deliver it as soon as possible.

        Args:
            method: The method, as str or bytes.
            url: An absolute http or https URL in ASCII.
            headers: Twisted's ``Headers``, a mapping, or pairs of name and value.
            body: At most `OutboxLimits.body_bytes`.
            key: The request's ``Idempotency-Key``, which may be in *headers* instead; None makes a
                new one.  All attempts carry the same key.
            ordered: True if the request must not overtake the ordered requests sent before it to
                the same scheme, host and port.  A string is an order of its own: requests with
                another string do not wait for each other.
            max_age_seconds: The age at which it is given up; None for the policy's.

        Returns:
            A Deferred that fires with the key once the request is on the disk.  From then on it
            cannot be lost, and the first attempt begins at once.  If the same request with the same
            key is queued already, nothing is stored, and the Deferred fires too.  It fails with
            `KeyInUse` if the key belongs to another request, and with `OutboxUnavailable` if the
            database is full, or is locked or away for longer than `OutboxLimits.store_seconds`; the
            error's ``stored`` is None if the request may be stored all the same.  If you cancel it,
            the request is withdrawn, unless it is being stored at that moment.

        Raises:
            OutboxUnavailable: The service is not running, or too much waits to be stored.
            TypeError: An argument has the wrong type.
            ValueError: The request cannot be sent as HTTP, or exceeds a limit.
        """
        request = self._new_request(method, url, headers, body, key, ordered, max_age_seconds)
        if self._writer is None or not self.running:
            raise OutboxUnavailable("the outbox is not running: start the service first")
        return self._writer.store(request)

    def send_in(
        self,
        cursor: Any,
        method: Text,
        url: Text,
        headers: HeadersArgument = None,
        body: bytes = b"",
        *,
        key: str | None = None,
        ordered: bool | str = False,
        max_age_seconds: float | None = None,
    ) -> str:
        """Store a request in a transaction of yours; it is delivered if you commit.

        You may call it in any thread.  It needs no running service and no reactor here, but the
        tables must exist: the first start of a service creates them.  An ordered request comes
        after those whose transactions were committed before.  The arguments other than *cursor* are
        those of `send`.

        Args:
            cursor: A cursor of a connection to the same PostgreSQL database: psycopg's, or one with
                the same parameter style.

        Returns:
            The key.

        Raises:
            KeyInUse: The key belongs to another request.  The transaction is unchanged.
            OutboxUnavailable: The tables do not exist.  The transaction is unchanged.
            TypeError: As in `send`.
            ValueError: As in `send`; or this outbox is on SQLite.
        """
        if not isinstance(self._database, PostgreSQL):
            raise ValueError("send_in() needs PostgreSQL")
        if iscoroutinefunction(cursor.execute):
            raise TypeError("send_in() needs a cursor that is not asynchronous")
        request = self._new_request(method, url, headers, body, key, ordered, max_age_seconds)
        if not self._tables_seen:
            cursor.execute(sql.HAS_PLACES)
            self._tables_seen = cursor.fetchone() is not None
            if not self._tables_seen:
                raise OutboxUnavailable("no tables of an outbox: start one there, which makes them")
        if not store_in(cursor, request):
            raise KeyInUse(f"the key {request.key} has another request")
        return request.key

    def _new_request(
        self,
        method: Text,
        url: Text,
        headers: HeadersArgument,
        body: bytes,
        key: str | None,
        ordered: bool | str,
        max_age_seconds: float | None,
    ) -> NewRequest:
        if max_age_seconds is None:
            max_age_seconds = self._policy.max_age_seconds
        return new_request(
            method,
            url,
            headers,
            body,
            key=key,
            ordered=ordered,
            max_age_seconds=max_age_seconds,
            limits=self._limits,
            by_name=self._own_agent,
        )

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call *watcher* with a `Delivery` after every attempt of this process from now on.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        must_take("watcher", watcher, "delivery")
        self._watchers.add(watcher)
        return lambda: self._watchers.discard(watcher)

    def stats(self) -> Deferred[OutboxStats]:
        """How many requests are queued and dead, for which destinations, and which are paused."""
        return self._run(admin.stats)

    def requests(
        self, *, dead: bool = True, destination: str | None = None, limit: int = 100, after: int = 0
    ) -> Deferred[list[QueuedRequest]]:
        """The dead letters, or the queued requests if *dead* is False, oldest first.

        Args:
            dead: Whether to list dead letters.
            destination: Only requests to this URL's scheme, host and port.
            limit: Most requests to return.
            after: Only those after this `QueuedRequest.id`: the next page.
        """
        return self._run(
            admin.requests, dead=dead, destination=destination, limit=limit, after=after
        )

    def requeue(
        self, keys: Iterable[str] | None = None, *, destination: str | None = None
    ) -> Deferred[int]:
        """Queue dead letters again: those with *keys*, or all.

        Args:
            keys: Which; None for all.
            destination: Only requests to this URL's scheme, host and port.

        Returns:
            A Deferred that fires with their number.
        """
        return self._change(admin.requeue, keys, destination)

    def retry_now(
        self, keys: Iterable[str] | None = None, *, destination: str | None = None
    ) -> Deferred[int]:
        """Try queued requests now that wait for another attempt: those with *keys*, or all.

        If their destination is paused after failures, one request probes it.

        Args:
            keys: Which; None for all.
            destination: Only requests to this URL's scheme, host and port.

        Returns:
            A Deferred that fires with the number of those that are not running already.
        """
        return self._change(admin.retry_now, keys, destination)

    def pause(self, destination: str) -> Deferred[None]:
        """Deliver nothing to *destination*, a URL, until `resume`; this counts for all processes.

        Running attempts go on, and requests that become too old are given up.
        """
        return self._run(admin.hold, destination=destination)

    def resume(self, destination: str) -> Deferred[None]:
        """Deliver to *destination* again, even if it was paused after failures."""
        return self._run(admin.let_go, destination=destination).addCallback(self._cb_look)

    def drop(
        self, keys: Iterable[str] | None = None, *, destination: str | None = None
    ) -> Deferred[int]:
        """Delete requests: those with *keys*, queued or dead, or else all dead letters.

        Returns:
            A Deferred that fires with their number.
        """
        return self._change(admin.drop, keys, destination)

    def startService(self) -> None:
        """Begin to store and to deliver, also what earlier processes have left."""
        super().startService()
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._clock = steady(self._reactor if self._clock is None else self._clock)
        self._drains = Drains(self._clock, self._limits)
        self._questions = self._database_thread()
        if self._agent is None:
            self._agent = HangupAgent.from_reactor(
                self._reactor,
                # The policy bounds how long an answer may take.
                timeouts=OutboundTimeouts(head_seconds=0.0, silence_seconds=0.0),
                most_idle=self._limits.deliveries_per_destination,
            )
        self._writer = Writer(
            self._database_thread(),
            self._database,
            self._clock,
            self._limits,
            pause=lambda failures: self._policy.pause(failures, self._jitter),
            demand=self._demand,
            bounds=_bounds(self._policy) if self._deliver else None,
            committed=self._committed,
        )
        self._sweep()
        if self._deliver and isinstance(self._database, PostgreSQL):
            self._listener = Listener(
                *(self._database, self._reactor, self._clock),
                begun=partial(self._look, sweep=True),
                heard=self._heard,
            )

    def stopService(self) -> Deferred[None]:
        """Accept nothing new, let attempts finish, and give back those that do not.

        Returns:
            A Deferred that fires when all results are stored and everything is closed.
        """
        super().stopService()
        if self._writer is None:
            return succeed(None)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._listener is not None:
            self._listener.close()
        grace = self._clock.callLater(self._grace_seconds, self._release)
        end = self._clock.callLater(self._grace_seconds + _CLOSING_SECONDS, self._give_up)
        settled: Deferred[Any] = DeferredList([_fork(one.settled) for one in self._attempts])
        settled.addCallback(lambda _: grace.active() and grace.cancel())
        settled.addCallback(self._cb_close_database)
        settled.addCallback(lambda _: end.active() and end.cancel())
        return settled.addCallback(self._cb_close)

    def _release(self) -> None:
        for attempt in [*self._attempts]:
            attempt.release()

    def _give_up(self) -> None:
        for thread in (self._questions, self._writer):
            if thread is not None:
                thread.give_up("the outbox has stopped")

    def _cb_close_database(self, _: object) -> Deferred[Any]:
        assert self._drains is not None
        self._drains.stop()
        assert self._writer is not None and self._questions is not None
        return gatherResults([self._writer.close(), self._questions.close()])

    def _cb_close(self, _: object) -> Deferred[None]:
        self._questions = self._writer = self._drains = self._listener = None
        if not self._own_agent:
            return succeed(None)
        agent: Any
        agent, self._agent = self._agent, None
        closed: Deferred[None] = agent.close()
        return closed

    def _database_thread(self) -> DatabaseThread:
        prepare = partial(sql.create_tables, database=self._database)
        return DatabaseThread(self._database, prepare, self._reactor, self._clock)

    def _change(
        self, function: Callable[..., int], keys: Iterable[str] | None, destination: str | None
    ) -> Deferred[int]:
        keys = None if keys is None else list(keys)
        counting = self._run(function, _CHANGE_SECONDS, keys=keys, destination=destination)
        return counting.addCallback(self._cb_look)

    def _run(
        self, function: Callable[..., T], seconds: float = _QUESTION_SECONDS, **arguments: Any
    ) -> Deferred[T]:
        thread = self._questions
        if thread is None:
            raise OutboxUnavailable("the outbox is not running: start the service first")
        asking = thread.run(
            lambda cursor: admin.run(cursor, self._database, function, **arguments), seconds
        )
        return asking.addErrback(self._eb_database, thread)

    def _eb_database(self, failure: Failure, thread: DatabaseThread) -> Failure:
        error = failure.value
        assert error is not None
        silent = isinstance(error, NoAnswer)
        if thread.reached and not (silent or self._database.is_failing(error)):
            return failure
        raise OutboxUnavailable(
            f"{self._database.name}: {self._database.explain(error)}"
        ) from error

    def _cb_look(self, result: T) -> T:
        self._look()
        return result

    def _look(self, *, sweep: bool = False) -> None:
        if self._writer is not None and self.running:
            self._writer.look(sweep=sweep)

    def _heard(self, lanes: list[str]) -> None:
        """Other processes have stored something; an empty name stands for one that is too long."""
        if self._writer is not None and self.running:
            self._writer.wake({*lanes} - {""})
            if "" in lanes:
                self._writer.look(sweep=True)

    def _sweep(self) -> None:
        self._look(sweep=True)
        self._call_later("sweep", _SWEEP_SECONDS, self._sweep)

    def _call_later(self, name: str, seconds: float, function: Callable[[], None]) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None and timer.active():
            timer.cancel()
        self._timers[name] = self._clock.callLater(seconds, self._timed, name, function)

    def _timed(self, name: str, function: Callable[[], None]) -> None:
        del self._timers[name]
        function()

    def _demand(self) -> Demand | None:
        free = self._limits.deliveries - len(self._attempts)
        if not self._deliver or not self.running or free <= 0:
            return None
        return Demand(
            requests=free,
            per_destination=1,  # until a request there has been answered
            running={**self._running},
            windows={**self._windows},
            spare=self._limits.deliveries // _SPARE,
            lease_seconds=_lease_seconds(self._policy),
            failures_to_pause=self._policy.failures_to_pause,
            max_attempts=self._policy.max_attempts,
            held=frozenset(attempt.claim.id for attempt in self._attempts),
        )

    def _committed(self, result: Result) -> None:
        """A transaction was committed: act on its result."""
        for destination, seconds in result.pauses.items():
            _log.warn(
                "{destination} is left alone for {seconds:.1f} s",
                destination=destination,
                seconds=seconds,
            )
        if result.expired:
            _log.warn("{count} requests died of age", count=result.expired)
        if result.claims is None:
            return
        for claim in result.claims:
            if self.running:
                self._attempt(claim)
            elif self._writer is not None:  # the service was stopped meanwhile
                self._writer.settle(handback(claim))
        wait = result.look_again_seconds
        wait = self._limits.poll_seconds if wait is None else min(wait, self._limits.poll_seconds)
        if self.running:
            self._call_later("look", wait, self._look)

    def _attempt(self, claim: Claim) -> None:
        assert self._agent is not None
        attempt = DeliveryAttempt(self._agent, claim, self._policy, self._clock)
        self._attempts.add(attempt)
        self._running[claim.destination] += 1
        attempt.settled.addCallback(self._cb_settled, attempt)

    def _cb_settled(self, settlement: Settlement, attempt: DeliveryAttempt) -> None:
        claim = settlement.claim
        self._attempts.discard(attempt)
        self._running[claim.destination] -= 1
        if not self._running[claim.destination]:
            del self._running[claim.destination]
        self._set_window(claim.destination, settlement.reached)
        settlement = self._with_wait(settlement)
        assert self._writer is not None
        self._writer.settle(settlement)
        if attempt.response is not None:
            assert self._drains is not None
            self._drains.add(attempt.response, claim.destination)
        if settlement.verdict is Verdict.DEAD:
            _log.warn(
                "{method} {destination} with key {key} is dead after attempt {attempt}: {problem}",
                method=claim.method,
                destination=claim.destination,
                key=claim.key,
                attempt=claim.attempt,
                problem=settlement.problem,
            )
        delivery = Delivery(
            *(claim.key, claim.destination, claim.attempt),
            *(settlement.verdict, settlement.problem, settlement.wait_seconds),
        )
        for watcher in [*self._watchers]:
            try:
                watcher(delivery)
            except Exception:
                _log.failure("a watcher of the outbox failed")

    def _set_window(self, destination: str, reached: bool | None) -> None:
        """Allow a destination that works twice as many at a time; any other starts again at one."""
        window = self._windows.pop(destination, 1)
        if reached:
            most = self._limits.deliveries_per_destination
            self._windows[destination] = min(2 * window, most)
            if len(self._windows) > _MOST_WINDOWS:
                del self._windows[next(iter(self._windows))]

    def _with_wait(self, settlement: Settlement) -> Settlement:
        """How long a request waits for its next attempt: by the policy, or as the server asks."""
        if settlement.verdict is not Verdict.RETRY or settlement.given_back:
            return settlement
        wait = self._policy.wait(settlement.claim.attempt, self._jitter)
        return settlement._replace(wait_seconds=max(wait, settlement.wait_seconds))


def _lease_seconds(policy: DeliveryPolicy) -> float:
    return policy.attempt_seconds + policy.settle_seconds


def _bounds(policy: DeliveryPolicy) -> Bounds:
    return Bounds(
        *(policy.base_seconds, policy.cap_seconds, policy.pause_cap_seconds),
        _lease_seconds(policy),
    )


def _fork(source: Deferred[T]) -> Deferred[None]:
    """A new Deferred that fires with *source*'s result, and leaves it to *source*."""
    fork: Deferred[None] = Deferred()

    def tell(result: Any) -> Any:
        fork.callback(None)
        return result

    source.addBoth(tell)
    return fork
