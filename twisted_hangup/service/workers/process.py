"""One worker process, as the first process sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.python.failure import Failure

from ...limits import KIB
from ...transport.clock import steady
from .channel import Channel
from .plan import BLOCKED_SIGNALS, CHANNEL_DESCRIPTOR, FIRST_SOCKET, TABLE_DESCRIPTOR, Plan
from .table import Row

#: A longer line of a worker's output is cut in pieces, each of which but the last ends with `CUT`.
MOST_LINE_BYTES: Final = 64 * KIB
CUT: Final = b" ..."

#: How many of its last lines are kept for the case that it fails.
KEPT_LINES: Final = 20

#: How long the pipes of a dead worker are read on; a process that it started may hold them.
PIPES_SECONDS: Final = 0.5

#: What systemd says to the first process alone.
_SYSTEMDS: Final = ("NOTIFY_", "WATCHDOG_", "LISTEN_")


class Stage(IntEnum):
    """The life of a worker, which only goes on."""

    BOOTING = 0
    SERVING = 1
    DRAINING = 2
    GONE = 3


class Supervisor(Protocol):
    """What a `WorkerProcess` tells about itself."""

    def received(self, process: WorkerProcess, kind: int, payload: bytes) -> None: ...
    def printed(self, process: WorkerProcess, descriptor: int, line: bytes) -> None: ...
    def ended(self, process: WorkerProcess) -> None: ...


class Lines:
    """Cuts a stream of bytes into lines, without their ends, and long ones in pieces."""

    def __init__(self, line: Callable[[bytes], object]) -> None:
        self._line = line
        self._rest = b""

    def receive(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(self._cut(line))
        self._rest = self._cut(self._rest)

    def close(self) -> None:
        """The last line has no end."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _cut(self, line: bytes) -> bytes:
        """The last piece of *line*; the others are passed on."""
        while len(line) > MOST_LINE_BYTES:
            self._line(line[:MOST_LINE_BYTES] + CUT)
            line = line[MOST_LINE_BYTES:]
        return line


