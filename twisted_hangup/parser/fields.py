"""The exact reader's states inside a header or trailer section.

RFC 9112, section 5.  The fields that frame a message are judged byte by byte, because llhttp
refuses them at a byte.  `head_end` judges what they mean together.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ..events import Part
from . import grammar
from . import refusals as why
from .framing import CHUNKED, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, connection_flags
from .grammar import CR, LF, SP
from .refusals import after_byte, at_byte, current_line
from .scan import Head, Scan, State

_COLON: Final = ord(":")
_COMMA: Final = ord(",")
_ZERO: Final = ord("0")
_DIGITS: Final = b"0123456789"
_LARGEST: Final = 2**64 - 1
_TOKEN_BYTES: Final = frozenset(
    byte for byte in range(256) if grammar.TOKEN.fullmatch(bytes([byte]))
)

#: llhttp looks for these names; it refuses a space after such a name with another reason than
#: after any other name.
_KNOWN_TO_LLHTTP: Final = frozenset(
    {b"connection", b"content-length", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
#: Fields that frame or route a message.  `Lenience` never applies to their values: a recipient
#: that read one differently would see another message, or another host.
_NEVER_LENIENT: Final = _KNOWN_TO_LLHTTP | {b"host"}


def begin(scan: Scan[Head], line: bytes, end: int) -> None:
    """Read the header next, after *line*, the start line, which ends at index *end*."""
    scan.start_line = line
    scan.line_at = end
    scan.part = Part.FIELD
    scan.state = _after_start_line


def _after_start_line(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] == SP:
        raise after_byte(why.SPACE_BEFORE_FIELDS, at)
    scan.state = line_start
    return line_start(scan, data, at)


def line_start(scan: Scan[Head], data: bytes, at: int) -> int:
    """The first byte of a field line, or of the empty line that ends the section."""
    scan.name = None
    byte = data[at]
    if byte == CR:
        scan.state = _after_last_cr
        return at + 1
    if byte == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.FIELD_CHAR, at)
        return _after_last_cr(scan, data, at)
    if byte not in _TOKEN_BYTES:
        raise at_byte(why.FIELD_TOKEN, at)
    scan.count += 1
    if 0 < scan.limits.head_fields < scan.count:
        raise at_byte(why.HEADER_OVERFLOW, at)
    line = grammar.FIELD_LINE.match(data, at)
    if line is not None and _take_line(scan, line):
        return line.end()
    scan.state = _name
    return at


def _take_line(scan: Scan[Head], line: re.Match[bytes]) -> bool:
    """Take *line* in one step, unless one of its bytes might have to be refused."""
    name, rest = line.groups()
    word = name.lower()
    # Count as the states do: one byte of the white space before a value is free.
    cost = len(name) + len(rest) - rest.startswith((b" ", b"\t"))
    value = rest.strip(b" \t")
    if scan.spent + cost >= scan.limits.head_bytes:
        return False
    if word in _VALUES:
        # Only a length that nothing contradicts; the states read the others.
        if (
            word != b"content-length"
            or scan.flags & (CONTENT_LENGTH | TRANSFER_ENCODING)
            or not grammar.COMMON_LENGTH.fullmatch(value)
        ):
            return False
        scan.flags |= CONTENT_LENGTH
        scan.number = int(value)
    scan.spent += cost
    scan.word = word
    _keep(scan, name, value, line.group())
    scan.line_at = line.end()
    return True


def _after_last_cr(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.FIELDS_LF, at)
    assert scan.end_of_fields is not None
    scan.end_of_fields(scan, at + 1)
    scan.line_at = at + 1
    return at + 1


def _name(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.TOKEN.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        at = run.end()
        if at == len(data):
            return at
    byte = data[at]
    scan.name = scan.line(data, at)
    scan.word = scan.name.lower()
    if byte != _COLON:
        if byte == SP and scan.word in _KNOWN_TO_LLHTTP:
            raise after_byte(why.FIELD_CHAR, at)
        raise at_byte(why.FIELD_TOKEN, at)
    if scan.word == b"content-length" and scan.flags & TRANSFER_ENCODING:
        raise after_byte(why.CL_AFTER_TE, at)
    if scan.word == b"transfer-encoding" and scan.flags & CONTENT_LENGTH:
        raise after_byte(why.TE_AFTER_CL, at)
    scan.state = _before_value
    return at + 1


def _before_value(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.WHITE_SPACE.match(data, at)
    if run is not None:
        # The one space that most clients send is free, as in Node.
        assert scan.name is not None
        first = scan.column(at) == len(scan.name) + 1
        scan.spend(at + first, run.end())
        at = run.end()
        if at == len(data):
            return at
    byte = data[at]
    if byte == CR:
        scan.state = _after_empty_value
        return at + 1
    if byte == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.VALUE_CHAR, at)
        return _after_empty_value(scan, data, at)
    scan.state = _VALUES.get(scan.word, _value)
    return scan.state(scan, data, at)


# --- a value that does not frame the message --------------------------------------------


def _value(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.FIELD_VALUE.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        at = run.end()
        if at == len(data):
            return at
    byte = data[at]
    if byte == CR:
        scan.state = _after_value_cr
        return at + 1
    lenience = scan.limits.lenience
    if byte == LF:
        if not lenience.bare_lf:
            raise at_byte(why.VALUE_CR, at)
        return _after_value_cr(scan, data, at)
    # NUL never: C code after us would see the value end there (RFC 9110, section 5.5).
    if not (lenience.control_bytes and byte and scan.word not in _NEVER_LENIENT):
        raise at_byte(why.VALUE_CHAR, at)
    scan.spend(at, at + 1)
    return at + 1


def _after_value_cr(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.VALUE_LF, at)
    scan.state = _after_value
    if not _may_fold(scan):
        _end_line(scan, data, at + 1)
    return at + 1


def _after_value(scan: Scan[Head], data: bytes, at: int) -> int:
    # Only now has the line ended: white space here would have continued it (obs-fold).
    if data[at] in b" \t":
        if not _may_fold(scan):
            raise at_byte(why.VALUE_FOLDED, at)
        return _fold(scan, at, _value)
    if _may_fold(scan):
        _end_line(scan, data, at)
    scan.line_at = at
    scan.state = line_start
    return line_start(scan, data, at)


def _may_fold(scan: Scan[Head]) -> bool:
    """Whether the next line may continue the value, which is taken only after it."""
    return scan.limits.lenience.obs_fold and scan.word not in _NEVER_LENIENT


def _fold(scan: Scan[Head], at: int, rest: State[Head]) -> int:
    """Let *rest* read on in the value, after a line end."""
    # It counts as CR LF: nothing else limits how many there are.
    scan.spent += 2
    scan.state = rest
    return at


def _end_line(scan: Scan[Head], data: bytes, at: int) -> None:
    """Take the field whose line ends at *at*."""
    raw = scan.line(data, at)
    assert scan.name is not None
    value = raw[len(scan.name) + 1 :].strip(b" \t\r\n")
    if LF in value:
        #   obs-fold = OWS CRLF RWS                               RFC 9112, section 5.2
        # A server has to replace each with at least one SP.
        value = b" ".join(line.strip(b" \t\r") for line in value.split(b"\n"))
    _keep(scan, scan.name, value, raw)


def _keep(scan: Scan[Head], name: bytes, value: bytes, raw: bytes) -> None:
    """Take a field whose name in lower case is in `Scan.word`; *raw* is its line."""
    if scan.trailers is not None:
        scan.trailers.append((name, value))
        return
    assert scan.head is not None
    word = scan.word
    if word == b"content-length":
        if scan.length_line:
            return  # the same value again
        scan.length_line = raw
        value = value.partition(b",")[0].rstrip(b" \t")  # a list repeats it, too
    scan.head.fields.append((name, value))
    if word in (b"connection", b"proxy-connection"):
        scan.flags |= connection_flags(value)
    elif word == b"upgrade" and value:
        scan.flags |= UPGRADE
    elif word == b"host":
        scan.host_line = raw
    elif word == b"transfer-encoding":
        scan.coding_line = raw


# --- an empty value ---------------------------------------------------------------------


def _after_empty_value(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.LF_AFTER_CR, at)
    scan.state = _after_empty_line
    if not _may_fold(scan):
        _end_line(scan, data, at + 1)
    return at + 1


def _after_empty_line(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] in b" \t":
        if not _may_fold(scan):
            raise after_byte(why.VALUE_CHAR, at)
        return _fold(scan, at, _before_value)
    if _may_fold(scan):
        _end_line(scan, data, at)
    if scan.word == b"content-length":
        raise current_line(why.CL_EMPTY, at)
    if scan.word == b"transfer-encoding":
        raise current_line(why.TE_EMPTY, at)
    scan.line_at = at
    scan.state = line_start
    return line_start(scan, data, at)


# --- Content-Length (RFC 9110, section 8.6) ---------------------------------------------


def _length_start(scan: Scan[Head], data: bytes, at: int) -> int:
    if scan.flags & CONTENT_LENGTH:
        return _same_length_start(scan, data, at)
    scan.state = _length
    return _length(scan, data, at)


def _may_repeat(scan: Scan[Head]) -> bool:
    """Whether Content-Length may be repeated: in the head of a response.

    RFC 9110, section 8.6: a recipient may take identical values as one.  Servers behind other
    servers send them, and every client reads them.  In a request it is refused.
    """
    return scan.START is Part.STATUS_LINE and scan.trailers is None


def _same_length_start(scan: Scan[Head], data: bytes, at: int) -> int:
    if not _may_repeat(scan):
        raise at_byte(why.CL_TWICE, at)
    scan.step = 0
    scan.state = _same_length
    return _same_length(scan, data, at)


def _same_length(scan: Scan[Head], data: bytes, at: int) -> int:
    """The digits of a repeated length."""
    start, digits = at, b"%d" % scan.number
    while at < len(data) and scan.step < len(digits):
        if data[at] != digits[scan.step]:
            raise at_byte(why.CL_TWICE, at)
        scan.step += 1
        at += 1
    scan.spend(start, at)
    if at < len(data):
        if data[at] in _DIGITS:
            raise at_byte(why.CL_TWICE, at)
        scan.state = _after_length
    return at


def _after_length_comma(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.WHITE_SPACE.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        return run.end()
    return _same_length_start(scan, data, at)


def _length(scan: Scan[Head], data: bytes, at: int) -> int:
    start = at
    if scan.number == 0 and (zeros := grammar.ZEROS.match(data, at)):
        at = zeros.end()
    # At most 20 digits: with more the number overflows.
    while at < len(data) and data[at] in _DIGITS:
        scan.number = scan.number * 10 + data[at] - _ZERO
        at += 1
        if scan.number > _LARGEST:
            scan.spend(start, at - 1)
            raise after_byte(why.CL_OVERFLOW, at - 1)
    scan.spend(start, at)
    if at < len(data):
        scan.state = _after_length
    return at


def _after_length(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.WHITE_SPACE.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        return run.end()
    if data[at] == _COMMA and _may_repeat(scan):
        scan.spend(at, at + 1)
        scan.state = _after_length_comma
        return at + 1
    if data[at] not in (CR, LF):
        raise at_byte(why.CL_CHAR, at)
    scan.flags |= CONTENT_LENGTH
    scan.state = _value
    return _value(scan, data, at)


# --- Transfer-Encoding (RFC 9112, section 6.1) ------------------------------------------


def _coding_start(scan: Scan[Head], data: bytes, at: int) -> int:
    if scan.flags & CHUNKED:
        raise after_byte(why.TE_VALUE, at)
    scan.flags |= TRANSFER_ENCODING
    return _coding_word(scan, data, at)


def _coding_word(scan: Scan[Head], data: bytes, at: int) -> int:
    scan.step = 0
    scan.state = _coding
    return _coding(scan, data, at)


def _coding(scan: Scan[Head], data: bytes, at: int) -> int:
    start = at
    while at < len(data) and scan.step < len(_CHUNKED) and data[at] | 0x20 == _CHUNKED[scan.step]:
        scan.step += 1
        at += 1
    if start < at:
        scan.spend(start, at)
    if scan.step == len(_CHUNKED):
        scan.state = _after_chunked
    elif at < len(data):
        scan.state = _other_coding
    return at


def _after_chunked(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.SPACES.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        return run.end()
    byte = data[at]
    if byte == _COMMA:
        raise after_byte(why.TE_VALUE, at)
    if byte in (CR, LF):
        # An error follows unless this is a line end, so the flag is not set too early.
        scan.flags |= CHUNKED
        scan.state = _value
        return _value(scan, data, at)
    scan.state = _other_coding
    return at


def _other_coding(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.LIST_ELEMENT.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        return run.end()
    if data[at] == _COMMA:
        scan.spend(at, at + 1)
        scan.state = _after_comma
        return at + 1
    scan.state = _value
    return _value(scan, data, at)


def _after_comma(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.WHITE_SPACE.match(data, at)
    if run is not None:
        scan.spend(at, run.end())
        return run.end()
    return _coding_word(scan, data, at)


_CHUNKED: Final = b"chunked"

_VALUES: Final[dict[bytes, State[Any]]] = {
    b"content-length": _length_start,
    b"transfer-encoding": _coding_start,
}
