"""`Outbox.send_in` beside procrastinate's ``defer``, in the caller's transaction on one server.

    python benchmarks/send_in.py [--rows 1000] [--rounds 8]

A transaction inserts a row of the application's, and stores a request (a job) of 200 bytes, or ten
of them; then it is committed.  Delivered is the same: a POST to a server in a process of its own,
ten at a time, by our agent here and by aiohttp in a task there.  Both take turns, in so many
rounds; shown are the medians, of the rates and of ours as a multiple of theirs.

Needs PostgreSQL, and ``pip install procrastinate aiohttp``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Final

from twisted.internet import asyncioreactor

asyncioreactor.install()

from twisted.internet.defer import Deferred, ensureDeferred  # noqa: E402
from twisted.internet.task import react  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.postgres_server import PostgresServer  # noqa: E402

from twisted_hangup.outbox import Outbox, OutboxLimits, Verdict  # noqa: E402

BODY: Final = "x" * 200

#: Requests in one transaction of the second kind.
MANY: Final = 10

#: Deliveries at the same time.
CONCURRENCY: Final = OutboxLimits().deliveries_per_destination


class Ours:
    """The outbox."""

    name = "send_in()"

    def __init__(self, dsn: str, url: str) -> None:
        self._dsn, self._url = dsn, url
        self._outbox = Outbox(dsn)

    async def prepare(self) -> None:
        """Create the tables."""
        outbox = Outbox(self._dsn, deliver=False)
        outbox.startService()
        await outbox.stats()
        await outbox.stopService()

    def store(self, connection: Any) -> None:
        """One request."""
        self._outbox.send_in(connection.cursor(), "POST", self._url, None, BODY.encode())

    async def deliver(self, count: int) -> None:
        """All that is stored."""
        outbox, delivered = Outbox(self._dsn), Deferred[None]()

        def note(delivery: Any) -> None:
            nonlocal count
            assert delivery.verdict is Verdict.DELIVERED, delivery
            count -= 1
            if not count:
                delivered.callback(None)

        outbox.watch(note)
        outbox.startService()
        await delivered
        await outbox.stopService()


class Theirs:
    """procrastinate."""

    name = "defer()"

    def __init__(self, dsn: str, url: str) -> None:
        procrastinate: Any = import_module("procrastinate")
        self._aiohttp: Any = import_module("aiohttp")
        self._dsn, self._url = dsn, url
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn))
        self._task = self._app.task(self._post, name="post")
        self._session: Any = None

    async def _post(self, body: str) -> None:
        async with self._session.post(self._url, data=body) as response:
            assert response.status == 200
            await response.read()

    async def prepare(self) -> None:
        """Create the tables."""

        async def create() -> None:
            async with self._app.open_async():
                await self._app.schema_manager.apply_schema_async()

        await Deferred.fromFuture(asyncio.ensure_future(create()))

    def store(self, connection: Any) -> None:
        """One job."""
        self._task.configure(connection=connection).defer(body=BODY)

    async def deliver(self, count: int) -> None:
        """All that is stored."""

        async def work() -> None:
            connector = self._aiohttp.TCPConnector(limit=CONCURRENCY)
            async with (
                self._app.open_async(),
                self._aiohttp.ClientSession(connector=connector) as self._session,
            ):
                await self._app.run_worker_async(
                    wait=False,
                    concurrency=CONCURRENCY,
                    install_signal_handlers=False,
                    delete_jobs="successful",  # as the outbox does
                )

        await Deferred.fromFuture(asyncio.ensure_future(work()))


def stored(side: Ours | Theirs, dsn: str, count: int, together: int) -> float:
    """Requests stored in a second, so many in a transaction."""
    with import_module("psycopg").connect(dsn) as connection:
        started = time.monotonic()
        for first in range(0, count, together):
            connection.execute("INSERT INTO orders VALUES (%s)", (first,))
            for _ in range(together):
                side.store(connection)
            connection.commit()
        return count / (time.monotonic() - started)


async def delivered(side: Ours | Theirs, count: int) -> float:
    """Requests delivered in a second, of so many that are stored."""
    started = time.monotonic()
    await side.deliver(count)
    return count / (time.monotonic() - started)


async def run(reactor: Any, options: argparse.Namespace) -> None:
    logging.disable(logging.INFO)
    server = PostgresServer()
    command = [sys.executable, str(Path(__file__).with_name("outbox.py")), "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            assert receiver.stdout
            url = f"http://127.0.0.1:{int(receiver.stdout.readline())}/"
            await compare(server.dsn, url, options)
        finally:
            receiver.kill()
            server.close()


async def compare(dsn: str, url: str, options: argparse.Namespace) -> None:
    with import_module("psycopg").connect(dsn) as connection:
        connection.execute("CREATE TABLE orders (id integer)")
    sides: tuple[Ours | Theirs, ...] = (Ours(dsn, url), Theirs(dsn, url))
    rates: dict[str, list[list[float]]] = {}
    for side in sides:
        await side.prepare()
    for turn in range(options.rounds):
        for place in (0, 1) if turn % 2 else (1, 0):
            side = sides[place]
            for what, together in (("one in a transaction", 1), (f"{MANY} in one", MANY)):
                rate = stored(side, dsn, options.rows, together)
                rates.setdefault(f"stored, {what}", [[], []])[place].append(rate)
            rate = await delivered(side, 2 * options.rows)
            rates.setdefault("delivered", [[], []])[place].append(rate)
    for what, (ours, theirs) in rates.items():
        one, other = median(ours), median(theirs)
        ratios = sorted(mine / its for mine, its in zip(ours, theirs, strict=True))
        print(f"{what}: {Ours.name} {one:.0f}/s, {Theirs.name} {other:.0f}/s;", end=" ")
        print(f"{median(ratios):.2f} times as many ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    react(lambda reactor: ensureDeferred(run(reactor, options)))


if __name__ == "__main__":
    main()
