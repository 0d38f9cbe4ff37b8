"""`Workers`: the first process, which opens the sockets and looks after the workers."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet import endpoints
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from ...journal.files import LogFile
from ...journal.flood import ThrottledWarning
from ...report.text import visible
from ...transport.clock import steady
from ..ports import endpoint
from ..serving import CannotListen, address_text, counted, listen_problem
from .channel import Kind, count_in
from .plan import Plan
from .process import Stage, WorkerProcess, working_directory
from .sockets import Binder
from .table import Table

#: The longest rest before a worker that keeps dying is started again.
MOST_REST_SECONDS: Final = 30.0

#: A worker that has served for so long has not failed at its start: the rests begin anew.
STEADY_SECONDS: Final = 60.0

#: How long after the grace a worker is killed that has not ended; its own end comes first.
KILL_SECONDS: Final = 2.0

#: How long the stacks of a stuck worker may take.
STACKS_SECONDS: Final = 1.0

#: How often to look for workers that are stuck.
LOOK_SECONDS: Final = 1.0

#: That workers had to drop frames is logged at most once in so many seconds.
LOSS_SECONDS: Final = 60.0

#: How many replacements may leave workers that still finish; the next one waits.
MOST_GENERATIONS: Final = 2

#: A worker, the one that replaces it, and those that finish.
_PROCESSES_EACH: Final = 2 + MOST_GENERATIONS

#: How a worker ends that is asked to: by itself, or in its start by the signal.
_WANTED_ENDS: Final = ("exit status 0", "SIGTERM")

_log = Logger()


class _Slot:
    """The place of one worker.

    Attributes:
        process: Its process; None while it rests.
        successor: The process that is to replace it.
        failures: How often in a row it has not served for long.
        lost_frames: How many frames its processes had to drop.
        rest: The end of its rest.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: WorkerProcess | None = None
        self.successor: WorkerProcess | None = None
        self.failures = 0
        self.lost_frames = 0
        self.rest: IDelayedCall | None = None

    def wake(self) -> None:
        """Rest no longer."""
        if self.rest is not None and self.rest.active():
            self.rest.cancel()
        self.rest = None


