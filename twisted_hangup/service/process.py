"""The program around a service, and what could keep it alive: its standard output, its threads."""

from __future__ import annotations

import _thread
import atexit
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import getclosurevars, isfunction
from io import FileIO
from threading import TIMEOUT_MAX, Thread
from time import sleep
from typing import Any, Final, NoReturn

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.logfile import LogFile as RotatingFile
from twisted.python.threadpool import ThreadPool

from ..journal.files import LogFile, is_at, may_block
from ..report.text import visible
from ..transport.clock import steady
from .systemd import ALIVE, READY, STOPPING, notify, watchdog_seconds

#: How long the end may take after the grace; then the process is ended, whatever it does.
END_SECONDS: Final = 1.0

#: How many of these seconds are left for the last log lines of a program that has to be ended.
FAREWELL_SECONDS: Final = 0.5

_log = Logger()


class StandardOutput(LogFile):
    """The standard output of the program, which waits for no reader.

    Twisted's log, print(), and logs whose file is ``-`` go there.
    """

    def __init__(self) -> None:
        self._file = FileIO(os.dup(1), "wb", closefd=False)
        super().__init__(self._file, "standard output")
        self._taken_over = False

    def take_over(self) -> None:
        """Take over file descriptor 1 if writing to it may block."""
        if may_block(self._file):
            self._taken_over = True
            writer = self.intake()
            os.dup2(writer, 1)
            os.close(writer)

    def close(self) -> None:
        """Give file descriptor 1 back, unless that would block."""
        if self._taken_over and self.flush():
            self._taken_over = False
            os.dup2(self._file.fileno(), 1)
        if not self._taken_over:
            super().close()


class TwistedLog:
    """The file of Twisted's own log: that of ``twistd --logfile`` or ``twist --log-file``."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """*settings* are the options of ``twistd`` or ``twist``; the log has begun."""
        file = settings.get("logFile")
        rotate = signal.getsignal(signal.SIGUSR1)
        if isfunction(rotate):  # twistd's, which holds the file
            file = getclosurevars(rotate).nonlocals.get("logFile")
        self._file: Any = None if file in (sys.__stdout__, sys.__stderr__) else file

    def reopen(self) -> None:
        """Open the log's path again if it names another file now.

        Twisted would also rename the file.  If logrotate has just done so, one name would be used
        twice, and one of the two logs would be lost.
        """
        file = self._file
        if file is None:
            return
        is_rotating = isinstance(file, RotatingFile)
        path, stream = (file.path, file._file) if is_rotating else (file.name, file)
        try:
            if is_at(path, stream):
                return
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            _log.error("Cannot reopen Twisted's log: {error}", error=visible(str(error)))
            return
        # Threads write there, too: the log always has a file.
        os.dup2(descriptor, stream.fileno(), inheritable=False)
        if is_rotating:
            file.size = os.fstat(descriptor).st_size
        os.close(descriptor)


def lost_terminal() -> bool:
    """Whether the process has lost its controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        return error.errno in (errno.ENXIO, errno.EIO)
    return False


