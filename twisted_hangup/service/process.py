"""The parts of the process that could keep it alive: its standard output and its threads."""

from __future__ import annotations

import _thread
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping
from inspect import getclosurevars, isfunction
from io import FileIO
from threading import TIMEOUT_MAX, Thread
from time import sleep
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.logfile import LogFile as RotatingFile
from twisted.python.threadpool import ThreadPool

from ..journal.files import LogFile, is_at, may_block
from ..report.text import visible

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
