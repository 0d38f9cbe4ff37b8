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
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from twisted_hangup.outbox.database import database_named

#: A process sends so many at a time, and then none for a while.
_BURST: Final = 6
_GAP_SECONDS: Final = 0.04

#: From the first request of a process to its end, at most.
_LONGEST_LIFE_SECONDS: Final = 0.3

#: The slowest answer of the server.
_SLOW_SECONDS: Final = 0.02


@dataclass
class Crashes:
    """What came of it.

    Attributes:
        kills: How many processes were killed.
        stored: Key -> (process, number), as ``send()`` has told it.
        arrived: Keys in the order in which the server got them.
        cut: Keys that the server had got when a process was killed, and the outbox still had.
    """

    kills: int = 0
    stored: dict[str, tuple[str, int]] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)

    @property
    def lost(self) -> set[str]:
        """What was stored and never came."""
        return {*self.stored} - {*self.arrived}

    @property
    def duplicates(self) -> set[str]:
        """What came more than once."""
        return {key for key in self.stored if self.arrived.count(key) > 1}

    @property
    def out_of_order(self) -> list[tuple[str, int]]:
        """Ordered requests (those with even numbers) that came after a later one."""
        first = dict.fromkeys(self.arrived)
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
            f"{len(self.duplicates)} came twice, {len(self.duplicates - self.cut)} of them without "
            f"need, {len(self.out_of_order)} out of order"
        )


def crash(
    database: str, requests: int, processes: int, *, seed: int, most_kills: int | None = None
) -> Crashes:
    """Let *processes* send *requests* together, kill them all the time (or so often); then wait."""
    draw = random.Random(seed)
    result = Crashes()
    with _Server(result) as server, closing(_Nursery()) as nursery:
        share = requests // processes
        senders = [
            _Process(nursery, [database, server.url, f"p{n}"], share, result)
            for n in range(processes)
        ]
        while any(sender.left for sender in senders):
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
            time.sleep(5 * _SLOW_SECONDS)  # what was on its way arrives, on a busy machine too
            result.cut |= _queued(database) & {*result.arrived}
            victim.start()
        deadline = time.monotonic() + 60
        while _queued(database) and time.monotonic() < deadline:
            time.sleep(0.1)
        for sender in senders:
            sender.kill()
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
        self._pid, output = self._nursery.fork([*self._arguments, self._number, self.left])
        self._output = os.fdopen(output)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def check(self) -> None:
        """Raises RuntimeError if it has ended by itself."""
        if not self._reader.is_alive():
            raise RuntimeError(f"process {self._pid} ended by itself")

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._reader.join()
        self._output.close()

    def _read(self) -> None:
        for line in self._output:
            self.ready = True
            if line.endswith("\n") and line != "ready\n":
                key, process, number = line.split()
                self._result.stored[key] = (process, int(number))
                self._number += 1
                self.left -= 1


class _Nursery:
    """A process that forks others."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
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
        self._process.wait()


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
                result.arrived.append(self.headers["Idempotency-Key"])
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


def _run(database: str, url: str, name: str, first: int, count: int) -> None:
    """Send so many requests, telling each that is stored, and deliver until killed."""
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred, gatherResults
    from twisted.internet.task import deferLater

    from twisted_hangup.outbox import DeliveryPolicy, Outbox, OutboxLimits

    reactor: Any = installed
    policy = DeliveryPolicy(attempt_seconds=1, settle_seconds=0.5, base_seconds=0.1)
    outbox = Outbox(database, policy=policy, limits=OutboxLimits(poll_seconds=0.1))

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
