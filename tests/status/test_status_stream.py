"""Server-sent events of the status page: the state first, then changes, and no queue."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from support.status_pages import Pair, Serve, ask
from support.wire import BAD, Client, Paths, in_thread, talk, until
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.test.requesthelper import DummyRequest

from twisted_hangup import HangupSite
from twisted_hangup.errors import ParseError
from twisted_hangup.journal import Journal
from twisted_hangup.report.masking import MaskingPolicy
from twisted_hangup.status import StatusSite
from twisted_hangup.status.snapshots import Snapshots
from twisted_hangup.status.stream import MOST_STREAMS, UPDATE_SECONDS, Streams
from twisted_hangup.testing import feed


@pytest.fixture
def pair(serve: Serve) -> Pair:
    return Pair(serve)


class Followed(DummyRequest):
    """A request for events; what was sent is in `messages`."""

    def __init__(self, last_id: str | None = None) -> None:
        super().__init__([b"events"])
        self.transport = StringTransport()
        if last_id is not None:
            self.requestHeaders.addRawHeader(b"Last-Event-ID", last_id.encode())

    @property
    def messages(self) -> list[tuple[str, str, Any]]:
        """Of each: its kind, its id, and what it tells."""
        pattern = re.compile(rb"event: (\w+)\nid: (\S+)\ndata: ([^\n]*)\n\n")
        sent = b"".join(self.written)
        assert not pattern.sub(b"", sent).removeprefix(b"retry: 2000\n\n")
        return [(a.decode(), b.decode(), json.loads(c)) for a, b, c in pattern.findall(sent)]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer: Any = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def leave(self) -> None:
        self.producer.stopProducing()
        self.processingFailed(Failure(ConnectionLost()))


class Stage:
    """Streams of a journal, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.journal = Journal(self.clock.seconds)
        snapshots = Snapshots(MaskingPolicy(), self.clock.seconds, lambda: 0)
        self.streams = Streams(self.journal, snapshots, self.clock)

    def follow(self, last_id: str | None = None) -> Followed:
        request = Followed(last_id)
        self.streams.open(request)
        return request

    def err(self, code: str = "HPE_INVALID_URL", *, settle: bool = True) -> ParseError:
        error = ParseError("Invalid", code=code, phase="head")
        self.journal.record(error)
        if settle:
            self.journal.settle(error, 400)
        return error


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.streams.close()
    assert not stage.clock.getDelayedCalls()


def numbers(message: tuple[str, str, Any]) -> list[int]:
    return [entry["number"] for entry in message[2]["entries"]]


def test_snapshot_first_then_changes(stage: Stage) -> None:
    """Who begins to follow knows all, and then hears what is new, and its answer later."""
    stage.err()
    request = stage.follow()
    slow = stage.err(settle=False)
    stage.clock.advance(1)
    stage.journal.settle(slow, 431)
    stage.clock.advance(1)
    first, second, third = request.messages
    assert [message[0] for message in request.messages] == ["snapshot", "update", "update"]
    assert [numbers(message) for message in request.messages] == [[1], [2], [2]]
    assert first[2]["complete"] and not second[2]["complete"]
    assert not second[2]["entries"][0]["settled"]
    assert third[2]["entries"][0]["answered"] == 431
    assert third[2]["by_status"] == {"400": 1, "431": 1}


def test_a_flood_is_gathered(stage: Stage) -> None:
    """However many errors come, a follower hears of them twice a second at most."""
    request = stage.follow()
    for _ in range(400):
        for _ in range(5):
            stage.err()
        stage.clock.advance(0.01)
    updates = request.messages[1:]
    assert 2 <= len(updates) <= 4 / UPDATE_SECONDS + 1
    assert all(len(message[2]["entries"]) <= 100 for message in updates)
    stage.clock.advance(1)
    assert request.messages[-1][2]["by_code"] == {"HPE_INVALID_URL": 2000}
    # The rates of each second arrive whole: a second that is told again replaces itself.
    rates = dict(pair for message in request.messages for pair in map(tuple, message[2]["rates"]))
    assert sum(codes["HPE_INVALID_URL"] for codes in rates.values()) == 2000


def test_silence_is_told(stage: Stage) -> None:
    """A browser can tell a quiet server from a dead one."""
    request = stage.follow()
    stage.clock.pump([1] * 16)
    assert [message[0] for message in request.messages[1:]] == ["update"] * 3
    assert not any(numbers(message) for message in request.messages[1:])


