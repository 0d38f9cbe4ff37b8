"""Processes that send and deliver through one outbox, and are killed again and again.

Also a program, which has imported everything and forks those processes when it is told to:
to start Python for each would take most of the time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from twisted_hangup.outbox.database import database_named

#: A process sends so many at a time, and then none for a while.
_BURST: Final = 6
_GAP_SECONDS: Final = 0.04

#: From the first request of a process to its end, at most.
_LONGEST_LIFE_SECONDS: Final = 0.3

#: The slowest answer of the server.
_SLOW_SECONDS: Final = 0.02

#: How long an attempt may take, and how much longer a claim lasts.  What is not killed comes again
#: after that, so that a machine which stops for some seconds must not use it up; what is killed
#: waits for it in the end.
_ATTEMPT_SECONDS: Final = 8.0
_SETTLE_SECONDS: Final = 2.0

#: The longest that anything may take, and all that is left in the end.
_PATIENCE_SECONDS: Final = 60.0


@dataclass
class Crashes:
    """What came of it.

    Attributes:
        kills: How many processes were killed.
        stored: Key -> (process, number), as ``send()`` has told it.
        arrived: Keys in the order in which the server got them, and which process brought each.
        queued: Process -> keys that the outbox had when it was killed.
    """

    kills: int = 0
    stored: dict[str, tuple[str, int]] = field(default_factory=dict)
    arrived: list[tuple[str, int]] = field(default_factory=list)
    queued: dict[int, set[str]] = field(default_factory=dict)

    @property
    def lost(self) -> set[str]:
        """What was stored and never came."""
        return {*self.stored} - {key for key, _ in self.arrived}

    @property
    def duplicates(self) -> set[str]:
        """What came more than once."""
        times = Counter(key for key, _ in self.arrived)
        return {key for key in self.stored if times[key] > 1}

    @property
    def needless(self) -> set[str]:
        """What came again though its process was not killed before it had written that down."""
        brought_by: dict[str, int] = {}
        again = set()
        for key, process in self.arrived:
            if key in brought_by and key not in self.queued.get(brought_by[key], ()):
                again.add(key)
            brought_by[key] = process
        return again & {*self.stored}

    @property
    def out_of_order(self) -> list[tuple[str, int]]:
        """Ordered requests (those with even numbers) that came after a later one."""
        first = dict.fromkeys(key for key, _ in self.arrived)
        came: dict[str, list[int]] = defaultdict(list)
        for key in first:
            if key in self.stored:
                process, number = self.stored[key]
                if number % 2 == 0:
                    came[process].append(number)
        return [
            (process, number)
            for process, numbers in came.items()
            for number, wanted in zip(numbers, sorted(numbers), strict=True)
            if number != wanted
        ]

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {len(self.stored)} stored, {len(self.lost)} lost, "
            f"{len(self.duplicates)} came twice, {len(self.needless)} of them without "
            f"need, {len(self.out_of_order)} out of order"
        )


def crash(
    database: str,
    requests: int,
    processes: int,
    *,
    seed: int,
    least_kills: int = 0,
    most_kills: int | None = None,
) -> Crashes:
    """Let *processes* send *requests* together, kill them all the time, and then wait.

    Args:
        database: The outbox that they share.
        requests: How many they send.
        processes: How many there are at a time.
        seed: Of what is random.
        least_kills: Kill so often, also when all is sent: while this process does not run, the
            others send on.
        most_kills: Kill no more often.

    Raises:
        RuntimeError: A process has ended by itself, or sends nothing.
    """
    draw = random.Random(seed)
    result = Crashes()
    with _Server(result) as server, closing(_Nursery()) as nursery, ExitStack() as ends:
        share = requests // processes
        senders = []
        for number in range(processes):
            name = f"p{number}"
            senders.append(_Process(nursery, [database, server.url, name], share, result))
            ends.callback(senders[-1].kill)
        while any(sender.left for sender in senders) or result.kills < least_kills:
            ready = [sender for sender in senders if sender.ready]
            if not ready or result.kills == most_kills:
                for sender in senders:
                    sender.check()
                time.sleep(0.005)
                continue
            time.sleep(draw.uniform(0.0, _LONGEST_LIFE_SECONDS) / processes)
            victim = draw.choice(ready)
            victim.kill()
            result.kills += 1
            result.queued[victim.pid] = _queued(database)
            victim.start()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while _queued(database) and time.monotonic() < deadline:
            time.sleep(0.02)
    return result


class _Process:
    """One that is started again after each kill."""

    def __init__(
        self, nursery: _Nursery, arguments: list[str], count: int, result: Crashes
    ) -> None:
        self.left = count
        self._nursery, self._arguments = nursery, arguments
        self._number = 0
        self._result = result
        self.start()

    def start(self) -> None:
        self.ready = False
        self._heard_at = time.monotonic()
        self.pid, output = self._nursery.fork([*self._arguments, self._number, self.left])
        self._output = os.fdopen(output)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def check(self) -> None:
        """Raises RuntimeError if it has ended by itself, or stores nothing more."""
        if not self._reader.is_alive():
            raise RuntimeError(f"process {self.pid} ended by itself")
        if self.left and time.monotonic() - self._heard_at > _PATIENCE_SECONDS:
            raise RuntimeError(f"process {self.pid} stores nothing")

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.pid, signal.SIGKILL)
        self._reader.join(_PATIENCE_SECONDS)
        self._output.close()

    def _read(self) -> None:
        for line in self._output:
            self.ready = True
            self._heard_at = time.monotonic()
            if line.endswith("\n") and line != "ready\n":
                key, process, number = line.split()
                self._result.stored[key] = (process, int(number))
                self._number += 1
                self.left -= 1


class _Nursery:
    """A process that forks others."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_PATIENCE_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )

    def fork(self, arguments: list[str | int]) -> tuple[int, int]:
        """Let a new process `_run` these; its number, and the end of a pipe with its output."""
        output, theirs = os.pipe()
        socket.send_fds(self._socket, [json.dumps(arguments).encode()], [theirs])
        os.close(theirs)
        return int(self._socket.recv(100)), output

    def close(self) -> None:
        self._socket.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def _fork_for(orders: socket.socket) -> None:
    """Fork a process for each order, until there are no more."""
    import twisted_hangup.outbox  # noqa: F401  # once, for all of them

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, fds, _, _ = socket.recv_fds(orders, 10_000, 1)
        if not order:
            return
        pid = os.fork()
        if pid == 0:
            orders.close()
            os.dup2(fds[0], 1)
            os.close(fds[0])
            _run(*json.loads(order))
            os._exit(1)  # not reached: it runs until it is killed
        os.close(fds[0])
        orders.send(b"%d" % pid)


