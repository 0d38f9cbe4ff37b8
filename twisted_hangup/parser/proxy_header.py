"""Checks a header of the PROXY protocol: whether it is complete, and where it is broken.

HAProxy defines the protocol (``doc/proxy-protocol.txt``, section 2): a line of text in version 1, a
binary block in version 2.  This module takes nothing out of it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from ..errors import ParseError
from ..events import Break, Part
from . import refusals as why
from .refusals import Why

#: The first bytes of version 2; version 1 begins with ``PROXY`` and a space.
V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V1_SIGNATURE: Final = b"PROXY "

#: Longest header of version 1, with its CR LF (section 2.1).
V1_MOST_BYTES: Final = 107

#: Where the fixed part of a version 2 header ends, and the addresses begin.
_V2_FIXED: Final = 16

#: Bytes of addresses for each address family of version 2 (section 2.2); AF_UNSPEC: any.
_V2_ADDRESS_BYTES: Final = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}
_V2_TRANSPORTS: Final = frozenset({0x0, 0x1, 0x2})
_LOCAL: Final = 0x20
_PROXY: Final = 0x21

_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")


def header_length(data: bytes) -> int | None:
    """Judge *data*, the first bytes of a connection.

    Returns:
        The length of the header that *data* begins with; None if more bytes are needed.

    Raises:
        ParseError: ``ERR_PROXY_PROTOCOL``: there is no such header, or it is broken.
    """
    if data[:12] == V2_SIGNATURE[: len(data)]:
        return _v2_length(data)
    if data[:6] == V1_SIGNATURE[: len(data)]:
        return _v1_length(data)
    both = (V2_SIGNATURE, V1_SIGNATURE)
    at = max(_common_prefix(data, signature) for signature in both)
    raise _broken(why.PROXY_MISSING, data, at, at + 1)


def cut_short(data: bytes) -> ParseError:
    """The error of a header of which only *data* has come."""
    error = _broken(why.PROXY_CUT, data, len(data), len(data))
    error.raw_packet, error.bytes_parsed = None, 0
    return error


def _common_prefix(data: bytes, signature: bytes) -> int:
    pairs = zip(data, signature, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(signature))


def _v1_length(data: bytes) -> int | None:
    end = data.find(b"\r\n", 0, V1_MOST_BYTES)
    if end < 0:
        if len(data) < V1_MOST_BYTES:
            return None
        raise _broken(why.PROXY_TOO_LONG, data, V1_MOST_BYTES - 1, V1_MOST_BYTES)
    words = data[:end].split(b" ")
    at = len(words[0]) + 1
    if words[1] == b"UNKNOWN":
        return end + 2  # the rest of the line is to be ignored
    if words[1] not in (b"TCP4", b"TCP6"):
        raise _broken(why.PROXY_PROTOCOL, data, at, end)
    address = IPv4Address if words[1] == b"TCP4" else IPv6Address
    for number, word in enumerate(words[1:]):
        if number in (1, 2) and not _is_address(word, address):
            raise _broken(why.PROXY_ADDRESS, data, at, end)
        if number in (3, 4) and not (_PORT.fullmatch(word) and int(word) <= 0xFFFF):
            raise _broken(why.PROXY_PORT, data, at, end)
        if number > 4:
            raise _broken(why.PROXY_END, data, at - 1, end)
        at += len(word) + 1
    if len(words) < 6:
        raise _broken(why.PROXY_TOO_SHORT, data, end, end)
    return end + 2


def _is_address(word: bytes, address: type[IPv4Address] | type[IPv6Address]) -> bool:
    try:
        address(word.decode("ascii"))
    except ValueError:
        return False
    return b"%" not in word  # a scope means nothing on another machine


def _v2_length(data: bytes) -> int | None:
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise _broken(why.PROXY_COMMAND, data, 12, 13)
    if len(data) > 13 and (
        data[13] >> 4 not in _V2_ADDRESS_BYTES or data[13] & 0xF not in _V2_TRANSPORTS
    ):
        raise _broken(why.PROXY_FAMILY, data, 13, 14)
    if len(data) < _V2_FIXED:
        return None
    length = int.from_bytes(data[14:16], "big")
    if data[12] == _PROXY and length < _V2_ADDRESS_BYTES[data[13] >> 4]:
        raise _broken(why.PROXY_TOO_SHORT, data, 15, 16)
    whole = _V2_FIXED + length
    return whole if len(data) >= whole else None


def _broken(fault: Why, data: bytes, at: int, end: int) -> ParseError:
    """The refusal of *data* at index *at*; the shown part of it ends at *end*."""
    return ParseError(
        fault.reason,
        code=fault.code,
        phase="handshake",
        raw_packet=data[:0x10000],
        bytes_parsed=at,
        offset=at,
        broke_at=Break(Part.EMPTY_LINE, b"", data[:end], min(at, end)),
    )
