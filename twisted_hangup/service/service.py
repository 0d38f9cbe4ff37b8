"""What ``twistd hangup`` and ``twist hangup`` run, made from their options.

No reactor is installed until `makeService` is called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import FileIO
from typing import Any, Final, NamedTuple

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python.usage import UsageError
from twisted.web.resource import IResource

from ..journal.access_log import AccessLog
from ..journal.console import ConsoleLog
from ..journal.error_log import ErrorLog
from ..journal.files import LogFile
from ..journal.flood import ThrottledWarning
from ..journal.merged import MergedJournal
from ..limits import Lenience
from ..proxy.resource import ProxyResource
from ..server.site import HangupSite
from ..transport.clock import steady
from . import accept
from . import content as _content
from .accept import Gate
from .options import ADDRESS_SHARES
from .options import Options as Options
from .ports import endpoint
from .process import DaemonThreads, StandardOutput
from .serving import CommandLineService, HangupService
from .status import metrics_of, metrics_report_of, status_service
from .welcome import WelcomePage
from .workers import Channel, Worker
from .workers.command import CommandLineWorkers
from .workers.reports import ErrorLines, PageReports, Report, SentLines
from .workers.view import View

#: Without -n the shell's prompt is back, and nothing else is to be seen.
IN_THE_BACKGROUND: Final = (
    "hangup: goes on in the background; twistd -n hangup stays in the foreground\n"
)

_log = Logger()


class LoggedSite(HangupSite):
    """A site that writes its access log through `AccessLog`, or writes none."""

    access_log: AccessLog | None = None

    def log(self, request: Any) -> None:
        if self.access_log is not None:
            self.access_log.request(request)


def makeService(options: Options) -> IService:
    """Make the service that *options* describe; it listens when it is started.

    Raises:
        SystemExit: An option names something that does not exist, or is of the wrong kind.
        UsageError: The same, if there is no command line.
    """
    from twisted.internet import reactor

    make = _make_workers if options["workers"] else _make_service
    try:
        service = make(options, reactor)
    except UsageError as error:
        options.refuse(error)
    if options.daemonizes and sys.stdout is not None:
        with suppress(OSError):  # it may be full, or have no reader
            sys.stdout.write(IN_THE_BACKGROUND)
            sys.stdout.flush()
    return service


def _make_workers(options: Options, reactor: Any) -> CommandLineWorkers:
    assert options.parent is not None
    _log_most(_most_of_workers(options))
    stdout = _stdout(options)
    files = _log_files(options, stdout)
    error_log = None if files.errors is None else _error_log(files.errors, options, reactor)
    view = View(reactor, access_log=files.access, error_log=error_log)
    workers = CommandLineWorkers(
        options.parent,
        stdout,
        _name_of_content(options),
        view,
        f"{__name__}.worker_service",
        [*options.ports.values()],
        options["workers"],
        closers=[] if error_log is None else [error_log.close],
        logs=files.all,
        arguments=options.arguments,
        reactor=reactor,
        grace_seconds=options["grace"],
        boot_seconds=options["worker-boot-timeout"],
        timeout_seconds=options["worker-timeout"],
    )
    if options.status is not None:
        view.journal = MergedJournal(options.masking, workers.states)
        with suppress(ImportError):  # the extra [metrics] is not installed
            from ..metrics import WorkerMetrics

            view.metrics = WorkerMetrics(workers.states, view.ask)
        workers.status = status_service(view.journal, options, reactor, view.metrics)
    return workers


def worker_service(worker: Worker) -> IService:
    """What a worker of ``--workers`` runs; its arguments are those of ``twistd hangup``.

    Raises:
        UsageError: An option names something that does not exist, or is of the wrong kind.
    """
    options = Options()
    options.parseOptions(worker.arguments)
    service = _make_service(options, worker.reactor, worker)
    service.site.noisy = False  # the first process has said what is served
    worker.hasteners.append(service.hasten)
    return service


def _make_service(options: Options, reactor: Any, worker: Worker | None = None) -> HangupService:
    """The service, of a process of its own or of a *worker*."""
    if worker is None:
        endpoints = [endpoint(port, reactor) for port in options.ports.values()]
    else:
        endpoints = worker.endpoints()
    warn = ThrottledWarning(steady(reactor))
    threads = None if options["wsgi"] is None else DaemonThreads(options["threads"], "wsgi")
    content = _content_of(options, reactor, warn, threads)
    site = LoggedSite(
        content,
        limits=options.limits,
        timeouts=options.timeouts,
        masking=options.masking,
        forwarded=options.forwarded,
        reactor=reactor,
        # Only these resources read forms, and a form may be as large as the disk.
        parsePOSTFormSubmission=options["resource"] is not None,
    )
    site.context.pages = _content.error_pages(options["error-pages"])
    for name in options.handlers:
        site.on_client_error(_content.handler(name))
    console = ConsoleLog(
        steady(reactor), log_idle=bool(options["log-idle"]), policy=options.masking
    )
    closers = _watch(site, console)
    if isinstance(content, ProxyResource):
        closers.append(content.pool.close)
    if threads is not None:
        closers.append(threads.stop)
    parent = options.parent
    stdout = _stdout(options)
    companions = []
    if worker is not None:
        log_closers, logs = _pass_on(worker, site, options)
    else:
        files = _log_files(options, stdout)
        log_closers, logs = _connect_logs(site, options, reactor, files), files.all
        if options.status is not None:
            companions = [status_service(site, options, reactor, metrics_of(site))]
    name = _name_of_content(options)
    make = HangupService if parent is None else partial(CommandLineService, parent, stdout, name)
    return make(
        site,
        [*zip(options.ports, endpoints, strict=True)],
        _gate(options, site, reactor, worker),
        reactor=reactor,
        grace_seconds=options["grace"],
        closers=closers + log_closers,
        companions=companions,
        threads=threads,
        logs=logs,
        replaced=lambda: worker is not None and worker.replaced,
    )


def _stdout(options: Options) -> StandardOutput | None:
    """The standard output of a program that has one."""
    is_program = options.parent is not None and not options.daemonizes
    return StandardOutput() if is_program and sys.__stdout__ is not None else None


def _name_of_content(options: Options) -> str:
    names = (options[one] for one in ("path", "resource", "wsgi", "proxy") if options[one])
    return next(names, "a welcome page")


def _content_of(
    options: Options, reactor: Any, warn: ThrottledWarning, threads: DaemonThreads | None
) -> IResource:
    if options["path"] is not None:
        return _content.directory(
            options["path"],
            dotfiles=bool(options["dotfiles"]),
            follow_links=bool(options["follow-symlinks"]),
            out_of_files=warn,
        )
    if options["resource"] is not None:
        return _content.resource(options["resource"])
    if threads is not None:
        return _content.wsgi(options["wsgi"], reactor, threads)
    if options["proxy"] is not None:
        return _content.proxy(
            options["proxy"],
            ca=options["proxy-ca"],
            most_connections=options["proxy-max-connections"],
            buffer_requests=bool(options["proxy-buffer-requests"]),
            reactor=reactor,
            forwarding=options.forwarding,
            timeouts=options.proxy_timeouts,
            # Lenience is for old clients.
            limits=replace(options.limits, lenience=Lenience()),
        )
    return WelcomePage()


class _LogFiles(NamedTuple):
    """The files of --access-log and --error-log, and all that are to be closed at the end."""

    access: LogFile | None
    errors: LogFile | None
    all: list[LogFile]


def _log_files(options: Options, stdout: LogFile | None) -> _LogFiles:
    """Open the files."""
    access, errors = (
        None if options[option] is None else _open_log(name, options[option], stdout)
        for name, option in (("access log", "access-log"), ("error log", "error-log"))
    )
    return _LogFiles(access, errors, [log for log in (errors, access, stdout) if log is not None])


def _error_log(file: LogFile, options: Options, reactor: Any) -> ErrorLog:
    return ErrorLog(
        file,
        steady(reactor),
        per_second=options["error-log-per-second"],
        log_idle=bool(options["log-idle"]),
        policy=options.masking,
    )


def _write_access_log(site: LoggedSite, file: LogFile, options: Options) -> Callable[[], object]:
    """Write the requests and refusals of *site* to *file*; returns a function for the end."""
    site.access_log = AccessLog(
        file,
        line_of=options["access-log-format"],
        log_idle=bool(options["log-idle"]),
        policy=options.masking,
    )
    return site.journal.watch_settled(site.access_log.refused)


def _watch(site: HangupSite, log: ConsoleLog | ErrorLog | ErrorLines) -> list[Callable[[], object]]:
    """Write all errors of *site* to *log*; returns functions to call at the end."""
    return [site.journal.watch(log), site.journal.watch_upstream(log), log.close]


def _connect_logs(
    site: LoggedSite, options: Options, reactor: Any, files: _LogFiles
) -> list[Callable[[], object]]:
    """Write what happens at *site* to *files*.

    Returns:
        Functions to call at the end.
    """
    closers: list[Callable[[], object]] = []
    if files.access is not None:
        closers.append(_write_access_log(site, files.access, options))
    if files.errors is not None:
        closers += _watch(site, _error_log(files.errors, options, reactor))
    return closers


def _pass_on(
    worker: Worker, site: LoggedSite, options: Options
) -> tuple[list[Callable[[], object]], list[LogFile]]:
    """Pass on what happens at *site* to the first process, which has the files and the page.

    Returns:
        Functions to call at the end, and the files to close after that.
    """
    channel = worker.channel
    closers: list[Callable[[], object]] = []
    logs: list[LogFile] = []
    if options["access-log"] is not None:
        sent: Any = SentLines(channel)
        file = LogFile(sent, "access log")
        logs.append(file)
        # The first process sends the file if each worker can append to it.
        worker.receivers[Report.APPEND] = lambda _: _append(file, channel)
        worker.receivers[Report.SEND] = lambda _: file.go_on_in(sent)
        closers.append(_write_access_log(site, file, options))
    if options["error-log"] is not None:
        lines = ErrorLines(
            channel,
            worker.number,
            steady(worker.reactor),
            per_second=options["error-log-per-second"],
            log_idle=bool(options["log-idle"]),
            policy=options.masking,
        )
        closers += _watch(site, lines)
    if options.status is not None:
        metrics = metrics_report_of(site)
        reports = PageReports(channel, site, worker.reactor, metrics)
        worker.receivers[Report.ASKED] = reports.asked
        worker.reactor.callLater(0, reports.start)  # once the channel is open
        closers.append(reports.close)
    return closers, logs


def _append(log: LogFile, channel: Channel) -> None:
    """Let *log* go on in the file that has come through *channel*."""
    try:
        descriptor = channel.take_descriptor()
    except OSError as error:
        log.stay(error)
    else:
        log.go_on_in(FileIO(descriptor, "ab"), is_shared=True)


def _open_log(name: str, path: str, stdout: LogFile | None) -> LogFile:
    """The file for the log *name*; ``-`` is standard output."""
    try:
        if path == "-":
            # Not sys.stdout: twistd makes that a part of its own log.
            return stdout or LogFile(FileIO(1, "wb", closefd=False), name)
        return LogFile(path, name)
    except OSError as error:
        option = f"--{name.replace(' ', '-')}"
        raise UsageError(f"{option}: cannot write {path!r}: {error.strerror}") from error


def _gate(options: Options, site: LoggedSite, reactor: Any, worker: Worker | None) -> Gate:
    """The gate that admits clients: as many as the operator and the open files allow."""
    files, asked = _connections_by_files(options), options["max-connections"]
    most = _least(files, asked if worker is None else 0)
    if worker is None:
        _log_most(most)
    share = options["max-connections-per-address"]
    if share is None:
        # A worker knows the addresses of its own clients only; so its part of the places counts.
        part = _least(files, -(-asked // max(1, options["workers"])))
        share = -(-(part or 0) // ADDRESS_SHARES)
    return Gate(
        reactor,
        most,
        room=site.context.room,
        most_of_address=share or None,
        trusted=options.trusted_proxies,
        places=None if worker is None else worker.places(asked or None),
    )


def _most_of_workers(options: Options) -> int | None:
    """The most connections of all workers; None for any number."""
    files = _connections_by_files(options)  # each worker has as many files as this process may open
    return _least(files and files * options["workers"], options["max-connections"])


def _log_most(most: int | None) -> None:
    if most is not None:
        _log.info("At most {most} connections at a time; further clients wait", most=most)


def _connections_by_files(options: Options) -> int | None:
    """How many connections the limit of open files allows; None if it allows any number."""
    limit = accept.raise_file_limit()
    if limit is None:
        return None
    # A connection may have a body on disk, or a file that it is served from; a proxied client
    # also has a connection to the server.
    files_each = 2 if options["proxy"] is None else 3
    return max(1, accept.room_for_connections(limit) // files_each)


def _least(*bounds: int | None) -> int | None:
    """The least of *bounds*, of which None and 0 are none."""
    return min(filter(None, bounds), default=None)
