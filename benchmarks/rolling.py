"""That no client notices when all workers are replaced, again and again.

    python benchmarks/rolling.py [--rolls 20] [--workers 2] [--only http.client]

``twistd hangup --workers`` serves HTTP/1.1 and TLS with HTTP/2, and gets a SIGHUP as soon as the
one before is done.  Meanwhile clients of many kinds ask: new connections, kept ones
(``http.client``, ``urllib3``, Node's fetch, ``wrk``), slow requests, uploads in pieces, TLS, HTTP/2
(``curl``, and h2 with a client that obeys GOAWAY).  Printed are the requests of each, and those
that were refused, reset, or not answered: there has to be none.

Apart are connections that are idle for the whole keep-alive time.  They are closed while their
client may be sending, which no server can rule out.

``urllib3``, Node, ``wrk`` and ``curl`` are left out if they are not here.  Exits with 1 if a
request was lost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
from h2.connection import ConnectionInputs, H2ConnectionStateMachine
from measure import ROOT, free_port, node, wait_for
from servers import make_certificate, trusting

#: How long a kept connection may be idle, and a request take.
KEEP_ALIVE_SECONDS = 3
GRACE_SECONDS = 20

#: How long a client waits for an answer.
PATIENCE_SECONDS = 30.0

BODY = b"hello\n"
UPLOAD = [bytes(8192)] * 6

APPLICATION = """
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Root(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path != b"/slow":
            return b"hello\\n"
        deferLater(reactor, 0.5, request.write, b"hello\\n").addCallback(lambda _: request.finish())
        return NOT_DONE_YET

    def render_POST(self, request):
        return b"hello\\n" if len(request.content.read()) == 6 * 8192 else b"cut"
"""

FETCH = """
let stopped = false, requests = 0;
const failures = {};
async function ask(url) {
  while (!stopped) {
    try {
      const response = await fetch(url);
      if (response.status !== 200 || await response.text() !== "hello\\n") throw Error("answer");
      requests++;
    } catch (error) {
      const why = error.cause?.code ?? error.message;
      failures[why] = (failures[why] ?? 0) + 1;
    }
    await new Promise(done => setTimeout(done, 20));
  }
}
process.stdin.on("end", () => { stopped = true }).resume();
Promise.all([1, 2, 3, 4].map(() => ask(process.argv[1])))
  .then(() => console.log(JSON.stringify({requests, failures})));
"""

#: Milliseconds that wrk waits between two requests of a connection.
DELAY = "function delay() return 20 end"


class Ports(NamedTuple):
    plain: int
    secure: int


class Totals:
    """What the clients of one kind have seen.

    Attributes:
        requests: How many were answered well.
        failures: How many were not, by what was seen instead.
        slowest: The longest wait for an answer, in seconds; 0 if it is not known.
    """

    def __init__(self, kind: str, apart: bool = False) -> None:
        self.kind = kind
        self.apart = apart
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.slowest = 0.0

    def add(self, other: Totals) -> None:
        self.requests += other.requests
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest)

    @property
    def lost(self) -> int:
        return self.failures.total()

    def __str__(self) -> str:
        wait = f"{self.slowest * 1e3:8.0f} ms" if self.slowest else ""
        causes = ", ".join(f"{count} {why}" for why, count in self.failures.items())
        return f"{self.kind:<32}{self.requests:>9}{self.lost:>7}{wait:>12}  {causes}".rstrip()


class Asker(Thread):
    """One client of a kind, in a thread."""

    def __init__(self, totals: Totals, visits: Callable[[], Iterator[Any]], gap: float) -> None:
        super().__init__(daemon=True)
        self.totals = Totals(totals.kind)
        self.stopped = Event()
        self._visits = visits
        self._gap = gap

    def run(self) -> None:
        visits = self._visits()
        while not self.stopped.wait(self._gap):
            began = time.monotonic()
            try:
                answered = next(visits)
            except Exception as error:  # whatever a client's library makes of it
                self.totals.failures[type(error).__name__] += 1
                visits = self._visits()
                continue
            self.totals.requests += answered
            self.totals.slowest = max(self.totals.slowest, time.monotonic() - began)
        visits.close()  # type: ignore[attr-defined]


def check(status: int, body: bytes) -> None:
    if status != 200 or body != BODY:
        raise ValueError(f"{status} {body[:20]!r}")


def visits(
    port: int, path: str = "/", *, tls: bool = False, kept: bool = True, body: Any = None
) -> Iterator[int]:
    """Requests with ``http.client``, which connects anew when a response says close."""
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS, context=trusting())
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    )
    try:
        while True:
            method = "GET" if body is None else "POST"
            connection.request(method, path, body and body())
            response = connection.getresponse()
            check(response.status, response.read())
            if not kept:
                connection.close()
            yield 1
    finally:
        connection.close()


def pieces() -> Iterator[bytes]:
    """A body that takes 0.3 seconds; http.client sends it in chunks."""
    for piece in UPLOAD:
        time.sleep(0.05)
        yield piece


def with_urllib3(port: int) -> Iterator[int]:
    import urllib3

    with urllib3.PoolManager(retries=False, timeout=PATIENCE_SECONDS) as pool:
        while True:
            response = pool.request("GET", f"http://127.0.0.1:{port}/")
            check(response.status, response.data)
            yield 1


def with_curl(port: int) -> Iterator[int]:
    """30 requests on a connection, as long as it stays open."""
    command = [
        "curl",
        "-sk",
        "--http2",
        "-m",
        str(PATIENCE_SECONDS),
        "-w",
        "%{http_code} %{errormsg}\n",
    ]
    url = f"https://127.0.0.1:{port}/?[1-30]"
    while True:
        run = subprocess.run([*command, "-o", "/dev/null", url], stdout=subprocess.PIPE, text=True)
        bad = [line for line in run.stdout.splitlines() if not line.startswith("200")]
        if run.returncode or bad:
            raise RuntimeError(f"{run.returncode} {bad}")
        yield 30


class GoingOn(H2ConnectionStateMachine):
    """h2's state of a connection, which takes no frame after a GOAWAY; its streams go on."""

    def process_input(self, input_: ConnectionInputs) -> list[Any]:
        before = self.state
        events: list[Any] = super().process_input(input_)
        if input_ is ConnectionInputs.RECV_GOAWAY:
            self.state = before
        return events


class HTTP2:
    """A connection that opens no more streams after a GOAWAY.

    Attributes:
        going: Whether that has come.
    """

    def __init__(self, port: int) -> None:
        context = trusting("h2")
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self.socket = context.wrap_socket(plain)
        self.going = False
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
        self._h2.state_machine = GoingOn()
        self._h2.initiate_connection()

    def ask(self, paths: Sequence[str]) -> None:
        """Open streams for *paths* at once, and wait for the answers.

        Raises:
            ConnectionError: A stream was reset, or the connection has ended before.
        """
        waiting: dict[int, tuple[str, bytes]] = {}
        for path in paths:
            stream = self._h2.get_next_available_stream_id()
            fields = {":method": "GET", ":scheme": "https", ":authority": "a", ":path": path}
            self._h2.send_headers(stream, list(fields.items()), end_stream=True)
            waiting[stream] = "", b""
        self._flush()
        while waiting:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("ended")
            for event in self._h2.receive_data(data):
                self._act(event, waiting)
            self._flush()

    def _act(self, event: Any, waiting: dict[int, tuple[str, bytes]]) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.going = True
            last = event.last_stream_id or 0
            if event.error_code or any(one > last for one in waiting):
                raise ConnectionError(f"GOAWAY {event.error_code}, {last}")
        elif isinstance(event, h2.events.ResponseReceived):
            fields: dict[Any, Any] = dict(event.headers)
            waiting[event.stream_id] = fields[":status"], b""
        elif isinstance(event, h2.events.DataReceived):
            status, body = waiting[event.stream_id]
            waiting[event.stream_id] = status, body + event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            status, body = waiting.pop(event.stream_id)
            check(int(status), body)
        elif isinstance(event, h2.events.StreamReset):
            raise ConnectionError(f"reset {event.error_code}")

    def _flush(self) -> None:
        self.socket.sendall(self._h2.data_to_send())


def with_h2(port: int) -> Iterator[int]:
    """A slow stream and some that are fast, again and again."""
    paths = ["/", "/slow", "/", "/"]
    while True:
        connection = HTTP2(port)
        try:
            while not connection.going:
                connection.ask(paths)
                yield len(paths)
        finally:
            connection.socket.close()


class Program(NamedTuple):
    """A client in a process of its own, which ends when its standard input does, or by SIGINT."""

    command: Sequence[str]
    read: Callable[[str], tuple[int, Counter[str]]]


def with_fetch(port: int) -> Program:
    def read(output: str) -> tuple[int, Counter[str]]:
        totals = json.loads(output)
        return totals["requests"], Counter(totals["failures"])

    return Program([node() or "", "-e", FETCH, f"http://127.0.0.1:{port}/"], read)


def with_wrk(port: int, folder: Path) -> Program:
    def read(output: str) -> tuple[int, Counter[str]]:
        answered = re.search(r"(\d+) requests in", output)
        assert answered, output
        failures = Counter(
            {name: int(count) for name, count in re.findall(r"(connect|read|write) (\d+)", output)}
        )
        if bad := re.search(r"Non-2xx or 3xx responses: (\d+)", output):
            failures["status"] = int(bad[1])
        return int(answered[1]), +failures

    (folder / "delay.lua").write_text(DELAY)
    command = ["wrk", "-t1", "-c4", "-d1h", "-s", str(folder / "delay.lua")]
    return Program([*command, f"http://127.0.0.1:{port}/"], read)


class Clients:
    """All clients of all kinds, while they ask."""

    def __init__(self, ports: Ports, folder: Path, only: str) -> None:
        self.totals: list[Totals] = []
        self._askers: list[tuple[Totals, Asker]] = []
        self._programs: list[tuple[Totals, Program, subprocess.Popen[str]]] = []
        self._only = only
        plain, secure = ports
        self._ask("new connections", lambda: visits(plain, kept=False), 4, 0.02)
        self._ask("http.client", lambda: visits(plain), 4, 0.02)
        if find_spec("urllib3"):
            self._ask("urllib3", lambda: with_urllib3(plain), 4, 0.02)
        if node():
            self._run("Node's fetch", with_fetch(plain))
        if shutil.which("wrk"):
            self._run("wrk", with_wrk(plain, folder))
        self._ask("kept, idle for 0.4 s", lambda: visits(plain), 8, 0.4)
        self._ask("slow requests", lambda: visits(plain, "/slow"), 4, 0.02)
        self._ask("uploads in pieces", lambda: visits(plain, body=pieces), 4, 0.02)
        self._ask("TLS, new connections", lambda: visits(secure, tls=True, kept=False), 2, 0.05)
        self._ask("TLS, http.client", lambda: visits(secure, tls=True), 4, 0.02)
        self._ask("HTTP/2, h2", lambda: with_h2(secure), 4, 0.02)
        if shutil.which("curl"):
            self._ask("HTTP/2, curl", lambda: with_curl(secure), 1, 0.2)
        idle = lambda: visits(plain)  # noqa: E731
        self._ask("idle for all the time", idle, 4, KEEP_ALIVE_SECONDS, apart=True)
        for _, asker in self._askers:
            asker.start()

    def _kind(self, kind: str, apart: bool = False) -> Totals | None:
        if self._only not in kind:
            return None
        self.totals.append(Totals(kind, apart))
        return self.totals[-1]

    def _ask(
        self,
        kind: str,
        visits: Callable[[], Iterator[Any]],
        number: int,
        gap: float,
        *,
        apart: bool = False,
    ) -> None:
        if totals := self._kind(kind, apart):
            self._askers += [(totals, Asker(totals, visits, gap)) for _ in range(number)]

    def _run(self, kind: str, program: Program) -> None:
        if totals := self._kind(kind):
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = subprocess.Popen(program.command, text=True, **pipes)
            self._programs.append((totals, program, process))

    def stop(self) -> Iterable[Totals]:
        """Let all finish; returns what they have seen."""
        for _, asker in self._askers:
            asker.stopped.set()
        for totals, asker in self._askers:
            asker.join()
            totals.add(asker.totals)
        for totals, program, process in self._programs:
            if program.command[0] == "wrk":
                process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=PATIENCE_SECONDS)
            totals.requests, totals.failures = program.read(output)
        return self.totals

    def kill(self) -> None:
        for _, _, process in self._programs:
            process.kill()
            process.wait()