class Workers(Service):
    """Several processes that serve the same ports.

    ``privilegedStartService`` opens the sockets, ``startService`` starts the workers; in between
    ``twistd --uid`` gives up root.  A worker that dies is replaced, at once or after a rest of at
    most `MOST_REST_SECONDS`.  `replace` replaces all of them without a client's notice.

    Override `begun`, `started`, `replacing`, `replaced`, `changed` and `failed` to hear of that.

    Attributes:
        table: What the workers have written of themselves, a row for each process.
    """

    def __init__(
        self,
        make: str,
        ports: Sequence[str],
        number: int,
        *,
        arguments: Sequence[str] = (),
        reactor: Any = None,
        grace_seconds: float = 30.0,
        boot_seconds: float = 60.0,
        timeout_seconds: float = 0.0,
        stdout: LogFile | None = None,
        receivers: Mapping[int, Callable[[int, bytes], object]] | None = None,
    ) -> None:
        """
        Args:
            make: The dotted name of a function.  It is called in each worker with a `Worker` and
                returns its service.  The working directory is on the path, after Python's own.
            ports: Where to listen: Twisted's descriptions of endpoints, such as ``tcp:8000``.
            number: How many workers.
            arguments: For *make*, as `Worker.arguments`.  They show in the list of processes.
            reactor: The reactor; by default the one that is installed.
            grace_seconds: How long the service of a worker may take to stop.  `KILL_SECONDS` later
                the worker is killed.
            boot_seconds: How long a worker may take to start; then its stacks are logged, and it
                is ended.  0 = for ever.
            timeout_seconds: How long a worker's reactor may be busy with one thing; then its stacks
                are logged, and it is killed.  0 = for ever.
            stdout: Where lines go that workers write to their standard output.  By default to the
                log, as those on standard error do.
            receivers: For a kind of frame, who is called with a worker's number and the payload.

        Raises:
            ValueError: *number* is less than 1.
            UsageError: A port is not a description of an endpoint.
        """
        if number < 1:
            raise ValueError("number must be at least 1")
        if reactor is None:
            from twisted.internet import reactor
        self._make = make
        self._ports = [*ports]
        self._arguments = [*arguments]
        self._reactor: Any = reactor
        self._clock: Any = steady(reactor)
        self._grace_seconds = grace_seconds
        self._boot_seconds = boot_seconds
        self._timeout_seconds = timeout_seconds
        self._stdout = stdout
        self._receivers = receivers or {}
        self._directory = working_directory()
        self._endpoints = [self._endpoint(port) for port in self._ports]
        self._slots = [_Slot(one) for one in range(1, number + 1)]
        self.table = Table.of(number * _PROCESSES_EACH)
        self._row_of: dict[WorkerProcess, int] = {}
        self._bound: list[list[Any]] = []
        self._generation = 0
        self._status = ""
        self._served = False
        self._all_served = False
        self._stopping = False
        self._ends_now = False
        self._gone: Deferred[None] = Deferred()
        self._replaces = False
        self._asked_again = False
        self._finished: Deferred[None] | None = None
        self._looks = LoopingCall(self._look)
        self._looks.clock = self._clock
        self._looked = self._awake_since = time.monotonic()
        self._problem = "the system refuses"
        self._warn_of_loss = ThrottledWarning(self._clock, LOSS_SECONDS)

    # What a subclass may hear

    def begun(self, process: WorkerProcess) -> None:
        """A worker's process has been started; its channel takes frames."""

    def started(self) -> None:
        """All workers serve, for the first time."""

    def replacing(self) -> None:
        """A replacement of all workers begins."""

    def replaced(self, problem: str) -> None:
        """It is over; *problem* says in one line why it ended early, or is empty."""

    def changed(self, status: str) -> None:
        """*status* says in one line how the workers are."""

    def failed(self, problem: str) -> None:
        """No worker has ever served, and each has failed; *problem* says why in one line."""
        _log.critical("{problem}", problem=problem)
        self._reactor.stop()

    # The service

    def privilegedStartService(self) -> None:
        """Open the sockets while this is allowed.

        Raises:
            CannotListen: One cannot be opened, or cannot be shared.
        """
        super().privilegedStartService()
        self._bind()

    def startService(self) -> None:
        """Start the workers, once the reactor runs.

        Raises:
            CannotListen: As above, or the user of this process may not read a TLS key.
        """
        super().startService()
        if not self._bound:
            self._bind()
        for port in self._ports:
            try:
                self._endpoint(port)  # after --uid: a worker has to read its keys, too
            except UsageError as problem:
                raise CannotListen(str(problem)) from problem
        self._reactor.callWhenRunning(self._start)

    def stopService(self) -> Deferred[Any]:
        """Stop all workers, and kill those that have not ended after the grace.

        Returns:
            A Deferred that fires when all have ended.
        """
        super().stopService()
        self._stopping = True
        if self._looks.running:
            self._looks.stop()
        ports = [port for bound in self._bound for port in bound]
        closed = DeferredList([maybeDeferred(port.stopListening) for port in ports])
        for slot in self._slots:
            slot.wake()
        if self._processes:
            _log.info("Stopping {workers}", workers=counted(len(self._processes), "worker"))
        for process in self._processes:
            self._finish(process)
        self._look_for_the_end()
        return closed.addCallback(lambda _: self._gone)

    # What an operator asks for

    @property
    def serving(self) -> int:
        """How many workers serve."""
        processes = (slot.process for slot in self._slots)
        return sum(one is not None and one.stage is Stage.SERVING for one in processes)

    @property
    def lost_frames(self) -> int:
        """How many frames the workers had to drop because this process was too slow."""
        return sum(slot.lost_frames for slot in self._slots)

    def replace(self) -> None:
        """Replace all workers, one after the other, each once its successor serves.

        The first successor that fails ends this: the others stay.  If a replacement is under way,
        another one follows, however often it was asked for.
        """
        if self._stopping or not self.running:
            return
        if self._replaces:
            self._asked_again = True
            return
        self._replaces = True
        replacement = Deferred.fromCoroutine(self._replace())
        replacement.addErrback(lambda failure: _log.failure("The replacement has failed", failure))
        replacement.addBoth(self._cb_replaced)

    def end_now(self) -> None:
        """Kill all workers."""
        self._ends_now = True
        for process in self._processes:
            process.kill()

    # The sockets

    def _endpoint(self, port: str) -> tuple[Binder, Any]:
        binder = Binder(self._reactor)
        return binder, endpoint(port, binder)

    def _bind(self) -> None:
        for port, (binder, one) in zip(self._ports, self._endpoints, strict=True):
            problems: list[Failure] = []
            one.listen(SharedSocket()).addErrback(problems.append)
            if problems:
                raise CannotListen(listen_problem(problems[0].value, port))
            if not binder.ports:
                raise CannotListen(
                    f"cannot share {port} among workers: it gets no socket from the reactor"
                )
            self._bound.append(binder.ports)
            for bound in binder.ports:
                _log.info("Listening on {address}", address=address_text(bound.getHost()))

    # The processes

    @property
    def _processes(self) -> list[WorkerProcess]:
        return [*self._row_of]

    def _start(self) -> None:
        if self._stopping:
            return
        if self._timeout_seconds:
            self._looks.start(LOOK_SECONDS, now=False)
        for slot in self._slots:
            self._spawn(slot)

    def _spawn(self, slot: _Slot) -> None:
        """Start the process of a slot that has none."""
        slot.rest = None
        slot.process = process = self._process(slot)
        if process is None:
            self._rest(slot)

    def _process(self, slot: _Slot) -> WorkerProcess | None:
        """A new process for *slot*; None if the system refuses, which is logged."""
        index = min({*range(len(self.table))} - {*self._row_of.values()})
        systemds: Any = endpoints._SystemdParser._sddaemon
        plan = Plan(
            number=slot.number,
            make=self._make,
            arguments=self._arguments,
            ports=self._ports,
            sockets=[len(bound) for bound in self._bound],
            directory=self._directory,
            row=index,
            grace_seconds=self._grace_seconds,
            boot_ends=time.monotonic() + self._boot_seconds if self._boot_seconds else 0.0,
            systemd_names=[*systemds._names],
        )
        process = WorkerProcess(plan, self._generation, self.table[index], self._reactor, self)
        sockets = [port.fileno() for bound in self._bound for port in bound]
        try:
            process.start(self.table.descriptor, sockets)
        except OSError as error:
            problem = f"cannot be started: {visible(str(error))}"
            self._problem = f"worker {slot.number} {problem}"
            _log.error("Worker {number} {problem}", number=slot.number, problem=problem)
            return None
        self._row_of[process] = index
        self.begun(process)
        if self._boot_seconds:  # the worker itself prints its stacks then, and ends
            seconds = self._boot_seconds + KILL_SECONDS
            process.call_later(seconds, lambda: self._boot_is_over(process))
        return process

    def _boot_is_over(self, process: WorkerProcess) -> None:
        if process.stage is Stage.BOOTING:
            process.kill()

    def _finish(self, process: WorkerProcess, *, replaced: bool = False) -> None:
        """Ask *process* to end, and see to it."""
        if process.stage < Stage.DRAINING:
            if process.stage is Stage.BOOTING:
                process.ready.callback(False)
            process.stage = Stage.DRAINING
            process.row.replaced = replaced
            process.signal(signal.SIGTERM)
            process.call_later(self._grace_seconds + KILL_SECONDS, process.kill)
        elif process.row.replaced:  # and now it ends with all others
            process.row.replaced = False
            process.signal(signal.SIGTERM)

    def _rest(self, slot: _Slot) -> None:
        """Start the process of *slot* again, after a rest that is the longer the more it fails."""
        slot.failures += 1
        if not self._served and all(one.failures for one in self._slots):
            self._give_up()
        elif not self._stopping:
            slot.rest = self._clock.callLater(rest_seconds(slot.failures), self._spawn, slot)
            self._tell()

    def _give_up(self) -> None:
        self._stopping = True
        for slot in self._slots:
            slot.wake()
        self.failed(f"no worker can start: {self._problem}")

    async def _replace(self) -> None:
        self.replacing()
        if len(self._finishing) >= MOST_GENERATIONS:
            _log.info("The replacement waits: workers of two earlier ones still finish")
        while not self._stopping and len(self._finishing) >= MOST_GENERATIONS:
            self._finished = Deferred()
            await self._finished
        self._generation += 1
        problem = ""
        for slot in self._slots:
            if self._stopping:
                return
            problem = await self._replace_one(slot)
            if problem:
                break
        if self._stopping:
            return
        if problem:
            _log.error("The replacement has ended early: {problem}", problem=problem)
        else:
            self._status = ""  # perhaps the problem of an earlier one was told since
            self._tell()
        self.replaced(problem)

    def _cb_replaced(self, _: object) -> None:
        self._replaces = False
        if self._asked_again:
            self._asked_again = False
            self.replace()

    async def _replace_one(self, slot: _Slot) -> str:
        """Replace the process of *slot*; returns why that was not possible, or nothing."""
        slot.wake()
        slot.successor = successor = self._process(slot)
        serves = successor is not None and await successor.ready
        slot.successor = None
        if serves:
            before, slot.process = slot.process, successor
            slot.failures = 0
            if before is not None:
                self._finish(before, replaced=True)
            return ""
        if slot.process is None and not self._stopping:
            self._rest(slot)
        problem = self._problem
        if successor is not None:
            problem = f"worker {slot.number} {_why(successor)}"
        return f"the new {problem}; those not yet replaced stay"

    @property
    def _finishing(self) -> set[int]:
        """The generations of which workers still finish."""
        processes = self._processes
        return {one.generation for one in processes if one.stage >= Stage.DRAINING}

    def _tell(self) -> None:
        status = f"{self.serving} of {len(self._slots)} workers serve"
        if status != self._status:
            self._status = status
            self.changed(status)

    # What processes tell

    def received(self, process: WorkerProcess, kind: int, payload: bytes) -> None:
        """A frame has come from *process*."""
        if kind == Kind.READY:
            if process.stage is Stage.BOOTING:
                self._ready(process)
        elif kind == Kind.LOG:
            level, namespace, text = json.loads(payload)
            Logger(namespace).emit(
                LogLevel.lookupByName(level),
                "worker {number}: {text}",
                number=process.number,
                text=text,
            )
        elif kind == Kind.LOST:
            lost = count_in(payload) - process.lost_frames
            process.lost_frames += lost
            self._slots[process.number - 1].lost_frames += lost
            self._warn_of_loss(
                "Worker {number} had to drop {lost} records, because this process was too slow; "
                "{all} records of all workers are lost so far",
                number=process.number,
                lost=lost,
                all=self.lost_frames,
            )
        elif receiver := self._receivers.get(kind):
            receiver(process.number, payload)

    def printed(self, process: WorkerProcess, descriptor: int, line: bytes) -> None:
        """*process* has written a line to its standard output or its standard error."""
        if descriptor == 1 and self._stdout is not None:
            self._stdout.write(line + b"\n")
        else:
            text = visible(line.decode("utf-8", "replace"))
            _log.warn("worker {number}: {text}", number=process.number, text=text)

    def ended(self, process: WorkerProcess) -> None:
        """*process* has gone."""
        process.row.clear()
        del self._row_of[process]
        slot = self._slots[process.number - 1]
        why = _why(process)
        if process.ended_in is Stage.DRAINING:
            self._log_end(process)
        else:
            self._problem = f"worker {process.number} {why}"
        if process is slot.process:
            slot.process = None
            if not self._stopping:
                if process.ended_in is Stage.SERVING and process.seconds >= STEADY_SECONDS:
                    slot.failures = 0
                rests = "" if slot.successor is not None else rest_text(slot.failures + 1)
                self._log_death(process, why + rests)
                if slot.successor is None:
                    self._rest(slot)
                self._tell()
        elif process.ended_in is Stage.SERVING:  # its successor was quicker than its pipes
            self._log_death(process, why)
        finished, self._finished = self._finished, None
        if finished is not None:
            finished.callback(None)
        self._look_for_the_end()

    def _ready(self, process: WorkerProcess) -> None:
        _log.info(
            "Worker {number} (pid {pid}) serves, {seconds:.1f} s after its start",
            number=process.number,
            pid=process.pid,
            seconds=process.seconds,
        )
        self._served = True
        process.served()
        self._tell()
        if not self._all_served and self.serving == len(self._slots):
            self._all_served = True
            self.started()

    def _log_death(self, process: WorkerProcess, why: str) -> None:
        """Log the end of a worker that was not asked for it."""
        _log.error(
            "Worker {number} (pid {pid}) {why}", number=process.number, pid=process.pid, why=why
        )

    def _log_end(self, process: WorkerProcess) -> None:
        """Log the end of a worker that was asked for it."""
        log, how = _log.info, "has ended"
        if process.killed:
            log, how = _log.warn, "has not ended in its grace: killed"
            if self._ends_now:
                how = "has ended: killed"
        elif process.cause not in _WANTED_ENDS:
            log, how = _log.warn, f"has ended: {process.cause}"
        log("Worker {number} (pid {pid}) {how}", number=process.number, pid=process.pid, how=how)

    def _look_for_the_end(self) -> None:
        if self._stopping and not self._row_of and not self._gone.called:
            self._gone.callback(None)

    # Workers that are stuck

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked > 2 * LOOK_SECONDS:
            self._awake_since = now  # perhaps Ctrl-Z had stopped this process, with all workers
        self._looked = now
        for slot in self._slots:
            process = slot.process
            if process is not None and process.stage is Stage.SERVING and not process.stuck:
                silence = now - max(self._awake_since, process.row.beat / 1e9)
                if silence > self._timeout_seconds:
                    self._end_stuck(process, silence)

    def _end_stuck(self, process: WorkerProcess, seconds: float) -> None:
        process.stuck = True
        _log.error(
            "Worker {number} (pid {pid}) is stuck for {seconds:.0f} s; its stacks follow, then it "
            "is killed",
            number=process.number,
            pid=process.pid,
            seconds=seconds,
        )
        lines = process.error_lines
        process.signal(signal.SIGQUIT)
        process.call_later(STACKS_SECONDS, lambda: self._kill_stuck(process, lines))

    def _kill_stuck(self, process: WorkerProcess, lines: int) -> None:
        if process.error_lines == lines:
            _log.error(
                "Worker {number} (pid {pid}) gives no stacks: it is stopped (SIGSTOP), or waits in "
                "the kernel",
                number=process.number,
                pid=process.pid,
            )
        process.kill()


class SharedSocket(Factory[Any]):
    """What the first process has on a port: connections come in the workers."""

    noisy = False


def rest_seconds(failures: int) -> float:
    """How long a worker rests that has failed so often in a row: 0, 1, 2, 4 and so on."""
    return 0.0 if failures < 2 else min(MOST_REST_SECONDS, 2.0 ** min(failures - 2, 10))


def rest_text(failures: int) -> str:
    """The same for people."""
    rest = rest_seconds(failures)
    return f"; the next one starts in {rest:g} s" if rest else "; the next one starts now"


def _why(process: WorkerProcess) -> str:
    """Why *process* has ended without being asked to, in one line."""
    cause = process.cause
    if process.stuck:
        cause += ", because it was stuck"
    elif cause == "SIGKILL" and not process.killed:
        cause += ", perhaps out of memory"
    if process.ended_in is Stage.SERVING:
        return f"has ended after {_duration(process.seconds)} of serving: {cause}"
    lines = [line for line in process.last_lines if line.strip()]
    if process.late:
        cause = "it took too long"
    elif lines and cause.startswith("exit"):
        cause += f": {visible(lines[-1].decode('utf-8', 'replace'))}"
    return f"has ended in its start, after {_duration(process.seconds)}: {cause}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
