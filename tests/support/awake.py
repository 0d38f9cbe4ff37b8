"""Time that a busy machine does not lengthen: that in which the reactor runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from twisted.internet.task import LoopingCall

_TICK_SECONDS: Final = 0.01


class Awake:
    """Counts the seconds in which the reactor runs; never more than have passed.

    While the machine stops, or does something else, they stand still.  What waits for a timer of
    the reactor takes no more of them than the timer does.
    """

    def __init__(self) -> None:
        self._ticks = 0
        self._ticking = LoopingCall(self._tick)
        self._ticking.start(_TICK_SECONDS, now=False)

    @property
    def seconds(self) -> float:
        """How many have passed since the beginning."""
        return self._ticks * _TICK_SECONDS

    def stop(self) -> None:
        self._ticking.stop()

    def _tick(self) -> None:
        self._ticks += 1


@pytest.fixture
def awake() -> Iterator[Awake]:
    """A count that begins with the test."""
    awake = Awake()
    yield awake
    awake.stop()
