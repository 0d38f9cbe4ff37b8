"""A site on its ports, from the first connection to a graceful end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any, Final

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
from .process import Program, StandardOutput, once
from .systemd import READY, STOPPING, notify, notify_reloading

#: How long threads may take to notice that their clients were hung up on.
LAST_SECONDS: Final = 0.25

#: How often to look for threads that are still at work.
POLL_SECONDS: Final = 0.05

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
        replaced: Callable[[], bool] = lambda: False,
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
            replaced: Asked when the service stops: whether another process goes on in its place.
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
        self._replaced = replaced
        #: Whether the service finishes because it was replaced.
        self._retires = False
        #: Fires when it need not wait for connections that were upgraded, or not any longer.
        self._upgraded_over: Deferred[None] = Deferred()

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

        A service that is replaced lets each connection end with its next response.  One that is
        idle may stay so for its keep-alive time, and one that was upgraded for the grace.  If no
        other process goes on, idle connections are closed at once, and nobody waits for those that
        were upgraded, except tunnels: clients cannot connect until this one has ended.

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

    def hasten(self) -> None:
        """While the service finishes: go on as if it had not been replaced."""
        if self._retires:
            self._retires = False
            self.site.drain()
            self._cb_upgraded_over(None)

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
            endpoint.look(self._clock.seconds())

    def _cb_listening(self, port: IListeningPort) -> None:
        self._gate.guard(port)
        self.ports.append(port)
        self._log_address(port.getHost())

    def _log_address(self, address: object) -> None:
        _log.info("Listening on {address}", address=address_text(address))

    def _eb_listening(self, failure: Failure, description: str) -> None:
        self._problem = CannotListen(listen_problem(failure.value, description))
        if self._listened:  # an endpoint that fails only after the start
            _log.critical("{problem}", problem=str(self._problem))
            self._reactor.stop()

    def _cb_drain(self, _: object) -> Deferred[None]:
        self._retires = self._replaced()
        connections, threads = self._connections, self._threads_at_work
        ended = Deferred.fromCoroutine(self._retired()) if self._retires else self.site.drain()
        gone = ended.addCallback(self._cb_wait_for_threads)
        if connections or threads:
            busy = counted(connections, "open connection")
            _log.info(
                "Stopping: {busy} to finish in {seconds:g} seconds",
                busy=busy if connections else counted(threads, "thread"),
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
            upgraded = clients - self.site.open_connections
            _log.warn(
                "Hanging up on {clients}{upgraded}",
                clients=counted(clients, "client"),
                upgraded=f" ({upgraded} upgraded)" if upgraded else "",
            )
        gone = self.site.drain().addCallback(self._cb_wait_no_longer_for_threads)
        self.site.hang_up_all()
        if self._retires:
            self._gate.hang_up(self._reactor)
        return gone

    async def _retired(self) -> None:
        """Let every connection end with its next response, or in its time to be idle."""
        site = self.site
        site.retire()
        # The keep-alive time may end before that, as always.
        idle_seconds = max(0.0, self._grace_seconds - LAST_SECONDS)
        end_of_idle = self._clock.callLater(idle_seconds, site.drain)
        try:
            await site.context.when_empty()
            self._gate.when_empty().addCallback(self._cb_upgraded_over)
            await self._upgraded_over
        finally:
            if end_of_idle.active():
                end_of_idle.cancel()

    def _cb_wait_for_threads(self, _: object) -> Deferred[None]:
        """Fire when no thread is at work: a request may go on after its client has left."""
        return Deferred.fromCoroutine(self._threads_are_idle())

    def _cb_wait_no_longer_for_threads(self, _: object) -> Deferred[None]:
        idle = self._cb_wait_for_threads(None)
        return idle.addTimeout(LAST_SECONDS, self._clock).addErrback(self._eb_time_is_up)

    async def _threads_are_idle(self) -> None:
        while self._threads_at_work:
            await deferLater(self._clock, POLL_SECONDS)

    def _cb_upgraded_over(self, _: object) -> None:
        if not self._upgraded_over.called:
            self._upgraded_over.callback(None)

    @property
    def _connections(self) -> int:
        """How many connections there are to wait for."""
        ours = self.site.open_connections + len(self.site.context.tunnels)
        return max(ours, self._gate.open) if self._retires else ours

    @property
    def _threads_at_work(self) -> int:
        return 0 if self._threads is None else len(self._threads.working)

    def _eb_time_is_up(self, failure: Failure) -> None:
        failure.trap(DeferredTimeout)
        _log.warn("Leaving {threads} at work", threads=counted(self._threads_at_work, "thread"))

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
        settings: MutableMapping[str, Any],
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
        self._stdout = stdout
        self._program = Program(
            settings,
            self._reactor,
            self._logs,
            grace_seconds=self._grace_seconds,
            end_now=self.end_grace,
            last_words="The grace is over: ended with work still to do",
            finish=self.stopService,
        )
        self._stop_once = once(self._stop)

    def startService(self) -> None:
        """As in `HangupService`; from now on a signal ends the program in any case."""
        super().startService()
        if self._stdout is not None:
            self._stdout.take_over()
        self._reactor.callWhenRunning(self._take_over)

    def stopService(self) -> Deferred[None]:
        """As in `HangupService`, within the grace and `END_SECONDS`; twice is harmless."""
        return self._stop_once()

    def _stop(self) -> Deferred[None]:
        self._program.stop()
        return super().stopService()

    def _take_over(self) -> None:
        """Act once the log has begun and Twisted has taken the signals."""
        self._closers = [*self._closers, bound_failures(self._reactor)]
        self._program.take_ends()
        self._say_where()
        self._closers.append(self._program.ready())

    def _say_where(self) -> None:
        """Log one line with a URL to click on."""
        if self.ports:
            endpoints = [endpoint for _, endpoint in self._endpoints]
            _log.info(
                "Serving {content} on {urls}{end}",
                content=visible(self._content),
                urls=urls_text(zip(self.ports, endpoints, strict=False)),
                end=" (Ctrl-C stops)" if self._program.on_terminal else "",
            )

    def _reload(self) -> None:
        notify_reloading()
        self._program.reopen_logs()
        self.read_certificates()
        notify(STOPPING if self._program.ends else READY)

    def _listen(self) -> None:
        # Before there are clients whom the signals would cut off.
        self._program.take_reloads(self._program.reopen_logs, self._reload)
        try:
            super()._listen()
        except CannotListen as problem:
            self._program.refuse(str(problem))


def listen_problem(error: Any, description: str) -> str:
    """Why the endpoint that the operator calls *description* cannot be opened, in one line."""
    port = None
    if isinstance(error, CannotListenError):
        port, error = error.port, error.socketError
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, PermissionError) and isinstance(port, int):
        reason += " (a port below 1024 needs CAP_NET_BIND_SERVICE; or use 8080)"
    return f"cannot listen on {description}: {reason}"


def counted(number: int, noun: str) -> str:
    """The number of what *noun* names, for people."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def urls_text(ports: Iterable[tuple[IListeningPort, IStreamServerEndpoint]]) -> str:
    """The URLs of *ports*, each given with its endpoint."""
    return " and ".join(
        _url_text(port.getHost(), isinstance(endpoint, RenewedEndpoint)) for port, endpoint in ports
    )


def _url_text(address: Any, secure: bool) -> str:
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
