"""A short run of the differential fuzz; ``python -m tests.oracle.fuzz`` makes long ones."""

from __future__ import annotations

import pytest
from oracle import fuzz, node

from twisted_hangup.limits import Limits

COUNT = 10_000


@pytest.fixture(scope="module")
def judge() -> str:
    """A node that may judge; without one there is nothing to compare with."""
    command = node.find_node()
    if command is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    return command


@pytest.mark.parametrize("require_host", [True, False], ids=["host", "no-host"])
def test_decides_as_node_does(judge: str, require_host: bool) -> None:
    """Of thousands of mutated streams none is judged unlike Node but by a named deviation."""
    streams = list(fuzz.mutants(COUNT, seed=26 + require_host))
    named, unexplained = fuzz.compare(judge, streams, Limits(require_host=require_host))
    assert not [(d.stream, d.ours, d.node) for d in unexplained]
    assert sum(named.values()) > COUNT // 100, "the fuzz no longer reaches the deviations"


def test_unchanged_seeds(judge: str) -> None:
    """What the fuzz starts from is judged alike, too."""
    streams = [[seed] for seed in fuzz.seeds() if seed]
    _, unexplained = fuzz.compare(judge, streams, Limits(require_host=False))
    assert not [(d.stream, d.ours, d.node) for d in unexplained]
