"""Soak a server: good and bad clients for a time, then see what is left of them.

    python -m tests.soak [--seconds 60] [--seed N]

Runs ``twistd hangup`` in a process of its own, with and without TLS, under bad clients of
every kind (`soak.bad`) beside good ones in another process (`soak.good`).  Then prints a line
for each check, and exits with 1 where one has failed: good requests all answered right;
descriptors, timers, threads, files and memory back where they were; no error in the log but
the soak's own bugs; every count as it was sent.  Linux only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from support import certificates, processes
from support.processes import BIN, free_port
from support.wire import PATIENCE, wait_for

from .application import BUG
from .bad import AT_ONCE, KINDS, Ports, Sent
from .good import ADDRESS

#: How long what is left behind may take to go, in seconds: longer than every deadline.
SETTLING: Final = 60.0
#: Python's heap is never packed: what it may hold more than after the first round, in bytes.
MOST_MEMORY_GROWTH: Final = 16 * 1024 * 1024
#: Clients of each thread in the first round, which fills what has a bound: pools and caches.
WARM: Final = 2
#: How long the process may take to end when it is told to, in seconds: its grace, and much more.
END: Final = 60.0
_SHOWN: Final = 5

#: Those times are short that a client waits for on purpose.  No other is to pass where the machine
#: stops for seconds, or a client would be told of it that has done nothing wrong.
_OPTIONS: Final = {
    "headers-timeout": 8,
    "request-timeout": 40,
    "handshake-timeout": 8,
    "keep-alive-timeout": 40,
    "handler-timeout": 1,
    "send-timeout": 8,
    "linger-timeout": 20,
    "linger-silence": 8,
    "error-log-per-second": 0,
    "grace": 5,
    "resource": "soak.application.root",
    "on-client-error": "soak.application.misbehave",
}
#: What has to be as it was before.
_BACK: Final = ("descriptors", "timers", "threads", "connections")


class Server(NamedTuple):
    """The process that is soaked, and the folder of its logs."""

    process: subprocess.Popen[bytes]
    ports: Ports
    folder: Path

    def state(self) -> dict[str, Any]:
        """What it says of itself: see `soak.application`."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.ports.plain, 30, source_address=(ADDRESS, 0)
        )
        connection.request("GET", "/state", headers={"Connection": "close"})
        state: dict[str, Any] = json.load(connection.getresponse())
        connection.close()
        return state

    def settled(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its state as soon as *true* says so of it, and at the latest after `SETTLING`."""
        ends = time.monotonic() + SETTLING
        while not true(state := self.state()) and time.monotonic() < ends:
            time.sleep(0.2)
        return state

    def lines(self, name: str) -> Iterator[str]:
        with open(self.folder / name, encoding="latin-1") as file:
            yield from file


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run the server, with its logs and temporary files in *folder*."""
    pem, temporary = folder / "both.pem", folder / "tmp"
    pem.write_bytes(certificates.pem())
    temporary.mkdir()
    ports = Ports(free_port(), free_port())
    arguments = [f"--{name}={value}" for name, value in _OPTIONS.items()]
    arguments += [f"--{name}-log={folder / name}" for name in ("access", "error")]
    keys = f"privateKey={pem}:certKey={pem}"
    for port in (f"tcp:{ports.plain}", f"ssl:{ports.tls}:{keys}"):
        arguments.append(f"--port={port}:interface=127.0.0.1")
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TMPDIR": str(temporary)}
    command = [
        str(BIN / "twistd"),
        "--nodaemon",
        f"--pidfile={folder / 'pid'}",
        "hangup",
        *arguments,
    ]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    server = Server(process, ports, folder)
    try:
        wait_for(lambda: "Starting factory" in (folder / "log").read_text() or process.poll())
        yield server
    finally:
        process.kill()
        process.wait()


def run_bad(ports: Ports, seed: int, ended: Callable[[int], object]) -> Sent:
    """Run clients of all kinds, each thread one after the other until *ended* with its number."""

    def run(name: str, number: int, sent: Sent) -> None:
        chance = random.Random(f"{seed} {name} {number}")  # repeatable on purpose
        while not ended(sent.clients[name]):
            try:
                KINDS[name](ports, sent, chance)
            except Exception as error:
                sent.wrong.append(f"{name}: {error!r}")
            sent.clients[name] += 1

    places = [(name, number) for name in KINDS for number in range(AT_ONCE.get(name, 1))]
    runs = [(*place, Sent()) for place in places]
    threads = [threading.Thread(target=run, args=arguments) for arguments in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Sent()
    for _, _, sent in runs:
        total.add(sent)
    return total


@contextmanager
def good_clients(ports: Ports, result: dict[str, Any]) -> Iterator[None]:
    """Run the good clients meanwhile; *result* is filled at the end."""
    command = [sys.executable, "-m", "soak.good", *map(str, ports)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with processes.running(Path(), *command, **pipes, env=environment) as process:
        yield
        output, _ = process.communicate(b"", timeout=2 * PATIENCE)
    result.update(json.loads(output))


class Checks:
    """The lines that are printed, and whether one has failed."""

    def __init__(self) -> None:
        self.failed = False

    def check(self, what: str, good: object, text: object, *wrong: object) -> None:
        """Print a line, and some of what is *wrong* where it is not *good*."""
        self.failed |= not good
        print(f"{'ok' if good else 'FAILED':7} {what}: {text}", flush=True)
        for item in [] if good else wrong[:_SHOWN]:
            print(f"        {item}")


def check_good(checks: Checks, good: dict[str, Any]) -> None:
    """All answers were right, and came in time."""
    seconds, wrong = sorted(good["seconds"]), good["wrong"]
    text = f"{len(seconds)} answered, {len(wrong)} wrong"
    checks.check("good requests", seconds and not wrong, text, *wrong)
    if seconds:
        last = seconds[int(len(seconds) * 0.99)]
        checks.check("their time", True, f"p99 {last * 1000:.0f} ms, most {seconds[-1]:.2f} s")


def check_back(checks: Checks, before: dict[str, Any], after: dict[str, Any]) -> None:
    """What the clients made the server hold has gone with them."""
    for name in _BACK:
        checks.check(name, after[name] <= before[name], f"{before[name]}, then {after[name]}")
    grown = after["memory"] - before["memory"]
    memory = [f"{state['memory'] / 2**20:.1f}" for state in (before, after)]
    checks.check("memory", grown <= MOST_MEMORY_GROWTH, f"{memory[0]} MiB, then {memory[1]}")


def check_counts(checks: Checks, server: Server, sent: Sent, state: dict[str, Any]) -> None:
    """Journal, handlers, error log and access log say the same, and what was sent."""
    records = [json.loads(line) for line in server.lines("error")]
    errors = sum(state["errors"].values())
    counts = {"answers": state["answers"], "error log": len(records)}
    checks.check("errors", {*counts.values()} == {errors}, f"{errors} in the journal; {counts}")
    # Handlers are also asked about what is nobody's fault, which the journal leaves out.
    calls = Counter({(target, code): count for target, code, count in state["calls"]})
    wrong = [
        f"{target} {code}: {count} sent, {calls[target, code]} calls"
        for (target, code), count in sent.errors.items()
        if target is not None and calls[target, code] != count
    ]
    total, outcomes = sum(calls.values()), state["outcomes"]
    good = not wrong and total == outcomes == errors + state["quiet"]
    text = f"{total} calls, {outcomes} outcomes, {state['quiet']} of them quiet"
    checks.check("handlers", good, text, *wrong)
    checks.check("resets", state["stream_resets"] == sent.resets, f"{sent.resets} sent")

    begun: Counter[str] = Counter()
    for line in server.lines("access"):
        if match := re.match(r'[^"]*"\S+ (\S+)', line):
            begun[match[1]] += 1
    wrong = [
        f"{target}: {count} sent, {begun[target]} logged"
        for target, count in sent.requests.items()
        if begun[target] != count
    ]
    count = sum(sent.requests.values())
    checks.check("access log", not wrong, f"a line for each of {count} requests", *wrong)

    exact = {target for target, _ in sent.errors if target is not None} | {*sent.requests}
    codes = {code for target, code in sent.errors if target is None}
    logged: Counter[tuple[str | None, str]] = Counter()
    for record in records:
        target, code = record["target"], record["code"]
        if target in exact:
            logged[target, code] += 1
        elif code in codes:
            logged[None, code] += 1
        elif record["phase"] == "handshake":
            logged[None, "handshake"] += 1
    wrong = [
        f"{target or ''} {code}: {sent.errors[target, code]} sent, {logged[target, code]} logged"
        for target, code in {*sent.errors, *logged}
        if sent.errors[target, code] != logged[target, code]
    ]
    count = sum(sent.errors.values())
    checks.check("error log", not wrong, f"a line for each of {count} errors", *sorted(wrong))


def check_log(checks: Checks, server: Server) -> None:
    """No error but the bugs that the soak has itself."""
    text = "".join(server.lines("log"))
    bugs = text.count(f"ZeroDivisionError: {BUG}")
    others = re.findall(
        r".*\b(?:Unhandled|\w+(?:Error|Exception): (?!a bug).*|\w*Warning:).*", text
    )
    tracebacks = text.count("Traceback (most recent call last)")
    wrong = [f"{tracebacks} tracebacks", *others]
    checks.check("log", tracebacks <= bugs and not others, f"{bugs} bugs of the soak's", *wrong)


def soak(server: Server, seconds: float, seed: int, checks: Checks) -> None:
    """Run all clients for so long, and check what is left."""
    idle = server.state()["connections"]
    sent = run_bad(server.ports, seed, lambda count: count >= WARM)
    before = server.settled(lambda state: state["connections"] <= idle)
    good: dict[str, Any] = {}
    ends = time.monotonic() + seconds
    with good_clients(server.ports, good):
        sent.add(run_bad(server.ports, seed + 1, lambda _: time.monotonic() >= ends))

    def is_back(state: dict[str, Any]) -> bool:
        grown = state["memory"] - before["memory"]
        return grown <= MOST_MEMORY_GROWTH and all(state[name] <= before[name] for name in _BACK)

    after = server.settled(is_back)
    clients = ", ".join(f"{count} {name}" for name, count in sent.clients.items())
    checks.check("bad clients", not sent.wrong, clients, *Counter(sent.wrong).most_common())
    check_good(checks, good)
    check_back(checks, before, after)
    temporary = [*(server.folder / "tmp").iterdir()]
    checks.check("temporary files", not temporary, len(temporary))

    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    try:
        server.process.wait(END)
    except subprocess.TimeoutExpired:
        checks.check("end", False, f"not within {END:g} s")
    else:
        checks.check("end", True, f"{time.monotonic() - began:.1f} s after SIGTERM")
    check_counts(checks, server, sent, after)
    check_log(checks, server)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for the logs, which stay there")
    options = parser.parse_args(arguments)
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        if options.keep is not None:
            options.keep.mkdir()
        with running(options.keep or Path(folder)) as server:
            soak(server, options.seconds, options.seed, checks)
    return int(checks.failed)
