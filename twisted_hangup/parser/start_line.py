"""The exact reader's states from the first byte of a message to its header.

RFC 9112, sections 2.2, 2.3, 3 and 4.  Codes, reasons and offsets are llhttp's.  We refuse more than
llhttp where RFC 9112 does: in a request line, at the end of the target or of the version; in a
status line, other versions and protocols, and control bytes in the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from ..events import Part, RequestHead, ResponseHead
from . import fields, grammar, head_end, target
from . import refusals as why
from .grammar import CR, LF, SP
from .refusals import Why, after_byte, at_byte, current_line
from .scan import Head, Methods, RequestScan, RequestState, ResponseScan, Scan

_SLASH: Final = ord("/")
_DIGITS: Final = b"0123456789"

#: For each byte of a version: what it may be, and why another is refused (section 2.3).
_VERSION_BYTES: Final = (
    (_DIGITS, why.MAJOR_VERSION),
    (b".", why.VERSION_DOT),
    (_DIGITS, why.MINOR_VERSION),
)

#: The versions that llhttp accepts, and ours (RFC 9110, section 2.5).
_KNOWN_VERSIONS: Final = frozenset({b"0.9", b"1.0", b"1.1", b"2.0"})
_SUPPORTED_VERSIONS: Final = frozenset({b"1.0", b"1.1"})

# --- for both kinds ---------------------------------------------------------------------


def _skip_line_ends(scan: Scan[Head], data: bytes, at: int, too_many: Why) -> int:
    """Skip CR and LF before the start line (section 2.2); at any other byte the line begins."""
    run = grammar.LINE_ENDS.match(data, at)
    if run is None:
        scan.line_at = at
        scan.part = scan.START
        scan.count = 0
        return at
    end = run.end()
    last = min(end, at + 2 * scan.limits.leading_crlf - scan.count)
    newline = data.rfind(b"\n", at, last)
    if newline >= 0:
        scan.line_at = newline + 1
    if last < end:
        raise at_byte(too_many, last)
    scan.count += end - at
    return end


def _expect(scan: Scan[Head], word: bytes, otherwise: Why, data: bytes, at: int) -> int:
    """Take the bytes of *word*, of which ``scan.step`` have come before."""
    while at < len(data) and scan.step < len(word):
        if data[at] != word[scan.step]:
            raise at_byte(otherwise, at)
        scan.step += 1
        at += 1
    return at


def _expect_version(scan: Scan[Head], data: bytes, at: int) -> tuple[int, bytes | None]:
    """The same for a version; returns the version once it is complete."""
    while at < len(data) and scan.step < len(_VERSION_BYTES):
        allowed, otherwise = _VERSION_BYTES[scan.step]
        if data[at] not in allowed:
            raise at_byte(otherwise, at)
        scan.step += 1
        at += 1
    complete = scan.step == len(_VERSION_BYTES)
    return at, scan.line(data, at)[-len(_VERSION_BYTES) :] if complete else None


# --- the request line (section 3) -------------------------------------------------------

#: What follows the version after PRI (RFC 9113, section 3.4).
_HTTP2_PREFACE: Final = b"\r\n\r\nSM\r\n\r\n"


def begin_after(scan: RequestScan, line: re.Match[bytes], head: RequestHead) -> None:
    """Let *scan* go on after *line*, a `COMMON_REQUEST_LINE`, as if it had read the line itself.

    Args:
        scan: A new one.
        line: It has a known method, and a target below ``Limits.head_bytes``.
        head: Its method, target and version.
    """
    scan.head = head
    scan.spent = len(head.target)
    if head.version:
        _end_request_line(scan, line.group()[:-2], line.end())
    else:
        scan.line_at = line.start()
        scan.part = Part.REQUEST_LINE
        scan.state = _after_target


def before_request(scan: RequestScan, data: bytes, at: int) -> int:
    """The first state of a request."""
    end = _skip_line_ends(scan, data, at, why.EMPTY_LINES)
    if end == at:
        scan.state = _method
    return end


def _method(scan: RequestScan, data: bytes, at: int) -> int:
    starts = scan.methods.starts
    method = scan.line(data, at)
    while at < len(data):
        longer = method + data[at : at + 1]
        if longer not in starts:
            if method not in scan.methods.known:
                raise at_byte(why.INVALID_METHOD, at)
            scan.word = method
            scan.state = _after_method
            break
        method = longer
        at += 1
    return at


def _after_method(scan: RequestScan, data: bytes, at: int) -> int:
    if data[at] != SP:
        raise at_byte(why.NO_SPACE_AFTER_METHOD, at)
    scan.state = _before_target
    return at + 1


def _before_target(scan: RequestScan, data: bytes, at: int) -> int:
    if data[at] == SP:
        return _superfluous_spaces(scan, data, at)
    scan.target_at = scan.column(at)
    scan.target_part = target.AUTHORITY if scan.word == b"CONNECT" else target.START
    scan.state = _in_target
    return at


def _superfluous_spaces(scan: RequestScan, data: bytes, at: int) -> int:
    """Spaces after the one that is allowed; they count, or nothing would limit them."""
    run = grammar.SPACES.match(data, at)
    assert run is not None
    scan.spend(at, run.end())
    scan.spaces = True
    return run.end()


def _in_target(scan: RequestScan, data: bytes, at: int) -> int:
    part = scan.target_part
    if part.run is not None and (run := part.run.match(data, at)):
        scan.spend(at, run.end())
        at = run.end()
        if at == len(data):
            return at
    byte = data[at]
    following = part.follows.get(byte)
    if following is not None:
        scan.spend(at, at + 1)
        scan.target_part = following
        return at + 1
    if byte in part.swallowed:
        raise after_byte(part.swallowed[byte], at)
    if not part.may_end or byte not in (SP, CR, LF):
        raise at_byte(part.otherwise, at)
    scan.head = RequestHead(scan.word, scan.line(data, at)[scan.target_at :])
    scan.state = _AFTER_TARGET[byte]
    return at + 1 if byte != LF else at


def _after_target_cr(scan: RequestScan, data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.URL_CRLF, at)
    return _after_target_lf(scan, data, at)


def _after_target_lf(scan: RequestScan, data: bytes, at: int) -> int:
    raise after_byte(why.HTTP_0_9, at)


def _after_target(scan: RequestScan, data: bytes, at: int) -> int:
    # The first byte after the space is still a part of llhttp's URL.
    if data[at] in b"\t\f":
        raise after_byte(why.URL_CHARACTERS, at)
    scan.state = _before_protocol
    return at


def _before_protocol(scan: RequestScan, data: bytes, at: int) -> int:
    if data[at] == SP:
        return _superfluous_spaces(scan, data, at)
    if data[at] not in _PROTOCOLS:
        raise at_byte(why.NO_PROTOCOL, at)
    scan.word = _PROTOCOLS[data[at]].name
    scan.step = 0
    scan.state = _protocol
    return at


def _protocol(scan: RequestScan, data: bytes, at: int) -> int:
    at = _expect(scan, scan.word, why.NO_PROTOCOL, data, at)
    if scan.step == len(scan.word):
        protocol = _PROTOCOLS[scan.word[0]]
        assert scan.head is not None
        if scan.head.method not in protocol.methods(scan.methods):
            raise after_byte(protocol.unsuitable, at - 1)
        scan.state = _slash
    return at


def _slash(scan: RequestScan, data: bytes, at: int) -> int:
    if data[at] != _SLASH:
        raise at_byte(why.NO_PROTOCOL, at)
    scan.step = 0
    scan.state = _version
    return at + 1


def _version(scan: RequestScan, data: bytes, at: int) -> int:
    at, version = _expect_version(scan, data, at)
    if version is None:
        return at
    if version not in _KNOWN_VERSIONS:
        raise after_byte(why.UNKNOWN_VERSION, at - 1)
    assert scan.head is not None
    scan.head.version = version
    if scan.head.method == Methods.HTTP2:
        scan.step = 0
        scan.state = _http2_preface
    else:
        _refuse_what_llhttp_accepts(scan, scan.head, at)
        scan.state = _after_version
    return at


def _refuse_what_llhttp_accepts(scan: RequestScan, head: RequestHead, end: int) -> None:
    """Judge the line up to index *end* by RFC 9112, section 3, where llhttp accepts more."""
    if head.version not in _SUPPORTED_VERSIONS:
        raise after_byte(why.UNKNOWN_VERSION, end - 1)
    if scan.word != b"HTTP":
        raise current_line(why.NOT_HTTP, end)
    if scan.spaces:
        raise current_line(why.MANY_SPACES, end)
    fault = target.refused_form(head.method, head.target)
    if fault is not None:
        raise current_line(fault, end)


def _http2_preface(scan: RequestScan, data: bytes, at: int) -> int:
    at = _expect(scan, _HTTP2_PREFACE, why.HTTP2_PREFACE, data, at)
    if scan.step == len(_HTTP2_PREFACE):
        raise after_byte(why.HTTP2, at - 1)
    return at


def _after_version(scan: RequestScan, data: bytes, at: int) -> int:
    if data[at] == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.VERSION_CRLF, at)
        return _after_version_cr(scan, data, at)
    if data[at] != CR:
        raise at_byte(why.VERSION_CRLF, at)
    scan.state = _after_version_cr
    return at + 1


def _after_version_cr(scan: RequestScan, data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.VERSION_LF, at)
    _end_request_line(scan, scan.line(data, at).removesuffix(b"\r"), at + 1)
    return at + 1


def _end_request_line(scan: RequestScan, line: bytes, end: int) -> None:
    """Take *line*, which ends at index *end*."""
    scan.end_of_fields = head_end.end_of_request_head
    fields.begin(scan, line, end)


class _Protocol(NamedTuple):
    """A protocol that llhttp knows, the methods that it allows, and the refusal of others."""

    name: bytes
    methods: Callable[[Methods], Container[bytes]]
    unsuitable: Why


#: By their first byte.
_PROTOCOLS: Final = {
    protocol.name[0]: protocol
    for protocol in (
        _Protocol(b"HTTP", lambda methods: methods.http, why.NOT_AN_HTTP_METHOD),
        _Protocol(b"RTSP", lambda methods: methods.RTSP, why.NOT_AN_RTSP_METHOD),
        _Protocol(b"ICE", lambda methods: methods.ICE, why.NOT_AN_ICE_METHOD),
    )
}

_AFTER_TARGET: Final[dict[int, RequestState]] = {
    SP: _after_target,
    CR: _after_target_cr,
    LF: _after_target_lf,
}

# --- the status line (section 4) --------------------------------------------------------

#: What a response may start with in llhttp, by the first byte.
_STARTS: Final = {start[0]: start for start in (b"HTTP/", b"RTSP/", b"ICE/")}

_STATUS_DIGITS: Final = 3
_LOWEST_STATUS: Final = 100
_VERSION_AT: Final = slice(len(b"HTTP/"), len(b"HTTP/1.1"))
_REASON_AT: Final = len(b"HTTP/1.1 200 ")


def before_response(scan: ResponseScan, data: bytes, at: int) -> int:
    """The first state of a response."""
    end = _skip_line_ends(scan, data, at, why.EMPTY_LINES_BEFORE_STATUS)
    if end == at:
        scan.state = _first_byte
    return end


def _first_byte(scan: ResponseScan, data: bytes, at: int) -> int:
    if data[at] not in _STARTS:
        raise at_byte(why.NO_PROTOCOL, at)
    scan.word = _STARTS[data[at]]
    scan.state = _start
    return at


def _start(scan: ResponseScan, data: bytes, at: int) -> int:
    at = _expect(scan, scan.word, why.NO_PROTOCOL, data, at)
    if scan.step == len(scan.word):
        scan.step = 0
        scan.state = _response_version
    return at


def _response_version(scan: ResponseScan, data: bytes, at: int) -> int:
    at, version = _expect_version(scan, data, at)
    if version is not None:
        if version not in _SUPPORTED_VERSIONS:
            raise after_byte(why.UNKNOWN_VERSION, at - 1)
        if scan.word != b"HTTP/":
            raise current_line(why.NOT_HTTP, at)
        scan.state = _before_status
    return at


def _before_status(scan: ResponseScan, data: bytes, at: int) -> int:
    if data[at] != SP:
        raise at_byte(why.SPACE_AFTER_VERSION, at)
    scan.step = 0
    scan.state = _status
    return at + 1


def _status(scan: ResponseScan, data: bytes, at: int) -> int:
    if data[at] not in _DIGITS:
        raise at_byte(why.STATUS_CODE, at)
    scan.step += 1
    if scan.step == _STATUS_DIGITS:
        line = scan.line(data, at + 1)
        status = int(line[-_STATUS_DIGITS:])
        if status < _LOWEST_STATUS:
            raise after_byte(why.STATUS_BELOW_100, at)
        scan.head = ResponseHead(status, version=line[_VERSION_AT])
        scan.state = _after_status
    return at + 1


def _after_status(scan: ResponseScan, data: bytes, at: int) -> int:
    byte = data[at]
    if byte == SP:
        scan.state = _reason
    elif byte == CR:
        scan.state = _after_status_line_cr
    elif byte == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.AFTER_STATUS, at)
        return _after_status_line_cr(scan, data, at)
    else:
        raise at_byte(why.AFTER_STATUS, at)
    return at + 1


def _reason(scan: ResponseScan, data: bytes, at: int) -> int:
    run = grammar.FIELD_VALUE.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        at = run.end()
        if at == len(data):
            return at
    if data[at] == CR:
        scan.state = _after_status_line_cr
        return at + 1
    if data[at] == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.STATUS_LINE_CR, at)
        return _after_status_line_cr(scan, data, at)
    raise at_byte(why.REASON_CHAR, at)


def _after_status_line_cr(scan: ResponseScan, data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.LF_AFTER_CR, at)
    assert scan.head is not None
    line = scan.line(data, at).removesuffix(b"\r")
    scan.head.reason = line[_REASON_AT:]
    scan.end_of_fields = head_end.end_of_response_head
    fields.begin(scan, line, at + 1)
    return at + 1
