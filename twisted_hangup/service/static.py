"""The files of a directory, and only those that were meant to be served."""

from __future__ import annotations

import errno
import os
import re
from typing import Any, Final

from twisted.web.http import SERVICE_UNAVAILABLE
from twisted.web.resource import IResource
from twisted.web.static import File

from .._arguments import must_be
from ..journal.flood import ThrottledWarning
from ..server.pages import PAGE_FORBIDDEN, PAGE_NOT_FOUND, error_page, without_body
from .ranges import byte_ranges

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)


class StaticFiles(File):
    """`File` without its surprises.

    It answers 404 for names that begin with a dot, anywhere in the path (see `dotfiles`); for links
    that lead out of the directory (see `follow_links`); for names with control characters, or that
    are not UTF-8; and for anything that is neither a file nor a directory, because opening a pipe
    would stop the whole server.  It does not list directories: one without an index page is a 403.
    A file of unknown type is a download, not a web page.

    Attributes:
        dotfiles: Whether names that begin with a dot are served.
        follow_links: Whether symbolic links may lead out of `root`.
        root: The directory that this file is served from.
        out_of_files: Called with a log format when no file can be opened; the client then gets a
            503.
    """

    dotfiles = False
    follow_links = False
    out_of_files: ThrottledWarning
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

    def createSimilarFile(self, path: str) -> StaticFiles:
        similar: StaticFiles = super().createSimilarFile(path)
        similar.dotfiles = self.dotfiles
        similar.follow_links = self.follow_links
        similar.root = self.root
        similar.out_of_files = self.out_of_files
        return similar

    def directoryListing(self) -> IResource:
        return self.forbidden

    def getChild(self, path: bytes, request: Any) -> IResource:
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError:
            return self.childNotFound
        hidden = name.startswith(".") and not self.dotfiles
        if hidden or _CONTROL.search(name):
            return self.childNotFound
        child: IResource = super().getChild(path, request)
        if isinstance(child, StaticFiles) and not child._may_be_served():
            return self.childNotFound
        return child

    def _may_be_served(self) -> bool:
        if self.islink() and not (self.follow_links or self._is_inside()):
            return False
        return bool(self.isfile() or self.isdir())

    def _is_inside(self) -> bool:
        # The root is looked at each time: a deployment may have moved a link to it.
        root, target = os.path.realpath(self.root), os.path.realpath(self.path)
        return os.path.commonpath([root, target]) == root

    def render_GET(self, request: Any) -> Any:
        try:
            return super().render_GET(request)
        except OSError as error:
            if error.errno not in _OUT_OF_FILES:
                raise
            self.out_of_files("Out of files: {path} could not be opened", path=self.path)
            request.setHeader(b"Retry-After", b"1")
            sentence = "The server has too many files open. Try again in a second."
            return error_page(request, SERVICE_UNAVAILABLE, sentence)

    def makeProducer(self, request: Any, fileForReading: Any) -> Any:
        """As `File`'s, which raises for odd ranges and obeys absurd ones."""
        headers = request.requestHeaders
        ranges = byte_ranges(headers.getRawHeaders(b"Range", ()), self.getFileSize())
        if ranges is None:
            headers.removeHeader(b"Range")
        else:
            # One past the end means that there is none.
            specs = [b"%d-%d" % pair for pair in ranges] or [b"%d-" % self.getFileSize()]
            headers.setRawHeaders(b"Range", [b"bytes=" + b",".join(specs)])
        return super().makeProducer(request, fileForReading)

    def render_HEAD(self, request: Any) -> bytes:
        return without_body(request, self.render_GET(request))