def test_slow_browsers_cost_no_memory(stage: Stage) -> None:
    """Nothing is kept for who does not read; the whole picture comes when he does."""
    request = stage.follow()
    request.producer.pauseProducing()
    sent = len(request.written)
    for _ in range(50):
        stage.err()
        stage.clock.advance(1)
    assert len(request.written) == sent
    request.producer.resumeProducing()
    assert [message[0] for message in request.messages] == ["snapshot", "snapshot"]
    assert numbers(request.messages[-1]) == list(range(1, 51))
    request.producer.pauseProducing()
    request.producer.resumeProducing()
    assert len(request.messages) == 2


def test_reconnect(stage: Stage) -> None:
    """Who was here a moment ago is told what he missed, and answers that came since."""
    request = stage.follow()
    stage.err()
    waiting = stage.err(settle=False)
    stage.err()
    stage.clock.advance(1)
    last_id = request.messages[-1][1]
    request.leave()
    stage.journal.settle(waiting, 400)
    stage.err()
    [(kind, _, update)] = (again := stage.follow(last_id)).messages
    assert kind == "update" and not update["complete"]
    assert numbers(again.messages[0]) == [2, 3, 4]
    assert update["entries"][0]["settled"]


@pytest.mark.parametrize("last_id", ["", "nonsense", "0123456789abcdef-1", "-1", "x" * 5000])
def test_ids_of_another_life(stage: Stage, last_id: str) -> None:
    """What a server before this one counted means nothing; all is told."""
    stage.err()
    assert stage.follow(last_id).messages[0][0] == "snapshot"


def test_nobody_follows(stage: Stage) -> None:
    """Without a browser there is neither a timer nor a follower of the journal."""
    request, other = stage.follow(), stage.follow()
    request.leave()
    assert stage.clock.getDelayedCalls()
    other.leave()
    assert not stage.clock.getDelayedCalls()
    stage.err()
    assert not stage.clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_events(pair: Pair) -> None:
    """Over a socket: the snapshot, then each error within a second."""
    head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client = await in_thread(lambda: Client(pair.status.port).send(head))
    received = await in_thread(lambda: client.read_until(b'"entries": []}\n\n\r\n'))
    assert b"\r\nContent-Type: text/event-stream\r\n" in received
    await pair.break_something()
    update = await in_thread(lambda: client.read_until(b"}]}\n\n\r\n"))
    assert b"event: update\n" in update and b'"HPE_INVALID_HEADER_TOKEN"' in update
    client.close()
    await until(lambda: not pair.site._status._streams._streams)


@pytest_twisted.ensureDeferred
async def test_too_many_follow(pair: Pair) -> None:
    """The next one is told to come again."""
    head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    clients = [
        await in_thread(lambda: Client(pair.status.port).send(head)) for _ in range(MOST_STREAMS)
    ]
    for client in clients:
        await in_thread(partial(client.read_until, b"\r\n\r\n"))
    clients.append(await in_thread(lambda: Client(pair.status.port).send(head)))
    refused = await in_thread(partial(clients[-1].read_until, b"\r\n\r\n"))
    assert refused.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in refused
    for client in clients:
        client.close()


def test_a_browser_that_does_not_read() -> None:
    """When its socket is full nothing waits for it in memory; when it reads it gets it all."""
    clock = Clock()
    shown = HangupSite(Paths(), reactor=clock)
    site = StatusSite(shown, clock, token="swordfish")
    head = b"GET /events HTTP/1.1\r\nHost: 192.0.2.1\r\nAuthorization: Bearer swordfish\r\n\r\n"
    client = feed(site, head)
    client.reading = False
    [stream] = site._status._streams._streams
    while not stream._paused:
        stream.send(b": " + b"x" * 65536 + b"\n\n")
        client.feed()
    [channel] = site.context.open()
    transport = channel.transport

    def waiting() -> int:
        return len(transport.dataBuffer) + sum(map(len, transport._tempDataBuffer))

    before = waiting()
    assert before < 4 * 65536
    feed(shown, BAD)
    client.advance(2 * UPDATE_SECONDS)
    assert waiting() <= before and stream._outdated
    client.reading = True
    assert b"event: snapshot\n" in client.received[-100_000:]
    assert b'"HPE_INVALID_HEADER_TOKEN"' in client.received[-100_000:]
    site.drain()


@pytest_twisted.ensureDeferred
async def test_own_client_errors(pair: Pair) -> None:
    """Whoever breaks HTTP on the status page is answered and told of like anybody else."""
    assert (await talk(pair.status.port, BAD)).startswith(b"HTTP/1.1 400 ")
    assert pair.status.codes == ["HPE_INVALID_HEADER_TOKEN"] and not pair.shown.codes
    long = await ask(pair.status.port, "sign-in", method="POST", body="token=" + "a" * 5000)
    assert long.status == 413
