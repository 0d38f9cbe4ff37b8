"""Words of a command line as numbers, names and endpoints; a mistake is a `UsageError`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.python.usage import UsageError

from ..limits import KIB, MIB
from ..parser.grammar import TOKEN

_UNITS: Final = {"": 1, "k": KIB, "m": MIB, "g": KIB * MIB}
_SIZE: Final = re.compile(r"([0-9]{1,15})([kmg]?)", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,15}", re.ASCII)

Coerce = Callable[[str], Any]


def size(option: str, least: int = 0) -> Coerce:
    """A number of bytes, *least* or more, with k, m or g for units of 1024."""

    def coerce(text: str) -> int:
        match = _SIZE.fullmatch(text.lower())
        if match is None:
            raise UsageError(f"--{option}: {text!r} is not a number of bytes (such as 16k)")
        number = int(match[1]) * _UNITS[match[2]]
        if number < least:
            raise UsageError(f"--{option}: must be at least {least}")
        return number

    return coerce


def size_text(number: int) -> str:
    """*number* of bytes as `size` reads it, in the largest unit that fits."""
    for unit in ("g", "m", "k"):
        if number and number % _UNITS[unit] == 0:
            return f"{number // _UNITS[unit]}{unit}"
    return str(number)


def count(option: str) -> Coerce:
    """A whole number, 0 or more."""

    def coerce(text: str) -> int:
        if not _COUNT.fullmatch(text):
            raise UsageError(f"--{option}: {text!r} is not a whole number")
        return int(text)

    return coerce


def seconds(option: str) -> Coerce:
    """A number of seconds, 0 or more."""

    def coerce(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise UsageError(f"--{option}: {text!r} is not a number of seconds")
        return number

    return coerce


def one_of(option: str, words: Sequence[str]) -> Coerce:
    """One of *words*."""

    def coerce(text: str) -> str:
        if text not in words:
            raise UsageError(f"--{option}: {text!r} is none of {', '.join(words)}")
        return text

    return coerce


def token(option: str, name: str) -> bytes:
    """A token (RFC 9110, section 5.6.2), which methods and field names are."""
    encoded = name.encode("utf-8", "surrogateescape")
    if not TOKEN.fullmatch(encoded):
        raise UsageError(f"{option}: {name!r} is not a token")
    return encoded


def endpoint_text(option: str, port: str, interface: str = "") -> tuple[str, str]:
    """What the operator calls an endpoint, and its description in Twisted's words.

    Args:
        option: Such as ``--port``.
        port: A port number, or an endpoint already.
        interface: The IPv4 address that a mere number listens on; all by default.
    """
    if port.isascii() and port.isdigit():
        if int(port) > 0xFFFF:
            raise UsageError(f"{option}: {port} is not a port number (0 to 65535)")
        return f"port {port}", f"tcp:{port}" + (f":interface={interface}" if interface else "")
    if ":" not in port:
        raise UsageError(f"{option}: {port!r} is neither a port number nor an endpoint")
    if re.match(r"haproxy:(ssl|tls)\b", port):
        # Twisted would expect the PROXY line inside of TLS, where no proxy puts it.
        raise UsageError(
            f"{option}: {port!r}: the PROXY header comes before TLS, not inside it; let the "
            "proxy end TLS and use haproxy:tcp:PORT"
        )
    return port, port
