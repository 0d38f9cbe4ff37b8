"""A broken request or response as text: what arrived, where it broke, and which rule it breaks.

The text is made from the parser's state (`Break`), not from reads, so it is the same however the
network cut the bytes.  For the same reason it shows nothing that comes after the byte that broke
the request.  One exception: `lookalikes` looks at the whole read for bytes that are not HTTP.
"""

from __future__ import annotations

import re
import textwrap
from typing import Final, NamedTuple

from ..errors import ParseError, RecordedError
from ..events import Break, Part, RequestHead
from ..limits import KIB
from ..parser.grammar import HOST_SO_FAR
from ..parser.refusals import HOST_INVALID
from .links import link_of
from .lookalikes import START_LINES, Lookalike, advice_of, lookalike_of, opening_of
from .masking import (
    DEFAULT_POLICY,
    UNMASKED,
    MaskingPolicy,
    culprit_index,
    mask_line,
    mask_packet,
)
from .rules import rule_of
from .text import shortened, visible

#: Width of a report, in columns.
WIDTH: Final = 80

_INDENT: Final = "  "
#: How much of the end of a cut line is shown, in columns.
#: How much of the end of a line that is cut is shown, in columns.
_TAIL: Final = 40

_NAME_COLUMNS: Final = 40
#: How much is shown of bytes that are not a message, and how much of the packet around it.
#: How much is shown of something else than a message, and around it of its packet.
_OPENING_BYTES: Final = 64
_PACKET_BYTES: Final = 4 * KIB

_BYTE_NAMES: Final = {0x00: "NUL", 0x09: "tab", 0x0A: "LF", 0x0D: "CR", 0x20: "space", 0x7F: "DEL"}

_PLACES: Final = {
    Part.EMPTY_LINE: "Before the request line",
    Part.REQUEST_LINE: "In the request line",
    Part.STATUS_LINE: "In the status line",
    Part.FIELD: "In the header fields",
    Part.CHUNK_SIZE: "In the line with the size of a chunk",
    Part.BODY: "In the body",
    Part.TRAILER: "In the trailer fields",
}

_PHASES: Final = {
    "handshake": "During the TLS handshake",
    "idle": "Between requests",
    "head": "While the head of the request was being received",
    "body": "While the body of the request was being received",
    "response": "After the request, before its response was complete",
}

_DEADLINES: Final = {
    "idle": "The client sent nothing within Timeouts.head_seconds of connecting.",
    "head": "The head was not complete within Timeouts.head_seconds.",
    "body": "The head came in time; the body was not complete within Timeouts.request_seconds.",
}


def report_error(
    error: RecordedError, *, masked: bool = True, policy: MaskingPolicy | None = None
) -> str:
    """What a client did wrong, or a server, as plain text.

    Args:
        error: A `ClientError`; a `ResponseParseError` is about a server.
        masked: Whether to hide credentials, queries and bodies, as `masking` describes.  The byte
            that broke the message is always shown.
        policy: Which other headers are secret; by default the policy that the error was recorded
            with (`RecordedError.masking`).

    Returns:
        Lines of printable ASCII, joined by newlines, with none at the end.  The first one has code
        and reason; none of the others is longer than `WIDTH`.  The last one says how to read cause
        and cure, if there are any.
    """
    if not masked:
        policy = UNMASKED
    elif policy is None:
        policy = error.masking or DEFAULT_POLICY
    lines = [f"{visible(error.code)}: {visible(error.reason)}"]
    if error.about == "request":
        lines[0] += f"  ({_answer(error)})"
    lines += _picture(error, policy)
    lookalike = lookalike_of(error)
    lines += textwrap.wrap(_explanation(error, policy, lookalike), WIDTH)
    name = advice_of(error.code, error.reason, lookalike).name
    return "\n".join(lines if name is None else [*lines, link_of(name)])


def _answer(error: RecordedError) -> str:
    status = error.shown_status
    if status is None:
        return "not answered"
    return f"answered {status}" if error.settled else f"default answer {status}"


class Excerpt(NamedTuple):
    """A piece of `ClientError.raw_packet` that may leave the process.

    Attributes:
        data: The bytes around the error, with secrets replaced by ``*``.
        offset: Index in the whole packet of the first of them.
    """

    data: bytes
    offset: int


