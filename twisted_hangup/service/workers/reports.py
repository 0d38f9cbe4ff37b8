"""What a worker passes on, so that the first process writes one error log and shows one page.

Everything is finished bytes, which the first process need not decode.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall

from ...errors import RecordedError
from ...journal.error_log import line_of, log_record
from ...journal.flood import FloodGate
from ...journal.journal import Entry, Snapshot
from ...journal.merged import report_of
from ...report.masking import MaskingPolicy
from ...report.text import timestamp
from ...server.site import HangupSite
from ...status.snapshots import entry_record
from ...status.stream import seconds_to_update
from ...transport.clock import steady
from .channel import Channel

#: How often a worker reports its counts and metrics.
REPORT_SECONDS: Final = 1.0

#: Number, and whether the answer is complete.
ENTRY_HEAD: Final = struct.Struct(">Q?")

#: A number, before a name or a report.
NUMBER: Final = struct.Struct(">Q")


class Report(IntEnum):
    """The kinds of frames between a worker of ``twistd hangup`` and the first process."""

    #: Whole lines of the access log.
    ACCESS = 16
    #: A code, a NUL and the line of an error.
    ERROR = 17
    #: How many errors with a code have no line.
    SUPPRESSED = 18
    #: An error for the status page: `ENTRY_HEAD`, and members of a JSON object.
    ENTRY = 19
    #: The counts of the journal.
    COUNTS = 20
    #: The last question that this answers, with those before it, and all metrics.
    METRICS = 21
    #: To the worker: report your counts and metrics now.  The number of the question.
    ASKED = 22
    #: To the worker, with a descriptor: append access lines there yourself.
    APPEND = 23
    #: To the worker: send access lines.
    SEND = 24


class SentLines:
    """A file that is the channel: what is written to it, the first process writes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def write(self, lines: bytes) -> int:
        """Send whole lines.

        Raises:
            OSError: The first process is too slow.
        """
        if not self._channel.send(Report.ACCESS, lines):
            raise BlockingIOError("the first process is too slow")
        return len(lines)

    def flush(self) -> None:
        """Do nothing: nobody waits for the channel."""

    def close(self) -> None:
        """Do nothing: others use the channel, too."""


class ErrorLines:
    """Sends each error as a line of the error log, or counts it in a flood.

    What this lets through is what the first process could write of it.
    """

    waits_for_answers: Final = True

    def __init__(
        self,
        channel: Channel,
        number: int,
        clock: Any,
        *,
        per_second: int,
        log_idle: bool,
        policy: MaskingPolicy,
    ) -> None:
        """*number* is the worker's; for the others see `ErrorLog`."""
        self._channel = channel
        self._number = number
        self._gate = FloodGate(clock, per_second, self._suppressed)
        self._log_idle = log_idle
        self._policy = policy

    def __call__(self, error: RecordedError) -> None:
        """Send *error*, or count it."""
        if (error.quiet and not self._log_idle) or not self._gate.admit(error.code):
            return
        record = {
            "time": timestamp(time.time()),
            **log_record(error, self._policy),
            "worker": self._number,
        }
        code = error.code.encode("utf-8", "replace")
        self._channel.send(Report.ERROR, code + b"\0" + line_of(record))

    def close(self) -> None:
        """Send the counts of a flood so far."""
        self._gate.close()

    def _suppressed(self, code: str, count: int) -> None:
        payload = NUMBER.pack(count) + code.encode("utf-8", "replace")
        self._channel.send(Report.SUPPRESSED, payload)


class PageReports:
    """Reports what the status page and ``/metrics`` show of a worker.

    In a flood not every error is reported, but the recent ones, at most twice a second.
    """

    def __init__(
        self,
        channel: Channel,
        site: HangupSite,
        clock: Any,
        metrics: Callable[[], bytes] | None,
    ) -> None:
        """*metrics* returns all metrics; None if there are none."""
        self._channel = channel
        self._site = site
        self._clock: Any = steady(clock)
        self._metrics = metrics
        self._changed: set[int] = set()
        self._rates_from = 0
        self._counts: dict[str, Any] = {}
        self._reported = 0.0
        self._timer: IDelayedCall | None = None
        self._question = 0
        self._answer: IDelayedCall | None = None
        self._unfollow = site.journal.follow(self._follow)
        self._reports = LoopingCall(self.report)
        self._reports.clock = self._clock

    def start(self) -> None:
        """Report from now on, each `REPORT_SECONDS`."""
        self._reports.start(REPORT_SECONDS)

    def close(self) -> None:
        """Report the end, and no more."""
        self._unfollow()
        if self._reports.running:
            self._reports.stop()
        self.report()
        self._sleep()

    def asked(self, payload: bytes) -> None:
        """Report soon; *payload* is the number of the question.

        After a long turn, or a stop, many questions have come.  One report answers all of them: as
        many as there are questions would leave no room for other records.
        """
        (self._question,) = NUMBER.unpack(payload)
        if self._answer is None:
            self._answer = self._clock.callLater(0, self.report)

    def report(self) -> None:
        """Report all that is new, and all metrics."""
        answer, self._answer = self._answer, None
        if answer is not None and answer.active():
            answer.cancel()
        self._report_errors()
        if self._metrics is not None:
            self._channel.send(Report.METRICS, NUMBER.pack(self._question) + self._metrics())

    def _follow(self, news: Snapshot | Entry) -> None:
        """Called by the journal while it records an error, so it only takes a note."""
        if isinstance(news, Entry):
            if self._timer is None:
                wait = seconds_to_update(self._clock.seconds() - self._reported)
                self._timer = self._clock.callLater(wait, self._report_errors)
            self._changed.add(news.number)

    def _report_errors(self) -> None:
        self._sleep()
        self._reported = self._clock.seconds()
        snapshot = self._site.journal.snapshot()
        connections = self._site.open_connections
        counts = {**report_of(snapshot, connections, self._rates_from)}
        if {**counts, "rates": None} != {**self._counts, "rates": None}:
            data = json.dumps(counts).encode("ascii")
            if self._channel.send(Report.COUNTS, data):
                self._counts = counts
                # The newest second is reported again: it may not have been over.
                self._rates_from = snapshot.rates[-1][0] if snapshot.rates else 0
        for entry in snapshot.entries:
            if entry.number in self._changed:
                self._send(entry)
        self._changed.clear()

    def _send(self, entry: Entry) -> None:
        record = entry_record(entry, self._site.errors.masking)
        del record["number"]
        text = json.dumps(record)[1:-1].encode("ascii")
        head = ENTRY_HEAD.pack(entry.number, entry.settled)
        self._channel.send(Report.ENTRY, head + text)

    def _sleep(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
