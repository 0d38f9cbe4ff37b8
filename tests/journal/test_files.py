"""Log files: whole lines, whoever writes them, and nobody waits for who reads them."""

from __future__ import annotations

import errno
import os
import re
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from threading import active_count
from typing import Any

import pytest
from support.processes import running
from support.wire import PATIENCE, wait_for
from twisted.logger import LogEvent, capturedLogs, formatEvent

from twisted_hangup.journal.files import QUEUE_BYTES, LogFile

LINE = b"a line\n"


@pytest.fixture
def events() -> Iterator[Sequence[LogEvent]]:
    """What is logged meanwhile, as no error of the test's."""
    with capturedLogs() as events:
        yield events


def texts(events: Sequence[LogEvent]) -> list[str]:
    return [formatEvent(event) for event in events]


class Disk(BytesIO):
    """A disk with so much room, which takes nine bytes at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: Any, /) -> Any:
        taken = min(len(data), 9, self.room)
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= taken
        return super().write(data[:taken])


# A file that takes lines at once.


def test_short_writes(expected_errors: Any) -> None:
    """What the file did not take is offered again; half a line has no other glued to it."""
    disk = Disk(1000)
    log = LogFile(disk, "access log")
    whole = b"a line that takes three writes\n"
    for disk.room in (1000, 20, 1000):
        log.write(whole)
    assert disk.getvalue() == whole + whole[:20] + b"\n" + whole
    assert log.lost_lines == 1
    assert len(expected_errors.flush()) == 1


def test_full_disk_of_several_processes(expected_errors: Any) -> None:
    """One writes half a line, and no other process's next line is glued to it."""
    disk = Disk(1000)
    logs = [LogFile(BytesIO(), "access log") for _ in range(2)]
    for log in logs:
        log.go_on_in(disk, is_shared=True)
    logs[0].write(LINE)
    disk.room = 3
    for log in logs:
        log.write(LINE)
    disk.room = 1000
    logs[1].write(LINE)
    logs[1].write(LINE)
    assert disk.getvalue() == LINE + LINE[:3] + b"\n" + LINE * 2
    expected_errors.flush()


def test_full_disk_is_told(events: Sequence[LogEvent], expected_errors: Any) -> None:
    """That lines are lost is told when it begins and when it is over, with their number."""
    disk = Disk(0)
    log = LogFile(disk, "access log")
    for _ in range(3):
        log.write(LINE)
    disk.room = 1000
    log.write(LINE)
    log.write(LINE)
    log.close()
    assert texts(events) == [
        "Cannot write the access log: [Errno 28] No space left on device; "
        "lines are dropped until it works again",
        "The access log works again; 3 lines are lost",
    ]
    expected_errors.flush()


def test_flapping_disk_is_told_of_once_a_second(
    events: Sequence[LogEvent], expected_errors: Any
) -> None:
    """A disk that is full every other moment fills no other log, and all is counted."""
    disk, now = Disk(0), [0.0]
    log = LogFile(disk, "access log", seconds=lambda: now[0])
    for number in range(1000):
        disk.room = 0
        log.write(LINE)
        disk.room = 1000
        log.write(LINE)
        now[0] = number // 500
    assert len(events) <= 4
    log.close()
    assert texts(events)[-1] == "The access log is closed; 1000 lines are lost"
    expected_errors.flush()


def test_reopened_where_it_was_renamed(tmp_path: Path) -> None:
    """After a rotation lines go to the new file; without one nothing changes."""
    path = tmp_path / "log"
    log = LogFile(path, "access log")
    log.write(b"1\n")
    log.reopen()
    log.write(b"2\n")
    path.rename(tmp_path / "old")
    log.write(b"3\n")
    log.reopen()
    log.write(b"4\n")
    log.close()
    assert (tmp_path / "old").read_bytes() == b"1\n2\n3\n"
    assert path.read_bytes() == b"4\n"


def test_cannot_be_reopened(
    tmp_path: Path, events: Sequence[LogEvent], expected_errors: Any
) -> None:
    """The old file is better than none, and somebody has to be told."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = LogFile(folder / "log", "error log")
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.write(LINE)
    log.close()
    assert (tmp_path / "moved" / "log").read_bytes() == LINE
    assert texts(events)[0].startswith("Cannot reopen the error log: [Errno 2] ")
    expected_errors.flush()


# Files whose reader may let them wait.


@pytest.fixture
def pipe() -> Iterator[tuple[Any, Any]]:
    """A pipe: what to read from, and a file to write to."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as source, open(writer, "wb", buffering=0) as file:
        yield source, file


def read(source: Any, count: int) -> bytes:
    """The next *count* bytes of a pipe, which come in pieces of any length."""
    received = b""
    while len(received) < count:
        assert select.select([source], [], [], PATIENCE)[0], "nothing comes"
        more = source.read(count - len(received))
        assert more, "it has ended"
        received += more
    return received