class Service:
    """``twistd hangup --workers``, and its log."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.ports = Ports(free_port(), free_port())
        self.workers = workers
        self.log = folder / "log"
        make_certificate(folder)
        (folder / "app.py").write_text(APPLICATION)
        here = "interface=127.0.0.1"
        secure = f"ssl:{self.ports.secure}:{here}:privateKey=key.pem:certKey=cert.pem"
        command = [
            *(sys.executable, "-m", "twisted", "--log-format=text", "hangup"),
            *(f"--port=tcp:{self.ports.plain}:{here}", f"--port={secure}", "--resource=app.Root"),
            *(f"--workers={workers}", f"--grace={GRACE_SECONDS}"),
            f"--keep-alive-timeout={KEEP_ALIVE_SECONDS}",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log
            )

    def count(self, words: str) -> int:
        """How many lines of the log have these *words*."""
        return sum(words in line for line in self.log.read_text().splitlines())

    def wait(self, words: str, times: int) -> None:
        """Wait until that many lines have them."""
        ends = time.monotonic() + 120
        while self.count(words) < times:
            if self.process.poll() is not None or time.monotonic() > ends:
                sys.exit(f"{times} lines with {words!r} do not come:\n{self.log.read_text()}")
            time.sleep(0.02)

    def replace(self, number: int) -> None:
        """Replace all workers, for the *number*-th time."""
        self.process.send_signal(signal.SIGHUP)
        self.wait(") serves", (number + 1) * self.workers)


@contextmanager
def service(folder: Path, workers: int) -> Iterator[Service]:
    running = Service(folder, workers)
    try:
        running.wait("Serving ", 1)
        wait_for(running.ports.secure)
        yield running
    finally:
        running.process.terminate()
        running.process.wait(GRACE_SECONDS + PATIENCE_SECONDS)


def roll(rolls: int, workers: int, only: str = "") -> list[Totals]:
    """What all clients have seen while the workers were replaced so often."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = stack.enter_context(service(folder, workers))
        clients = Clients(running.ports, folder, only)
        stack.callback(clients.kill)
        began = time.monotonic()
        for number in range(1, rolls + 1):
            running.replace(number)
        running.wait(") has ended", rolls * workers)
        totals = [*clients.stop()]
        seconds = time.monotonic() - began
        print(f"{rolls} times {workers} workers were replaced in {seconds:.0f} seconds")
        warnings = [line for line in running.log.read_text().splitlines() if "Hanging up" in line]
        print(*warnings, sep="\n", end="\n" if warnings else "")
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rolls", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="kinds of clients whose name has this in it")
    given = parser.parse_args()
    totals = roll(given.rolls, given.workers, given.only)
    print(f"{'':<32}{'answered':>9}{'lost':>7}{'slowest':>12}")
    for one in totals:
        if not one.apart:
            print(one)
    for one in totals:
        if one.apart:
            print(f"apart, not counted:\n{one}")
    if any(one.lost or not one.requests for one in totals if not one.apart):
        sys.exit("requests were lost, or nobody asked")


if __name__ == "__main__":
    main()
