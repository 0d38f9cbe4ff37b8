"""The pages of docs/, and the programs in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from programs import programs

import twisted_hangup
from twisted_hangup.errors import UpstreamError
from twisted_hangup.report.rules import RESPONSE_RULES, RULES

PAGES: Final = {path.stem: path for path in (Path(__file__).parents[2] / "docs").glob("*.md")}


@cache
def written_codes() -> frozenset[str]:
    """All codes that are written in the source, tables of rules included."""
    codes = {code for code, _ in (*RULES, *RESPONSE_RULES)}
    codes |= {*re.findall(r"``(ERR_[A-Z_]+)``", UpstreamError.__doc__ or "")}
    for path in Path(twisted_hangup.__file__).parent.rglob("*.py"):
        codes |= {*re.findall(r'"((?:HPE|ERR)_[A-Z0-9_]*[A-Z0-9])"', path.read_text())}
    return frozenset(codes)


#: Applications that programs in the pages are for, and whether such a program can share its
#: process with others.
APPLICATIONS: Final = {
    "klein": True,
    "autobahn": True,
    **dict.fromkeys(["daphne", "buildbot", "allmydata", "synapse", "scrapy"], False),
}

#: Where a program imports one of them.
IMPORTED: Final = rf"^(?:from|import) ({'|'.join(APPLICATIONS)})\b"


def _can_be_imported(application: str) -> bool:
    return APPLICATIONS[application] and find_spec(application) is not None


def run(page: str, change: Callable[[str], str] = str) -> dict[str, Any]:
    """Run each program of a page, after *change*, as the module it is; all names in them."""
    names: dict[str, Any] = {}
    for name, text in programs(PAGES[page]).items():
        if all(map(_can_be_imported, re.findall(IMPORTED, text, re.M))):
            module = sys.modules[name] = ModuleType(name)
            exec(compile(change(text), name, "exec"), vars(module))
            names |= vars(module)
    return names
