"""Where a reverse proxy sends its requests, and how it writes them (RFC 9112, section 3).

Whatever the front accepts, no head is sent that another parser could read differently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from .._arguments import must_be
from ..client.url import host_and_port, shown_url
from ..events import Field
from ..parser.grammar import FIELD_CHAR, HOST, TCHAR
from ..parser.target import DEFAULT_PORTS

#: Scheme and authority of a target in absolute form (RFC 9112, section 3.2.2).
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?@]*@)?([^/?]*)")

#: A path segment that leads up for servers that read "\" as "/", or "..;" as "..".
_UPWARDS: Final = re.compile(rb"(?:^|[/\\])\.\.(?:[/\\;]|$)")

_USERINFO: Final = re.compile(r"\s*(?:[^/?#]*:)?//[^/?#]*@")

#: What the URL of a server on a UNIX socket begins with; its path follows, relative or absolute.
_UNIX: Final = "unix:"

_PATH: Final = re.compile(r"(?:/[!-~]*)?")

# Nothing laxer than these is sent to other parsers.  No "#" in the target: for one server a part
# of the path comes after it, for another it does not.
_REQUEST_LINE: Final = re.compile(rb"[%b]+ [!\"$-~]+ HTTP/1\.1\r\n" % TCHAR)
_FIELD_SECTION: Final = re.compile(rb"(?:[%b]+: [%b]*\r\n)*\r\n" % (TCHAR, FIELD_CHAR))


class CannotForward(Exception):
    """A request that is not passed on; the text says why, for the client to read."""


def request_line(method: bytes, target: bytes) -> bytes:
    """The first line of a request, with its line end.

    Raises:
        CannotForward: It could be read in another way than it is meant.
    """
    line = b"%b %b HTTP/1.1\r\n" % (method, target)
    if not _REQUEST_LINE.fullmatch(line):
        raise _malformed()
    return line


def field_section(fields: Sequence[Field]) -> bytes:
    """The header of a request, with the empty line.

    Raises:
        CannotForward: A field could be read in another way than it is meant.
    """
    lines = [b"%b: %b\r\n" % field for field in fields]
    lines.append(b"\r\n")
    section = b"".join(lines)
    # More line ends than lines: a part of one has become a line of its own.
    if not _FIELD_SECTION.fullmatch(section) or section.count(b"\r\n") != len(lines):
        raise _malformed()
    return section


def _malformed() -> CannotForward:
    return CannotForward("its method, target or fields have bytes that are not allowed there")


def host_asked_for(target: bytes, hosts: Sequence[bytes]) -> bytes:
    """The host that the client means: of a target in absolute form, else of its Host.

    Returns:
        Host and port as they came; ``b""`` if there are none.

    Raises:
        CannotForward: There are several hosts, or an invalid one.  Without ``Limits.require_host``
            such requests come this far.
    """
    if absolute := _ABSOLUTE.match(target):
        hosts = [absolute[1]]
    if len(hosts) > 1:
        raise CannotForward("it has more than one Host")
    if hosts and not _is_host(hosts[0]):
        raise CannotForward("its Host is not the name of a host")
    return hosts[0] if hosts else b""


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return HOST.fullmatch(value) is not None


class Upstream:
    """The upstream server.

    Args:
        url: As the operator wrote it.

    Attributes:
        url: The same.
        host: Name or address to connect to.
        port: The port to connect to.
        secure: Whether to use TLS.
        socket: The path of the UNIX socket to connect to, in place of host and port; or None.
        authority: Host and port, for the Host header.

    Raises:
        ValueError: *url* is not an ``http`` or ``https`` URL of scheme, host, port and path, nor
            ``unix:`` and a path; or its host cannot exist.  The message shows no password in it.
    """

    def __init__(self, url: str) -> None:
        must_be("url", url, str)
        self.url = url
        self.socket: str | None = None
        if url.startswith(_UNIX):
            self._take_socket(url.removeprefix(_UNIX))
        else:
            self._take_url(url)

    def _take_socket(self, path: str) -> None:
        if not path or "\0" in path:
            raise ValueError(f"{self.url!r} names no UNIX socket, as unix:/run/app.sock does")
        if path.startswith("//"):
            raise ValueError(f"{self.url!r} has slashes of a URL: write unix:/run/app.sock")
        self.socket = path
        self.host, self.port, self.secure = "localhost", 0, False
        self.authority, self._path = b"localhost", b""

    def _take_url(self, url: str) -> None:
        if _USERINFO.match(url):
            words = "the URL has more than a scheme, a host, a port and a path"
            raise ValueError(f"{words}, as http://127.0.0.1:9000 has: userinfo, not shown here")
        hidden = "@" in url  # it may follow a password with a "/" in it
        shown = shown_url(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{shown}: {'not a URL' if hidden else error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{shown} is not the URL of a server, such as http://127.0.0.1:9000")
        if parts.query or parts.fragment:
            raise ValueError(f"{shown} has more than a scheme, a host, a port and a path")
        if not _PATH.fullmatch(parts.path):
            raise ValueError(f"{shown}: write spaces and other special characters as %20 and so on")
        try:
            self.authority = parts.netloc.encode("idna")
        except UnicodeError:
            raise ValueError(f"{shown}: not a valid host") from None
        try:
            host, _ = host_and_port(self.authority)
        except ValueError as error:
            raise ValueError(f"{shown}: {error}") from None
        self.host = host.decode("ascii").lower()
        self.secure = parts.scheme == "https"
        self.port = port or DEFAULT_PORTS[parts.scheme.encode()]
        self._path = parts.path.encode("ascii")

    def target(self, method: bytes, asked: bytes, above: int) -> bytes:
        """The request target for the server, in origin form (or ``*``).

        Args:
            method: The request's method.
            asked: The target that the client sent.
            above: How many segments of its path lead to the proxy's resource.

        Raises:
            CannotForward: Only a part of the server is published, and this target may lead out of
                it.
        """
        target = asked
        if not target.startswith(b"/"):  # absolute form: the authority goes into Host
            target = _ABSOLUTE.sub(b"", target)
            if method == b"OPTIONS" and not target and not self._path:
                return b"*"  # RFC 9112, section 3.2.4
            if not target.startswith(b"/"):
                target = b"/" + target
        if not self._path and not above:
            return target
        path, mark, query = target.partition(b"?")
        if (b".." in path or b"%" in path) and _UPWARDS.search(unquote_to_bytes(path)):
            raise CannotForward('its path has a segment ".."')
        if not self._path:
            return target
        below = path.split(b"/")[1 + above :]
        here = self._path
        if below:
            here = here.removesuffix(b"/") + b"/" + b"/".join(below)
        return here + mark + query
