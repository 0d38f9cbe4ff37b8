"""``twistd hangup`` as an operator types it: processes, exit codes, pid files and signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import pem
from support.processes import BIN, connect, end, free_port, read_until, run, running
from support.wire import BAD, PATIENCE, Client, wait_for

SLOW = '''
from pathlib import Path

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Slow(Resource):
    """Answers when there is a file of the name that the path says."""

    isLeaf = True

    def render_GET(self, request):
        gone = []
        request.notifyFinish().addErrback(gone.append)

        def look():
            if Path(request.path[1:].decode()).exists():
                request.finish()
            elif not gone:
                reactor.callLater(0.01, look)

        look()
        request.write(b"begun")
        return NOT_DONE_YET
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator's working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield str(listening.getsockname()[1])


@pytest.fixture
def server(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """``twistd -n hangup`` with a slow resource; its port is in the file ``port``."""
    port = free_port()
    (folder / "port").write_text(str(port))
    command = ["twistd", "-n", "hangup", f"--port={port}", "--resource=slow.Slow", "--grace=30"]
    with subprocess.Popen(
        [BIN / command[0], *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_help_lists_the_command_and_imports_nothing_of_ours(folder: Path) -> None:
    """Whoever uses twistd for something else does not pay for us."""
    program = (
        "import sys; from twisted.application.app import ServerOptions; "
        "assert 'hangup' in [name for name, *_ in ServerOptions().subCommands]; "
        "sys.exit('twisted_hangup' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=False, timeout=PATIENCE).returncode == 0


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--port", "abc"], "hangup: --port: 'abc' is neither a port number nor an endpoint"),
        (["--resource", "slow.Fast"], "hangup: --resource: slow.Fast: module 'slow' has no"),
    ],
)
@pytest.mark.parametrize("program", [["twistd", "-n"], ["twistd"], ["twist"]], ids=" ".join)
def test_mistakes_are_one_line(
    folder: Path, program: list[str], arguments: list[str], line: str
) -> None:
    """A mistake is one line on standard error, status 1, and nothing is left behind."""
    ended = run(*program, "hangup", *arguments)
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""
    assert ended.returncode == 1
    assert not [*folder.glob("twistd.*")]


@pytest.mark.parametrize("program", [["twistd", "-n"], ["twist"]], ids=" ".join)
def test_port_in_use(folder: Path, program: list[str], taken: str) -> None:
    """A port in use ends the program with one line, though it has started already."""
    ended = run(*program, "hangup", "--port", taken)
    assert ended.stderr == f"hangup: cannot listen on port {taken}: Address already in use\n"
    assert "Traceback" not in ended.stdout
    assert ended.returncode == 1
    assert not [*folder.glob("twistd.*")]


def test_port_in_use_of_a_daemon(folder: Path, taken: str) -> None:
    """The terminal that starts a daemon learns that it cannot listen; the log says it too."""
    problem = f"cannot listen on port {taken}: Address already in use"
    ended = run("twistd", "hangup", "--port", taken)
    assert problem in ended.stderr
    assert ended.returncode == 1
    log = (folder / "twistd.log").read_text()
    assert problem in log
    assert "Traceback" not in log
    # The daemon ends after it has told the terminal.
    wait_for(lambda: not (folder / "twistd.pid").exists())


@pytest.mark.parametrize(
    "port, url",
    [
        ("{}", "http://127.0.0.1:{}/"),
        ("tcp6:{}:interface=\\:\\:1", "http://[::1]:{}/"),
        ("ssl:{}:privateKey=server.pem", "https://127.0.0.1:{}/"),
        ("unix:web.sock", "the UNIX socket web.sock"),
    ],
)
def test_start_says_what_to_open(folder: Path, port: str, url: str) -> None:
    """What is served, and where, is a line that a terminal makes a link of."""
    (folder / "server.pem").write_bytes(pem())
    number = free_port()
    command = [f"{BIN}/twistd", "-n", "hangup", "--path=.", f"--port={port.format(number)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = read_until("Serving", process)[-1]
            assert re.search(rf" Serving \. on {re.escape(url.format(number))}( \(|$)", line)
        finally:
            process.kill()


def test_start_says_all_that_can_be_opened(folder: Path) -> None:
    """Each port has its link, in the order in which they were given."""
    (folder / "server.pem").write_bytes(pem())
    plain, secure = free_port(), free_port()
    command = [f"{BIN}/twistd", "-n", "hangup", "--path=.", f"--port={plain}"]
    command.append(f"--port=ssl:{secure}:privateKey=server.pem")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = read_until("Serving", process)[-1]
            assert f" on http://127.0.0.1:{plain}/ and https://127.0.0.1:{secure}/" in line
        finally:
            process.kill()


def test_daemon(folder: Path) -> None:
    """A daemon serves, keeps a pid file, tells errors to its log, and ends at SIGTERM."""
    port = free_port()
    started = run("twistd", "hangup", "--port", str(port), "--access-log", "access")
    assert (started.returncode, started.stderr) == (0, "")
    words = "hangup: goes on in the background; twistd -n hangup stays in the foreground\n"
    assert started.stdout == words
    pid_file = folder / "twistd.pid"
    pid = int(pid_file.read_text())
    try:
        client = connect(port).send(BAD)
        assert client.read_all().startswith(b"HTTP/1.1 400 ")
        client.close()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not pid_file.exists())
    assert '400 HPE_INVALID_HEADER_TOKEN "' in (folder / "twistd.log").read_text()
    assert '" 400 59 ' in (folder / "access").read_text()


@pytest.mark.parametrize("output", [">/dev/full", "| true"])
def test_daemon_that_cannot_say_so(folder: Path, output: str) -> None:
    """It starts all the same, as from a script whose output nobody takes."""
    port = free_port()
    command = f"sleep 0.5; exec {BIN}/twistd hangup --port {port}"
    subprocess.run(["sh", "-c", f"({command}) {output}"], check=True, timeout=PATIENCE)
    connect(port).close()
    os.kill(int((folder / "twistd.pid").read_text()), signal.SIGTERM)
    wait_for(lambda: not (folder / "twistd.pid").exists())


def test_sigterm_lets_requests_finish(folder: Path, server: subprocess.Popen[str]) -> None:
    """SIGTERM closes the port at once and ends the process with the last response."""
    port = int((folder / "port").read_text())
    client = connect(port).send(b"GET /enough HTTP/1.1\r\nHost: a\r\n\r\n")
    client.read_until(b"begun")
    server.terminate()
    read_until("Stopping: 1 open connection to finish in 30 seconds", server)
    (folder / "enough").touch()
    response = client.read_all()
    client.close()
    assert response.endswith(b"0\r\n\r\n")
    output, _ = server.communicate(timeout=PATIENCE)
    assert "Traceback" not in output
    assert not (folder / "twistd.pid").exists()


def test_second_sigterm_ends_the_wait(folder: Path, server: subprocess.Popen[str]) -> None:
    """An operator who says it twice means it."""
    port = int((folder / "port").read_text())
    client = connect(port).send(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
    client.read_until(b"begun")
    server.terminate()
    read_until("Stopping: 1 open", server)
    server.terminate()
    output, _ = server.communicate(timeout=PATIENCE)
    assert "Hanging up on 1 client\n" in output
    assert "Traceback" not in output
    client.close()


def test_failures_do_not_fill_the_log(folder: Path) -> None:
    """Each failing request is in the log, with its traceback or in a count; no second has many."""
    (folder / "broken.py").write_text(
        "from twisted.web.resource import Resource\n"
        "class Broken(Resource):\n"
        "    isLeaf = True\n"
        "    def render_GET(self, request): raise ZeroDivisionError\n"
    )
    port = free_port()
    command = [f"{BIN}/twistd", "-n", "hangup", f"--port={port}", "--resource=broken.Broken"]
    with running(folder, *command, stdout=subprocess.PIPE, text=True) as server:
        client = connect(port).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
        received = b""
        while received.count(b"HTTP/1.1 500 ") < 1000:
            received += (more := client.socket.recv(65536))
            assert more, received
        client.close()
        output = end(server)
    lines = [line for line in output.splitlines() if "#info]" not in line]
    counts = re.findall(r"and ([\d,]+) more failures with ZeroDivisionError", output)
    whole = output.count("Traceback (most recent call last):")
    assert whole + sum(int(count.replace(",", "")) for count in counts) == 1000
    seconds = Counter(line[:19] for line in lines if line.startswith("20"))
    assert len(lines) <= 50 * len(seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_few_files(folder: Path) -> None:
    """With few files to open, clients wait their turn, in one line a second and no haste."""
    port = free_port()
    alone = "--max-connections-per-address 0"
    shell = f"ulimit -n 64; exec {BIN}/twistd -n hangup --port {port} {alone}"
    with subprocess.Popen(
        ["sh", "-c", shell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            since = time.monotonic()
            clients = [connect(port)]
            clients += [Client(port) for _ in range(80)]
            for client in clients:
                client.send(b"GET /nix HTTP/1.1\r\nHost: a\r\n\r\n")
            clients[0].read_until(b"address.\n")
            wait_for(lambda: cpu_seconds_in_a_second(server.pid) < 0.3)
            clients.pop(0).close()
            for client in clients:
                assert client.read_until(b"address.\n").startswith(b"HTTP/1.1 404 ")
                client.close()
        finally:
            output = end(server)
    assert "new clients wait until one ends" in output
    assert output.count("new clients wait") <= time.monotonic() - since + 2
    assert "EMFILE" not in output


def cpu_seconds_in_a_second(pid: int) -> float:
    before = cpu_seconds(pid)
    time.sleep(1)
    return cpu_seconds(pid) - before


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor; Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
