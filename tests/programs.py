"""The programs in README.md and docs/ as files, for tools that check types.

    python -m tests.programs DIRECTORY

Each program is a module of its own, as a reader has it who copies that one.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

#: A program, and the name of its file where other programs of the page import it.
_PROGRAM: Final = re.compile(
    r"^(?:`(\w+)\.py`:\n\n)?```python[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE
)

#: Pages with programs for applications that know no types, or change the types of their own.
_UNTYPED: Final = {"applications"}

#: Pages leave out types, as most people do; zope.interface and Twisted have none everywhere.
_MYPY: Final = """\
[mypy]
plugins = mypy_zope:plugin
strict = true
allow_untyped_calls = true
allow_untyped_defs = true
allow_incomplete_defs = true
[mypy-pytest_twisted]
ignore_missing_imports = true
"""

#: Pyright knows nothing of zope.interface: that of Twisted's own classes is not ours to mend.
_PYRIGHT: Final = {
    "executionEnvironments": [{"root": "."}],
    "reportArgumentType": False,
}


def programs(page: Path) -> dict[str, str]:
    """The programs of *page*, by the names of their modules, in order."""
    found: list[tuple[str, str]] = _PROGRAM.findall(page.read_text())
    prefix = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
    names = {file: f"{prefix}_{number}" for number, (file, _) in enumerate(found) if file}

    def by_its_name(words: re.Match[str]) -> str:
        return f"{words[1]} {names.get(words[2], words[2])}"

    return {
        f"{prefix}_{number}": re.sub(r"^(from|import) (\w+)", by_its_name, text, flags=re.M)
        for number, (_, text) in enumerate(found)
    }


def checkable(text: str) -> str:
    """*text* with a reactor that has all methods: Twisted gives it the type of none."""
    imported = r"^from twisted\.internet import (.*\b)?reactor$"
    reactor = r"from twisted.internet import \1reactor as _reactor\nreactor: Any = _reactor"
    return re.sub(imported, rf"from typing import Any\n{reactor}", text, flags=re.M)


def main(directory: Path) -> None:
    """Write the programs into *directory*, with what mypy and pyright have to know of them."""
    directory.mkdir(parents=True)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        if page.stem not in _UNTYPED:
            for name, text in programs(page).items():
                (directory / f"{name}.py").write_text(checkable(text))
    shutil.copy(ROOT / "tests" / "typed_program.py", directory)
    (directory / "mypy.ini").write_text(_MYPY)
    (directory / "pyrightconfig.json").write_text(json.dumps(_PYRIGHT))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
