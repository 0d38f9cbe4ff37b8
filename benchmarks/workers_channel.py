"""What it costs to pass a record from a worker to the first process.

    python benchmarks/workers_channel.py [--rate 20000] [--seconds 5] [--rounds 5]

A process sends records at that rate, as a worker does, and another one writes them to a file, as
the first process does: lines of the error log of 500 bytes, and lines of the access log of 120
bytes.  It prints the CPU time of each side for a record, the median of the rounds, and how many
records were dropped.  The time to make a line is not in it: that is the same without workers.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

TICK = 0.01

LINES = {
    "error log": (b"x" * 499 + b"\n", 500),
    "access log": (b"x" * 119 + b"\n", 120),
}


class Row(NamedTuple):
    """One kind of record: microseconds of each side for one, and what was lost in all rounds."""

    kind: str
    sent: int
    worker_us: float
    first_process_us: float
    dropped: int


def cpu_seconds() -> float:
    """The CPU time of this process so far."""
    return time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)


def send(descriptor: int, kind: str, rate: int, seconds: float) -> None:
    """Be the worker; print the CPU time and the number of records, and how many were dropped."""
    from twisted.internet import reactor as installed
    from twisted.internet.protocol import Factory
    from twisted.internet.task import LoopingCall

    from twisted_hangup.service.workers.channel import Channel
    from twisted_hangup.service.workers.reports import Report

    reactor: Any = installed
    line = LINES[kind][0]
    channel = Channel(lambda kind, payload: None)
    reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, Factory.forProtocol(lambda: channel))
    count, began = 0, time.monotonic()
    before = cpu_seconds()

    def tick() -> None:
        nonlocal count
        # What a busy machine has not let us send before stays unsent: it would be a burst.
        for _ in range(round(rate * TICK)):
            count += 1
            if kind == "error log":
                channel.send(Report.ERROR, b"HPE_INVALID_HEADER_TOKEN\0" + line)
            else:
                channel.send(Report.ACCESS, line)
        if time.monotonic() - began >= seconds:
            ticks.stop()
            print(cpu_seconds() - before, count, channel.lost_frames, flush=True)
            channel.close().addBoth(lambda _: reactor.stop())

    ticks = LoopingCall(tick)
    reactor.callWhenRunning(ticks.start, TICK)
    reactor.run()


def receive(descriptor: int, path: str) -> None:
    """Be the first process; print the CPU time."""
    from twisted.internet import reactor as installed
    from twisted.internet.protocol import Factory

    from twisted_hangup.journal import ErrorLog
    from twisted_hangup.journal.files import LogFile
    from twisted_hangup.service.workers.channel import Channel
    from twisted_hangup.service.workers.view import View

    reactor: Any = installed
    log = LogFile(path, "log")
    view = View(reactor, access_log=log, error_log=ErrorLog(log, reactor, per_second=0))
    channel = Channel(lambda kind, payload: view.received(channel, 1, kind, payload))
    channel.closed.addCallback(lambda _: reactor.callLater(0.1, reactor.stop))
    reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, Factory.forProtocol(lambda: channel))
    before = cpu_seconds()
    reactor.run()
    print(cpu_seconds() - before, flush=True)


def one_round(kind: str, rate: int, seconds: float) -> tuple[float, float, int, int]:
    """CPU seconds of both sides, and how many records were sent and dropped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        ends = socket.socketpair()
        commands = [
            ("send", [kind, str(rate), str(seconds)]),
            ("receive", [str(path)]),
        ]
        processes = []
        for end, (role, arguments) in zip(ends, commands, strict=True):
            end.setblocking(False)
            command = [sys.executable, __file__, f"--as={role}", str(end.fileno()), *arguments]
            processes.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, text=True, pass_fds=[end.fileno()]
                )
            )
        for end in ends:
            end.close()
        worker, first = (process.communicate()[0].split() for process in processes)
        sent, dropped = int(worker[1]), int(worker[2])
        size = os.path.getsize(path)
        if size != (sent - dropped) * LINES[kind][1]:
            raise SystemExit(f"{size} bytes were written of {sent - dropped} lines")
        return float(worker[0]), float(first[0]), sent, dropped


def rows(rate: int, seconds: float, rounds: int) -> list[Row]:
    """One row for each kind of record."""
    result = []
    for kind in LINES:
        measured = [one_round(kind, rate, seconds) for _ in range(rounds)]
        result.append(
            Row(
                kind,
                sum(sent for _, _, sent, _ in measured),
                median(worker / sent * 1e6 for worker, _, sent, _ in measured),
                median(first / sent * 1e6 for _, first, sent, _ in measured),
                sum(dropped for _, _, _, dropped in measured),
            )
        )
    return result


def main() -> None:
    if sys.argv[1:2] == ["--as=send"]:
        _, _, descriptor, kind, rate, seconds = sys.argv
        send(int(descriptor), kind, int(rate), float(seconds))
        return
    if sys.argv[1:2] == ["--as=receive"]:
        receive(int(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=20_000, help="records a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'':12}{'worker':>10}{'first process':>16}{'sent':>12}{'dropped':>10}")
    for row in rows(options.rate, options.seconds, options.rounds):
        print(
            f"{row.kind:12}{row.worker_us:>7.2f} us{row.first_process_us:>13.2f} us"
            f"{row.sent:>12,}{row.dropped:>10,}"
        )


if __name__ == "__main__":
    main()
