"""What went wrong is recorded at once, and what it was answered when it was."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from support.wire import BAD, SLOW, Client, Serve, in_thread, settled, talk, until
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from twisted_hangup import ClientError, ClientSocket, ParseError, ServerHangUp, UpstreamError
from twisted_hangup.errors import ClientHangUp, Phase
from twisted_hangup.journal import (
    PEERS_COUNTED,
    RECENT_BYTES,
    RECENT_ERRORS,
    TOP,
    Entry,
    Journal,
    Snapshot,
)


def error(
    packet: bytes = b"", code: str = "HPE_STRICT", phase: Phase = "head", peer: Any = None
) -> ParseError:
    return ParseError("broken", code=code, phase=phase, raw_packet=packet, peer=peer)


def upstream_error(status: int | None = 502) -> UpstreamError:
    failed = UpstreamError("away", code="ERR_UPSTREAM_RESET", phase="response")
    failed.default_status = status
    return failed


class Wall:
    """A clock on the wall, which goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


def test_counts_and_recent() -> None:
    """Errors are counted by code, and the last ones kept."""
    journal = Journal()
    errors = [error() for _ in range(RECENT_ERRORS + 5)]
    for one in errors:
        journal.record(one)
    assert journal.counts == {"HPE_STRICT": RECENT_ERRORS + 5}
    assert journal.recent == tuple(errors[5:])


def test_recent_is_bounded_in_bytes() -> None:
    """Large packets push out more of what was before."""
    journal = Journal()
    for _ in range(RECENT_ERRORS):
        journal.record(error(bytes(64 * 1024)))
    assert len(journal.recent) == RECENT_BYTES // (64 * 1024)


def test_watcher_that_fails(expected_errors: LoggedErrors) -> None:
    """A watcher's bug is logged and keeps nobody else from seeing the error."""
    journal = Journal()
    seen: list[ClientError] = []

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    journal.watch(fail)
    unwatch = journal.watch(seen.append)
    journal.watch_settled(fail)
    journal.record(error())
    journal.settle(error(), 400)
    unwatch()
    unwatch()
    journal.record(error())
    assert len(seen) == 1
    assert len(expected_errors.flush(ZeroDivisionError)) == 3


