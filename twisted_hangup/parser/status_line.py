"""The states of the exact reader from the first byte of a response to its field section.

RFC 9112, section 4.  Codes, reasons and offsets are llhttp's; what it is content with and
the RFC is not, we refuse: other versions and protocols, and control bytes in the reason.
"""

from __future__ import annotations

from typing import Final

from ..events import Part, ResponseHead
from . import fields, grammar, response_head
from . import refusals as why
from .grammar import CR, LF, SP
from .refusals import after_byte, at_byte, current_line
from .response_scan import ResponseScan
from .scan import Scan

_DOT: Final = ord(".")
_DIGITS: Final = b"0123456789"
_STATUS_DIGITS: Final = 3
_LOWEST_STATUS: Final = 100
_REASON_AT: Final = len(b"HTTP/1.1 200 ")

#: What a response may start with in llhttp, by the first byte.
_PROTOCOLS: Final = {ord("H"): b"HTTP/", ord("R"): b"RTSP/", ord("I"): b"ICE/"}

#: llhttp lets 0.9 and 2.0 pass, too (RFC 9110, section 2.5).
_SUPPORTED_VERSIONS: Final = frozenset({b"1.0", b"1.1"})


def empty_lines(scan: Scan, data: bytes, at: int) -> int:
    """CR and LF before the status line, which llhttp skips."""
    run = grammar.LINE_ENDS.match(data, at)
    if run is None:
        scan.line_at = at
        scan.part = Part.STATUS_LINE
        scan.count = 0
        scan.state = _first_byte
        return at
    end = run.end()
    allowed = 2 * scan.limits.leading_crlf - scan.count
    if end - at > allowed:
        scan.line_at = at + allowed
        raise at_byte(why.EMPTY_LINES_BEFORE_STATUS, at + allowed)
    scan.count += end - at
    scan.line_at = end
    return end


def _first_byte(scan: Scan, data: bytes, at: int) -> int:
    if data[at] not in _PROTOCOLS:
        raise at_byte(why.NO_PROTOCOL, at)
    scan.word = _PROTOCOLS[data[at]]
    scan.state = _protocol
    return at


def _protocol(scan: Scan, data: bytes, at: int) -> int:
    while at < len(data) and scan.step < len(scan.word):
        if data[at] != scan.word[scan.step]:
            raise at_byte(why.NO_PROTOCOL, at)
        scan.step += 1
        at += 1
    if scan.step == len(scan.word):
        scan.state = _major
    return at


def _major(scan: Scan, data: bytes, at: int) -> int:
    if data[at] not in _DIGITS:
        raise at_byte(why.MAJOR_VERSION, at)
    scan.state = _dot
    return at + 1


def _dot(scan: Scan, data: bytes, at: int) -> int:
    if data[at] != _DOT:
        raise at_byte(why.VERSION_DOT, at)
    scan.state = _minor
    return at + 1


def _minor(scan: Scan, data: bytes, at: int) -> int:
    if data[at] not in _DIGITS:
        raise at_byte(why.MINOR_VERSION, at)
    version = scan.line(data, at + 1)[-3:]
    if version not in _SUPPORTED_VERSIONS:
        raise after_byte(why.UNKNOWN_VERSION, at)
    if scan.word != b"HTTP/":
        raise current_line(why.NOT_HTTP, at + 1)
    scan.state = _behind_version
    return at + 1


def _behind_version(scan: Scan, data: bytes, at: int) -> int:
    if data[at] != SP:
        raise at_byte(why.SPACE_AFTER_VERSION, at)
    scan.step = 0
    scan.state = _status
    return at + 1


def _status(scan: Scan, data: bytes, at: int) -> int:
    assert isinstance(scan, ResponseScan)
    if data[at] not in _DIGITS:
        raise at_byte(why.STATUS_CODE, at)
    scan.step += 1
    if scan.step == _STATUS_DIGITS:
        line = scan.line(data, at + 1)
        status = int(line[-_STATUS_DIGITS:])
        if status < _LOWEST_STATUS:
            raise after_byte(why.STATUS_BELOW_100, at)
        scan.head = ResponseHead(status, version=line[5:8])
        scan.state = _behind_status
    return at + 1


def _behind_status(scan: Scan, data: bytes, at: int) -> int:
    byte = data[at]
    if byte == SP:
        scan.state = _reason
    elif byte == CR:
        scan.state = _behind_cr
    elif byte == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.AFTER_STATUS, at)
        return _behind_cr(scan, data, at)
    else:
        raise at_byte(why.AFTER_STATUS, at)
    return at + 1


def _reason(scan: Scan, data: bytes, at: int) -> int:
    run = grammar.FIELD_VALUE.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        at = run.end()
        if at == len(data):
            return at
    if data[at] == CR:
        scan.state = _behind_cr
        return at + 1
    if data[at] == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.STATUS_LINE_CR, at)
        return _behind_cr(scan, data, at)
    raise at_byte(why.REASON_CHAR, at)


def _behind_cr(scan: Scan, data: bytes, at: int) -> int:
    assert isinstance(scan, ResponseScan)
    if data[at] != LF:
        raise at_byte(why.LF_AFTER_CR, at)
    line = scan.line(data, at).removesuffix(b"\r")
    assert scan.head is not None
    scan.head.reason = line[_REASON_AT:]
    scan.request_line = line
    scan.line_at = at + 1
    scan.part = Part.FIELD
    scan.end_of_fields = response_head.end_of_head
    scan.state = fields.behind_request_line
    return at + 1
