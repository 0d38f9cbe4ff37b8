"""What ``twistd hangup`` and ``twist hangup`` run: a site on its ports, and its logs.

Nothing here installs a reactor until `makeService` is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn

from twisted.application.service import IService, Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError
from twisted.web.resource import IResource

from . import _content, _open_files
from ._accept import Gate
from ._access_log import AccessLog
from ._options import Options as Options
from ._seldom import SeldomWarning
from ._text import peer_text, visible
from ._welcome import WelcomePage
from .console import ConsoleLog
from .error_log import ErrorLog
from .site import HangupSite

_log = Logger()


class CannotListen(Exception):
    """A port cannot be had.  The message is the one line that the operator gets."""


class LoggedSite(HangupSite):
    """A site that writes its access log through `AccessLog`, or none at all."""

    access_log: AccessLog | None = None

    def log(self, request: Any) -> None:
        if self.access_log is not None:
            self.access_log.request(request)


class HangupService(Service):
    """A site, the endpoints it listens on, and a graceful end.

    Attributes:
        ports: What listens, once the service has started.
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
    ) -> None:
        """
        Args:
            site: What is served.
            endpoints: Where, each with the operator's own name for it.
            gate: Asked before each accept.
            reactor: Its clock; it is stopped when a port fails only after the start.
            grace_seconds: How long running requests may take when the service stops.
            closers: Called last of all, when nothing is logged any more.
        """
        self.site = site
        self.ports: list[IListeningPort] = []
        self._endpoints = endpoints
        self._gate = gate
        self._reactor = reactor
        self._grace_seconds = grace_seconds
        self._closers = closers
        self._listened = False
        self._problem: CannotListen | None = None

    def privilegedStartService(self) -> None:
        """Listen while we still may: ``twistd --uid`` gives up root after this.

        Raises:
            CannotListen: A port cannot be had.
        """
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Listen, unless that was done: ``twist`` has no privileged start.

        Raises:
            CannotListen: A port cannot be had.
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
        self._gate.retire()
        ports, self.ports = self.ports, []
        closed = DeferredList([maybeDeferred(port.stopListening) for port in ports])
        return closed.addCallback(self._cb_drain).addBoth(self._cb_close)

    def _listen(self) -> None:
        for description, endpoint in self._endpoints:
            endpoint.listen(self.site).addCallbacks(
                self._cb_listening, self._eb_listening, errbackArgs=(description,)
            )
        self._listened = True
        if self._problem is not None:
            raise self._problem

    def _cb_listening(self, port: IListeningPort) -> None:
        self._gate.guard(port)
        self.ports.append(port)
        _log.info("Listening on {address}", address=_address_text(port.getHost()))

    def _eb_listening(self, failure: Failure, description: str) -> None:
        error: Any = failure.value
        if isinstance(error, CannotListenError):
            error = error.socketError
        reason = getattr(error, "strerror", None) or str(error)
        self._problem = CannotListen(f"cannot listen on {description}: {reason}")
        if self._listened:  # an endpoint that takes its time to find out
            _log.critical("{problem}", problem=str(self._problem))
            self._reactor.stop()

    def _cb_drain(self, _: object) -> Deferred[None]:
        connections = self.site.open_connections
        gone = self.site.drain()
        if connections:
            _log.info(
                "Stopping: {connections} open connections have {seconds:g} seconds to finish",
                connections=connections,
                seconds=self._grace_seconds,
            )
            gone.addTimeout(self._grace_seconds, self._reactor)
            gone.addErrback(self._eb_grace_is_over)
        return gone

    def _eb_grace_is_over(self, failure: Failure) -> Deferred[None]:
        failure.trap(DeferredTimeout)
        _log.warn("Hanging up on {connections} clients", connections=self.site.open_connections)
        gone = self.site.drain()
        self.site.hang_up_all()
        return gone

    def _cb_close(self, result: object) -> object:
        for close in self._closers:
            close()
        return result


class _CommandLineService(HangupService):
    """The service of a program whose operator reads one line and no traceback."""

    options: Options

    def _listen(self) -> None:
        try:
            super()._listen()
        except CannotListen as problem:
            _end_program(self.options.parent, str(problem))