@pytest.mark.parametrize(
    "answer, status",
    [
        (lambda failure, socket: failure, 400),
        (lambda failure, socket: socket.respond(418), 418),
        (lambda failure, socket: b"HTTP/1.1 503 Busy\r\n\r\n", 503),
        (lambda failure, socket: b"not HTTP", None),
        (lambda failure, socket: socket.destroy(), None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_settled_with_what_was_sent(serve: Serve, answer: Any, status: int | None) -> None:
    """Each error is settled once, with the status that the client was sent."""
    served = serve()
    served.site.on_client_error(answer)
    answers: list[tuple[ClientError, int | None]] = []
    served.site.journal.watch_settled(lambda error, status: answers.append((error, status)))
    try:
        await talk(served.port, BAD)
    except ConnectionResetError:
        assert status is None
    await until(lambda: answers)
    await settled()
    assert answers == [(served.errors[0], status)]


@pytest.mark.parametrize("wire", [SLOW, SLOW + BAD])
@pytest_twisted.ensureDeferred
async def test_settled_without_an_answer(serve: Serve, wire: bytes) -> None:
    """A client that has left is settled with no status, also one whose error had to wait."""
    served = serve()
    answers: list[int | None] = []
    served.site.journal.watch_settled(lambda error, status: answers.append(status))
    started = served.root.slow.started

    @served.site.on_client_error
    def pass_on(failure: Failure, socket: ClientSocket) -> Failure:
        return failure

    client = await in_thread(lambda: Client(served.port).send(wire))
    await started
    await until(lambda: len(served.errors) == (BAD in wire))
    client.reset()
    await until(lambda: answers)
    await settled()
    assert answers == [None]


def test_snapshot() -> None:
    """All that is known stands in one record, which does not change any more."""
    wall = Wall()
    journal = Journal(wall)
    first, second, third = error(peer=UNIXAddress(None)), error(phase="body"), upstream_error()
    journal.record(first)
    journal.settle(first, 400)
    wall.now += 2
    journal.record(second)
    journal.record_upstream(third)
    snapshot = journal.snapshot()
    journal.settle(second, None)
    journal.record(error())
    assert snapshot == Snapshot(
        since=1_700_000_000.5,
        entries=(
            Entry(1, 1_700_000_000.5, first, 400, True),
            Entry(2, 1_700_000_002.5, second, None, False),
            Entry(3, 1_700_000_002.5, third, 502, True),
        ),
        quiet=0,
        by_code={"HPE_STRICT": 2, "ERR_UPSTREAM_RESET": 1},
        by_phase={"head": 1, "body": 1, "response": 1},
        by_status={400: 1, 502: 1},
        rates=(
            (1_700_000_000, {"HPE_STRICT": 1}),
            (1_700_000_002, {"HPE_STRICT": 1, "ERR_UPSTREAM_RESET": 1}),
        ),
        top_peers=(("unix", 1), ("unknown", 1)),
        top_codes=(("HPE_STRICT", 2), ("ERR_UPSTREAM_RESET", 1)),
    )
    assert journal.recent == (first, second, journal.recent[-1])
    later = journal.snapshot()
    assert later.entries[1] == Entry(2, 1_700_000_002.5, second, None, True)
    assert later.by_status == {400: 1, 502: 1, None: 1}


def test_what_is_nobodys_fault_is_counted_and_no_more() -> None:
    """It takes no room from what matters, and watchers hear of it."""
    journal = Journal()
    heard: list[ClientError] = []
    followed: list[Any] = []
    journal.watch(heard.append)
    journal.watch_settled(lambda error, status: heard.append(error))
    journal.follow(followed.append)
    empty = journal.snapshot()
    probe = ClientHangUp("read ECONNRESET", code="ECONNRESET", phase="idle")
    journal.record(probe)
    journal.settle(probe, None)
    assert heard == [probe, probe]
    assert (journal.quiet, journal.recent, journal.counts) == (1, (), {})
    assert journal.snapshot() == replace(empty, quiet=1)
    assert followed == [empty]


@pytest.mark.parametrize(
    "peers, named",
    [
        (
            [IPv4Address("TCP", "192.0.2.1", 1), IPv4Address("TCP", "192.0.2.1", 2)],
            (("192.0.2.1", 2),),
        ),
        ([IPv6Address("TCP", "2001:db8::1", 1)], (("2001:db8::1", 1),)),
        ([UNIXAddress(b"/run/a"), UNIXAddress(None)], (("unix", 2),)),
        ([None], (("unknown", 1),)),
    ],
)
def test_peers(peers: list[IAddress | None], named: tuple[tuple[str, int], ...]) -> None:
    """A peer is a host, whatever its port; who comes over UNIX sockets cannot be told apart."""
    journal = Journal()
    for peer in peers:
        journal.record(error(peer=peer))
    assert journal.snapshot().top_peers == named


def test_number_of_peers_and_codes() -> None:
    """Of many only the first are named, and no more are kept than there are places."""
    journal = Journal()
    for number in range(PEERS_COUNTED + 100):
        journal.record(error(code=f"E{number}", peer=IPv4Address("TCP", f"host {number}", 1)))
    snapshot = journal.snapshot()
    assert len(snapshot.top_peers) == len(snapshot.top_codes) == TOP
    assert len(journal._peers) == PEERS_COUNTED


def test_follow() -> None:
    """Who follows is told what is there, then each error as it is recorded and settled."""
    wall = Wall()
    journal = Journal(wall)
    before, after, upstream = error(), error(), upstream_error(None)
    journal.record(before)
    news: list[Snapshot | Entry] = []
    unfollow = journal.follow(news.append)
    assert news == [journal.snapshot()]
    journal.record(after)
    journal.settle(after, 431)
    journal.settle(before, None)
    journal.record_upstream(upstream)
    unfollow()
    unfollow()
    journal.record(error())
    assert news[1:] == [
        Entry(2, wall.now, after, None, False),
        Entry(2, wall.now, after, 431, True),
        Entry(1, wall.now, before, None, True),
        Entry(3, wall.now, upstream, None, True),
    ]


def test_settled_too_late_to_be_told() -> None:
    """An error that others have pushed out is counted when it is settled, and not told again."""
    journal = Journal()
    slow = error()
    journal.record(slow)
    for _ in range(RECENT_ERRORS):
        journal.record(error())
    news: list[Snapshot | Entry] = []
    journal.follow(news.append)
    journal.settle(slow, 400)
    assert len(news) == 1
    assert journal.snapshot().by_status == {400: 1}


def test_follower_that_fails(expected_errors: LoggedErrors) -> None:
    """A follower that fails at once does not follow; later its bug is logged, as a watcher's."""
    journal = Journal()
    news: list[object] = []

    def fail(change: Snapshot | Entry) -> None:
        if news or isinstance(change, Entry):
            raise ZeroDivisionError("a bug")
        news.append(change)

    journal.follow(fail)
    with pytest.raises(ZeroDivisionError):
        journal.follow(fail)
    journal.record(error())
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


def test_what_is_kept_holds_no_frames() -> None:
    """The requests that were running when a server went away are not kept with its error."""

    class Request:
        """What a frame knows."""

    def fail() -> ref[Request]:
        request = Request()
        try:
            raise ServerHangUp("socket hang up", code="ECONNRESET", phase="waiting")
        except ServerHangUp as cause:
            failed = upstream_error()
            failed.__cause__ = cause
        journal.record_upstream(failed)
        return ref(request)

    journal = Journal()
    request = fail()
    gc.collect()
    assert request() is None
    assert isinstance(journal.snapshot().entries[0].error.__cause__, ServerHangUp)


@pytest_twisted.ensureDeferred
async def test_entries_of_a_site(serve: Serve) -> None:
    """A refused request is kept with its peer and the status that it was answered."""
    served = serve()
    await talk(served.port, BAD)
    await served.emptied()
    snapshot = served.site.journal.snapshot()
    (entry,) = snapshot.entries
    assert (entry.number, entry.answered, entry.settled) == (1, 400, True)
    assert snapshot.top_peers == (("127.0.0.1", 1),)
