"""Workers in real processes: their start, their deaths, and what the operator reads."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.processes import BIN, connect, free_port, listens
from support.wire import PATIENCE, wait_for
from support.workers import APPLICATION, STOPPED, Program, is_worker, prlimit
from support.workers import start as start

Start = Callable[..., Program]


def stopped(pid: int) -> bool:
    return "(stopped)" in Path(f"/proc/{pid}/status").read_text()


def test_life(start: Start) -> None:
    """Both workers serve, a running request is finished, and nothing is left."""
    program = start("--grace=600").started()
    pids = program.pids()
    assert int(program.get("/pid")) in pids.values()
    client = program.begin()
    program.process.terminate()
    wait_for(lambda: not listens(program.port))
    (program.log.parent / "go").touch()
    assert client.read_until(b"finished.").endswith(b"finished.")
    client.close()
    assert program.process.wait(PATIENCE) in STOPPED
    assert not any(is_worker(pid) for pid in pids.values())
    assert program.lines("with 2 workers")
    assert len(program.lines(") has ended")) == 2
    assert not program.lines("Traceback")


def test_worker_that_is_killed(start: Start) -> None:
    """It is replaced at once, and one line says which and why; the other one serves."""
    program = start().started()
    before = program.pids()
    os.kill(before[1], signal.SIGKILL)
    assert program.get() == b"version 1"
    line = program.wait_for(f"Worker 1 (pid {before[1]}) has ended after")
    assert line.endswith("s of serving: SIGKILL, perhaps out of memory; the next one starts now")
    wait_for(lambda: program.pids()[1] != before[1])
    assert program.pids()[2] == before[2]
    assert program.end() in STOPPED


def test_worker_that_is_stuck(start: Start) -> None:
    """Its stacks are in the log before it is killed; a request of the other one goes on."""
    program = start("--worker-timeout=2").started()
    client = program.begin("/block", b"")
    pids = program.pids()
    # On a busy machine the other one may count as stuck, too.
    line = program.wait_for("in block")
    number = 1 if "worker 1: " in line else 2
    assert program.lines(f"Worker {number} (pid {pids[number]}) is stuck for")
    program.wait_for(f"Worker {number} (pid {pids[number]}) has ended")
    [line] = program.lines(f"Worker {number} (pid {pids[number]}) has ended")
    assert line.endswith("SIGKILL, because it was stuck; the next one starts now")
    program.wait_for("serves", times=3)
    client.close()
    assert program.end() in STOPPED


def test_worker_that_is_stopped(start: Start) -> None:
    """A process in SIGSTOP has no stacks to give, and that is said."""
    program = start("--worker-timeout=2").started()
    os.kill(program.pids()[2], signal.SIGSTOP)
    program.wait_for("gives no stacks: it is stopped (SIGSTOP), or waits in the kernel")
    program.wait_for("serves", times=3)
    assert program.end() in STOPPED


def test_all_are_stopped(start: Start) -> None:
    """After Ctrl-Z and fg nobody is taken for stuck."""
    program = start("--worker-timeout=5").started()
    group = os.getpgid(program.process.pid)
    os.killpg(group, signal.SIGSTOP)
    wait_for(lambda: all(map(stopped, program.pids().values())))
    time.sleep(6)  # more than the timeout: nothing but time can pass here
    os.killpg(group, signal.SIGCONT)
    time.sleep(2)
    assert not program.lines("stuck")
    assert program.end() in STOPPED


def test_first_process_is_killed(start: Start) -> None:
    """Its workers close their ports at once, finish what they have begun, and end."""
    program = start("--grace=600").started()
    pids = [*program.pids().values()]
    client = program.begin()
    (busy,) = [pid for pid in pids if has_connection(pid, program.port)]
    program.process.kill()
    program.process.wait(PATIENCE)
    wait_for(lambda: [pid for pid in pids if is_worker(pid)] == [busy])
    wait_for(lambda: not listens(program.port))
    # The reader of all that a worker could print has gone.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", program.port)).close()
    (program.log.parent / "go").touch()
    assert client.read_until(b"finished.").endswith(b"finished.")
    client.close()
    wait_for(lambda: not is_worker(busy))


def test_first_process_is_killed_during_import(start: Start, tmp_path: Path) -> None:
    """A worker that still starts ends at once: it would hold the port, and accept nothing."""
    text = "import time\nopen('imports', 'w').close()\ntime.sleep(600)\n"
    (tmp_path / "app.py").write_text(text)
    program = start()
    wait_for((tmp_path / "imports").exists)
    pid = program.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    program.process.kill()
    program.process.wait(PATIENCE)
    wait_for(lambda: not any(is_worker(int(child)) for child in children))
    wait_for(lambda: not listens(program.port))


def has_connection(pid: int, port: int) -> bool:
    """Whether the process *pid* holds an accepted connection on *port*."""
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()
        if f":{port:04X} " in line.split()[1] + " " and line.split()[3] == "01"
    }
    links = {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()}
    return any(f"socket:[{inode}]" in links for inode in inodes)


def test_grace_is_over(start: Start) -> None:
    """A request that takes too long is hung up on, by the worker itself."""
    program = start("--grace=1").started()
    client = program.begin()
    assert program.end() in STOPPED
    with suppress(ConnectionResetError):
        assert client.read_all() == b""
    client.close()
    assert program.lines("Hanging up on 1 client")
    assert not program.lines("killed")


def test_worker_that_does_not_end(start: Start) -> None:
    """Two seconds after the grace it is killed, and the first process ends."""
    program = start("--grace=1").started()
    os.kill(program.pids()[1], signal.SIGSTOP)
    assert program.end() in STOPPED
    # Where the first process is late itself, by a second, nothing but its own end is sure.
    killed = program.lines("Worker 1 (pid")[-1].endswith("has not ended in its grace: killed")
    assert killed or program.lines("The grace is over: ")
    wait_for(lambda: not is_worker(program.pids()[1]))


def test_second_signal(start: Start) -> None:
    """It ends all at once."""
    program = start("--grace=600").started()
    client = program.begin()
    program.process.terminate()
    wait_for(lambda: not listens(program.port))
    program.end()
    wait_for(lambda: not any(map(is_worker, program.pids().values())))
    client.close()


def test_interrupt_of_the_terminal(start: Start) -> None:
    """Ctrl-C comes to all of the group: it is the graceful end, without a traceback."""
    program = start("--grace=600").started()
    client = program.begin()
    os.killpg(os.getpgid(program.process.pid), signal.SIGINT)
    wait_for(lambda: not listens(program.port))
    (program.log.parent / "go").touch()
    assert client.read_until(b"finished.").endswith(b"finished.")
    client.close()
    assert program.process.wait(PATIENCE) in STOPPED
    assert not program.lines("Traceback")
    assert not program.lines("KeyboardInterrupt")


def test_interrupt_during_import(start: Start, tmp_path: Path) -> None:
    """A worker that still starts is ended, too, and says nothing."""
    text = "import time\nopen('imports', 'w').close()\ntime.sleep(600)\n"
    (tmp_path / "app.py").write_text(text)
    program = start("--grace=1")
    wait_for((tmp_path / "imports").exists)
    os.killpg(os.getpgid(program.process.pid), signal.SIGINT)
    assert program.process.wait(PATIENCE) in STOPPED
    assert not program.lines("Traceback")
    assert not program.lines("KeyboardInterrupt")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGINT"])
def test_signals_that_a_worker_ignores(start: Start, name: str) -> None:
    """``pkill -HUP`` with too short a pattern hits the workers."""
    program = start().started()
    for pid in program.pids().values():
        os.kill(pid, getattr(signal, name))
    before = program.pids()
    assert program.get() == b"version 1"
    assert program.pids() == before
    assert all(map(is_worker, before.values()))
    assert program.end() in STOPPED


def test_port_in_use(start: Start) -> None:
    """One line, status 1, and no worker."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(f"--port={port}")
        assert program.process.wait(PATIENCE) == 1
    (line,) = program.lines("hangup: ")
    assert line == f"hangup: cannot listen on tcp:{port}: Address already in use"
    assert not program.lines("Worker")


