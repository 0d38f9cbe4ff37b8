"""The journals of several processes as one.

Each process passes on its recent errors as finished JSON, which is not decoded here, and from time
to time its totals.  A count never goes back, whatever process ends.
"""

from __future__ import annotations

import json
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ..report.masking import MaskingPolicy
from .counts import Rates
from .journal import PEERS_COUNTED, RECENT_ERRORS, TOP, Journal, Snapshot, Totals, Watchers

#: The counts in a report, by name.
_COUNTS: Final = ("by_code", "by_phase", "by_status")


@dataclass(frozen=True, slots=True)
class MergedEntry:
    """One error of one process.

    Attributes:
        number: 1 for the first error of all processes; each number is used once.
        settled: Whether nothing more will be sent.
        text: All of it as a JSON object.
    """

    number: int
    settled: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedSnapshot(Totals):
    """As `Snapshot`, of several processes."""

    entries: tuple[MergedEntry, ...]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How a worker is, for the operator.

    Attributes:
        number: 1 for the first worker.
        pid: Its process; 0 if there is none.
        up: Whether it serves.
        connections: How many connections it holds, with those of processes that finish.
        lost_records: How many records its processes could not pass on.
    """

    number: int
    pid: int
    up: bool
    connections: int
    lost_records: int


MergedFollower: TypeAlias = Callable[[MergedSnapshot | MergedEntry], object]


class MergedJournal:
    """The errors of all workers.

    A source is whatever stands for a process.

    Attributes:
        masking: Which secrets the workers have hidden.
        workers: How the workers are.
    """

    def __init__(
        self,
        masking: MaskingPolicy,
        workers: Callable[[], Sequence[WorkerState]],
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """*seconds* returns the Unix time."""
        self.masking = masking
        self.workers = workers
        self._seconds = seconds
        self._since = seconds()
        self._number = 0
        self._entries: OrderedDict[tuple[Hashable, int], MergedEntry] = OrderedDict()
        #: The number of the newest error of each process.
        self._newest: dict[Hashable, int] = {}
        self._quiet = 0
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTS}
        self._rates = Rates()
        self._gone_peers: Counter[str] = Counter()
        #: The last report of each process.
        self._reports: dict[Hashable, dict[str, Any]] = {}
        self._followers: Watchers[[MergedSnapshot | MergedEntry]] = Watchers("all journals")

    @property
    def open_connections(self) -> int:
        """How many connections the workers hold."""
        return sum(report["connections"] for report in self._reports.values())

    def connections_of(self, source: Hashable) -> int:
        """How many connections *source* holds."""
        report = self._reports.get(source)
        return 0 if report is None else int(report["connections"])

    def add_entry(
        self, source: Hashable, worker: int, number: int, settled: bool, text: bytes
    ) -> None:
        """Keep an error of *source*, or its new state.

        Args:
            worker: The number of the worker.
            number: The error's number in its process.
            text: The members of a JSON object, without the braces.
        """
        known = self._entries.get((source, number))
        if known is None:
            if number <= self._newest.get(source, 0):
                return  # the answer to one that is not among the recent ones any more
            self._newest[source] = number
            self._number += 1
        ours = self._number if known is None else known.number
        whole = f'{{"number": {ours}, "worker": {worker}, {text.decode("ascii")}}}'
        self._keep((source, number), MergedEntry(ours, settled, whole))

    def add_report(self, source: Hashable, report: dict[str, Any]) -> None:
        """Count what is new in a `report_of` the journal of *source*."""
        before = self._reports.get(source) or {name: {} for name in (*_COUNTS, "rates")}
        self._quiet += report["quiet"] - before.get("quiet", 0)
        for name in _COUNTS:
            counts = self._counts[name]
            for key, count in report[name].items():
                counts[key] += count - before[name].get(key, 0)
        # The seconds since the last report, and the last one of that again.
        report["rates"] = dict(report["rates"])
        for second, codes in report["rates"].items():
            counted = before["rates"].get(second, {})
            for code, count in codes.items():
                if count > counted.get(code, 0):
                    self._rates.add(second, code, count - counted.get(code, 0))
        self._reports[source] = report
        for key in self._unsettled(source):
            if key[1] < report["oldest"]:
                del self._entries[key]  # nobody will tell how it was answered

    def forget(self, source: Hashable) -> None:
        """*source* has gone; what it has counted stays, and what it has not answered is settled."""
        for key in self._unsettled(source):
            entry = self._entries[key]
            record = {**json.loads(entry.text), "settled": True}
            self._keep(key, MergedEntry(entry.number, True, json.dumps(record)))
        self._newest.pop(source, None)
        report = self._reports.pop(source, None)
        if report is not None:
            self._gone_peers.update(report["peers"])
            if len(self._gone_peers) > PEERS_COUNTED:
                self._gone_peers = Counter(dict(self._gone_peers.most_common(PEERS_COUNTED // 2)))

    def _keep(self, key: tuple[Hashable, int], entry: MergedEntry) -> None:
        self._entries[key] = entry
        while len(self._entries) > RECENT_ERRORS:
            self._entries.popitem(last=False)
        self._followers.tell(entry)

    def _unsettled(self, source: Hashable) -> list[tuple[Hashable, int]]:
        return [key for key, one in self._entries.items() if key[0] == source and not one.settled]

    def snapshot(self) -> MergedSnapshot:
        """What all journals hold, as far as it has been reported."""
        peers = self._gone_peers.copy()
        for report in self._reports.values():
            peers.update(report["peers"])
        codes = self._counts["by_code"]
        return MergedSnapshot(
            since=self._since,
            entries=tuple(self._entries.values()),
            quiet=self._quiet,
            by_code=dict(codes),
            by_phase=dict(self._counts["by_phase"]),
            by_status={
                None if status == "none" else int(status): count
                for status, count in self._counts["by_status"].items()
            },
            rates=self._rates.last_hour(int(self._seconds())),
            top_peers=tuple(peers.most_common(TOP)),
            top_codes=tuple(codes.most_common(TOP)),
        )

    def follow(self, follower: MergedFollower) -> Callable[[], None]:
        """As `Journal.follow`."""
        follower(self.snapshot())
        return self._followers.add(follower)


def report_of(snapshot: Snapshot, connections: int, rates_from: float) -> Mapping[str, Any]:
    """What a process reports of its journal, for JSON.

    Args:
        rates_from: The first second, since 1970, whose rates are reported.
    """
    return {
        "connections": connections,
        #: All errors with a number less than this are kept no more.
        "oldest": snapshot.entries[0].number if snapshot.entries else 0,
        "quiet": snapshot.quiet,
        "by_code": snapshot.by_code,
        "by_phase": snapshot.by_phase,
        "by_status": snapshot.by_status_name,
        "peers": dict(snapshot.top_peers),
        "rates": [pair for pair in snapshot.rates if pair[0] >= rates_from],
    }


#: What a status page can show.
AnyJournal: TypeAlias = Journal | MergedJournal
