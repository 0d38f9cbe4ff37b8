"""Judges the head of an HTTP/2 request by the rules that HTTP/1.1 has for the same things.

RFC 9113, section 8.  For a malformed request, h2 would end the whole connection, and with it the
requests of everybody behind the same proxy.  Section 8.1.1 makes it an error of one stream.  So h2
only decodes the headers, and this module judges them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ...errors import PARSE_ERRORS, HeaderOverflow, ParseError, Phase
from ...events import Break, Field, Part, RequestHead
from ...limits import Limits
from ...parser import grammar, target
from ...parser import refusals as why
from ...parser.framing import LENGTH_OVERFLOW, refused_host
from ...parser.refusals import Why
from ...parser.scan import Methods, methods_of
from ...parser.target import same_host

#: What each field adds to the size of a header list, besides its bytes (section 10.5.1).
_FIELD_OVERHEAD: Final = 32
#: A header list up to this many times the announced size is still decoded, and answered 431 on its
#: stream.  A longer one ends the connection (section 10.5.1).
_MERCY: Final = 4

_PSEUDO_FIELDS: Final = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
#: RFC 9113, section 8.2.2
CONNECTION_FIELDS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
#   field-name = token, without upper case                        RFC 9113, section 8.2.1
_NAME: Final = re.compile(rb"[" + grammar.TCHAR.replace(b"A-Z", b"") + rb"]+")
#: The bytes that `Lenience.control_bytes` allows in a value.
_LENIENT_VALUE: Final = re.compile(rb"[^\r\n\0]+")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")
_COMMON_PATH: Final = re.compile(rb"/[" + grammar.TARGET_CHAR + rb"?]*")

#: Most digits of a Content-Length that cannot overflow, without leading zeros.
_LENGTH_DIGITS: Final = len(str(LENGTH_OVERFLOW))

#: Bytes of a target or value that a report shows at most.
_MOST_SHOWN: Final = 1024


def announced_list_bytes(limits: Limits) -> int:
    """SETTINGS_MAX_HEADER_LIST_SIZE: a larger list is always refused."""
    most_fields = limits.head_fields or limits.head_bytes
    return limits.head_bytes + _FIELD_OVERHEAD * most_fields


def largest_list_bytes(limits: Limits) -> int:
    """The size above which a list is not even decoded."""
    return _MERCY * announced_list_bytes(limits)


def judge_head(fields: Iterable[Field], limits: Limits) -> tuple[RequestHead, ParseError | None]:
    """Read the request in *fields*, and say why it is refused, if it is.

    Args:
        fields: As h2 has decoded them, with the pseudo-headers.

    Returns:
        The request, as far as it is valid, with ``:authority`` as its first field ``host``; and the
        error, or None.  Of CONNECT only the fields are judged: it is answered 501.
    """
    head = RequestHead(b"", b"", b"2")
    pseudo: dict[bytes, bytes] = {}
    fault: tuple[Why, bytes] | None = None
    for name, value in fields:
        if name[:1] != b":":
            head.fields.append((name, value))
        elif name in pseudo or head.fields or name not in _PSEUDO_FIELDS:
            fault = fault or (why.PSEUDO_FIELD, name)
        else:
            pseudo[name] = value
    head.method = pseudo.get(b":method", b"")
    authority = pseudo.get(b":authority")
    connects = head.method == b"CONNECT"
    head.target = (authority if connects else pseudo.get(b":path")) or b""
    broken = (
        fault
        or _refused_target_size(head.target, authority or b"", limits)
        or _refused_size(len(head.target) + len(authority or b""), head.fields, limits)
        or _refused_fields(head.fields, limits)
        or _refused_length(head, limits)
    )
    if broken is None and not connects:
        broken = _refused_request(head, pseudo, limits) or _refused_authority(
            head, authority, pseudo[b":scheme"], limits
        )
    error = broken and refusal(broken[0], head, broken[1], "head", authority)
    if isinstance(error, HeaderOverflow):
        # The error is kept for a while, and must not keep these.
        head.target, head.fields = head.target[: limits.head_bytes], []
    elif authority is not None:
        others = [field for field in head.fields if field[0] != b"host"]
        head.fields = [(b"host", authority), *others]
    return head, error


def judge_trailers(fields: Iterable[Field], head: RequestHead, limits: Limits) -> ParseError | None:
    """Why the trailers of *head*'s request are refused, or None."""
    trailers = list(fields)
    broken = _refused_size(0, trailers, limits) or _refused_fields(trailers, limits)
    return broken and refusal(broken[0], head, broken[1], "body")


def judge_length(head: RequestHead, received: int, *, ended: bool) -> ParseError | None:
    """Why *head*'s request is refused for the length of its body, or None.

    RFC 9113, section 8.1.1.

    Args:
        received: Bytes of content so far, without padding.
        ended: Whether the body is complete.
    """
    announced = head.content_length
    if announced is None or received == announced or (received < announced and not ended):
        return None
    fault = why.BODY_TOO_LONG if received > announced else why.END_OF_INPUT
    return refusal(fault, head, b"content-length", "body")


