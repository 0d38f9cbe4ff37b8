"""What the first process tells a worker at its start."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from typing import Final

#: The worker's descriptors after its standard ones: the channel, the table, the sockets.
CHANNEL_DESCRIPTOR: Final = 3
TABLE_DESCRIPTOR: Final = 4
FIRST_SOCKET: Final = 5

#: Signals of a terminal and of ``pkill``, which are for the first process.
IGNORED_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})

#: Signals that wait until a worker knows what to do about them.  Before that it is a copy of the
#: first process, whose handlers would take them.
BLOCKED_SIGNALS: Final = IGNORED_SIGNALS | {signal.SIGTERM}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a worker is to do.  It can be read in the list of processes, so it holds no secret.

    Attributes:
        number: Which worker this is: 1 for the first.
        make: The dotted name of the function that makes its service.
        arguments: For that function.
        ports: The endpoints to listen on.
        sockets: How many sockets each of them has.
        directory: Its working directory.
        row: The index of its row in the table.
        grace_seconds: How long its service may take to stop.
        boot_ends: Until when it may take to start, on the monotonic clock; 0 = for ever.
        systemd_names: The names of the sockets that systemd has passed to the first process.
    """

    number: int
    make: str
    arguments: list[str]
    ports: list[str]
    sockets: list[int]
    directory: str
    row: int
    grace_seconds: float
    boot_ends: float
    systemd_names: list[str]

    @classmethod
    def from_text(cls, text: str) -> Plan:
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))
