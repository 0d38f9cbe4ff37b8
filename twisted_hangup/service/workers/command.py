"""`Workers` as the program of ``twistd hangup --workers``."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ...journal.files import LogFile
from ...journal.merged import WorkerState
from ...report.text import visible
from ..process import Program, StandardOutput
from ..serving import CannotListen, HangupService, counted, urls_text
from ..systemd import READY, STOPPING, notify, notify_reloading
from .process import Stage, WorkerProcess
from .supervisor import KILL_SECONDS, Workers
from .view import View

_log = Logger()


class CommandLineWorkers(Workers):
    """The service of ``twistd`` and ``twist``: a program, whose end nothing delays.

    SIGHUP replaces the workers; systemd hears of it.
    """

    def __init__(
        self,
        settings: MutableMapping[str, Any],
        stdout: StandardOutput | None,
        content: str,
        view: View,
        *args: Any,
        closers: Sequence[Callable[[], object]] = (),
        logs: Sequence[LogFile] = (),
        **kwargs: Any,
    ) -> None:
        """
        Args:
            settings: The options of ``twistd`` or ``twist`` itself.
            stdout: Taken over while the service runs; None for a daemon, which has none.
            content: The operator's name for what is served.
            view: Where the frames of workers go.
            args: As in `Workers`.
            closers: Called when all workers have ended.
            logs: The files that this process writes; closed last.
        """
        super().__init__(*args, stdout=stdout, **kwargs)
        self._content = content
        self._view = view
        self._output = stdout
        self._closers = [*closers]
        #: The service of the status page, which starts and ends with this one.
        self.status: HangupService | None = None
        self._program = Program(
            settings,
            self._reactor,
            logs,
            grace_seconds=self._grace_seconds + KILL_SECONDS,
            end_now=self.end_now,
            last_words="The grace is over: ended with workers still at work",
        )

    def privilegedStartService(self) -> None:
        """As in `Workers`; a problem ends the program with one line."""
        try:
            super().privilegedStartService()
            self._start_status()
        except CannotListen as problem:
            self._program.refuse(str(problem))

    def startService(self) -> None:
        """As in `Workers`; from now on a signal ends the program in any case."""
        self._program.take_reloads(self._reopen, self._reload)
        try:
            super().startService()
            self._start_status()
        except CannotListen as problem:
            self._program.refuse(str(problem))
        self._program.report_later()
        if self._output is not None:
            self._output.take_over()
        self._reactor.callWhenRunning(self._program.take_ends)

    def stopService(self) -> Deferred[Any]:
        """As in `Workers`, within the grace, `KILL_SECONDS` and one second."""
        self._program.stop()
        ended = super().stopService()
        if (status := self.status) is not None:
            ended.addBoth(lambda _: status.stopService())
        return ended.addBoth(self._cb_close)

    def states(self) -> list[WorkerState]:
        """How the workers are."""
        return [
            WorkerState(
                number=slot.number,
                pid=0 if slot.process is None else slot.process.pid,
                up=slot.process is not None and slot.process.stage is Stage.SERVING,
                connections=sum(
                    self._view.connections_of(process)
                    for process in self._processes
                    if process.number == slot.number
                ),
                lost_records=slot.lost_frames,
            )
            for slot in self._slots
        ]

    def begun(self, process: WorkerProcess) -> None:
        self._view.begin(process, process.channel)

    def received(self, process: WorkerProcess, kind: int, payload: bytes) -> None:
        if not self._view.received(process, process.number, kind, payload):
            super().received(process, kind, payload)

    def ended(self, process: WorkerProcess) -> None:
        self._view.end(process)
        super().ended(process)

    def started(self) -> None:
        ports = [
            (port, endpoint)
            for bound, (_, endpoint) in zip(self._bound, self._endpoints, strict=True)
            for port in bound
        ]
        _log.info(
            "Serving {content} on {urls} with {workers}{end}",
            content=visible(self._content),
            urls=urls_text(ports),
            workers=counted(self.serving, "worker"),
            end=" (Ctrl-C stops)" if self._program.on_terminal else "",
        )
        self._closers.append(self._program.ready(lambda: self.serving > 0))

    def replacing(self) -> None:
        notify_reloading()

    def replaced(self, problem: str) -> None:
        status = [f"STATUS={problem}"] if problem else []
        notify(STOPPING if self._program.ends else READY, *status)

    def changed(self, status: str) -> None:
        if self.serving:
            self._program.report()
        notify(f"STATUS={status}")

    def failed(self, problem: str) -> None:
        self._program.fail(problem)

    def _start_status(self) -> None:
        if self.status is not None and not self.status.running:
            self.status.startService()

    def _reload(self) -> None:
        self._reopen()
        self.replace()

    def _reopen(self) -> None:
        self._program.reopen_logs()
        self._view.reopen()

    def _cb_close(self, result: object) -> object:
        for close in self._closers:
            close()
        self._program.close_logs()
        return result
