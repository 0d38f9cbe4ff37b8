"""Makes an endpoint of ``--port`` or ``--status``; a mistake is explained without Twisted's
words."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import UsageError

from ..transport.endpoint import hangup_endpoint
from .certificates import renewed, root_in_directory, unusable_file

#: Most connections that wait to be accepted: nginx's number.  After that the kernel drops a
#: client's SYN, and the client tries again a second later.
BACKLOG: Final = 511

_HOST_AND_PORT: Final = re.compile(r"\[?(?P<host>[^][]+)\]?:(?P<port>[0-9]+)")
_UNKNOWN_WORD: Final = re.compile(r"unexpected keyword argument '(\w+)'")
_MISSING: Final = re.compile(r"missing \d+ required positional arguments?: (.+)")


def endpoint(description: str, reactor: Any, option: str = "--port") -> IStreamServerEndpoint:
    """The endpoint for *description*, in Twisted's syntax.

    Raises:
        UsageError: There is no such endpoint, or an argument is missing.
    """
    try:
        if re.fullmatch(r"unix:(address=)?(:.*)?", description):
            raise ValueError("the path of the socket is missing, as in unix:/run/web.sock")
        if description.startswith("tls:") and (words := root_in_directory(description)):
            raise ValueError(words)
        port = _listening(description, reactor)
        return renewed(description, port, hangup_endpoint(port))
    except Exception as error:  # a parser of endpoints may raise anything
        raise UsageError(f"{option}: {description!r}: {_reworded(description, error)}") from error


def _listening(description: str, reactor: Any) -> IStreamServerEndpoint:
    """Twisted's endpoint, with our backlog if it has one and *description* sets none."""
    port: IStreamServerEndpoint
    if "backlog=" not in description:
        with suppress(TypeError):  # it has none, or it was given by position
            port = serverFromString(reactor, f"{description}:backlog={BACKLOG}")
            return port
    port = serverFromString(reactor, description)
    return port


def _reworded(description: str, error: Exception) -> str:
    """What *error* says, for readers who do not know Twisted's source."""
    kind, text = description.partition(":")[0], str(error)
    if text.startswith("Unknown endpoint type"):
        return _unknown(description)
    if kind == "systemd" and isinstance(error, (IndexError, KeyError)):
        return "systemd has passed no such socket"
    if isinstance(error, TypeError):
        if unknown := _UNKNOWN_WORD.search(text):
            return f"{kind} has no option {unknown[1]!r}"
        if missing := _MISSING.search(text):
            return f"{kind} needs {missing[1]}"
        return f"too many parts for {kind}, or a colon without a backslash before it"
    if kind in ("ssl", "tls") and (words := unusable_file(description)):
        return words
    if text.startswith("invalid literal for int()"):
        return f"{text.rpartition(': ')[2]} is not a number"
    return " ".join(text.split())


def _unknown(description: str) -> str:
    address = _HOST_AND_PORT.fullmatch(description)
    if address is None or not re.search(r"[.:]|^localhost$", address["host"]):
        kind = description.partition(":")[0]
        return f"{kind!r} is not a kind of endpoint, such as tcp, tcp6, ssl, unix and systemd"
    host, port = address["host"], address["port"]
    tcp = "tcp6" if ":" in host else "tcp"
    escaped = host.replace(":", r"\:")
    return f"to listen on one address, write {tcp}:{port}:interface={escaped}"
