"""Which worker accepts, and how many connections all of them hold."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import ended_in_time
from support.wire import PATIENCE, Client, wait_for
from support.workers import STOPPED, Program
from support.workers import start as start
from twisted.internet.task import Clock

from twisted_hangup.service.workers.places import (
    AWAY_SECONDS,
    MOST_WAIT_SECONDS,
    SLACK,
    WAIT_SECONDS,
    SharedPlaces,
)
from twisted_hangup.service.workers.table import Table

Start = Callable[..., Program]


class Fleet:
    """Workers without processes, on one clock."""

    def __init__(self, number: int, most: int | None = None) -> None:
        self.clock = Clock()
        self.table = Table.of(number)
        self.workers = [SharedPlaces(self.table, row, self.clock, most) for row in self.table]
        for row in self.table:
            row.accepts = True

    def waits(self, worker: int) -> int:
        """How often a worker waits in a row before it accepts."""
        waits = 0
        while seconds := self.workers[worker].wait_seconds():
            assert seconds == WAIT_SECONDS
            self.clock.advance(seconds)
            waits += 1
        return waits


@given(st.integers(1, 6), st.lists(st.tuples(st.booleans(), st.randoms()), max_size=80))
def test_however_connections_come(number: int, events: list[tuple[bool, object]]) -> None:
    """While none is busy, no worker comes to hold much more than another."""
    fleet = Fleet(number)
    for comes, random in events:
        order = random.sample(range(number), number)  # type: ignore[attr-defined]
        if comes:
            worker = next(one for one in order if not fleet.workers[one].wait_seconds())
            least = min(fleet.table.held)
            fleet.workers[worker].held += 1
            assert fleet.workers[worker].held <= least + SLACK + 1
        elif fleet.workers[order[0]].held:
            fleet.workers[order[0]].held -= 1
        fleet.clock.advance(0.01)


def test_wait_is_short() -> None:
    """A connection that the others do not accept is accepted after 5 ms."""
    fleet = Fleet(2)
    fleet.workers[0].held = SLACK
    assert fleet.waits(0) == 0
    fleet.workers[0].held = SLACK + 1
    most = round(MOST_WAIT_SECONDS / WAIT_SECONDS)
    assert fleet.waits(0) == most
    fleet.workers[0].held += 1
    assert fleet.waits(0) == most


def test_wait_for_the_next_connection() -> None:
    """It begins anew: how long it was for an earlier one, which another took, does not count."""
    fleet = Fleet(2)
    fleet.workers[0].held = 9
    assert fleet.workers[0].wait_seconds()
    fleet.clock.advance(1)
    assert fleet.waits(0) * WAIT_SECONDS == pytest.approx(MOST_WAIT_SECONDS, abs=WAIT_SECONDS)


def test_worker_that_is_away() -> None:
    """One that takes nothing is soon waited for no more, until it is back."""
    fleet = Fleet(3)
    fleet.workers[0].held = fleet.workers[1].held = 50
    waited = 0
    while waits := fleet.waits(0):
        waited += waits
        fleet.workers[0].held += 1
        fleet.workers[1].held += 1
    assert waited * WAIT_SECONDS == pytest.approx(AWAY_SECONDS, abs=MOST_WAIT_SECONDS)
    fleet.clock.advance(10)
    assert fleet.waits(0) == 0
    fleet.workers[2].held = 1
    assert fleet.waits(0) > 0


def test_workers_that_drain() -> None:
    """They accept nothing, so nobody waits for them; what they hold still takes places."""
    fleet = Fleet(3, most=10)
    fleet.workers[0].held = 6
    fleet.workers[1].held = 5
    fleet.table[2].accepts = False
    assert fleet.waits(0) == 0
    assert fleet.workers[0].excess == 1
    fleet.table[1].clear()
    fleet.workers[2].held = 3
    assert fleet.workers[0].excess == -1
    assert Fleet(2).workers[0].excess < -(10**9)


LOCKER = """
import sys
from twisted.internet.task import Clock
from twisted_hangup.service.workers.places import SharedPlaces
from twisted_hangup.service.workers.table import Table
table = Table(int(sys.argv[1]))
places = SharedPlaces(table, table[1], Clock())
print(places.lock(), flush=True)
sys.stdin.read()
"""


def test_lock() -> None:
    """One process at a time has it; it is free when that one is killed."""
    fleet = Fleet(2)
    places = fleet.workers[0]
    command = [sys.executable, "-c", LOCKER, str(fleet.table.descriptor)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, pass_fds=[fleet.table.descriptor], **pipes) as other:  # type: ignore[call-overload]
        with ended_in_time(other):
            assert other.stdout.readline() == b"0.0\n"
        assert places.lock() == WAIT_SECONDS
        other.kill()
        other.wait(PATIENCE)
        assert places.lock() == 0
        places.unlock()


@pytest.fixture
def clients() -> Iterator[Callable[[Program, str], Client]]:
    """Connect to a program and ask for a path."""
    with ExitStack() as stack:

        def ask(program: Program, path: str) -> Client:
            client = Client(program.port)
            stack.callback(client.close)
            client.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
            client.socket.setblocking(False)
            return client

        yield ask


Clients = Callable[[Program, str], Client]

SIX: Final = ("--max-connections=6", "--max-connections-per-address=0", "--grace=0.1")


def received(clients: list[Client]) -> list[bytes]:
    """What each of them has received so far, without taking it."""
    answers = []
    for client in clients:
        try:
            answers.append(client.socket.recv(10_000, socket.MSG_PEEK))
        except BlockingIOError:
            answers.append(b"")
    return answers


def begun(clients: list[Client]) -> list[Client]:
    """Those whose response has begun."""
    answers = zip(clients, received(clients), strict=True)
    return [client for client, answer in answers if answer.endswith(b"begun.\r\n")]


def is_open(client: Client) -> bool:
    """Whether neither end has closed the connection."""
    established = 1
    return client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == established


def test_held_connections(start: Start, clients: Clients) -> None:
    """Of a burst, four workers take about the same numbers."""
    program = start("--max-connections-per-address=0", number=4).started()
    pids = {b"%d" % pid for pid in program.pids().values()}

    def is_even() -> bool:
        burst = [clients(program, "/pid") for _ in range(64)]
        wait_for(lambda: all(received(burst)))
        held = Counter(answer.rpartition(b"\r\n")[2] for answer in received(burst))
        for client in burst:
            client.close()
        return {*held} == pids and max(held.values()) <= 20

    # A worker that does not run for a moment is not waited for, and chance makes none even.
    assert any(is_even() for _ in range(5))
    assert program.end() in STOPPED


@pytest.mark.parametrize("number", [0, 2])
def test_most_connections(start: Start, clients: Clients, number: int) -> None:
    """All workers together hold as many as one process would; one more waits for a place."""
    program = start(*SIX, number=number).started()
    asked = [clients(program, "/slow") for _ in range(10)]
    program.wait_for("All 6 connections are taken; new clients wait until one ends")
    wait_for(lambda: len(begun(asked)) == 6)
    for left in range(1, 5):
        served = begun(asked)
        served[0].close()
        asked.remove(served[0])
        wait_for(lambda: len(begun(asked)) == 6)
        assert len(asked) == 10 - left
    assert program.end() in STOPPED


@pytest.mark.parametrize("number", [0, 2])
def test_idle_connection_makes_room(start: Start, clients: Clients, number: int) -> None:
    """If one is idle between requests, the next client has its place."""
    program = start(*SIX, number=number).started()
    idle = [clients(program, "/pid") for _ in range(6)]
    wait_for(lambda: all(received(idle)))
    for client in idle:
        client.socket.recv(10_000)
    late = clients(program, "/pid")
    wait_for(lambda: all(received([late])))
    program.wait_for("All 6 connections are taken; those that were idle for longest make room")
    wait_for(lambda: not all(map(is_open, idle)))
    assert sum(map(is_open, idle)) == 5
    assert program.end() in STOPPED


def test_most_connections_over_generations(start: Start, clients: Clients) -> None:
    """What the old workers still hold is not free for the new ones."""
    program = start(*SIX[:2]).started()
    asked = [clients(program, "/slow") for _ in range(4)]
    wait_for(lambda: len(begun(asked)) == 4)
    program.process.send_signal(signal.SIGHUP)
    program.wait_for("serves", times=4)
    asked += [clients(program, "/slow") for _ in range(4)]
    program.wait_for("All 6 connections are taken")
    wait_for(lambda: len(begun(asked)) == 6)
    for client in asked[:4]:
        client.close()
    wait_for(lambda: len(begun(asked[4:])) == 4)


def test_places_of_a_worker_that_is_killed(start: Start, clients: Clients) -> None:
    """They are free again, and no others."""
    program = start(*SIX).started()
    asked = [clients(program, "/slow") for _ in range(12)]
    program.wait_for("All 6 connections are taken")
    wait_for(lambda: len(begun(asked)) == 6)
    os.kill(program.pids()[1], signal.SIGKILL)
    program.wait_for("SIGKILL")

    def still_held() -> list[Client]:
        return [client for client in begun(asked) if is_open(client)]

    wait_for(lambda: len(begun(asked)) > 6 and len(still_held()) == 6)
    assert program.end() in STOPPED
