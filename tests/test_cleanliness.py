"""The fixtures that guard every other test must themselves turn red."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import PATIENCE

TESTS = """
import pytest_twisted
from twisted.internet import defer, protocol, reactor, task
from twisted.logger import Logger
from twisted.python import log


def test_dirty_timer():
    reactor.callLater(60, lambda: None)


def test_dirty_port():
    reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")


def test_dirty_logged_failure():
    try:
        raise ValueError("logged and not expected")
    except ValueError:
        log.err()


def test_dirty_logged_error():
    Logger().error("an error without a failure")


def test_dirty_lost_failure():
    defer.fail(ValueError("nobody looks"))


def test_dirty_lost_failure_in_a_cycle():
    d = defer.fail(ValueError("nobody looks, and only the collector finds it"))
    d.myself = d


def test_dirty_other_error_than_expected(expected_errors):
    defer.fail(ValueError("not the one"))
    assert expected_errors.flush(KeyError) == []


def test_clean():
    pass


def test_clean_expected_error(expected_errors):
    defer.fail(ValueError("the one"))
    [event] = expected_errors.flush(ValueError)
    assert event["log_failure"].check(ValueError)


def test_clean_expected_error_of_the_older_log(expected_errors):
    log.err(ValueError("the one"))
    assert len(expected_errors.flush(ValueError)) == 1


def test_clean_closed_port():
    port = reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")
    return port.stopListening()


async def test_clean_after_waiting():
    await task.deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_endless():
    await defer.Deferred()  # where it waits
"""

CONFTEST = """
import support.cleanliness
from support.cleanliness import *

support.cleanliness.LONGEST_SECONDS = 2.0
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a pytest of its own, guarded by the same fixtures, prints of the tests above."""
    folder = tmp_path_factory.mktemp("inner")
    (folder / "test_inner.py").write_text(TESTS)
    (folder / "conftest.py").write_text(CONFTEST)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--reactor=default", "-rA", "test_inner.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return run.stdout


@pytest.fixture(scope="module")
def outcomes(output: str) -> dict[str, str]:
    """What it says of each of them."""
    lines = [line.split("::") for line in output.splitlines() if "::" in line]
    found: dict[str, str] = {}
    for outcome, name in lines:
        # A test that passes and then fails in its teardown is listed twice.
        test = name.split()[0]
        if found.get(test) != "ERROR":
            found[test] = outcome.split()[0]
    return found


@pytest.mark.parametrize("test", re.findall(r"def (test_(?:dirty|clean)\w*)", TESTS))
def test_only_dirt_turns_a_test_red(test: str, outcomes: dict[str, str]) -> None:
    """Each kind of dirt fails its own test, and never the clean one that follows."""
    assert outcomes[test] == ("ERROR" if "dirty" in test else "PASSED")


def test_endless_test_fails_where_it_waits(output: str, outcomes: dict[str, str]) -> None:
    """What never comes is a failure with its line, and no run of tests without an end."""
    assert outcomes["test_endless"] == "FAILED"
    assert ">       await defer.Deferred()  # where it waits\n" in output


@pytest.mark.parametrize("parameter", [1, 2])
@given(st.integers())
def test_a_property_can_have_parameters(parameter: int, drawn: int) -> None:
    """A test under ``@given`` runs for each of its parameters, not only for the first."""
    assert isinstance(parameter + drawn, int)
