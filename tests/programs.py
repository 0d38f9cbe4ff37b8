"""The programs in README.md and docs/ as files, for tools that check types.

    python -m tests.programs DIRECTORY

Each program of the README is one file, and so are all of a page, which go on from each other.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

_PROGRAM: Final = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

#: What the pages say once: a resource is yours.
_GIVEN: Final = "from typing import Any\nresource: Any = None\n"

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


def programs() -> dict[str, str]:
    """The text of each program, by the name of its module."""
    readme = _PROGRAM.findall((ROOT / "README.md").read_text())
    found = {f"readme_{number}": _GIVEN + text for number, text in enumerate(readme)}
    for page in sorted((ROOT / "docs").glob("*.md")):
        texts = _PROGRAM.findall(page.read_text())
        if texts and page.stem not in _UNTYPED:
            found[page.stem] = "\n".join([_GIVEN, *texts])
    return found


def checkable(text: str) -> str:
    """*text* with a reactor that has all methods: Twisted gives it the type of none."""
    reactor = r"from twisted.internet import \1reactor as _reactor\nreactor: Any = _reactor"
    return re.sub(r"^from twisted\.internet import (.*\b)?reactor$", reactor, text, flags=re.M)


def main(directory: Path) -> None:
    """Write the programs into *directory*, with what mypy and pyright have to know of them."""
    directory.mkdir(parents=True)
    for name, text in programs().items():
        (directory / f"page_{name}.py").write_text(checkable(text))
    shutil.copy(ROOT / "tests" / "typed_program.py", directory)
    (directory / "mypy.ini").write_text(_MYPY)
    (directory / "pyrightconfig.json").write_text(json.dumps(_PYRIGHT))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
