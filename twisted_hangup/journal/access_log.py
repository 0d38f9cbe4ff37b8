"""One line per request in the combined log format, for refused requests as well.

The format is Apache's: host, time, request line, status, bytes of the body, referrer and
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

from ..errors import CLIENT_LEFT, NO_RESPONSE, ClientError, ClientHangUp
from ..report.masking import DEFAULT_POLICY, MaskingPolicy
from ..report.report import request_so_far
from ..report.text import visible
from .files import LogFile
from .records import record_text

_UNSAFE: Final = re.compile(rb"[^ !#-\[\]-~]")


class AccessLog:
    """Writes the lines."""

    def __init__(
        self,
        file: LogFile,
        *,
        log_idle: bool = False,
        policy: MaskingPolicy = DEFAULT_POLICY,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """*file* gets the lines, and is its owner's to close.

        With *log_idle* what is nobody's fault (`RecordedError.quiet`) has a line as well.
        """
        self._file = file
        self._log_idle = log_idle
        self._policy = policy
        self._seconds = seconds
        self._second = -1
        self._timestamp = ""

    def request(self, request: Any) -> None:
        """Write the line of a request that was answered, whose client left, or was cut off."""
        self._write(access_line(self._now(), request))

    def refused(self, error: ClientError, sent: int | None) -> None:
        """Write the line of a request that *error* ended before anybody saw it.

        Args:
            sent: Status code of the answer; None where none was sent.

        Nothing is written where no request was begun, or where the request is one whose
        response had been asked for: that is logged by `request`.
        """
        line = refused_line(self._now(), error, sent, self._policy, log_idle=self._log_idle)
        if line is not None:
            self._write(line)

    def _now(self) -> str:
        second = int(self._seconds())
        if second != self._second:
            self._second = second
            self._timestamp = datetimeToLogString(second)
        return self._timestamp

    def _write(self, line: str) -> None:
        self._file.write(line.encode("ascii") + b"\n")


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
    if not (error.refuses or (log_idle and error.quiet)):
        return None
    status = CLIENT_LEFT if isinstance(error, ClientHangUp) else sent or NO_RESPONSE
    head = request_so_far(error, policy)
    if head is None:
        return _line(error.peer, timestamp, "-", status, "-", None, None)
    fields = {name.lower(): value for name, value in reversed(head.fields)}
    # What broke off is no target, and may be as long as a limit.
    target = _quoted(head.target) if error.request else _safe(record_text(head.target)) or "-"
    protocol = f" HTTP/{_quoted(head.version)}" if head.version else ""
    return _line(
        error.peer,
        timestamp,
        f"{_quoted(head.method)} {target}{protocol}",
        status,
        "-",
        fields.get(b"referer"),
        fields.get(b"user-agent"),
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
    return _safe(visible(data))


def _safe(text: str) -> str:
    """Printable *text* without the quotes around it."""
    return text.replace('"', r"\x22")
