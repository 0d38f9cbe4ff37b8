"""What can go wrong with workers, and what the operator reads then."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cleanliness import LoggedErrors
from support.processes import BIN, free_port
from support.wire import PATIENCE, Client, wait_for
from support.workers import APPLICATION, STOPPED, WAITING, Program, is_worker
from support.workers import start as start
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from twisted_hangup.service.options import Options
from twisted_hangup.service.workers import Kind, Workers
from twisted_hangup.service.workers.channel import frame_of
from twisted_hangup.service.workers.process import Stage, WorkerProcess
from twisted_hangup.service.workers.supervisor import (
    KILL_SECONDS,
    MOST_GENERATIONS,
    MOST_REST_SECONDS,
)

Start = Callable[..., Program]


class Port:
    """A listening socket that there is not."""

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 80)

    def stopReading(self) -> None: ...

    def fileno(self) -> int:
        return 99

    def stopListening(self) -> None: ...


class Transport:
    """That of a process that there is not."""

    pid = 2**31 - 1  # there is none

    def loseConnection(self) -> None: ...


class Reactor(Clock):
    """Starts no process, but remembers when it should have.

    Attributes:
        processes: The protocols of the processes, the last one last.
        mask: The signals that were blocked at the last start.
        stopped: Whether it is to stop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[WorkerProcess] = []
        self.mask: set[Any] = set()
        self.stopped = False

    def listenTCP(self, *args: object) -> Port:
        return Port()

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        function()

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        factory.buildProtocol(None).makeConnection(StringTransport())

    def spawnProcess(self, protocol: Any, *args: Any, childFDs: Mapping[int, object]) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.processes.append(protocol)
        protocol.makeConnection(Transport())

    def stop(self) -> None:
        self.stopped = True

    def serve(self) -> None:
        """The last process serves."""
        self.processes[-1].channel.dataReceived(frame_of(Kind.READY, b""))

    def end(self) -> None:
        """The last process ends."""
        process, reason = self.processes[-1], Failure(ProcessTerminated(1))
        process.processExited(reason)
        process.channel.connectionLost(Failure(ConnectionDone()))
        process.processEnded(reason)


def workers(reactor: Reactor, number: int = 1) -> Workers:
    service = Workers("app.make", ["tcp:0"], number, reactor=reactor, boot_seconds=0)
    service.startService()
    return service


def test_rests_of_a_worker(expected_errors: LoggedErrors) -> None:
    """They double up to half a minute; who has served for a minute begins anew, at once."""
    reactor = Reactor()
    workers(reactor)

    def rest() -> float:
        reactor.end()
        (call,) = reactor.getDelayedCalls()
        seconds = call.getTime() - reactor.seconds()
        reactor.advance(seconds)
        return seconds

    reactor.serve()
    assert [rest() for _ in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    reactor.serve()
    reactor.advance(59)
    assert rest() == 30
    reactor.serve()
    reactor.advance(60)
    assert [rest(), rest()] == [0, 1]
    assert len(expected_errors.flush()) == 12


def test_signals_wait_for_a_worker_that_starts() -> None:
    """Before it runs its own code it is a copy of the first process, with that one's handlers."""
    reactor = Reactor()
    workers(reactor)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1} <= reactor.mask
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_end_without_a_worker_that_served(expected_errors: LoggedErrors) -> None:
    """It comes when each has failed, not before; and never if one has served."""
    for serves in (False, True):
        reactor = Reactor()
        workers(reactor, 2)
        if serves:
            reactor.serve()
        reactor.end()
        assert not reactor.stopped
        reactor.processes.pop()
        reactor.end()
        assert reactor.stopped is not serves
    assert expected_errors.flush()


def test_end_of_workers_that_the_system_refuses(
    expected_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes once, and nothing is started after it."""
    refused = Mock(side_effect=OSError("too many"))
    monkeypatch.setattr(WorkerProcess, "start", refused)
    reactor = Reactor()
    service = Workers("app.make", ["tcp:0"], 2, reactor=reactor)
    monkeypatch.setattr(service, "failed", Mock())
    service.startService()
    reactor.advance(0)
    service.failed.assert_called_once_with(  # type: ignore[attr-defined]
        "no worker can start: worker 2 cannot be started: too many"
    )
    assert refused.call_count == 2
    assert expected_errors.flush()


def test_ends_that_a_second_signal_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not said that the grace is over."""
    kills: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: kills.append(number))
    for ends_now, words in (
        (False, "has not ended in its grace: killed"),
        (True, "has ended: killed"),
    ):
        reactor = Reactor()
        service = workers(reactor)
        reactor.serve()
        ended = service.stopService()
        if ends_now:
            service.end_now()
        else:
            reactor.advance(service._grace_seconds + KILL_SECONDS)
        assert kills == [signal.SIGTERM, signal.SIGKILL]
        kills.clear()
        with capturedLogs() as events:
            reactor.end()
        assert ended.called
        assert [formatEvent(one).partition(") ")[2] for one in events] == [words]


