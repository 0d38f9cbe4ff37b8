"""A connection to the database, in a thread that can be given up.

A database that does not answer blocks the thread that asks it, and no driver bounds that: a stopped
server keeps its connections, and a disk that has gone may never come back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from .database import Database

T = TypeVar("T")

#: Most threads that were given up and have not come back; then no other is started.
_MOST_STUCK: Final = 4


class NoAnswer(Exception):
    """The database has not answered in time; it is unknown whether it did what it was asked."""


@dataclass(slots=True, eq=False)
class _Job:
    """A transaction that a caller waits for."""

    function: Callable[[Any], Any]
    done: Deferred[Any]
    timer: IDelayedCall | None = None


class DatabaseThread:
    """Runs transactions one after the other, on a connection that it opens when there is none.

    Attributes:
        reached: Whether the last transaction that failed may have reached the database.  Anything
            before that is the database's fault, whatever it looks like.
    """

    def __init__(
        self, database: Database, prepare: Callable[[Any], None], reactor: Any, clock: Any
    ) -> None:
        """
        Args:
            database: The database to connect to.
            prepare: Called with a cursor of each new connection, in the thread.
            reactor: Where callbacks of the thread run.
            clock: An ``IReactorTime`` on the monotonic clock.
        """
        self._database = database
        self._prepare = prepare
        self._reactor = reactor
        self._clock = clock
        self._thread: _Thread | None = None
        self._stuck: set[_Thread] = set()
        self._jobs: list[_Job] = []
        self._closed: Deferred[None] | None = None
        self.reached = False

    @property
    def busy(self) -> bool:
        """Whether a transaction runs or waits."""
        return bool(self._jobs)

    def run(self, function: Callable[[Any], T], seconds: float) -> Deferred[T]:
        """Call *function* with a cursor, in the thread and in a transaction.

        Returns:
            A Deferred that fires with its result once the transaction is committed.  It fails with
            the error of *function* or of the database, after everything was rolled back.  After
            this many *seconds* it fails with `NoAnswer`: the connection is shut, and the thread is
            given up.
        """
        if self._thread is None:
            if len(self._stuck) >= _MOST_STUCK:
                self.reached = False
                return fail(NoAnswer(f"does not answer {len(self._stuck)} connections"))
            self._thread = _Thread(self._database, self._prepare, self)
        job = _Job(function, Deferred())
        why = f"does not answer within {seconds:g} s"
        job.timer = self._clock.callLater(seconds, self.give_up, why)
        self._jobs.append(job)
        self._thread.jobs.put(job)
        return job.done

    def give_up(self, why: str) -> None:
        """Stop waiting: running and waiting transactions fail with `NoAnswer`."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stuck.add(thread)
        thread.abandon()
        self.reached = True
        for job in [*self._jobs]:
            self._end(job, Failure(NoAnswer(why)))
        self._tell_closed()

    def close(self) -> Deferred[None]:
        """Run the transactions that wait, and end.

        Returns:
            A Deferred that fires when the thread has ended, or was given up.
        """
        if self._thread is None:
            return succeed(None)
        self._closed = Deferred()
        self._thread.jobs.put(None)
        return self._closed

    def answered(self, job: _Job, result: object, reached: bool) -> None:
        """Called in a thread: *job* is over."""
        self._reactor.callFromThread(self._answered, job, result, reached)

    def ended(self, thread: _Thread) -> None:
        """Called in a thread, which ends."""
        self._reactor.callFromThread(self._ended, thread)

    def _answered(self, job: _Job, result: object, reached: bool) -> None:
        if job in self._jobs:
            self.reached = reached
            self._end(job, result)

    def _end(self, job: _Job, result: object) -> None:
        self._jobs.remove(job)
        assert job.timer is not None
        if job.timer.active():
            job.timer.cancel()
        job.done.callback(result)

    def _ended(self, thread: _Thread) -> None:
        self._stuck.discard(thread)
        if thread is self._thread:
            self._thread = None
            self._tell_closed()

    def _tell_closed(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)


class _Thread:
    """A thread with its connection; it does not keep the process alive."""

    def __init__(
        self, database: Database, prepare: Callable[[Any], None], owner: DatabaseThread
    ) -> None:
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._database = database
        self._prepare = prepare
        self._owner = owner
        self._connection: Any = None
        self._abandoned = False
        #: Held while the connection is being closed, or shut from outside.
        self._shutting = Lock()
        Thread(target=self._work, name="twisted_hangup outbox", daemon=True).start()

    def abandon(self) -> None:
        """Called in the reactor: shut the connection; the thread ends when it notices."""
        self._abandoned = True
        self.jobs.put(None)
        if self._shutting.acquire(blocking=False):  # else it is being closed
            if self._connection is not None:
                self._database.shut(self._connection)
            self._shutting.release()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None and not self._abandoned:
            self._do(job)
        self._disconnect()
        self._owner.ended(self)

    def _do(self, job: _Job) -> None:
        reached = False
        try:
            cursor = self._cursor()
            reached = True
            result: object = job.function(cursor)
            self._connection.commit()
        except BaseException as error:
            result = Failure()
            try:
                self._connection.rollback()
            except Exception:  # the error that led here is reported instead
                self._disconnect()
            if self._database.is_stale(error):
                self._disconnect()
        self._owner.answered(job, result, reached)

    def _cursor(self) -> Any:
        if self._connection is not None and not self._database.is_usable(self._connection):
            self._disconnect()
        if self._connection is None:
            self._connection = self._database.connect()
            try:
                self._prepare(self._connection.cursor())
            except BaseException:
                self._disconnect()
                raise
        return self._connection.cursor()

    def _disconnect(self) -> None:
        with self._shutting:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(Exception):
                    connection.close()
