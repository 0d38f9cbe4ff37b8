"""Closes a connection when all places are taken: an idle one, or one without a complete head."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final, Literal, NamedTuple, get_args

TurnedAway = Literal["address", "idle", "head"]
"""Why a connection was closed to make room: its address had its share of the places, it was idle
between requests, or its client had not finished a head (or its TLS handshake)."""

WHYS: Final[tuple[TurnedAway, ...]] = get_args(TurnedAway)

#: A client always has this long for its head: a handshake takes a few round trips.
LEAST_HEAD_SECONDS: Final = 1.0

#: After a look at all connections, the next one waits this many times as long as the look took.
_REST_SHARE: Final = 20


class Spare(NamedTuple):
    """What a connection waits for, and since when (on the deadlines' clock)."""

    waits_for: TurnedAway
    since: float


class Room:
    """Closes the connection that is idle for the longest time, or else the oldest without a head.

    Args:
        connections: Returns all connections, each with ``spare`` and ``make_room()``.
        seconds: Returns the time.

    Attributes:
        turned_away: How many connections were closed so far, by reason.
    """

    def __init__(
        self, connections: Callable[[], Iterable[Any]], seconds: Callable[[], float]
    ) -> None:
        self.turned_away: Counter[TurnedAway] = Counter()
        self._connections = connections
        self._seconds = seconds
        #: The connections that could be closed at the last look, the first to go first.
        self._spare: deque[tuple[Spare, Any]] = deque()
        self._next_look = -inf

    def can_make(self) -> bool:
        """Whether there is a connection that can be closed."""
        self._look()
        while self._spare and self._spare[0][1].spare != self._spare[0][0]:
            self._spare.popleft()
        if not self._spare:
            return False
        waits_for, since = self._spare[0][0]
        return waits_for == "idle" or self._seconds() - since >= LEAST_HEAD_SECONDS

    def make(self) -> TurnedAway:
        """Hang up on the connection that `can_make` has just found."""
        spare, channel = self._spare.popleft()
        self.turned_away[spare.waits_for] += 1
        channel.make_room()
        return spare.waits_for

    def _look(self) -> None:
        """Look at all connections, unless that was just done: ten thousand take a while."""
        began = self._seconds()
        if began < self._next_look:
            return
        spare = [(one.spare, one) for one in self._connections()]
        self._spare = deque(
            sorted(
                ((spare, one) for spare, one in spare if spare is not None),
                key=lambda pair: (pair[0].waits_for == "head", pair[0].since),
            )
        )
        ended = self._seconds()
        self._next_look = ended + (ended - began) * _REST_SHARE
