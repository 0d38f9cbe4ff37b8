"""A failure of TLS as a client error."""

from __future__ import annotations

import re
from typing import Any, Final

from .errors import Phase, TLSError

_NOT_IN_CODES: Final = re.compile(r"[^A-Z0-9]+")


def tls_error(error: Exception, phase: Phase) -> TLSError:
    """Make a `TLSError` of what OpenSSL raised.

    Args:
        error: An ``OpenSSL.SSL.Error``; its first argument is OpenSSL's error queue, a
            list of ``(library, function, reason)``.
        phase: Where in a message it happened.  Until the first byte has arrived over the
            connection, that is the handshake.

    Returns:
        The error, with Node's code for it: ``ERR_SSL_`` and OpenSSL's reason in capitals.
    """
    queue = error.args[0] if error.args else None
    reason = str(queue[0][-1]) if isinstance(queue, list) and queue else "unknown"
    code = "ERR_SSL_" + _NOT_IN_CODES.sub("_", reason.upper()).strip("_")
    return TLSError(reason, code=code, phase=phase)


def in_handshake(transport: Any) -> bool:
    """Whether the handshake on a TLS *transport* is not over yet."""
    handle = transport.getHandle()
    return handle is None or handle.get_cipher_name() is None