def masked_packet(
    error: RecordedError, most: int, policy: MaskingPolicy = DEFAULT_POLICY
) -> Excerpt | None:
    """The packet of *error*, or *most* bytes around the error; None without a packet.

    If the parser's state is unknown (`ClientError.broke_at` is None), the packet counts as body.
    """
    packet = error.raw_packet
    if packet is None:
        return None
    where = error.broke_at
    if where is None:
        where = Break(Part.BODY, b"", b"", 0, packet_part=Part.BODY)
    at = culprit_index(packet, error.bytes_parsed or 0, where)
    start = max(0, min(at - most // 2, len(packet) - most))
    # Judged from the packet's first byte, because only there the parser's state is known.
    head = error.request.fields if error.request else ()
    secret = policy.holds_secret(where.fields) or policy.holds_secret(head)
    masked = mask_packet(packet[: start + most], at, where, policy, after_secret=secret)
    return Excerpt(masked[start:], start)


def _picture(error: RecordedError, policy: MaskingPolicy) -> list[str]:
    """The first line, the line that broke, and a caret under the byte."""
    where = error.broke_at
    if where is None:
        return _arrived(error, policy)
    lines = []
    if where.part not in START_LINES and where.request_line:
        lines.append(_cut(request_line_of(error, policy)))
    line = masked_line(where, policy)
    if not line:
        return lines
    # A caret is drawn even where no byte is left to point at: the input ended there.
    caret = _caret(error, where)
    culprit = line[caret : caret + 1]
    # White space to blame has to be seen, too.
    shown = r"\x20" if culprit == b" " else visible(culprit)
    before = shortened(line[:caret], WIDTH - len(_INDENT) - max(1, len(shown)), tail=_TAIL)
    lines.append(_INDENT + before + shown)
    if culprit or _stopped(error):
        lines.append(_pointer(len(before), "^" * max(1, len(shown)), _label(error, culprit)))
    else:
        lines.append(_pointer(0, "^" * len(before), _label(error, culprit)))
    return lines


def _stopped(error: RecordedError) -> str | None:
    """What to say at the end of the bytes, if their end is what is wrong; or None."""
    if error.code == "HPE_INVALID_EOF_STATE":
        return "the input ends here"
    return None if isinstance(error, ParseError) else "nothing more came"


def _caret(error: RecordedError, where: Break) -> int:
    """Index in the line of the byte to blame, even if the parser blames a whole line."""
    if not _is_host(error):
        return where.caret
    start = re.match(rb"[^:]*:?[ \t]*", where.line)
    assert start is not None
    host = HOST_SO_FAR.match(where.line, start.end())
    return start.end() if host is None else host.end()


def _is_host(error: RecordedError) -> bool:
    return (error.code, error.reason) == HOST_INVALID[:2]


def _pointer(column: int, carets: str, label: str) -> str:
    """A line of carets, with *label* on the side that has room."""
    if len(_INDENT) + column + len(carets) + 1 + len(label) <= WIDTH:
        return f"{_INDENT}{' ' * column}{carets} {label}".rstrip()
    if len(label) < column:
        return f"{_INDENT}{label:>{column - 1}} {carets}"
    return f"{_INDENT}{' ' * column}{carets}"


def _label(error: RecordedError, culprit: bytes) -> str:
    """The words beside the carets: the offset, and the byte by name."""
    if stopped := _stopped(error):
        return stopped
    # Of an invalid Host the offset is where the head ends.
    at = None if culprit and _is_host(error) else error.offset
    labels = [] if at is None else [f"byte {at}"]
    if culprit:
        labels.append(byte_name(culprit[0]))
    return ": ".join(labels)


def byte_name(byte: int) -> str:
    """A byte in hexadecimal, with its name or character if it has one."""
    if name := _BYTE_NAMES.get(byte):
        return f"0x{byte:02x} ({name})"
    return f"0x{byte:02x} ({chr(byte)})" if 0x21 <= byte <= 0x7E else f"0x{byte:02x}"


def masked_line(where: Break, policy: MaskingPolicy) -> bytes:
    """The line that broke, with secrets hidden."""
    in_body = where.part in (Part.BODY, Part.CHUNK_SIZE)
    before = policy.holds_secret if in_body else policy.ends_in_secret
    return mask_line(where.part, where.line, where.caret, policy, after_secret=before(where.fields))


def _arrived(error: RecordedError, policy: MaskingPolicy) -> list[str]:
    """What had arrived of a request that no byte broke."""
    if error.request is None:
        return []
    count = len(error.request.fields)
    fields = f"and {count} header field{'' if count == 1 else 's'}"
    return [_cut(request_line_of(error, policy)), _INDENT + fields]


def _cut(line: bytes) -> str:
    return _INDENT + shortened(line, WIDTH - len(_INDENT), tail=_TAIL)


def request_line_of(error: RecordedError, policy: MaskingPolicy = DEFAULT_POLICY) -> bytes:
    """The request or status line so far, with secrets hidden; ``b""`` for none."""
    where, request = error.broke_at, error.request
    if where is not None:
        broke = where.part in START_LINES
        line = where.line if broke else where.request_line
        caret = where.caret if broke else len(line)
        part = Part.REQUEST_LINE if error.about == "request" else Part.STATUS_LINE
        return mask_line(part, line, caret, policy)
    if request is None:
        return b""
    version = b" HTTP/" + request.version if request.version else b""
    line = request.method + b" " + request.target + b" HTTP/1.1"
    masked = mask_line(Part.REQUEST_LINE, line, len(line), policy)
    return masked.removesuffix(b" HTTP/1.1") + version


def request_so_far(
    error: RecordedError, policy: MaskingPolicy = DEFAULT_POLICY
) -> RequestHead | None:
    """Method, target, version and fields so far; None before the method had ended.

    The target's secrets are hidden, those of the fields are not.  A target that had not begun, and
    a version that is not complete, is ``b""``.
    """
    request, where = error.request, error.broke_at
    broke = where is not None and where.part is Part.REQUEST_LINE
    if request is None:
        if where is None or not broke:
            return None
        method, space, _ = where.line[: where.caret].partition(b" ")
        target = request_line_of(error, policy)[len(method) + 1 : where.caret]
        return RequestHead(method, target) if space else None
    if where is not None and broke and request.target in where.line:
        # A line that broke shows less: its target may have broken off in userinfo.
        line, at = where.line, where.line.find(request.target)
    else:
        line, at = request.method + b" " + request.target + b" HTTP/1.1", len(request.method) + 1
    target = mask_line(Part.REQUEST_LINE, line, len(line), policy)[at : at + len(request.target)]
    return RequestHead(request.method, target, request.version, request.fields)


def opening_text(error: RecordedError, policy: MaskingPolicy = DEFAULT_POLICY) -> bytes | None:
    """The first bytes of something that is not a message, with secrets hidden; else None.

    It shows the bytes that belong to a known protocol (`lookalikes`); of other bytes it shows what
    `masked_packet` does: `_OPENING_BYTES` at most.
    """
    opening, where = opening_of(error), error.broke_at
    if opening is None or where is None:
        return None
    shown = opening.data[: opening.known]
    if len(shown) < where.caret + 1:
        shown = masked_line(where, policy)
    excerpt = masked_packet(error, _PACKET_BYTES, policy)
    if excerpt is not None:
        prefix = 0 if where.message_at else len(where.packet_prefix)
        rest = where.message_at + len(shown) - prefix - excerpt.offset
        shown += excerpt.data[max(0, rest) :]
    return shown[: max(_OPENING_BYTES, opening.known)]


def _explanation(error: RecordedError, policy: MaskingPolicy, lookalike: Lookalike | None) -> str:
    """One paragraph: the place, the rule and its source, and what the bytes look like."""
    rule = rule_of(error.code, error.reason, error.about)
    text = rule.text if rule else visible(error.reason)
    if error.code == "HPE_INVALID_EOF_STATE" and error.offset is not None:
        text += f"; {error.offset:,} bytes of it had come"
    sentences = [f"{_place(error, policy)}: {text}."]
    if error.code == "ERR_HTTP_REQUEST_TIMEOUT" and error.phase in _DEADLINES:
        sentences = [_DEADLINES[error.phase]]
    if rule and rule.source:
        sentences.append(f"{rule.source}.")
    if lookalike is not None:
        sentences.append(f"It looks like {lookalike.words}.")
        sentences += advice_of(error.code, error.reason, lookalike).remedy or ()
    return " ".join(sentences)


def _place(error: RecordedError, policy: MaskingPolicy) -> str:
    where = error.broke_at
    if where is None:
        return _PHASES[error.phase]
    if error.about == "response" and where.part is Part.EMPTY_LINE:
        return "Before the status line"
    field = field_of(error, policy)
    if field is None or where.part not in (Part.FIELD, Part.TRAILER):
        return _PLACES[where.part]
    in_value = b":" in where.line[: where.caret]
    place = "In the value of" if in_value else "In the"
    return f'{place} {where.part.value} "{shortened(field, _NAME_COLUMNS)}"'


def field_of(error: RecordedError, policy: MaskingPolicy = DEFAULT_POLICY) -> bytes | None:
    """The name of the field that broke; None if it may be the rest of a secret."""
    where, field = error.broke_at, error.field
    if field is None or where is None or where.part not in (Part.FIELD, Part.TRAILER):
        return field
    hidden = field in where.line and field not in masked_line(where, policy)
    return None if hidden else field


RecordedError.report_writer = staticmethod(report_error)
