"""A service whose operator reads one line and no traceback, and may press Ctrl-C twice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from .serving import CannotListen, HangupService

_log = Logger()


class CommandLineService(HangupService):
    """What ``twistd`` and ``twist`` run."""

    def __init__(self, settings: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """*settings* are the options of ``twistd`` or ``twist`` itself; the rest as above it."""
        super().__init__(*args, **kwargs)
        self._settings = settings

    def stopService(self) -> Deferred[None]:
        """As `HangupService` has it; a second signal ends the wait.

        Twisted answers that one with a traceback and goes on waiting.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, self._signalled_again)
        return super().stopService()

    def _signalled_again(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self.end_grace)

    def _listen(self) -> None:
        try:
            super()._listen()
        except CannotListen as problem:
            self._end_program(str(problem))

    def _end_program(self, problem: str) -> NoReturn:
        """End a program that has started already, with one line and status 1.

        What twistd does for an exception is to print a traceback; for SystemExit it would
        leave the terminal that started a daemon waiting, and the pid file behind.
        """
        status_pipe = self._settings.get("statusPipe")
        if status_pipe is not None:
            _log.critical("{problem}", problem=problem)
            os.write(status_pipe, b"1 " + problem.encode("ascii", "replace")[:98])
        else:
            # Not sys.stderr: twistd has turned that into a part of its log.
            print(f"hangup: {problem}", file=sys.__stderr__)
        if self._settings.get("pidfile"):
            with suppress(OSError):
                os.remove(self._settings["pidfile"])
        raise SystemExit(1)