def refusal(
    fault: Why,
    head: RequestHead | None,
    field: bytes | None,
    phase: Phase,
    authority: bytes | None = None,
) -> ParseError:
    """The error for *fault*, of the class that belongs to its code."""
    kind = PARSE_ERRORS.get(fault.code, ParseError)
    broke_at = None
    if head is not None and phase == "head":
        broke_at = _shown(head, field or b"", authority)
    return kind(
        fault.reason,
        code=fault.code,
        phase=phase,
        request=head,
        field=field or None,
        broke_at=broke_at,
    )


def _shown(head: RequestHead, field: bytes, authority: bytes | None) -> Break:
    """Where *head* broke, written as HTTP/1.1 would have it, for reports."""
    request_line = b"%b %b HTTP/2" % (head.method, head.target[:_MOST_SHOWN])
    value = next((value for name, value in head.fields if name == field), None)
    if field == b":authority":
        value = authority
    if value is None:
        return Break(Part.REQUEST_LINE, request_line, request_line, len(request_line))
    line = b"%b: %b" % (field, value[:_MOST_SHOWN])
    return Break(Part.FIELD, request_line, line, len(line))


def _refused_size(so_far: int, fields: list[Field], limits: Limits) -> tuple[Why, bytes] | None:
    if limits.head_fields and len(fields) > limits.head_fields:
        return why.HEADER_OVERFLOW, fields[limits.head_fields][0]
    for name, value in fields:
        so_far += len(name) + len(value)
        if so_far >= limits.head_bytes:
            return why.HEADER_OVERFLOW, name
    return None


def _refused_target_size(path: bytes, authority: bytes, limits: Limits) -> tuple[Why, bytes] | None:
    if len(path) >= limits.head_bytes:
        return why.HEADER_OVERFLOW, b":path"
    if len(path) + len(authority) >= limits.head_bytes:
        return why.HEADER_OVERFLOW, b":authority"
    return None


def _refused_fields(fields: list[Field], limits: Limits) -> tuple[Why, bytes] | None:
    value_of = _LENIENT_VALUE if limits.lenience.control_bytes else grammar.FIELD_VALUE
    for name, value in fields:
        if not _NAME.fullmatch(name):
            return (why.PSEUDO_FIELD if name[:1] == b":" else why.FIELD_TOKEN), name
        if value and not value_of.fullmatch(value):
            return why.VALUE_CHAR, name
        if value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
            return why.VALUE_SPACE, name
        if name in CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
            return why.CONNECTION_FIELD, name
    return None


def _refused_length(head: RequestHead, limits: Limits) -> tuple[Why, bytes] | None:
    """Set the length that *head* announces."""
    for name, value in head.fields:
        if name != b"content-length":
            continue
        if head.content_length is not None:
            return why.CL_TWICE, name
        if not value.isdigit():  # int() accepts more than digits
            return why.CL_CHAR, name
        digits = value.lstrip(b"0") or b"0"
        # int() raises for thousands of digits.
        if len(digits) > _LENGTH_DIGITS or int(digits) >= LENGTH_OVERFLOW:
            return why.CL_OVERFLOW, name
        head.content_length = int(digits)
    if limits.body_bytes and (head.content_length or 0) > limits.body_bytes:
        return why.BODY_TOO_LARGE, b"content-length"
    return None


def _refused_request(
    head: RequestHead, pseudo: dict[bytes, bytes], limits: Limits
) -> tuple[Why, bytes] | None:
    if head.method == Methods.HTTP2 or head.method not in methods_of(limits.methods).http:
        return why.INVALID_METHOD, b":method"
    fault = refused_path(head.method, head.target)
    if fault is not None:
        return fault, b":path"
    if not _SCHEME.fullmatch(pseudo.get(b":scheme", b"")):
        return why.PSEUDO_FIELD, b":scheme"
    return (why.PSEUDO_FIELD, b":protocol") if b":protocol" in pseudo else None


def refused_path(method: bytes, path: bytes) -> Why | None:
    """Why *path* is not valid as ``:path``, or None.

    It has to be in origin form, or ``*`` for OPTIONS.  An absolute URI is refused too: its
    authority would compete with ``:authority``.
    """
    if _COMMON_PATH.fullmatch(path):
        return None
    at, part = 0, target.START
    while at < len(path):
        if part.run is not None and (run := part.run.match(path, at)):
            at = run.end()
            if at == len(path):
                break
        byte = path[at]
        if byte not in part.follows:
            return part.swallowed.get(byte, part.otherwise)
        part = part.follows[byte]
        at += 1
    if not part.may_end:
        return part.otherwise
    if path == b"*" and method == b"OPTIONS":
        return None
    return why.TARGET_FRAGMENT if b"#" in path else why.TARGET_FORM


def _refused_authority(
    head: RequestHead, authority: bytes | None, scheme: bytes, limits: Limits
) -> tuple[Why, bytes] | None:
    """RFC 9113, section 8.3.1.  Without ``Limits.require_host`` they still may not differ."""
    hosts = [value for name, value in head.fields if name == b"host"]
    if authority is not None:
        if any(not same_host(host, authority, scheme) for host in hosts):
            return why.HOSTS_DISAGREE, b"host"
        hosts = [authority]
    fault = refused_host(b"1.1", hosts, limits)
    if fault is None and limits.require_host and not hosts[0]:
        fault = why.HOST_INVALID
    return fault and (fault, b"host" if authority is None else b":authority")
