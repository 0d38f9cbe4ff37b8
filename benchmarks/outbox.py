"""What the outbox stores and delivers per second, beside the bare database; and what it loses.

    python -m benchmarks outbox
    python benchmarks/outbox.py speed [--rows 20000] [--only sqlite|postgres]
    python benchmarks/outbox.py crash [--requests 1000] [--seed 1]
    python benchmarks/outbox.py memory [--queued 1000000]

``speed``: requests of 200 bytes.  "bare" is the INSERT of one row through the driver alone, one
commit per row or per 100 rows, in tables of the same form.  Deliveries go to a server in a
process of its own; the bound for them is the agent alone, with nothing stored.  Before each,
what one commit costs the disk.

``crash``: kill -9 at random, and what came of it: one process on SQLite, four on PostgreSQL.

``memory``: the resident size of a process with so many requests queued and a destination that
is down, and of one that has 1,000.

As a part of the comparison, it is the time of one `send()` beside the bare database's, round by
round, with SQLite in memory (``/dev/shm``), so that the disk does not hide what is ours.

PostgreSQL runs in a temporary folder with its usual settings; without it, it is left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from measure import OURS, Options, Row
from twisted.internet import defer, task
from twisted.web.iweb import IAgent
from zope.interface import implementer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.outbox_crashes import crash
from support.postgres_server import NoPostgres, PostgresServer

from twisted_hangup import HangupAgent
from twisted_hangup.outbox import Outbox, sql
from twisted_hangup.outbox.database import Database, database_named
from twisted_hangup.outbox.request import OutboxLimits, new_request
from twisted_hangup.outbox.sql import create_tables
from twisted_hangup.outbox.store import Work, run

BODY = b"x" * 200
NOWHERE = "http://127.0.0.1:1/"

#: Sends that wait for the disk together.
BATCH = 100


@contextmanager
def databases(
    only: str | None = None, folder: str | None = None
) -> Iterator[list[tuple[str, Callable[[], str]]]]:
    """Each kind with a function that makes an empty one; SQLite's are in *folder*."""
    found: list[tuple[str, Callable[[], str]]] = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if only != "postgres":
            found.append(("SQLite", lambda: str(Path(place) / f"{time.monotonic_ns()}")))
        server = None
        if only != "sqlite":
            try:
                server = PostgresServer()
                found.append(("PostgreSQL", lambda: emptied(server)))
            except NoPostgres as reason:
                print(f"no PostgreSQL: {reason}")
        try:
            yield found
        finally:
            if server is not None:
                server.close()


def emptied(server: PostgresServer) -> str:
    with closing(database_named(server.dsn).connect()) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.commit()
    return server.dsn


def request(number: int = 0, url: str = NOWHERE) -> Any:
    return new_request(
        *("POST", f"{url}{number}", {"Content-Type": "application/json"}, BODY),
        key=None,
        ordered=False,
        max_age_seconds=1e6,
        limits=OutboxLimits(),
    )


def bare_inserts(name: str, rows: int, batch: int) -> float:
    """The same rows, by the driver alone: rows per second."""
    database = database_named(name)
    with closing(database.connect()) as connection:
        cursor = connection.cursor()
        create_tables(cursor, database)
        now = time.time()
        made = [(*request(number)[:-1], now, now + 1e6, now) for number in range(rows)]
        insert = database.sql(sql.INSERT)
        started = time.monotonic()
        for start in range(0, rows, batch):
            database.begin(cursor)
            cursor.executemany(insert, made[start : start + batch])
            connection.commit()
        return rows / (time.monotonic() - started)


async def sends(name: str, rows: int, batch: int) -> float:
    """`send()` in batches, one after the other: requests per second."""
    outbox = Outbox(name, deliver=False)
    outbox.startService()
    await outbox.send("POST", NOWHERE)
    started = time.monotonic()
    for start in range(0, rows, batch):
        await defer.gatherResults(
            [
                outbox.send("POST", f"{NOWHERE}{n}", {"Content-Type": "application/json"}, BODY)
                for n in range(start, start + batch)
            ]
        )
    seconds = time.monotonic() - started
    await outbox.stopService()
    return rows / seconds


async def deliveries(reactor: Any, name: str, rows: int, url: str) -> float:
    """From a full queue to an empty one: requests per second."""
    fill(database_named(name), rows, url)
    outbox = Outbox(name)
    delivered = 0
    done: defer.Deferred[None] = defer.Deferred()

    def count(delivery: Any) -> None:
        nonlocal delivered
        assert delivery.problem is None, delivery
        delivered += 1
        if delivered == rows:
            done.callback(None)

    outbox.watch(count)
    started = time.monotonic()
    outbox.startService()
    await done
    seconds = time.monotonic() - started
    await outbox.stopService()
    return rows / seconds


async def agent_alone(reactor: Any, rows: int, url: str) -> float:
    """What the agent delivers, ten at a time, with nothing stored: requests per second."""
    from twisted.web.client import readBody

    limits = OutboxLimits()
    agent = HangupAgent.from_reactor(reactor, most_idle=limits.deliveries_per_destination)
    numbers = iter(range(rows))

    async def work() -> None:
        for number in numbers:
            response = await agent.request(b"POST", f"{url}{number}".encode())
            await readBody(response)

    started = time.monotonic()
    await defer.gatherResults(
        [defer.Deferred.fromCoroutine(work()) for _ in range(limits.deliveries_per_destination)]
    )
    seconds = time.monotonic() - started
    await agent.close()
    return rows / seconds


