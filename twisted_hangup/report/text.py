"""A peer's bytes as text that is safe to show: printable ASCII and nothing else."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, Final

_NAMED: Final = {0x09: r"\t", 0x0A: r"\n", 0x0D: r"\r", 0x5C: r"\\"}

#: How each byte is shown.  A backslash is doubled, so that the text can be read back.
_SHOWN: Final = [
    _NAMED.get(byte) or (chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02x}")
    for byte in range(256)
]


def visible(data: bytes | str) -> str:
    """*data* with every byte outside 0x20-0x7e escaped, and backslashes doubled.

    A str (the operating system's or OpenSSL's words) counts as its UTF-8 bytes.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    return "".join([_SHOWN[byte] for byte in data])


def shortened(data: bytes, columns: int, *, tail: int = 0) -> str:
    """*data* in at most *columns* columns, with ``...`` in place of what does not fit.

    No escape is cut in two.

    Args:
        data: A peer's bytes.
        columns: How many columns there are; at least 3 more than *tail*.
        tail: How many of them show the end of *data*; the others show its start.
    """
    # Every byte takes at least one column: bytes further from both ends are never shown.
    if len(data) <= columns:
        shown = [_SHOWN[byte] for byte in data]
        if sum(map(len, shown)) <= columns:
            return "".join(shown)
    start = _fitting([_SHOWN[byte] for byte in data[: columns - tail]], columns - tail - 3)
    end = _fitting([_SHOWN[byte] for byte in reversed(data[-tail:])], tail) if tail else []
    return "".join([*start, "...", *reversed(end)])


def _fitting(shown: list[str], columns: int) -> list[str]:
    """The longest start of *shown* that fits into *columns* columns."""
    for count, text in enumerate(shown):
        columns -= len(text)
        if columns < 0:
            return shown[:count]
    return shown


def peer_text(peer: Any) -> str:
    """An address as ``host:port``, ``[host]:port`` for IPv6, ``unix`` for a UNIX socket.

    If a proxy has named no port, it is the host alone.

    Args:
        peer: Twisted's ``IAddress`` of the client, or None (``unknown``).
    """
    if peer is None:
        return "unknown"
    host, port = getattr(peer, "host", None), getattr(peer, "port", None)
    if host is None or port is None:
        return "unix" if hasattr(peer, "name") else visible(re.sub(r"\(.*", "", repr(peer)))
    if not port:
        return visible(str(host))
    return visible(f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}")


def timestamp(seconds: float) -> str:
    """A Unix time in ISO 8601, UTC, with milliseconds: ``2023-11-14T22:13:20.123Z``."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
