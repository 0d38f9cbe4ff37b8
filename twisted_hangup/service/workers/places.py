"""Which worker accepts the next connection, and how many all of them may hold.

Workers wait for connections on the same sockets.  The kernel wakes all of them for each, and
whichever is first would hold most: perhaps the one that has just nothing to do, or all of them the
same.  So a worker that holds more than another leaves the next connection to it for a moment.
"""

from __future__ import annotations

import fcntl
from itertools import compress
from math import inf
from typing import Final

from twisted.internet.interfaces import IReactorTime

from ...transport.clock import steady
from .table import Row, Table

#: How many connections more than another a worker may hold, and yet accept.
SLACK: Final = 2

#: How long a worker looks away from its ports.
WAIT_SECONDS: Final = 0.001

#: How long it does so in all for one connection; then it accepts it.
MOST_WAIT_SECONDS: Final = 0.005

#: A worker that accepts nothing for so long while others wait for it is busy, or stopped; they
#: wait for it again once it has accepted or ended a connection.
AWAY_SECONDS: Final = 0.1


class SharedPlaces:
    """The places for connections in all workers, as one of them sees them.

    Attributes:
        most: Most connections of all workers together, those that drain too; None for no limit.
    """

    def __init__(
        self, table: Table, row: Row, clock: IReactorTime, most: int | None = None
    ) -> None:
        """
        Args:
            table: What the workers hold.
            row: The row of this one.
            clock: Gives the time.
            most: Most connections of all workers together; None for no limit.
        """
        self.most = most
        self._table = table
        self._row = row
        self._clock = steady(clock)
        #: When waiting began for the next connection, and until when it lasts.
        self._began = self._until = -inf
        #: For whom we wait: what they hold, and since when that has not changed.
        self._vain: dict[int, tuple[int, float]] = {}
        #: For whom we wait no more, until they hold something else than this.
        self._away: dict[int, int] = {}

    @property
    def held(self) -> int:
        """How many places this worker has taken."""
        return self._row.held

    @held.setter
    def held(self, connections: int) -> None:
        self._row.held = connections

    @property
    def excess(self) -> float:
        """How many connections are above the limit."""
        return -inf if self.most is None else sum(self._table.held) - self.most

    @property
    def leads(self) -> bool:
        """Whether this worker holds over `SLACK` connections more than another one that accepts."""
        mine = self._row.held
        return mine > min(compress(self._table.held, self._table.accepts), default=mine) + SLACK

    def wait_seconds(self) -> float:
        """How long to leave the next connection to others before asking again; 0 to accept it."""
        if not self.leads:
            return 0.0
        held, accepts, mine = self._table.held, self._table.accepts, self._row.held
        self._away = {index: was for index, was in self._away.items() if held[index] == was}
        behind = {
            index: number
            for index, number in enumerate(held)
            if accepts[index] and number + SLACK < mine and index not in self._away
        }
        if not behind:
            return 0.0
        now = self._clock.seconds()
        if now > self._until:
            self._began, self._vain = now, {}
        self._until = now + 2 * WAIT_SECONDS
        for index, number in behind.items():
            was, since = self._vain.setdefault(index, (number, now))
            if was != number:
                self._vain[index] = (number, now)
            elif now - since >= AWAY_SECONDS:
                self._away[index] = number
        if now - self._began < MOST_WAIT_SECONDS:
            return WAIT_SECONDS
        self._began = now
        return 0.0

    def lock(self) -> float:
        """Let no other worker take a place until `unlock`; how long to wait if one is at it."""
        try:
            fcntl.lockf(self._table.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return WAIT_SECONDS  # the system unlocks for a process that dies
        return 0.0

    def unlock(self) -> None:
        fcntl.lockf(self._table.descriptor, fcntl.LOCK_UN)