class _Server(ThreadingHTTPServer):
    """Remembers every key, and takes its time to answer."""

    daemon_threads = True

    def __init__(self, result: Crashes) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                process = int(self.headers["X-Process"])
                result.arrived.append((self.headers["Idempotency-Key"], process))
                time.sleep(random.uniform(0, _SLOW_SECONDS))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Not of interest."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed."""

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()


def _queued(name: str) -> set[str]:
    database = database_named(name)
    with closing(database.connect()) as connection:
        cursor = connection.cursor()
        if not database.has_tables(cursor):
            return set()
        cursor.execute("SELECT key FROM hangup_outbox_requests")
        return {key for (key,) in cursor.fetchall()}


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


class _Signing:
    """An agent whose requests say which process they come from."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(self, method: bytes, url: bytes, headers: Headers, body: Any) -> Any:
        headers.setRawHeaders("X-Process", [f"{os.getpid()}"])
        return self._agent.request(method, url, headers, body)


def _run(database: str, url: str, name: str, first: int, count: int) -> None:
    """Send so many requests, telling each that is stored, and deliver until killed."""
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred, gatherResults
    from twisted.internet.task import deferLater

    from twisted_hangup.client import HangupAgent
    from twisted_hangup.outbox import DeliveryPolicy, Outbox, OutboxLimits

    reactor: Any = installed
    policy = DeliveryPolicy(
        attempt_seconds=_ATTEMPT_SECONDS, settle_seconds=_SETTLE_SECONDS, base_seconds=0.1
    )
    agent: Any = _Signing(HangupAgent.from_reactor(reactor))
    outbox = Outbox(database, agent=agent, policy=policy, limits=OutboxLimits(poll_seconds=0.1))

    async def send() -> None:
        outbox.startService()
        _say("ready")
        numbers = [*range(first, first + count)]
        while numbers:
            burst, numbers = numbers[:_BURST], numbers[_BURST:]
            await gatherResults([store(number) for number in burst])
            await deferLater(reactor, _GAP_SECONDS)

    def store(number: int) -> Deferred[None]:
        ordered = name if number % 2 == 0 else False
        sending = outbox.send("POST", url, None, b"%d" % number, ordered=ordered)
        return sending.addCallback(lambda key: _say(f"{key} {name} {number}"))

    reactor.callWhenRunning(Deferred.fromCoroutine, send())
    reactor.run()


if __name__ == "__main__":
    _fork_for(socket.socket(fileno=int(sys.argv[1])))
