"""What went wrong lately: recent errors, counts, and whoever watches.

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

#: Errors kept, and bytes of their packets: what an operator scrolls through, at a cost
#: that a flood of 64 KiB packets cannot raise.
RECENT_ERRORS: Final = 100
RECENT_BYTES: Final = 1024 * 1024

#: Peers that are counted one by one: whoever makes more than one in a thousand of all
#: errors is among them.
PEERS_COUNTED: Final = 1000

#: Most peers, and most codes, that a snapshot names.
TOP: Final = 20


_log = Logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """One error, as it was kept.

    Attributes:
        number: 1 for the first of its journal, and never used again.
        time: When it was recorded, a Unix time.
        error: A `ClientError` or an `UpstreamError`.
        answered: Status code that was sent; None where none was, or none was yet.
        settled: Whether all has been sent that will be.
    """

    number: int
    time: float
    error: RecordedError
    answered: int | None
    settled: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a journal knows at one moment.

    Attributes:
        since: When the journal began, a Unix time; all counts are from then on.
        entries: The recent errors, oldest first.
        quiet: How many errors there were that are nobody's fault, which all else leaves out.
        by_code, by_phase: How many errors there were.
        by_status: How many were settled with each status; None: nothing was sent.
        rates: Of each second of the last hour that had errors: its Unix time, and how many
            by code.  Oldest first.
        top_peers: Hosts that went wrong most often, and how often at least; most first.
        top_codes: The most frequent codes, and how often; most first.
    """

    since: float
    entries: tuple[Entry, ...]
    quiet: int
    by_code: Mapping[str, int]
    by_phase: Mapping[str, int]
    by_status: Mapping[int | None, int]
    rates: tuple[tuple[int, Mapping[str, int]], ...]
    top_peers: tuple[tuple[str, int], ...]
    top_codes: tuple[tuple[str, int], ...]


Follower: TypeAlias = Callable[[Snapshot | Entry], object]


class Watchers(Generic[P]):
    """Functions that are called with one kind of news, in the order they were added."""

    __slots__ = ("_of", "_watchers")

    def __init__(self, of: str) -> None:
        """*of* says what they watch, for the log."""
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
        """Call each; what one of them raises is logged, and the others are called all the same."""
        for watcher in self._watchers:
            try:
                watcher(*args, **kwargs)
            except Exception:
                _log.failure("A watcher of {what} failed and stays on watch", what=self._of)


class Journal:
    """The record of one site's errors: its clients', and those of servers behind a proxy.

    What it takes in memory has a bound, however many errors and peers there are.  Errors that
    are nobody's fault (`RecordedError.quiet`) are told to watchers and counted, and no more.

    Args:
        seconds: The Unix time.

    Attributes:
        counts: Errors so far, by code.
        quiet: Errors so far that are nobody's fault.
        unused: Connections so far that have ended without a request, which is no error.
        stream_resets: Requests so far that an HTTP/2 client has given up with RST_STREAM,
            which is no error.
    """

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self.counts: Counter[str] = Counter()
        self.quiet = self.unused = self.stream_resets = 0
        self._seconds = seconds
        self._since = seconds()
        self._number = 0
        #: What an `Entry` says beside its error: snapshots are seldom, errors are not.
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
        """The last client errors, oldest first."""
        return tuple(error for error in self._kept if isinstance(error, ClientError))

    def snapshot(self) -> Snapshot:
        """All that there is to know now; it does not change any more."""
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

    # What happens.

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
        """Note that *error* was answered *status*, or not at all, and tell who waits for that.

        Args:
            body_bytes: How long the body of that response is.
        """
        if not error.quiet:
            self._by_status[status] += 1
        error.settled, error.answered, error.answered_bytes = True, status, body_bytes
        self._logs.tell(error)
        self._settled_watchers.tell(error, status)
        if self._followers:
            self._tell_followers(error)

    def record_upstream(self, error: UpstreamError) -> None:
        """Count and keep *error*, no client's fault, and tell those who watch for it."""
        _forget_frames(error)
        error.settled, error.answered = True, error.status
        self._by_status[error.answered] += 1
        self._keep(error)
        self._upstream_watchers.tell(error)
        if self._followers:
            self._tell_followers(error)

    # Who watches.

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call *watcher* with every error from now on, as it happens.

        Logs have a true attribute ``waits_for_answers``: they are called once the error is
        settled, so that they know from ``error.answered`` what was sent.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        must_take("watcher", watcher, "error", classes=True)
        waits = getattr(watcher, "waits_for_answers", False)
        return (self._logs if waits else self._watchers).add(watcher)

    def watch_settled(self, watcher: SettledWatcher) -> Callable[[], None]:
        """Call *watcher* with each error, and the status code that was sent, once it was.

        That is when the connection is closed for it: after `watch`, and later where a
        handler takes its time.  The status is None where nothing was sent, or no response.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        must_take("watcher", watcher, "error", "status", classes=True)
        return self._settled_watchers.add(watcher)

    def watch_upstream(self, watcher: UpstreamWatcher) -> Callable[[], None]:
        """Call *watcher* with every error of a proxy's upstream servers from now on.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        must_take("watcher", watcher, "error", classes=True)
        return self._upstream_watchers.add(watcher)

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Call *follower* with a `Snapshot` now, and with what changes from now on.

        That is an `Entry` for each error when it is recorded, and again, with the same
        number, when it is settled.  One that is not among the recent errors any more by
        then does not come again, and one of an upstream server is settled at once.

        Returns:
            A function that ends the watch; calling it twice is harmless.

        Raises:
            Exception: What *follower* raises at the snapshot; it does not follow then.
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
    """What counts as one peer: its host, whatever its port; all of UNIX sockets are one."""
    if isinstance(address, UNIXAddress):
        return "unix"
    return str(getattr(address, "host", None) or "unknown")


def _forget_frames(error: BaseException) -> None:
    """What is kept must not keep the requests alive that the frames of its causes know."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = cause.__context__ = None
        cause = cause.__cause__
