"""What all workers report, as one: one error log, one access log, one status page."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from ...journal.error_log import ErrorLog
from ...journal.files import LogFile
from ...journal.merged import MergedJournal
from ...transport.clock import steady
from .channel import Channel
from .reports import ENTRY_HEAD, NUMBER, Report

if TYPE_CHECKING:
    from ...metrics import WorkerMetrics

#: How long workers may take to report before somebody reads; the last report is good enough.
ASK_SECONDS: Final = 0.5


class View:
    """Takes the frames of all workers, and passes each on to where it is written or shown.

    Attributes:
        journal: Their errors; None if nobody looks at them.
        metrics: Their metrics, likewise.
    """

    def __init__(
        self, clock: Any, *, access_log: LogFile | None, error_log: ErrorLog | None
    ) -> None:
        self.journal: MergedJournal | None = None
        self.metrics: WorkerMetrics | None = None
        self._clock = steady(clock)
        self._access_log = access_log
        self._error_log = error_log
        self._channels: dict[Hashable, Channel] = {}
        self._question = 0
        self._asked: dict[int, tuple[set[Hashable], Deferred[None]]] = {}
        self._receivers: dict[int, Callable[[Hashable, int, bytes], object]] = {
            Report.ACCESS: self._access_lines,
            Report.ERROR: self._error_line,
            Report.SUPPRESSED: self._suppressed,
            Report.ENTRY: self._entry,
            Report.COUNTS: self._counts,
            Report.METRICS: self._metrics,
        }

    def begin(self, source: Hashable, channel: Channel) -> None:
        """A process has been started."""
        self._channels[source] = channel
        self._send_log(channel)

    def received(self, source: Hashable, number: int, kind: int, payload: bytes) -> bool:
        """Take a frame of a worker's process; returns whether it is one of ours."""
        receiver = self._receivers.get(kind)
        if receiver is None:
            return False
        receiver(source, number, payload)
        return True

    def end(self, source: Hashable) -> None:
        """A process has gone; what it has counted stays."""
        self._channels.pop(source, None)
        if self.journal is not None:
            self.journal.forget(source)
        if self.metrics is not None:
            self.metrics.forget(source)
        for question in [*self._asked]:
            self._answered(source, question)

    def reopen(self) -> None:
        """The access log has perhaps been reopened: workers go on in the new file."""
        for channel in self._channels.values():
            self._send_log(channel)

    def connections_of(self, source: Hashable) -> int:
        """How many connections a process has reported."""
        return 0 if self.journal is None else self.journal.connections_of(source)

    def ask(self) -> Deferred[None]:
        """Ask all workers for a report.

        Returns:
            A Deferred that fires once they have reported, at the latest after `ASK_SECONDS`.
        """
        self._question = question = self._question + 1
        # Those that still start have nothing to report, and do not listen yet.
        sources = {one for one in self._channels if self._reports(one)}
        answered: Deferred[None] = Deferred()
        self._asked[question] = sources, answered
        for source in sources:
            self._channels[source].send(Report.ASKED, NUMBER.pack(question))
        if not sources:
            self._answered(None, question)
        answered.addTimeout(ASK_SECONDS, self._clock)
        return answered.addErrback(lambda _: None).addBoth(self._cb_asked, question)

    def _cb_asked(self, result: None, question: int) -> None:
        self._asked.pop(question, None)

    def _answered(self, source: Hashable, question: int) -> None:
        sources, answered = self._asked.get(question, (set(), None))
        sources.discard(source)
        if answered is not None and not sources and not answered.called:
            answered.callback(None)

    def _reports(self, source: Hashable) -> bool:
        return self.metrics is not None and self.metrics.knows(source)

    def _send_log(self, channel: Channel) -> None:
        if self._access_log is None:
            return
        descriptor = self._access_log.descriptor
        if descriptor is not None:
            # Out of files, or the worker is stopped: the lines come here.
            with suppress(OSError):
                channel.send_descriptor(Report.APPEND, descriptor)
                return
        channel.send(Report.SEND)

    def _access_lines(self, source: Hashable, number: int, lines: bytes) -> None:
        if self._access_log is not None:
            self._access_log.write(lines)

    def _error_line(self, source: Hashable, number: int, payload: bytes) -> None:
        if self._error_log is not None:
            code, _, line = payload.partition(b"\0")
            self._error_log.pass_on(code.decode("utf-8", "replace"), line)

    def _suppressed(self, source: Hashable, number: int, payload: bytes) -> None:
        if self._error_log is not None:
            (count,) = NUMBER.unpack_from(payload)
            code = payload[NUMBER.size :].decode("utf-8", "replace")
            self._error_log.count(code, count)

    def _entry(self, source: Hashable, number: int, payload: bytes) -> None:
        if self.journal is not None:
            error, settled = ENTRY_HEAD.unpack_from(payload)
            self.journal.add_entry(source, number, error, settled, payload[ENTRY_HEAD.size :])

    def _counts(self, source: Hashable, number: int, payload: bytes) -> None:
        if self.journal is not None:
            self.journal.add_report(source, json.loads(payload))

    def _metrics(self, source: Hashable, number: int, payload: bytes) -> None:
        if self.metrics is not None:
            (question,) = NUMBER.unpack_from(payload)
            self.metrics.report(source, payload[NUMBER.size :])
            for asked in [*self._asked]:
                if asked <= question:
                    self._answered(source, asked)
