"""SIGTERM ends the program, whatever its application, its clients and its readers do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from support.processes import BIN, connect, free_port, listens, read_lines, read_until, running
from support.upstreams import Connection, RawServer
from support.wire import PATIENCE, Client, wait_for

#: Seconds that nobody waits for here: those of a grace that has to end early, and of what an
#: application does that has to be ended.
FOR_EVER: Final = 3600

APPLICATIONS: Final = f'''
import os
import time

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


def sleeping(environ, start_response):
    """Looks at nothing."""
    start_response("200 OK", [])(b"begun")
    time.sleep({FOR_EVER})
    return []


def writing(environ, start_response):
    """Writes for ever, to a client or to nobody."""
    write = start_response("200 OK", [])
    write(b"begun")
    while True:
        time.sleep(0.01)
        try:
            write(b".")
        except OSError:
            pass


def brief(environ, start_response):
    """Goes on when its client has left, but not for long."""
    start_response("200 OK", [])(b"begun")
    time.sleep(1)
    open("done", "w").close()
    return []


class Threads(Resource):
    """Keeps one of the reactor's own threads."""

    isLeaf = True

    def render_GET(self, request):
        deferToThread(time.sleep, {FOR_EVER})
        request.write(b"begun")
        return NOT_DONE_YET


class Blocking(Resource):
    """Lets the reactor do nothing else."""

    isLeaf = True

    def render_GET(self, request):
        request.channel.transport.socket.send(b"begun")
        time.sleep({FOR_EVER})
        return b""


class Shop(Resource):
    """Has something open that its requests need, and closes it at the reactor's shutdown."""

    isLeaf = True
    state = b"open"

    def __init__(self):
        super().__init__()
        reactor.addSystemEventTrigger("before", "shutdown", self.close)

    def close(self):
        self.state = b"closed"
        return deferLater(reactor, 0.1)

    def render_GET(self, request):
        def look():
            if os.path.exists("stop"):
                os.remove("stop")
                reactor.stop()
            if os.path.exists("go"):
                request.write(self.state)
                request.finish()
            else:
                reactor.callLater(0.01, look)

        request.write(b"begun")
        look()
        return NOT_DONE_YET
