"""Frames, lines, the table and numbers of workers, without a process."""

from __future__ import annotations

import errno
import gc
import os
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from support.wire import until
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from twisted_hangup.journal.files import LogFile
from twisted_hangup.metrics import WorkerMetrics
from twisted_hangup.server.site import HangupSite
from twisted_hangup.service.cores import usable_cores
from twisted_hangup.service.workers import Channel, Kind, Workers
from twisted_hangup.service.workers.channel import (
    MOST_COPIES,
    MOST_WAITING_BYTES,
    count_in,
    frame_of,
)
from twisted_hangup.service.workers.plan import Plan
from twisted_hangup.service.workers.process import (
    CUT,
    MOST_LINE_BYTES,
    Lines,
    environment,
    working_directory,
)
from twisted_hangup.service.workers.reports import NUMBER, PageReports, Report
from twisted_hangup.service.workers.supervisor import rest_seconds
from twisted_hangup.service.workers.table import Table
from twisted_hangup.service.workers.view import View


def connected(frames: list[tuple[int, bytes]] | None = None) -> tuple[Channel, Any]:
    """A channel that keeps what it receives in *frames*, and its transport."""
    received = [] if frames is None else frames
    channel, transport = Channel(lambda *frame: received.append(frame)), StringTransport()
    channel.makeConnection(transport)
    return channel, transport


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40))),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_frames_however_they_are_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """What one end sends, the other receives, whole and in order."""
    channel, transport = connected()
    for kind, payload in frames:
        assert channel.send(kind, payload)
    wire = transport.value()
    received: list[tuple[int, bytes]] = []
    other, _ = connected(received)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in pairwise(edges):
        other.dataReceived(wire[start:end])
    assert received == frames


@pytest.mark.parametrize("reads_again", [True, False])
def test_reader_that_is_too_slow(reads_again: bool) -> None:
    """Frames wait up to a bound; more are counted, of which the other hears, also at a close."""
    channel, transport = connected()
    transport.producer.pauseProducing()
    payload = b"x" * 65_000
    results = [channel.send(20, payload) for _ in range(20)]
    kept = MOST_WAITING_BYTES // 65_005
    assert results == [True] * kept + [False] * (20 - kept)
    assert channel.lost_frames == 20 - kept
    assert transport.value() == b""
    if reads_again:
        transport.producer.resumeProducing()
    channel.close()
    received: list[tuple[int, bytes]] = []
    other, _ = connected(received)
    other.dataReceived(transport.value())
    *frames, (kind, count) = received
    assert frames == [(20, payload)] * kept
    assert (kind, count_in(count)) == (Kind.LOST, 20 - kept)


def test_channel_without_another_end() -> None:
    """Nothing is sent, and nothing raised: before the connection, and after the other's end."""
    channel = Channel(lambda *_: None)
    assert not channel.send(Kind.LOG, b"early")
    channel.makeConnection(StringTransport())
    ended: list[object] = []
    channel.closed.addCallback(ended.append)
    channel.connectionLost(Failure(ConnectionDone()))
    assert ended == [None]
    assert not channel.send(Kind.LOG, b"late")
    channel.close()


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines(lines: list[bytes], step: int) -> None:
    """Whole lines come, however they were written."""
    lines = [line.replace(b"\n", b"") for line in lines]
    text = b"".join(line + b"\n" for line in lines) + b"the end"
    received: list[bytes] = []
    cutter = Lines(received.append)
    for start in range(0, len(text), step):
        cutter.receive(text[start : start + step])
    cutter.close()
    assert received == [*lines, b"the end"]


def test_line_without_an_end() -> None:
    """It is cut, so that it takes no memory; a mark says that it goes on."""
    received: list[bytes] = []
    cutter = Lines(received.append)
    cutter.receive(b"x" * (2 * MOST_LINE_BYTES + 1))
    assert received == [b"x" * MOST_LINE_BYTES + CUT] * 2
    cutter.close()
    assert received[2] == b"x"


def test_table() -> None:
    """What one process writes, another reads."""
    ours = Table.of(3)
    theirs = Table(ours.descriptor)
    theirs[1].held = 5
    theirs[1].beat = 2**60
    theirs[1].accepts = True
    assert [row.held for row in ours] == [0, 5, 0]
    assert ours[1].beat == 2**60
    assert ours[1].accepts is True
    ours[1].clear()
    assert (theirs[1].held, theirs[1].beat, theirs[1].accepts) == (0, 0, False)
    with pytest.raises(IndexError):
        ours[3]


@pytest.mark.parametrize(
    "failures, seconds", [(1, 0), (2, 1), (3, 2), (4, 4), (6, 16), (7, 30), (10_000, 30)]
)
def test_rests(failures: int, seconds: float) -> None:
    """A worker that keeps dying rests longer each time, up to half a minute."""
    assert rest_seconds(failures) == seconds


def test_plan() -> None:
    """It survives the command line, with file names that are not UTF-8."""
    plan = Plan(
        number=1,
        make="a.b",
        arguments=["--path", "\udcff"],
        ports=["tcp:1"],
        sockets=[1],
        directory="/tmp/ä",
        row=2,
        grace_seconds=1.5,
        boot_ends=3.0,
        systemd_names=["web"],
    )
    assert str(plan).isascii()
    assert Plan.from_text(str(plan)) == plan


def test_environment() -> None:
    """It is the first process's, without systemd's part; a relative path stays in its place."""
    ours = {"A": "b", "NOTIFY_SOCKET": "x", "LISTEN_FDS": "1", "PYTHONPATH": "lib:/abs", "PWD": "/"}
    assert environment(ours, "/srv/current") == {
        "A": "b",
        "PYTHONPATH": "/srv/current/lib:/abs",
        "PWD": "/srv/current",
    }


