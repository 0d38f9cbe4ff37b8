"""Hides secrets in what leaves the process, and moves no byte.

It replaces each byte of these by ``*``:

- the values of ``Authorization``, ``Proxy-Authorization``, ``Cookie``, ``Set-Cookie`` and of the
  headers that an operator names, and the lines after them until one begins with a known name
  (`FIELD_NAMES`, or ``X-`` and more): they may be the rest of the value;
- userinfo, query and fragment of the request target, and what may be userinfo whose ``@`` did not
  arrive: an authority that is cut off, or with a port that is not a number; also the lines after a
  request line that broke off before its version;
- bytes of a body further than 16 from the error, and bytes in the place of a request line that do
  not look like one (usually a body whose length was announced wrongly); all of these if a secret
  header is in the packet or the message;
- in a packet, the finished messages before the broken one, except their line ends.

It judges by the look of the lines alone, because the bytes are broken anyway.  A name counts in any
case, with junk around it or in it, even line ends.  A line ends at CR LF, LF or CR.  If two
readings are possible, a byte is hidden if either says so.  The byte that broke the message is never
hidden.  Lengths and offsets do not change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from .._arguments import must_be, names_in
from ..events import Break, Field, Part
from ..parser.grammar import TCHAR

#: Headers whose values are credentials (RFC 9110, sections 11.6.2 and 11.7.2; RFC 6265).
SECRET_FIELDS: Final = frozenset(
    {b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"}
)

#: How many bytes of a body stay visible on each side of the error.
BODY_CONTEXT_BYTES: Final = 16

#: Names that begin a new header wherever they are: those that clients, servers and proxies send
#: (IANA's registry of field names, and usage).
FIELD_NAMES: Final = frozenset(
    b"accept accept-charset accept-encoding accept-language accept-ranges age allow alt-svc "
    b"alt-used baggage cache-control cdn-loop client-ip connection content-disposition "
    b"content-encoding content-language content-length content-location content-md5 "
    b"content-range content-security-policy content-type date depth destination dnt early-data "
    b"etag expect expires forwarded from host http2-settings idempotency-key if if-match "
    b"if-modified-since if-none-match if-range if-unmodified-since keep-alive last-modified link "
    b"location lock-token max-forwards mime-version origin overwrite pragma prefer priority "
    b"proxy-authenticate proxy-connection range referer referrer-policy retry-after save-data "
    b"server server-timing soapaction te timeout traceparent tracestate trailer "
    b"transfer-encoding true-client-ip upgrade upgrade-insecure-requests user-agent vary via "
    b"warning www-authenticate".split()
)

# Families of names: X-*, Sec-*, CORS's, Cloudflare's.  Letters only, and in a packet with a space
# after the colon: a piece of a secret looks like that less than once in a million packets.
_FAMILY: Final = re.compile(rb"(?:x|sec|access-control|cf)-[a-z]+(?:-[a-z]+)*\Z", re.I)

_NOT_TCHAR: Final = re.compile(rb"[^" + TCHAR + rb"]+")
_NOT_VCHAR: Final = re.compile(rb"[^\x21-\x7e]")
_NAME: Final = re.compile(rb"([" + TCHAR + rb"]+)[ \t]*:")
# Two CRs, because text whose line ends were translated twice has them.
_LINE_END: Final = re.compile(rb"\r{0,2}\n|\r")

# The start of a request line, read as leniently as possible.
_METHOD: Final = re.compile(rb"[ \t]*(?:[" + TCHAR + rb"]+[ \t]+)?")

# What may begin a target or the value of a name, in bytes that are no head.
_REVEALING: Final = re.compile(rb"[/?#:@=]")

# Bytes that no header name has, and a target may.
_IN_TARGET: Final = re.compile(rb"[/?#@]")

# A request line among headers: only with a target after it, or HTTP/ at its end.
_STRAY_REQUEST_LINE: Final = re.compile(
    rb"[ \t]*(?:CONNECT[ \t]|[" + TCHAR + rb"]+[ \t](?:[ \t]*(?:/|[A-Za-z]+://)|.*[ \t]HTTP/))",
    re.I | re.S,
)

# The version at the end of a request line, or the start of it.  It has few bytes and no others, so
# that a query with a space in it is not taken for one.
_VERSION: Final = re.compile(rb"[ \t]+(?:H|HT|HTT|HTTP|HTTP/[0-9.]{0,3})?[ \t]*\Z", re.I)
_VERSION_BYTES: Final = 16
_WHOLE_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9][ \t]*\Z", re.I)

# Where userinfo may begin: after "//", or at once without a slash before it (CONNECT).
_BEFORE_USERINFO: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://|//|/.*?//|(?!/)", re.S)

# Host and port (RFC 3986, section 3.2), as far as they differ from "user:password".
_HOST_AND_PORT: Final = re.compile(
    rb"(?:\[[0-9A-Za-z:.%]*\]|[0-9A-Za-z\-._~%!$&'()*+,;=]*)(?::[0-9]{0,5})?([/?]|\Z)"
)

#: ``*`` for every byte except CR and LF, which keep the lines of a packet apart.
_STARS: Final = bytes(byte if byte in b"\r\n" else ord("*") for byte in range(256))


@dataclass(frozen=True, slots=True)
class MaskingPolicy:
    """Which secrets are hidden where an error is shown: in logs, reports, on the status page.

    The usual credentials are always hidden.  Give it to `HangupSite` as ``masking=``:

        HangupSite(resource, masking=MaskingPolicy(extra_fields={"X-Api-Key"}))

    Attributes:
        extra_fields: Names of more headers whose values are secret, as str or bytes, in upper or
            lower case.
        unmasked: Whether to hide nothing at all.
    """

    extra_fields: frozenset[bytes] = frozenset()
    unmasked: bool = False
    _names: re.Pattern[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        must_be("unmasked", self.unmasked, bool)
        names = names_in("extra_fields", self.extra_fields)
        lowered = frozenset(name.lower() for name in names)
        object.__setattr__(self, "extra_fields", lowered)
        object.__setattr__(self, "_names", _pattern_of(SECRET_FIELDS | lowered))

    def is_secret(self, name: bytes) -> bool:
        """Whether the value of the header *name* is to be hidden; junk in *name* is ignored."""
        bare = _NOT_TCHAR.sub(b"", name).lower()
        return bare in SECRET_FIELDS or bare in self.extra_fields

    def secret_names(self, data: bytes | bytearray, start: int = 0) -> list[tuple[int, int]]:
        """The secret names at the starts of lines in *data*, even if line ends tear them.

        Returns:
            Where each name ends, and where its value begins.
        """
        return [
            (name.end("name"), name.end()) if b":" not in name["lead"] else (name.end("name"),) * 2
            for name in self._names.finditer(data, start)
        ]

    def holds_secret(self, fields: Iterable[Field] | None) -> bool:
        """Whether one of *fields* is secret; if they are None (unknown), it may be."""
        return fields is None or any(self.is_secret(name) for name, _ in fields)

    def ends_in_secret(self, fields: Iterable[Field] | None) -> bool:
        """Whether the bytes after *fields* may be the rest of a secret value."""
        secret = fields is None
        for name, _ in fields or ():
            secret = self.is_secret(name) or (secret and not _in_use(name))
        return secret


def _pattern_of(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Matches one of *names* at the start of a line, with junk around it, and the colon after
    it."""
    junk = rb"[^" + TCHAR + rb":]*"
    spelled = (
        junk.join(re.escape(name[i : i + 1]) for i in range(len(name)))
        for name in sorted(names)
        if name and not _NOT_TCHAR.search(name)
    )
    return re.compile(
        rb"(?<![^\r\n])(?P<lead>[^" + TCHAR + rb"\r\n]*)(?P<name>" + rb"|".join(spelled) + rb")"
        rb"(?![" + TCHAR + rb"])(?:[^" + TCHAR + rb":\r\n]*(?::|(?![^\r\n])))?",
        re.I,
    )


