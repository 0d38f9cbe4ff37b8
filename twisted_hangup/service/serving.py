"""A site on its ports, from the first connection to a graceful end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NoReturn

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from ..journal.failures import bound_failures
from ..journal.files import LogFile
from ..report.text import peer_text, visible
from ..server.site import HangupSite
from ..transport.addresses import ip_of
from ..transport.clock import steady
from .accept import Gate
from .certificates import LOOK_SECONDS, RenewedEndpoint
from .process import StandardOutput, TwistedLog, end_within, lost_terminal
from .systemd import ALIVE, READY, STOPPING, notify, notify_reloading, watchdog_seconds

#: How long threads may take to notice that their clients were hung up on.
LAST_SECONDS: Final = 0.25

#: How often to look for threads that are still at work.
POLL_SECONDS: Final = 0.05

#: How long the end may take after the grace; then the process is ended, whatever it does.
END_SECONDS: Final = 1.0

_log = Logger()


class CannotListen(Exception):
    """A port cannot be opened.  The message is the one line for the operator."""


class HangupService(Service):
    """A site, the endpoints it listens on, and a graceful end.

    Attributes:
        ports: The ports, once the service has started.
    """

    def __init__(
        self,
        site: HangupSite,
        endpoints: Sequence[tuple[str, IStreamServerEndpoint]],
        gate: Gate,
        *,
        reactor: Any,
        grace_seconds: float,
        closers: Sequence[Callable[[], object]] = (),
        companions: Sequence[HangupService] = (),
        threads: ThreadPool | None = None,
        logs: Sequence[LogFile] = (),
    ) -> None:
        """
        Args:
            site: The site.
            endpoints: Where it listens, each with the operator's name for it.
            gate: Asked before each accept.
            reactor: Gives the time; it is stopped if a port fails only after the start.
            grace_seconds: How long running requests may take when the service stops.
            closers: Called when no connection is open any more.
            companions: Start with this service, and stop when no connection is open any more.
            threads: The threads that serve requests; they have the same grace.
            logs: Closed last.
        """
        self.site = site
        self.ports: list[IListeningPort] = []
        self._endpoints = endpoints
        self._gate = gate
        self._reactor = reactor
        self._clock: Any = steady(reactor)
        self._grace_seconds = grace_seconds
        self._closers = closers
        self._companions = companions
        self._renewed = [one for _, one in endpoints if isinstance(one, RenewedEndpoint)]
        self._looks = LoopingCall(self._look_at_certificates)
        self._looks.clock = self._clock
        self._threads = threads
        self._logs = logs
        self._listened = False
        self._problem: CannotListen | None = None
        self._grace: Deferred[None] | None = None

    def privilegedStartService(self) -> None:
        """Listen while this is allowed: ``twistd --uid`` gives up root after this.

        Raises:
            CannotListen: A port cannot be opened.
        """
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Listen, unless that was done: ``twist`` has no privileged start.

        Raises:
            CannotListen: A port cannot be opened.
        """
        super().startService()
        if not self._listened:
            self._listen()

    def stopService(self) -> Deferred[None]:
        """Accept no more, let running requests finish, and hang up on the rest.

        Returns:
            A Deferred that fires with None when every connection has gone.
        """
        super().stopService()
        if self._looks.running:
            self._looks.stop()
        self._gate.retire()
        ports, self.ports = self.ports, []
        closed = DeferredList([maybeDeferred(port.stopListening) for port in ports])
        drained = closed.addCallback(self._cb_drain).addCallback(self._cb_stop_companions)
        return drained.addBoth(self._cb_close)

    def read_certificates(self) -> None:
        """Read the TLS certificates now; if they cannot be used, the old ones stay."""
        for endpoint in self._renewed:
            endpoint.renew()
        for companion in self._companions:
            companion.read_certificates()

    def end_grace(self) -> None:
        """Stop waiting for running requests; harmless at any time."""
        if self._grace is not None:
            self._grace.cancel()

    def _listen(self) -> None:
        for companion in self._companions:
            companion.startService()
        for description, endpoint in self._endpoints:
            endpoint.listen(self.site).addCallbacks(
                self._cb_listening, self._eb_listening, errbackArgs=(description,)
            )
        self._listened = True
        if self._problem is not None:
            raise self._problem
        if self._renewed:
            self._looks.start(LOOK_SECONDS, now=False)

    def _look_at_certificates(self) -> None:
        for endpoint in self._renewed:
            endpoint.look()

    def _cb_listening(self, port: IListeningPort) -> None:
        self._gate.guard(port)
        self.ports.append(port)
        self._log_address(port.getHost())

    def _log_address(self, address: object) -> None:
        _log.info("Listening on {address}", address=address_text(address))

    def _eb_listening(self, failure: Failure, description: str) -> None:
        error: Any = failure.value
        port = None
        if isinstance(error, CannotListenError):
            port, error = error.port, error.socketError
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, PermissionError) and isinstance(port, int):
            reason += " (a port below 1024 needs CAP_NET_BIND_SERVICE; or use 8080)"
        self._problem = CannotListen(f"cannot listen on {description}: {reason}")
        if self._listened:  # an endpoint that fails only after the start
            _log.critical("{problem}", problem=str(self._problem))
            self._reactor.stop()

    def _cb_drain(self, _: object) -> Deferred[None]:
        connections, threads = self._connections, self._threads_at_work
        gone = self.site.drain().addCallback(self._cb_wait_for_threads)
        if connections or threads:
            busy = _counted(connections, "open connection")
            _log.info(
                "Stopping: {busy} to finish in {seconds:g} seconds",
                busy=busy if connections else _counted(threads, "thread"),
                seconds=self._grace_seconds,
            )
            gone.addTimeout(self._grace_seconds, self._clock)
            gone.addErrback(self._eb_grace_is_over)
            self._grace = gone
        return gone

    def _eb_grace_is_over(self, failure: Failure) -> Deferred[None]:
        failure.trap(DeferredTimeout, CancelledError)
        self._grace = None
        if clients := self._connections:
            _log.warn("Hanging up on {clients}", clients=_counted(clients, "client"))
        gone = self.site.drain().addCallback(self._cb_wait_no_longer_for_threads)
        self.site.hang_up_all()
        return gone

    def _cb_wait_for_threads(self, _: object) -> Deferred[None]:
        """Fire when no thread is at work: a request may go on after its client has left."""
        return Deferred.fromCoroutine(self._threads_are_idle())

    def _cb_wait_no_longer_for_threads(self, _: object) -> Deferred[None]:
        idle = self._cb_wait_for_threads(None)
        return idle.addTimeout(LAST_SECONDS, self._clock).addErrback(self._eb_time_is_up)

    async def _threads_are_idle(self) -> None:
        while self._threads_at_work:
            await deferLater(self._clock, POLL_SECONDS)

    @property
    def _connections(self) -> int:
        """How many connections there are to wait for, with tunnels."""
        return self.site.open_connections + len(self.site.context.tunnels)

    @property
    def _threads_at_work(self) -> int:
        return 0 if self._threads is None else len(self._threads.working)

    def _eb_time_is_up(self, failure: Failure) -> None:
        failure.trap(DeferredTimeout)
        _log.warn("Leaving {threads} at work", threads=_counted(self._threads_at_work, "thread"))

    def _cb_stop_companions(self, _: object) -> Deferred[Any]:
        return DeferredList([companion.stopService() for companion in self._companions])

    def _cb_close(self, result: object) -> object:
        for close in self._closers:
            close()
        for log in self._logs:
            log.close()
        return result


