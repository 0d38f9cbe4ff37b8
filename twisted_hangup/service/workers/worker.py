"""A worker process, from its first line to its end."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import socket
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from threading import Event, RLock, Thread
from typing import Any, Final, NoReturn

from twisted.application.service import IService
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.reflect import namedAny
from twisted.python.systemd import ListenFDs
from twisted.python.threadable import isInIOThread
from twisted.python.usage import UsageError
from zope.interface import implementer

from ...journal.failures import bound_failures
from ...limits import KIB
from ...server.site import HangupSite
from ...transport.clock import steady
from ..accept import Gate
from ..ports import endpoint
from ..process import END_SECONDS, end_within, finish_first, once
from ..serving import CannotListen, HangupService
from .channel import Channel, Kind, frame_of
from .places import SharedPlaces
from .plan import (
    BLOCKED_SIGNALS,
    CHANNEL_DESCRIPTOR,
    FIRST_SOCKET,
    IGNORED_SIGNALS,
    TABLE_DESCRIPTOR,
    Plan,
)
from .sockets import Adopter
from .table import Row, Table

#: How often a worker tells that its reactor runs.
BEAT_SECONDS: Final = 1.0

#: How long the last frames may take to leave.
_FLUSH_SECONDS: Final = 0.25

#: A longer log text is cut, and ends with `_CUT`.
_TEXT_LENGTH: Final = 64 * KIB
_CUT: Final = " ..."

#: How often a worker that starts looks whether it has done so.
_LOOK_MILLISECONDS: Final = 200


class Worker:
    """What the function that makes a worker's service is given.

    Attributes:
        number: Which worker this is: 1 for the first.  Its successor has the same number.
        arguments: What `Workers` was given for this function.
        grace_seconds: How long the service may take to stop.
        reactor: The reactor.
        reactors: For each port its stand-in for the reactor, for an endpoint of your own.
        channel: Frames to the first process, and from it.
        table: What all workers hold.
        row: This worker's part of it.
        hasteners: Functions to call if all workers are to end, while this one finishes because it
            was replaced.
        receivers: For a kind of frame from the first process, who is called with the payload.
    """

    def __init__(self, plan: Plan, reactor: Any) -> None:
        self.number = plan.number
        self.arguments = plan.arguments
        self.grace_seconds = plan.grace_seconds
        self.reactor = reactor
        self.reactors: list[Any] = []
        self.channel = Channel(self._received)
        self.table = Table(TABLE_DESCRIPTOR)
        self.row: Row = self.table[plan.row]
        self.hasteners: list[Callable[[], object]] = []
        self.receivers: dict[int, Callable[[bytes], object]] = {}
        self._ports = plan.ports
        first = FIRST_SOCKET
        for count in plan.sockets:
            self.reactors.append(Adopter(reactor, range(first, first + count)))
            first += count

    @property
    def replaced(self) -> bool:
        """Whether the worker ends because another one serves in its place."""
        return self.row.replaced

    def endpoints(self) -> list[IStreamServerEndpoint]:
        """The endpoints to listen on, in the order of `Workers`' *ports*."""
        return [
            endpoint(description, reactor)
            for description, reactor in zip(self._ports, self.reactors, strict=True)
        ]

    def serve(self, site: HangupSite) -> HangupService:
        """A service that serves *site* on all ports, and lets requests finish when it stops."""
        service = HangupService(
            site,
            [*zip(self._ports, self.endpoints(), strict=True)],
            Gate(self.reactor, room=site.context.room, places=self.places()),
            reactor=self.reactor,
            grace_seconds=self.grace_seconds,
            replaced=lambda: self.replaced,
        )
        self.hasteners.append(service.hasten)
        return service

    def places(self, most: int | None = None) -> SharedPlaces:
        """For a `Gate`: the places for connections, of which all workers have at most *most*."""
        return SharedPlaces(self.table, self.row, self.reactor, most)

    def _received(self, kind: int, payload: bytes) -> None:
        if receiver := self.receivers.get(kind):
            receiver(payload)


def main(text: str) -> NoReturn:
    """Be the worker that the `Plan` in *text* describes."""
    plan = Plan.from_text(text)
    for number in IGNORED_SIGNALS:
        # Not SIG_IGN, which programs that the worker starts would inherit.
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    if plan.boot_ends:
        # It works when nothing else does.
        faulthandler.dump_traceback_later(max(0.1, plan.boot_ends - time.monotonic()), exit=True)
    for descriptor in range(CHANNEL_DESCRIPTOR, FIRST_SOCKET + sum(plan.sockets)):
        os.set_inheritable(descriptor, False)
    booted = Event()
    Thread(target=_end_with_first_process, args=(booted,), daemon=True).start()
    log = _ChannelLog(socket.socket(fileno=CHANNEL_DESCRIPTOR))
    globalLogBeginner.beginLoggingTo([log])
    try:
        process = _prepared(plan, log, booted)
    except (UsageError, CannotListen) as problem:
        log.end(f"hangup: {problem}")
    except SystemExit as problem:
        log.end(str(problem))
    except BaseException:
        log.end(traceback.format_exc().rstrip())
    else:
        process.run()
        sys.exit(0)
    os._exit(1)


def _ignore(number: int, frame: object) -> None:
    """What the terminal sends to the whole group is for the first process."""


def _prepared(plan: Plan, log: _ChannelLog, booted: Event) -> _Process:
    os.chdir(plan.directory)
    _search_in(os.getcwd())  # not by a link, which may lead to other code at a later import
    endpoints._SystemdParser._sddaemon = ListenFDs(
        [*range(len(plan.systemd_names))], plan.systemd_names
    )
    from twisted.internet import reactor

    return _Process(plan, log, booted, reactor)