def _in_use(name: bytes, *, spaced: bool = True) -> bool:
    """Whether *name* is a name that headers have, so that it is no piece of a secret.

    Args:
        name: The bytes before a colon.
        spaced: Whether a space comes after the colon.
    """
    return name.lower() in FIELD_NAMES or (spaced and _FAMILY.match(name) is not None)


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
        part: The kind of the line.
        line: Its bytes, as far as they are to be shown.
        caret: Index of the byte that always stays visible; past the end for none.
        policy: Which other secrets are hidden.
        after_secret: Whether the line may be the rest of a secret value.
    """
    if policy.unmasked:
        return line
    out = bytearray(line)
    if part in (Part.BODY, Part.CHUNK_SIZE):
        _hide(out, 0, len(out) if after_secret else caret - BODY_CONTEXT_BYTES)
    elif part in (Part.FIELD, Part.TRAILER):
        _hide_section(out, 0, policy, after_secret)
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
        packet: The bytes of the read; the last ones may be missing.
        at: Index in *packet* of the byte that broke the message.
        where: The parser's state at the packet's first byte, and what broke.
        policy: Which other secrets are hidden.
        after_secret: Whether a secret header came before the byte that broke the message.

    Returns:
        As many bytes as *packet* has.
    """
    if policy.unmasked:
        return packet
    start = min(where.message_at, len(packet))
    prefix = b"" if start else where.packet_prefix
    message, begun = prefix + packet[start:], len(prefix)
    out = bytearray(message)
    broken = at - start + begun
    after_secret = after_secret or bool(start and policy.secret_names(packet[:start]))
    _hide_message(out, where.packet_part, broken, where, policy, after_secret)
    if where.caret < len(where.line) and 0 <= broken < len(out):
        out[broken] = message[broken]
    return packet[:start].translate(_STARS) + bytes(out[begun:])


