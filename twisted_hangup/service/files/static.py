"""The files of a directory, and only those that were meant to be served."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from io import FileIO
from stat import S_ISDIR, S_ISLNK, S_ISREG
from time import monotonic
from types import SimpleNamespace
from typing import Any, Final

from twisted.web.http import (
    NOT_MODIFIED,
    PARTIAL_CONTENT,
    REQUESTED_RANGE_NOT_SATISFIABLE,
    SERVICE_UNAVAILABLE,
)
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import File

from ..._arguments import must_be
from ...journal.flood import ThrottledWarning
from ...server.pages import PAGE_FORBIDDEN, PAGE_NOT_FOUND, error_page, without_body
from .body import Part, send_parts
from .ranges import byte_ranges
from .validators import Validators

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)
#: Where the system can, the user that opens files is asked about, and not the one who started us.
_EFFECTIVE_IDS: Final = os.access in os.supports_effective_ids
_CLOCK: Final[Any] = SimpleNamespace(seconds=monotonic)


class StaticFiles(File):
    """`File` without its surprises.

    It answers 404 for names that begin with a dot, anywhere in the path (see `dotfiles`); for links
    that lead out of the directory (see `follow_links`); for names with control characters, or that
    are not UTF-8; and for anything that is neither a file nor a directory, because opening a pipe
    would stop the whole server.  It does not list directories: one without an index page is a 403.
    A file of unknown type is a download, not a web page.

    If the connection is plain TCP, the kernel sends large files.  If one becomes shorter meanwhile,
    its response is cut.

    Attributes:
        dotfiles: Whether names that begin with a dot are served.
        follow_links: Whether symbolic links may lead out of `root`.
        root: The directory that this file is served from.
        out_of_files: Called with a log format when no file can be opened; the client then gets a
            503.  It logs a warning, once a second at most.
    """

    dotfiles = False
    follow_links = False
    out_of_files: Callable[..., object] = ThrottledWarning(_CLOCK)
    #: What was seen of the file when it was looked up, for the one request that it answers.
    _status: os.stat_result | None = None
    indexNames = ["index.html", "index.htm"]
    childNotFound = PAGE_NOT_FOUND  # type: ignore[assignment]  # any resource will do
    forbidden = PAGE_FORBIDDEN  # type: ignore[assignment]

    def __init__(
        self,
        path: str,
        defaultType: str = "application/octet-stream",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        must_be("path", path, str)
        super().__init__(path, defaultType, *args, **kwargs)
        self.root = path

    def directoryListing(self) -> IResource:
        return self.forbidden

    def getChild(self, path: bytes, request: Any) -> IResource:
        """The file or directory of that name; `childNotFound` if it is not to be served."""
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError:
            return self.childNotFound
        hidden = name.startswith(".") and not self.dotfiles
        if hidden or _CONTROL.search(name):
            return self.childNotFound
        if not name or name.startswith(".") or "/" in name:
            child: IResource = super().getChild(path, request)
            if not isinstance(child, StaticFiles):
                return child
            where = child.path
        else:  # what Twisted does for such a name takes four times as long
            where = os.path.join(self.path, name)
        status = self._status_of(where)
        return self.childNotFound if status is None else self._similar(where, status)

    def _status_of(self, path: str) -> os.stat_result | None:
        """The status of *path*; None if that may not be served."""
        try:
            status = os.lstat(path)
            if S_ISLNK(status.st_mode) and (self.follow_links or self._is_inside(path)):
                status = os.stat(path)
        except (OSError, ValueError):
            return None
        return status if S_ISREG(status.st_mode) or S_ISDIR(status.st_mode) else None

    def _is_inside(self, path: str) -> bool:
        # The root is looked at each time: a deployment may have moved a link to it.
        root, target = os.path.realpath(self.root), os.path.realpath(path)
        return os.path.commonpath([root, target]) == root

    def _similar(self, path: str, status: os.stat_result) -> StaticFiles:
        """One for a *path* below this one, to answer one request."""
        similar = type(self).__new__(type(self))
        vars(similar).update(
            vars(self), path=path, children={}, type=None, encoding=None, _status=status
        )
        return similar

    def render_GET(self, request: Any) -> Any:
        """Send the file, or what the client lacks of it.

        As `File`'s, which opens the file before it knows whether the client needs it.
        """
        status = self._status or self._status_of(self.path)
        if status is None:
            return self.childNotFound.render(request)
        if S_ISDIR(status.st_mode):
            return self.redirect(request)
        if self.type is None:
            self._set_type()
        request.setHeader(b"Accept-Ranges", b"bytes")
        validators = Validators.of(status)
        known = validators.known_to(request)
        if known or request.method == b"HEAD":
            if not os.access(self.path, os.R_OK, effective_ids=_EFFECTIVE_IDS):
                return self.forbidden.render(request)
            if known:
                request.setResponseCode(NOT_MODIFIED)
            else:
                self._set_content(request, status.st_size)
            _set_validators(request, validators)
            request.finish()  # returned as bytes it would get a Content-Length of 0
            return NOT_DONE_YET
        try:
            file = self.openForReading()
        except PermissionError:
            return self.forbidden.render(request)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # since it was found
            return self.childNotFound.render(request)
        except OSError as error:
            if error.errno not in _OUT_OF_FILES:
                raise
            self.out_of_files("Out of files: {path} could not be opened", path=self.path)
            request.setHeader(b"Retry-After", b"1")
            sentence = "The server has too many files open. Try again in a second."
            return error_page(request, SERVICE_UNAVAILABLE, sentence)
        self._statinfo = status = os.fstat(file.fileno())
        if not S_ISREG(status.st_mode):
            file.close()
            return self.childNotFound.render(request)
        validators = Validators.of(status)
        parts = self._parts(request, validators, status.st_size)
        _set_validators(request, validators)
        send_parts(request, file, parts)
        return NOT_DONE_YET

    def render_HEAD(self, request: Any) -> Any:
        body = self.render_GET(request)
        return body if body is NOT_DONE_YET else without_body(request, body)

    def openForReading(self) -> FileIO:
        return FileIO(self.path, opener=_open)

    def _set_type(self) -> None:
        stem, extension = os.path.splitext(self.path)
        self.encoding = self.contentEncodings.get(extension.lower())
        if self.encoding is not None:
            extension = os.path.splitext(stem)[1]
        self.type = self.contentTypes.get(extension.lower(), self.defaultType)

    def _parts(self, request: Any, validators: Validators, size: int) -> list[Part]:
        """Set status and headers for the ranges that *request* asks for, and return these."""
        values = request.requestHeaders.getRawHeaders(b"Range", ())
        ranges = byte_ranges(values, size) if values and validators.allow_ranges(request) else None
        if ranges is None:
            self._set_content(request, size)
            return [Part(b"", 0, size)]
        if len(ranges) > 1:
            return [Part(*part) for part in self._doMultipleRangeRequest(request, ranges)]
        offset, length = 0, 0
        if ranges:
            ((offset, last),) = ranges
            length = last - offset + 1
            request.setResponseCode(PARTIAL_CONTENT)
            request.setHeader(b"Content-Range", b"bytes %d-%d/%d" % (offset, last, size))
        else:
            request.setResponseCode(REQUESTED_RANGE_NOT_SATISFIABLE)
            request.setHeader(b"Content-Range", b"bytes */%d" % size)
        self._set_content(request, length)
        return [Part(b"", offset, length)]

    def _set_content(self, request: Any, length: int) -> None:
        request.setHeader(b"Content-Length", b"%d" % length)
        if self.type:
            request.setHeader(b"Content-Type", self.type.encode("ascii"))
        if self.encoding:
            request.setHeader(b"Content-Encoding", self.encoding.encode("ascii"))


def _open(path: str, flags: int) -> int:
    """Open *path*, without waiting for a writer if it has become a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _set_validators(request: Any, validators: Validators) -> None:
    request.setHeader(b"Last-Modified", validators.date)
    request.setHeader(b"ETag", validators.tag)