def test_application_that_cannot_start(start: Start, tmp_path: Path) -> None:
    """The end is as without workers: status 1, and a last line that says why."""
    (tmp_path / "app.py").write_text("raise ValueError('no such database')\n")
    program = start()
    assert program.process.wait(PATIENCE) == 1
    line = program.lines("hangup: no worker can start: ")[-1]
    assert "exit status 1: hangup: --resource: app.Root: ValueError: no such database" in line


def test_what_a_start_that_fails_has_logged(start: Start, tmp_path: Path) -> None:
    """It is there, as are prints and a traceback."""
    text = "import twisted.logger\ntwisted.logger.Logger().warn('no network')\nprint('well')\n"
    (tmp_path / "app.py").write_text(text + "def make():\n    raise SystemExit('bye')\n")
    program = start("--resource=app.make")
    assert program.process.wait(PATIENCE) == 1
    for words in ("worker 1: no network", "worker 1: well", "worker 1: bye"):
        assert program.lines(words)
    assert program.lines("no worker can start: ")[-1].endswith("exit status 1: bye")


def test_application_that_takes_too_long(start: Start, tmp_path: Path) -> None:
    """Its stacks say where it stays."""
    (tmp_path / "app.py").write_text("import time\ntime.sleep(600)\n")
    program = start("--worker-boot-timeout=20")  # in which it comes to that
    assert program.process.wait(PATIENCE) == 1
    assert program.lines('app.py", line 2')
    (line,) = program.lines("hangup: no worker can start: worker")
    assert line.endswith(": it took too long")


def test_worker_that_cannot_start_any_more(start: Start, tmp_path: Path) -> None:
    """The others serve on, and it is tried again, each time after a longer rest."""
    program = start().started()
    app = tmp_path / "app.py"
    app.write_text("raise ValueError('broken')\n")
    os.kill(program.pids()[1], signal.SIGKILL)
    program.wait_for("line 1); the next one starts in 1 s")
    program.wait_for("line 1); the next one starts in 2 s")
    assert program.get() == b"version 1"
    app.write_text(APPLICATION)
    program.wait_for("serves", times=3)
    assert program.end() in STOPPED


