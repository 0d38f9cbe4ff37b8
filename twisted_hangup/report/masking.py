"""Hiding secrets in what leaves the process, without moving a single byte.

Hidden are, each byte replaced by ``*``:

- the values of ``Authorization``, ``Proxy-Authorization``, ``Cookie``, ``Set-Cookie`` and
  of the fields an operator names, with the lines that continue them;
- userinfo, query and fragment of the request target, and what may be userinfo whose ``@``
  did not come: an authority that is cut off, or has a port that is no number;
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

from ..events import Break, Part
from ..parser.grammar import TCHAR

#: Fields whose values are credentials (RFC 9110, sections 11.6.2 and 11.7.2; RFC 6265).
SECRET_FIELDS: Final = frozenset(
    {b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"}
)

#: How many bytes of a body stay visible on each side of the error.
BODY_CONTEXT_BYTES: Final = 16

_NOT_TCHAR: Final = re.compile(rb"[^" + TCHAR + rb"]+")
_FIRST_TOKEN: Final = re.compile(rb"[^" + TCHAR + rb"]*([" + TCHAR + rb"]+)")
# Two CRs, because text that was translated twice ends its lines so.
_LINE_END: Final = re.compile(rb"\r{0,2}\n|\r")

# The start of a request line, as lenient as this can be read.
_METHOD: Final = re.compile(rb"[ \t]*(?:[" + TCHAR + rb"]+[ \t]+)?")

# A request line among fields: only with a target in sight, or HTTP/ at its end.
_STRAY_REQUEST_LINE: Final = re.compile(
    rb"[ \t]*(?:CONNECT[ \t]|[" + TCHAR + rb"]+[ \t](?:[ \t]*(?:/|[A-Za-z]+://)|.*[ \t]HTTP/))",
    re.I | re.S,
)

# The version, at the end of a request line or of what there is of it.  It has few bytes and
# no others than these, so that a query with a space in it cannot pass for one.
_VERSION: Final = re.compile(rb"[ \t]+(?:H|HT|HTT|HTTP|HTTP/[0-9.]{0,3})?[ \t]*\Z", re.I)
_VERSION_BYTES: Final = 16

# Where userinfo may start: after "//", or at once without a slash in front (CONNECT).
_BEFORE_USERINFO: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://|//|/.*?//|(?!/)", re.S)

# Host and port (RFC 3986, section 3.2), as far as they can be told from "user:password".
_HOST_AND_PORT: Final = re.compile(
    rb"(?:\[[0-9A-Za-z:.%]*\]|[0-9A-Za-z\-._~%!$&'()*+,;=]*)(?::[0-9]{0,5})?([/?]|\Z)"
)

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
    _hide_target(out, 0, len(out), len(out))
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
    elif part is not Part.STATUS_LINE:
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
        packet: The bytes of the read; those after some point may be missing.
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
        message, begun, part = packet[start:], 0, where.packet_part
    else:
        message = where.packet_prefix + packet
        begun, part = len(where.packet_prefix), where.packet_part
    out = bytearray(message)
    broken = at - start + begun
    _hide_message(out, part, broken, where, policy, after_secret)
    if where.caret < len(where.line) and 0 <= broken < len(out):
        out[broken] = message[broken]
    return packet[:start].translate(_STARS) + bytes(out[begun:])


def culprit_index(packet: bytes, bytes_parsed: int, where: Break) -> int:
    """Index in *packet* of the byte that broke the message.

    It is not always *bytes_parsed*: like llhttp's, that offset stands one byte further
    for a few errors.
    """
    for at in (bytes_parsed, bytes_parsed - 1):
        if at >= 0 and packet[at : at + 1] == where.line[where.caret : where.caret + 1] != b"":
            before = packet[max(0, at - where.caret) : at]
            if where.line[: where.caret].endswith(before):
                return at
    return bytes_parsed


def _hide_message(
    out: bytearray, part: Part, broken: int, where: Break, policy: MaskingPolicy, secret: bool
) -> None:
    """Hide the secrets of a message whose first byte stands in *part*."""
    body = 0
    if part in (Part.FIELD, Part.TRAILER):
        body = _hide_section(out, 0, policy, secret)
    elif part not in (Part.BODY, Part.CHUNK_SIZE):
        start, end, after = next(
            (line for line in _lines(out, 0) if line[0] < line[1]), (0, 0, len(out))
        )
        body = start
        if part is Part.STATUS_LINE and out.startswith(b"HTTP/", start):
            body = _hide_section(out, after, policy, False)
        elif _like_request_line(out[start:end]):
            torn = _hide_request_line(out, start, end, broken)
            if torn:
                # The "@" that did not come may be in the next line, a colon before it.
                next_end = next((until for _, until, _ in _lines(out, after)), after)
                _hide(out, after, out.rfind(b"@", after, next_end))
            body = _hide_section(out, after, policy, torn)
    _hide_body(out, body, broken, where, policy, secret)


def _hide_section(out: bytearray, start: int, policy: MaskingPolicy, secret: bool) -> int:
    """Hide the secrets of a field section; return where it has ended."""
    for begin, until, after in _lines(out, start):
        if begin == until:
            return after
        secret = _hide_line(out, begin, until, policy, secret)
    return len(out)


def _hide_body(
    out: bytearray, start: int, broken: int, where: Break, policy: MaskingPolicy, secret: bool
) -> None:
    """Hide all that is not part of a head, but for a few bytes around the error."""
    first = max(start, broken - BODY_CONTEXT_BYTES)
    last = min(len(out), broken + 1 + BODY_CONTEXT_BYTES)
    trailer = broken - where.caret
    if where.part is Part.TRAILER and trailer >= start:
        first = min(first, trailer)
        last = max(last, _hide_section(out, trailer, policy, secret))
    # What stays visible may hold fields, or the next request, all the same.
    line = 1 + max(out.rfind(b"\n", start, first), out.rfind(b"\r", start, first), start - 1)
    after_secret = False
    for begin, until, _ in _lines(out, line):
        if begin >= last:
            break
        after_secret = _hide_line(out, begin, until, policy, after_secret and begin < until)
    _hide(out, start, first)
    _hide(out, max(start, last), len(out))


def _hide_line(
    out: bytearray, start: int, end: int, policy: MaskingPolicy, after_secret: bool
) -> bool:
    """Hide the secrets of a line after the request line; return whether it ended in one."""
    if after_secret and _continues(out[start:end]):
        _hide(out, start, end)
        return True
    if _hide_value(out, start, end, policy):
        return True
    # An empty line forgotten or too many, and the next request stands here.
    if _STRAY_REQUEST_LINE.match(out, start, end):
        return _hide_request_line(out, start, end, end)
    return False


def _continues(line: bytes | bytearray) -> bool:
    """Whether *line* may go on where the one before it broke off.

    It is a fold, or no field at all, or the colon that the name before it waits for.
    """
    return line[:1] in (b" ", b"\t", b":") or b":" not in line


def _hide_value(out: bytearray, start: int, end: int, policy: MaskingPolicy) -> bool:
    """Hide the value of a field line if it is secret; return whether it is."""
    colon = out.find(b":", start, end)
    if policy.is_secret(bytes(out[start : colon if colon >= 0 else end])):
        value = colon + 1 if colon >= 0 else end
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


def _like_request_line(line: bytes | bytearray) -> bool:
    """Whether *line* is a request line as far as it goes, or names HTTP like one."""
    words = line.split()
    if any(word[:5].upper() == b"HTTP/" for word in words[1:]):
        return True
    spaced = len(words) == 2 or line[-1:] in (b" ", b"\t")
    return 0 < len(words) <= 2 and spaced and not _NOT_TCHAR.search(words[0])


def _hide_request_line(out: bytearray, start: int, end: int, broken: int) -> bool:
    """Hide the secrets of the request line at ``out[start:end]``.

    Returns:
        Whether it may have broken off in userinfo, so that more of that follows.
    """
    method = _METHOD.match(out, start, end)
    target = method.end() if method else start
    # A version counts as far as it was right: after the byte that broke it all is target.
    known = broken if target <= broken < end else end
    version = _VERSION.search(out, max(target, known - _VERSION_BYTES), known)
    until = version.start() if version else known
    kept = out[until:known]
    # A space alone ends no target: it may as well stand in a password.
    ended = version is not None and not version[0].isspace()
    torn = _hide_target(out, target, end, until if ended else None)
    out[until:known] = kept
    return torn


def _hide_target(out: bytearray, start: int, end: int, ended: int | None) -> bool:
    """Hide the secrets of the request target at ``out[start:end]``.

    Args:
        out: Where to hide them.
        start: Its first byte.
        end: Where all ends that may belong to it.
        ended: Where it ended as a target should, or ``None`` if it broke off.

    Returns:
        Whether it may have broken off in userinfo.
    """
    userinfo = _BEFORE_USERINFO.match(out, start, end)
    marks = [index for mark in b"?#" if (index := out.find(mark, start, end)) >= 0]
    torn: int | None = None
    if userinfo is not None:
        # The last "@" wherever it is: a password may hold "@", "/" and "?" unescaped.
        at = out.rfind(b"@", userinfo.end(), end)
        _hide(out, userinfo.end(), at)
        torn = _torn_authority(out, max(userinfo.end(), at + 1), end, ended)
        if torn is not None:
            _hide(out, torn, end)
    if marks:
        _hide(out, min(marks) + 1, end)
    return torn is not None


def _torn_authority(out: bytearray, start: int, end: int, ended: int | None) -> int | None:
    """Where userinfo may stand whose "@" did not come."""
    host = _HOST_AND_PORT.match(out, start, end if ended is None else ended)
    if host is not None and (host[1] or ended is not None):
        return None
    if start and out[start - 1] in b"/@":
        return start
    # Not everything without "//" is an authority: what has no colon stays.
    colon = out.find(b":", start, end)
    return None if colon < 0 else colon + 1


def _hide(out: bytearray, start: int, end: int) -> None:
    if start < end:
        out[start:end] = out[start:end].translate(_STARS)


def _lines(out: bytearray, start: int) -> Iterator[tuple[int, int, int]]:
    """Where each line starts, where it ends without its line end, where the next starts."""
    while start < len(out):
        line_end = _LINE_END.search(out, start)
        end, after = line_end.span() if line_end else (len(out), len(out))
        yield start, end, after
        start = after
