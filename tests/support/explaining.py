"""Errors and lines of the error log, as ``explain`` is given them."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from twisted_hangup.errors import ClientHangUp, ParseError, UpstreamError
from twisted_hangup.events import NEED_DATA
from twisted_hangup.journal.error_log import ErrorLog
from twisted_hangup.parser import RequestParser


def log_lines(*errors: ParseError | ClientHangUp | UpstreamError, per_second: int = 0) -> bytes:
    """The error log of *errors*."""
    file = io.BytesIO()
    log = ErrorLog(cast(BinaryIO, file), Clock(), per_second=per_second, now=lambda: 1e9)
    for error in errors:
        log(error)
    log.close()
    return file.getvalue()


def broken_by(wire: bytes) -> ParseError | None:
    """The error that *wire* ends in."""
    parser = RequestParser()
    parser.receive(wire)
    try:
        while parser.next_event() is not NEED_DATA:
            pass
    except ParseError as error:
        return error
    return None


def broken(wire: bytes) -> ParseError:
    error = broken_by(wire)
    assert error is not None
    error.peer = IPv4Address("TCP", "192.0.2.7", 51410)
    return error