def fill(database: Database, rows: int, url: str = NOWHERE) -> None:
    with closing(database.connect()) as connection:
        cursor = connection.cursor()
        create_tables(cursor, database)
        for start in range(0, rows, 1000):
            requests = [request(n, url) for n in range(start, min(start + 1000, rows))]
            run(cursor, database, Work(requests=requests))
            connection.commit()


async def speed(reactor: Any, options: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "serve"]
    with (
        databases(options.only) as found,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
        alone = await agent_alone(reactor, options.rows // 10, url)
        print(f"agent alone: {alone:.0f} requests/s")
        for name, make in found:
            print(f"{name}; a write of 4 KiB to the disk takes {sync_ms():.1f} ms")
            for batch, rows in ((1, options.rows // 40), (BATCH, options.rows)):
                bare = bare_inserts(make(), rows, batch)
                ours = await sends(make(), rows, batch)
                label = "one by one" if batch == 1 else f"batches of {batch}"
                print(f"  {label}: bare {bare:.0f}/s, send() {ours:.0f}/s ({ours / bare:.2f})")
            rate = await deliveries(reactor, make(), options.rows // 10, url)
            print(f"  deliveries: {rate:.0f}/s ({rate / alone:.2f} of the agent alone)")
        server.kill()


def rows(options: Options) -> Iterator[Row]:
    """One `send()` beside one bare INSERT, in microseconds, each measured in a new process."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with databases(folder=memory) as found:
        for name, make in found:
            for batch, count in ((1, 1000), (BATCH, 20_000)):
                load = f"outbox, {name}, " + (f"batches of {batch}" if batch > 1 else "one by one")
                if not options.wants(load):
                    continue
                costs: dict[str, list[float]] = {"bare": [], OURS: []}
                for number in range(options.rounds):
                    for peer in list(costs) if number % 2 else reversed(list(costs)):
                        costs[peer].append(1e6 / measured(peer, make(), count, batch))
                yield Row(load, "us", costs)
    if not any(name == "PostgreSQL" for name, _ in found):
        sys.exit("no PostgreSQL here: only SQLite was measured")


def measured(peer: str, database: str, count: int, batch: int) -> float:
    """How many a second *peer* stores, in a process of its own."""
    arguments = [f"--rows={count}", f"--batch={batch}", *(["--bare"] if peer == "bare" else [])]
    command = [sys.executable, __file__, "store", database, *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(run.stdout)


async def store(reactor: Any, options: argparse.Namespace) -> None:
    arguments = (options.database, options.rows, options.batch)
    print(bare_inserts(*arguments) if options.bare else await sends(*arguments))


def sync_ms() -> float:
    with tempfile.NamedTemporaryFile() as file:
        started = time.monotonic()
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
        return (time.monotonic() - started) * 1000 / 50


def serve() -> None:
    from twisted.internet import reactor as installed
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    class Root(Resource):
        isLeaf = True

        def render(self, request: Any) -> bytes:
            return b""

    reactor: Any = installed
    site = Site(Root())
    site.log = lambda request: None  # type: ignore[method-assign]
    print(reactor.listenTCP(0, site, interface="127.0.0.1").getHost().port, flush=True)
    reactor.run()


@implementer(IAgent)
class Down:
    """An agent that reaches nobody."""

    def request(self, *arguments: Any, **options: Any) -> Any:
        return defer.fail(ConnectionError("down"))


async def memory(reactor: Any, options: argparse.Namespace) -> None:
    with databases(options.only) as found:
        for name, make in found:
            for queued in (1000, options.queued):
                database = make()
                fill(database_named(database), queued)
                command = [sys.executable, __file__, "hold", database]
                shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                print(f"{name}, {queued} queued: {shown.strip()}")


async def hold(reactor: Any, options: argparse.Namespace) -> None:
    outbox = Outbox(options.database, agent=Down())
    outbox.startService()
    slowest = 0.0
    for number in range(100):
        started = time.monotonic()
        await outbox.send("POST", f"{NOWHERE}{number}", None, BODY)
        slowest = max(slowest, time.monotonic() - started)
        await task.deferLater(reactor, 0.05)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(f"RSS {int(fields['VmRSS'].split()[0]) / 1024:.0f} MiB,", end=" ")
    print(f"slowest of 100 send() {slowest * 1000:.0f} ms")
    await outbox.stopService()


def crashes(options: argparse.Namespace) -> int:
    worst = 0
    with databases(options.only) as found:
        for name, make in found:
            processes = 1 if name == "SQLite" else 4
            result = crash(make(), options.requests, processes, seed=options.seed)
            print(f"{name}, {processes} at a time: {result}")
            worst = max(
                worst,
                *(len(result.lost), len(result.needless), len(result.out_of_order)),
            )
    return 1 if worst else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "crash", "memory", "serve", "hold", "store"])
    parser.add_argument("database", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=BATCH, help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--queued", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.what == "serve":
        serve()
    elif options.what == "crash":
        sys.exit(crashes(options))
    else:
        functions = {"speed": speed, "memory": memory, "hold": hold, "store": store}
        work = functions[options.what]
        task.react(lambda reactor: defer.ensureDeferred(work(reactor, options)))


if __name__ == "__main__":
    main()
