"""The files that the pages of docs/cookbook/ show, and what runs them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from . import processes
from .processes import BIN
from .wire import PATIENCE

COOKBOOK: Final = Path(__file__).parents[2] / "docs" / "cookbook"

_FILE: Final = re.compile(r"^`([^`\n]+)`:\n\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def files(page: str) -> dict[str, str]:
    """The text of each file that *page* shows, by the name that stands above it."""
    return dict(_FILE.findall((COOKBOOK / f"{page}.md").read_text()))


@contextmanager
def running(
    folder: Path, *command: str | Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that works in *folder*, writes into a file there, and is ended in the end."""
    with (folder / f"{Path(command[0]).name}.out").open("ab") as output:
        pipes = {"stdout": output, "stderr": subprocess.STDOUT}
        with processes.running(folder, *command, **pipes, **options) as program:
            yield program


def twistd(*options: str) -> list[str]:
    """The command that serves with these options of ``twistd hangup``."""
    return [str(BIN / "twistd"), "-n", "--pidfile=", "--logfile=server.log", "hangup", *options]


def _run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def status(folder: Path, *command: str | Path) -> int:
    """How *command* ends."""
    return _run(folder, *command).returncode


def check(folder: Path, *command: str | Path) -> str:
    """What *command* prints, which succeeds."""
    done = _run(folder, *command)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
