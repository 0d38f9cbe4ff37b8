"""The journals of several processes are one, whose counts never go back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from twisted_hangup import ParseError
from twisted_hangup.journal import RECENT_ERRORS, TOP, Journal
from twisted_hangup.journal.merged import MergedJournal, report_of
from twisted_hangup.report.masking import DEFAULT_POLICY

NOW = 1_700_000_000.0

CODES = ["HPE_STRICT", "HPE_INVALID_METHOD", "HPE_INVALID_VERSION"]


class Wall:
    """A clock that goes when it is told to."""

    now = NOW

    def __call__(self) -> float:
        return self.now


class Process:
    """A process that reports its journal, as a worker does."""

    def __init__(self, wall: Wall | None = None) -> None:
        self.journal = Journal(wall or Wall())
        self.rates_from = 0

    def fail(self, code: str) -> None:
        error = ParseError("broken", code=code, phase="head")
        self.journal.record(error)
        self.journal.settle(error, 400)

    def report(self, connections: int = 0) -> dict[str, Any]:
        snapshot = self.journal.snapshot()
        report = json.loads(json.dumps(report_of(snapshot, connections, self.rates_from)))
        self.rates_from = snapshot.rates[-1][0] if snapshot.rates else 0
        assert isinstance(report, dict)
        return report


def merged(wall: Wall | None = None) -> MergedJournal:
    return MergedJournal(DEFAULT_POLICY, list, wall or Wall())


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("fail"), st.integers(0, 2), st.sampled_from(CODES)),
            st.tuples(st.just("report"), st.integers(0, 2), st.just("")),
            st.tuples(st.just("wait"), st.integers(0, 2), st.just("")),
            st.tuples(st.just("end"), st.integers(0, 2), st.just("")),
        ),
        max_size=60,
    )
)
def test_counts_are_the_sum(steps: list[tuple[str, int, str]]) -> None:
    """Whatever is reported when, and whoever ends: the sum of all, which never gets less."""
    wall = Wall()
    processes = [Process(wall) for _ in range(3)]
    ours, expected = merged(wall), Journal(wall)
    before = 0
    for step, index, code in steps:
        process = processes[index]
        if step == "fail":
            process.fail(code)
            error = ParseError("broken", code=code, phase="head")
            expected.record(error)
            expected.settle(error, 400)
        elif step == "report":
            ours.add_report(process, process.report())
        elif step == "wait":
            wall.now += 1
        else:
            ours.add_report(process, process.report())
            ours.forget(process)
            processes[index] = Process(wall)
        total = sum(ours.snapshot().by_code.values())
        assert total >= before
        before = total
    for process in processes:
        ours.add_report(process, process.report())
    snapshot, whole = ours.snapshot(), expected.snapshot()
    assert {k: v for k, v in snapshot.by_code.items() if v} == whole.by_code
    assert {k: v for k, v in snapshot.by_phase.items() if v} == whole.by_phase
    assert {k: v for k, v in snapshot.by_status.items() if v} == whole.by_status
    assert snapshot.rates == whole.rates
    assert dict(snapshot.top_peers) == dict(whole.top_peers)


def test_entries() -> None:
    """Each has a number of its own, and keeps it once it is answered; the last 100 are kept."""
    ours = merged()
    news: list[Any] = []
    ours.follow(news.append)
    first, second = Process(), Process()
    ours.add_entry(first, 1, 1, False, b'"code": "A"')
    ours.add_entry(second, 2, 1, True, b'"code": "B"')
    ours.add_entry(first, 1, 1, True, b'"code": "A"')
    entries = ours.snapshot().entries
    assert [json.loads(entry.text) for entry in entries] == [
        {"number": 1, "worker": 1, "code": "A"},
        {"number": 2, "worker": 2, "code": "B"},
    ]
    assert [entry.settled for entry in entries] == [True, True]
    assert [one.number for one in news[1:]] == [1, 2, 1]
    for number in range(RECENT_ERRORS + 5):
        ours.add_entry(second, 2, 10 + number, True, b'"code": "C"')
    assert [entry.number for entry in ours.snapshot().entries] == [*range(8, RECENT_ERRORS + 8)]


def test_answer_to_an_error_that_is_kept_no_more() -> None:
    """It is not a new error."""
    ours = merged()
    slow, busy = Process(), Process()
    ours.add_entry(slow, 1, 1, False, b'"settled": false')
    for number in range(1, RECENT_ERRORS + 1):
        ours.add_entry(busy, 2, number, True, b'"settled": true')
    ours.add_entry(slow, 1, 1, True, b'"settled": true')
    assert {json.loads(entry.text)["worker"] for entry in ours.snapshot().entries} == {2}
    ours.add_entry(slow, 1, 2, True, b'"settled": true')
    assert ours.snapshot().entries[-1].number == RECENT_ERRORS + 2


def test_errors_of_a_process_that_was_killed() -> None:
    """It answers no more, so that nothing was sent."""
    ours = merged()
    killed, lives = Process(), Process()
    for process in (killed, lives):
        ours.add_entry(process, 1, 1, False, b'"settled": false, "answered": null')
    news: list[Any] = []
    ours.follow(news.append)
    ours.forget(killed)
    first, second = (json.loads(entry.text) for entry in ours.snapshot().entries)
    assert first == {"number": 1, "worker": 1, "settled": True, "answered": None}
    assert not second["settled"]
    assert [(one.number, one.settled) for one in news[1:]] == [(1, True)]


def test_errors_that_their_process_keeps_no_more() -> None:
    """How one of them was answered nobody tells, so that it goes; those that were answered stay."""
    ours = merged()
    process, other = Process(), Process()
    for number, settled in ((1, False), (2, True), (3, False)):
        ours.add_entry(process, 1, number, settled, b'"code": "A"')
    ours.add_entry(other, 2, 1, False, b'"code": "A"')
    for _ in range(RECENT_ERRORS + 2):
        process.fail(CODES[0])
    ours.add_report(process, process.report())
    assert [entry.number for entry in ours.snapshot().entries] == [2, 3, 4]


def test_connections_of_those_that_live() -> None:
    """A process that has gone holds none."""
    ours = merged()
    first, second = Process(), Process()
    ours.add_report(first, first.report(3))
    ours.add_report(second, second.report(4))
    assert ours.open_connections == 7
    ours.forget(first)
    ours.forget("unknown")
    assert (ours.open_connections, ours.connections_of(first)) == (4, 0)
    assert ours.connections_of(second) == 4


def test_peers_of_many_deaths() -> None:
    """They take no more memory, and the most frequent one stays."""
    ours = merged()
    for death in range(300):
        report = Process().report()
        report["peers"] = {"192.0.2.1": 5, **{f"10.0.{death}.{n}": 1 for n in range(TOP)}}
        ours.add_report(death, report)
        ours.forget(death)
    assert ours.snapshot().top_peers[0] == ("192.0.2.1", 5 * 300)
    assert len(ours._gone_peers) < 1100
