"""Reads certificates again while the server runs, after they were renewed; no connection is cut.

A connection keeps the certificate of its handshake; the next one gets the new one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import BoundArguments, signature
from pathlib import Path
from typing import Any, Final, TypeAlias

from OpenSSL.crypto import FILETYPE_PEM, load_certificate, load_privatekey
from OpenSSL.crypto import Error as OpenSSLError
from OpenSSL.SSL import OP_NO_TICKET, Connection, Context
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.ssl import CertificateOptions
from twisted.logger import Logger
from twisted.protocols._sni import PEMObjects
from twisted.python.filepath import FilePath, LinkError
from zope.interface import implementer

from ..report.text import visible
from ..transport.tls import openssl_reason

#: How often to look whether the files have changed.
LOOK_SECONDS: Final = 1.0

#: How long the keys of session tickets live at most: in TLS 1.2, whoever has them can read the
#: connections of those who were given such a ticket.
TICKET_KEY_SECONDS: Final = 86_400.0

#: The arguments of an ``ssl:`` endpoint that name a file.
_FILES: Final = ("privateKey", "certKey", "extraCertChain", "dhParameters")

#: What shows that a file has changed.
_State: TypeAlias = list[tuple[str, int, int, int]]

#: What a certificate calls its subject, or its issuer.
_Name: TypeAlias = frozenset[tuple[str, bytes]]

_log = Logger()


class RootCertificate(ValueError):
    """A directory of certificates holds a root."""


def renewed(description: str, endpoint: Any, outer: IStreamServerEndpoint) -> IStreamServerEndpoint:
    """*outer*, as a `RenewedEndpoint` if it uses TLS.

    Args:
        description: What *endpoint* was made from.
        endpoint: Twisted's endpoint.
        outer: The same, as it is to listen.

    Raises:
        Exception: Twisted's or OpenSSL's: the certificates cannot be used.
    """
    arguments, keywords = endpoints._parse(description)
    if arguments[0] == "ssl":
        given = _ssl_arguments(arguments, keywords)
        given.apply_defaults()
        for name in _FILES:
            if given.arguments[name] is not None:
                given.arguments[name] = os.path.abspath(given.arguments[name])
        paths = [given.arguments[name] for name in _FILES if given.arguments[name] is not None]
        renewing = RenewedEndpoint(outer, paths, lambda: _OfFiles(given.args))
        endpoint._sslContextFactory = renewing
        return renewing
    if arguments[0] == "tls":
        path = _directory(arguments, keywords)
        renewing = RenewedEndpoint(outer, [path], lambda: _OfDirectory(path))
        endpoint.connectionCreator = renewing
        return renewing
    return outer


def root_in_directory(description: str) -> str | None:
    """Why the directory of a ``tls:`` endpoint would stop Twisted from ever reading it, or None."""
    arguments, keywords = endpoints._parse(description)
    try:
        _pems_in(_directory(arguments, keywords))
    except RootCertificate as error:
        return str(error)
    except (IndexError, ValueError):
        pass  # Twisted stops at these
    return None


def unusable_file(description: str) -> str | None:
    """Which file of a TLS endpoint cannot be used, and why; None if all can."""
    arguments, keywords = endpoints._parse(description)
    if arguments[0] == "tls":
        try:
            _pems_in(_directory(arguments, keywords))
        except ValueError as error:
            return str(error)
        return None
    try:
        given = _ssl_arguments(arguments, keywords).arguments
    except TypeError:
        return None
    if "privateKey" not in given and not os.path.exists("server.pem"):
        return "ssl needs privateKey=FILE, and certKey=FILE where the certificate is not in it"
    key = given.get("privateKey", "server.pem")
    # A passphrase, so that nobody is asked for one.
    load_key = partial(load_privatekey, passphrase=b"none")
    for path, what, load in (
        (key, "private key", load_key),
        (given.get("certKey") or key, "certificate", load_certificate),
    ):
        try:
            load(FILETYPE_PEM, Path(path).read_bytes())
        except OSError as error:
            return f"cannot read {path!r}: {error.strerror}"
        except OpenSSLError:
            return f"{path!r} holds no PEM {what} that can be read"
    return None


def _ssl_arguments(arguments: Sequence[str], keywords: Mapping[str, str]) -> BoundArguments:
    """The arguments of an ``ssl:`` endpoint; TypeError if they are wrong."""
    return signature(endpoints._parseSSL).bind(None, *arguments[1:], **keywords)


def _directory(arguments: Sequence[str], keywords: Mapping[str, str]) -> str:
    """The directory of a ``tls:`` endpoint, as an absolute path: a daemon changes its own."""
    return os.path.abspath(keywords.get("path") or arguments[1])


@implementer(IStreamServerEndpoint, IOpenSSLServerConnectionCreator)
class RenewedEndpoint:
    """A TLS endpoint, with the certificates for its next connection."""

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        paths: list[str],
        read: Callable[[], _OfFiles | _OfDirectory],
    ) -> None:
        """*read* reads *paths*, which are files or directories; it may raise anything."""
        self._endpoint = endpoint
        self._paths = paths
        self._read = read
        self._known = self._seen = self._state()
        self._certificates = read()
        #: When they were read; None before the first look.
        self._read_at: float | None = None

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._endpoint.listen(protocolFactory)

    def serverConnectionForTLS(self, protocol: object) -> Connection:
        return Connection(self._certificates.context)

    def look(self, now: float) -> None:
        """Read the files if they have changed, or were read `TICKET_KEY_SECONDS` ago.

        A certificate and its key are not renewed at the same moment.  So an error is logged once,
        and only if the files have not changed since the last look.

        Args:
            now: The time on a monotonic clock.
        """
        state = self._state()
        if self._read_at is None:
            self._read_at = now
        if state != self._known:
            self.renew(state, tell=state == self._seen)
            self._seen = state
        elif now - self._read_at >= TICKET_KEY_SECONDS:
            self._read_at = now
            self.renew(state)

    def renew(self, state: _State | None = None, *, tell: bool = True) -> None:
        """Read the files; if they cannot be used, the old certificates stay."""
        state = self._state() if state is None else state
        where = ", ".join(map(visible, self._paths))
        try:
            self._certificates = self._read().instead_of(self._certificates)
        except Exception as error:
            if tell:
                self._known = state
                words = "Cannot use the certificates in {paths}: {error}; the old ones stay"
                _log.error(words, paths=where, error=_words(error))
        else:
            self._known = state
            _log.info("Read the certificates in {paths}", paths=where)

    def _state(self) -> _State:
        state = []
        for path in self._paths:
            # A file that cannot be looked at counts as missing; reading it says why.
            with suppress(OSError, LinkError):
                for file in FilePath(path).walk():
                    with suppress(OSError):
                        now = os.stat(file.path)
                        state.append((file.path, now.st_ino, now.st_size, now.st_mtime_ns))
        return state


class _OfFiles:
    """The certificate of an ``ssl:`` endpoint."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        [_, _, options], _ = endpoints._parseSSL(*arguments)
        self.context = _context_of(options)

    def instead_of(self, other: object) -> _OfFiles:
        return self