def makeService(options: Options) -> IService:
    """Make the service that *options* describe; it listens when it is started.

    Raises:
        SystemExit: Something that *options* name is not there, or not what it should be.
        UsageError: The same, where there is no command line.
    """
    from twisted.internet import reactor

    try:
        return _make_service(options, reactor)
    except UsageError as error:
        options.refuse(error)


def _make_service(options: Options, reactor: Any) -> HangupService:
    endpoints = [(port, _endpoint(port, reactor)) for port in options.ports]
    warn = SeldomWarning(reactor)
    site = LoggedSite(
        _content_of(options, reactor, warn),
        limits=options.limits,
        timeouts=options.timeouts,
        reactor=reactor,
    )
    for name in options.handlers:
        site.on_client_error(_content.function("--on-client-error", name))
    console = ConsoleLog(reactor, policy=options.masking)
    closers: list[Callable[[], object]] = [site.journal.watch(console), console.close]
    closers += _open_logs(site, options, reactor, warn)
    service = _CommandLineService(
        site,
        endpoints,
        Gate(reactor, _most_connections(options["max-connections"])),
        reactor=reactor,
        grace_seconds=options["grace"],
        closers=closers,
    )
    service.options = options
    return service


def _content_of(options: Options, reactor: Any, warn: SeldomWarning) -> IResource:
    if options["path"] is not None:
        return _content.directory(
            options["path"], dotfiles=bool(options["dotfiles"]), out_of_files=warn
        )
    if options["resource"] is not None:
        return _content.resource(options["resource"])
    if options["wsgi"] is not None:
        return _content.wsgi(options["wsgi"], reactor)
    return WelcomePage()


def _endpoint(description: str, reactor: Any) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:  # whatever the parser of somebody's endpoint raises
        raise UsageError(f"--port: {description!r}: {error}") from error
    return endpoint


def _open_logs(
    site: LoggedSite, options: Options, reactor: Any, warn: SeldomWarning
) -> list[Callable[[], object]]:
    """Open what --access-log and --error-log name, and return what closes them."""
    closers: list[Callable[[], object]] = []
    if options["access-log"] is not None:
        access_log = AccessLog(
            _open_log("--access-log", options["access-log"]),
            policy=options.masking,
            complain=warn,
        )
        site.access_log = access_log
        closers += [site.journal.watch(access_log.refused), access_log.close]
    if options["error-log"] is not None:
        output = _open_log("--error-log", options["error-log"])
        error_log = ErrorLog(
            output, reactor, per_second=options["error-log-per-second"], policy=options.masking
        )
        closers += [site.journal.watch(error_log), error_log.close, output.close]
    return closers


def _open_log(option: str, path: str) -> BinaryIO:
    """Open *path* for appending, unbuffered, so that a line is there when it is written."""
    if path == "-":
        # Not sys.stdout: twistd turns that into a part of its own log.
        return open(1, "wb", buffering=0, closefd=False)
    try:
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise UsageError(f"{option}: cannot write {path!r}: {error.strerror}") from error


def _most_connections(asked: int) -> int | None:
    """The smaller of what the operator allows and what there are files for."""
    limit = _open_files.raise_limit()
    bounds = [asked] if asked else []
    if limit is not None:
        bounds.append(_open_files.room_for_connections(limit))
    return min(bounds, default=None)


def _end_program(command_line: UsageOptions | None, problem: str) -> NoReturn:
    """End a program that has started already, with one line and status 1.

    What twistd does for an exception is to print a traceback; for SystemExit it would leave
    the terminal that started a daemon waiting, and the pid file behind.
    """
    settings: Mapping[str, Any] = command_line or {}
    status_pipe = settings.get("statusPipe")
    if status_pipe is not None:
        _log.critical("{problem}", problem=problem)
        os.write(status_pipe, b"1 " + problem.encode("ascii", "replace")[:98])
    else:
        # Not sys.stderr: twistd has turned that into a part of its log.
        print(f"hangup: {problem}", file=sys.__stderr__)
    if settings.get("pidfile"):
        with suppress(OSError):
            os.remove(settings["pidfile"])
    raise SystemExit(1)


def _address_text(address: Any) -> str:
    if isinstance(address, UNIXAddress):
        return visible(address.name or b"a socket without a name")
    return peer_text(address)