'''

GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

#: How a program ends that a signal has stopped: by that signal, in newer versions of Twisted.
STOPPED: Final = (0, -signal.SIGTERM)

Start = Callable[..., "Program"]


class Program:
    """``twistd -n hangup`` in a process of its own."""

    def __init__(self, *arguments: str, program: str = "twistd", **options: Any) -> None:
        self.port = free_port()
        command = [f"{BIN}/{program}", *(["-n"] if program == "twistd" else []), "hangup"]
        options.setdefault("stdout", subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [*command, f"--port={self.port}", *arguments], text=True, **options
        )

    def connect(self, wire: bytes = GET, until: bytes = b"begun") -> Client:
        client = connect(self.port).send(wire)
        assert client.read_until(until).endswith(until)
        return client

    def end(self) -> None:
        """Send SIGTERM, and wait."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) in STOPPED

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a program in a directory with these applications; it is killed in the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apps.py").write_text(APPLICATIONS)
    with ExitStack() as stack:

        def run(*arguments: str, **options: Any) -> Program:
            program = Program(*arguments, **options)
            stack.enter_context(program.process)
            stack.callback(program.process.kill)
            return program

        yield run


KEPT: Final = [
    "--wsgi=apps.sleeping",
    "--wsgi=apps.writing",
    "--resource=apps.Threads",
    "--resource=apps.Blocking",
]


@pytest.mark.parametrize("client_stays", [True, False])
@pytest.mark.parametrize("content", KEPT)
def test_application_that_outlives_the_grace(
    start: Start, content: str, client_stays: bool
) -> None:
    """Neither a thread nor the reactor itself keeps the process."""
    program = start(content, "--grace=1")
    client = program.connect()
    if not client_stays:
        client.close()
    program.end()
    client.close()
    assert not Path("twistd.pid").exists()


def test_more_calls_than_threads(start: Start) -> None:
    """Calls that wait for a thread keep nothing either."""
    program = start("--wsgi=apps.sleeping", "--grace=1", "--threads=2")
    clients = [program.connect() for _ in range(2)]
    clients += [connect(program.port).send(GET) for _ in range(5)]
    program.end()
    for client in clients:
        client.close()


def test_call_whose_client_has_left_has_the_grace_too(start: Start) -> None:
    """The work for a request often must be finished, and the process waits for it."""
    program = start("--wsgi=apps.brief", f"--grace={FOR_EVER}")
    program.connect().close()
    program.end()
    assert Path("done").exists()


@pytest.mark.parametrize(
    "program, options", [("twistd", []), ("twist", []), ("twistd", ["--workers=1"])]
)
def test_application_shuts_down_when_its_requests_have_ended(
    start: Start, program: str, options: list[str]
) -> None:
    """What it closes then, as an outbox, its last requests have still had."""
    running = start("--resource=apps.Shop", "--grace=30", *options, program=program)
    client = running.connect()
    running.process.terminate()
    wait_for(lambda: not listens(running.port))
    Path("go").touch()
    last = client.read_until(b"0\r\n\r\n")
    assert b"open" in last and b"closed" not in last
    client.close()
    assert running.process.wait(PATIENCE) in STOPPED


@pytest.mark.parametrize("options", [[], ["--workers=1"]])
def test_application_that_stops_the_reactor_meanwhile(start: Start, options: list[str]) -> None:
    """Its last request is finished all the same, and nobody stops the reactor twice."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    running = start("--resource=apps.Shop", "--grace=30", *options, **pipes)
    client = running.connect()
    running.process.terminate()
    wait_for(lambda: not listens(running.port))
    Path("stop").touch()
    wait_for(lambda: not Path("stop").exists())
    Path("go").touch()
    assert client.read_until(b"0\r\n\r\n").endswith(b"0\r\n\r\n")
    client.close()
    output, _ = running.process.communicate(timeout=PATIENCE)
    assert running.process.returncode in STOPPED
    assert "Traceback" not in output


def test_second_signal_ends_a_blocked_reactor(start: Start) -> None:
    """An operator who says it twice means it, though nobody is there to hear it."""
    program = start("--resource=apps.Blocking", f"--grace={FOR_EVER}")
    client = program.connect()
    threads = program.threads()
    program.process.terminate()
    wait_for(lambda: program.threads() > threads)  # the first was heard: two at once are one
    program.end()
    client.close()


def test_idle_client(start: Start) -> None:
    """A client that keeps its connection open is not waited for."""
    program = start(f"--grace={FOR_EVER}")
    client = program.connect(until=b"</html>\n")
    program.end()
    client.close()


# Readers that do not read.


#: Lines that no queue has room for, of a kilobyte each; a pipe takes 64 of them.
LINES: Final = 2_000

#: A request whose line in the access log has so many bytes.
LONG: Final = b"GET /nix HTTP/1.1\r\nHost: a\r\nUser-Agent: %b\r\n\r\n" % (b"u" * 1000)
LOGGED: Final = f'"GET /nix HTTP/1.1" 404 34 "-" "{"u" * 1000}"\n'


def answer(program: Program, requests: int) -> None:
    """Let *program* answer so many requests."""
    client = connect(program.port).send(LONG * requests).end()
    assert client.read_all().count(b"\r\n\r\nThere is no page at this address.\n") == requests
    client.close()


def refuse(program: Program, requests: int) -> None:
    """Let *program* refuse so many requests, each with a line of four kilobytes."""
    for _ in range(requests // 4):
        client = connect(program.port).send(b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\n \r\n").end()
        assert client.read_all().startswith(b"HTTP/1.1 400 ")
        client.close()


@pytest.mark.parametrize(
    "log, fill",
    [("--access-log=-", answer), ("--error-log=-", refuse)],
    ids=lambda value: str(value)[:8],
)
@pytest.mark.parametrize("program", ["twistd", "twist"])
def test_standard_output_that_nobody_reads(
    start: Start, program: str, log: str, fill: Callable[[Program, int], None]
) -> None:
    """All requests are answered, and it ends."""
    run = start(
        *(log, "--error-log-per-second=0", f"--grace={FOR_EVER}"),
        program=program,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    fill(run, LINES)
    run.end()


def test_what_standard_output_has_lost_is_counted(start: Start) -> None:
    """A reader that comes back finds whole lines, and how many are missing."""
    program = start("--access-log=-", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    answer(program, LINES)
    lines = read_until("lines are lost", program.process)
    lost = int(lines[-1].partition("works again; ")[2].split()[0])
    access = [line for line in lines if line.startswith("127.0.0.1 - - [")]
    assert all(line.endswith(LOGGED) for line in access)
    # Among those lost is the one that told of it.
    assert lost > 0 and len(access) + lost in (LINES, LINES + 1)
    program.process.terminate()
    rest, _ = program.process.communicate(timeout=PATIENCE)
    assert "Traceback" not in rest
    assert rest.endswith("Server Shut Down.\n")


@pytest.mark.parametrize("program", ["twistd -n", "twist"])
def test_no_standard_output(tmp_path: Path, program: str) -> None:
    """A program that was started without any serves as well, and ends."""
    port = free_port()
    command = f"exec {BIN}/{program} hangup --port {port} --grace 0 <&- >&- 2>&-"
    with running(tmp_path, "sh", "-c", command):
        client = connect(port).send(GET)
        assert client.read_until(b"</html>\n").startswith(b"HTTP/1.1 200 ")
        client.close()


def test_terminal_that_is_stopped(start: Start) -> None:
    """Whoever types Ctrl-S wants to read, and stops nothing."""
    keys, terminal = os.openpty()
    output = {"stdout": terminal, "stderr": subprocess.STDOUT}
    program = start("--access-log=-", f"--grace={FOR_EVER}", **output)
    answer(program, LINES)
    program.end()
    os.close(terminal)
    os.close(keys)


def test_lines_that_wait_are_written_at_the_end(start: Start) -> None:
    """What a reader takes at all is not cut off."""
    program = start("--access-log=-", stdout=subprocess.PIPE)
    answer(program, 300)
    program.process.terminate()
    output, _ = program.process.communicate(timeout=PATIENCE)
    assert output.count(LOGGED) == 300
    assert output.endswith("Server Shut Down.\n")


def test_fifo_without_a_reader(start: Start) -> None:
    """It serves without one, whoever comes to read gets what was kept, and it ends."""
    os.mkfifo("fifo")
    program = start("--access-log=fifo", f"--grace={FOR_EVER}")
    answer(program, 100)
    fifo = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert all(line.endswith(LOGGED) for line in read_lines(fifo, 100))
    answer(program, LINES)
    program.end()
    os.close(fifo)


# Tunnels.

UPGRADE: Final = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHING: Final = b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n"


def echoing(connection: Connection) -> None:
    connection.read_head()
    connection.send(SWITCHING)
    while data := connection.socket.recv(65536):
        connection.send(data)


@pytest.fixture
def tunnel(start: Start) -> Iterator[Callable[..., tuple[Program, Client]]]:
    """A program with a proxy, and a client that has a tunnel through it."""
    server = RawServer(echoing)

    def run(grace: int) -> tuple[Program, Client]:
        program = start(f"--proxy={server.url}", f"--grace={grace}")
        return program, program.connect(UPGRADE, b"\r\n\r\n")

    yield run
    server.close()


def test_tunnel_goes_on_until_it_ends(tunnel: Callable[..., tuple[Program, Client]]) -> None:
    """It is work under way; nothing else keeps the process."""
    program, client = tunnel(FOR_EVER)
    program.process.terminate()
    wait_for(lambda: not listens(program.port))
    client.send(b"more")
    assert client.read_until(b"more") == b"more"
    client.close()
    assert program.process.wait(PATIENCE) in STOPPED


def test_tunnel_has_the_grace_and_no_more(
    tunnel: Callable[..., tuple[Program, Client]],
) -> None:
    """It is reset then, at both ends."""
    program, client = tunnel(2)
    since = time.monotonic()
    program.process.terminate()
    with pytest.raises(ConnectionResetError):
        client.read_all()
    assert time.monotonic() - since > 1.9
    client.close()
    assert program.process.wait(PATIENCE) in STOPPED
