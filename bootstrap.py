"""From a fresh clone to a running server, or to a test run, with Python and a network.

    python3 bootstrap.py serve [options of twistd hangup]
    python3 bootstrap.py test  [arguments of pytest]

The tests run three at a time; ``-n 0`` is one by one.

Both make ``.venv`` beside this file, install what they need into it, and do so only once:
a stamp in it says for which ``pyproject.toml`` that was done.
"""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

# Before any line that an older Python trips over, such as the annotation ``list[str]``.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("bootstrap.py: Python 3.10 or newer is needed, and this is " + sys.version.split()[0])

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"

#: What each command needs installed, and what it runs.
REQUIREMENT = {"serve": ".", "test": ".[test]"}


def main(arguments: list[str]) -> NoReturn:
    """Set up what the first of *arguments* needs, then become that program."""
    if not arguments or arguments[0] not in REQUIREMENT:
        sys.exit("usage: python3 bootstrap.py serve [twistd hangup options] | test [pytest args]")
    command, *rest = arguments
    set_up(command)
    if command == "serve":
        # No pid file: it runs in the foreground, where two of them must not collide.
        program = [str(VENV / "bin" / "twistd"), "--nodaemon", "--pidfile=", "hangup", *rest]
    else:
        os.chdir(ROOT)
        # Most tests wait for sockets and timers, so that three at a time cost no more.
        program = ["-m", "pytest", "-n", "3", *rest]
    sys.stdout.flush()
    os.execv(PYTHON, [str(PYTHON), *program])  # signals then reach it directly


def set_up(command: str) -> None:
    """Make the virtual environment and install into it, if that is not done already."""
    stamp = VENV / f"ready-to-{command}"
    key = hashlib.sha256((ROOT / "pyproject.toml").read_bytes())
    key.update(f"{ROOT} {sys.version}".encode())
    if stamp.is_file() and stamp.read_text() == key.hexdigest():
        return
    since = time.monotonic()
    _say(f"setting up {VENV}: this once, from the network, a minute or two")
    if not _works():
        _say("making the environment ...")
        _make_venv()
    install = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    command_line = [*install, "--progress-bar=off", "--editable", REQUIREMENT[command]]
    with subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if words := progress(line):
                _say(words)
    if pip.returncode:
        sys.exit("bootstrap.py: pip could not install it; its reason stands above")
    stamp.write_text(key.hexdigest())
    _say(f"ready after {time.monotonic() - since:.0f} seconds")


def progress(line: str) -> str | None:
    """What to say of a *line* of pip's, most of which are nobody's business."""
    if line.startswith("Collecting "):
        return f"fetching {line.split()[1]}"
    if line.startswith("Installing collected packages: "):
        return f"installing {line.count(',') + 1} packages ..."
    return None


def _say(words: str) -> None:
    print(f"bootstrap.py: {words}", flush=True)


def _works() -> bool:
    """Whether the environment is there and belongs to this Python and this folder."""
    if not PYTHON.exists():
        return False
    question = "import sys, pip; print(sys.version, sys.prefix)"
    answer = subprocess.run([str(PYTHON), "-c", question], capture_output=True, text=True)
    return answer.stdout.strip() == f"{sys.version} {VENV}"


def _make_venv() -> None:
    try:
        import ensurepip  # noqa: F401  # Debian's python3 has a venv module that cannot work
        import venv
    except ImportError:
        sys.exit(
            "bootstrap.py: this Python cannot make virtual environments; "
            "on Debian and Ubuntu: apt-get install python3-venv"
        )
    venv.create(VENV, clear=True, with_pip=True)


if __name__ == "__main__":
    main(sys.argv[1:])
