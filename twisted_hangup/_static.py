"""The files of a directory, and only those that were put there to be served."""

from __future__ import annotations

import errno
import re
from typing import Any, Final

from twisted.web.http import SERVICE_UNAVAILABLE
from twisted.web.resource import IResource
from twisted.web.static import File

from ._seldom import SeldomWarning

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)


class StaticFiles(File):
    """`File` without its surprises.

    Not found are: names that begin with a dot, anywhere in the path (`dotfiles` changes
    that); names with control characters or that are not UTF-8; and whatever is neither a
    file nor a directory, because opening a pipe would stop the whole server.  A directory
    without an index page is forbidden, not listed.  A file of unknown type is a download
    and not a web page.

    Attributes:
        dotfiles: Whether names that begin with a dot are served.
        out_of_files: Called with a log format when no file can be opened; the client is
            then told to come back (503).
    """

    dotfiles = False
    out_of_files: SeldomWarning
    indexNames = ["index.html", "index.htm"]

    def __init__(
        self,
        path: str,
        defaultType: str = "application/octet-stream",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, defaultType, *args, **kwargs)

    def createSimilarFile(self, path: str) -> StaticFiles:
        similar: StaticFiles = super().createSimilarFile(path)
        similar.dotfiles = self.dotfiles
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
        if isinstance(child, StaticFiles) and not (child.isfile() or child.isdir()):
            return self.childNotFound
        return child

    def render_GET(self, request: Any) -> Any:
        try:
            return super().render_GET(request)
        except OSError as error:
            if error.errno not in _OUT_OF_FILES:
                raise
            self.out_of_files("Out of files: {path} could not be opened", path=self.path)
            request.setResponseCode(SERVICE_UNAVAILABLE)
            request.setHeader(b"Retry-After", b"1")
            request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
            return b"The server has too many files open. Try again in a second.\n"

    render_HEAD = render_GET
