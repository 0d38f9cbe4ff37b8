"""Hiding secrets in what leaves the process, without moving a single byte.

Hidden are, each byte replaced by ``*``:

- the values of ``Authorization``, ``Proxy-Authorization``, ``Cookie`` and of the fields
  an operator names, with the lines that continue them;
- userinfo, query and fragment of the request target;
- body bytes further than 16 from the error, and what stands where a request line should
  but does not look like one (it usually is a body whose length was announced wrongly);
- in a packet, the finished messages before the broken one, except their line ends.

All of it is judged from the look of the lines alone, because the bytes are broken by
definition: a name counts in any case and with junk in or around it, a line ends at CR LF,
LF or CR, and where two readings are possible a byte is hidden if either says so.  The
byte that broke the message is never hidden.  Lengths and offsets stay as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .events import Break, Part

#: Fields whose values are credentials (RFC 9110, sections 11.6.2 and 11.7.2; RFC 6265).
SECRET_FIELDS: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie"})

#: How many bytes of a body stay visible on each side of the error.
BODY_CONTEXT_BYTES: Final = 16

# RFC 9110, section 5.6.2: tchar.
_TCHAR: Final = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"

_NOT_TCHAR: Final = re.compile(rb"[^" + _TCHAR + rb"]+")
_FIRST_TOKEN: Final = re.compile(rb"[^" + _TCHAR + rb"]*([" + _TCHAR + rb"]+)")
_LINE_END: Final = re.compile(rb"\r*\n|\r")
_METHOD: Final = re.compile(rb"[ \t]*(?:[" + _TCHAR + rb"]+[ \t]+)?")

# A request line, as far as it had come: a token and one word, or anything that names HTTP.
_LIKE_REQUEST_LINE: Final = re.compile(
    rb"[ \t]*[" + _TCHAR + rb"]+[ \t]+[^ \t]*[ \t]*\Z|.*[ \t]HTTP/", re.I | re.S
)

# The version, at the end of a request line or of what there is of it.  It has few bytes and
# no others than these, so that a query with a space in it cannot pass for one.
_VERSION: Final = re.compile(rb"[ \t]+(?:H|HT|HTT|HTTP|HTTP/[0-9.]{0,3})[ \t]*\Z", re.I)

# Where userinfo may start: behind "//" or, without a slash in front, at once (CONNECT).
_BEFORE_USERINFO: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://|/.*?//|(?!/)|//", re.S)

#: ``*`` for every byte but CR and LF, which keep the lines of a packet apart.
_STARS: Final = bytes(byte if byte in b"\r\n" else ord("*") for byte in range(256))


@dataclass(frozen=True, slots=True)
class MaskingPolicy:
    """What an operator may choose about masking.

    Attributes:
        extra_fields: Names of further fields whose values are secret; any case.
        unmasked: Whether nothing is hidden at all.
    """

    extra_fields: frozenset[bytes] = frozenset()
    unmasked: bool = False

    def __post_init__(self) -> None:
        lowered = frozenset(name.strip().lower() for name in self.extra_fields)
        object.__setattr__(self, "extra_fields", lowered)

    def is_secret(self, name: bytes) -> bool:
        """Whether the value of the field *name* is to be hidden; junk in *name* is skipped."""
        bare = _NOT_TCHAR.sub(b"", name).lower()
        return bare in SECRET_FIELDS or bare in self.extra_fields


DEFAULT_POLICY: Final = MaskingPolicy()
UNMASKED: Final = MaskingPolicy(unmasked=True)


def mask_target(target: bytes, policy: MaskingPolicy = DEFAULT_POLICY) -> bytes:
    """Hide userinfo, query and fragment of a request target."""
    if policy.unmasked:
        return target
    out = bytearray(target)
    _hide_target(out, 0, len(out))
    return bytes(out)


def mask_line(
    part: Part,
    line: bytes,
    caret: int,
    policy: MaskingPolicy = DEFAULT_POLICY,
    *,
    after_secret: bool = False,
) -> bytes:
    """Hide the secrets of one line.

    Args:
        part: What the line is.
        line: Its bytes, as far as they are to be shown.
        caret: Index of the byte that stays visible whatever it is; past the end for none.
        policy: What else is secret.
        after_secret: Whether the field line before it was a secret one, so that this
            may be the rest of its value.
    """
    if policy.unmasked:
        return line
    out = bytearray(line)
    if part in (Part.BODY, Part.CHUNK_SIZE):
        _hide(out, 0, caret - BODY_CONTEXT_BYTES)
    elif part in (Part.FIELD, Part.TRAILER):
        # A space in a line without a colon is a name with a space in it, which people
        # need to see; the wrapped end of a credential has none.
        spaced = line[caret : caret + 1] in (b" ", b"\t") and caret > 0
        if after_secret and not spaced and _continues(line):
            _hide(out, 0, len(out))
        else:
            _hide_value(out, 0, len(out), policy)
    else:
        _hide_request_line(out, 0, len(out), caret)
    out[caret : caret + 1] = line[caret : caret + 1]
    return bytes(out)


def mask_packet(
    packet: bytes,
    at: int,
    where: Break,
    policy: MaskingPolicy = DEFAULT_POLICY,
    *,
    after_secret: bool = False,
) -> bytes:
    """Hide the secrets of a whole read.

    Args:
        packet: The bytes of the read; those behind some point may be missing.
        at: Index in *packet* of the byte that broke the message.
        where: The parser's state at the packet's first byte, and what broke.
        policy: What else is secret.
        after_secret: Whether the field line before the one that broke was a secret one.

    Returns:
        As many bytes as *packet* has.
    """
    if policy.unmasked:
        return packet
    start = min(where.message_at, len(packet))
    if start:
        message, begun, part = packet[start:], 0, Part.EMPTY_LINE
    else:
        message = where.packet_prefix + packet
        begun, part = len(where.packet_prefix), where.packet_part
    out = bytearray(message)
    broken = at - start + begun
    _hide_message(out, part, broken, where, policy, after_secret)
    if 0 <= broken < len(out):
        out[broken] = message[broken]
    return packet[:start].translate(_STARS) + bytes(out[begun:])


def _hide_message(
    out: bytearray, part: Part, broken: int, where: Break, policy: MaskingPolicy, secret: bool
) -> None:
    """Hide the secrets of a message whose first byte stands in *part*."""
    body_at = 0
    if part in (Part.BODY, Part.CHUNK_SIZE):
        pass
    elif part in (Part.FIELD, Part.TRAILER):
        body_at = _hide_fields(out, 0, policy, secret)
    else:
        for start, end, after in _lines(out, 0):
            if start == end:
                continue
            if _LIKE_REQUEST_LINE.match(out, start, end):
                _hide_request_line(out, start, end, broken)
                body_at = _hide_fields(out, after, policy, False)
            else:
                body_at = start
            break
        else:
            return
    _hide_body(out, body_at, broken, where, policy)


def _hide_body(
    out: bytearray, start: int, broken: int, where: Break, policy: MaskingPolicy
) -> None:
    """Hide what is behind a head, but for a few bytes around the error."""
    end = len(out)
    if where.part is Part.TRAILER and broken - where.caret > start:
        end = broken - where.caret
        _hide_fields(out, end, policy, False)
    first = max(start, broken - BODY_CONTEXT_BYTES)
    last = min(end, broken + 1 + BODY_CONTEXT_BYTES)
    # The bytes that stay may be fields or a request line after all.
    line = max(out.rfind(b"\n", start, first), out.rfind(b"\r", start, first), start - 1) + 1
    lines = list(_lines(out, line, last))
    _hide_fields(out, line, policy, False, last)
    for begin, until, _ in lines:
        if _VERSION.search(out, begin, until) or b"?" in out[begin:until]:
            _hide_request_line(out, begin, until, broken)
    _hide(out, start, first)
    _hide(out, max(start, last), end)


def _hide_fields(
    out: bytearray, start: int, policy: MaskingPolicy, secret: bool, end: int | None = None
) -> int:
    """Hide the secret values in a field section; return where the section has ended."""
    for begin, until, after in _lines(out, start, end):
        if begin == until and end is None:
            return after
        if secret and _continues(out[begin:until]):
            _hide(out, begin, until)
        else:
            secret = _hide_value(out, begin, until, policy)
    return len(out)


def _continues(line: bytes | bytearray) -> bool:
    """Whether *line* may be the rest of the value before it: a fold, or no field at all."""
    return line[:1] in (b" ", b"\t") or b":" not in line


def _hide_value(out: bytearray, start: int, end: int, policy: MaskingPolicy) -> bool:
    """Hide the value of a field line if it is secret; return whether it is."""
    colon = out.find(b":", start, end)
    if colon >= 0 and policy.is_secret(bytes(out[start:colon])):
        value = colon + 1
    else:
        # No colon, or junk in its stead: "Authorization Basic dTpw", ": Cookie: a=b".
        token = _FIRST_TOKEN.match(out, start, end)
        if token is None or not policy.is_secret(token[1]):
            return False
        value = token.end()
    while value < end and out[value] in b" \t":
        value += 1
    _hide(out, value, end)
    return True


def _hide_request_line(out: bytearray, start: int, end: int, broken: int) -> None:
    """Hide the secrets of the request line at ``out[start:end]``."""
    method = _METHOD.match(out, start, end)
    target = method.end() if method else start
    # A version counts as far as it was right: behind the byte that broke it all is target.
    known = broken if target <= broken < end else end
    version = _VERSION.search(out, target, known)
    if version is None:
        _hide_target(out, target, end)
    else:
        kept = out[version.start() : known]
        _hide_target(out, target, end)
        out[version.start() : known] = kept


def _hide_target(out: bytearray, start: int, end: int) -> None:
    userinfo = _BEFORE_USERINFO.match(out, start, end)
    # The last "@" wherever it is: a password may hold "@", "/" and "?" unescaped.
    at = out.rfind(b"@", start, end)
    query = min(
        (found for mark in b"?#" if (found := out.find(mark, start, end)) >= 0), default=end
    )
    if userinfo is not None:
        _hide(out, userinfo.end(), at)
    _hide(out, query + 1, end)


def _hide(out: bytearray, start: int, end: int) -> None:
    if start < end:
        out[start:end] = out[start:end].translate(_STARS)


def _lines(out: bytearray, start: int, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Where each line starts, ends without its line end, and where the next one starts."""
    end = len(out) if end is None else end
    while start < end:
        found = _LINE_END.search(out, start, end)
        until, after = found.span() if found else (end, end)
        yield start, until, after
        start = after
