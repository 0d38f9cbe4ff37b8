"""``python -m twisted_hangup``: explain an error, look up a code, manage an outbox."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from ._arguments import closest
from .commands.code import add_code_command
from .commands.explain import add_explain_command
from .commands.outbox import add_outbox_command
from .commands.problem import CommandError
from .commands.versions import versions

#: argparse's words for an unknown command.
_NO_COMMAND: Final = re.compile("invalid choice: '([^']*)'")


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, with the closest command."""

    _commands: Any = None

    def add_subparsers(self, **kwargs: Any) -> Any:
        self._commands = super().add_subparsers(**kwargs)
        return self._commands

    def error(self, message: str) -> NoReturn:
        typed = _NO_COMMAND.search(message)
        if typed is not None and self._commands is not None:
            message += closest(typed[1], self._commands.choices)
        self.exit(2, f"{self.prog}: {message}\n")


class _Versions(argparse.Action):
    """``--version``, as in ``twistd hangup --version``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        sys.stdout.write(versions())
        parser.exit()


def command_parser() -> argparse.ArgumentParser:
    """The parser of the arguments; each command sets ``run``, which is called with the options."""
    parser = _Parser(
        prog="python -m twisted_hangup",
        description="Explain a client error, look up a code, or manage an outbox. "
        "To serve: twistd -n hangup --help",
    )
    text = "show the versions of this, Twisted, Python and OpenSSL, and exit"
    parser.add_argument("--version", action=_Versions, nargs=0, help=text)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_outbox_command(commands)
    add_explain_command(commands)
    add_code_command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; None for the process's own.

    Returns:
        0 if all went well.  2 if the command failed; one line on stderr says why.  ``explain``
        also returns 1, for bytes that are refused.

    Raises:
        SystemExit: The arguments are wrong (2), or ask for help or the versions (0).
    """
    parser = command_parser()
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