class Program:
    """The program of ``twistd`` or ``twist`` that runs one service: its signals, and its end.

    Call `take_reloads` before there are clients, `take_ends` once the reactor runs, and
    `stop` when the service stops.

    Attributes:
        ends: Whether the end has begun.
        on_terminal: Whether a terminal controls the program.
    """

    def __init__(
        self,
        settings: MutableMapping[str, Any],
        reactor: Any,
        logs: Sequence[LogFile],
        *,
        grace_seconds: float,
        end_now: Callable[[], object],
        last_words: str,
        finish: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            settings: The options of ``twistd`` or ``twist`` itself.
            reactor: It runs the service.
            logs: They are reopened, and closed in an end that could not wait.
            grace_seconds: How long the service may take to stop.
            end_now: Called, in the reactor's thread, if a second signal asks for the end.
            last_words: Logged if the program has to be ended.
            finish: Called at the first signal, as `finish_first` does.
        """
        self.ends = False
        self.on_terminal = False
        self._logs = logs
        self._settings = settings
        self._reactor = reactor
        self._grace_seconds = grace_seconds
        self._end_now = end_now
        self._finish = finish
        self._text = last_words
        self._status_pipe: int | None = None

    def take_reloads(self, reopen: Callable[[], object], reload: Callable[[], object]) -> None:
        """From now on SIGUSR1 calls *reopen* and SIGHUP calls *reload*, in the reactor's thread.

        A SIGHUP that reports (perhaps repeatedly) a lost terminal is an end.
        """
        self._twisted_log = TwistedLog(self._settings)
        self.on_terminal = not lost_terminal()
        for number, answer in (
            (signal.SIGUSR1, partial(self._asked, reopen)),
            (signal.SIGHUP, partial(self._hung_up, reload)),
        ):
            # `nohup` is obeyed.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, answer)

    def take_ends(self) -> None:
        """From now on a signal ends the program in any case; Twisted has taken the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, partial(self._signalled, handler))

    def ready(self, is_alive: Callable[[], bool] = lambda: True) -> Callable[[], object]:
        """Tell systemd that the service is ready, and in time that it is alive.

        Returns:
            A function that ends it.
        """
        notify(READY)
        seconds = watchdog_seconds()
        if not seconds:
            return lambda: None
        watchdog = LoopingCall(lambda: notify(ALIVE) if is_alive() else None)
        watchdog.clock = steady(self._reactor)
        watchdog.start(seconds / 2)
        return watchdog.stop

    def stop(self) -> None:
        """End the process after the grace and `END_SECONDS`, whatever it does; systemd hears it."""
        self._end_in_time()
        notify(STOPPING)

    def reopen_logs(self) -> None:
        """Go on in new files if the logs have been renamed."""
        self._twisted_log.reopen()
        for log in self._logs:
            log.reopen()
        _log.info("The logs are reopened")

    def close_logs(self) -> None:
        for log in self._logs:
            log.close()

    def refuse(self, problem: str) -> NoReturn:
        """End a program that has started already, with one line and status 1.

        For an exception twistd would print a traceback.  For SystemExit it would leave the
        terminal that started a daemon waiting, and the pid file undeleted.
        """
        self.report_later()
        if self._status_pipe is not None:
            _log.critical("{problem}", problem=problem)
            self.report(problem)
        else:
            # Not sys.stderr: twistd has made that a part of its log.
            print(f"hangup: {problem}", file=sys.__stderr__)
        self._remove_pid_file()
        raise SystemExit(1)

    def fail(self, problem: str) -> None:
        """Stop a program that runs, with one line and status 1."""
        _log.critical("{problem}", problem=problem)
        print(f"hangup: {problem}", file=sys.__stderr__)
        # Neither twistd nor twist asks for a status; the last function is called first.
        atexit.register(_exit_with_failure)
        self.report(problem)
        self._reactor.stop()

    def report_later(self) -> None:
        """Let the shell that starts a daemon wait for `report`, and not for startService alone."""
        if self._settings.get("statusPipe") is not None:
            self._status_pipe = self._settings["statusPipe"]
            self._settings["statusPipe"] = None

    def report(self, problem: str = "") -> None:
        """Tell this shell that the daemon has started, or why it has not.

        A second call, or one for another program than a daemon, is harmless.
        """
        pipe, self._status_pipe = self._status_pipe, None
        if pipe is not None:
            with suppress(OSError):  # the shell waits no longer
                # twistd prints what comes after two bytes, of 100.
                os.write(pipe, b"1 " + problem.encode("ascii", "replace")[:98] if problem else b"0")
            os.close(pipe)

    def _asked(self, answer: Callable[[], object], number: int, frame: object) -> None:
        self._reactor.callFromThread(answer)

    def _hung_up(self, reload: Callable[[], object], number: int, frame: object) -> None:
        if not (self.on_terminal and lost_terminal()):
            self._reactor.callFromThread(reload)
        elif not self.ends:
            signal.raise_signal(signal.SIGTERM)

    def _signalled(self, handler: Callable[..., object], number: int, frame: object) -> None:
        """The first signal finishes, and then Twisted handles it; the next one ends the wait.

        For a second signal Twisted logs a traceback and goes on waiting.
        """
        if self.ends:
            end_within(END_SECONDS, self._last_words)
            self._reactor.callFromThread(self._end_now)
        else:
            self._end_in_time()
            finish_first(self._reactor, self._finish, partial(handler, number, frame))

    def _end_in_time(self) -> None:
        if not self.ends:
            self.ends = True
            end_within(self._grace_seconds + END_SECONDS, self._last_words)

    def _last_words(self) -> None:
        """Log the last line, in a thread, because the reactor may be blocked."""
        self._remove_pid_file()
        _log.warn("{text}", text=self._text)
        self.close_logs()

    def _remove_pid_file(self) -> None:
        if self._settings.get("pidfile"):
            with suppress(OSError):
                os.remove(self._settings["pidfile"])


