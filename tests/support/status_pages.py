"""A site whose clients err, the status page that shows it, and who asks there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted_hangup.report.masking import MaskingPolicy
from twisted_hangup.status import StatusSite

from .wire import BAD, Paths, Served, talk

Serve = Callable[..., Served]


class Answer(NamedTuple):
    """A response, as a client reads it."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Pair:
    """A site whose clients err, and the status page that shows it."""

    def __init__(self, serve: Serve, **arguments: Any) -> None:
        from twisted.internet import reactor

        masking = arguments.pop("masking", MaskingPolicy())
        clock = arguments.pop("clock", reactor)
        self.shown = serve(Paths(), masking=masking)
        self.site = StatusSite(self.shown.site, clock, **arguments)
        self.status = serve(self.site)

    async def break_something(self, wire: bytes = BAD) -> None:
        """Let a client err, and leave; all is told when it has."""
        await talk(self.shown.port, wire)
        await self.shown.emptied()

    async def ask(
        self, path: str = "", *fields: str, method: str = "GET", host: str = "localhost"
    ) -> Answer:
        return await ask(self.status.port, path, *fields, method=method, host=host)


async def ask(
    port: int | str,
    path: str = "",
    *fields: str,
    method: str = "GET",
    host: str | None = "localhost",
    body: str = "",
) -> Answer:
    version = "1.0" if host is None else "1.1"
    named = () if host is None else (f"Host: {host}",)
    lines = [f"{method} /{path} HTTP/{version}", *named, "Connection: close", *fields]
    if body:
        lines += [
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
        ]
    head, _, rest = (await talk(port, "\r\n".join([*lines, "", body]).encode("latin-1"))).partition(
        b"\r\n\r\n"
    )
    status, *rows = head.decode().split("\r\n")
    answered = dict(row.split(": ", 1) for row in rows)
    return Answer(int(status.split()[1]), answered, rest)
