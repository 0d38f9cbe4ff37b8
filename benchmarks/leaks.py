"""Does a handler that misbehaves leave anything behind?

    python benchmarks/leaks.py [CONNECTIONS [ROUNDS]]

For each kind of misbehaviour, ROUNDS (3) times CONNECTIONS (5000) clients send a broken
request over loopback to a server in this process.  After each round it prints what there
is: file descriptors, timers, objects, memory; and how many lines the handlers made the log
say.  Exits with 1 where something has grown.
"""

from __future__ import annotations

import gc
import os
import selectors
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogLevel, globalLogBeginner
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from twisted_hangup import ClientError, ClientSocket, HangupChannel, HangupSite, Timeouts

BROKEN = b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n"
AT_ONCE = 250
#: Hundredths of a second that the server is given to be done with a round.
MOST_SETTLING = 1000
COUNTED = (HangupChannel, ClientSocket, ClientError, Failure, Deferred)
#: Python's heap is never packed, so that some of what was free before is in use after.
MOST_MEMORY_GROWTH = 1.05

Handler = Callable[[Failure, ClientSocket], Any]


def later(seconds: float, value: Any = None) -> Deferred[Any]:
    from twisted.internet import reactor

    return deferLater(reactor, seconds, lambda: value)


def timers() -> list[Any]:
    from twisted.internet import reactor as installed

    reactor: Any = installed
    calls: list[Any] = reactor.getDelayedCalls()
    return calls


def never_closes(failure: Failure, client: ClientSocket) -> None:
    client.write(b"half an answer")


def closes_twice(failure: Failure, client: ClientSocket) -> None:
    client.end(b"once\n")
    client.end(b"twice\n")


def raises(failure: Failure, client: ClientSocket) -> None:
    raise ZeroDivisionError("a bug")


async def raises_later(failure: Failure, client: ClientSocket) -> None:
    await later(0.01)
    raise ZeroDivisionError("a bug")


async def answers_late(failure: Failure, client: ClientSocket) -> bytes:
    try:
        await later(2)
    except CancelledError:
        await later(0.1)
    return b"too late\n"


async def answers_the_dead(failure: Failure, client: ClientSocket) -> bytes:
    await later(0.1)
    return b"anybody there?\n"


def waits_for_ever(failure: Failure, client: ClientSocket) -> Deferred[None]:
    return Deferred()


def writes_after_its_end(failure: Failure, client: ClientSocket) -> None:
    client.end(b"bye\n")
    client.write(b"and\n")
    client.respond(400, b"another thing\n")


def returns_nonsense(failure: Failure, client: ClientSocket) -> int:
    return 42


KINDS: dict[str, tuple[Handler, bool]] = {
    handler.__name__: (handler, handler is answers_the_dead)
    for handler in (
        *(never_closes, closes_twice, raises, raises_later, answers_late),
        *(answers_the_dead, waits_for_ever, writes_after_its_end, returns_nonsense),
    )
}


def clients(port: int, count: int, reset: bool) -> None:
    """Send so many broken requests, some at once; read to the end, or reset in between."""
    selector = selectors.DefaultSelector()
    while count or selector.get_map():
        while count and len(selector.get_map()) < AT_ONCE:
            count -= 1
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(BROKEN)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            else:
                selector.register(client, selectors.EVENT_READ)
        for key, _ in selector.select(1 if selector.get_map() else 0):
            connection: Any = key.fileobj
            try:
                ended = not connection.recv(65536)
            except ConnectionResetError:
                ended = True
            if ended:
                selector.unregister(connection)
                connection.close()
    selector.close()


class Counts(dict[str, int]):
    """What there is in this process now."""

    def __init__(self) -> None:
        gc.collect()
        super().__init__(
            descriptors=len(os.listdir("/dev/fd")),
            timers=len(timers()),
        )
        alive = Counter(type(thing) for thing in gc.get_objects())
        for kind in COUNTED:
            self[kind.__name__] = sum(n for made, n in alive.items() if issubclass(made, kind))
        with open("/proc/self/statm") as statm:
            self["memory_kib"] = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


class Run:
    """The site, the handler it has at the moment, and what the log has said."""

    def __init__(self) -> None:
        from twisted.internet import reactor as installed

        reactor: Any = installed
        self.handler: Handler = returns_nonsense
        self.lines = 0
        globalLogBeginner.beginLoggingTo(
            [cast(ILogObserver, self.count_line)], redirectStandardIO=False
        )
        times = Timeouts(handler_seconds=0.2, linger_silence_seconds=0.2)
        self.site = HangupSite(Resource(), timeouts=times)
        self.site.on_client_error(self.handle)
        port = reactor.listenTCP(0, self.site, interface="127.0.0.1", backlog=1024)
        self.port: int = port.getHost().port
        self.timers = len(timers())

    def handle(self, failure: Failure, client: ClientSocket) -> Any:
        return self.handler(failure, client)

    def count_line(self, event: Any) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.info:
            self.lines += 1

    async def round(self, kind: str, count: int) -> int:
        """Have *count* errors handled so; gives how many lines the log said."""
        self.handler, reset = KINDS[kind]
        self.lines = 0
        await deferToThread(clients, self.port, count, reset)
        # Some handlers go on after their time; what does not end is a leak, and is shown.
        for _ in range(MOST_SETTLING):
            if not self.site.open_connections and len(timers()) <= self.timers:
                break
            await later(0.01)
        return self.lines


async def main(reactor: Any, connections: str = "5000", rounds: str = "3") -> None:
    run = Run()
    for kind in KINDS:  # fills what is bounded: the journal, the pools
        await run.round(kind, min(200, int(connections)))
    failed = []
    columns = list(Counts())
    print(f"{'':24}" + "".join(f"{column:>14}" for column in [*columns, "log lines"]))
    for kind in KINDS:
        counts = [Counts()]
        show(f"{kind}: before", counts[0])
        for number in range(1, int(rounds) + 1):
            lines = await run.round(kind, int(connections))
            counts.append(Counts())
            show(f"  round {number}", counts[-1], lines)
        failed += [f"{kind}: {name}" for name in columns if grew(name, counts)]
    print("nothing has grown" if not failed else "has grown: " + ", ".join(failed))
    if failed:
        raise SystemExit(1)


def grew(name: str, counts: list[Counts]) -> bool:
    before, first, last = (counts[at][name] for at in (0, 1, -1))
    return last > (first * MOST_MEMORY_GROWTH if name == "memory_kib" else before)


def show(title: str, counts: Counts, lines: int | None = None) -> None:
    numbers = "".join(f"{number:14}" for number in counts.values())
    print(f"{title:24}{numbers}{'' if lines is None else f'{lines:14}'}", flush=True)


if __name__ == "__main__":
    from twisted.internet.task import react

    react(main, sys.argv[1:])
