"""Server-sent events: the snapshot first, then what changes, for each reader.

In a flood a reader does not get every error, but the recent ones, at most twice a second.  Nothing
is kept for a browser that does not read: it gets a new snapshot when it reads on.  So a reader
costs no more than the send buffer of its connection.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Container
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from ..journal.journal import Entry, Snapshot
from ..journal.merged import AnyJournal, MergedEntry, MergedSnapshot
from .snapshots import Snapshots

MOST_STREAMS: Final = 16

#: Updates have at least the first of these times between them, and at most the second, so that a
#: browser can tell a quiet server from a dead one.
UPDATE_SECONDS: Final = 0.5
HEARTBEAT_SECONDS: Final = 5.0

#: How long a first error waits for others that come with it.
_GATHER_SECONDS: Final = 0.05

#: How long a browser waits before it connects again.
_RETRY: Final = b"retry: 2000\n\n"

_LAST_ID: Final = re.compile(rb"([0-9a-f]{16})-([0-9]{1,15})")


class Streams:
    """All readers of one journal."""

    def __init__(self, journal: AnyJournal, snapshots: Snapshots, clock: IReactorTime) -> None:
        self._journal = journal
        self._snapshots = snapshots
        self._clock = clock
        # Numbers of another process have no meaning here.
        self._epoch = secrets.token_hex(8)
        self._streams: dict[_Stream, None] = {}
        self._changed: set[int] = set()
        self._rates_from = 0.0
        self._updated = 0.0
        self._unfollow: Callable[[], None] | None = None
        self._timer: IDelayedCall | None = None

    @property
    def full(self) -> bool:
        return len(self._streams) >= MOST_STREAMS

    def open(self, request: Any) -> None:
        """Answer *request* with the snapshot, or with what is new since its Last-Event-ID."""
        stream = _Stream(request, self._everything)
        self._streams[stream] = None
        request.notifyFinish().addBoth(self._cb_gone, stream)
        request.registerProducer(stream, True)
        if self._unfollow is None:
            self._unfollow = self._journal.follow(self._follow)
            self._wake_in(HEARTBEAT_SECONDS)
        stream.send(_RETRY)
        seen = _LAST_ID.fullmatch(request.getHeader(b"last-event-id") or b"")
        if seen is not None and seen[1].decode() == self._epoch:
            stream.send(self._newer_than(int(seen[2])))
        else:
            stream.send(self._everything())

    def close(self) -> None:
        """End every stream."""
        for stream in list(self._streams):
            stream.end()

    def _cb_gone(self, _: Failure | None, stream: _Stream) -> None:
        self._streams.pop(stream, None)
        if not self._streams and self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
            self._changed.clear()
            self._sleep()

    def _follow(self, news: Snapshot | MergedSnapshot | Entry | MergedEntry) -> None:
        """Called by the journal while it records an error, so it only takes a note."""
        if isinstance(news, Entry | MergedEntry):
            if not self._changed:
                self._wake_in(seconds_to_update(self._clock.seconds() - self._updated))
            self._changed.add(news.number)

    def _update(self) -> None:
        self._timer = None
        snapshot = self._journal.snapshot()
        message = self._message(b"update", snapshot, self._changed, self._rates_from)
        self._changed.clear()
        self._updated = self._clock.seconds()
        # The newest second is sent again: it may not have been over.
        self._rates_from = snapshot.rates[-1][0] if snapshot.rates else 0.0
        self._wake_in(HEARTBEAT_SECONDS)
        for stream in list(self._streams):
            stream.send(message)

    def _everything(self) -> bytes:
        return self._message(b"snapshot", self._journal.snapshot(), None)

    def _newer_than(self, number: int) -> bytes:
        snapshot = self._journal.snapshot()
        newer = {entry.number for entry in snapshot.entries if entry.number > number}
        return self._message(b"update", snapshot, newer)

    def _message(
        self,
        kind: bytes,
        snapshot: Snapshot | MergedSnapshot,
        only: Container[int] | None,
        rates_from: float = 0.0,
    ) -> bytes:
        data = self._snapshots.json(snapshot, only=only, rates_from=rates_from)
        ident = f"{self._epoch}-{_settled_up_to(snapshot)}"
        return b"event: %s\nid: %s\ndata: %s\n\n" % (kind, ident.encode(), data.encode())

    def _wake_in(self, seconds: float) -> None:
        self._sleep()
        self._timer = self._clock.callLater(seconds, self._update)

    def _sleep(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@implementer(IPushProducer)
class _Stream:
    """One browser that reads."""

    def __init__(self, request: Any, everything: Callable[[], bytes]) -> None:
        self._request = request
        self._everything = everything
        self._paused = False
        self._outdated = False
        self._ended = False

    def send(self, message: bytes) -> None:
        """Send *message*; if the browser does not read, send a snapshot later."""
        if self._ended:
            return
        if self._paused:
            self._outdated = True
        else:
            self._request.write(message)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._outdated:
            self._outdated = False
            self.send(self._everything())

    def stopProducing(self) -> None:
        self._ended = True


def seconds_to_update(since: float) -> float:
    """How long a first error waits if the last update was *since* seconds ago."""
    return max(_GATHER_SECONDS, UPDATE_SECONDS - since)


def _settled_up_to(snapshot: Snapshot | MergedSnapshot) -> int:
    """The last number of those that will not change any more, nor any before it."""
    last = 0
    for entry in snapshot.entries:
        if not entry.settled:
            return entry.number - 1
        last = entry.number
    return last
