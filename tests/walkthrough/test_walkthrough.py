"""A reader who follows the tutorial, or the page for people from Node, sees what the page shows."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from support.documents import PAGES
from support.walkthrough import Reader

from twisted_hangup import Limits, Timeouts

NODES = {node for node in (os.environ.get("NODE"), shutil.which("node")) if node}


def follow(reader: Reader, page: str) -> None:
    text = PAGES[page].read_text()
    if "\ncurl " in text and shutil.which("curl") is None:
        pytest.skip("curl is not installed, which the page uses")
    reader.follow(PAGES[page])


@pytest.mark.parametrize("page", ["index", "install", "tutorial", "from-twisted"])
def test_pages(tmp_path: Path, page: str) -> None:
    """Every command works as it stands, and prints what the page says."""
    if page == "from-twisted":
        pytest.importorskip("klein")
    reader = Reader(tmp_path)
    follow(reader, page)
    assert reader.compared == PAGES[page].read_text().count("```text\n")


@pytest.mark.parametrize("node", sorted(NODES) or [None])
def test_from_node(tmp_path: Path, node: str | None) -> None:
    """Programs for Node and ours are what the page says of them, with each Node that is here."""
    reader = Reader(tmp_path, node)
    follow(reader, "from-node")
    assert reader.compared > 0


def test_defaults_beside_those_of_node() -> None:
    """The page for people from Node names each limit and timeout with its default."""
    page = PAGES["from-node"].read_text()
    named = re.findall(r"\| `(Limits|Timeouts)\((\w+)=(\w+)\)` \| `--", page)
    assert len(named) > 6
    for record, field, value in named:
        default = getattr(Limits() if record == "Limits" else Timeouts(), field)
        assert str(default) in (value, f"{value}.0"), field


def test_glossary_is_in_order() -> None:
    """A word is found where the alphabet has it."""
    words = re.findall(r"^## (.*)$", PAGES["glossary"].read_text(), re.M)
    assert words == sorted(words, key=str.lower)
