"""One line per request, for refused requests as well, in the combined log format or another.

The combined format is Apache's: host, time, request line, status, bytes of the body, referrer and
user agent.  Status 499 is nginx's for a client that left before its response was finished.
Every byte outside 0x20-0x7e is escaped, and so are quotes and backslashes.

The target of an answered request is written in full, as in every access log.  Of a refused
one userinfo and query are hidden, because its bytes are not what they seem by definition.
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
    """Writes the lines."""

    def __init__(
        self,
        file: LogFile,
        *,
        line_of: Format | None = None,
        log_idle: bool = False,
        policy: MaskingPolicy = DEFAULT_POLICY,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """*file* gets the lines, and is its owner's to close.

        Args:
            line_of: What a line is; by default that of the combined format.
            log_idle: What is nobody's fault (`RecordedError.quiet`) has a line as well.

        Raises:
            TypeError: An argument is of the wrong type.
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
        """Write the line of a request that was answered, whose client left, or was cut off."""
        if self._line_of is None:
            self._write(access_line(self._now(), request))
        else:
            self._write(self._line_of(_answered(self._seconds(), request, self._policy)))

    def refused(self, error: ClientError, sent: int | None) -> None:
        """Write the line of a request that *error* ended before anybody saw it.

        Args:
            sent: Status code of the answer; None where none was sent.

        Nothing is written where no request was begun, or where the request is one whose
        response had been asked for: that is logged by `request`.
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
        sent: Status code of the answer; where none was sent, the line has nginx's 499 for
            a client that left, and its 444 for a connection closed without a response.

    Returns:
        The line without its line end; None where no request was refused, unless *log_idle* asks
        for what is nobody's fault as well.
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
        # What broke off is no target, and may be as long as a limit.
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
    """*get*, the value of a field by its name, but for values that are secret."""

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
    """*data* as it may stand between quotes."""
    if not _UNSAFE.search(data):
        return data.decode("ascii")
    return quotable(visible(data))
