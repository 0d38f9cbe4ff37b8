"""The soak fails where it should: each check sees what it is there for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from .application import BUG
from .bad import Ports, Sent
from .command import (
    MOST_MEMORY_GROWTH,
    Checks,
    Server,
    check_back,
    check_counts,
    check_good,
    check_log,
)

STATE: dict[str, Any] = {
    "descriptors": 16,
    "timers": 2,
    "threads": 1,
    "connections": 1,
    "memory": 2**26,
    "errors": {"ECONNRESET": 1},
    "quiet": 1,
    "answers": 1,
    "outcomes": 2,
    "calls": [["/never", "ECONNRESET", 1], ["", "ECONNRESET", 1]],
    "stream_resets": 3,
}
ACCESS = '127.0.0.2 - - [1] "GET /never HTTP/1.1" 499 - "-" "-"\n'
ERROR = {"code": "ECONNRESET", "target": "/never", "phase": "response"}
TRACEBACK = "Traceback (most recent call last):\nZeroDivisionError: %s\n"


def failed(check: Any, *arguments: Any) -> bool:
    checks = Checks()
    check(checks, *arguments)
    return checks.failed


@pytest.mark.parametrize(
    "good, fails",
    [
        ({"seconds": [0.1], "wrong": []}, False),
        ({"seconds": [0.1], "wrong": ["h1: 500"]}, True),
        ({"seconds": [], "wrong": []}, True),
    ],
)
def test_good_requests(good: dict[str, Any], fails: bool) -> None:
    """One wrong answer is too much, and so is none at all."""
    assert failed(check_good, good) == fails


@pytest.mark.parametrize("name", ["descriptors", "timers", "threads", "connections", "memory"])
def test_what_stays_is_a_leak(name: str) -> None:
    """One more of anything, or more memory than the heap may keep."""
    most = STATE[name] + (MOST_MEMORY_GROWTH if name == "memory" else 0)
    assert not failed(check_back, STATE, {**STATE, name: most})
    assert failed(check_back, STATE, {**STATE, name: most + 1})


def server(folder: Path, access: str = ACCESS, errors: list[Any] | None = None) -> Server:
    (folder / "access").write_text(access)
    records = [ERROR] if errors is None else errors
    (folder / "error").write_text("".join(json.dumps(record) + "\n" for record in records))
    return Server(cast(Any, None), Ports(0, 0), folder)


def sent() -> Sent:
    one = Sent()
    one.error("ECONNRESET", "/never")
    one.resets = 3
    return one


def test_counts_that_add_up(tmp_path: Path) -> None:
    """Nothing is missing, and nothing was counted twice."""
    assert not failed(check_counts, server(tmp_path), sent(), STATE)


@pytest.mark.parametrize(
    "files, state",
    [
        ({"access": ""}, {}),
        ({"access": ACCESS * 2}, {}),
        ({"errors": []}, {}),
        ({"errors": [{**ERROR, "code": "EPIPE"}]}, {}),
        ({"errors": [{**ERROR, "target": None, "phase": "handshake"}]}, {}),
        ({}, {"errors": {"ECONNRESET": 2}}),
        ({}, {"answers": 0}),
        ({}, {"outcomes": 3}),
        ({}, {"quiet": 0}),
        ({}, {"quiet": 2}),
        ({}, {"calls": [["/never", "EPIPE", 1]]}),
        ({}, {"calls": [["/never", "ECONNRESET", 2], ["", "ECONNRESET", 1]], "outcomes": 3}),
        ({}, {"stream_resets": 2}),
    ],
)
def test_counts_that_do_not(tmp_path: Path, files: Any, state: Any) -> None:
    """A line too few or too many, another code, and counters that differ."""
    assert failed(check_counts, server(tmp_path, **files), sent(), {**STATE, **state})


@pytest.mark.parametrize(
    "log, fails",
    [
        ("Site starting\n" + TRACEBACK % BUG, False),
        (TRACEBACK % "another", True),
        ("Traceback (most recent call last):\n", True),
        ("Unhandled error in Deferred\n", True),
        ("DeprecationWarning: old\n", True),
    ],
)
def test_log(tmp_path: Path, log: str, fails: bool) -> None:
    """Only the soak's own bugs may have a traceback."""
    (tmp_path / "log").write_text(log)
    assert failed(check_log, server(tmp_path)) == fails