def test_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the shell's name for it, if that leads there."""
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    monkeypatch.chdir(tmp_path / "current")
    for pwd, expected in (
        (str(tmp_path / "current"), tmp_path / "current"),
        (str(tmp_path), tmp_path / "release"),
        ("current", tmp_path / "release"),
        ("/nowhere", tmp_path / "release"),
    ):
        monkeypatch.setenv("PWD", pwd)
        assert working_directory() == str(expected)


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ({"a/b/cpu.max": "nonsense"}, 64),
        ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/a/b/cpu.cfs_quota_us": "90000", "cpu/a/b/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    """A container's quota counts, which the affinity does not show."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {*range(64)}, raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:name=systemd:/x\n2:cpuacct,cpu:/a/b\n0::/a/b\n")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert usable_cores(tmp_path) == cores


def test_number_of_workers() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Workers("app.make", ["tcp:0"], 0)


@pytest_twisted.ensureDeferred
async def test_descriptor(tmp_path: Path) -> None:
    """It comes with its frame, open, whatever has become of ours; none of ours stays open."""
    from twisted.internet import reactor

    path = tmp_path / "file"
    gc.collect()  # or what an earlier test has lost would be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    received: list[tuple[int, bytes]] = []
    come: Deferred[None] = Deferred()

    def receive(kind: int, payload: bytes) -> None:
        received.append((kind, payload))
        if kind == 23:
            with open(other.take_descriptor(), "ab") as file:
                file.write(b"from the other end\n")
        else:
            come.callback(None)

    one, other = Channel(lambda *_: None), Channel(receive)
    for channel, end in zip((one, other), socket.socketpair(), strict=True):
        with end:
            end.setblocking(False)
            factory: Factory[Any] = Factory.forProtocol([channel].pop)
            adopt: Any = reactor
            adopt.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
    with path.open("ab") as file:
        for _ in range(3):
            one.send_descriptor(23, file.fileno())
    one.send(24)
    await come
    assert path.read_bytes() == b"from the other end\n" * 3
    assert [kind for kind, _ in received] == [23, 23, 23, 24]
    await until(lambda: not one._sent)
    await one.close()
    await other.closed
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptor_that_finds_no_room() -> None:
    """The system drops it if the process is out of files; its frame comes, and the next ones do."""
    problems: list[int | None] = []

    def receive(kind: int, payload: bytes) -> None:
        try:
            channel.take_descriptor()
        except OSError as error:
            problems.append(error.errno)

    channel, transport = Channel(receive), StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(frame_of(23, b""))
    assert problems == [errno.EMFILE]
    assert transport.value() == frame_of(Kind.RECEIVED, b"")


def test_rotations_for_a_worker_that_is_stopped(tmp_path: Path) -> None:
    """They take no more and more files, and what it takes last is true when it goes on."""
    log = LogFile(tmp_path / "access.log", "access log")
    view = View(Clock(), access_log=log, error_log=None)
    sent: list[int] = []
    channel, transport = connected()
    transport.sendFileDescriptor = sent.append
    view.begin("process", channel)
    for _ in range(20):
        view.reopen()
    assert len({*sent}) == MOST_COPIES
    assert transport.value().endswith(
        frame_of(Report.APPEND, b"") + frame_of(Report.SEND, b"") * 17
    )
    transport.clear()
    channel.dataReceived(frame_of(Kind.RECEIVED, b"") * MOST_COPIES)
    view.reopen()
    assert transport.value() == frame_of(Report.APPEND, b"")
    channel.connectionLost()
    log.close()


def test_access_log_of_a_first_process_that_is_out_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot pass the file on, so it writes the lines itself."""
    log = LogFile(tmp_path / "access.log", "access log")
    view = View(Clock(), access_log=log, error_log=None)
    channel, transport = connected()
    monkeypatch.setattr("os.dup", Mock(side_effect=OSError("too many")))
    view.begin("process", channel)
    assert transport.value() == frame_of(Report.SEND, b"")
    assert view.received("process", 1, Report.ACCESS, b"a line\n")
    log.close()
    assert (tmp_path / "access.log").read_bytes() == b"a line\n"


def test_many_questions_at_once() -> None:
    """A worker that was stopped finds many; one report answers all, and leaves room for others."""
    frames: list[tuple[int, bytes]] = []
    reader, _ = connected(frames)
    channel, transport = connected()
    clock = Clock()
    reports = PageReports(channel, HangupSite(Resource()), clock, lambda: b"all")

    def answers() -> list[bytes]:
        clock.advance(0)
        reader.dataReceived(transport.value())
        transport.clear()
        return [payload for kind, payload in frames if kind == Report.METRICS]

    for question in range(1, 1001):
        reports.asked(NUMBER.pack(question))
    assert answers() == [NUMBER.pack(1000) + b"all"]
    reports.asked(NUMBER.pack(1001))
    reports.report()
    assert answers()[1:] == [NUMBER.pack(1001) + b"all"]
    reports.close()
    assert not clock.getDelayedCalls()


def test_answer_to_many_questions() -> None:
    """It is one to those before it, too, but not to a later one."""
    view = View(Clock(), access_log=None, error_log=None)
    view.metrics = WorkerMetrics(list, view.ask)
    channel, _ = connected()
    view.begin("process", channel)
    view.metrics.report("process", b"")
    questions = [view.ask() for _ in range(3)]
    view.received("process", 1, Report.METRICS, NUMBER.pack(2) + b"[]")
    assert [question.called for question in questions] == [True, True, False]
    view.received("process", 1, Report.METRICS, NUMBER.pack(3) + b"[]")
    assert questions[2].called
