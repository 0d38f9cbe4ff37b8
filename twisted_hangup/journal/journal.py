"""The journal of one site: its recent errors, counts, and those who watch.

It knows no log, no file and no browser; those are watchers.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, ParamSpec, TypeAlias

from twisted.internet.address import UNIXAddress
from twisted.logger import Logger

from .._arguments import must_take
from ..errors import ClientError, RecordedError, UpstreamError
from .counts import Rates, Top

P = ParamSpec("P")

Watcher: TypeAlias = Callable[[ClientError], object]
UpstreamWatcher: TypeAlias = Callable[[UpstreamError], object]
SettledWatcher: TypeAlias = Callable[[ClientError, int | None], object]

#: Most errors that are kept, and most bytes of their packets together, so that a flood of 64 KiB
#: packets cannot fill the memory.
RECENT_ERRORS: Final = 100
RECENT_BYTES: Final = 1024 * 1024

#: Peers that are counted apart: each with more than one in a thousand of all errors is among them.
PEERS_COUNTED: Final = 1000

#: Most peers, and most codes, in a snapshot.
TOP: Final = 20


_log = Logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """One error, as the journal keeps it.

    Attributes:
        number: 1 for the journal's first error; each number is used once.
        time: When the error was recorded, as a Unix time.
        error: A `ClientError` or an `UpstreamError`.
        answered: Status code of the answer that was sent; None before, and if none was sent.
        settled: True once the answer is complete: nothing more will be sent.
    """

    number: int
    time: float
    error: RecordedError
    answered: int | None
    settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The counts of a journal at one moment; see `Snapshot`."""

    since: float
    quiet: int
    by_code: Mapping[str, int]
    by_phase: Mapping[str, int]
    by_status: Mapping[int | None, int]
    rates: tuple[tuple[int, Mapping[str, int]], ...]
    top_peers: tuple[tuple[str, int], ...]
    top_codes: tuple[tuple[str, int], ...]

    @property
    def by_status_name(self) -> dict[str, int]:
        """`by_status` for JSON: with ``none`` if nothing was sent."""
        return {
            "none" if status is None else str(status): count
            for status, count in self.by_status.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Totals):
    """The content of a journal at one moment.

    Attributes:
        since: When the journal began, as a Unix time; all counts start there.
        entries: The recent errors, oldest first.
        quiet: How many errors had `RecordedError.quiet`; the other counts leave these out.
        by_code: Code -> number of errors.
        by_phase: Phase -> number of errors.
        by_status: Status that was sent -> number of errors; None if nothing was sent.
        rates: For each second of the last hour with errors: its Unix time, and the number of errors
            by code.  Oldest first.
        top_peers: The hosts with most errors, each with a lower bound of their number; most first.
        top_codes: The most frequent codes and their numbers; most first.
    """

    entries: tuple[Entry, ...]


Follower: TypeAlias = Callable[[Snapshot | Entry], object]


