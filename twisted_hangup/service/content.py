"""Turns names on the command line into what is served and called.

Each mistake in a name raises one `UsageError` of one line.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from OpenSSL.crypto import Error as OpenSSLError
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.reflect import ModuleNotFound, ObjectNotFound, namedAny
from twisted.python.threadpool import ThreadPool
from twisted.python.usage import UsageError
from twisted.web.resource import IResource

from .._arguments import must_take
from ..journal.flood import ThrottledWarning
from ..proxy.resource import ProxyResource
from ..server.pages import ErrorPages
from ..wsgi import HangupWSGIResource, must_be_wsgi
from .files import StaticFiles

#: One certificate in a PEM file.
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL
)

#: The name of an operator's page.
_PAGE: Final = re.compile(r"[45][0-9]{2}\.(html|txt)")


def directory(
    path: str, *, dotfiles: bool, follow_links: bool, out_of_files: ThrottledWarning
) -> IResource:
    """The files under *path*.

    Raises:
        UsageError: It is not a directory, or may not be read.
    """
    if not os.path.isdir(path):
        what = "is not a directory" if os.path.exists(path) else "does not exist"
        raise UsageError(f"--path: {path!r} {what}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UsageError(f"--path: {path!r} may not be read")
    files = StaticFiles(path)
    files.dotfiles = dotfiles
    files.follow_links = follow_links
    files.out_of_files = out_of_files
    return files


def resource(name: str) -> IResource:
    """The resource called *name*, or the one that a class or function of that name returns.

    Raises:
        UsageError: There is nothing of that name, or it returns no `IResource`.
    """
    factory = _named("--resource", name)
    if IResource.providedBy(factory):
        return factory
    if not callable(factory):
        method = getattr(factory, "resource", None)
        cure = f": use {name}.resource" if callable(method) else ""
        raise UsageError(f"--resource: {name} is not a resource and cannot be called{cure}")
    _must_take_nothing(name, factory)
    try:
        content = factory()
    except Exception as error:
        raise UsageError(f"--resource: {name}() raised {_in_one_line(error)}") from error
    if not IResource.providedBy(content):
        raise UsageError(
            f"--resource: {name}() returned {type(content).__name__}, not an IResource"
        )
    return content


def wsgi(name: str, reactor: Any, threads: ThreadPool) -> IResource:
    """The WSGI application called *name*, run in *threads*.

    Raises:
        UsageError: There is nothing of that name, or it is not a WSGI application.
    """
    application = function("--wsgi", name)
    try:
        must_be_wsgi(name, application)
    except TypeError as error:
        raise UsageError(f"--wsgi: {error}") from error
    return HangupWSGIResource(reactor, threads, application)


def handler(name: str) -> Callable[..., Any]:
    """The handler of client errors called *name*.

    Raises:
        UsageError: There is nothing of that name, or it does not take ``(failure, socket)``.
    """
    value = function("--on-client-error", name)
    try:
        must_take(name, value, "failure", "socket")
    except TypeError as error:
        raise UsageError(f"--on-client-error: {error}") from error
    return value


def proxy(url: str, *, ca: str | None, **arguments: Any) -> ProxyResource:
    """The server at *url*.

    Args:
        ca: The file with the certificates to trust; None for the system's.
        arguments: The others of `ProxyResource`.

    Raises:
        UsageError: It is not the URL of a server, or *ca* holds no certificate.
    """
    if ca is not None and not url.lower().startswith("https:"):
        raise UsageError("--proxy-ca needs a --proxy that begins with https:")
    trust_root = None if ca is None else _trusted("--proxy-ca", ca)
    try:
        return ProxyResource(url, trust_root=trust_root, **arguments)
    except ValueError as error:
        raise UsageError(f"--proxy: {error}") from error


def _trusted(option: str, path: str) -> Any:
    """The certificates in the PEM file at *path*, which is the value of *option*."""
    try:
        pieces = _CERTIFICATE.findall(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{option}: {path!r} cannot be read: {error.strerror}") from error
    try:
        certificates = [Certificate.loadPEM(piece) for piece in pieces]
    except OpenSSLError as error:
        raise UsageError(f"{option}: {path!r} has a broken certificate") from error
    if not certificates:
        raise UsageError(f"{option}: {path!r} has no PEM certificate")
    return trustRootFromCertificates(certificates)


def error_pages(choice: str) -> ErrorPages | None:
    """The pages of ``--error-pages``: ours, none, or a directory's before ours.

    Raises:
        UsageError: It is not a directory, or has no page.
    """
    if choice in ("plain", "none"):
        return ErrorPages() if choice == "plain" else None
    try:
        names = [name for name in os.listdir(choice) if _PAGE.fullmatch(name)]
        own = {name: Path(choice, name).read_bytes() for name in names}
    except OSError as error:
        reason = f"{choice!r} is not plain, not none, and cannot be read: {error.strerror}"
        raise UsageError(f"--error-pages: {reason}") from error
    if not own:
        raise UsageError(f"--error-pages: {choice!r} has no page such as 404.html or 404.txt")
    return ErrorPages(own)


def function(option: str, name: str) -> Callable[..., Any]:
    """The function called *name*, for *option*.

    Raises:
        UsageError: There is nothing of that name, or it cannot be called.
    """
    value = _named(option, name)
    if not callable(value):
        cure = ": a resource is served with --resource" if IResource.providedBy(value) else ""
        raise UsageError(f"{option}: {name} cannot be called{cure}")
    return value  # type: ignore[no-any-return]


def _named(option: str, name: str) -> Any:
    # The twistd script, unlike `python -m`, does not look in the current directory.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, colon, inside = name.partition(":")  # as uvicorn and gunicorn have it
    try:
        return namedAny(f"{module}.{inside}" if colon else name)
    except (ModuleNotFound, ObjectNotFound) as error:
        top = module.partition(".")[0]
        raise UsageError(
            f"{option}: {name}: there is no module {top!r} in {os.getcwd()}"
        ) from error
    except Exception as error:
        raise UsageError(f"{option}: {name}: {_in_one_line(error)}") from error


def _must_take_nothing(name: str, factory: Callable[..., Any]) -> None:
    """Raise UsageError if what ``--resource`` names needs an argument."""
    try:
        must_take(name, factory, classes=True)
    except TypeError as error:
        try:
            must_be_wsgi(name, factory)
        except TypeError:
            raise UsageError(f"--resource: {error}") from error
        raise UsageError(f"--resource: {name} is a WSGI application: use --wsgi") from None


def _in_one_line(error: BaseException) -> str:
    """The error in one line, with the place in the user's code that raised it."""
    lines = traceback.format_exception_only(type(error), error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(lines[-1].split())
    if isinstance(error, SyntaxError):
        return f"{text} ({error.filename}, line {error.lineno})"
    if place.filename == namedAny.__code__.co_filename:
        return text.partition(": ")[2] or text  # no bug: there is no such name
    if place.filename == __file__:
        return text  # the call itself failed: an argument is missing
    return f"{text} ({place.filename}, line {place.lineno})"