class CommandLineService(HangupService):
    """The service of ``twistd`` and ``twist``: a program, whose end nothing delays."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        stdout: StandardOutput | None,
        content: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            settings: The options of ``twistd`` or ``twist`` itself.
            stdout: Taken over while the service runs; None for a daemon, which has none.
            content: The operator's name for what is served.
            args: As in `HangupService`.
        """
        super().__init__(*args, **kwargs)
        self._content = content
        self._settings = settings
        self._stdout = stdout
        self._ends = False

    def startService(self) -> None:
        """As in `HangupService`; from now on a signal ends the program in any case."""
        super().startService()
        if self._stdout is not None:
            self._stdout.take_over()
        self._reactor.callWhenRunning(self._take_over)

    def stopService(self) -> Deferred[None]:
        """As in `HangupService`, within the grace and `END_SECONDS`."""
        self._end_in_time()
        notify(STOPPING)
        return super().stopService()

    def _take_over(self) -> None:
        """Act once the log has begun and Twisted has taken the signals."""
        self._closers = [*self._closers, bound_failures(self._reactor)]
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, partial(self._signalled, handler))
        self._say_where()
        notify(READY)
        if seconds := watchdog_seconds():
            watchdog = LoopingCall(notify, ALIVE)
            watchdog.clock = self._clock
            watchdog.start(seconds / 2)
            self._closers.append(watchdog.stop)

    def _say_where(self) -> None:
        """Log one line with a URL to click on."""
        if self.ports:
            urls = [
                url_text(port.getHost(), isinstance(endpoint, RenewedEndpoint))
                for port, (_, endpoint) in zip(self.ports, self._endpoints, strict=False)
            ]
            _log.info(
                "Serving {content} on {urls}{end}",
                content=visible(self._content),
                urls=" and ".join(urls),
                end=" (Ctrl-C stops)" if self._on_terminal else "",
            )

    def _signalled(self, handler: Callable[..., object], number: int, frame: object) -> None:
        """Twisted handles the first signal, if its reactor is not blocked; the next ends the wait.

        For a second signal Twisted logs a traceback and goes on waiting.
        """
        if self._ends:
            end_within(END_SECONDS, self._last_words)
            self._reactor.callFromThread(self.end_grace)
        else:
            self._end_in_time()
            handler(number, frame)

    def _take_reloads(self) -> None:
        self._twisted_log = TwistedLog(self._settings)
        self._on_terminal = not lost_terminal()
        for number, answer in (
            (signal.SIGUSR1, self._asked_to_reopen),
            (signal.SIGHUP, self._hung_up),
        ):
            # `nohup` is obeyed.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, answer)

    def _asked_to_reopen(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._reopen_logs)

    def _hung_up(self, number: int, frame: object) -> None:
        """SIGHUP: it asks for a reload, or reports (perhaps repeatedly) a lost terminal."""
        if not (self._on_terminal and lost_terminal()):
            self._reactor.callFromThread(self._reload)
        elif not self._ends:
            signal.raise_signal(signal.SIGTERM)

    def _reload(self) -> None:
        notify_reloading()
        self._reopen_logs()
        self.read_certificates()
        notify(STOPPING if self._ends else READY)

    def _reopen_logs(self) -> None:
        """Go on in new files if the logs have been renamed."""
        self._twisted_log.reopen()
        for log in self._logs:
            log.reopen()
        _log.info("The logs are reopened")

    def _end_in_time(self) -> None:
        if not self._ends:
            self._ends = True
            end_within(self._grace_seconds + END_SECONDS, self._last_words)

    def _last_words(self) -> None:
        """Log the last line, in a thread, because the reactor may be blocked."""
        self._remove_pid_file()
        _log.warn("The grace is over: ended with work still to do")
        for log in self._logs:
            log.close()

    def _listen(self) -> None:
        self._take_reloads()  # before there are clients whom the signals would cut off
        try:
            super()._listen()
        except CannotListen as problem:
            self._end_program(str(problem))

    def _end_program(self, problem: str) -> NoReturn:
        """End a program that has started already, with one line and status 1.

        For an exception twistd would print a traceback.  For SystemExit it would leave the
        terminal that started a daemon waiting, and the pid file undeleted.
        """
        status_pipe = self._settings.get("statusPipe")
        if status_pipe is not None:
            _log.critical("{problem}", problem=problem)
            os.write(status_pipe, b"1 " + problem.encode("ascii", "replace")[:98])
        else:
            # Not sys.stderr: twistd has made that a part of its log.
            print(f"hangup: {problem}", file=sys.__stderr__)
        self._remove_pid_file()
        raise SystemExit(1)

    def _remove_pid_file(self) -> None:
        if self._settings.get("pidfile"):
            with suppress(OSError):
                os.remove(self._settings["pidfile"])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def url_text(address: Any, secure: bool) -> str:
    """The URL to open in a browser for a port at this address; a UNIX socket's own name."""
    if isinstance(address, UNIXAddress):
        return f"the UNIX socket {address_text(address)}"
    ip, host = ip_of(address.host), address.host
    if ip is not None and ip.is_unspecified:
        host = "127.0.0.1" if ip.version == 4 else "::1"
    scheme = "https" if secure else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address.port}/"


def address_text(address: Any) -> str:
    """The address of a port, for the log."""
    if isinstance(address, UNIXAddress):
        return visible(address.name or b"a socket without a name")
    return peer_text(address)