def _end_with_first_process(booted: Event) -> None:
    """Look for the first process's end while there is no reactor to see it.

    A worker that starts holds the ports, and nobody would accept there.
    """
    poller = select.poll()
    poller.register(CHANNEL_DESCRIPTOR, 0)  # a hang-up is reported in any case
    while not booted.is_set():
        if poller.poll(_LOOK_MILLISECONDS) and not booted.is_set():
            os._exit(1)


def _search_in(directory: str) -> None:
    """Let modules be found in *directory*, after those of Python and before those installed.

    The interpreter has started in another one, so that none of Python's was taken from here.
    """
    if "/" in sys.path:
        sys.path.remove("/")
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    libraries |= {f"{path}/lib-dynload" for path in libraries}
    places = [place for place, path in enumerate(sys.path, 1) if path in libraries]
    sys.path.insert(max(places, default=len(sys.path)), directory)


class _Process:
    """The worker's service in its process."""

    def __init__(self, plan: Plan, log: _ChannelLog, booted: Event, reactor: Any) -> None:
        self._reactor = reactor
        self._worker = worker = Worker(plan, reactor)
        self._ends = False
        self._log = log
        self._booted = booted
        service = IService(namedAny(plan.make)(worker))
        self._stop_service = once(service.stopService)
        service.privilegedStartService()
        service.startService()

    def run(self) -> None:
        reactor = self._reactor
        reactor.callWhenRunning(self._begin)
        reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        reactor.run()

    def _begin(self) -> None:
        """Serve, now that Twisted has taken the signals."""
        faulthandler.cancel_dump_traceback_later()
        self._booted.set()
        signal.signal(signal.SIGTERM, self._terminated)
        bound_failures(self._reactor)
        channel = self._worker.channel
        self._log.begin(channel, self._reactor)
        channel.closed.addCallback(self._cb_orphaned)
        beats = LoopingCall(self._beat)
        beats.clock = steady(self._reactor)
        beats.start(BEAT_SECONDS)
        self._worker.row.accepts = True
        channel.send(Kind.READY)

    def _beat(self) -> None:
        self._worker.row.beat = time.monotonic_ns()

    def _cb_orphaned(self, _: object) -> None:
        """The channel is closed: by the first process's end, or for ours."""
        if not self._ends:
            # A pipe to the dead: writing there would raise.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.close(null)
            self._terminated()

    def _terminated(self, *_: object) -> None:
        """SIGTERM, which ends the process in any case."""
        if not self._ends:
            self._end_in_time()
            finish_first(self._reactor, self._finish, self._reactor.stop)
        else:
            self._reactor.callFromThread(self._hasten)

    def _hasten(self) -> None:
        if not self._worker.replaced:
            for hasten in self._worker.hasteners:
                hasten()

    def _end_in_time(self) -> None:
        self._ends = True
        end_within(self._worker.grace_seconds + END_SECONDS, lambda: None)

    def _finish(self) -> Deferred[None]:
        self._worker.row.accepts = False
        return self._stop_service()

    def _stop(self) -> Deferred[Any]:
        if not self._ends:  # the application has stopped the reactor
            self._end_in_time()
        return self._finish().addCallback(self._cb_flush)

    def _cb_flush(self, _: object) -> Deferred[Any]:
        flushed = Deferred[None]()
        self._worker.channel.close().chainDeferred(flushed)
        flushed.addTimeout(_FLUSH_SECONDS, steady(self._reactor))
        return flushed.addErrback(lambda _: None)


@implementer(ILogObserver)
class _ChannelLog:
    """Passes the log on to the first process.

    While the worker starts, this waits for the first process: whatever ends the start, all that it
    has logged is there.
    """

    def __init__(self, end: socket.socket) -> None:
        """*end* is that of the channel."""
        self._end = end
        self._lock = RLock()
        self._channel: Channel | None = None
        self._reactor: Any = None

    def begin(self, channel: Channel, reactor: Any) -> None:
        """From now on send the events through *channel*."""
        with self._lock, self._end as end:
            end.setblocking(False)
            factory = Factory.forProtocol(lambda: channel)
            reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
            self._channel, self._reactor = channel, reactor

    def end(self, problem: str) -> None:
        """Print *problem*, which ends the start."""
        # Not sys.stderr, which has become a part of the log.
        print(problem, file=sys.__stderr__, flush=True)

    def __call__(self, event: LogEvent) -> None:
        with self._lock:
            if self._channel is None:
                self._send_early(event)
                return
        if isInIOThread():
            self._channel.send(Kind.LOG, _record_of(event))
        else:
            self._reactor.callFromThread(self._channel.send, Kind.LOG, _record_of(event))

    def _send_early(self, event: LogEvent) -> None:
        # What we say of a start is the same for all workers; the first process has said it.
        ours = event.get("log_namespace", "").startswith("twisted_hangup.")
        if not ours or event.get("log_level") is not LogLevel.info:
            with suppress(OSError):  # the first process has ended
                self._end.sendall(frame_of(Kind.LOG, _record_of(event)))


def _record_of(event: LogEvent) -> bytes:
    level = event.get("log_level", LogLevel.info)
    record = [level.name, event.get("log_namespace", ""), _text_of(event)]
    return json.dumps(record).encode("ascii")


def _text_of(event: LogEvent) -> str:
    text = formatEvent(event)
    if failure := event.get("log_failure"):
        text += f"\n{failure.getTraceback()}"
    return text if len(text) <= _TEXT_LENGTH else text[:_TEXT_LENGTH] + _CUT
