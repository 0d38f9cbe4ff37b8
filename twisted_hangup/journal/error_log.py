"""``--error-log FILE``: every client error as a line of JSON, for programs to read.

Each line has the names of `twisted_hangup.journal.records`, with at most 4 KiB of the packet,
and before them ``time``: when it was written, in ISO 8601, UTC, with milliseconds and ``Z``.

In a flood, a line per code counts what has no line of its own in a second: ``time``, ``code``
and ``suppressed``, a number.  There are ten such lines at most; with more codes, the last
has the rest as ``(other codes)``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from twisted.internet.interfaces import IReactorTime

from .._arguments import must_be, must_be_number, must_be_reactor
from ..errors import RecordedError
from ..limits import KIB
from ..report.masking import DEFAULT_POLICY, MaskingPolicy
from ..report.report import masked_packet
from ..report.text import timestamp, visible
from .files import LogFile
from .flood import FloodGate
from .records import error_record

#: Most bytes of a packet in one line, before base64.
RAW_PACKET_BYTES: Final = 4 * KIB


class ErrorLog:
    """A watcher that writes each `RecordedError` to a file, a regular one before it returns.

    A line is written once the error was answered, and before the connection closes for it.
    It never raises into its caller.  While the file cannot be written, lines are dropped
    and counted; that is logged when it begins and when it ends.
    """

    waits_for_answers: Final = True

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO | LogFile,
        clock: IReactorTime,
        *,
        per_second: int = 30,
        log_idle: bool = False,
        policy: MaskingPolicy = DEFAULT_POLICY,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            file: A path, appended to; or a file, which is left open by `close`.
            clock: Seconds and timers, to tell floods.
            per_second: Errors with a line of their own in each second, besides up to 10 that
                are the first of their code and up to 10 lines with counts: 50 in all by
                default.  0 for all errors.
            log_idle: Whether what is nobody's fault (`RecordedError.quiet`) is written as well.
            policy: What is secret besides the usual.
            now: Wall-clock time in seconds since 1970.

        Raises:
            OSError: The file cannot be opened.
            TypeError: An argument is of the wrong type.
        """
        must_be_reactor("clock", clock)
        must_be_number("per_second", per_second, whole=True)
        must_be("policy", policy, MaskingPolicy, "MaskingPolicy(extra_fields=...)")
        self._is_ours = not isinstance(file, LogFile)
        self._file = file if isinstance(file, LogFile) else LogFile(file, "error log")
        self._gate = FloodGate(clock, per_second, self._suppressed)
        self._log_idle = log_idle
        self._policy = policy
        self._now = now
        self._closed = False

    @property
    def lost_lines(self) -> int:
        """How many lines could not be written."""
        return self._file.lost_lines

    def __call__(self, error: RecordedError) -> None:
        """Write *error*, or count it in a flood."""
        if error.quiet and not self._log_idle:
            return
        if self._gate.admit(error.code):
            self._write(lambda: self._record(error))

    def close(self) -> None:
        """Tell what a flood has suppressed so far, and close the file.  Twice is harmless."""
        self._gate.close()
        self._closed = True
        if self._is_ours:
            self._file.close()

    def _record(self, error: RecordedError) -> dict[str, Any]:
        packet = masked_packet(error, RAW_PACKET_BYTES, self._policy)
        return error_record(error, self._policy, packet)

    def _suppressed(self, code: str, count: int) -> None:
        self._write(lambda: {"code": visible(code), "suppressed": count})

    def _write(self, record: Callable[[], dict[str, object]]) -> None:
        """Write the line of *record*; whatever goes wrong, count it and return."""
        if self._closed:
            return
        try:
            line = json.dumps({"time": timestamp(self._now()), **record()}) + "\n"
        except Exception as error:
            self._file.lose(error)
        else:
            self._file.write(line.encode("ascii"))
