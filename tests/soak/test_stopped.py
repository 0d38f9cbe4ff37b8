"""Clients that stop at a random byte: a few of them, and a fault that they would find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from support.cleanliness import LoggedErrors
from twisted.internet import reactor

from twisted_hangup.transport.sockets import SendWatch

from . import stopped


@pytest.mark.parametrize("watched", [True, False])
@pytest_twisted.ensureDeferred
async def test_batch(
    tmp_path: Path, watched: bool, expected_errors: LoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of them; without the watch on what clients take, some are."""
    if not watched:
        monkeypatch.setattr(SendWatch, "start", lambda watch: None)
        monkeypatch.setattr(stopped, "OVER", 6.0)
    wrong: list[Any] = []
    for seed in range(1, 2 if watched else 10):  # a machine that stops may leave a batch little
        wrong = wrong or await stopped.batch(reactor, seed, 30, tmp_path)
    expected_errors.flush(ZeroDivisionError)
    assert bool(wrong) != watched, wrong
