"""How fast the logs grow in a flood of errors, and whether they lose count.

    python benchmarks/log_flood.py [--seconds 5]

Three floods, each of a server that logs as ``twistd hangup --error-log FILE`` does:

- ``network``: malformed requests from a client, a new connection for each, as many as go;
- ``20,000/s``: errors of the parser, recorded by the site's journal at that rate;
- ``all codes``: the same with every code in turn, which is the worst for the logs.

For both logs it prints the most lines in one second, and fails where they are more than 50,
or where the lines and what they count are not as many as the errors.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from flood import MALFORMED, flooded

MOST_LINES = 50
RATE = 20_000
TICK = 0.01
#: A server that is stopped tells at once what it has counted; here it comes to that by itself.
AFTERWARDS = 1.1

_CONSOLE_LINE = re.compile(
    r"^\S+[T ](\d\d:\d\d:\d\d)\S* \[twisted_hangup\.console#\w+\] (.*)$", re.M
)
_COUNT = re.compile(r"\.\.\. and ([0-9,]+) more ")


def network(folder: Path, seconds: float) -> int:
    """Flood a server over the network; how many errors that makes."""
    command = "from twisted.scripts.twistd import run; run()"
    server = subprocess.Popen(
        [
            *(sys.executable, "-c", command, "-n", "--logfile=console.log"),
            *("--pidfile=", "hangup", "--port=tcp:0:interface=127.0.0.1"),
            "--error-log=errors.log",
        ],
        cwd=folder,
    )
    try:
        sent, _, took = flooded(_port(folder / "console.log"), seconds)
        time.sleep(AFTERWARDS)
    finally:
        server.terminate()
        server.wait()
    print(f"{sent / took:10,.0f} errors/s", end="")
    return sent


def _port(log: Path) -> int:
    for _ in range(100):
        time.sleep(0.1)
        if log.exists() and (told := re.search(r"Listening on \S+:(\d+)", log.read_text())):
            return int(told[1])
    raise SystemExit("the server does not start")


def recorded(folder: Path, seconds: float, every_code: bool) -> int:
    """Record errors in a process of its own; how many."""
    command = [sys.executable, __file__, "--child", str(seconds), *(["all"] * every_code)]
    told = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True)
    count, took = map(float, told.stdout.split())
    print(f"{count / took:10,.0f} errors/s", end="")
    return int(count)


def child(seconds: float, every_code: bool) -> None:
    """Record `RATE` errors a second, and log them; prints how many, and the seconds."""
    from twisted.internet import reactor, task
    from twisted.logger import globalLogBeginner, textFileLogObserver

    from twisted_hangup.service import Options, makeService

    with open("console.log", "w") as file:
        globalLogBeginner.beginLoggingTo([textFileLogObserver(file)], redirectStandardIO=False)
        options = Options()
        options.parseOptions(["--port", "tcp:0:interface=127.0.0.1", "--error-log", "errors.log"])
        service: Any = makeService(options)
        errors = _errors(every_code)
        count, started = 0, time.perf_counter()

        def record() -> None:
            nonlocal count
            due = min(seconds, time.perf_counter() - started) * RATE
            while count < due:
                service.site.journal.record(errors[count % len(errors)])
                count += 1
            if due == seconds * RATE:
                ticking.stop()
                print(count, time.perf_counter() - started)
                reactor.callLater(AFTERWARDS, stop)

        def stop() -> None:
            service.stopService().addBoth(lambda _: reactor.stop())

        service.startService()
        ticking = task.LoopingCall(record)
        ticking.start(TICK)
        reactor.run()


def _errors(every_code: bool) -> list[Any]:
    from twisted_hangup import ParseError, RequestParser
    from twisted_hangup.events import NEED_DATA
    from twisted_hangup.report.rules import RULES

    if every_code:
        codes = dict.fromkeys(code for code, _ in RULES)
        return [ParseError("any reason", code=code, phase="head") for code in codes]
    errors: list[Any] = []
    for wire in MALFORMED:
        parser = RequestParser()
        parser.receive(wire)
        try:
            while parser.next_event() is not NEED_DATA:
                pass
        except ParseError as error:
            errors.append(error)
    return errors


def told(folder: Path) -> dict[str, tuple[int, int]]:
    """For each log, the most lines in one second, and the number of errors that it tells."""
    console: Counter[str] = Counter()
    console_count = 0
    for second, text in _CONSOLE_LINE.findall((folder / "console.log").read_text()):
        console[second] += 1
        count = _COUNT.match(text)
        console_count += int(count[1].replace(",", "")) if count else 1
    lines = [json.loads(line) for line in (folder / "errors.log").read_text().splitlines()]
    seconds = Counter(line["time"][:19] for line in lines)
    error_count = sum(line.get("suppressed", 1) for line in lines)
    return {
        "console": (max(console.values()), console_count),
        "--error-log": (max(seconds.values()), error_count),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=5.0)
    seconds = arguments.parse_args().seconds
    wrong = 0
    for name, flood in (
        ("network", network),
        ("20,000/s", lambda folder, seconds: recorded(folder, seconds, False)),
        ("all codes", lambda folder, seconds: recorded(folder, seconds, True)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name:10}", end="")
            errors = flood(Path(folder), seconds)
            for log, (most, count) in told(Path(folder)).items():
                wrong += most > MOST_LINES or count != errors
                print(f"  {log}: {most} lines/s, {count:,} of {errors:,}", end="")
            print()
    return 1 if wrong else 0


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(float(sys.argv[2]), "all" in sys.argv)
    else:
        sys.exit(main())
