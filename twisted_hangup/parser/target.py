"""The request target, byte by byte, in the order llhttp reads a URL (RFC 9112, section 3.2).

Each part of a URL is a row: its bytes, the bytes that lead to another part, and the refusal of all
others.  The rows know no request line; `start_line` walks them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from . import grammar
from . import refusals as why
from .refusals import Why


@dataclass(slots=True, eq=False)
class TargetPart:
    """A part of a URL.

    Attributes:
        otherwise: Why a byte that is not listed here is refused, at that byte.
        run: The bytes of this part; None if every byte leads to another part.
        follows: Byte -> the part it leads to.
        swallowed: Byte -> why it is refused; llhttp points after these.
        may_end: Whether SP, CR or LF may end the target here.
    """

    otherwise: Why
    run: re.Pattern[bytes] | None = None
    follows: Mapping[int, TargetPart] = field(default_factory=dict)
    swallowed: Mapping[int, Why] = field(default_factory=dict)
    may_end: bool = False


def _each(characters: Iterable[int], part: TargetPart) -> dict[int, TargetPart]:
    return dict.fromkeys(characters, part)


_LETTERS: Final = [byte for byte in range(256) if grammar.SCHEME.fullmatch(bytes([byte]))]
_AUTHORITY: Final = [byte for byte in range(256) if grammar.AUTHORITY.fullmatch(bytes([byte]))]

_TAB_OR_FF: Final = dict.fromkeys(b"\t\f", why.URL_CHARACTERS)
_BLANK: Final = dict.fromkeys(b"\t\f \r\n", why.URL_CHARACTERS)

_FRAGMENT: Final = TargetPart(
    why.URL_FRAGMENT, grammar.FRAGMENT, swallowed=_TAB_OR_FF, may_end=True
)
_QUERY: Final = TargetPart(
    why.URL_QUERY, grammar.QUERY, {ord("#"): _FRAGMENT}, _TAB_OR_FF, may_end=True
)
_PATH: Final = TargetPart(
    why.URL_PATH,
    grammar.PATH,
    {ord("?"): _QUERY, ord("#"): _FRAGMENT},
    _TAB_OR_FF,
    may_end=True,
)
_AFTER_AUTHORITY: Final = {ord("/"): _PATH, ord("?"): _QUERY}

#: How CONNECT's target starts, and every other target goes on after "//".
AUTHORITY: Final = TargetPart(why.URL_SERVER, grammar.AUTHORITY, swallowed=_TAB_OR_FF, may_end=True)
_AFTER_AT: Final = TargetPart(
    why.URL_SERVER,
    follows=_each(_AUTHORITY, AUTHORITY) | _AFTER_AUTHORITY,
    swallowed=_TAB_OR_FF | {ord("@"): why.URL_DOUBLE_AT},
    may_end=True,
)
AUTHORITY.follows = _AFTER_AUTHORITY | {ord("@"): _AFTER_AT}

_SECOND_SLASH: Final = TargetPart(why.URL_SCHEMA, follows={ord("/"): AUTHORITY})
_FIRST_SLASH: Final = TargetPart(
    why.URL_SCHEMA, follows={ord("/"): _SECOND_SLASH}, swallowed=_BLANK
)
_SCHEME: Final = TargetPart(
    why.URL_SCHEMA, grammar.SCHEME, {ord(":"): _FIRST_SLASH}, swallowed=_BLANK
)

#: Scheme -> its default port.
DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}

#: How every target except CONNECT's starts.
START: Final = TargetPart(
    why.URL_START,
    follows=_each(_LETTERS, _SCHEME) | _each(b"/*", _PATH),
    swallowed=_BLANK,
)


def host_and_path(target: bytes) -> tuple[bytes, bytes] | None:
    """The host and path of a *target* in absolute-form (RFC 9112, section 3.2.2).

    Returns:
        The host, which replaces Host, and a path that starts with ``/``, without query.  A URL that
        is neither ``http`` nor ``https`` is a path as a whole, after ``/``: no resource serves it.
        None if *target* is in another form.
    """
    absolute = grammar.ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        return None
    scheme, authority, rest = absolute.groups()
    if scheme.lower() not in (b"http", b"https"):
        rest = b"/" + target
    return authority, rest.partition(b"?")[0] or b"/"


def same_host(one: bytes, other: bytes, scheme: bytes) -> bool:
    """Whether two values of Host mean the same server in a URL of that *scheme*.

    By RFC 9110, section 4.2.3: names and schemes are case-insensitive, and a missing port is the
    scheme's default.
    """
    return one == other or _normalised(one, scheme) == _normalised(other, scheme)


def _normalised(host: bytes, scheme: bytes) -> bytes:
    name, colon, port = host.lower().rpartition(b":")
    if not colon or b"]" in port:  # of an IPv6 address
        return host.lower()
    default = DEFAULT_PORTS.get(scheme.lower())
    is_default = not port or (default is not None and port == b"%d" % default)
    return name if is_default else name + b":" + port


def refused_form(method: bytes, target: bytes) -> Why | None:
    """Why *target*, which llhttp accepts, is in none of the forms that *method* may have, or None.

    CONNECT's authority-form is not judged: no resource answers such a request.

    Returns:
        None for origin-form and absolute-form without a fragment, and for OPTIONS asterisk-form
        (RFC 9112, sections 3.2.1, 3.2.2 and 3.2.4).
    """
    if method == b"CONNECT":
        return None
    if b"#" in target:
        return why.TARGET_FRAGMENT
    if target.startswith(b"/") or grammar.ABSOLUTE_FORM.fullmatch(target):
        return None
    return None if target == b"*" and method == b"OPTIONS" else why.TARGET_FORM