def culprit_index(packet: bytes, bytes_parsed: int, where: Break) -> int:
    """Index in *packet* of the byte that broke the message.

    It may differ from *bytes_parsed*: like llhttp's, that offset is one byte further for a few
    errors.
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
    """Hide the secrets of a message whose first byte belongs to *part*."""
    # Looked for before any of them is hidden, and also in bytes that no head may show.
    dark = secret or bool(policy.secret_names(out))
    body = 0
    if part in (Part.FIELD, Part.TRAILER):
        if where.part is part and where.fields is not None and not out.startswith((b" ", b"\t")):
            # The last of these fields are the lines of the packet before the one that broke.
            broke = broken - where.caret
            lines = sum(begin < until and after <= broke for begin, until, after in _lines(out, 0))
            secret = policy.ends_in_secret(where.fields[: max(0, len(where.fields) - lines)])
        body = _hide_section(out, 0, policy, secret)
    elif part not in (Part.BODY, Part.CHUNK_SIZE):
        start, end, after = next(
            (line for line in _lines(out, 0) if line[0] < line[1]), (0, 0, len(out))
        )
        body = start
        if part is Part.STATUS_LINE and out.startswith(b"HTTP/", start):
            body = _hide_section(out, after, policy, False)
        elif any(start < name <= end for name, _ in policy.secret_names(out[:end])):
            # There was an empty line too many, and this is a header.
            body = _hide_section(out, start, policy, secret)
        elif (
            # The parser took its method, or it looks like one and is not the rest of a secret.
            out.find(b" ", start, min(broken, end)) >= 0
            or (not secret and _like_request_line(out[start:end]))
        ):
            torn = _hide_request_line(out, start, end, broken)
            body = _hide_section(out, after, policy, torn)
            dark = dark or torn
        elif broken >= end:
            # A word alone may be a method, with its target in the next line.
            dark = True
    _hide_body(out, body, broken, where, policy, dark)


def _hide_section(out: bytearray, start: int, policy: MaskingPolicy, secret: bool) -> int:
    """Hide the secrets of a header section; returns where it has ended.

    Args:
        out: The bytes to change.
        start: Where its first line begins.
        policy: Which secrets are hidden.
        secret: Whether that line may be the rest of a secret.
    """
    names = iter(policy.secret_names(out, start))
    name = next(names, None)
    for begin, until, after in _lines(out, start):
        if begin == until:
            return after
        value: int | None = None
        while name is not None and name[0] <= until:
            value = value or name[1]
            name = next(names, None)
        if value is not None:
            while value < until and out[value] in b" \t":
                value += 1
            _hide(out, value, until)
            secret = True
        else:
            secret = _hide_line(out, begin, until, secret)
    return len(out)


def _hide_line(out: bytearray, start: int, end: int, secret: bool) -> bool:
    """Hide the secrets of a line after the request line that begins with no secret name.

    Args:
        out: The bytes to change.
        start: Where the line begins.
        end: Where it ends.
        secret: Whether it may be the rest of a secret.

    Returns:
        Whether the next line may be, too.
    """
    name = _NAME.match(out, start, end)
    if name is not None and _in_use(name[1], spaced=out.startswith(b" ", name.end())):
        return False
    if secret:
        _hide(out, start, end)
        return True
    # An empty line is missing or too many, and this is the next request.
    if _STRAY_REQUEST_LINE.match(out, start, end):
        return _hide_request_line(out, start, end, end)
    colon = out.find(b":", start, end)
    if out.startswith(b"//", colon + 1) or _IN_TARGET.search(
        out, start, end if colon < 0 else colon
    ):
        _hide_target(out, start, end, None)
    # A line without a colon has broken off.
    return colon < 0


def _hide_body(
    out: bytearray, start: int, broken: int, where: Break, policy: MaskingPolicy, dark: bool
) -> None:
    """Hide everything after a head, except a few bytes around the error.

    Args:
        out: The bytes to change.
        start: Where the head has ended.
        broken: Index of the byte that broke the message.
        where: What broke.
        policy: Which secrets are hidden.
        dark: Whether to hide those few bytes, too.
    """
    first = last = broken
    if not dark:
        first -= BODY_CONTEXT_BYTES
        last += 1 + BODY_CONTEXT_BYTES
        # The next request may begin there; only the "@" after a password shows that it is one.
        if revealing := _REVEALING.search(out, broken + 1, last):
            last = revealing.start()
        if out.find(b"@", broken + 1) >= 0:
            last = broken
    trailer = broken - where.caret
    if where.part is Part.TRAILER and trailer >= start:
        first = trailer if dark else min(first, trailer)
        last = max(last, _hide_section(out, trailer, policy, policy.ends_in_secret(where.fields)))
    _hide(out, start, first)
    _hide(out, max(start, last), len(out))


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
        Whether it broke off before the end of its version, so that more of it may come after.
    """
    torn = _WHOLE_VERSION.search(out, max(start, end - _VERSION_BYTES), end) is None
    method = _METHOD.match(out, start, end)
    target = method.end() if method else start
    if method and method[0].strip().upper() == b"CONNECT":
        while out.startswith(b"/", target, end):  # its target is an authority all the same
            target += 1
    # A version counts as far as it was right: everything after the byte that broke it is target.
    known = broken if target <= broken < end else end
    version = _VERSION.search(out, max(target, known - _VERSION_BYTES), known)
    until = version.start() if version else known
    kept = out[until:known]
    # A space alone does not end a target: it may be in a password.
    ended = version is not None and not version[0].isspace()
    _hide_target(out, target, end, until if ended else None)
    out[until:known] = kept
    return torn