def test_process_whose_pipes_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until they are closed, a worker that has gone still counts among those that finish."""
    monkeypatch.setattr("os.kill", lambda pid, number: None)
    reactor = Reactor()
    service = workers(reactor)
    reactor.serve()
    for _ in range(5):
        service.replace()
        if reactor.processes[-1].stage is Stage.BOOTING:
            reactor.serve()
            reactor.processes[-2].processExited(Failure(ProcessDone(None)))
    assert len(reactor.processes) == 3
    first = reactor.processes[0]
    first.channel.connectionLost(Failure(ConnectionDone()))
    first.processEnded(Failure(ProcessDone(None)))
    assert len(reactor.processes) == 4


def test_replacement_that_waits_for_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it waits is logged once, whichever of them ends."""
    monkeypatch.setattr("os.kill", lambda pid, number: None)
    reactor = Reactor()
    service = workers(reactor, 2)
    first = [*reactor.processes]
    for process in first:
        process.channel.dataReceived(frame_of(Kind.READY, b""))
    with capturedLogs() as events:
        for _ in range(MOST_GENERATIONS):
            service.replace()
            reactor.serve()
            reactor.serve()
        service.replace()
        for process in first:
            assert len(reactor.processes) == 6
            process.processExited(Failure(ProcessDone(None)))
            process.channel.connectionLost(Failure(ConnectionDone()))
            process.processEnded(Failure(ProcessDone(None)))
    assert len(reactor.processes) == 7
    lines = [formatEvent(one) for one in events]
    assert sum(line.startswith("The replacement waits") for line in lines) == 1


def test_death_while_the_next_one_starts(expected_errors: LoggedErrors) -> None:
    """It is logged, also if the next one serves before the pipes are closed."""
    reactor = Reactor()
    service = workers(reactor)
    reactor.serve()
    (process,) = reactor.processes
    service.replace()
    process.processExited(Failure(ProcessTerminated(3)))
    reactor.serve()
    process.channel.connectionLost(Failure(ConnectionDone()))
    with capturedLogs() as events:
        process.processEnded(Failure(ProcessTerminated(3)))
    (line,) = map(formatEvent, events)
    assert "has ended after 0.0 s of serving: exit status 3" in str(line)
    assert service.serving == 1
    assert expected_errors.flush()


@pytest.mark.parametrize("text", ["-1", "1.5", "lots", "", "0x2"])
def test_numbers_of_workers_that_are_refused(text: str) -> None:
    """One line names the option and the value."""
    with pytest.raises((UsageError, SystemExit), match="--workers"):
        Options().parseOptions([f"--workers={text}"])


def test_module_that_ends_its_process(start: Start, tmp_path: Path) -> None:
    """All that it has logged, printed and written before is there, and the status."""
    (tmp_path / "app.py").write_text(
        "import os\n"
        "from twisted.logger import Logger\n"
        "Logger().warn('no network')\n"
        "print('no configuration')\n"
        "os.write(2, b'the C library is sad\\n')\n"
        "os._exit(3)\n"
    )
    program = start()
    assert program.process.wait(PATIENCE) == 1
    for words in ("no network", "no configuration", "the C library is sad"):
        assert program.lines(f": {words}")
    (last,) = program.lines("hangup: no worker can start: worker")
    assert re.search(
        r"worker \d has ended in its start, after [\d.]+ s: exit status 3: the C library", last
    )