def test_full_pipe(pipe: tuple[Any, Any], events: Sequence[LogEvent], expected_errors: Any) -> None:
    """The queue has a bound; what is beyond it is counted, and told at once and at the end."""
    reader, file = pipe
    log = LogFile(file, "access log")
    line = b"x" * 999 + b"\n"
    for _ in range(2000):
        log.write(line)
    assert QUEUE_BYTES - 1000 <= 1000 * (2000 - log.lost_lines) <= QUEUE_BYTES + 70_000
    lost = log.lost_lines
    for _ in range(2000 - lost):
        assert read(reader, 1000) == line
    wait_for(lambda: len(events) == 2)
    assert texts(events) == [
        "Cannot write the access log: its reader is too slow; "
        "lines are dropped until it works again",
        f"The access log works again; {lost} lines are lost",
    ]
    log.close()
    expected_errors.flush()


def test_what_nobody_has_read_is_counted_at_the_end(
    pipe: tuple[Any, Any], events: Sequence[LogEvent]
) -> None:
    """Closing waits for no reader for long."""
    threads = active_count()
    reader, file = pipe
    log = LogFile(file, "access log")
    for _ in range(200):
        log.write(b"x" * 999 + b"\n")
    log.close()
    log.write(LINE)
    (text,) = texts(events)
    lost = re.fullmatch(r"The access log is closed; (\d+) lines are lost", text)
    # All of them, where its thread is slow to begin.
    assert lost is not None and 100 < int(lost[1]) <= 200
    assert len(read(reader, 200_000)) == 200_000
    wait_for(lambda: active_count() <= threads)


def test_pipe_that_somebody_has_made_not_block(pipe: tuple[Any, Any]) -> None:
    """Whoever shares a pipe may do that to it; lines wait all the same."""
    reader, file = pipe
    os.set_blocking(file.fileno(), False)
    log = LogFile(file, "access log")
    line = b"x" * 9_999 + b"\n"  # more than a pipe promises to take in one piece
    for _ in range(50):
        log.write(line)
    assert read(reader, 50 * len(line)) == 50 * line
    log.close()
    assert log.lost_lines == 0


def test_reader_that_leaves(pipe: tuple[Any, Any], expected_errors: Any) -> None:
    """A broken pipe costs lines and nothing else."""
    threads = active_count()
    reader, file = pipe
    log = LogFile(file, "access log")
    reader.close()
    for _ in range(3):
        log.write(LINE)
    log.close()
    wait_for(lambda: active_count() <= threads)
    assert log.lost_lines == 3
    assert len(expected_errors.flush()) == 1


def test_fifo(tmp_path: Path, expected_errors: Any) -> None:
    """Nobody has to read it yet; its readers come and go, and each gets whole lines."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    log = LogFile(path, "access log")
    log.reopen()  # changes nothing
    log.write(b"1\n")
    with open(path, "rb") as reader:
        assert reader.readline() == b"1\n"
        log.write(b"2\n")
        assert reader.readline() == b"2\n"
    log.write(b"lost\n")
    wait_for(lambda: log.lost_lines == 1)
    log.write(b"3\n")
    with open(path, "rb") as reader:
        assert reader.readline() == b"3\n"
        log.close()
        assert reader.read() == b""
    expected_errors.flush()


# Lines of other processes.

WRITER = """
import os, sys
for number in range(1000):
    os.write(int(sys.argv[1]), b"%s %d " % (sys.argv[2].encode(), number) + b"x" * 50 + b"\\n")
os.write(int(sys.argv[1]), b"no line end")
"""


@pytest.mark.parametrize("fifo", [False, True])
def test_fed_by_other_processes(tmp_path: Path, fifo: bool) -> None:
    """What two processes write comes in whole lines, between those of our own."""
    path = tmp_path / "log"
    copy = tmp_path / "copy" if fifo else path
    with ExitStack() as programs:
        if fifo:
            os.mkfifo(path)
            copying = running(tmp_path, "sh", "-c", "exec cat log > copy")
            reader = programs.enter_context(copying)
        log = LogFile(path, "access log")
        writers = []
        for name in ("a", "b"):
            intake = log.intake()
            command = (sys.executable, "-c", WRITER, str(intake), name)
            writing = running(tmp_path, *command, pass_fds=[intake])
            writers.append(programs.enter_context(writing))
            os.close(intake)
        for number in range(1000):
            log.write(b"c %d\n" % number)
        for writer in writers:
            assert writer.wait(PATIENCE) == 0
        # The close waits for nobody for long.
        wait_for(lambda: copy.exists() and copy.read_bytes().count(b"\n") == 3002)
        log.close()
        if fifo:
            assert reader.wait(PATIENCE) == 0
    lines = copy.read_text().splitlines()
    assert log.lost_lines == 0
    for name in ("a", "b", "c"):
        numbers = [line.split()[1] for line in lines if line.split()[0] == name]
        assert numbers == [str(number) for number in range(1000)]
    assert lines.count("no line end") == 2
    assert len(lines) == 3002


def test_intake_that_never_ends_a_line(tmp_path: Path) -> None:
    """A line without an end is cut, and takes no memory without bound."""
    log = LogFile(tmp_path / "log", "access log")
    intake = log.intake()
    with open(intake, "wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 10_000)
    wait_for(lambda: len((tmp_path / "log").read_bytes().replace(b"\n", b"")) == 1_000_000)
    log.close()
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert b"".join(lines) == b"x" * 1_000_000
    assert max(map(len, lines)) <= 128 * 1024
