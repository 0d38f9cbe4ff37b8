"""`LogFile`: where the lines of all logs go.  A slow reader of a log makes nobody wait.

A regular file takes a line at once.  A pipe, a FIFO, a terminal or a socket takes none while nobody
reads, perhaps for hours.  Its lines wait in a queue with a bound, and a thread writes them.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import deque
from collections.abc import Callable
from io import FileIO, TextIOBase
from itertools import islice
from selectors import EVENT_WRITE, DefaultSelector
from threading import Condition, Lock, Thread
from time import monotonic
from typing import BinaryIO, Final, TypeAlias

from twisted.logger import Logger

from .._arguments import must_have
from ..limits import KIB, MIB
from ..report.text import visible

#: Most bytes of lines that wait for a slow reader: some 8,000 lines of an access log.
QUEUE_BYTES: Final = MIB

#: How long a log may take at its close to write the lines that wait; and for how long its reader
#: may take no line meanwhile.
FLUSH_SECONDS: Final = 1.0
STALL_SECONDS: Final = 0.25

#: That a log cannot be written is logged at most once in this many seconds.
QUIET_SECONDS: Final = 1.0

#: How much an intake reads at a time; also the longest line without a line end.
_INTAKE_BYTES: Final = 64 * KIB

#: The least that POSIX promises.  Windows has neither this name nor the next one.
PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)
_WITHOUT_WAITING: Final = getattr(os, "O_NONBLOCK", 0)

_log = Logger()

Path: TypeAlias = str | os.PathLike[str]


def may_block(file: BinaryIO) -> bool:
    """Whether writing to *file* may wait for its reader."""
    try:
        descriptor = file.fileno()
    except (AttributeError, OSError):  # it is in memory
        return False
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def is_at(path: Path, file: BinaryIO) -> bool:
    """Whether *path* names *file*; False if that is unknown."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


