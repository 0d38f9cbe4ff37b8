"""`Workers` as the program of ``twistd hangup --workers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ...report.text import visible
from ..certificates import RenewedEndpoint
from ..process import Program, StandardOutput
from ..serving import CannotListen, url_text
from ..systemd import READY, STOPPING, notify, notify_reloading
from .supervisor import KILL_SECONDS, Workers

_log = Logger()


class CommandLineWorkers(Workers):
    """The service of ``twistd`` and ``twist``: a program, whose end nothing delays.

    SIGHUP replaces the workers; systemd hears of it.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        stdout: StandardOutput | None,
        content: str,
        shown: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            settings: The options of ``twistd`` or ``twist`` itself.
            stdout: Taken over while the service runs; None for a daemon, which has none.
            content: The operator's name for what is served.
            shown: On how many of the ports that is, the first ones.
            args: As in `Workers`.
        """
        super().__init__(*args, stdout=stdout, **kwargs)
        self._content = content
        self._shown = shown
        self._output = stdout
        self._closers: list[Callable[[], object]] = []
        self._program = Program(
            settings,
            self._reactor,
            [] if stdout is None else [stdout],
            grace_seconds=self._grace_seconds + KILL_SECONDS,
            end_now=self.end_now,
            last_words="The grace is over: ended with workers still at work",
        )

    def privilegedStartService(self) -> None:
        """As in `Workers`; a problem ends the program with one line."""
        try:
            super().privilegedStartService()
        except CannotListen as problem:
            self._program.refuse(str(problem))

    def startService(self) -> None:
        """As in `Workers`; from now on a signal ends the program in any case."""
        self._program.take_reloads(self._reopen, self._reload)
        try:
            super().startService()
        except CannotListen as problem:
            self._program.refuse(str(problem))
        if self._output is not None:
            self._output.take_over()
        self._reactor.callWhenRunning(self._program.take_ends)

    def stopService(self) -> Deferred[Any]:
        """As in `Workers`, within the grace, `KILL_SECONDS` and one second."""
        self._program.stop()
        return super().stopService().addBoth(self._cb_close)

    def started(self) -> None:
        urls = [
            url_text(port.getHost(), isinstance(endpoint, RenewedEndpoint))
            for ports, (_, endpoint) in zip(
                self._bound, self._endpoints[: self._shown], strict=False
            )
            for port in ports
        ]
        _log.info(
            "Serving {content} on {urls} with {number} workers{end}",
            content=visible(self._content),
            urls=" and ".join(urls),
            number=self.serving,
            end=" (Ctrl-C stops)" if self._program.on_terminal else "",
        )
        self._closers.append(self._program.ready(lambda: self.serving > 0))

    def replacing(self) -> None:
        notify_reloading()

    def replaced(self, problem: str) -> None:
        status = [f"STATUS={problem}"] if problem else []
        notify(STOPPING if self._program.ends else READY, *status)

    def changed(self, status: str) -> None:
        notify(f"STATUS={status}")

    def failed(self, problem: str) -> None:
        self._program.fail(problem)

    def _reload(self) -> None:
        self._program.reopen_logs()
        self.replace()

    def _reopen(self) -> None:
        self._program.reopen_logs()
        self.reopen_logs()

    def _cb_close(self, result: object) -> object:
        for close in self._closers:
            close()
        if self._output is not None:
            self._output.close()
        return result
