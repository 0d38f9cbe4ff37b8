"""``--error-log FILE``: every client error as one line of JSON, for programs.

Each line has the names of `twisted_hangup.journal.records`, with at most 4 KiB of the packet, and
before them ``time``: when it was written, in ISO 8601, UTC, with milliseconds and ``Z``.

In a flood, one line per code and second counts the errors without a line of their own: ``time``,
``code`` and ``suppressed``, a number.  There are at most ten such lines; with more codes, the last
line counts the rest as ``(other codes)``.
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
    """Writes each `RecordedError` to a file, as one line of JSON.

    ``twistd hangup --error-log`` has one.  In your own program, connect it to a site's journal:

        log = ErrorLog("errors.jsonl", reactor)
        site.journal.watch(log)

    A line is written once the error has been answered, and before its connection closes.  A regular
    file has it when the call returns.  The log never raises.  While the file cannot be written, it
    drops and counts lines, and reports the beginning and the end of that in Twisted's log.
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
            file: A path, to append to; or a binary file, which `close` leaves open.
            clock: Gives the time and timers, to notice floods.
            per_second: Most errors with a line of their own in each second; 0 = all.  The first
                error of each new code (up to 10) and up to 10 lines with counts come in addition:
                50 lines by default.
            log_idle: Also write errors with `RecordedError.quiet`, such as probes.
            policy: Which secrets are hidden.
            now: Returns the time in seconds since 1970.

        Raises:
            OSError: The file cannot be opened.
            TypeError: An argument has the wrong type.
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
            self._write(lambda: log_record(error, self._policy))

    def pass_on(self, code: str, line: bytes) -> None:
        """Write the *line* of an error that another process has recorded, or count it."""
        if self._gate.admit(code) and not self._closed:
            self._file.write(line)

    def count(self, code: str, number: int) -> None:
        """Count *number* errors that another process has left out in a flood."""
        self._gate.count(code, number)

    def close(self) -> None:
        """Write the counts of a flood so far, and close the file.  A second call is harmless."""
        self._gate.close()
        self._closed = True
        if self._is_ours:
            self._file.close()

    def _suppressed(self, code: str, count: int) -> None:
        self._write(lambda: {"code": visible(code), "suppressed": count})

    def _write(self, record: Callable[[], dict[str, object]]) -> None:
        """Write the line of *record*; if anything goes wrong, count it and return."""
        if self._closed:
            return
        try:
            line = line_of({"time": timestamp(self._now()), **record()})
        except Exception as error:
            self._file.lose(error)
        else:
            self._file.write(line)


def log_record(error: RecordedError, policy: MaskingPolicy) -> dict[str, Any]:
    """What a line says of *error*."""
    return error_record(error, policy, masked_packet(error, RAW_PACKET_BYTES, policy))


def line_of(record: dict[str, object]) -> bytes:
    """*record* as a line of JSON, with its end."""
    return json.dumps(record).encode("ascii") + b"\n"
