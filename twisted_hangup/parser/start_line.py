"""The states of the exact reader from the first byte of a message to its field section.

RFC 9112, sections 2.2 and 3.  Codes, reasons and offsets are llhttp's; where it is content
with what RFC 9112 does not allow, we refuse at the end of the target or version, once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from ..events import Part, RequestHead
from . import fields, grammar, head_end, target
from . import refusals as why
from .grammar import CR, LF, SP
from .refusals import Why, after_byte, at_byte, current_line
from .scan import Methods, Scan, State
from .target import TargetPart

_DOT: Final = ord(".")
_SLASH: Final = ord("/")
_DIGITS: Final = b"0123456789"

#: Those that llhttp lets pass, and ours (RFC 9110, section 2.5).
_KNOWN_VERSIONS: Final = frozenset({b"0.9", b"1.0", b"1.1", b"2.0"})
_SUPPORTED_VERSIONS: Final = frozenset({b"1.0", b"1.1"})

#: What has to follow the version after PRI (RFC 9113, section 3.4).
_HTTP2_PREFACE: Final = b"\r\n\r\nSM\r\n\r\n"


def begin_behind(scan: Scan, line: re.Match[bytes], head: RequestHead) -> None:
    """Let *scan* go on behind *line*, a `COMMON_REQUEST_LINE`, as if it had read it itself.

    Args:
        scan: A new one.
        line: With a method that is known, and a target below ``Limits.head_bytes``.
        head: Its method, target and version.
    """
    scan.head = head
    scan.spent = len(head.target)
    if head.version:
        _end_line(scan, line.group()[:-2], line.end())
    else:
        scan.line_at = line.start()
        scan.part = Part.REQUEST_LINE
        scan.state = _behind_target


def empty_lines(scan: Scan, data: bytes, at: int) -> int:
    """CR and LF before the request line, which a server should skip (section 2.2)."""
    run = grammar.LINE_ENDS.match(data, at)
    if run is None:
        scan.line_at = at
        scan.part = Part.REQUEST_LINE
        scan.count = 0
        scan.state = _method
        return at
    end = run.end()
    allowed = 2 * scan.limits.leading_crlf - scan.count
    last = at + allowed if end - at > allowed else end
    newline = data.rfind(b"\n", at, last)
    if newline >= 0:
        scan.line_at = newline + 1
    if last < end:
        raise at_byte(why.EMPTY_LINES, last)
    scan.count += end - at
    return end


def _method(scan: Scan, data: bytes, at: int) -> int:
    starts = scan.methods.starts
    method = scan.line(data, at)
    while at < len(data):
        longer = method + data[at : at + 1]
        if longer not in starts:
            if method not in scan.methods.known:
                raise at_byte(why.INVALID_METHOD, at)
            scan.word = method
            scan.state = _behind_method
            break
        method = longer
        at += 1
    return at


def _behind_method(scan: Scan, data: bytes, at: int) -> int:
    if data[at] != SP:
        raise at_byte(why.NO_SPACE_AFTER_METHOD, at)
    scan.state = _before_target
    return at + 1


def _before_target(scan: Scan, data: bytes, at: int) -> int:
    if data[at] == SP:
        return _superfluous_spaces(scan, data, at)
    scan.mark = scan.column(at)
    scan.target_part = target.AUTHORITY if scan.word == b"CONNECT" else target.START
    scan.state = _in_target
    return at


def _superfluous_spaces(scan: Scan, data: bytes, at: int) -> int:
    """Spaces behind the one that belongs there; they count, or they would cost nothing."""
    run = grammar.SPACES.match(data, at)
    assert run is not None
    scan.spend(at, run.end())
    scan.spaces = True
    return run.end()


def _in_target(scan: Scan, data: bytes, at: int) -> int:
    part = scan.target_part
    assert isinstance(part, TargetPart)
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
    scan.head = RequestHead(scan.word, scan.line(data, at)[scan.mark :])
    scan.state = _AFTER_TARGET[byte]
    return at + 1 if byte != LF else at


def _behind_target_cr(scan: Scan, data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.URL_CRLF, at)
    return _behind_target_lf(scan, data, at)


def _behind_target_lf(scan: Scan, data: bytes, at: int) -> int:
    raise after_byte(why.HTTP_0_9, at)


def _behind_target(scan: Scan, data: bytes, at: int) -> int:
    # The first byte behind the space still belongs to llhttp's URL.
    if data[at] in b"\t\f":
        raise after_byte(why.URL_CHARACTERS, at)
    scan.state = _before_protocol
    return at


def _before_protocol(scan: Scan, data: bytes, at: int) -> int:
    if data[at] == SP:
        return _superfluous_spaces(scan, data, at)
    if data[at] not in _PROTOCOLS:
        raise at_byte(why.NO_PROTOCOL, at)
    scan.word = _PROTOCOLS[data[at]].name
    scan.step = 0
    scan.state = _protocol
    return at


def _protocol(scan: Scan, data: bytes, at: int) -> int:
    at = _expect(scan, scan.word, why.NO_PROTOCOL, data, at)
    if scan.step == len(scan.word):
        protocol = _PROTOCOLS[scan.word[0]]
        assert scan.head is not None
        if scan.head.method not in protocol.methods(scan.methods):
            raise after_byte(protocol.unsuitable, at - 1)
        scan.state = _slash
    return at


def _expect(scan: Scan, word: bytes, otherwise: Why, data: bytes, at: int) -> int:
    """Take what comes of *word*, of which there were already ``scan.step`` bytes."""
    while at < len(data) and scan.step < len(word):
        if data[at] != word[scan.step]:
            raise at_byte(otherwise, at)
        scan.step += 1
        at += 1
    return at


def _slash(scan: Scan, data: bytes, at: int) -> int:
    if data[at] != _SLASH:
        raise at_byte(why.NO_PROTOCOL, at)
    scan.state = _major
    return at + 1


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
    if version not in _KNOWN_VERSIONS:
        raise after_byte(why.UNKNOWN_VERSION, at)
    assert scan.head is not None
    scan.head.version = version
    if scan.head.method == Methods.HTTP2:
        scan.step = 0
        scan.state = _http2_preface
    else:
        _refuse_what_llhttp_accepts(scan, scan.head, at)
        scan.state = _behind_version
    return at + 1


def _refuse_what_llhttp_accepts(scan: Scan, head: RequestHead, at: int) -> None:
    """Hold the whole line against RFC 9112, section 3, where llhttp is content with it."""
    if head.version not in _SUPPORTED_VERSIONS:
        raise after_byte(why.UNKNOWN_VERSION, at)
    if scan.word != b"HTTP":
        raise current_line(why.NOT_HTTP, at + 1)
    if scan.spaces:
        raise current_line(why.MANY_SPACES, at + 1)
    refused = None if head.method == b"CONNECT" else target.refused_form(head.target)
    if refused is not None:
        raise current_line(refused, at + 1)


def _http2_preface(scan: Scan, data: bytes, at: int) -> int:
    at = _expect(scan, _HTTP2_PREFACE, why.HTTP2_PREFACE, data, at)
    if scan.step == len(_HTTP2_PREFACE):
        raise after_byte(why.HTTP2, at - 1)
    return at


def _behind_version(scan: Scan, data: bytes, at: int) -> int:
    if data[at] == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.VERSION_CRLF, at)
        return _behind_version_cr(scan, data, at)
    if data[at] != CR:
        raise at_byte(why.VERSION_CRLF, at)
    scan.state = _behind_version_cr
    return at + 1


def _behind_version_cr(scan: Scan, data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.VERSION_LF, at)
    _end_line(scan, scan.line(data, at).removesuffix(b"\r"), at + 1)
    return at + 1


def _end_line(scan: Scan, line: bytes, end: int) -> None:
    """Take the request line, which ends at index *end*."""
    scan.request_line = line
    scan.line_at = end
    scan.part = Part.FIELD
    scan.end_of_fields = head_end.end_of_head
    scan.state = fields.behind_request_line


class _Protocol(NamedTuple):
    """A protocol llhttp knows, the methods it goes with, and what others are told."""

    name: bytes
    methods: Callable[[Methods], frozenset[bytes]]
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

_AFTER_TARGET: Final[dict[int, State]] = {
    SP: _behind_target,
    CR: _behind_target_cr,
    LF: _behind_target_lf,
}
