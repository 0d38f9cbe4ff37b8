"""Reads a whole header section in one pattern match, if it is an ordinary one.

It returns the section's meaning, or nothing.  Anything unusual or wrong is left to the exact
reader, which alone refuses.  So the two cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..events import Field
from ..limits import Limits
from . import grammar
from .framing import (
    CHUNKED,
    UPGRADE,
    asks_for_upgrade,
    connection_flags,
    persists,
    refused_host,
)

#: The fields that mean something for the message or the connection; most fields do not.
_TELLING: Final = frozenset(
    {
        *(b"connection", b"content-length", b"host", b"proxy-connection"),
        *(b"transfer-encoding", b"upgrade"),
    }
)


@dataclass(slots=True)
class FieldBlock:
    """A header section as received, and what it means after ``HTTP/`` *version*.

    Attributes:
        ends_message: Whether the message ends here: without a body, and without an upgrade.
    """

    raw: bytes
    version: bytes
    fields: list[Field]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    upgrade: bool
    ends_message: bool = field(init=False)

    def __post_init__(self) -> None:
        self.ends_message = not (self.upgrade or self.chunked or self.content_length)

    def copy(self) -> FieldBlock:
        """A copy for another client, whose handlers may change its list of fields."""
        return FieldBlock(
            self.raw,
            self.version,
            self.fields[:],
            self.content_length,
            self.chunked,
            self.keep_alive,
            self.upgrade,
        )


def read_block(data: bytes, at: int, version: bytes, limits: Limits) -> FieldBlock | None:
    """Read the header section that starts at ``data[at]``, if it is complete and ordinary."""
    section = grammar.FIELD_BLOCK.match(data, at)
    if section is None:
        return None
    raw = section.group()
    fields = grammar.FIELD_LINES.findall(raw)
    if 0 < limits.head_fields < len(fields):
        return None
    length: int | None = None
    hosts: list[bytes] = []
    flags = 0
    for name, value in fields:
        lowered = name.lower()
        if lowered not in _TELLING:
            continue
        if lowered == b"host":
            hosts.append(value)
        elif lowered == b"connection" or lowered == b"proxy-connection":
            flags |= connection_flags(value)
        elif lowered == b"content-length":
            if length is not None or not grammar.COMMON_LENGTH.fullmatch(value):
                return None
            length = int(value)
        elif lowered == b"transfer-encoding":
            if flags & CHUNKED or value.lower() != b"chunked":
                return None
            flags |= CHUNKED
        elif lowered == b"upgrade" and value:
            flags |= UPGRADE
    if flags & CHUNKED and (length is not None or version == b"1.0"):
        return None
    if refused_host(version, hosts, limits) is not None:
        return None
    if 0 < limits.body_bytes < (length or 0):
        return None
    return FieldBlock(
        raw,
        version,
        fields,
        length,
        bool(flags & CHUNKED),
        persists(version, flags),
        asks_for_upgrade(flags),
    )
