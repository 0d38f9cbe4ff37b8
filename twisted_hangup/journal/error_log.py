"""``--error-log FILE``: every client error as a line of JSON, for programs to read.

The names below are an interface: they are never renamed, and each line has all of them but
``upstream``.

====================== =================================================================
``time``               when it was written: ISO 8601, UTC, milliseconds, ``Z``
``code``, ``reason``   `ClientError.code` and `ClientError.reason`
``status``             status of the default answer, or null
``phase``              `ClientError.phase`
``bytes_parsed``       Node's offset in the *whole* packet, or null
``offset``             the same place counted from the start of the message, or null
``raw_packet``         at most 4 KiB of the packet around the error, base64, or null
``raw_packet_offset``  index in the whole packet of the first byte of ``raw_packet``, or
                       null; subtract it from ``bytes_parsed`` to find the place there
``peer``               ``host:port``, ``[host]:port`` for IPv6, ``unix``, or null
``method``, ``target`` of the request, once its target had come, or null
``field``              name of the field it broke in, or null
``upstream``           of a proxy's ``ERR_UPSTREAM_*`` only: the URL of the server that failed
====================== =================================================================

In a flood, a line per code tells what was not told by itself in a second: ``time``, ``code``
and ``suppressed``, a number.  There are ten such lines at most; with more codes, the last
has the rest as ``(other codes)``.  Secrets are hidden as `twisted_hangup.report.masking` tells.  In
text, bytes outside 0x20-0x7e stand as ``\\x01`` and a backslash is doubled; text longer
than 1,024 characters is cut in the middle (``...``).
"""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timezone
from typing import BinaryIO, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..errors import RecordedError, UpstreamError
from ..limits import KIB
from ..report.masking import DEFAULT_POLICY, MaskingPolicy, mask_target
from ..report.report import field_of, masked_packet
from ..report.text import peer_text, shortened, visible
from .files import WholeLines
from .flood import FloodGate

#: Most bytes of a packet in one line, before base64.
RAW_PACKET_BYTES: Final = 4 * KIB

_TEXT_COLUMNS: Final = 1024

_log = Logger()


class ErrorLog:
    """A watcher that writes each `RecordedError` to a file before it returns.

    It never raises into its caller.  While the file cannot be written, lines are dropped
    and counted; that is logged when it begins and when it ends.

    Attributes:
        lost_lines: How many lines could not be written.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        clock: IReactorTime,
        *,
        per_second: int = 30,
        policy: MaskingPolicy = DEFAULT_POLICY,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            file: A path, appended to; or a binary file, which is left open by `close`.
            clock: Seconds and timers, to tell floods.
            per_second: Errors told one by one in each second, besides up to 10 that are the
                first of their code and up to 10 lines with counts: 50 in all by default.  0 for
                all errors.
            policy: What is secret besides the usual.
            now: Wall-clock time in seconds since 1970.

        Raises:
            OSError: The file cannot be opened.
        """
        self._path = file if isinstance(file, (str, os.PathLike)) else None
        self._file: BinaryIO | None = (
            _opened(file) if isinstance(file, (str, os.PathLike)) else file
        )
        self._gate = FloodGate(clock, per_second, self._suppressed)
        self._policy = policy
        self._now = now
        self._failing = False
        self._lines = WholeLines()
        self.lost_lines = 0

    def __call__(self, error: RecordedError) -> None:
        """Write *error*, or count it in a flood."""
        if self._gate.admit(error.code):
            self._write(lambda: error_record(error, self._policy))

    def reopen(self) -> None:
        """Go on in a new file of the same name, after the old one was moved away.

        Nothing happens to a file that was given open.  If the new one cannot be opened,
        that is logged and the old one stays in use.
        """
        if self._path is None or self._file is None:
            return
        try:
            reopened = _opened(self._path)
        except OSError as error:
            _log.error(
                "Cannot reopen the error log {path}: {error}",
                path=visible(os.fspath(self._path)),
                error=visible(str(error)),
            )
            return
        self._file.close()
        self._file = reopened
        self._lines = WholeLines()

    def close(self) -> None:
        """Tell what a flood has suppressed so far, and close the file.  Twice is harmless."""
        self._gate.close()
        if self._path is not None and self._file is not None:
            self._file.close()
        self._file = None

    def _suppressed(self, code: str, count: int) -> None:
        self._write(lambda: {"code": code, "suppressed": count})

    def _write(self, record: Callable[[], dict[str, object]]) -> None:
        """Write the line of *record*; whatever goes wrong, count it and return."""
        if self._file is None:
            return
        try:
            line = json.dumps({"time": _timestamp(self._now()), **record()}) + "\n"
            self._lines.write(self._file, line.encode("ascii"))
            self._file.flush()
        except Exception as error:
            self.lost_lines += 1
            if not self._failing:
                self._failing = True
                # A failing disk is an OSError and no bug; anything else deserves its traceback.
                said = _log.error if isinstance(error, OSError) else _log.failure
                said(
                    "Cannot write the error log: {error}; lines are dropped until it works again",
                    error=visible(str(error)),
                )
        else:
            if self._failing:
                self._failing = False
                _log.warn("The error log works again; {lost} lines are lost", lost=self.lost_lines)


def error_record(error: RecordedError, policy: MaskingPolicy) -> dict[str, object]:
    """What a line tells of *error*: all of the names but ``time``."""
    packet = masked_packet(error, RAW_PACKET_BYTES, policy)
    request, field = error.request, field_of(error, policy)
    told: dict[str, object] = {
        "code": error.code,
        "reason": visible(error.reason),
        "status": error.status,
        "phase": error.phase,
        "bytes_parsed": error.bytes_parsed,
        "offset": error.offset,
        "raw_packet": packet and b64encode(packet.data).decode("ascii"),
        "raw_packet_offset": packet and packet.offset,
        "peer": None if error.peer is None else peer_text(error.peer),
        "method": request and _text(request.method),
        "target": request and _text(mask_target(request.target, policy)),
        "field": None if field is None else _text(field),
    }
    if isinstance(error, UpstreamError):
        told["upstream"] = visible(error.upstream)
    return told


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    # Unbuffered: what a line says must not be lost with the process.
    return open(path, "ab", buffering=0)


def _text(data: bytes) -> str:
    return shortened(data, _TEXT_COLUMNS, tail=_TEXT_COLUMNS // 2)


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
