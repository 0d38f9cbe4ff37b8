"""The exact reader's states after a head: bodies of a known length, and chunked ones.

RFC 9112, sections 6 and 7.1.  Codes, reasons and offsets are llhttp's, with two deviations: a chunk
size has at most 16 digits, and a limit is exceeded at the byte that crosses it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ..events import BodyData, Part
from . import fields, grammar
from . import refusals as why
from .framing import CHUNKED, TRANSFER_ENCODING
from .grammar import CR, LF
from .refusals import Refusal, after_byte, at_byte
from .scan import Head, Scan

Buffer: TypeAlias = bytes | memoryview

_QUOTE: Final = ord('"')
_EQUALS: Final = ord("=")
_SEMICOLON: Final = ord(";")
_BACKSLASH: Final = ord("\\")

#: HEXDIG (RFC 5234, appendix B.1) -> its value.
_HEX: Final = {byte: int(chr(byte), 16) for byte in b"0123456789ABCDEFabcdef"}


def begin(scan: Scan[Head], head: Head) -> None:
    """Read the body of *head* next (RFC 9112, section 6.3), or end the message."""
    if head.chunked:
        # The trailers may not contradict it (RFC 9110, section 6.5.1).
        scan.flags |= TRANSFER_ENCODING | CHUNKED
        _begin_chunk(scan)
    elif head.content_length:
        scan.part = Part.BODY
        scan.number = head.content_length
        scan.state = _sized
    else:
        scan.part = Part.BODY
        scan.finished = True


def left(scan: Scan[Head]) -> int:
    """How many bytes are still to come of the body, or of the current chunk, before any framing."""
    return scan.number if scan.part is Part.BODY else 0


def take(scan: Scan[Head], data: bytes, at: int) -> tuple[list[Buffer], int]:
    """The bytes of the body that come at *at*, as they lie in *data*.

    Returns:
        The same bytes as those of the next event, and the index of the first byte that has not been
        judged.  No bytes, and *at*, if something else comes there.
    """
    if scan.state is _data:
        return _chunks(scan, data, at)
    if scan.state is not _sized or scan.finished:
        return [], at
    end = min(at + scan.number, len(data))
    scan.number -= end - at
    scan.line_at = end
    scan.finished = not scan.number
    return [data[at:end]], end


def _sized(scan: Scan[Head], data: bytes, at: int) -> int:
    pieces, end = take(scan, data, at)
    scan.event = BodyData(b"".join(pieces))
    return end


# --- chunk-size line --------------------------------------------------------------------


def _begin_chunk(scan: Scan[Head]) -> None:
    scan.part = Part.CHUNK_SIZE
    scan.number = 0
    scan.step = 0
    scan.spent = 0
    scan.state = _size


def _size(scan: Scan[Head], data: bytes, at: int) -> int:
    while at < len(data) and data[at] in _HEX:
        if scan.step == grammar.MOST_SIZE_DIGITS:
            raise after_byte(why.CHUNK_SIZE_OVERFLOW, at)
        scan.number = scan.number * 16 + _HEX[data[at]]
        scan.step += 1
        at += 1
    if at < len(data):
        if not scan.step:
            raise at_byte(why.CHUNK_SIZE, at)
        scan.state = _after_size
    return at


def _after_size(scan: Scan[Head], data: bytes, at: int) -> int:
    byte = data[at]
    if byte == CR:
        scan.state = _after_size_cr
    elif byte == _SEMICOLON:
        scan.state = _extension_start
    elif byte == LF:
        return _bare_lf(scan, data, at, after_byte(why.CHUNK_SIZE_CR, at))
    elif byte in b" \t":
        if not scan.limits.lenience.spaces_after_chunk_size:
            raise after_byte(why.CHUNK_SIZE, at)
        _spend(scan, at, at + 1)  # or a line of nothing else would have no limit
    else:
        raise at_byte(why.CHUNK_SIZE, at)
    return at + 1


def _bare_lf(scan: Scan[Head], data: bytes, at: int, refusal: Refusal) -> int:
    """End the chunk-size line at an LF without CR, or raise *refusal*."""
    if not scan.limits.lenience.bare_lf:
        raise refusal
    return _after_size_cr(scan, data, at)


def _after_size_cr(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.CHUNK_SIZE_LF, at)
    scan.total += scan.number
    if 0 < scan.limits.body_bytes < scan.total:
        raise after_byte(why.BODY_TOO_LARGE, at)
    scan.line_at = at + 1
    if scan.number:
        scan.part = Part.BODY
        scan.state = _data
    else:
        scan.part = Part.TRAILER
        scan.trailers = []
        scan.spent = 0
        scan.count = 0
        scan.end_of_fields = _end_of_trailers
        scan.state = fields.line_start
    return at + 1


# --- chunk extensions (RFC 9112, section 7.1.1) -----------------------------------------


def _spend(scan: Scan[Head], start: int, end: int) -> None:
    """Count bytes of extensions; refuse at the first one too many."""
    scan.spent += end - start
    beyond = scan.spent - scan.limits.chunk_extension_bytes
    if beyond > 0:
        raise at_byte(why.CHUNK_EXT_OVERFLOW, end - beyond)


def _extension_start(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] in b" \r":
        raise after_byte(why.CHUNK_EXT, at)
    if data[at] in b";=":
        # llhttp accepts an empty name.  It counts as a byte, or a line of nothing else
        # would have no limit.
        _spend(scan, at, at + 1)
    scan.state = _extension_name
    return at


def _extension_name(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.TOKEN.match(data, at)
    if run is not None:
        _spend(scan, at, run.end())
        return run.end()
    byte = data[at]
    if byte == _EQUALS:
        scan.state = _extension_value
    elif byte == _SEMICOLON:
        scan.state = _extension_start
    elif byte == CR:
        scan.state = _after_size_cr
    elif byte == LF:
        return _bare_lf(scan, data, at, at_byte(why.CHUNK_EXT_NAME_CR, at))
    else:
        raise after_byte(why.CHUNK_EXT_NAME, at)
    return at + 1


def _extension_value(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.TOKEN.match(data, at)
    if run is not None:
        _spend(scan, at, run.end())
        return run.end()
    byte = data[at]
    if byte == _QUOTE:
        _spend(scan, at, at + 1)
        scan.state = _quoted
    elif byte == _SEMICOLON:
        scan.state = _extension_start
    elif byte == CR:
        scan.state = _after_size_cr
    elif byte == LF:
        return _bare_lf(scan, data, at, at_byte(why.CHUNK_EXT_VALUE_CR, at))
    else:
        raise after_byte(why.CHUNK_EXT_VALUE, at)
    return at + 1


def _quoted(scan: Scan[Head], data: bytes, at: int) -> int:
    run = grammar.QUOTED_TEXT.match(data, at)
    if run is not None:
        _spend(scan, at, run.end())
        return run.end()
    byte = data[at]
    if byte == _QUOTE:
        scan.state = _after_quoted
    elif byte == _BACKSLASH:
        scan.state = _quoted_pair
    else:
        raise after_byte(why.CHUNK_EXT_QUOTED, at)
    _spend(scan, at, at + 1)
    return at + 1


def _quoted_pair(scan: Scan[Head], data: bytes, at: int) -> int:
    if grammar.FIELD_VALUE.match(data, at, at + 1) is None:
        raise after_byte(why.CHUNK_EXT_QUOTED_PAIR, at)
    _spend(scan, at, at + 1)
    scan.state = _quoted
    return at + 1


def _after_quoted(scan: Scan[Head], data: bytes, at: int) -> int:
    byte = data[at]
    if byte == _SEMICOLON:
        scan.state = _extension_start
    elif byte == CR:
        scan.state = _after_size_cr
    elif byte == LF:
        return _bare_lf(scan, data, at, at_byte(why.CHUNK_EXT_VALUE_CR, at))
    else:
        raise at_byte(why.CHUNK_EXT_AFTER_QUOTE, at)
    return at + 1


# --- chunk data and the end -------------------------------------------------------------


def _data(scan: Scan[Head], data: bytes, at: int) -> int:
    pieces, end = _chunks(scan, data, at)
    scan.event = BodyData(b"".join(pieces))
    return end


def _chunks(scan: Scan[Head], data: bytes, at: int) -> tuple[list[Buffer], int]:
    """Take the bytes of the current chunk, and of the ordinary chunks that come after it."""
    whole = memoryview(data)
    pieces: list[Buffer] = []
    most = scan.limits.body_bytes
    while True:
        end = min(at + scan.number, len(data))
        scan.number -= end - at
        pieces.append(whole[at:end])
        if scan.number:
            break
        line = grammar.NEXT_CHUNK.match(data, end)
        size = int(line[1], 16) if line else 0
        if not line or not size or 0 < most < scan.total + size:
            scan.state = _after_data  # which reads, and refuses, everything else
            break
        scan.total += size
        scan.number = size
        at = line.end()
    scan.line_at = end
    return pieces, end


def _after_data(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] == LF:
        if not scan.limits.lenience.bare_lf:
            raise after_byte(why.CHUNK_DATA_CR, at)
        return _after_data_cr(scan, data, at)
    if data[at] != CR:
        raise at_byte(why.CHUNK_DATA_LF, at)
    scan.state = _after_data_cr
    return at + 1


def _after_data_cr(scan: Scan[Head], data: bytes, at: int) -> int:
    if data[at] != LF:
        raise at_byte(why.CHUNK_DATA_LF, at)
    _begin_chunk(scan)
    scan.line_at = at + 1
    return at + 1


def _end_of_trailers(scan: Scan[Head], at: int) -> None:
    scan.finished = True