def _exit_with_failure() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)


class _DaemonThread(Thread):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, daemon=True, **kwargs)


class DaemonThreads(ThreadPool):
    """Threads that do not keep the process alive: nobody waits for them at its end.

    The interpreter joins Twisted's own threads, however long that takes.  There are none before the
    first call, because a daemon has forked by then.
    """

    threadFactory = _DaemonThread

    def __init__(self, most: int, name: str) -> None:
        super().__init__(0, most, name)
        self.start()

    def stop(self) -> None:
        """Begin no further call."""
        self.joined = True
        self.started = False
        self._team.quit()


def finish_first(
    reactor: Any, finish: Callable[[], object], stop_reactor: Callable[[], object]
) -> None:
    """Call *finish*, which may return a Deferred, and then *stop_reactor*, if nobody else did.

    So what an application does at the reactor's shutdown, it does when no request runs any more.
    This may be called in a signal handler.
    """

    def begin() -> None:
        stops: list[None] = []
        reactor.addSystemEventTrigger("before", "shutdown", stops.append, None)
        maybeDeferred(finish).addCallback(lambda _: stops or stop_reactor())

    # As a timed call: the ports that it closes are closed a turn later, and what clients have sent
    # by then is read before it is seen which of their connections are idle.
    reactor.callFromThread(reactor.callLater, 0, begin)


def once(stop: Callable[[], object]) -> Callable[[], Deferred[None]]:
    """*stop* for several callers: the first one begins it.

    Args:
        stop: May return a Deferred.  If it fails, that is logged.

    Returns:
        A function whose Deferreds fire with None when *stop* is over.
    """
    over: Deferred[Any] | None = None

    def begin() -> Deferred[None]:
        nonlocal over
        if over is None:
            over = maybeDeferred(stop)
            over.addErrback(
                lambda failure: _log.failure("Stopping the service has failed", failure)
            )
        ended: Deferred[None] = Deferred()
        over.addCallback(lambda _: ended.callback(None))
        return ended

    return begin


def end_within(seconds: float, farewell: Callable[[], object]) -> None:
    """End the process within this many *seconds*, whatever it is doing then.

    It may be called in a signal handler, and again for an earlier end.

    Args:
        farewell: Called before that, in a thread of its own, for at most `FAREWELL_SECONDS`.
    """
    # Not a Thread: a handler may have interrupted the start of one, which holds a lock.
    _thread.start_new_thread(_end, (seconds, farewell))


def _end(seconds: float, farewell: Callable[[], object]) -> None:
    sleep(min(max(0, seconds - FAREWELL_SECONDS), TIMEOUT_MAX))
    thread = Thread(target=farewell, daemon=True)
    thread.start()
    thread.join(FAREWELL_SECONDS)
    os._exit(0)
