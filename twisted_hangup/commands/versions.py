"""The text of ``--version``, for all commands."""

from __future__ import annotations

import platform
from importlib.metadata import version

from OpenSSL import SSL
from twisted.copyright import version as twisted_version


def versions() -> str:
    """The versions of this package, and of what it runs on."""
    openssl = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii")
    ours, python = version("twisted_hangup"), platform.python_version()
    return f"twisted_hangup {ours} (Twisted {twisted_version}, Python {python}, {openssl})\n"
