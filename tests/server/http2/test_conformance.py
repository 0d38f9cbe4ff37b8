"""h2spec's cases against a real ``twistd hangup`` over TLS: what fails is what `FAILURES` lists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.h2spec import Peer, h2_server
from support.h2spec_cases import CASES, FAILURES


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with h2_server(tmp_path_factory.mktemp("h2spec")) as port:
        yield port


def test_all_are_here() -> None:
    """As many as h2spec counts, and one that it keeps for its strict mode."""
    assert len(CASES) == 146 + 1
    assert {*CASES} >= FAILURES


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, port: int) -> None:
    """Each does what the RFC asks; a listed one does not, so that the list stays true."""
    peer = Peer(port)
    try:
        if name in FAILURES:
            with pytest.raises(AssertionError, match="status 400"):
                peer.play(CASES[name].steps)
        else:
            peer.play(CASES[name].steps)
    finally:
        peer.close()