class _OfDirectory:
    """The certificates of a ``tls:`` endpoint, by the name that the client asks for.

    Twisted's own lookup reads the directory for each unknown name, and logs it twice.
    """

    def __init__(self, path: str) -> None:
        pems = _pems_in(path)
        self._contexts = {
            name.lower().encode("ascii", "replace"): _context_of(options)
            for name, options in pems.inferDomainMapping().items()
        }
        if not self._contexts:
            raise ValueError(f"no PEM file in {path} has a certificate for a name, and its key")
        certified = {certificate.getPublicKey().keyHash() for _, certificate in pems._certificates}
        self._lacks_one = any(pair.keyHash() not in certified for _, pair in pems._keyPairs)
        self.context = next(iter(self._contexts.values()))
        for context in self._contexts.values():
            context.set_tlsext_servername_callback(self._choose)

    def instead_of(self, other: Any) -> _OfDirectory:
        """Itself, unless a name would be lost because the certificate of a key is not there yet."""
        if self._lacks_one and (lost := other._contexts.keys() - self._contexts.keys()):
            raise ValueError(f"a key has no certificate any more, perhaps that of {min(lost)!r}")
        return self

    def _choose(self, connection: Connection) -> None:
        name = (connection.get_servername() or b"").lower()
        wildcard = b"*." + name.partition(b".")[2]
        context = self._contexts.get(name) or self._contexts.get(wildcard)
        if context is not None:
            connection.set_context(context)


def _context_of(options: CertificateOptions) -> Context:
    """The context of *options*, whose clients may resume their sessions (RFC 8446, section 2.2).

    It gives tickets, and keeps no session itself.  It has the keys of the tickets, and they go with
    it: once the files were read again, an older ticket leads to a full handshake.  In a directory
    they are those of the first context, for all names.
    """
    options._options &= ~OP_NO_TICKET
    context: Context = options.getContext()
    return context


def _pems_in(path: str) -> PEMObjects:
    """What Twisted's ``fromDirectory`` reads; an error names the file.

    Raises:
        RootCertificate: CAs in it certify themselves.
        ValueError: A file cannot be read, or *path* is not a directory.
    """
    if not os.path.isdir(path):
        raise ValueError(f"there is no directory {path}")
    pems = PEMObjects([], [])
    for file in FilePath(path).walk():
        if file.basename().endswith(".pem") and file.isfile():
            try:
                one = PEMObjects.fromFile(file)
            except (OSError, OpenSSLError) as error:
                raise ValueError(f"cannot read {file.path}: {_words(error)}") from error
            pems._certificates += one._certificates
            pems._keyPairs += one._keyPairs
    _refuse_circles(pems)
    return pems


def _refuse_circles(pems: PEMObjects) -> None:
    """Raise RootCertificate if a CA of a certificate in *pems* certifies itself, as a root does.

    Twisted looks for the issuer of each CA, and would never stop.  CAs may certify each other, too.
    """
    keys = {pair.keyHash() for _, pair in pems._keyPairs}
    issuers: defaultdict[_Name, set[_Name]] = defaultdict(set)
    files = {}
    used = set[_Name]()
    for file, certificate in pems._certificates:
        issuer = frozenset(certificate.getIssuer().items())
        if certificate.getPublicKey().keyHash() in keys:
            used.add(issuer)
        else:
            subject = frozenset(certificate.getSubject().items())
            issuers[subject].add(issuer)
            files[subject] = file.path
    for subject in _above(used, issuers):
        if subject in _above(issuers.get(subject, set()), issuers):
            words = "has a root certificate, which clients have: leave it out"
            raise RootCertificate(f"{files[subject]} {words}")


def _above(names: set[_Name], issuers: Mapping[_Name, set[_Name]]) -> list[_Name]:
    """*names*, and all that certify them, the nearest first."""
    found = [*names]
    for name in found:
        found += issuers.get(name, set()).difference(found)
    return found


def _words(error: Exception) -> str:
    """The text of *error*; of OpenSSL's errors the reason alone."""
    return visible(getattr(error, "strerror", None) or openssl_reason(error) or str(error))