def test_module_that_is_killed(start: Start, tmp_path: Path) -> None:
    """As the kernel does, out of memory."""
    (tmp_path / "app.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    program = start(number=1)
    assert program.process.wait(PATIENCE) == 1
    assert program.lines("no worker can start: worker 1 has ended in its start, after")[
        -1
    ].endswith("SIGKILL, perhaps out of memory")


def test_module_that_takes_long(start: Start, tmp_path: Path) -> None:
    """A worker is not taken for stuck before it serves."""
    (tmp_path / "app.py").write_text(f"import time\ntime.sleep(4)\n{APPLICATION}")
    program = start("--worker-timeout=2", number=1).started()
    assert program.get() == b"version 1"
    assert program.end() in STOPPED
    before, serves, _ = "\n".join(program.lines()).partition(" serves, ")
    assert serves and "stuck" not in before


def test_worker_that_crashes(start: Start, tmp_path: Path) -> None:
    """The stacks of its threads are in the log."""
    crash = "    def crash(self, request):\n        __import__('ctypes').string_at(0)\n\n"
    text = APPLICATION.replace("    def version(", f"{crash}    def version(")
    (tmp_path / "app.py").write_text(text)
    program = start(number=1).started()
    program.get("/crash")
    line = program.wait_for(f"Worker 1 (pid {program.pids()[1]}) has ended after")
    assert line.endswith("of serving: SIGSEGV; the next one starts now")
    assert program.lines("worker 1: Fatal Python error: Segmentation fault")
    assert program.lines(" in crash")
    program.wait_for("serves", times=2)
    assert program.end() in STOPPED


def test_worker_that_is_asked_to_end(start: Start) -> None:
    """Somebody takes it for the first process: the next one starts when it has finished."""
    program = start(number=1).started()
    os.kill(program.pids()[1], signal.SIGTERM)
    program.wait_for("of serving: exit status 0; the next one starts now")
    program.wait_for("serves", times=2)
    assert program.get() == b"version 1"
    assert program.end() in STOPPED


IMPORTING = "import os\nwith open('importing', 'a') as file:\n    print(os.getpid(), file=file)\n"


def importing(directory: Path) -> list[int]:
    """The pids of the workers that import `IMPORTING`, the last one last."""
    file = directory / "importing"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_program_that_a_module_starts(start: Start, tmp_path: Path) -> None:
    """It has no socket of ours, which it would keep open after the end."""
    helper = "subprocess.Popen(['sleep', '600'], close_fds=False)"
    (tmp_path / "app.py").write_text(
        f"import subprocess\nhelper = {helper}\nopen('pid', 'w').write(str(helper.pid))\n"
        f"{APPLICATION}"
    )
    program = start(number=1).started()
    pid = int((tmp_path / "pid").read_text())
    try:
        links = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [link for link in links if "socket" in link or "memfd" in link]
        assert program.end() in STOPPED
    finally:
        os.kill(pid, signal.SIGKILL)


def test_signals_during_a_start(start: Start, tmp_path: Path) -> None:
    """Three SIGHUPs are a replacement and one more, and none is lost."""
    (tmp_path / "app.py").write_text(f"{IMPORTING}{WAITING}{APPLICATION}")
    program = start(number=1)
    wait_for(lambda: importing(tmp_path))
    for number in range(1, 4):
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("The logs are reopened", times=number)
    (tmp_path / "go").touch()
    program.started()
    wait_for(lambda: len(importing(tmp_path)) == 3)
    program.wait_for(") has ended", times=2)
    wait_for(lambda: program.lines(f"(pid {importing(tmp_path)[-1]}) serves"))
    assert program.get() == b"version 1"
    assert program.end() in STOPPED
    assert len(importing(tmp_path)) == 3


def test_first_process_that_is_stopped(start: Start) -> None:
    """Its workers serve on, and what they have logged meanwhile is there later."""
    program = start().started()
    os.kill(program.process.pid, signal.SIGSTOP)
    for _ in range(20):
        assert program.get("/print") == b"printed."
    os.kill(program.process.pid, signal.SIGCONT)
    program.wait_for("printed by the application", times=20)
    assert program.end() in STOPPED


def test_release_that_is_removed(start: Start, tmp_path: Path) -> None:
    """The old one is not needed any more; without a link to a new one the old workers stay."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = APPLICATION.replace('VERSION = b"1"', f'VERSION = b"{name}"')
        (tmp_path / name / "app.py").write_text(text)
    current = tmp_path / "current"
    current.symlink_to("one")
    environment = {**os.environ, "PWD": str(current)}
    program = start(number=1, cwd=current, env=environment).started()
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(current)
    shutil.rmtree(tmp_path / "one")
    program.process.send_signal(signal.SIGHUP)
    program.wait_for(") has ended")
    assert program.get() == b"version two"
    current.unlink()
    program.process.send_signal(signal.SIGHUP)
    line = program.wait_for("The replacement has ended early: the new worker 1 has ended in its")
    assert f"FileNotFoundError: [Errno 2] No such file or directory: '{current}'" in line
    assert program.get() == b"version two"
    assert program.end() in STOPPED


def test_socket_file_of_a_first_process_that_was_killed(start: Start, tmp_path: Path) -> None:
    """The next start takes it over, and removes it in the end."""
    program = start("--port=unix:web.sock", number=1).started()
    program.process.kill()
    program.process.wait(PATIENCE)
    wait_for(lambda: not any(map(is_worker, program.pids().values())))
    assert (tmp_path / "web.sock").exists()
    program = start("--port=unix:web.sock", number=1).started()
    with closing(Client(str(tmp_path / "web.sock"))) as client:
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert client.read_all().endswith(b"version 1")
    assert program.end() in STOPPED
    assert not [*tmp_path.glob("web.sock*")]


@pytest.mark.parametrize("program", ["twistd -n --pidfile=", "twist --log-format=text"])
def test_limit_of_open_files(start: Start, program: str) -> None:
    """The first process raises its own, too: very many workers have very many pipes."""
    command = f"{BIN}/{program} hangup --workers=1 --port=tcp:0:interface=127.0.0.1".split()
    running = start(command=command, launcher=["prlimit", "--nofile=100:1000"]).started()
    limits = Path(f"/proc/{running.process.pid}/limits").read_text()
    assert re.search(r"Max open files +1000 +1000", limits)
    assert len(running.lines("Open files: at most 1000")) == 1
    assert running.end() in STOPPED


MOST = [
    ((), "prlimit --nofile=200", 2 * ((200 - 32) // 2)),
    (("--max-connections=7",), "prlimit --nofile=200", 7),
    (("--max-connections=1000",), "prlimit --nofile=200", 2 * ((200 - 32) // 2)),
]


@pytest.mark.parametrize("arguments, launcher, most", MOST)
def test_most_connections_are_logged(
    start: Start, arguments: Sequence[str], launcher: str, most: int
) -> None:
    """One line says how many all workers hold: as many as is asked for and their files allow."""
    program = start(*arguments, launcher=launcher.split()).started()
    (line,) = program.lines(" connections at a time; further clients wait")
    logged = re.search(r"At most (\d+) connections", line)
    assert logged
    assert most - 20 <= int(logged[1]) <= most
    assert program.end() in STOPPED


def test_worker_that_dies_before_a_message(start: Start) -> None:
    """The first process writes to the dead, and does not mind."""
    program = start().started()
    pid = program.process.pid
    os.kill(pid, signal.SIGSTOP)
    os.kill(program.pids()[1], signal.SIGKILL)
    os.kill(pid, signal.SIGUSR1)
    os.kill(pid, signal.SIGCONT)
    program.wait_for("The logs are reopened")
    program.wait_for("serves", times=3)
    assert program.get() == b"version 1"
    assert program.end() in STOPPED
    assert not program.lines("Traceback")


def daemon(directory: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the shell has of ``twistd hangup --workers 2``, a daemon."""
    command = [f"{BIN}/twistd", "hangup", "--workers=2", f"--port=tcp:{port}:interface=127.0.0.1"]
    return subprocess.run(
        [*command, "--resource=app.Root", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_daemon_that_cannot_start(tmp_path: Path) -> None:
    """The shell waits for the start: it shows the problem, and has status 1."""
    (tmp_path / "app.py").write_text("raise ValueError('no such database')\n")
    shell = daemon(tmp_path, free_port())
    assert shell.returncode == 1
    assert "An error has occurred: b'no worker can start: worker " in shell.stderr
    log = tmp_path / "twistd.log"
    wait_for(lambda: "Server Shut Down" in log.read_text())
    assert (
        "exit status 1: hangup: --resource: app.Root: ValueError: no such data" in log.read_text()
    )
    wait_for(lambda: not (tmp_path / "twistd.pid").exists())


def has_gone(pid: int) -> bool:
    """Whether a process has ended, and its parent knows."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_daemon_that_was_killed(tmp_path: Path) -> None:
    """When the shell goes on, it serves; a pid file that was left does not keep it from that."""
    (tmp_path / "app.py").write_text(APPLICATION)
    for words in ("", f"Removing stale pidfile {tmp_path}/twistd.pid\n"):
        port = free_port()
        shell = daemon(tmp_path, port)
        assert (shell.returncode, shell.stderr) == (0, words)
        pid = int((tmp_path / "twistd.pid").read_text())
        try:
            with closing(Client(port)) as client:
                client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
                assert client.read_all().endswith(b"version 1")
        finally:
            os.kill(pid, signal.SIGKILL)
        wait_for(partial(has_gone, pid))  # a process that nobody has waited for is still there
    log = (tmp_path / "twistd.log").read_text()
    pids = [int(one) for one in re.findall(r"Worker \d \(pid (\d+)\) serves", log)]
    wait_for(lambda: not any(map(is_worker, pids)))


def test_daemon_of_which_one_worker_cannot_start(tmp_path: Path) -> None:
    """The shell goes on when the first one serves."""
    (tmp_path / "app.py").write_text(
        "import os\n"
        "try:\n"
        "    os.mkdir('first')\n"
        "except OSError:\n"
        "    raise SystemExit('not this one')\n"
        f"{APPLICATION}"
    )
    shell = daemon(tmp_path, free_port(), "--grace=1")
    assert (shell.returncode, shell.stderr) == (0, "")
    os.kill(int((tmp_path / "twistd.pid").read_text()), signal.SIGTERM)
    wait_for(lambda: not (tmp_path / "twistd.pid").exists())


class Lives:
    """Workers, to which anything happens at any time; nobody sends real signals."""

    def __init__(self, number: int) -> None:
        self.reactor = Reactor()
        self.service = workers(self.reactor, number)
        self.exited: list[WorkerProcess] = []

    @property
    def running(self) -> list[WorkerProcess]:
        return [one for one in self.reactor.processes if one.stage is not Stage.GONE]

    def serve(self, index: int) -> None:
        """One that starts serves."""
        if booting := [one for one in self.running if one.stage is Stage.BOOTING]:
            channel = booting[index % len(booting)].channel
            channel.dataReceived(frame_of(Kind.READY, b""))

    def exit(self, index: int) -> None:
        """Any process ends."""
        if running := self.running:
            self._exit(running[index % len(running)])

    def finish(self, index: int) -> None:
        """One that finishes has finished."""
        if finishing := [one for one in self.running if one.stage is Stage.DRAINING]:
            self._exit(finishing[index % len(finishing)])

    def close(self, index: int) -> None:
        """The pipes and the channel of one that has ended are closed, too."""
        if self.exited:
            process = self.exited.pop(index % len(self.exited))
            process.channel.connectionLost(Failure(ConnectionDone()))
            process.processEnded(Failure(ProcessDone(0)))

    def replace(self, index: int) -> None:
        self.service.replace()

    def wait(self, index: int) -> None:
        self.reactor.advance(index)

    def settle(self) -> None:
        """All end that should, and nothing else goes wrong."""
        for _ in range(20 * len(self.service._slots)):
            self.finish(0)
            self.close(0)
            self.serve(0)
            self.reactor.advance(MOST_REST_SECONDS)

    def _exit(self, process: WorkerProcess) -> None:
        process.processExited(Failure(ProcessDone(0)))
        self.exited.append(process)


EVENTS = ["serve", "serve", "serve", "exit", "finish", "close", "close", "replace", "wait"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 9))))
def test_whatever_happens_to_workers(
    expected_errors: LoggedErrors, number: int, events: list[tuple[str, int]]
) -> None:
    """There is always a row for the next process, and in the end each worker serves."""
    with pytest.MonkeyPatch.context() as patch, capturedLogs() as logged:
        patch.setattr(os, "kill", lambda *_: None)
        lives = Lives(number)
        lives.serve(0)
        for event, index in events:
            getattr(lives, event)(index)
            assert len(lives.service._row_of) <= len(lives.service.table)
        lives.settle()
    os.close(lives.service.table.descriptor)
    expected_errors.flush()
    assert not lives.reactor.stopped
    assert not [event for event in logged if "log_failure" in event]
    assert lives.service.serving == number
    assert len(lives.service._row_of) == number
    assert not lives.service._replaces
