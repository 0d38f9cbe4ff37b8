"""What the header means for the message and the connection; for both readers, and for servers.

RFC 9112, sections 3.2 and 9.3; RFC 9110, sections 7.8 and 10.1.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..events import Field, RequestHead
from ..limits import Limits
from . import grammar
from . import refusals as why
from .refusals import Why

#: Flags, as llhttp keeps them.
CLOSE: Final = 1
KEEP_ALIVE: Final = 2
CONNECTION_UPGRADE: Final = 4
UPGRADE: Final = 8
CHUNKED: Final = 16
CONTENT_LENGTH: Final = 32
TRANSFER_ENCODING: Final = 64

#: A length that does not fit in 63 bits is negative for some recipients.
LENGTH_OVERFLOW: Final = 2**63

_OPTIONS: Final = {b"close": CLOSE, b"keep-alive": KEEP_ALIVE, b"upgrade": CONNECTION_UPGRADE}


def connection_flags(value: bytes) -> int:
    """The flags of a Connection or Proxy-Connection value."""
    flags = 0
    for option in value.lower().split(b","):
        flags |= _OPTIONS.get(option.strip(b" \t"), 0)
    return flags


def persists(version: bytes, flags: int) -> bool:
    """Whether another request may follow (RFC 9112, section 9.3), by llhttp's rules."""
    return not flags & CLOSE if version == b"1.1" else bool(flags & KEEP_ALIVE)


def asks_for_upgrade(flags: int) -> bool:
    """Whether the fields ask for another protocol (RFC 9110, section 7.8)."""
    return bool(flags & UPGRADE and flags & CONNECTION_UPGRADE)


def refused_host(version: bytes, hosts: list[bytes], limits: Limits) -> Why | None:
    """What is wrong with the values of all Host fields (RFC 9112, section 3.2), or None.

    HTTP/1.0 may have none.  No version may have several, or an invalid one.
    """
    if not limits.require_host:
        return None
    if not hosts:
        return why.HOST_MISSING if version == b"1.1" else None
    if len(hosts) > 1:
        return why.HOST_TWICE
    return None if grammar.HOST.fullmatch(hosts[0]) else why.HOST_INVALID


def knows_expectation(fields: Iterable[Field]) -> bool:
    """Whether *fields* expect nothing but ``100-continue`` (RFC 9110, section 10.1.1)."""
    return all(
        value.lower() == b"100-continue" for name, value in fields if name.lower() == b"expect"
    )


def unserved_status(head: RequestHead, expectation_known: bool | None = None) -> int | None:
    """The status for a valid request that no resource may see; None for all others.

    501 if it asks for a tunnel (RFC 9110, section 9.3.6), 417 if it expects something unknown.  An
    Expect in HTTP/1.0 has no meaning.

    Args:
        head: The request.
        expectation_known: The result of `knows_expectation` for its fields, if the caller has it.
    """
    if head.method == b"CONNECT":
        return 501
    if head.version == b"1.0":
        return None
    known = knows_expectation(head.fields) if expectation_known is None else expectation_known
    return None if known else 417
