"""The pages of docs/, and the programs in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from twisted.web.resource import Resource

PAGES: Final = {path.stem: path for path in (Path(__file__).parents[2] / "docs").glob("*.md")}


def run(page: str, change: Callable[[str], str] = str) -> dict[str, Any]:
    """Run the programs of a page, one after the other, after *change*; what they have made."""
    programs = re.findall(r"^```python\n(.*?)^```$", PAGES[page].read_text(), re.DOTALL | re.M)
    made: dict[str, Any] = {"__name__": page, "resource": Resource()}
    for program in programs:
        if "klein" not in program or find_spec("klein"):
            exec(compile(change(program), PAGES[page].name, "exec"), made)
    return made