class WorkerProcess(ProcessProtocol):
    """One worker process.

    Attributes:
        number: The worker's.
        generation: How many replacements of all workers came before it.
        row: Its row in the table.
        stage: How far its life is.
        pid: Its process id.
        channel: Frames to it.
        ready: Fires once with whether it serves, or with False when it ends before that.
        since: When it was started; once it serves, when that began.
        cause: Why it ended, for people, such as ``exit status 1`` or ``SIGKILL``.
        ended_in: The stage in which it ended.
        killed: Whether we killed it.
        late: Whether it ended because it took too long to start.
        stuck: Whether it is killed because it was stuck.
        lost_frames: How many frames it had to drop, as far as it has told.
        last_lines: The last lines on its standard error.
        error_lines: How many lines its standard error has had in all.
    """

    def __init__(
        self, plan: Plan, generation: int, row: Row, reactor: Any, owner: Supervisor
    ) -> None:
        self.number = plan.number
        self.generation = generation
        self.row = row
        self.stage = Stage.BOOTING
        self.pid = 0
        self.ready: Deferred[bool] = Deferred()
        self._clock: Any = steady(reactor)
        self.since: float = self._clock.seconds()
        self.cause = ""
        self.ended_in = Stage.BOOTING
        self.killed = False
        self.late = False
        self.stuck = False
        self.lost_frames = 0
        self.last_lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self.error_lines = 0
        self.channel = Channel(lambda kind, payload: owner.received(self, kind, payload))
        self._plan = plan
        self._reactor = reactor
        self._owner = owner
        self._lines = {1: Lines(self._output_line), 2: Lines(self._error_line)}
        self._timers: list[IDelayedCall] = []

    def start(self, table: int, sockets: Sequence[int]) -> None:
        """Start the process, with these descriptors.

        Raises:
            OSError: The system refuses.
        """
        _stay_in(self._plan.directory)
        program = [sys.executable, *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]
        with ExitStack() as stack:
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            null = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, null)
            descriptors: dict[int, Any] = {
                0: null,
                1: "r",
                2: "r",
                CHANNEL_DESCRIPTOR: theirs.fileno(),
                TABLE_DESCRIPTOR: table,
                **dict(enumerate(sockets, FIRST_SOCKET)),
            }
            ours.setblocking(False)
            factory = Factory.forProtocol(lambda: self.channel)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
            # The mask is inherited.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
            try:
                self._reactor.spawnProcess(
                    self,
                    program[0],
                    [*program, "-m", "twisted_hangup._worker", str(self._plan)],
                    environment(os.environ, self._plan.directory),
                    # Python searches the directory that it starts in before its own library.
                    "/",
                    childFDs=descriptors,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call *function* later, unless the process has gone by then."""
        self._timers.append(self._clock.callLater(seconds, function))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.stage is not Stage.GONE:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.killed = True
        self.signal(signal.SIGKILL)

    @property
    def seconds(self) -> float:
        """How long it has been serving, or starting."""
        return float(self._clock.seconds()) - self.since

    def served(self) -> None:
        """It serves from now on."""
        self.stage = Stage.SERVING
        self.since = self._clock.seconds()
        self.ready.callback(True)

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.pid = self.transport.pid

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._lines[childFD].receive(data)

    def processExited(self, reason: Failure) -> None:
        """The process has gone; what it has written may still come."""
        was, self.stage = self.stage, Stage.GONE
        boot_ends = self._plan.boot_ends
        self.late = was is Stage.BOOTING and 0 < boot_ends <= time.monotonic()
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self.cause = _cause(reason.value)
        self.ended_in = was
        assert self.transport is not None
        self._pipes = self._clock.callLater(PIPES_SECONDS, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._pipes.active():
            self._pipes.cancel()
        for lines in self._lines.values():
            lines.close()
        # Its last frames may still come.
        self.channel.closed.addTimeout(PIPES_SECONDS, self._clock)
        self.channel.closed.addBoth(self._cb_ended)

    def _cb_ended(self, _: object) -> None:
        self.channel.close()
        if self.ended_in is Stage.BOOTING:
            self.ready.callback(False)
        self._owner.ended(self)

    def _output_line(self, line: bytes) -> None:
        self._owner.printed(self, 1, line)

    def _error_line(self, line: bytes) -> None:
        self.last_lines.append(line)
        self.error_lines += 1
        self._owner.printed(self, 2, line)


def _stay_in(directory: str) -> None:
    """Go to *directory* if the working directory has been removed; Twisted asks for its name.

    That is the fate of an old release.  By its name *directory* may be the new one.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        os.chdir(directory)


def _cause(error: Any) -> str:
    """Why a process ended, from Twisted's *error*."""
    if error.signal is None:
        return f"exit status {error.exitCode}"
    with suppress(ValueError):
        return signal.Signals(error.signal).name
    return f"signal {error.signal}"


def environment(ours: Mapping[str, str], directory: str) -> dict[str, str]:
    """The environment of a worker that is to work in *directory*."""
    theirs = {name: value for name, value in ours.items() if not name.startswith(_SYSTEMDS)}
    if "PYTHONPATH" in ours:
        paths = [os.path.join(directory, path) for path in ours["PYTHONPATH"].split(os.pathsep)]
        theirs["PYTHONPATH"] = os.pathsep.join(paths)
    return {**theirs, "PWD": directory}


def working_directory() -> str:
    """The current directory, by the name that the shell has for it.

    A symbolic link in it, such as ``current``, may lead elsewhere by the time of a replacement.
    """
    shells = os.environ.get("PWD", "")
    try:
        if os.path.isabs(shells) and Path(shells).samefile("."):
            return shells
    except OSError:
        pass
    return os.getcwd()
