# pyright: strict, reportArgumentType=true, reportUnknownMemberType=false
"""A program of somebody who checks types: mypy --strict and pyright have nothing to say of it.

It needs neither casts nor the plugin for zope.interface.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.web.iweb import IRequest

from twisted_hangup import (
    AsyncResource,
    ClientFailure,
    ClientSocket,
    Handler,
    HangupAgent,
    HangupChannel,
    HangupSite,
    HeaderOverflow,
    Limits,
    Outbox,
    RetryAgent,
    RetryPolicy,
    Timeouts,
    cancellable,
    hangup_endpoint,
    shield,
)
from twisted_hangup.service.workers import Worker, Workers


class Report(AsyncResource):
    @cancellable
    async def render_GET(self, request: IRequest) -> bytes:
        number: int = await shield(self.place())
        return b"%d" % number

    @cancellable
    def render_POST(self, request: IRequest) -> Deferred[bytes]:
        return Deferred()

    async def place(self) -> int:
        return 1


class MyChannel(HangupChannel):
    def client_error(self, failure: ClientFailure, socket: ClientSocket) -> Any:
        if failure.value.code == "HPE_INVALID_METHOD":
            socket.destroy()
            return None
        return super().client_error(failure, socket)


site = HangupSite(
    Report(), limits=Limits(body_bytes=1), timeouts=Timeouts(head_seconds=5), channel=MyChannel
)


@site.on_client_error
def note(failure: ClientFailure, socket: ClientSocket) -> ClientFailure:
    print(failure.value.code, failure.value.report())
    return failure


@site.on_client_error
async def too_large(failure: ClientFailure, socket: ClientSocket) -> None:
    failure.trap(HeaderOverflow)
    socket.respond(failure.value.status or 431, b"Too large\n")


async def page(request: IRequest) -> bytes:
    return await Report().render_GET(request)


def listen(reactor: Any, endpoint: IStreamServerEndpoint) -> None:
    site.on_client_error(handler)
    hangup_endpoint(endpoint).listen(site)
    agent = RetryAgent(HangupAgent.from_reactor(reactor), RetryPolicy(methods={"GET"}))
    Outbox("outbox.db", agent=agent)


handler: Handler = note


def make(worker: Worker) -> object:
    """What a worker runs."""
    worker.channel.send(16, b"begun")
    return worker.serve(HangupSite(Report()))


def begun(number: int, payload: bytes) -> None:
    print(number, payload)


workers = Workers("typed_program.make", ["tcp:8000"], 2, receivers={16: begun})
workers.replace()