def _hide_target(out: bytearray, start: int, end: int, ended: int | None) -> None:
    """Hide the secrets of the request target at ``out[start:end]``.

    Args:
        out: The bytes to change.
        start: Its first byte.
        end: Where all ends that may belong to it.
        ended: Where it ended as a target should; None if it broke off.
    """
    userinfo = _BEFORE_USERINFO.match(out, start, end)
    # After a byte that no target has, anything may come, as in a query.
    ends = [index for mark in b"?#" if (index := out.find(mark, start, end)) >= 0]
    junk = _NOT_VCHAR.search(out, start, end if ended is None else ended)
    if junk and ended is None:
        ends.append(junk.start())
    # The last "@" anywhere: a password may hold "@", "/" and "?" unescaped.
    at = out.rfind(b"@", start, end)
    if userinfo is not None:
        _hide(out, userinfo.end(), at)
        torn = _torn_authority(out, max(userinfo.end(), at + 1), end, ended)
        if torn is not None:
            _hide(out, torn, end)
    elif junk or out.find(b":", start, end) >= 0:
        _hide(out, start + 1, at)
    if ends:
        _hide(out, min(ends) + 1, end)


def _torn_authority(out: bytearray, start: int, end: int, ended: int | None) -> int | None:
    """Where userinfo may be whose "@" did not arrive."""
    host = _HOST_AND_PORT.match(out, start, end if ended is None else ended)
    if host is not None and (host[1] or ended is not None):
        return None
    if start and out[start - 1] in b"/@":
        return start
    # Not everything without "//" is an authority: without a colon it stays.
    colon = out.find(b":", start, end)
    return None if colon < 0 else colon + 1


def _hide(out: bytearray, start: int, end: int) -> None:
    if start < end:
        out[start:end] = out[start:end].translate(_STARS)


def _lines(out: bytearray, start: int) -> Iterator[tuple[int, int, int]]:
    """For each line: where it begins, where it ends without its line end, where the next begins."""
    while start < len(out):
        line_end = _LINE_END.search(out, start)
        end, after = line_end.span() if line_end else (len(out), len(out))
        yield start, end, after
        start = after