def test_out_of_files(start: Start) -> None:
    """A worker that the system listens is tried again; its line says what is missing."""
    program = start().started()
    pid = program.process.pid
    limit = f"--nofile={len(os.listdir(f'/proc/{pid}/fd')) - 2}:"
    prlimit(pid, limit)
    os.kill(program.pids()[1], signal.SIGKILL)
    program.wait_for("Worker 1 cannot be started: [Errno 24] Too many open files")
    prlimit(pid, "--nofile=1000:")
    program.wait_for("serves", times=3)
    assert program.end() in STOPPED


def test_long_line(start: Start) -> None:
    """What a worker prints is in the log, with its number; a line of 20 KB is whole."""
    program = start().started()
    program.get("/long_line")
    line = program.wait_for("xxxx")
    assert line.count("x") == 20_000
    assert "worker " in line.partition("xxxx")[0]
    program.get("/print")
    program.wait_for(": printed by the application")
    assert program.end() in STOPPED


def test_standard_output(start: Start) -> None:
    """``--access-log -`` has whole lines, without a prefix; print() is a part of the log."""
    program = start("--access-log=-").started()
    program.get("/print")
    line = program.wait_for('"GET /print HTTP/1.0" 200')
    assert line.startswith("127.0.0.1 - - [")
    assert program.end() in STOPPED


def test_what_a_worker_passes_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that it starts has none of our descriptors, and no signal is blocked in it."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("WATCHDOG_USEC", "9000000")
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("HANGUP_TEST", "here")
    program = start(number=1).started()
    names = program.get("/environment").decode()
    assert "HANGUP_TEST" in names and "PATH" in names
    assert not any(name in names for name in ("NOTIFY_", "WATCHDOG_", "LISTEN_"))
    descriptors, mask, handlers = program.get("/child").decode().splitlines()
    assert mask == "set()"
    assert handlers == "['SIG_DFL', 'SIG_DFL']"
    assert descriptors == "[0, 1, 2]"
    assert program.end() in STOPPED


def test_file_named_like_a_module(start: Start, tmp_path: Path) -> None:
    """A file of the application's never takes the place of one of Python's own, but installed
    modules come after it."""
    (tmp_path / "pytest.py").write_text("ours = True\n")
    (tmp_path / "app.py").write_text(f"import pytest\npytest.ours\n{APPLICATION}")
    for name in ("grp", "typing", "mmap", "faulthandler"):
        (tmp_path / f"{name}.py").write_text("raise ValueError('not mine')\n")
    program = start(number=1).started()
    assert program.get() == b"version 1"
    assert program.end() in STOPPED


def test_one_idle_connection(start: Start) -> None:
    """It does not hold up the end."""
    program = start("--grace=600").started()
    with closing(connect(program.port)):
        assert program.end() in STOPPED


def test_daemon(start: Start, tmp_path: Path) -> None:
    """Without -n it goes on in the background, with a log and a pid file."""
    port = free_port()
    command = [f"{BIN}/twistd", "hangup", "--workers=2", f"--port={port}", "--grace=1"]
    program = start("--resource=app.Root", command=command)
    assert program.process.wait(PATIENCE) == 0
    pid = int((tmp_path / "twistd.pid").read_text())
    program.log = tmp_path / "twistd.log"
    try:
        wait_for(lambda: program.lines("Serving app.Root on http://127.0.0.1:"))
        before = program.pids()
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda: len(program.lines("serves")) == 4)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not (tmp_path / "twistd.pid").exists())
        assert not any(map(is_worker, [*before.values(), *program.pids().values()]))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_twist(start: Start, tmp_path: Path) -> None:
    """It serves in the same way, and a problem is one line."""
    port = free_port()
    command = [f"{BIN}/twist", "--log-format=text", "hangup", "--workers=2", f"--port={port}"]
    program = start("--resource=app.Root", command=command).started()
    program.port = port
    assert program.get() == b"version 1"
    assert program.end() in STOPPED
    with socket.create_server(("127.0.0.1", port)):
        program = start("--resource=app.Root", command=command)
        assert program.process.wait(PATIENCE) == 1
    assert program.lines(f"hangup: cannot listen on tcp:{port}: Address already in use")


def test_worker_that_ends_by_itself(start: Start, tmp_path: Path) -> None:
    """Also with a thread that never ends, the next one comes in time."""
    text = APPLICATION.replace(
        "    def version(",
        "    def leave(self, request):\n"
        "        import threading\n"
        "        threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "        reactor.stop()\n"
        "        return b'leaves'\n\n"
        "    def version(",
    )
    (tmp_path / "app.py").write_text(text)
    program = start("--grace=1", number=1).started()
    program.get("/leave")
    line = program.wait_for("of serving: exit status 0; the next one starts now")
    assert f"Worker 1 (pid {program.pids()[1]}) has ended after " in line
    program.wait_for("serves", times=2)
    assert program.get() == b"version 1"
    assert program.end() in STOPPED