class LogFile:
    """A file of whole lines.  Writing to it never raises, and never takes time.

    Lines that cannot be written are dropped and counted; Twisted's log says when that begins and
    ends.  Several processes may append to one file.

    Attributes:
        name: The operator's name for it, such as ``"access log"``.
        lost_lines: How many lines could not be written.
    """

    def __init__(
        self,
        file: Path | BinaryIO,
        name: str,
        *,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        """
        Args:
            file: A path, to append to, also of a FIFO that nobody reads yet; or a binary file,
                which `close` leaves open.
            name: The operator's name for it.
            seconds: Returns monotonic time.

        Raises:
            OSError: The path cannot be appended to.
            TypeError: *file* is neither a path nor a binary file.
        """
        if not isinstance(file, (str, os.PathLike)):
            must_have("file", file, "a path, or a file that takes bytes", ("write", "flush"))
            if isinstance(file, TextIOBase):
                words = "file must take bytes, and this one takes text"
                raise TypeError(f"{words}: open it with mode 'ab'")
        self.name = name
        self.lost_lines = 0
        self._seconds = seconds
        self._path: Path | None = None
        self._output: _Direct | _Queue | None
        if isinstance(file, (str, os.PathLike)):
            self._path = os.path.abspath(file)  # a daemon may change its directory
            self._output = self._opened(self._path)
        else:
            self._output = self._output_for(file)
        self._intakes: list[Thread] = []
        self._lock = Lock()  # for the attributes below: a queue's thread counts, too
        self._failing = False
        self._reported_lines = 0
        self._quiet_until = -QUIET_SECONDS

    def write(self, lines: bytes) -> None:
        """Append one or more lines, with their line ends: all of them or none.

        A regular file has them when this returns.
        """
        output = self._output
        try:
            if output is not None:
                output.write(lines)
        except Exception as error:  # a file of the caller's may raise anything
            self.lose(error, lines.count(b"\n"))
        else:
            if isinstance(output, _Direct):
                self.wrote()

    def intake(self) -> int:
        """A file descriptor for another process, or for this one's standard output.

        Each line that is written to it goes to this file, as if by `write`.  The writer never waits
        for the log's reader.  It ends when the last copy of the descriptor is closed.
        """
        reader, writer = os.pipe()
        thread = Thread(target=self._take_in, args=(reader,), daemon=True)
        thread.start()
        self._intakes.append(thread)
        return writer

    @property
    def descriptor(self) -> int | None:
        """The descriptor of a file that other processes may append to as well.

        None if the file has no path, or if writing to it may block.
        """
        output = self._output
        if isinstance(output, _Direct) and self._path is not None:
            return output.fileno()
        return None

    def go_on_in(self, file: BinaryIO, *, is_shared: bool = False) -> None:
        """Write to *file* from now on, which never blocks and is closed with this log.

        Args:
            is_shared: Whether other processes append to it, too.
        """
        old, self._output = self._output, _Direct(file, True, is_shared)
        if old is not None:
            old.close()

    def reopen(self) -> None:
        """Open the path again if it names another file now, after a rotation."""
        old, path = self._output, self._path
        if old is None or path is None or old.is_at(path):
            return
        try:
            self._output = self._opened(path)
        except OSError as error:
            self.stay(error)
        else:
            old.close()

    def stay(self, error: OSError) -> None:
        """Go on in the old file, because of *error*, which is logged."""
        _log.error(
            "Cannot reopen the {name}: {error}; it goes on in the old file",
            name=self.name,
            error=visible(str(error)),
        )

    def close(self) -> None:
        """Write what waits, for at most `FLUSH_SECONDS`, and close; twice is harmless."""
        for thread in self._intakes:
            thread.join(STALL_SECONDS)
        output, self._output = self._output, None
        if output is not None:
            left = output.flush()
            output.close()
            with self._lock:
                self.lost_lines += left
        if self.lost_lines != self._reported_lines:
            self._tell_all("The {name} is closed; {lost} lines are lost")

    def flush(self) -> bool:
        """Write what waits, for at most `FLUSH_SECONDS`; returns whether all was written."""
        return self._output is None or not self._output.flush()

    def lose(self, error: Exception, lines: int = 1) -> None:
        """Count lines that cannot be written because of *error*, and log the first of them."""
        with self._lock:
            self.lost_lines += lines
            now = self._seconds()
            if self._failing or now < self._quiet_until:
                return
            self._failing = True
            self._quiet_until = now + QUIET_SECONDS
        # A failing disk raises OSError, which is no bug; anything else gets its traceback.
        log = _log.error if isinstance(error, OSError) else _log.failure
        log(
            "Cannot write the {name}: {error}; lines are dropped until it works again",
            name=self.name,
            error=visible(str(error)),
        )

    def wrote(self) -> None:
        """A line was written and none waits: if lines were lost before, log the end of that."""
        if not self._failing and self.lost_lines == self._reported_lines:
            return
        with self._lock:
            if not self._failing and self._seconds() < self._quiet_until:
                return
            self._failing = False
        self._tell_all("The {name} works again; {lost} lines are lost")

    def _tell_all(self, text: str) -> None:
        self._reported_lines = self.lost_lines
        _log.warn(text, name=self.name, lost=self.lost_lines)

    def _opened(self, path: Path) -> _Direct | _Queue:
        """Open the file at *path*, without waiting for the reader of a FIFO."""
        try:
            file = FileIO(path, "ab", opener=_open_without_waiting)
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                raise
            return _Queue(self, None, path)
        return self._output_for(file)

    def _output_for(self, file: BinaryIO) -> _Direct | _Queue:
        is_ours = self._path is not None
        if may_block(file):
            return _Queue(self, _Patient(file, is_ours), self._path)
        return _Direct(file, is_ours)

    def _take_in(self, reader: int) -> None:
        """Pass on what comes through a pipe, in a thread of its own."""
        rest = b""
        with open(reader, "rb", buffering=0) as pipe:
            while data := pipe.read(_INTAKE_BYTES):
                lines, end, rest = (rest + data).rpartition(b"\n")
                if len(rest) > _INTAKE_BYTES:
                    lines, end, rest = lines + end + rest, b"\n", b""
                self._pass_on(lines + end)
        if rest:
            self._pass_on(rest + b"\n")

    def _pass_on(self, lines: bytes) -> None:
        output = self._output
        try:
            if output is not None:
                output.write(lines)
        except Exception:
            # Counted here, and logged later: the line about it might go into the log that this
            # thread reads.
            with self._lock:
                self.lost_lines += lines.count(b"\n")


def _open_without_waiting(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | _WITHOUT_WAITING, 0o666)
    if _WITHOUT_WAITING:
        os.set_blocking(descriptor, True)
    return descriptor


class _Direct:
    """A file that takes lines in the caller's own turn."""

    def __init__(self, file: BinaryIO, is_ours: bool, is_shared: bool = False) -> None:
        self._file = file
        self._is_ours = is_ours
        self._is_shared = is_shared
        self._torn = False

    def write(self, lines: bytes) -> None:
        """Write *lines*, in as many pieces as the file needs.

        Raises:
            OSError: Not all of it could be written; the next line starts a new one.
        """
        # A full disk takes half a line, perhaps one of another process; no line must continue it.
        rest = b"\n" + lines if self._torn else lines
        self._torn |= self._is_shared
        while rest:
            taken = self._file.write(rest)
            if not taken and not self._wait():
                raise BlockingIOError("the file takes no more now")
            rest = rest[taken or 0 :]
            self._torn = rest != b""
        self._file.flush()

    def _wait(self) -> bool:
        """Wait for room, if this file may; returns whether it has waited."""
        return False

    def is_at(self, path: Path) -> bool:
        """Whether *path* names this file."""
        return is_at(path, self._file)

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> int:
        """How many lines wait: none."""
        return 0

    def close(self) -> None:
        """Close the file if it was opened here."""
        if self._is_ours:
            self._file.close()


class _Patient(_Direct):
    """A file that waits for its reader, even if another process has set it not to block."""

    def _wait(self) -> bool:
        with DefaultSelector() as selector:
            selector.register(self._file, EVENT_WRITE)
            selector.select()
        return True


class _Queue:
    """A file that may wait for its reader, with the thread that waits.

    The thread starts with the first line: by then a daemon has forked.  It does not keep the
    process alive.
    """

    def __init__(self, owner: LogFile, file: _Direct | None, fifo: Path | None) -> None:
        """*file* is None if nobody reads *fifo* yet; *fifo* is None if it is not a FIFO."""
        self._owner = owner
        self._file = file
        self._fifo = fifo
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = Condition()
        self._thread: Thread | None = None

    def write(self, lines: bytes) -> None:
        """Queue *lines*.

        Raises:
            OSError: There is no room for them.
        """
        with self._changed:
            if self._bytes + len(lines) > QUEUE_BYTES:
                raise BlockingIOError("its reader is too slow")
            self._bytes += len(lines)
            self._lines.append(lines)
            if len(self._lines) == 1:
                self._changed.notify_all()
            if self._thread is None:
                self._thread = Thread(target=self._run, daemon=True)
                self._thread.start()

    def is_at(self, path: Path) -> bool:
        """Whether *path* names this file, or will when there is a reader."""
        return self._file is None or self._file.is_at(path)

    def flush(self) -> int:
        """Write what waits, for at most `FLUSH_SECONDS`; returns how many lines were not."""
        ends = monotonic() + FLUSH_SECONDS
        with self._changed:
            while self._lines and monotonic() < ends and self._changed.wait(STALL_SECONDS):
                pass
            return sum(lines.count(b"\n") for lines in self._lines)

    def close(self) -> None:
        """Close the file once the lines that wait are written, without waiting for that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is None and self._file is not None:
            self._file.close()

    def _run(self) -> None:
        while first := self._next():
            lines = b"".join(first)
            try:
                self._write(lines)
            except Exception as error:
                self._owner.lose(error, lines.count(b"\n"))
            with self._changed:
                self._bytes -= len(lines)
                for _ in first:
                    self._lines.popleft()
                self._changed.notify_all()
                empty = not self._lines
            if empty:
                self._owner.wrote()
        if self._file is not None:
            self._file.close()

    def _next(self) -> list[bytes]:
        """Wait for the first lines of the queue; nothing once it is closed and empty.

        It returns as much as a pipe takes in one piece, even if others write to the pipe.
        """
        with self._changed:
            while not (self._lines or self._closed):
                self._changed.wait()
            length = 0
            first = list(islice(self._lines, 1))
            for lines in islice(self._lines, 1, None):
                length += len(lines)
                if length + len(first[0]) > PIPE_BUF:
                    break
                first.append(lines)
            return first

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            assert self._fifo is not None
            self._file = _Patient(FileIO(self._fifo, "ab"), True)  # waits for a reader
        try:
            self._file.write(lines)
        except BrokenPipeError:
            if self._fifo is not None:  # its reader has gone, and another may come
                self._file.close()
                self._file = None
            raise
