"""The access log: one line per request, refused ones too, in the combined format or another.

The combined format is Apache's: host, time, request line, status, bytes of the body, referrer and
user agent.  Status 499 is nginx's, for a client that left before its response was finished.
Every byte outside 0x20-0x7e is escaped, and so are quotes and backslashes.

It records the full target of every answered request, as every access log does.  For a refused
request it hides userinfo and query, because the bytes of a broken request may be anything.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.web.http import datetimeToLogString

from .._arguments import must_be, must_have
from ..errors import CLIENT_LEFT, NO_RESPONSE, ClientError, ClientHangUp, UnexpectedEOF
from ..report.masking import DEFAULT_POLICY, MaskingPolicy
from ..report.report import request_so_far
from ..report.text import visible
from .access_formats import Exchange, Format, quotable, request_line
from .files import LogFile
from .records import record_text

_UNSAFE: Final = re.compile(rb"[^ !#-\[\]-~]")


class AccessLog:
    """Writes one line per request to a `LogFile`."""

    def __init__(
        self,
        file: LogFile,
        *,
        line_of: Format | None = None,
        log_idle: bool = False,
        policy: MaskingPolicy = DEFAULT_POLICY,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """Write to *file*, which you close yourself.

        Args:
            line_of: Makes a line of another format; by default the combined one.
            log_idle: Also write errors with `RecordedError.quiet`, such as probes.

        Raises:
            TypeError: An argument has the wrong type.
        """
        must_be("file", file, LogFile, "LogFile(path, 'access log')")
        if line_of is not None:
            cure = f"access_format({line_of!r})" if isinstance(line_of, str) else ""
            must_have("line_of", line_of, "a format", ("__call__",), cure)
        must_be("policy", policy, MaskingPolicy, "MaskingPolicy(extra_fields=...)")
        self._file = file
        self._line_of = line_of
        self._log_idle = log_idle
        self._policy = policy
        self._seconds = seconds
        self._second = -1
        self._timestamp = ""

    def request(self, request: Any) -> None:
        """Write the line of a request that was answered or cut off, or whose client left."""
        if self._line_of is None:
            self._write(access_line(self._now(), request))
        else:
            self._write(self._line_of(_answered(self._seconds(), request, self._policy)))

    def refused(self, error: ClientError, sent: int | None) -> None:
        """Write the line of a request that *error* ended before the application saw it.

        Args:
            sent: Status code of the answer; None if none was sent.

        It writes nothing if no request had begun, or if the application had the request: `request`
        writes that one.
        """
        exchange = _refused(self._seconds(), error, sent, self._policy, log_idle=self._log_idle)
        if exchange is not None:
            line_of = self._line_of
            self._write(line_of(exchange) if line_of else _combined(self._now(), exchange))

    def _now(self) -> str:
        second = int(self._seconds())
        if second != self._second:
            self._second = second
            self._timestamp = datetimeToLogString(second)
        return self._timestamp

    def _write(self, line: str) -> None:
        self._file.write(line.encode("utf-8") + b"\n")


def access_line(timestamp: str, request: Any) -> str:
    """The line for a finished `twisted.web.http.Request`, without its line end."""
    return _line(
        request.getClientAddress(),
        timestamp,
        f"{_quoted(request.method)} {_quoted(request.uri)} {_quoted(request.clientproto)}",
        request.code,
        request.sentLength or "-",
        request.getHeader(b"referer"),
        request.getHeader(b"user-agent"),
    )


def refused_line(
    timestamp: str,
    error: ClientError,
    sent: int | None,
    policy: MaskingPolicy = DEFAULT_POLICY,
    *,
    log_idle: bool = False,
) -> str | None:
    """The line for a request that went wrong before it was complete.

    Args:
        sent: Status code of the answer.  If none was sent, the line has nginx's 499 for a client
            that left, and its 444 for a connection closed without a response.

    Returns:
        The line without its line end.  None if no request was refused; with *log_idle*, errors with
        `RecordedError.quiet` have a line as well.
    """
    exchange = _refused(0, error, sent, policy, log_idle=log_idle)
    return None if exchange is None else _combined(timestamp, exchange)


def _answered(now: float, request: Any, policy: MaskingPolicy) -> Exchange:
    """A finished `twisted.web.http.Request`."""

    def sent_field(name: bytes) -> bytes | None:
        values = request.responseHeaders.getRawHeaders(name)
        return b", ".join(values) if values else None

    begun_at = getattr(request, "begun_at", None)
    return Exchange(
        now,
        request.getClientAddress(),
        visible(request.method),
        visible(request.uri),
        visible(request.clientproto),
        request.code,
        request.sentLength,
        None if begun_at is None else time.monotonic() - begun_at,
        None,
        _masked(request.getHeader, policy),
        _masked(sent_field, policy),
    )


def _refused(
    now: float, error: ClientError, sent: int | None, policy: MaskingPolicy, *, log_idle: bool
) -> Exchange | None:
    """A request that *error* ended; see `refused_line`."""
    if not (error.refuses or (log_idle and error.quiet)):
        return None
    left = isinstance(error, ClientHangUp | UnexpectedEOF)
    method = target = protocol = None
    fields: dict[bytes, bytes] = {}
    if (head := request_so_far(error, policy)) is not None:
        fields = {name.lower(): value for name, value in reversed(head.fields)}
        method = visible(head.method)
        # The part that broke off is no target, and may be as long as a limit.
        target = visible(head.target) if error.request else record_text(head.target)
        protocol = f"HTTP/{visible(head.version)}" if head.version else None
    return Exchange(
        now,
        error.peer,
        method,
        target or None,
        protocol,
        sent or (CLIENT_LEFT if left else NO_RESPONSE),
        error.answered_bytes or None,
        None,
        error.code,
        _masked(fields.get, policy),
        lambda name: None,
    )


def _masked(
    get: Callable[[bytes], bytes | None], policy: MaskingPolicy
) -> Callable[[bytes], bytes | None]:
    """*get*, which returns a header by its name, with secret values masked."""

    def masked(name: bytes) -> bytes | None:
        value = get(name)
        secret = value and not policy.unmasked and policy.is_secret(name)
        return b"*" * len(value or b"") if secret else value

    return masked


def _combined(timestamp: str, exchange: Exchange) -> str:
    return _line(
        exchange.peer,
        timestamp,
        quotable(request_line(exchange) or "-"),
        exchange.status,
        exchange.length or "-",
        exchange.request_field(b"referer"),
        exchange.request_field(b"user-agent"),
    )


def _line(
    peer: object,
    timestamp: str,
    request_line: str,
    status: int,
    length: int | str,
    referrer: bytes | None,
    agent: bytes | None,
) -> str:
    host = getattr(peer, "host", None) or "-"
    return (
        f'{host} - - {timestamp} "{request_line}" {status} {length} '
        f'"{_quoted(referrer or b"-")}" "{_quoted(agent or b"-")}"'
    )


def _quoted(data: bytes) -> str:
    """*data*, escaped for quotes around it."""
    if not _UNSAFE.search(data):
        return data.decode("ascii")
    return quotable(visible(data))
