"""Who makes room where all places are taken: not the clients that wait, nor those being served."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final, Literal, NamedTuple, get_args

TurnedAway = Literal["address", "idle", "head"]
"""Why a connection was hung up on so that others have a place: its address had its share, it
was idle between requests, or its client had not finished a head (or its TLS handshake)."""

WHYS: Final[tuple[TurnedAway, ...]] = get_args(TurnedAway)

#: A client has so long for its head in any case: a handshake takes a few turns over the net.
LEAST_HEAD_SECONDS: Final = 1.0

#: After a look at all connections there is none for so many times as long.
_REST_SHARE: Final = 20


class Spare(NamedTuple):
    """What a connection waits for, and since when on the clock of the deadlines."""

    waits_for: TurnedAway
    since: float


class Room:
    """Hangs up on the longest idle connection, then on the oldest without a whole head.

    Args:
        connections: Gives all that there are, each with ``spare`` and ``make_room()``.
        seconds: Says what time it is.

    Attributes:
        turned_away: How many so far, by why.
    """

    def __init__(
        self, connections: Callable[[], Iterable[Any]], seconds: Callable[[], float]
    ) -> None:
        self.turned_away: Counter[TurnedAway] = Counter()
        self._connections = connections
        self._seconds = seconds
        #: Those that can be spared, from the last look on, the first to go first.
        self._spare: deque[tuple[Spare, Any]] = deque()
        self._next_look = -inf

    def can_make(self) -> bool:
        """Whether there is a connection that can be spared."""
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
        """Look at all connections, if that was not just done: ten thousand take a while."""
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
