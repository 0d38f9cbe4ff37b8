"""What could keep the program: its standard output, its threads, and what outlives its end."""

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

#: What there is of these seconds for the last words of a program that has to be ended.
FAREWELL_SECONDS: Final = 0.5

_log = Logger()


class StandardOutput(LogFile):
    """The standard output of the program, which waits for no reader.

    Twisted's log goes there, print(), and a log whose file is ``-``.
    """

    def __init__(self) -> None:
        self._file = FileIO(os.dup(1), "wb", closefd=False)
        super().__init__(self._file, "standard output")
        self._taken_over = False

    def take_over(self) -> None:
        """Let all that is written to file descriptor 1 come this way, if that may block."""
        if may_block(self._file):
            self._taken_over = True
            writer = self.intake()
            os.dup2(writer, 1)
            os.close(writer)

    def close(self) -> None:
        """Give file descriptor 1 back to whoever still writes; not where that would block."""
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
        if isfunction(rotate):  # twistd's, which alone knows the file
            file = getclosurevars(rotate).nonlocals.get("logFile")
        self._file: Any = None if file in (sys.__stdout__, sys.__stderr__) else file

    def reopen(self) -> None:
        """Go on at the path of the file, where it names another one by now.

        Twisted would rename the file as well.  Where logrotate has just done so, one name would
        be given twice, and one of the two logs be lost.
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
        # Threads write there, too: there is no moment without a file.
        os.dup2(descriptor, stream.fileno(), inheritable=False)
        if is_rotating:
            file.size = os.fstat(descriptor).st_size
        os.close(descriptor)


def lost_terminal() -> bool:
    """Whether there is no terminal that controls this process, though there could be one."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        return error.errno in (errno.ENXIO, errno.EIO)
    return False


class _DaemonThread(Thread):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, daemon=True, **kwargs)


class DaemonThreads(ThreadPool):
    """Threads that keep no process: nobody waits for what they still do at its end.

    Twisted's own are joined by the interpreter, however long that takes.  There are none
    before the first call, since a daemon has forked by then.
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
    """End the process before so many *seconds* have passed, whatever it is doing then.

    It may be called in a signal handler, and again for an earlier end.

    Args:
        farewell: Called before that in a thread of its own, for `FAREWELL_SECONDS` at most.
    """
    # Not a Thread: a handler may have interrupted the start of one, which holds a lock.
    _thread.start_new_thread(_end, (seconds, farewell))


def _end(seconds: float, farewell: Callable[[], object]) -> None:
    sleep(min(max(0, seconds - FAREWELL_SECONDS), TIMEOUT_MAX))
    thread = Thread(target=farewell, daemon=True)
    thread.start()
    thread.join(FAREWELL_SECONDS)
    os._exit(0)
