"""Several workers and one view: one status page, one set of metrics, one error log."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from support.processes import connect, free_port, read_lines
from support.wire import BAD, PATIENCE, wait_for
from support.workers import APPLICATION, STOPPED, Program, prlimit
from support.workers import start as start

from twisted_hangup.service.workers.view import ASK_SECONDS

Start = Callable[..., Program]

ROOT: Final = Path(__file__).parents[3]


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://localhost:{port}/{path}", timeout=PATIENCE) as response:
        text: str = response.read().decode()
        return text


def snapshot(port: int) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(fetch(port, "snapshot"))
    return result


def metrics(port: int) -> dict[str, float]:
    """The value of each sample, by its name and its labels; all workers were asked for them."""
    text = ""

    def all_answer() -> bool:  # in time, or the page would have waited for them
        nonlocal text
        since = time.monotonic()
        text = fetch(port, "metrics")
        return time.monotonic() - since < ASK_SECONDS

    wait_for(all_answer)
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in parse(text)
        for sample in family.samples
    }


def break_http(program: Program, number: int = 1) -> None:
    """So many broken requests at a time, and their answers."""
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(program.port))) for _ in range(number)]
        for client in clients:
            client.send(BAD)
        for client in clients:
            client.read_all()


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of an error log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def workers_of(errors: list[dict[str, Any]]) -> set[int]:
    return {error["worker"] for error in errors if "worker" in error}


def test_one_view(start: Start, tmp_path: Path) -> None:
    """All errors and requests are there, with their worker, also after a death and a SIGHUP."""
    status = free_port()
    program = start(f"--status={status}", "--error-log=errors.log").started()
    assert len(program.lines("The status page is on")) == 1
    sent = 0

    def both_have_errors() -> bool:
        nonlocal sent
        break_http(program, 8)
        sent += 8
        return workers_of(records(tmp_path / "errors.log")) == {1, 2}

    wait_for(both_have_errors)
    program.get()
    wait_for(lambda: snapshot(status)["by_code"] == {"HPE_INVALID_HEADER_TOKEN": sent})
    wait_for(lambda: all(entry["settled"] for entry in snapshot(status)["entries"]))
    before = snapshot(status)
    assert workers_of(before["entries"]) == {1, 2}
    numbers = [entry["number"] for entry in before["entries"]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == min(sent, 100)
    assert before["by_status"] == {"400": sent}
    names = {"number", "pid", "up", "connections", "lost_records"}
    assert all(one.keys() == names for one in before["workers"])
    assert [(one["number"], one["pid"], one["up"]) for one in before["workers"]] == [
        (number, pid, True) for number, pid in sorted(program.pids().items())
    ]
    # Asked just now, so nothing is missing.
    counted = metrics(status)
    assert counted["hangup_requests_total['200', 'GET']"] == 1
    assert counted["hangup_client_errors_total['HPE_INVALID_HEADER_TOKEN', 'head']"] == sent
    assert counted["hangup_request_duration_seconds_count[]"] == 1
    assert counted["hangup_worker_up['1']"] == counted["hangup_worker_up['2']"] == 1

    client = program.begin("/slow")
    wait_for(lambda: snapshot(status)["connections"] == 1)
    counted = metrics(status)
    assert counted["hangup_open_connections['response']"] == 1
    held = [counted[f"hangup_worker_connections['{number}']"] for number in (1, 2)]
    assert sorted(held) == [0, 1]

    # The busy one is killed.
    os.kill(program.pids()[1 + held.index(1)], signal.SIGKILL)
    client.close()
    program.wait_for("perhaps out of memory")
    wait_for(lambda: snapshot(status)["connections"] == 0)
    after_death = metrics(status)
    assert after_death["hangup_requests_total['200', 'GET']"] == 1
    assert after_death["hangup_open_connections['response']"] == 0
    program.wait_for("serves", times=3)

    program.process.send_signal(signal.SIGHUP)
    program.wait_for("serves", times=5)
    wait_for(lambda: len(program.lines(") has ended")) == 3)
    break_http(program)
    assert metrics(status)["hangup_requests_total['200', 'GET']"] == 1
    wait_for(lambda: sum(snapshot(status)["by_code"].values()) == sent + 1)
    after = snapshot(status)
    assert after["since"] == before["since"]
    assert after["entries"][-1]["number"] == sent + 1
    assert after["rates"][0][0] == before["rates"][0][0]
    assert program.end() in STOPPED
    assert not program.lines("Traceback")


def test_last_words_of_a_worker(start: Start, tmp_path: Path) -> None:
    """What a worker that is asked to end has not passed on yet is in the log all the same."""
    program = start("--error-log=errors.log", "--access-log=-").started()
    sent = 40
    for _ in range(sent):
        break_http(program)
    assert program.end() in STOPPED
    assert len(program.lines('" 400 ')) == sent
    lines = records(tmp_path / "errors.log")
    counted = sum(line.get("suppressed", 1) for line in lines)
    assert counted == sent


def test_one_flood_gate(start: Start, tmp_path: Path) -> None:
    """The bound of the error log is that of all workers together, and no error goes uncounted."""
    program = start("--error-log=errors.log", "--error-log-per-second=5").started()
    sent = 0
    begun = time.monotonic()
    while time.monotonic() - begun < 2 or sent < 100:
        break_http(program, 10)
        sent += 10
    assert program.end() in STOPPED
    lines = records(tmp_path / "errors.log")
    assert sum(line.get("suppressed", 1) for line in lines) == sent
    # The gate has passed seconds of its own, the first and the last of them in part.
    passed = time.monotonic() - begun
    assert sum("reason" in line for line in lines) <= 5 * (passed + 2)


def test_long_line_on_standard_output(start: Start) -> None:
    """A line of the access log is whole, however long it is."""
    program = start("--access-log=-").started()
    path = "/" + "a" * 12_000
    program.get(path)
    line = program.wait_for(f"GET {path[:20]}")
    assert f'"GET {path} HTTP/1.0" 500 ' in line
    assert program.end() in STOPPED


def test_fifo(start: Start, tmp_path: Path) -> None:
    """A FIFO has its lines from the first process, so that they cannot mix."""
    os.mkfifo(tmp_path / "fifo")
    program = start("--access-log=fifo").started()
    # Opened for writing, too: that waits for nobody.
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    for _ in range(3):
        program.get("/" + "a" * 6000)
    lines = read_lines(fifo, 3)
    assert all(re.search(r'"GET /a{6000} HTTP/1.0" 500 .*\n$', line) for line in lines)
    assert program.end() in STOPPED
    os.close(fifo)


def python_of_everybody() -> tuple[str, str]:
    """An interpreter of this version that any user may run, and a path with our packages."""
    interpreter, minor = "/usr/bin/python3", sys.version_info[:2]
    script = "import sys, twisted_hangup, twisted; print(*sys.version_info[:2])"
    path = os.pathsep.join([str(ROOT), *(one for one in sys.path if "site-packages" in one)])
    with suppress(OSError, subprocess.CalledProcessError):
        text = subprocess.check_output(
            [interpreter, "-c", script],
            user=65534,
            env={"PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
            cwd="/",
            timeout=PATIENCE,
        )
        if text.split() == [b"%d" % one for one in minor]:
            return interpreter, path
    pytest.skip("nobody may run this Python and our packages")


def test_rotation_while_a_worker_is_out_of_files(start: Start, tmp_path: Path) -> None:
    """It serves on, and writes to the old file."""
    log = tmp_path / "access.log"
    program = start(f"--access-log={log}", number=1).started()
    pid = program.pids()[1]
    with closing(connect(program.port)) as client:
        client.send(b"GET /?first HTTP/1.1\r\nHost: a\r\n\r\n")
        client.read_until(b"version 1")
        prlimit(pid, "--nofile=3:")
        log.rename(tmp_path / "old.log")
        program.process.send_signal(signal.SIGUSR1)
        line = program.wait_for("Cannot reopen the access log: ")
        assert line.endswith("Too many open files; it goes on in the old file")
        client.send(b"GET /?last HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: "GET /?last" in (tmp_path / "old.log").read_text())
    assert program.pids()[1] == pid
    assert program.end() in STOPPED


def test_logs_that_only_root_may_open(start: Start) -> None:
    """With --uid the first process opens them before that, and its workers use its files."""
    if os.getuid():
        pytest.skip("only root can give up root")
    interpreter, path = python_of_everybody()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "index.html").write_text("hello")
        port = free_port()
        run = "from twisted.scripts.twistd import run; run()"
        twistd = [interpreter, "-c", run, "-n", "--pidfile=", "--uid=65534", "--gid=65534"]
        program = start(
            f"--port=tcp:{port}:interface=127.0.0.1",
            *("--workers=2", f"--path={root}", "--access-log=a.log", "--error-log=e.log"),
            command=[*twistd, "hangup"],
            env={**os.environ, "PYTHONPATH": path},
            cwd=folder,
        ).started()
        program.port = port
        access, errors = root / "a.log", root / "e.log"
        assert access.stat().st_uid == errors.stat().st_uid == 0
        break_http(program)
        wait_for(lambda: len(access.read_text().splitlines()) == 1)
        # A new file that its user may not open: it goes on in the old one.
        access.rename(root / "old.log")
        program.process.send_signal(signal.SIGUSR1)
        program.wait_for("Cannot reopen the access log: ")
        break_http(program)
        wait_for(lambda: len((root / "old.log").read_text().splitlines()) == 2)
        # And one that logrotate has made for it: nobody's, in root's directory.
        access.touch()
        os.chown(access, 65534, 65534)
        program.process.send_signal(signal.SIGUSR1)
        program.wait_for("The logs are reopened", times=2)
        break_http(program)
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("serves", times=4)
        break_http(program)
        assert program.end() in STOPPED
        assert len(access.read_text().splitlines()) + len(
            (root / "old.log").read_text().splitlines()
        ) == len(errors.read_text().splitlines())
        assert access.read_text()
        assert not program.lines("Traceback")


def test_records_that_are_dropped(start: Start, tmp_path: Path) -> None:
    """They are counted on the page, in a metric and in one line of the log."""
    text = APPLICATION.replace(
        "    def version(",
        "    def talk(self, request):\n"
        "        from twisted.logger import Logger\n"
        "        for _ in range(100):\n"
        "            Logger().info('x' * 60_000)\n"
        "        return b'talked'\n\n"
        "    def version(",
    )
    (tmp_path / "app.py").write_text(text)
    status = free_port()
    program = start(f"--status={status}").started()
    assert program.get("/talk") == program.get("/talk") == b"talked"
    wait_for(lambda: sum(one["lost_records"] for one in snapshot(status)["workers"]) > 100)

    def lost_records() -> int:
        lost: int = sum(one["lost_records"] for one in snapshot(status)["workers"])
        return lost

    wait_for(lambda: len(program.lines("xxxx")) == 200 - lost_records())
    lost = lost_records()
    counted = metrics(status)
    assert sum(counted[f"hangup_worker_lost_records_total['{one}']"] for one in (1, 2)) == lost
    assert len(program.lines("had to drop")) == 1
    assert len(program.lines("xxxx")) == 200 - lost
    assert program.end() in STOPPED


def test_page_on_an_endpoint(start: Start) -> None:
    """The token is one for all, and is logged once."""
    status = free_port()
    program = start(f"--status=tcp:{status}:interface=0.0.0.0").started()
    line = program.wait_for("asks for the token")
    token = line.split()[-1]
    request = urllib.request.Request(
        f"http://127.0.0.1:{status}/metrics", headers={"Authorization": f"Bearer {token}"}
    )
    for _ in range(4):
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert response.status == 200
    assert program.end() in STOPPED
