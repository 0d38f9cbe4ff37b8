"""What went wrong lately: recent errors, counts, and whoever watches.

It knows no log, no file and no browser; those are watchers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final, TypeAlias

from twisted.logger import Logger

from .errors import ClientError, UpstreamError

Watcher: TypeAlias = Callable[[ClientError], object]
UpstreamWatcher: TypeAlias = Callable[[UpstreamError], object]
SettledWatcher: TypeAlias = Callable[[ClientError, int | None], object]

#: Errors kept, and bytes of their packets: what an operator scrolls through, at a cost
#: that a flood of 64 KiB packets cannot raise.
RECENT_ERRORS: Final = 100
RECENT_BYTES: Final = 1024 * 1024

_log = Logger()


class Journal:
    """The record of one site's client errors.

    Attributes:
        counts: Errors so far, by code.
        stream_resets: Requests so far that an HTTP/2 client has given up with RST_STREAM,
            which is no error.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.stream_resets = 0
        self._recent: deque[ClientError] = deque()
        self._recent_bytes = 0
        self._watchers: tuple[Watcher, ...] = ()
        self._settled_watchers: tuple[SettledWatcher, ...] = ()
        self._upstream_watchers: tuple[UpstreamWatcher, ...] = ()

    @property
    def recent(self) -> tuple[ClientError, ...]:
        """The last errors, oldest first."""
        return tuple(self._recent)

    def record(self, error: ClientError) -> None:
        """Count and keep *error*, and tell every watcher."""
        self.counts[error.code] += 1
        self._recent.append(error)
        self._recent_bytes += len(error.raw_packet or b"")
        while len(self._recent) > RECENT_ERRORS or self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft().raw_packet or b"")
        for watcher in self._watchers:
            try:
                watcher(error)
            except Exception:
                _log.failure("A watcher of client errors failed and stays on watch")

    def record_upstream(self, error: UpstreamError) -> None:
        """Count *error*, no client's fault, and tell those who watch for it."""
        self.counts[error.code] += 1
        for watcher in self._upstream_watchers:
            try:
                watcher(error)
            except Exception:
                _log.failure("A watcher of upstream errors failed and stays on watch")

    def watch_upstream(self, watcher: UpstreamWatcher) -> Callable[[], None]:
        """Call *watcher* with every error of a proxy's upstream servers from now on.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        self._upstream_watchers = (*self._upstream_watchers, watcher)

        def unwatch() -> None:
            others = (other for other in self._upstream_watchers if other is not watcher)
            self._upstream_watchers = tuple(others)

        return unwatch

    def settle(self, error: ClientError, status: int | None) -> None:
        """Tell who watches for it what *error* was answered."""
        for watcher in self._settled_watchers:
            try:
                watcher(error, status)
            except Exception:
                _log.failure("A watcher of answers failed and stays on watch")

    def watch_settled(self, watcher: SettledWatcher) -> Callable[[], None]:
        """Call *watcher* with each error, and the status code that was sent, once it was.

        That is when the connection is closed for it: after `watch`, and later where a
        handler takes its time.  The status is None where nothing was sent, or no response.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        self._settled_watchers = (*self._settled_watchers, watcher)

        def unwatch() -> None:
            others = (other for other in self._settled_watchers if other is not watcher)
            self._settled_watchers = tuple(others)

        return unwatch

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call *watcher* with every error from now on, as it happens.

        Returns:
            A function that ends the watch; calling it twice is harmless.
        """
        self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            self._watchers = tuple(other for other in self._watchers if other is not watcher)

        return unwatch
