"""Whoever watches something, and cannot do it harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

from twisted.logger import Logger

P = ParamSpec("P")

_log = Logger()


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
