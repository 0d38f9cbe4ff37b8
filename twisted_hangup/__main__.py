"""What can be done from the command line besides serving: ``python -m twisted_hangup``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands.explain import add_explain_command
from .commands.outbox import CommandError, add_outbox_command


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; None for the process's own.

    Returns:
        0, or 2 where it could not be done; then one line on stderr says why.  What
        ``explain`` makes of its bytes may also be 1.

    Raises:
        SystemExit: The arguments are wrong (2), or ask for help (0).
    """
    parser = _Parser(prog="python -m twisted_hangup", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_outbox_command(commands)
    add_explain_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int | None = options.run(options)
        sys.stdout.flush()
    except CommandError as problem:
        print(f"{parser.prog}: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, like head(1), has seen enough.  Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