class Watchers(Generic[P]):
    """Functions that are called with one kind of news, in the order in which they were added."""

    __slots__ = ("_of", "_watchers")

    def __init__(self, of: str) -> None:
        """*of* is what they watch, for the log."""
        self._of = of
        self._watchers: tuple[Callable[P, object], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def add(self, watcher: Callable[P, object]) -> Callable[[], None]:
        """Call *watcher*, too, from now on.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            self._watchers = tuple(other for other in self._watchers if other is not watcher)

        return unwatch

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call each watcher; if one raises, log that and call the others."""
        for watcher in self._watchers:
            try:
                watcher(*args, **kwargs)
            except Exception:
                _log.failure("A watcher of {what} failed and stays on watch", what=self._of)


class Journal:
    """The record of one site's errors: its clients', and those of servers behind a proxy.

    A site has it as ``site.journal``.  Use `watch` to send errors elsewhere, and `snapshot` to look
    at them.

    Its memory is bounded, however many errors and peers there are.  Errors with
    `RecordedError.quiet` go to the watchers and are counted, but not kept.

    Args:
        seconds: Returns the Unix time.

    Attributes:
        counts: Number of errors so far, by code.
        quiet: Number of errors so far with `RecordedError.quiet`.
        unused: Number of connections so far that ended without a request.  This is no error.
        stream_resets: Number of requests so far that an HTTP/2 client has cancelled with
            RST_STREAM.  This is no error.
    """

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self.counts: Counter[str] = Counter()
        self.quiet = self.unused = self.stream_resets = 0
        self._seconds = seconds
        self._since = seconds()
        self._number = 0
        #: What an `Entry` is made from: snapshots are rare, errors are not.
        self._kept: OrderedDict[RecordedError, tuple[int, float]] = OrderedDict()
        self._kept_bytes = 0
        self._by_phase: Counter[str] = Counter()
        self._by_status: Counter[int | None] = Counter()
        self._rates = Rates()
        self._peers = Top(PEERS_COUNTED)
        self._watchers: Watchers[[ClientError]] = Watchers("client errors")
        self._logs: Watchers[[ClientError]] = Watchers("answered client errors")
        self._upstream_watchers: Watchers[[UpstreamError]] = Watchers("upstream errors")
        self._settled_watchers: Watchers[[ClientError, int | None]] = Watchers("answers")
        self._followers: Watchers[[Snapshot | Entry]] = Watchers("the journal")

    @property
    def recent(self) -> tuple[ClientError, ...]:
        """The recent client errors, oldest first."""
        return tuple(error for error in self._kept if isinstance(error, ClientError))

    def snapshot(self) -> Snapshot:
        """What the journal holds now; the snapshot does not change any more."""
        return Snapshot(
            since=self._since,
            entries=tuple(self._entry(error) for error in self._kept),
            quiet=self.quiet,
            by_code=dict(self.counts),
            by_phase=dict(self._by_phase),
            by_status=dict(self._by_status),
            rates=self._rates.last_hour(int(self._seconds())),
            top_peers=self._peers.most(TOP),
            top_codes=tuple(self.counts.most_common(TOP)),
        )

    # Called by the site and the proxy.

    def record(self, error: ClientError) -> None:
        """Count and keep *error*, and tell every watcher."""
        if error.quiet:
            self.quiet += 1
        else:
            self._keep(error)
            self._peers.add(peer_name(error.peer))
        self._watchers.tell(error)
        if self._followers:
            self._tell_followers(error)

    def settle(self, error: ClientError, status: int | None, body_bytes: int = 0) -> None:
        """Note the answer to *error*: its *status*, or None; and tell those who wait for it.

        Args:
            body_bytes: Length of the answer's body.
        """
        if not error.quiet:
            self._by_status[status] += 1
        error.settled, error.answered, error.answered_bytes = True, status, body_bytes
        self._logs.tell(error)
        self._settled_watchers.tell(error, status)
        if self._followers:
            self._tell_followers(error)

    def record_upstream(self, error: UpstreamError) -> None:
        """Count and keep *error*, which is no client's fault, and tell its watchers."""
        _forget_frames(error)
        error.settled, error.answered = True, error.status
        self._by_status[error.answered] += 1
        self._keep(error)
        self._upstream_watchers.tell(error)
        if self._followers:
            self._tell_followers(error)

    # Watching.

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call *watcher* with every client error from now on, when it happens.

        If *watcher* has a true attribute ``waits_for_answers``, as the logs have, it is called once
        the error has been answered: ``error.answered`` then has the status.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        must_take("watcher", watcher, "error", classes=True)
        waits = getattr(watcher, "waits_for_answers", False)
        return (self._logs if waits else self._watchers).add(watcher)

    def watch_settled(self, watcher: SettledWatcher) -> Callable[[], None]:
        """Call *watcher* with each error and the status of its answer, once that was sent.

        This is when the connection closes: after the call of `watch`, and later if a handler takes
        its time.  The status is None if nothing was sent, or something that is not a response.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        must_take("watcher", watcher, "error", "status", classes=True)
        return self._settled_watchers.add(watcher)

    def watch_upstream(self, watcher: UpstreamWatcher) -> Callable[[], None]:
        """Call *watcher* with every `UpstreamError` of the site's proxies from now on.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        must_take("watcher", watcher, "error", classes=True)
        return self._upstream_watchers.add(watcher)

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Call *follower* with a `Snapshot` now, and with each `Entry` from now on.

        There is one for each error when it is recorded, and again, with the same number, when it
        has been answered.  The second one does not come if the error is not among the recent errors
        any more.  An `UpstreamError` has one entry only.

        Returns:
            A function that ends the watch; calling it twice is harmless.

        Raises:
            Exception: *follower* raised at the snapshot; it does not follow then.
        """
        must_take("follower", follower, "news", classes=True)
        follower(self.snapshot())
        return self._followers.add(follower)

    def _keep(self, error: RecordedError) -> None:
        now = self._seconds()
        code = error.code
        self.counts[code] += 1
        self._by_phase[error.phase] += 1
        self._number += 1
        kept = self._kept
        kept[error] = (self._number, now)
        self._kept_bytes += len(error.raw_packet or b"")
        while len(kept) > RECENT_ERRORS or self._kept_bytes > RECENT_BYTES:
            oldest, _ = kept.popitem(last=False)
            self._kept_bytes -= len(oldest.raw_packet or b"")
        self._rates.add(int(now), code)

    def _entry(self, error: RecordedError) -> Entry:
        number, recorded = self._kept[error]
        return Entry(number, recorded, error, error.answered, error.settled)

    def _tell_followers(self, error: RecordedError) -> None:
        if error in self._kept:
            self._followers.tell(self._entry(error))


def peer_name(address: object) -> str:
    """The name under which a peer is counted: its host, without the port; one for UNIX sockets."""
    if isinstance(address, UNIXAddress):
        return "unix"
    return str(getattr(address, "host", None) or "unknown")


def _forget_frames(error: BaseException) -> None:
    """Remove the frames of *error*'s causes, which would keep their requests alive."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = cause.__context__ = None
        cause = cause.__cause__
