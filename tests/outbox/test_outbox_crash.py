"""Nothing that was stored is lost to ``kill -9``, whenever it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from support.outbox_crashes import Crashes, crash
from support.outboxes import postgres_dsn as postgres_dsn

KILLS: Final = {"least_kills": 4, "most_kills": 10}


def check(crashes: Crashes) -> None:
    assert crashes.kills >= KILLS["least_kills"]
    assert not crashes.lost
    assert not crashes.needless
    assert not crashes.out_of_order


def test_one_process(tmp_path: Path) -> None:
    """None lost; none twice but where the delivery was cut apart from writing it down."""
    result = crash(str(tmp_path / "outbox"), 150, 1, seed=1, **KILLS)
    assert len(result.stored) == 150
    check(result)


def test_two_processes_on_one_file(tmp_path: Path) -> None:
    """They share the work, and do not disturb each other."""
    result = crash(str(tmp_path / "outbox"), 160, 2, seed=2, **KILLS)
    assert len(result.stored) == 160
    check(result)


def test_four_processes_on_postgresql(postgres_dsn: str) -> None:
    """The same where several machines would share the work."""
    result = crash(postgres_dsn, 100, 4, seed=3, **KILLS)
    assert len(result.stored) == 100
    check(result)
