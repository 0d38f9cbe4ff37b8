"""What bootstrap.py shows while it sets up."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "bootstrap", Path(__file__).parents[2] / "bootstrap.py"
)
assert spec is not None and spec.loader is not None
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)


@pytest.mark.parametrize(
    "line, words",
    [
        ("Collecting twisted>=26.4 (from twisted_hangup==1.0.0)\n", "fetching twisted>=26.4"),
        ("  Downloading twisted-26.10.0-py3-none-any.whl (3.2 MB)\n", None),
        ("Installing collected packages: attrs, idna, twisted\n", "installing 3 packages ..."),
        ("Successfully installed attrs-1\n", None),
        ("\n", None),
    ],
)
def test_progress(line: str, words: str | None) -> None:
    """Of pip's many lines it is shown what is fetched, and that it is installed."""
    assert bootstrap.progress(line) == words
