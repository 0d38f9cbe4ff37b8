"""Sending in the turn of the reactor that made the answer."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IWriteDescriptor


def send_now(transport: Any) -> None:
    """Send what was written to *transport*, and spare the reactor a turn.

    That turn would only find out that the socket is writable, and costs a fifth of the
    time of a small request.  The reactor was asked to watch the socket, and goes on from
    where this ends; an error shows up there again.  Transports without a file descriptor
    of their own (TLS, wrappers) are left alone, and so is one that is closing: its
    closing is what ``doWrite`` would report, to nobody.
    """
    if not IWriteDescriptor.providedBy(transport):
        return
    if not getattr(transport, "disconnecting", True):
        transport.doWrite()
